from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from concept_score import ConceptScore, planted_classes
from taught import Taught, noisy

from icm_client.coherence.constraints import AtMostOne, SameAnswer, inconsistent_pairs
from icm_client.coherence.fast import search
from icm_client.coherence.folds import FoldSettings, MostConfident, fold_search
from icm_client.coherence.problem import UNLABELLED, Constraint, FloatArray, IntArray, Problem
from icm_client.coherence.result import PassRecord, Watch
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.trained import Training, fold_trainings
from icm_client.errors import InputError, TrainingError


def uneven(n_items: int, share: float) -> IntArray:
    """Two classes; label 1 has this share."""
    return (np.random.default_rng(8).random(n_items) < share).astype(np.int64)


class Scripted:
    """Pass `n` gives item `i` the log-odds `script(n)[i]` for label 1."""

    def __init__(self, *script: Sequence[float] | FloatArray) -> None:
        self.script = [np.array(one) for one in script]
        self.calls: list[list[Training]] = []

    async def __call__(self, trainings: Sequence[Training]) -> list[FloatArray]:
        odds = self.script[min(len(self.calls), len(self.script) - 1)]
        self.calls.append(list(trainings))
        of_one = -np.log1p(np.exp(-odds))
        both = np.stack([of_one - odds, of_one], axis=1)
        return [both[training.targets] for training in trainings]


@pytest.mark.slow
async def test_ten_thousand_items_with_a_quarter_of_the_first_labels_wrong() -> None:
    n_items = 10_000
    classes = planted_classes(n_items, 2)
    train = Taught(classes, 2)
    told: list[Any] = []
    found = await fold_search(
        Problem(n_items, 2, start=noisy(classes, 0.25)),
        ConceptScore(classes, 2, meaning=1.0),
        train,
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
        watch=Watch(observe=told.append),
    )
    assert (found.labels == classes).mean() > 0.95
    assert not found.exchange.ambiguous
    assert tuple(told) == found.history
    assert 1 < len(told) <= 5
    assert all(isinstance(record, PassRecord) for record in told)
    assert told[-1].labels is not None
    assert np.array_equal(told[-1].labels, found.labels)
    assert [record.utility for record in told] == sorted(record.utility for record in told)
    for trainings in train.calls:
        assert len(trainings) == 4
        asked = np.concatenate([training.targets for training in trainings])
        assert sorted(asked.tolist()) == list(range(n_items))


async def test_models_taught_chance_are_sure_of_themselves_and_yet_it_shows() -> None:
    classes = planted_classes(1000, 2)
    found = await fold_search(
        Problem(1000, 2, start=np.tile(classes[::-1][:500], 2)),
        ConceptScore(classes, 2, meaning=1.0),
        Taught(classes, 2, noise=0.0, wavering=3.0),
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
    )
    assert abs((found.labels == classes).mean() - 0.5) < 0.1
    assert found.coherence < 0.15


@pytest.mark.parametrize("n_labels", [2, 3])
async def test_first_labels_are_those_of_the_fast_search(n_labels: int) -> None:
    classes = planted_classes(120, n_labels)
    fast = await search(
        Problem(120, n_labels),
        ConceptScore(classes, n_labels, meaning=2.0),
        rng=np.random.default_rng(4),
        settings=SweepSettings(),
    )
    train = Taught(classes, n_labels, half=5.0, noise=1.0)
    found = await fold_search(
        Problem(120, n_labels),
        ConceptScore(classes, n_labels, meaning=2.0),
        train,
        rng=np.random.default_rng(4),
        settings=FoldSettings(),
    )
    sweeps = [record for record in found.history if not isinstance(record, PassRecord)]
    assert tuple(sweeps) == fast.history
    for training in train.calls[0]:
        assert [y for _, y in training.demos] == fast.labels[
            [i for i, _ in training.demos]
        ].tolist()
    assert (found.labels == classes).mean() > 0.9
    assert [end.utility for end in found.restarts] == [end.utility for end in fast.restarts]


