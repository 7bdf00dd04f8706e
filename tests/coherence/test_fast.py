import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby, product
from typing import Any

import numpy as np
import pytest
from concept_score import ConceptScore, ScriptedScore, agreement, planted_classes, towards

from icm_client.coherence.calibration import log_softmax
from icm_client.coherence.constraints import (
    Asymmetry,
    AtMostOne,
    ExactlyOne,
    MutualExclusion,
    SameAnswer,
    inconsistent_pairs,
)
from icm_client.coherence.contexts import REPEATED
from icm_client.coherence.fast import search
from icm_client.coherence.problem import (
    NO_CONSTRAINT,
    UNLABELLED,
    Constraint,
    FloatArray,
    IntArray,
    Problem,
    Query,
)
from icm_client.coherence.result import SearchResult, SweepRecord, Watch
from icm_client.coherence.settings import SweepSettings
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
    constraint: Constraint = NO_CONSTRAINT,
    start: IntArray | None = None,
) -> SearchResult:
    score = score or ConceptScore(planted_classes(n, n_labels), n_labels)
    return await search(
        Problem(n, n_labels, constraint=constraint, prior=prior, start=start),
        score,
        rng=np.random.default_rng(seed),
        settings=settings,
    )


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
    told: list[Any] = []
    score = ConceptScore(planted_classes(48, n_labels), n_labels)
    settings = replace(DEFAULT, restarts=2, coherent=np.inf)
    rng = np.random.default_rng(0)
    result = await search(
        Problem(48, n_labels), score, rng=rng, settings=settings, watch=Watch(observe=told.append)
    )
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


async def test_clear_labels_that_no_context_would_change_end_the_search() -> None:
    clear = ScriptedScore(lambda _: towards(planted_classes(64, 2), 2, 4.0))
    result = await found(64, 2, clear, settings=replace(DEFAULT, all_names=0))
    assert len(result.history) == DEFAULT.min_sweeps
    less = ScriptedScore(lambda _: towards(planted_classes(64, 2), 2, 0.6))
    result = await found(64, 2, less, settings=replace(DEFAULT, all_names=0))
    assert DEFAULT.coherent < result.coherence < DEFAULT.clear
    assert len(result.history) == DEFAULT.averaged


async def test_clear_labels_are_decided_without_the_first_sweep() -> None:
    classes = planted_classes(64, 2)
    script = ScriptedScore(lambda call: towards(classes, 2, 4.0) if call else np.zeros((64, 2)))
    result = await found(64, 2, script, settings=replace(DEFAULT, all_names=0))
    assert len(result.history) == DEFAULT.min_sweeps
    assert result.sweep_scores is not None
    assert len(result.sweep_scores) == DEFAULT.min_sweeps - 1
    assert agreement(result.labels, classes, 2) == 1


async def test_clear_labels_that_other_contexts_would_change_do_not() -> None:
    noise, classes = np.random.default_rng(0), planted_classes(64, 2)
    says_much = np.arange(64)[:, np.newaxis] % 3 > 0  # of the others it is chance

    def wavering(_: int) -> FloatArray:
        return towards(classes, 2, 6.0) * says_much + noise.normal(scale=1.0, size=(64, 2))

    even, plain = np.array([0.5, 0.5]), replace(DEFAULT, all_names=0)
    result = await found(64, 2, ScriptedScore(wavering), settings=plain, prior=even)
    assert result.history[DEFAULT.min_sweeps - 1].coherence >= DEFAULT.clear
    assert len(result.history) > DEFAULT.min_sweeps
    content = replace(plain, changing=0.2)
    result = await found(64, 2, ScriptedScore(wavering), settings=content, prior=even)
    assert len(result.history) == DEFAULT.min_sweeps


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


# What the search asked and found before it knew of rules: the first 16 hex digits of the SHA-256 of
# all queries in order, the labels, the sweeps, and U. Of three labels how names are exchanged has
# changed since: the first of them sweeps on under all names.
TWO, THREE = (
    "101010111101110011100100100101001001110000100101",
    "121011101020001221002020220100211020222112211",
)
BEFORE_RULES = [
    (48, 2, 2.0, 0, "a57ccbd2e5f1bab0", TWO, 5, 0.6870704018587546),
    (48, 2, 2.0, 1, "e2787c4203138a3c", TWO, 5, 0.6870701036878871),
    (48, 2, 2.0, 2, "b31552b7d17ca6c8", TWO, 5, 0.6870702176479894),
    (45, 3, 1.0, 0, "612a236c4b803833", THREE, 7, 0.9618911831938707),
    (45, 3, 1.0, 1, "c91c52546da0e9ec", THREE, 5, 1.0442901408368048),
    (45, 3, 1.0, 2, "bf481e2ae0ba3e5c", THREE, 5, 1.0442739523725828),
]


