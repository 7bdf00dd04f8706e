"""Zero-shot, random demos and bootstrapping, by hand on four items and on planted concepts."""

from collections.abc import Sequence

import numpy as np
import pytest
from concept_score import ConceptScore, agreement, planted_classes

from icm_client.coherence.constraints import Asymmetry
from icm_client.coherence.problem import UNLABELLED, FloatArray, Problem, Query, Score
from icm_client.coherence.result import Observed, SearchResult, SweepRecord, Watch
from icm_client.coherence.simple import FewShotSettings, SimpleSettings, ZeroShotSettings, search
from icm_client.errors import InputError

FOUR = np.log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
"""What four items say by themselves: all of them the first label."""


class Told:
    """Four items whose scores turn with the first demo's label, by script, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Query]] = []

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        self.asked.append(list(queries))
        return np.array([self.of(query) for query in queries])

    def of(self, query: Query) -> FloatArray:
        if not query.context:
            alone: FloatArray = FOUR[query.target]
            return alone
        # The first two items are of one class, the others of the other; a demo says which is which.
        demo = query.context[0]
        same = (demo.item < 2) == (query.target < 2)
        label = demo.label if same else 1 - demo.label
        odds = 0.9 + 0.01 * query.target
        said: FloatArray = np.log([odds, 1 - odds] if label == 0 else [1 - odds, odds])
        return said


async def run(
    problem: Problem, score: Score, settings: SimpleSettings, seed: int = 0, **watch: object
) -> SearchResult:
    rng = np.random.default_rng(seed)
    return await search(problem, score, settings=settings, rng=rng, watch=Watch(**watch))  # type: ignore[arg-type]


async def test_zero_shot_by_hand() -> None:
    score = Told()
    found = await run(Problem(4, 2), score, ZeroShotSettings())
    assert found.labels.tolist() == [0, 0, 0, 0]
    assert np.allclose(found.log_probs, FOUR)
    # Each item alone, all of them given the labels found, and a part with names exchanged.
    alone, judged, *_ = score.asked
    assert alone == [Query((), item) for item in range(4)]
    assert sorted(query.target for query in judged) == [0, 1, 2, 3]
    assert all(demo.label == 0 for query in judged for demo in query.context)


async def test_calibrated_zero_shot_by_hand() -> None:
    found = await run(Problem(4, 2), Told(), ZeroShotSettings(calibrated=True))
    # Means 0.75 and 0.25: 0.9 and 0.8 are more than the first label's, 0.7 and 0.6 less.
    assert found.labels.tolist() == [0, 0, 1, 1]
    odds = np.log([0.9 / 0.75, 0.1 / 0.25])
    assert found.log_probs[0] == pytest.approx(odds - np.log(np.exp(odds).sum()))


async def test_a_prior_shifts_plain_zero_shot() -> None:
    even = np.array([0.5, 0.5])
    found = await run(Problem(4, 2, prior=even), Told(), ZeroShotSettings())
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.prior.source == "given"


async def test_random_demos_by_hand() -> None:
    """The labels are those that the two demos of the other half, labelled at random, say."""
    for seed in range(8):
        score = Told()
        found = await run(Problem(4, 2), score, FewShotSettings(rounds=0), seed)
        given, judged, *_ = score.asked
        random = {demo.item: demo.label for query in given for demo in query.context}
        assert {query.target for query in given} == {0, 1, 2, 3}
        for query in given:
            assert query.target not in {demo.item for demo in query.context}
        # One label for both items of a half, or one of each: a context shows what is there.
        assert all(len(query.context) in (1, 2) for query in given)
        # Calibrated by hand: the scores in a context of two targets, less each label's mean.
        expected: dict[int, FloatArray] = {}
        for context in {query.context for query in given}:
            targets = [query.target for query in given if query.context == context]
            raw = np.array([score.of(Query(context, target)) for target in targets])
            scores = raw - np.log(np.exp(raw).mean(axis=0))
            expected |= dict(zip(targets, scores, strict=True))
        decided = np.array([expected[item] for item in range(4)]) + found.prior.offsets
        assert found.labels.tolist() == decided.argmax(axis=1).tolist()
        shown = {demo.item: demo.label for query in judged for demo in query.context}
        assert all(found.labels[item] == label for item, label in shown.items())
        assert set(random.values()) <= {0, 1}


async def test_bootstrapping_shows_its_own_predictions_twice() -> None:
    score = Told()
    seen: list[Observed] = []
    found = await run(Problem(4, 2), score, FewShotSettings(), 3, observe=seen.append)
    assert len(found.history) == 3
    rounds = score.asked[:3]
    for record, asked in zip(found.history, rounds[1:], strict=False):
        labels = record.labels
        assert labels is not None
        assert all(labels[demo.item] == demo.label for query in asked for demo in query.context)
    assert seen == list(found.history)
    # No further pass judges them: the demos of the last round were predictions.
    assert all(len(asked) < 4 for asked in score.asked[3:])


@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        (ZeroShotSettings(), 2),
        (ZeroShotSettings(calibrated=True), 2),
        (FewShotSettings(rounds=0), 2),
        (FewShotSettings(), 3),
    ],
)
async def test_reads_of_a_row(settings: SimpleSettings, reads: int) -> None:
    """As docs/methods.md has them: passes over all rows, and half of them with names exchanged."""
    score = ConceptScore(planted_classes(60, 2), 2, meaning=1.0)
    await run(Problem(60, 2), score, settings)
    assert sum(map(len, score.calls)) == 60 * reads + 30


async def test_bootstrapping_gains_on_random_demos_where_words_say_little() -> None:
    classes = planted_classes(96, 2)
    right = {}
    for rounds in (0, 2):
        runs = [
            await run(
                Problem(96, 2),
                ConceptScore(classes, 2, meaning=0.6, noise=1.0),
                FewShotSettings(rounds=rounds),
                seed,
            )
            for seed in range(6)
        ]
        right[rounds] = np.mean([(found.labels == classes).mean() for found in runs])
    assert right[2] > right[0] + 0.1


async def test_names_stay_as_the_words_have_them() -> None:
    """Words against the concept: the demos' names win, and the verdict says so (`better`)."""
    classes = planted_classes(96, 2)
    score = ConceptScore(classes, 2, meaning=-1.0, noise=0.3)
    start = np.where(np.arange(96) < 48, classes, UNLABELLED)
    found = await run(Problem(96, 2, start=start), score, FewShotSettings())
    assert agreement(found.labels, classes, 2) > 0.95
    assert not found.exchanged


