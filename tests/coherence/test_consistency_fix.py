"""Algorithm 2 by hand, over 4 items of which 0 and 1 are the two orders of one comparison."""

from unittest.mock import Mock

import numpy as np
from concept_score import ConceptScore, planted_classes

from icm_client.coherence.consistency_fix import Change, Evaluate, Fixed, consistency_fix
from icm_client.coherence.constraints import Asymmetry, AtMostOne, inconsistent_pairs
from icm_client.coherence.objective import LeaveOneOut, inconsistency, utility
from icm_client.coherence.problem import UNLABELLED, Constraint, FloatArray, IntArray, Problem

ORDERS = Asymmetry(((0, 1),), true=1, false=0)
LOG_PROBS = np.array([[-2.0, -0.5], [-0.6, -1.0], [-0.25, -1.5], [-1.0, -0.75]])


def table(
    log_probs: FloatArray, constraint: Constraint, alpha: float, asked: list[list[int]]
) -> Evaluate:
    """`U` where log-probs do not depend on the context; notes each labelling asked for."""

    async def evaluate(labels: IntArray) -> float:
        asked.append(labels.tolist())
        there = np.flatnonzero(labels != UNLABELLED)
        P = float(log_probs[there, labels[there]].sum())  # noqa: N806
        return utility(alpha, P, inconsistency(labels, constraint))

    return evaluate


async def fix(
    labels: list[int],
    log_probs: FloatArray = LOG_PROBS,
    *,
    constraint: Constraint = ORDERS,
    alpha: float = 1.0,
    M: int = 10,  # noqa: N803
    pairs: list[int] | None = None,
    asked: list[list[int]] | None = None,
) -> Fixed:
    """Run with scripted draws of the pair."""
    chance = Mock(spec=np.random.Generator)
    chance.integers.side_effect = [0] * M if pairs is None else pairs
    evaluate = table(log_probs, constraint, alpha, [] if asked is None else asked)
    return await consistency_fix(
        np.array(labels), Problem(len(labels), 2, constraint), evaluate, M=M, rng=chance
    )


async def test_the_consistent_pair_of_highest_utility_is_taken() -> None:
    # D = (1, 1): U = -0.5 - 1.0 - 2 = -3.5 (one pair, counted twice).
    # (0, 1): U = -2.0 - 1.0 = -3.0; (1, 0): U = -0.5 - 0.6 = -1.1, the highest, over -3.5.
    asked: list[list[int]] = []
    found = await fix([1, 1, UNLABELLED, UNLABELLED], asked=asked)
    assert found.labels.tolist() == [1, 0, UNLABELLED, UNLABELLED]
    assert found.changes == (Change(1, before=1, after=0),)
    assert sorted(asked) == [[0, 1, -1, -1], [1, 0, -1, -1], [1, 1, -1, -1]]  # (0, 0): c = 1


async def test_two_that_are_both_false_are_healed_as_well() -> None:
    # The other contradiction, (0, 0):
    # U = -2.0 - 0.6 - 2 = -4.6; (0, 1): -3.0; (1, 0): -1.1.
    found = await fix([0, 0, UNLABELLED, UNLABELLED])
    assert found.changes == (Change(0, before=0, after=1),)


async def test_a_way_out_of_lower_utility_is_not_taken() -> None:
    # alpha = 10, log P(0 | x_1) = -3: D = (1, 1): U = 10 * (-0.5 - 1.0) - 2 = -17.
    # (0, 1): 10 * (-2 - 1) = -30; (1, 0): 10 * (-0.5 - 3) = -35. The contradiction stays.
    log_probs = LOG_PROBS.copy()
    log_probs[1, 0] = -3.0
    found = await fix([1, 1, UNLABELLED, UNLABELLED], log_probs, alpha=10.0)
    assert found.labels.tolist() == [1, 1, UNLABELLED, UNLABELLED]
    assert found.changes == ()