async def test_a_model_is_asked_about_none_that_it_was_taught_nor_about_their_relations() -> None:
    groups = tuple((3 * g, 3 * g + 1, 3 * g + 2) for g in range(20))
    labels = planted_classes(70, 2)
    trainings = fold_trainings(
        0,
        labels,
        Problem(70, 2, SameAnswer(groups), items=np.setdiff1d(np.arange(70), [5, 66])),
        folds=4,
        rng=np.random.default_rng(1),
    )
    asked = sorted(np.concatenate([training.targets for training in trainings]).tolist())
    assert asked == [i for i in range(70) if i not in (5, 66)]
    group_of = {item: group for group in groups for item in group}
    for training in trainings:
        taught = {item for item, _ in training.demos}
        assert taught.isdisjoint({5, 66})
        assert len(taught) + len(training.targets) == 68
        related = {j for i in training.targets.tolist() for j in group_of.get(i, (i,))}
        assert taught.isdisjoint(related)
    assert len({training.name for training in trainings}) == 4


async def test_folds_are_drawn_anew_for_each_pass() -> None:
    train = Scripted([2.0, -2.0] * 20, [-2.0, 2.0] * 20)
    await fold_search(
        Problem(40, 2, start=np.tile([1, 0], 20)),
        ConceptScore(planted_classes(40, 2), 2),
        train,
        rng=np.random.default_rng(0),
        settings=FoldSettings(passes=2),
    )
    first, second = ({tuple(t.targets) for t in call} for call in train.calls[:1] * 2)
    assert first == second
    assert len(train.calls) == 1  # nothing moved: the first pass was the last
    moving = Scripted([-2.0, 2.0] * 20, [2.0, -2.0] * 20)
    await fold_search(
        Problem(40, 2, start=np.tile([1, 0], 20)),
        ConceptScore(planted_classes(40, 2), 2),
        moving,
        rng=np.random.default_rng(0),
        settings=FoldSettings(passes=2),
    )
    first, second = ({tuple(t.targets) for t in call} for call in moving.calls)
    assert first != second


@pytest.mark.parametrize(("wrong", "passes"), [(0, 1), (1, 1), (2, 2)])
async def test_it_ends_when_fewer_than_one_in_a_hundred_labels_move(
    wrong: int, passes: int
) -> None:
    classes = np.tile([1, 0], 100)
    start = classes.copy()
    start[:wrong] = 1 - start[:wrong]
    train = Scripted(np.where(classes == 1, 2.0, -2.0))
    found = await fold_search(
        Problem(200, 2, start=start),
        ConceptScore(classes, 2, meaning=1.0),
        train,
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
    )
    assert [record.moved for record in found.history] == [wrong, 0][:passes]
    assert len(train.calls) == passes
    assert found.labels.tolist() == classes.tolist()


async def test_what_never_settles_ends_after_five_passes() -> None:
    one_way = [2.0, -2.0] * 20
    other_way = [-2.0, 2.0] * 20
    train = Scripted(*([one_way, other_way] * 4))
    found = await fold_search(
        Problem(40, 2, start=np.tile([0, 1], 20)),
        ConceptScore(planted_classes(40, 2), 2),
        train,
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
    )
    assert len(found.history) == len(train.calls) == 5


async def test_one_label_about_to_take_all_ends_it_instead_of_training_on_nothing() -> None:
    train = Scripted([0.1, -3.0] + [-3.0] * 38)  # printed form: item 0 alone is called 1
    found = await fold_search(
        Problem(40, 2, start=np.tile([0, 1], 20)),
        ConceptScore(planted_classes(40, 2), 2),
        train,
        rng=np.random.default_rng(0),
        settings=FoldSettings(calibrated=False),
    )
    assert len(train.calls) == 1
    assert sorted(found.labels.tolist()) == [0] * 39 + [1]
    assert found.coherence < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("seed", [3, 4, 5])