@pytest.mark.parametrize(
    ("n", "n_labels", "meaning", "seed", "asked", "labels", "sweeps", "utility"), BEFORE_RULES
)
async def test_without_a_rule_a_start_or_an_end_of_its_own_nothing_has_changed(  # noqa: PLR0917
    n: int,
    n_labels: int,
    meaning: float,
    seed: int,
    asked: str,
    labels: str,
    sweeps: int,
    utility: float,
) -> None:
    score = ConceptScore(planted_classes(n, n_labels), n_labels, meaning=meaning)
    as_before = replace(DEFAULT, clear=np.inf, several=0)
    result = await found(n, n_labels, score, seed=seed, settings=as_before)
    calls = [[(tuple(map(tuple, q.context)), q.target) for q in call] for call in score.calls]
    assert hashlib.sha256(repr(calls).encode()).hexdigest()[:16] == asked
    assert "".join(map(str, result.labels)) == labels
    assert len(result.history) == sweeps
    assert result.utility == pytest.approx(utility, abs=1e-9)
    assert (result.by_confidence, result.steps, result.settled) == (0, (), 0)


async def test_three_labels_of_uneven_shares_have_the_sweeps_that_they_need() -> None:
    # After five a label that one row in ten has still has others' rows.
    right = np.empty((5, 2))
    for seed, several in product(range(5), (0, DEFAULT.several)):
        classes = np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], [58, 29, 9]))
        score = ConceptScore(classes, 3, strength=3.0, meaning=1.0, noise=1.0)
        settings = replace(DEFAULT, several=several)
        result = await found(96, 3, score, seed=seed, settings=settings)
        right[seed, int(several > 0)] = (result.labels == classes).mean()
    assert right[:, 0].mean() < 0.95
    assert right[:, 1].min() > 0.97


def pairs(n: int) -> Asymmetry:
    return Asymmetry(tuple((i, i + 1) for i in range(0, n, 2)), true=1, false=0)