async def test_the_rule_holds_in_every_round_and_for_pins() -> None:
    pairs = tuple((i, i + 1) for i in range(0, 40, 2))
    rule = Asymmetry(pairs, true=0, false=1)
    pinned = np.full(40, UNLABELLED)
    pinned[[0, 6]] = 1, 0
    problem = Problem(40, 2, constraint=rule, pinned=pinned)
    for settings in (ZeroShotSettings(), FewShotSettings(rounds=0), FewShotSettings()):
        score = ConceptScore(planted_classes(40, 2), 2, meaning=1.0)
        found = await run(problem, score, settings)
        assert found.labels[0] == 1
        assert found.labels[6] == 0
        for first, second in pairs:
            assert {found.labels[first], found.labels[second]} == {0, 1}
        for call in score.calls:
            for query in call:
                there = {demo.item for demo in query.context}
                assert not {query.target, query.target ^ 1} & there


async def test_first_labels_take_the_place_of_random_ones() -> None:
    score = Told()
    start = np.array([1, 1, 0, 0])
    await run(Problem(4, 2, start=start), score, FewShotSettings(rounds=0))
    shown = {demo.item: demo.label for query in score.asked[0] for demo in query.context}
    assert all(start[item] == label for item, label in shown.items())


async def test_an_item_without_a_score_has_no_label() -> None:
    class Lacking(Told):
        def of(self, query: Query) -> FloatArray:
            return np.full(2, np.nan) if query.target == 2 else super().of(query)

    for settings in (ZeroShotSettings(calibrated=True), FewShotSettings()):
        found = await run(Problem(4, 2), Lacking(), settings)
        assert found.labels[2] == UNLABELLED
        assert (found.labels[[0, 1, 3]] != UNLABELLED).all()


async def test_it_ends_after_the_round_that_it_is_stopped_in() -> None:
    rounds: list[Observed] = []
    score = ConceptScore(planted_classes(40, 2), 2, meaning=1.0)
    found = await run(
        Problem(40, 2),
        score,
        FewShotSettings(rounds=5),
        observe=rounds.append,
        stop=lambda: len(rounds) >= 2,
    )
    assert found.stopped
    assert len(found.history) == 2
    last = rounds[-1]
    assert isinstance(last, SweepRecord)
    assert last.labels is not None
    assert found.labels.tolist() == last.labels.tolist()


async def test_the_same_seed_gives_the_same_labels() -> None:
    for settings in (ZeroShotSettings(), FewShotSettings(rounds=0), FewShotSettings()):
        first, again = [
            await run(Problem(30, 3), ConceptScore(planted_classes(30, 3), 3), settings, 4)
            for _ in range(2)
        ]
        assert first.labels.tolist() == again.labels.tolist()
        assert first.utility == again.utility


def test_numbers_that_nothing_can_be_done_with() -> None:
    for kind in (ZeroShotSettings, FewShotSettings):
        with pytest.raises(InputError, match="demos must be at least 2, not 1"):
            kind(demos=1)
        with pytest.raises(InputError, match="folds must be at least 2, not 1"):
            kind(folds=1)
    with pytest.raises(InputError, match="rounds must be at least 0, not -1"):
        FewShotSettings(rounds=-1)
