from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.constraints import (
    AllOf,
    Asymmetry,
    AtMostOne,
    ExactlyOne,
    Implication,
    MutualExclusion,
    SameAnswer,
    groups_by_key,
    inconsistent_pairs,
)
from icm_client.coherence.problem import (
    UNLABELLED,
    Constraint,
    IntArray,
    NoConstraint,
    check_groups,
)
from icm_client.errors import InputError

FALSE, TRUE, TIE = 0, 1, 2

RULES: list[Constraint] = [
    NoConstraint(),
    Asymmetry(((0, 1), (2, 3)), TRUE, FALSE),
    MutualExclusion(((0, 1, 2), (3, 4)), ("4", "5", "4", "x", "y", "z"), TRUE),
    SameAnswer(((0, 2), (3, 4, 5))),
    AtMostOne(((0, 1, 2, 3), (4, 5)), TRUE),
    ExactlyOne(((0, 1, 2, 3), (4, 5)), TRUE),
    Implication(frozenset({(0, 1), (1, 2), (4, 3)}), TRUE),
    AllOf(
        (
            MutualExclusion(((0, 1, 2), (3, 4)), ("4", "5", "4", "x", "y", "z"), TRUE),
            SameAnswer(((0, 2), (4, 5))),
        )
    ),
]


def broken(rule: Constraint, *labels: int) -> list[tuple[int, int]]:
    return inconsistent_pairs(np.array(labels), rule)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_is_symmetric(rule: Constraint) -> None:
    for group in rule.groups:
        for i, j, y_i, y_j in product(group, group, range(3), range(3)):
            if i != j:
                assert rule.consistent(i, y_i, j, y_j) == rule.consistent(j, y_j, i, y_i)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@given(labels=st.lists(st.integers(UNLABELLED, 2), min_size=6, max_size=6).map(np.array))
def test_pairs_are_those_that_a_search_over_all_pairs_finds(
    rule: Constraint, labels: IntArray
) -> None:
    group_of = {item: group for group in rule.groups for item in group}
    wanted = {
        (i, j)
        for i in range(6)
        for j in range(i + 1, 6)
        if i in group_of and group_of[i] == group_of.get(j)
        if UNLABELLED not in (labels[i], labels[j])
        if not rule.consistent(i, int(labels[i]), j, int(labels[j]))
    }
    found = inconsistent_pairs(labels, rule)
    assert {(min(pair), max(pair)) for pair in found} == wanted
    assert len(found) == len(wanted)


def test_only_items_of_one_group_are_compared() -> None:
    class Counting(Constraint):
        groups = tuple((3 * g, 3 * g + 1, 3 * g + 2) for g in range(1000))
        asked = 0

        def consistent(self, _i: int, _y_i: int, _j: int, _y_j: int, /) -> bool:
            self.asked += 1
            return True

    rule = Counting()
    assert inconsistent_pairs(np.zeros(3000, dtype=np.int64), rule) == []
    assert rule.asked == 3000  # 3 pairs a group, not 4.5 million


def test_without_rules_nothing_contradicts_itself() -> None:
    assert NoConstraint().consistent(0, TRUE, 1, TRUE)
    assert broken(NoConstraint(), TRUE, TRUE) == []


def test_both_orders_of_a_comparison_must_end_opposite() -> None:
    rule = Asymmetry(((0, 1), (3, 2)), TRUE, FALSE)
    assert broken(rule, TRUE, FALSE, TRUE, FALSE) == []
    assert broken(rule, TRUE, TRUE, FALSE, FALSE) == [(0, 1), (3, 2)]
    assert broken(rule, TRUE, UNLABELLED, TRUE, TRUE) == [(3, 2)]


def test_a_tie_is_a_tie_in_both_orders() -> None:
    rule = Asymmetry(((0, 1), (2, 3)), TRUE, FALSE)
    assert broken(rule, TIE, TIE, TIE, FALSE) == [(2, 3)]


def test_different_answers_cannot_both_be_true() -> None:
    rule = MutualExclusion(((0, 1, 2), (3, 4)), ("4", "5", "4", "9", "8"), TRUE)
    assert broken(rule, TRUE, TRUE, TRUE, FALSE, FALSE) == [(0, 1), (1, 2)]  # 0 and 2 both say 4
    assert broken(rule, TRUE, FALSE, TRUE, TRUE, FALSE) == []
    assert broken(rule, FALSE, FALSE, FALSE, FALSE, FALSE) == []  # none need be true


def test_the_same_answer_has_the_same_label() -> None:
    rule = SameAnswer(groups_by_key(["a", "b", "a", None, "b", None, "c"]))
    assert rule.groups == ((0, 2), (1, 4))
    assert broken(rule, TRUE, FALSE, FALSE, TRUE, FALSE, FALSE, TRUE) == [(0, 2)]


def test_at_most_one_is_true() -> None:
    rule = AtMostOne(((0, 1, 2), (3, 4)), TRUE)
    assert broken(rule, TRUE, TRUE, TRUE, TRUE, FALSE) == [(0, 1), (0, 2), (1, 2)]
    assert broken(rule, FALSE, FALSE, FALSE, TRUE, FALSE) == []


def test_exactly_one_is_true() -> None:
    rule = ExactlyOne(((0, 1, 2), (3, 4)), TRUE)
    assert broken(rule, TRUE, TRUE, FALSE, TRUE, TRUE) == [(0, 1), (3, 4)]
    assert broken(rule, TIE, TRUE, FALSE, TIE, TRUE) == []
    # That none is true shows in a group of two only; of three, any two may be false.
    assert broken(rule, FALSE, TIE, FALSE, FALSE, TIE) == [(3, 4)]


