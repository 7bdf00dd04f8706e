"""What every preset must keep: rules hold at the end, and there may be more than two labels."""

from collections.abc import Callable
from functools import partial

import anyio
import numpy as np
import pytest
from concept_score import ConceptScore, agreement, planted_classes
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.constraints import (
    AllOf,
    Asymmetry,
    ExactlyOne,
    Implication,
    MutualExclusion,
    SameAnswer,
    inconsistent_pairs,
)
from icm_client.coherence.decode import anneal_search
from icm_client.coherence.fast import search
from icm_client.coherence.leave_one_out import Layout
from icm_client.coherence.problem import Constraint, IntArray, Problem
from icm_client.coherence.result import SearchResult
from icm_client.coherence.settings import SweepSettings

Preset = Callable[[int, int, ConceptScore, int, Constraint], SearchResult]


def fast(n: int, n_labels: int, score: ConceptScore, seed: int, rule: Constraint) -> SearchResult:
    chosen = SweepSettings(restarts=1)
    rng = np.random.default_rng(seed)
    return anyio.run(partial(search, Problem(n, n_labels, rule), score, rng=rng, settings=chosen))


def annealed(
    n: int,
    n_labels: int,
    score: ConceptScore,
    seed: int,
    rule: Constraint,
    *,
    chosen: AnnealSettings | OfficialSettings,
) -> SearchResult:
    rng = np.random.default_rng(seed)
    return anyio.run(
        partial(anneal_search, Problem(n, n_labels, rule), score, rng=rng, settings=chosen)
    )


PRESETS: dict[str, Preset] = {
    "fast": fast,
    "paper": partial(annealed, chosen=AnnealSettings(iterations=40)),
    "official": partial(annealed, chosen=OfficialSettings(iterations=40)),
}


def pairs(n: int) -> Asymmetry:
    return Asymmetry(tuple((i, i + 1) for i in range(0, n - 1, 2)), true=1, false=0)


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=15)
@given(
    classes=st.lists(st.integers(0, 1), min_size=4, max_size=24).map(np.array),
    noise=st.floats(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_orders_of_a_comparison_end_opposite(
    preset: str, classes: IntArray, noise: float, seed: int
) -> None:
    # The classes themselves break the rule as often as not: no concept helps to keep it.
    rule = pairs(len(classes))
    score = ConceptScore(classes, 2, meaning=0.5, noise=noise)
    result = PRESETS[preset](len(classes), 2, score, seed, rule)
    for i, j in rule.groups:
        assert {int(result.labels[i]), int(result.labels[j])} == {0, 1}


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=15)
@given(
    keys=st.lists(st.integers(0, 2), min_size=8, max_size=24),
    n_labels=st.integers(2, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_question_ends_with_two_different_true_answers(
    preset: str, keys: list[int], n_labels: int, seed: int
) -> None:
    n = len(keys)
    groups = tuple(tuple(range(i, min(i + 4, n))) for i in range(0, n, 4))
    rule = MutualExclusion(groups, tuple(keys), true=1)
    score = ConceptScore(planted_classes(n, n_labels), n_labels, meaning=1.0)
    result = PRESETS[preset](n, n_labels, score, seed, rule)
    for group in groups:
        assert len({keys[i] for i in group if result.labels[i] == 1}) <= 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(3))
def test_rules_on_larger_groups_hold(preset: str, seed: int) -> None:
    groups = tuple(tuple(range(i, i + 4)) for i in range(0, 24, 4))
    rules: list[Constraint] = [
        ExactlyOne(groups, true=1),
        SameAnswer(groups),
        Implication(frozenset({(i, i + 1) for i in range(23) if i % 6 != 5}), true=1),
        # Of four answers to a question two are the same: of the others one is true, or these two.
        AllOf(
            (
                MutualExclusion(groups, tuple(i % 4 % 3 for i in range(24)), true=1),
                SameAnswer(tuple((i, i + 3) for i in range(0, 24, 4))),
            )
        ),
    ]
    for rule in rules:
        score = ConceptScore(planted_classes(24, 2), 2, meaning=1.0)
        result = PRESETS[preset](24, 2, score, seed, rule)
        assert inconsistent_pairs(result.labels, rule) == []
        for group in rule.groups:
            assert rule.allows(group, result.labels[list(group)].tolist())


@pytest.mark.parametrize("layout", ["tree", "fixed", "folds"])
@pytest.mark.parametrize("seed", range(2))
def test_rules_hold_in_batches_and_all_layouts(layout: Layout, seed: int) -> None:
    for chosen in (
        AnnealSettings(iterations=40, layout=layout, batch=10, max_demos=6),
        OfficialSettings(iterations=40, layout=layout, batch=10, max_demos=6),
    ):
        score = ConceptScore(planted_classes(24, 2), 2, meaning=1.0)
        result = annealed(24, 2, score, seed, pairs(24), chosen=chosen)
        assert inconsistent_pairs(result.labels, pairs(24)) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_a_comparison_is_found_up_to_names(preset: str) -> None:
    classes = np.tile([0, 1, 1, 0], 6)
    for seed in range(3):
        score = ConceptScore(classes, 2, meaning=1.5)
        result = PRESETS[preset](24, 2, score, seed, pairs(24))
        assert agreement(result.labels, classes, 2) > 0.9


FIVE: dict[str, Preset] = {
    "fast": fast,
    "paper": partial(annealed, chosen=AnnealSettings(iterations=200)),
    "official": partial(annealed, chosen=OfficialSettings(iterations=200)),
}


@pytest.mark.parametrize("preset", FIVE)
def test_five_labels_are_found(preset: str) -> None:
    n = 50
    classes = planted_classes(n, 5)
    score = ConceptScore(classes, 5, meaning=2.0)
    result = FIVE[preset](n, 5, score, 0, SameAnswer(()))
    assert result.log_probs.shape == (n, 5)
    assert set(result.labels.tolist()) == set(range(5))
    assert agreement(result.labels, classes, 5) > 0.9
    assert result.coherence > 0.25


@pytest.mark.parametrize("preset", FIVE)
def test_five_labels_keep_a_rule(preset: str) -> None:
    n = 40
    groups = tuple(tuple(range(i, i + 3)) for i in range(0, 36, 3))
    rule = MutualExclusion(groups, tuple(range(n)), true=4)
    score = ConceptScore(planted_classes(n, 5), 5, meaning=2.0)
    result = FIVE[preset](n, 5, score, 1, rule)
    for group in groups:
        assert (result.labels[list(group)] == 4).sum() <= 1