async def test_calibrated_scores_find_uneven_labels_that_the_models_own_miss(
    share: float, seed: int
) -> None:
    classes = uneven(2000, share)
    accuracy = {}
    for calibrated in (True, False):
        found = await fold_search(
            Problem(2000, 2, start=noisy(classes, 0.25, seed=seed)),
            ConceptScore(classes, 2, meaning=1.0),
            Taught(classes, 2),
            rng=np.random.default_rng(0),
            settings=FoldSettings(calibrated=calibrated),
        )
        accuracy[calibrated] = float((found.labels == classes).mean())
    assert accuracy[True] > 0.96
    assert accuracy[True] > accuracy[False] + 0.005


async def test_a_prior_decides_in_both_forms() -> None:
    classes = uneven(1000, 0.3)
    for calibrated in (True, False):
        found = await fold_search(
            Problem(1000, 2, prior=np.array([0.7, 0.3]), start=noisy(classes, 0.25)),
            ConceptScore(classes, 2, meaning=1.0),
            Taught(classes, 2),
            rng=np.random.default_rng(0),
            settings=FoldSettings(calibrated=calibrated),
        )
        assert found.prior.source == "given"
        assert abs(found.labels.mean() - 0.3) < 0.04
        assert np.exp(found.log_probs).mean(axis=0)[1] == pytest.approx(0.3, abs=0.01)


async def test_names_that_the_base_model_finds_clearly_wrong_are_exchanged() -> None:
    classes = planted_classes(400, 2)
    found = await fold_search(
        Problem(400, 2, start=1 - noisy(classes, 0.1)),
        ConceptScore(classes, 2, meaning=2.0),
        Taught(classes, 2, noise=1.0),
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
    )
    assert found.exchanged
    assert (found.labels == classes).mean() > 0.9
    assert found.utility > 0
    assert (np.argmax(found.log_probs, axis=1) == found.labels).all()


def most_confident(log_odds: Sequence[float], constraint: Constraint) -> list[int]:
    odds = np.array(log_odds, dtype=float)
    labels = MostConfident(constraint, 2)(np.stack([0 * odds, odds], axis=1)).labels
    return [int(label) for label in labels]


def test_algorithm_4_the_most_confident_prediction_stands_whatever_the_others_say() -> None:
    same = SameAnswer(((0, 1, 2),))
    assert most_confident([3.0, -2.0, -2.0], same) == [1, 1, 1]  # jointly it would be all 0
    assert most_confident([3.0, -2.0, -4.0], same) == [0, 0, 0]
    assert most_confident([1.0, 2.0, -9.0, 0.5], AtMostOne(((0, 1, 2),), true=1)) == [0, 1, 0, 1]


async def test_labels_keep_the_rule_after_every_pass() -> None:
    classes = np.repeat(planted_classes(60, 2), 3)
    rule = SameAnswer(tuple((3 * g, 3 * g + 1, 3 * g + 2) for g in range(60)))
    train = Taught(classes, 2)
    found = await fold_search(
        Problem(180, 2, constraint=rule, start=noisy(classes, 0.25)),
        ConceptScore(classes, 2, meaning=1.0),
        train,
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
    )
    assert inconsistent_pairs(found.labels, rule) == []
    for call in train.calls[1:]:
        held = np.full(180, UNLABELLED)
        for training in call:
            for item, label in training.demos:
                held[item] = label
        assert inconsistent_pairs(held, rule) == []
    assert found.by_confidence == 0
    assert (found.labels == classes).mean() > 0.95


async def test_items_that_cannot_be_scored_have_no_label_and_teach_nothing() -> None:
    classes = planted_classes(60, 2)
    base, train = ConceptScore(classes, 2, meaning=1.0), Taught(classes, 2)

    async def without_seven(trainings: Sequence[Training]) -> list[FloatArray]:
        answers = await train(trainings)
        for training, log_probs in zip(trainings, answers, strict=True):
            log_probs[training.targets == 7] = np.nan
        return answers

    found = await fold_search(
        Problem(60, 2, start=noisy(classes, 0.25), items=np.setdiff1d(np.arange(60), [3])),
        base,
        without_seven,
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
    )
    assert np.flatnonzero(found.labels == UNLABELLED).tolist() == [3, 7]
    assert np.isnan(found.log_probs[[3, 7]]).all()
    assert found.label_mass is not None
    assert np.isnan(found.label_mass[[3, 7]]).all()
    for trainings in train.calls:
        assert all(item != 3 for training in trainings for item, _ in training.demos)
    for trainings in train.calls[1:]:
        assert all(item != 7 for training in trainings for item, _ in training.demos)


