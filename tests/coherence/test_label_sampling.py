"""The samplers of `scripts/bench sampling`, where every labelling can be counted."""

import random
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from icm_client.coherence.calibration import log_softmax, pointwise_mutual_information
from icm_client.coherence.problem import Demo, FloatArray, IntArray, Query

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from bench_sampling import PlantedItems, gibbs, marginals, metropolis, weight_by_coherence

STATES = list(product(range(2), repeat=3))


class ThreeItems:
    """Two of them agree with each other, and the third with nobody."""

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        rows = []
        for query in queries:
            held = dict(query.context)
            follows = {0: 1, 1: 0}.get(query.target)
            log_odds = 0.3 * query.target - 0.2
            if follows in held:
                log_odds += 2 * held[follows] - 1
            rows.append([0.0, log_odds])
        return log_softmax(np.array(rows))


async def test_labels_are_sampled_in_proportion_to_their_coherence() -> None:
    weight = weight_by_coherence(ThreeItems(), np.arange(3), beta=1.5)
    weights = np.exp([await weight(np.array(state)) for state in STATES])
    assert weights.max() > 3 * weights.min()  # else any sampler would pass
    steps = 40_000
    samples = await metropolis(np.array([0, 1, 0]), weight, 2, steps, random.Random(0))
    met = [tuple(labels.tolist()) for labels in samples]
    counts = Counter(met)
    found = [counts[state] / steps for state in STATES]
    np.testing.assert_allclose(found, weights / weights.sum(), atol=0.01)
    # Detailed balance: as often from one labelling to another as back.
    flows = Counter(pairwise(met))
    for (one, other), times in flows.items():
        assert times == pytest.approx(flows[other, one], abs=4 * np.sqrt(times) + 4)
        assert sum(a != b for a, b in zip(one, other, strict=True)) <= 1


async def test_where_demos_teach_nothing_each_item_follows_its_calibrated_score() -> None:
    read = log_softmax(np.array([[0.0, 1.0], [0.5, -1.0], [0.0, 0.2], [2.0, 0.0]]))

    async def score(queries: Sequence[Query]) -> FloatArray:
        targets: IntArray = np.array([query.target for query in queries])
        assert {demo.item for demo in queries[0].context}.isdisjoint(targets.tolist())
        return read[targets]

    samples = await gibbs(
        np.zeros(4, dtype=np.int64),
        score,
        beta=1.0,
        demos=2,
        sweeps=8_000,
        rng=np.random.default_rng(0),
    )
    # An item is read with each of the three others equally often.
    beside = [
        [
            np.exp(log_softmax(pointwise_mutual_information(read[[item, other]])))[0]
            for other in range(4)
            if other != item
        ]
        for item in range(4)
    ]
    np.testing.assert_allclose(marginals(samples, 2), np.mean(beside, axis=1), atol=0.02)


async def test_the_planted_posterior_is_right_as_often_as_it_says() -> None:
    items = PlantedItems(20_000, 1.2, 0.5, np.random.default_rng(0))
    sure = items.posterior.max(axis=1)
    right = items.posterior.argmax(axis=1) == items.classes
    assert right.mean() == pytest.approx(0.885, abs=0.01)
    assert sure.mean() == pytest.approx(right.mean(), abs=0.01)
    # All demos labelled by what they show: the model says half the log-odds, as its scale has it.
    labels = items.posterior.argmax(axis=1)
    context = tuple(Demo(item, int(labels[item])) for item in range(1, 9))
    read = await items([Query(context, 0)])
    posterior = np.log(items.posterior[0])
    assert read[0, 1] - read[0, 0] == pytest.approx((posterior[1] - posterior[0]) / 2)
