from collections.abc import Iterator

import pytest

from icm_client.errors import InputError
from icm_client.runs.progress import Budget, BudgetMeter, Cost


def costs(*spent: tuple[int, int, float]) -> Iterator[Cost]:
    """Requests, computed tokens and seconds after each sweep."""
    for requests, tokens, seconds in spent:
        yield Cost(requests, 0, requests, 0, tokens, 10**9, seconds)


@pytest.mark.parametrize(
    ("budget", "stops"),
    [
        (Budget(), [False, False, False, False]),
        (Budget(max_requests=40), [False, False, False, False]),
        (Budget(max_requests=39), [False, False, True, True]),
        (Budget(max_requests=5), [True, True, True, True]),
        (Budget(max_prompt_tokens=3999), [False, False, True, True]),
        (Budget(max_minutes=1.9), [False, True, True, True]),
        (Budget(max_requests=40, max_minutes=1.9), [False, True, True, True]),
    ],
)
def test_a_sweep_that_would_pass_a_limit_is_not_begun(budget: Budget, stops: list[bool]) -> None:
    steps = costs((10, 1000, 40), (20, 2000, 80), (30, 3000, 120), (30, 3000, 120))
    meter = BudgetMeter(budget, lambda: next(steps))
    assert [meter() for _ in stops] == stops


def test_it_says_which_limit() -> None:
    steps = costs((10, 1000, 40), (20, 2000, 80))
    meter = BudgetMeter(Budget(max_prompt_tokens=2500), lambda: next(steps))
    assert not meter()
    assert meter.spent is None
    assert meter()
    assert meter.spent == "the limit of 2,500 prompt tokens"


def test_a_replay_spends_nothing() -> None:
    steps = costs((0, 0, 0.1), (0, 0, 0.1), (10, 1000, 40), (20, 2000, 80))
    meter = BudgetMeter(Budget(max_requests=25), lambda: next(steps))
    assert [meter() for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("name", ["max_requests", "max_prompt_tokens", "max_minutes"])
@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_that_is_none_is_refused(name: str, limit: float) -> None:
    with pytest.raises(InputError, match=name):
        Budget(**{name: limit})  # type: ignore[arg-type]
