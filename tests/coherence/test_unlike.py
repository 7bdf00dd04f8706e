"""Another concept: classes of known labels, levelled scores, and both axes of planted concepts."""

from collections.abc import Sequence

import numpy as np
import pytest

from icm_client.coherence import fast
from icm_client.coherence.calibration import label_bias, log_softmax
from icm_client.coherence.contexts import draw_demos
from icm_client.coherence.problem import UNLABELLED, Context, FloatArray, IntArray, Problem, Query
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.unlike import WithinClasses, classes_of


class TwoAxes:
    """A model that demos teach two ways to split the items; the words say nothing."""

    def __init__(
        self, axes: Sequence[IntArray], strengths: Sequence[float], noise: float, seed: int
    ) -> None:
        self._axes, self._strengths = axes, strengths
        self._own = np.random.default_rng(seed).uniform(-noise, noise, size=(len(axes[0]), 2))

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        return log_softmax(np.array([self._of(*query) for query in queries]))

    def _of(self, context: Context, target: int) -> FloatArray:
        scores: FloatArray = self._own[target].copy()
        if not context:
            return scores
        items, labels = np.array(context).T
        for axis, strength in zip(self._axes, self._strengths, strict=True):
            same = axis[items] == axis[target]
            for k in range(2):
                scores[k] += strength / 2 * np.where(same == (labels == k), 1, -1).mean()
        return scores


def follows(labels: IntArray, axis: IntArray) -> float:
    """The share that is right, whatever the names."""
    right = float((labels == axis).mean())
    return max(right, 1 - right)


async def search(problem: Problem, score: TwoAxes, seed: int) -> IntArray:
    rng = np.random.default_rng(seed)
    return (await fast.search(problem, score, settings=SweepSettings(), rng=rng)).labels


@pytest.mark.parametrize("seed", range(4))
async def test_both_axes_are_found_one_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = [rng.permutation(np.arange(96) % 2) for _ in range(2)]
    score = TwoAxes(axes, (3.0, 3.0), 1.0, seed)
    first = await search(Problem(96, 2), score, seed)
    second = await search(Problem(96, 2, unlike=classes_of([first])), score, seed)
    one, other = sorted(range(2), key=lambda number: -follows(first, axes[number]))
    assert follows(first, axes[one]) >= 0.95
    assert follows(second, axes[other]) >= 0.95


def test_classes_are_the_combinations_of_labels_by_hand() -> None:
    first = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    second = np.array([1, 1, 1, 1, 0, 0, 0, 0, UNLABELLED, 0])
    # Two combinations of four items each; the two that are rare count as one class.
    classes = classes_of([first, second])
    assert len(set(classes.tolist())) == 3
    assert len(set(classes[:4])) == len(set(classes[4:8])) == 1
    assert classes[8] == classes[9] not in (classes[0], classes[4])


async def test_scores_lean_alike_in_every_class_by_hand() -> None:
    raw = np.log([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])

    async def score(queries: Sequence[Query]) -> FloatArray:
        return raw[[query.target for query in queries]]

    levelled = await WithinClasses(score, np.array([0, 0, 1, 1]))(
        [Query((), item) for item in range(4)]
    )
    # All four: 0.55 and 0.45. The first class: 0.8 and 0.2; the second: 0.3 and 0.7.
    assert np.exp(levelled[0]) == pytest.approx([0.9 * 0.55 / 0.8, 0.1 * 0.45 / 0.2])
    assert np.exp(levelled[3]) == pytest.approx([0.4 * 0.55 / 0.3, 0.6 * 0.45 / 0.7])
    for items in ([0, 1], [2, 3], [0, 1, 2, 3]):
        assert label_bias(levelled[items]) == pytest.approx(label_bias(raw))


async def test_an_item_without_a_score_has_none() -> None:
    async def score(queries: Sequence[Query]) -> FloatArray:
        return np.array([[np.nan, np.nan], [-0.5, -1.0]])[[query.target for query in queries]]

    levelled = await WithinClasses(score, np.array([0, 0]))([Query((), 0), Query((), 1)])
    assert np.isnan(levelled[0]).all()
    assert levelled[1] == pytest.approx([-0.5, -1.0])


def test_demos_are_balanced_over_label_and_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 20)
    classes = np.array([0] * 30 + [1] * 10)
    everything = np.arange(40)
    context = draw_demos(
        labels,
        everything,
        np.zeros(40),
        size=16,
        keep=1.0,
        n_labels=2,
        rng=rng,
        classes=classes,
    )
    drawn = [(demo.label, int(classes[demo.item])) for demo in context]
    assert sorted(set(drawn)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(drawn.count(cell) == 4 for cell in set(drawn))


def test_a_class_without_one_of_the_labels_shows_no_demos() -> None:
    labels = np.array([0, 1, 0, 1, 1, 1])
    classes = np.array([0, 0, 0, 0, 1, 1])
    context = draw_demos(
        labels,
        np.arange(6),
        np.zeros(6),
        size=6,
        keep=1.0,
        n_labels=2,
        rng=np.random.default_rng(0),
        classes=classes,
    )
    assert {classes[demo.item] for demo in context} == {0}