@pytest.mark.parametrize("allowed", [1, 2])
async def test_a_limit_ends_it_between_passes_with_the_labels_so_far(allowed: int) -> None:
    classes = planted_classes(200, 2)
    told: list[Any] = []
    found = await fold_search(
        Problem(200, 2, start=noisy(classes, 0.25)),
        ConceptScore(classes, 2, meaning=1.0),
        Taught(classes, 2),
        rng=np.random.default_rng(0),
        settings=FoldSettings(moving=0.0),
        watch=Watch(observe=told.append, stop=lambda: len(told) >= allowed),
    )
    assert found.stopped
    assert len(found.history) == allowed
    assert (found.labels != UNLABELLED).all()


async def test_a_limit_that_ends_the_first_search_ends_all() -> None:
    classes = planted_classes(64, 2)
    train = Taught(classes, 2)
    found = await fold_search(
        Problem(64, 2),
        ConceptScore(classes, 2, meaning=1.0),
        train,
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
        watch=Watch(stop=lambda: True),
    )
    assert found.stopped
    assert train.calls == []
    assert (found.labels != UNLABELLED).all()


async def test_a_start_that_lacks_a_label_is_left_to_the_trainer_to_refuse() -> None:
    classes = planted_classes(20, 2)
    start = np.full(20, UNLABELLED)
    start[:3] = 1
    with pytest.raises(TrainingError):
        await fold_search(
            Problem(20, 2, start=start),
            ConceptScore(classes, 2),
            Taught(classes, 2),
            rng=np.random.default_rng(0),
            settings=FoldSettings(),
        )


async def test_a_rule_that_allows_nothing_is_refused_before_anything_is_asked() -> None:
    class Never(SameAnswer):
        def consistent(self, _i: int, _y_i: int, _j: int, _y_j: int, /) -> bool:
            return False

    base = ConceptScore(planted_classes(10, 2), 2)
    with pytest.raises(InputError, match="allows no labels"):
        await fold_search(
            Problem(10, 2, constraint=Never(((0, 1),)), start=np.zeros(10, dtype=np.int64)),
            base,
            Scripted([0.0] * 10),
            rng=np.random.default_rng(0),
            settings=FoldSettings(),
        )
    assert base.calls == []


@pytest.mark.parametrize("numbers", [{"folds": 1}, {"passes": 0}])
def test_numbers_that_nothing_can_be_done_with_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(InputError):
        FoldSettings(**numbers)  # type: ignore[arg-type]


async def test_the_same_seed_asks_the_same() -> None:
    classes = planted_classes(100, 2)
    calls = []
    for _ in range(2):
        train = Taught(classes, 2)
        await fold_search(
            Problem(100, 2),
            ConceptScore(classes, 2, meaning=1.0),
            train,
            rng=np.random.default_rng(6),
            settings=FoldSettings(),
        )
        calls.append([[(t.name, t.demos, tuple(t.targets)) for t in c] for c in train.calls])
    assert calls[0] == calls[1]


async def test_models_taught_too_little_agree_on_something_else_and_it_shows() -> None:
    classes = planted_classes(100, 2)
    found = await fold_search(
        Problem(100, 2, start=noisy(classes, 0.05)),
        ConceptScore(classes, 2, meaning=1.0),
        Taught(classes, 2),
        rng=np.random.default_rng(0),
        settings=FoldSettings(),
    )
    assert (found.labels == classes).mean() < 0.7
    assert found.history[-1].coherence > 0.25  # what the models say of each other
    assert found.coherence < 0.15
