"""`shifted-rows` is found where new rows differ, and not for rows of the same kind."""

import numpy as np

from icm_client.coherence.problem import FloatArray
from icm_client.verdict.shift import ShiftMeter, signals


def _rows(n: int, rng: np.random.Generator, *, shift: float = 0.0) -> dict[str, FloatArray]:
    log_odds = np.where(rng.random(n) < 0.6, 3, -3) + rng.normal(size=n) + shift
    decided = np.stack([-np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)], axis=1)
    return signals(decided, rng.beta(8, 2, size=n), rng.poisson(30, size=n).astype(float))


def _meter(n: int, rng: np.random.Generator) -> ShiftMeter:
    return ShiftMeter({name: np.sort(values) for name, values in _rows(n, rng).items()})


def test_rows_of_the_same_kind_are_not_flagged() -> None:
    flagged = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        meter = _meter([64, 128, 512][seed % 3], rng)
        for _ in range(3):
            meter.add(_rows([50, 500, 5000][seed // 3 % 3], rng))
        flagged += meter.finding() is not None
    assert flagged == 0


def test_planted_shifts_are_flagged_with_their_evidence() -> None:
    rng = np.random.default_rng(1)
    for n in (64, 512):
        meter = _meter(n, rng)
        meter.add(_rows(1000, rng, shift=2.0))
        finding = meter.finding()
        assert finding is not None
        assert finding.code == "shifted-rows"
        assert finding.severity == "check"
        assert "log-odds" in finding.figures
        assert "length" not in finding.figures
        meter = _meter(n, rng)
        meter.add(_rows(1000, rng) | {"length": rng.poisson(60, size=1000).astype(float)})
        finding = meter.finding()
        assert finding is not None
        assert "how long they are" in finding.message


def test_batches_count_like_all_rows_at_once() -> None:
    rng = np.random.default_rng(2)
    meter, whole = _meter(100, rng), _rows(300, rng)
    again = ShiftMeter(meter.known)
    meter.add(whole)
    for start in range(0, 300, 70):
        again.add({name: values[start : start + 70] for name, values in whole.items()})
    assert meter.distances() == again.distances()


def test_of_a_handful_of_rows_nothing_is_said() -> None:
    rng = np.random.default_rng(3)
    meter = _meter(100, rng)
    meter.add(_rows(10, rng, shift=9.0))
    assert meter.finding() is None