def test_none_of_a_whole_group_true_is_not_allowed() -> None:
    rule = ExactlyOne(((0, 1, 2), (3, 4)), TRUE)
    assert not rule.allows((0, 1, 2), (FALSE, TIE, FALSE))
    assert not rule.allows((0, 1, 2), (FALSE, TRUE, TRUE))
    assert rule.allows((0, 1, 2), (FALSE, TRUE, FALSE))
    assert rule.allows((0, 1), (FALSE, FALSE))  # it may be item 2
    assert not rule.allows((0, 1), (TRUE, TRUE))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_what_is_allowed_to_a_group_is_consistent_in_all_pairs(rule: Constraint) -> None:
    for group in rule.groups:
        for labels in product(range(3), repeat=len(group)):
            whole = np.full(6, UNLABELLED)
            whole[list(group)] = labels
            allowed = rule.allows(group, labels)
            if isinstance(rule, ExactlyOne):
                assert allowed == (labels.count(TRUE) == 1)
            else:
                assert allowed == (inconsistent_pairs(whole, rule) == [])
            assert not allowed or inconsistent_pairs(whole, rule) == []


def test_several_rules_hold_where_each_of_them_speaks() -> None:
    # Of one question: items 0 and 2 answer 4, item 1 answers 5; item 3 says the same as item 1.
    question = MutualExclusion(((0, 1, 2),), ("4", "5", "4", "x"), TRUE)
    rule = AllOf((question, SameAnswer(((0, 2), (1, 3)))))
    assert rule.groups == ((0, 1, 2, 3),)
    assert broken(rule, TRUE, FALSE, TRUE, FALSE) == []
    assert broken(rule, TRUE, TRUE, TRUE, TRUE) == [(0, 1), (1, 2)]
    assert broken(rule, TRUE, FALSE, FALSE, TRUE) == [(0, 2), (1, 3)]
    assert broken(rule, FALSE, FALSE, FALSE, FALSE) == []
    # Items 0 and 3 stand in one group, but no rule relates them.
    assert rule.relating(0, 3) == ()
    assert rule.consistent(0, TRUE, 3, TRUE)


def test_of_several_rules_each_speaks_of_its_whole_groups() -> None:
    # One of three is true, and the third and fourth are alike; item 5 alone must be true.
    rule = AllOf((ExactlyOne(((0, 1, 2), (5,)), TRUE), SameAnswer(((2, 3),))))
    assert rule.groups == ((0, 1, 2, 3), (5,))
    assert rule.allows((0, 1, 2, 3), (FALSE, FALSE, TRUE, TRUE))
    assert rule.allows((0, 1, 2, 3), (TRUE, FALSE, FALSE, FALSE))
    assert not rule.allows((0, 1, 2, 3), (FALSE, FALSE, FALSE, FALSE))  # none is true
    assert not rule.allows((0, 1, 2, 3), (TRUE, FALSE, FALSE, TRUE))
    assert rule.allows((0, 1, 3), (FALSE, FALSE, TRUE))  # it may be item 2
    assert not rule.allows((5,), (FALSE,))


def test_what_follows_from_a_true_item_is_true() -> None:
    rule = Implication(frozenset({(0, 1), (2, 1), (4, 3)}), TRUE)
    assert rule.groups == ((0, 1, 2), (3, 4))
    assert broken(rule, TRUE, FALSE, TRUE, TRUE, FALSE) == [(0, 1), (1, 2)]
    assert broken(rule, FALSE, TRUE, TRUE, FALSE, TRUE) == [(3, 4)]
    assert broken(rule, TRUE, TRUE, FALSE, TRUE, TRUE) == []  # 0 and 2 imply nothing of each other


def test_chains_of_implications_are_one_group() -> None:
    links = frozenset({(0, 1), (2, 3), (1, 2), (5, 6), (4, 6)})
    assert Implication(links, TRUE).groups == ((0, 1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Asymmetry(((0, 1), (1, 2)), TRUE, FALSE),
        lambda: Asymmetry(((0, 0),), TRUE, FALSE),
        lambda: MutualExclusion(((0, 1), (2, 1)), ("a", "b", "c"), TRUE),
        lambda: SameAnswer(((0, 1, 0),)),
        lambda: AtMostOne(((0, 1), (1, 2)), TRUE),
        lambda: ExactlyOne(((0, 1), (1, 2)), TRUE),
        lambda: Implication(frozenset({(3, 3)}), TRUE),
    ],
)
def test_an_item_in_two_groups_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(InputError, match="twice"):
        make()


def test_labels_that_are_no_two_labels_are_refused() -> None:
    for true, false in ((0, 0), (UNLABELLED, 0)):
        with pytest.raises(InputError, match="different labels"):
            Asymmetry(((0, 1),), true, false)
    with pytest.raises(InputError, match="different labels"):
        AtMostOne(((0, 1),), UNLABELLED)


def test_items_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="item 3, but there are 3 items"):
        MutualExclusion(((0, 3),), ("a", "b", "c"), TRUE)
    with pytest.raises(InputError, match="item -1"):
        SameAnswer(((0, -1),))
    with pytest.raises(InputError, match="item 9"):
        check_groups(AtMostOne(((0, 9),), TRUE).groups, 9)
    check_groups((), 0)