async def test_a_rule_corrects_what_scores_alone_get_wrong() -> None:
    # The second order of a comparison is read by a model that sees nothing in it.
    n = 64
    classes = np.tile([0, 1, 1, 0], n // 4)
    scores = towards(classes, 2, 4.0)
    scores[1::2] = np.random.default_rng(3).normal(0, 0.3, size=(n // 2, 2))
    alone = await found(n, 2, ScriptedScore(lambda _: scores))
    assert (alone.labels == classes)[1::2].mean() < 0.8
    ruled = await found(n, 2, ScriptedScore(lambda _: scores), constraint=pairs(n))
    np.testing.assert_array_equal(ruled.labels, classes)


async def test_labels_of_a_rule_are_kept_in_every_context() -> None:
    # What is drawn for contexts is sampled in the first sweeps; it keeps the rule as well.
    rule = SameAnswer(tuple((i, i + 1) for i in range(0, 48, 2)))
    score = ConceptScore(planted_classes(48, 2), 2)
    await found(48, 2, score, constraint=rule, settings=replace(DEFAULT, temperature=3.0))
    for context in {query.context for call in score.calls for query in call}:
        held = dict(context)
        for i, j in rule.groups:
            assert held.get(i, held.get(j)) == held.get(j, held.get(i))


async def test_first_items_are_whole_groups() -> None:
    score = ConceptScore(planted_classes(48, 2), 2)
    await found(48, 2, score, constraint=pairs(48))
    first = score.calls[0][0].context
    held = dict(first)
    assert len(first) == DEFAULT.initial
    assert all(held[i ^ 1] == 1 - label for i, label in first)


async def test_names_that_are_exchanged_still_keep_the_rule() -> None:
    # One of four is found true, which the rule allows; with the names exchanged it would be three.
    n = 64
    classes = (np.arange(n) % 4 != 0).astype(np.int64)
    rule = AtMostOne(tuple(tuple(range(i, i + 4)) for i in range(0, n, 4)), true=1)
    settings = replace(TWO_SWEEPS, restarts=1)
    result = await found(n, 2, exchanged_at_the_end(classes), settings=settings, constraint=rule)
    assert result.exchange.better
    assert result.exchanged
    assert inconsistent_pairs(result.labels, rule) == []


async def test_groups_too_large_to_enumerate_are_counted() -> None:
    groups = (tuple(range(16)), tuple(range(16, 32)), (32, 33))
    result = await found(48, 2, constraint=AtMostOne(groups, true=1))
    assert result.by_confidence == 2
    assert (await found(48, 2, constraint=AtMostOne(groups[2:], true=1))).by_confidence == 0


async def test_a_rule_that_cannot_be_kept_is_refused_before_anything_is_asked() -> None:
    class Never(Constraint):
        groups = ((4, 7),)

        def consistent(self, _i: int, _y_i: int, _j: int, _y_j: int, /) -> bool:
            return False

    score = ConceptScore(planted_classes(8, 2), 2)
    with pytest.raises(InputError, match="items 4, 7"):
        await found(8, 2, score, constraint=Never())
    with pytest.raises(InputError, match="item 9, but there are 8 items"):
        await found(8, 2, score, constraint=SameAnswer(((1, 9),)))
    assert score.calls == []


@pytest.mark.parametrize("groups", [((0, 1),), ((0, 1, 2),), ((0, 1), (2, 3)), ((0, 1, 2, 3),)])
async def test_few_items_in_few_groups(groups: tuple[tuple[int, ...], ...]) -> None:
    n = max(map(max, groups)) + 1
    for rule in (ExactlyOne(groups, true=1), MutualExclusion(groups, tuple(range(n)), true=1)):
        for seed in range(3):
            result = await found(n, 2, seed=seed, constraint=rule)
            for group in groups:
                assert rule.allows(group, result.labels[list(group)].tolist())


async def test_a_few_first_labels_are_the_first_context() -> None:
    start = np.full(48, UNLABELLED)
    start[[3, 9, 30]] = 0, 1, 1
    score = ConceptScore(planted_classes(48, 2), 2)
    result = await found(48, 2, score, start=start)
    assert {tuple(demo) for demo in score.calls[0][0].context} == {(3, 0), (9, 1), (30, 1)}
    assert len(score.calls[0]) == 45
    assert len(restarts(result)) == 1
    assert start.tolist().count(UNLABELLED) == 45  # left as it was


async def test_no_first_labels_at_all_start_from_the_prompt_alone() -> None:
    score = ConceptScore(planted_classes(48, 2), 2, meaning=2.0)
    result = await found(48, 2, score, start=np.full(48, UNLABELLED))
    assert score.calls[0] == [Query((), i) for i in range(48)]
    assert (result.labels == planted_classes(48, 2)).mean() > 0.95


@pytest.mark.parametrize("labelled", [48, 30])
async def test_many_first_labels_are_drawn_from_for_balanced_folds(labelled: int) -> None:
    classes = planted_classes(48, 2)
    start = np.where(np.arange(48) < labelled, classes, UNLABELLED)
    score = ConceptScore(classes, 2)
    settings = replace(DEFAULT, demos=10, restarts=3, coherent=np.inf)
    result = await found(48, 2, score, start=start, settings=settings)
    assert len(restarts(result)) == 1
    assert len(score.calls[0]) == 48
    contexts = {query.context for query in score.calls[0]}
    assert len(contexts) == settings.folds
    for context in contexts:
        assert [demo.label for demo in context].count(0) == len(context) / 2 == 5
        assert all(start[demo.item] == demo.label for demo in context)
    assert agreement(result.labels, classes, 2) > 0.95
    # The second sweep's labels are worth as many demos as any other's.
    assert {len(query.context) for query in score.calls[1]} == {10}


async def test_twins_of_a_first_item_are_no_targets_of_its_context() -> None:
    start = np.full(48, UNLABELLED)
    start[[2, 11]] = 0, 1
    score = ConceptScore(planted_classes(48, 2), 2)
    await found(48, 2, score, start=start, constraint=pairs(48))
    assert {2, 3, 10, 11}.isdisjoint(query.target for query in score.calls[0])
    assert len(score.calls[0]) == 44


async def test_labels_that_are_no_start_are_refused() -> None:
    with pytest.raises(InputError, match="item 1 has the first label 5"):
        await found(4, 2, start=np.array([0, 5, 0, 0]))


async def test_every_start_s_end_is_kept() -> None:
    settings = replace(DEFAULT, coherent=np.inf, restarts=3)
    result = await found(48, 2, settings=settings)
    assert len(result.restarts) == 3
    assert result.restart == int(np.argmax([end.utility for end in result.restarts]))
    for number, end in enumerate(result.restarts):
        last = restarts(result)[number][-1]
        assert end.utility == last.utility
        assert end.coherence == pytest.approx(last.coherence)
        assert np.bincount(end.labels, minlength=2).tolist() == list(last.counts)


async def test_label_mass_is_the_raw_probability_of_labels_in_the_last_sweeps() -> None:
    class Elsewhere(ConceptScore):
        """Puts a share of the probability on text that is no label: more in later calls."""

        async def __call__(self, queries: Sequence[Query]) -> FloatArray:
            log_probs = await super().__call__(queries)
            log_probs += np.log(0.9 if len(self.calls) <= DEFAULT.cold_after else 0.25)
            return log_probs

    result = await found(48, 2, Elsewhere(planted_classes(48, 2), 2))
    assert result.label_mass is not None
    np.testing.assert_allclose(result.label_mass, 0.25)


async def test_sweeps_behind_sampled_labels_are_not_kept_as_evidence() -> None:
    five = replace(DEFAULT, max_sweeps=5, clear=np.inf, all_names=0)
    result = await found(48, 2, settings=five)
    assert result.sweep_scores is not None
    assert result.sweep_scores.shape == (5 - DEFAULT.cold_after, 48, 2)
    towards = result.sweep_scores[:, np.arange(48), result.labels]
    assert (towards > result.sweep_scores[:, np.arange(48), 1 - result.labels]).mean() > 0.95
    few = await found(48, 2, settings=TWO_SWEEPS)
    assert few.sweep_scores is not None
    assert few.sweep_scores.shape == (0, 48, 2)
    assert few.label_mass is not None
    assert np.isfinite(few.label_mass).any()


async def test_a_few_of_the_last_questions_are_kept() -> None:
    score = ConceptScore(planted_classes(48, 2), 2)
    result = await found(48, 2, score)
    assert list(result.last_asked) == score.calls[-1][-REPEATED:]
