"""A probe tells concepts from noise, and sees nothing that it must not see."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.problem import FloatArray, Query
from icm_client.coherence.settings import SweepSettings
from icm_client.errors import InputError
from icm_client.experiments.salience import (
    FEWEST,
    MOST,
    SHARE,
    STEPS,
    Features,
    Readings,
    Salience,
    judge,
    log_odds_of,
    read_salience,
    rows_read,
    sample,
    sample_size,
)
from icm_client.testing import PlantedConcept

N = 24


class ConceptScore:
    """A planted concept asked without tokens, remembering what was asked."""

    def __init__(self, *, strength: float, meaning: float, noise: float, seed: int = 0) -> None:
        self.classes = np.random.default_rng(seed).permutation(np.arange(N) % 2)
        self.prompts = [f"item {number}:" for number in range(N)]
        planted = dict(zip(self.prompts, self.classes.tolist(), strict=True))
        self.concept = PlantedConcept(
            planted, (" a", " b"), strength=strength, meaning=meaning, noise=noise, seed=seed
        )
        self.asked: list[Query] = []

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        self.asked += queries
        return np.array(
            [
                self.concept.label_log_probs(
                    [(self.prompts[item], label) for item, label in query.context],
                    self.prompts[query.target],
                )
                for query in queries
            ]
        )


async def probed(score: ConceptScore, seed: int = 0) -> Readings:
    return await read_salience(N, score, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
async def test_a_concept_with_words_is_likely_and_noise_alone_is_unlikely(seed: int) -> None:
    plain = judge(await probed(ConceptScore(strength=3.0, meaning=1.0, noise=0.5, seed=seed), seed))
    noise = judge(await probed(ConceptScore(strength=0.0, meaning=0.0, noise=1.5, seed=seed), seed))
    assert plain.verdict == "likely"
    assert noise.verdict == "unlikely"
    assert noise.features.first < 0.01


@pytest.mark.parametrize("seed", range(5))
async def test_the_axis_is_found_where_the_words_say_nothing(seed: int) -> None:
    score = ConceptScore(strength=3.0, meaning=0.0, noise=0.5, seed=seed)
    readings = await probed(score, seed)
    classes = 1 - 2 * score.classes
    first, second = readings.steps
    for half, other in (readings.halves, readings.halves[::-1]):
        if (first.labels * classes)[other].sum() == 0:  # no axis is shown: nothing can move
            continue
        evenly = 1 - abs(classes[half].sum()) / len(half)  # the most that an even split agrees
        assert abs((second.labels * classes)[half].mean()) == pytest.approx(evenly)


async def test_what_rows_say_by_themselves_pulls_nothing() -> None:
    score = ConceptScore(strength=0.0, meaning=3.0, noise=0.0)
    found = judge(await probed(score)).features
    assert found.first < 0.01
    assert found.second < 0.01
    assert abs(found.words) < 0.01


async def test_contexts_are_balanced_and_never_hold_their_target() -> None:
    score = ConceptScore(strength=1.0, meaning=1.0, noise=1.0)
    await probed(score)
    assert sum(len(query.context) > 0 for query in score.asked) == STEPS * 2 * N
    for query in score.asked:
        assert query.target not in {demo.item for demo in query.context}
        assert 2 * sum(demo.label for demo in query.context) == len(query.context)
    contexts = {query.context for query in score.asked} - {()}
    targets = len(score.asked)
    assert targets + sum(map(len, contexts)) == rows_read(N)


async def test_each_context_is_read_with_its_labels_exchanged_and_nothing_else_changed() -> None:
    score = ConceptScore(strength=1.0, meaning=1.0, noise=1.0)
    await probed(score)
    asked = {(query.context, query.target) for query in score.asked if query.context}
    for context, target in asked:
        exchanged = tuple(demo._replace(label=1 - demo.label) for demo in context)
        assert (exchanged, target) in asked


async def test_the_names_of_the_labels_do_not_matter() -> None:
    score = ConceptScore(strength=2.0, meaning=1.0, noise=1.0)

    async def renamed(queries: Sequence[Query]) -> FloatArray:
        turned = [
            Query(tuple(d._replace(label=1 - d.label) for d in query.context), query.target)
            for query in queries
        ]
        return (await score(turned))[:, ::-1]

    found = judge(await probed(score))
    other = judge(await read_salience(N, renamed, rng=np.random.default_rng(0)))
    assert other.score == pytest.approx(found.score)


async def test_words_are_measured_in_what_shuffled_labels_give() -> None:
    rng = np.random.default_rng(0)
    values = []
    for seed in range(40):

        async def noise(queries: Sequence[Query]) -> FloatArray:
            return -1 - rng.random((len(queries), 2)) * 3

        values.append(judge(await read_salience(N, noise, rng=np.random.default_rng(seed))))
    words = [found.features.words for found in values]
    assert 0.6 < np.std(words) < 1.5
    assert abs(np.mean(words)) < 0.6
    assert sum(found.verdict == "likely" for found in values) <= 5


async def test_score_and_interval_are_of_one_piece() -> None:
    readings = await probed(ConceptScore(strength=1.0, meaning=0.5, noise=1.0))
    found = judge(readings)
    low, high = found.interval
    assert 0 <= low < found.score < high <= 1
    assert judge(readings) == found
    assert found.summary()["score"] == found.score
    assert f"{found.score:.2f}, {low:.2f} to {high:.2f}" in found.sentence()


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.7, "likely"), (0.69, "unclear"), (0.31, "unclear"), (0.3, "unlikely")]
)
def test_verdicts(score: float, verdict: str) -> None:
    assert Salience(score, (0.0, 1.0), Features(0.5, 0.5, 0.0)).verdict == verdict


def test_more_pull_and_better_words_never_lower_the_score() -> None:
    middle = log_odds_of(Features(0.5, 0.5, 1.0))
    assert log_odds_of(Features(1.0, 0.5, 1.0)) > middle
    assert log_odds_of(Features(0.5, 1.0, 1.0)) > middle
    assert log_odds_of(Features(0.5, 0.5, 2.0)) > middle


@given(st.integers(FEWEST, 200_000))
def test_a_sample_over_the_fewest_takes_at_most_its_share(n_rows: int) -> None:
    size = sample_size(n_rows, n_rows)
    assert FEWEST <= size <= MOST
    usual = SweepSettings()
    run = (usual.averaged + 1 / usual.folds) * (usual.folds * min(usual.demos, n_rows) + n_rows)
    assert size == FEWEST or rows_read(size) <= SHARE * run


def test_a_sample_is_seeded_and_too_few_rows_are_refused() -> None:
    items = np.arange(0, 200, 2)
    assert sample(items, 24, 1) == sample(items, 24, 1) != sample(items, 24, 2)
    assert set(sample(items, 24, 1)) <= set(items.tolist())
    with pytest.raises(InputError, match="23 rows are too few for a probe, which reads 24"):
        sample_size(23, 23)