async def test_a_way_out_of_equal_utility_is_not_taken() -> None:
    # D = (1, 1): U = -0.5 - 1.0 - 2 = -3.5. (1, 0): -0.5 - 3.0 = -3.5, not strictly higher;
    # (0, 1): -4 - 1 = -5.
    log_probs = np.array([[-4.0, -0.5], [-3.0, -1.0]])
    assert (await fix([1, 1], log_probs)).labels.tolist() == [1, 1]


async def test_of_equal_ways_out_the_first_is_taken() -> None:
    # (0, 1) and (1, 0): both -1 - 1 = -2, over D = (1, 1) with -2 - 2 = -4.
    assert (await fix([1, 1], np.full((2, 2), -1.0))).labels.tolist() == [0, 1]


async def test_without_contradiction_nothing_is_asked() -> None:
    asked: list[list[int]] = []
    found = await fix([1, 0, 0, UNLABELLED], asked=asked)
    assert found.changes == ()
    assert found.labels.tolist() == [1, 0, 0, UNLABELLED]
    assert asked == []


async def test_pairs_are_sampled_until_none_is_left() -> None:
    # log P(1) = -1 each, log P(0): -0.1, -0.2, -0.3. All three true: pairs (0, 1), (0, 2), (1, 2).
    # Draw 1: (0, 2). With item 1 true, and each pair of two that are true counted twice:
    #   (0, 0): -0.1 - 1 - 0.3 = -1.4
    #   (0, 1): -0.1 - 1 - 1 - 2 = -4.1
    #   (1, 0): -1 - 1 - 0.3 - 2 = -4.3
    # Both of the pair change; I = 0 and the second draw is never made.
    log_probs = np.array([[-0.1, -1.0], [-0.2, -1.0], [-0.3, -1.0]])
    rule = AtMostOne(((0, 1, 2),), true=1)
    found = await fix([1, 1, 1], log_probs, constraint=rule, pairs=[1])
    assert found.labels.tolist() == [0, 1, 0]
    assert found.changes == (Change(0, 1, 0), Change(2, 1, 0))


async def test_at_most_m_pairs_are_tried() -> None:
    # Two comparisons, both contradictory, each healed by one try.
    rule = Asymmetry(((0, 1), (2, 3)), true=1, false=0)
    once = await fix([1, 1, 1, 1], constraint=rule, M=1)
    assert inconsistent_pairs(once.labels, rule) == [(2, 3)]
    twice = await fix([1, 1, 1, 1], constraint=rule, M=2)
    assert inconsistent_pairs(twice.labels, rule) == []
    assert (await fix([1, 1, 1, 1], constraint=rule, M=0)).changes == ()


async def test_a_rule_that_allows_nothing_ends() -> None:
    class Never(Constraint):
        groups = ((0, 1),)

        def consistent(self, _i: int, _y_i: int, _j: int, _y_j: int, /) -> bool:
            return False

    assert (await fix([1, 1, 0, 0], constraint=Never())).labels.tolist() == [1, 1, 0, 0]


async def test_the_labels_given_are_left_as_they_are() -> None:
    labels = np.array([1, 1, UNLABELLED, UNLABELLED])
    evaluate = table(LOG_PROBS, ORDERS, 1.0, [])
    rng = np.random.default_rng(0)
    await consistency_fix(labels, Problem(4, 2, ORDERS), evaluate, M=10, rng=rng)
    assert labels.tolist() == [1, 1, UNLABELLED, UNLABELLED]


async def test_utility_never_falls_over_a_whole_fix() -> None:
    classes = planted_classes(12, 2)
    score = ConceptScore(classes, 2)
    rule = AtMostOne(((0, 1, 2, 3), (4, 5, 6), (7, 8)), true=1)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        P = LeaveOneOut(score, rng.permutation(12), "tree", None)  # noqa: N806

        async def evaluate(labels: IntArray, P: LeaveOneOut = P) -> float:  # noqa: N803
            return utility(1.0, await P(labels), inconsistency(labels, rule))

        labels = rng.integers(2, size=12)
        found = await consistency_fix(labels, Problem(12, 2, rule), evaluate, M=20, rng=rng)
        assert await evaluate(found.labels) >= await evaluate(labels)
