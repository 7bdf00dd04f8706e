"""The pace against servers that count requests, on a clock that is only a number."""

import random
from collections.abc import Callable

import pytest

from icm_client.endpoints.limiter import Pace
from icm_client.testing import RateLimit


def run(
    limit: Callable[[float], RateLimit], *, latency_s: float, seconds: float, seed: int = 0
) -> list[float]:
    """When requests were let through, sent one after the other; a refused one waits a little."""
    rng, pace = random.Random(seed), Pace()
    now, through = 0.0, []
    refused = False
    while now < seconds:
        waits_s = pace.due_s(now)
        now += waits_s + (rng.uniform(0, 0.002) if waits_s else 0.0)  # no sleep is exact
        pace.sent(now, waited=waits_s > 0 and not refused)
        if limit(now).lets_through(now):
            through.append(now)
            now += latency_s
            pace.answered(now)
            refused = False
            continue
        now += latency_s
        if not refused:  # the first of an episode
            refused = True
            if pace.a_second is None:
                pace.begin(now)
            else:
                pace.cut(now)
        now += rng.uniform(0, min(1.0, 2 / (pace.a_second or 1.0)))
    return through


@pytest.mark.parametrize("a_second", [2.0, 5.0, 20.0])
@pytest.mark.parametrize("burst", [0, 2, 20])
@pytest.mark.parametrize("latency_s", [0.001, 0.02])
def test_it_finds_what_a_server_allows(a_second: float, burst: int, latency_s: float) -> None:
    allowed = RateLimit(a_second, burst=burst)
    through = run(lambda _: allowed, latency_s=latency_s, seconds=240)
    late = sum(at > 120 for at in through)
    assert late >= 0.85 * a_second * 120


def test_it_notices_that_a_limit_was_lifted() -> None:
    before, after = RateLimit(5.0), RateLimit(50.0)
    through = run(lambda now: before if now < 120 else after, latency_s=0.002, seconds=240)
    assert sum(at > 200 for at in through) >= 0.7 * 50 * 40


def test_without_refusals_there_is_no_pace() -> None:
    pace = Pace()
    pace.answered(1.0)
    pace.sent(1.0, waited=False)
    pace.cut(1.0)
    assert (pace.a_second, pace.due_s(1.0)) == (None, 0.0)


def test_it_slows_down_at_once_and_not_for_ever() -> None:
    pace = Pace()
    for tenth in range(10):
        pace.answered(tenth / 10)
    pace.begin(1.0)
    assert pace.a_second == pytest.approx(10.0)
    assert pace.due_s(1.0) == pytest.approx(0.1)
    pace.cut(1.0)
    assert pace.a_second is not None
    assert pace.a_second < 8
    pace.end()
    assert pace.due_s(1.0) == 0.0
