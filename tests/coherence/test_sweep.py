from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby

import numpy as np
import pytest
from concept_score import ConceptScore, ScriptedScore, agreement, planted_classes, towards

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.problem import FloatArray, IntArray, Query
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.sweep import SearchResult, SweepRecord, search
from icm_client.errors import InputError

DEFAULT = SweepSettings()
# Two sweeps a start and no chance in the labels after the first: for scripts that count calls.
TWO_SWEEPS = replace(DEFAULT, min_sweeps=2, max_sweeps=2, coherent=np.inf, restarts=3)


async def found(
    n: int,
    n_labels: int,
    score: ConceptScore | ScriptedScore | None = None,
    *,
    seed: int = 0,
    settings: SweepSettings = DEFAULT,
    prior: FloatArray | None = None,
) -> SearchResult:
    score = score or ConceptScore(planted_classes(n, n_labels), n_labels)
    rng = np.random.default_rng(seed)
    return await search(n, n_labels, score, rng=rng, settings=settings, prior=prior)


def same(one: SearchResult, other: SearchResult) -> bool:
    first, second = asdict(one), asdict(other)
    return repr(first) == repr(second) and all(
        np.array_equal(first[name], second[name]) for name in ("labels", "log_probs")
    )


def restarts(result: SearchResult) -> list[list[SweepRecord]]:
    return [list(records) for _, records in groupby(result.history, lambda r: r.restart)]


def check_whole(result: SearchResult, n: int, n_labels: int) -> None:
    assert result.labels.shape == (n,)
    assert set(result.labels.tolist()) <= set(range(n_labels))
    assert result.log_probs.shape == (n, n_labels)
    assert np.isfinite(result.log_probs).all()
    np.testing.assert_allclose(np.exp(result.log_probs).sum(axis=1), 1)
    np.testing.assert_array_equal(result.log_probs.argmax(axis=1), result.labels)
    numbers = [result.utility, *result.prior.offsets]
    numbers += [result.exchange.utility, result.exchange.exchanged_utility]
    numbers += [record.utility for record in result.history]
    assert np.isfinite(numbers).all()
    assert not np.isnan(result.exchange.standard_error)  # infinite for a single target


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "n_labels"), [(64, 2), (128, 2), (64, 3), (96, 3)])
async def test_a_concept_is_found_up_to_names(n: int, n_labels: int, seed: int) -> None:
    result = await found(n, n_labels, seed=seed)
    check_whole(result, n, n_labels)
    assert agreement(result.labels, planted_classes(n, n_labels), n_labels) > 0.95


@pytest.mark.parametrize("n_labels", [2, 3])
async def test_words_that_mean_something_give_the_names_too(n_labels: int) -> None:
    classes = planted_classes(64, n_labels)
    for seed in range(3):
        result = await found(64, n_labels, ConceptScore(classes, n_labels, meaning=2), seed=seed)
        assert (result.labels == classes).mean() > 0.95
        assert result.exchange.better or not result.exchange.ambiguous


async def test_the_result_is_a_function_of_the_seed() -> None:
    first, again, other = [await found(64, 2, seed=seed) for seed in (1, 1, 2)]
    assert same(first, again)
    assert not same(first, other)


async def test_the_same_questions_are_asked_again_in_the_same_order() -> None:
    asked = []
    for _ in range(2):
        score = ConceptScore(planted_classes(48, 2), 2)
        await found(48, 2, score, seed=3)
        asked.append(score.calls)
    assert asked[0] == asked[1]


async def test_scores_do_not_depend_on_the_order_in_which_they_were_computed() -> None:
    class Backwards(ConceptScore):
        async def __call__(self, queries: Sequence[Query]) -> FloatArray:
            return (await super().__call__(queries[::-1]))[::-1]

    backwards = await found(48, 2, Backwards(planted_classes(48, 2), 2))
    assert same(await found(48, 2), backwards)


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize(
    "n",
    [
        2,
        3,
        4,
        5,
        7,
        33,
        67,
    ],
)
async def test_few_items_and_uneven_folds(n: int, n_labels: int) -> None:
    for seed in range(5):
        check_whole(await found(n, n_labels, seed=seed), n, n_labels)


async def test_more_folds_than_items() -> None:
    check_whole(await found(5, 2, settings=replace(DEFAULT, folds=8)), 5, 2)


async def test_more_labels_than_first_items() -> None:
    check_whole(await found(40, 5, settings=replace(DEFAULT, initial=2)), 40, 5)


def test_one_sweep_alone_would_leave_items_without_a_label() -> None:
    with pytest.raises(InputError, match="max_sweeps must be at least 2, not 1"):
        replace(DEFAULT, max_sweeps=1)


@pytest.mark.parametrize("n_labels", [2, 3])
async def test_the_history_tells_what_happened(n_labels: int) -> None:
    told: list[SweepRecord] = []
    score = ConceptScore(planted_classes(48, n_labels), n_labels)
    settings = replace(DEFAULT, restarts=2, coherent=np.inf)
    rng = np.random.default_rng(0)
    result = await search(48, n_labels, score, rng=rng, settings=settings, observe=told.append)
    assert list(result.history) == told
    starts = restarts(result)
    assert [records[0].restart for records in starts] == [0, 1]
    for records in starts:
        assert [record.sweep for record in records] == list(range(len(records)))
        for record in records:
            assert 0 <= record.moved <= 48
            assert len(record.counts) == n_labels
            assert sum(record.counts) == (48 if record.sweep else 48 - settings.initial)
    ends = [records[-1] for records in starts]
    assert result.utility == max(end.utility for end in ends) == ends[result.restart].utility
    if not result.exchange.better:
        counts = np.bincount(result.labels, minlength=n_labels)
        assert tuple(counts) == ends[result.restart].counts


async def test_labels_that_settle_stop_the_search_as_early_as_it_may() -> None:
    settings = replace(DEFAULT, min_sweeps=5, max_sweeps=30, cold_after=2, coherent=0.1)
    score = ScriptedScore(lambda _: towards(planted_classes(64, 2), 2, 4.0))
    result = await found(64, 2, score, settings=settings)
    assert len(result.history) == 5
    assert result.history[-1].moved == 0


async def test_labels_that_never_settle_stop_at_the_most_sweeps() -> None:
    settings = replace(DEFAULT, max_sweeps=9, restarts=2, coherent=np.inf, moving=0.0)
    noise = np.random.default_rng(0)
    score = ScriptedScore(lambda _: noise.normal(size=(64, 2)))
    result = await found(64, 2, score, settings=settings)
    assert [len(records) for records in restarts(result)] == [9, 9]


async def test_while_utility_climbs_the_search_goes_on() -> None:
    settings = replace(DEFAULT, min_sweeps=3, max_sweeps=30, restarts=1, coherent=np.inf)
    classes = planted_classes(64, 2)
    # Sharper up to call 7 (sweep 7 by 0), the labels the same: U climbs, then no longer.
    script = ScriptedScore(lambda n: towards(classes, 2, 0.5 * min(n, 7) + 0.5))
    result = await found(64, 2, script, settings=replace(settings, climb=0.01, averaged=1))
    utilities = [record.utility for record in result.history]
    assert 5 <= len(utilities) < 12
    assert utilities[2:5] == sorted(utilities[2:5])


def by_start(sharpness: Sequence[float], n: int = 32) -> ScriptedScore:
    """Start `r` finds labels of a coherence that grows with `sharpness[r]`."""
    classes = planted_classes(n, 2)
    return ScriptedScore(
        lambda call: towards(classes, 2, sharpness[min(call // 2, len(sharpness) - 1)])
    )


async def test_the_start_of_highest_utility_wins() -> None:
    result = await found(32, 2, by_start([0.5, 4.0, 1.0]), settings=TWO_SWEEPS)
    assert [len(records) for records in restarts(result)] == [2, 2, 2]
    assert result.restart == 1
    assert result.utility == max(records[-1].utility for records in restarts(result))


async def test_starts_are_made_until_one_is_coherent() -> None:
    settings = replace(TWO_SWEEPS, coherent=0.3)
    result = await found(32, 2, by_start([0.2, 4.0, 4.0]), settings=settings)
    assert len(restarts(result)) == 2
    assert result.restart == 1


async def test_a_coherent_first_start_is_the_only_one() -> None:
    settings = replace(TWO_SWEEPS, coherent=0.3)
    result = await found(32, 2, by_start([4.0]), settings=settings)
    assert len(restarts(result)) == 1


async def test_starts_are_different_ones() -> None:
    score = ConceptScore(planted_classes(48, 2), 2)
    await found(48, 2, score, settings=TWO_SWEEPS)
    first = {call[0].context for call in score.calls[:6:2]}
    assert len(first) == 3


def exchanged_at_the_end(classes: IntArray) -> ScriptedScore:
    """Two sweeps find the classes the wrong way round; the names exchanged fit far better."""
    return ScriptedScore(
        lambda call: towards(1 - classes if call < 2 else classes, 2, 2.0 if call < 2 else 6.0)
    )


async def test_names_that_fit_far_better_are_taken() -> None:
    settings = replace(TWO_SWEEPS, restarts=1)
    classes = planted_classes(64, 2)
    result = await found(64, 2, exchanged_at_the_end(classes), settings=settings)
    assert result.exchange.better
    np.testing.assert_array_equal(result.labels, classes)
    check_whole(result, 64, 2)


async def test_a_given_prior_holds_after_an_exchange_of_names() -> None:
    prior = np.array([0.7, 0.3])
    classes = (planted_classes(100, 10) < 7).astype(np.int64)  # so label 0 is found for 70
    settings = replace(TWO_SWEEPS, restarts=1)
    result = await found(100, 2, exchanged_at_the_end(classes), settings=settings, prior=prior)
    if not result.exchange.better:
        pytest.fail("the script does not do what it should", pytrace=False)
    np.testing.assert_allclose(np.exp(result.log_probs).mean(axis=0), prior, atol=1e-3)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
async def test_a_given_prior_is_the_mean_of_the_posteriors(share: float) -> None:
    prior = np.array([share, 1 - share])
    result = await found(64, 2, prior=prior)
    assert result.prior.source == "given"
    mean = np.exp(result.log_probs).mean(axis=0)
    np.testing.assert_allclose(mean, prior, atol=1e-3)


async def test_nothing_to_find_is_not_coherent() -> None:
    rng = np.random.default_rng(7)
    flat = log_softmax(rng.normal(0, 0.05, size=(64, 2)))
    result = await found(64, 2, ScriptedScore(lambda _: flat))
    check_whole(result, 64, 2)
    assert result.utility < 0.1
