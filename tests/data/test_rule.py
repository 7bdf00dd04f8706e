import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.coherence.constraints import AllOf, Asymmetry, MutualExclusion
from icm_client.coherence.problem import Constraint, NoConstraint
from icm_client.data import Dataset, Task, read_rows, rows_from
from icm_client.data.constraint_spec import KINDS, ConstraintSpec, rules_of
from icm_client.data.items import items_of
from icm_client.data.rule import build_constraint, idle_rules, rule_notices
from icm_client.errors import RowError, TaskError

# Sorted, "False" is 0 and "True" is 1, though the task names "True" first.
FALSE, TRUE = 0, 1
_numbers = count()


def a_task(**constraint: object) -> Task:
    described = {"template": "{text}", "labels": ["True", "False"], "constraint": constraint}
    return Task.model_validate(described)


def built(task: Task, dataset: Dataset) -> Constraint:
    return build_constraint(task, dataset, items_of(task, dataset))


def rule_on(rows: Sequence[Mapping[str, object]], **constraint: object) -> Constraint:
    numbered = [{"text": f"row {number}", **row} for number, row in enumerate(rows, start=1)]
    return built(a_task(**constraint), rows_from(numbered))


def warnings(task: Task, rows: list[dict[str, object]]) -> tuple[str, ...]:
    dataset = rows_from(rows)
    return idle_rules(task, build_constraint(task, dataset, items_of(task, dataset)))


def notices(task: Task, rows: list[dict[str, object]]) -> tuple[str, ...]:
    dataset = rows_from(rows)
    items = items_of(task, dataset)
    return rule_notices(task, build_constraint(task, dataset, items), dataset, items)


def allowed(rule: Constraint, i: int = 0, j: int = 1, n_labels: int = 2) -> set[tuple[int, int]]:
    numbers = range(n_labels)
    return {(a, b) for a in numbers for b in numbers if rule.consistent(i, a, j, b)}


# descriptions


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ({"kind": "mutual-exclusoin"}, "Did you mean 'mutual-exclusion'?"),
        ({"kind": "mutual-exclusoin"}, "there are 'none', 'asymmetry', 'mutual-exclusion', "),
        ({}, "`kind` is missing: a constraint needs a kind"),
        ({"kind": "none", "gruop": "q"}, "no setting is called 'gruop'. Did you mean 'group'?"),
        ({"kind": "none", "group": "q"}, "'none' takes no `group`; it takes no settings"),
        ({"kind": "same-answer"}, "'same-answer' needs `group`: the field, or fields, whose"),
        ({"kind": "mutual-exclusion", "group": "q"}, "needs `answer`: the field with the answer"),
        ({"kind": "implication"}, "needs `implies`: the field with the ids"),
        ({"kind": "implication", "implies": "i", "group": "q"}, "takes no `group`; it takes `impl"),
        ({"kind": "rules:f"}, "'rules:f' needs `group`"),
        ({"kind": "rules:"}, "is no 'module:function'"),
        ({"kind": "rules.py:f g"}, "is no 'module:function'"),
        ({"kind": "at-most-one", "group": ["q", "q"]}, "`group` names a field twice"),
        ({"kind": "at-most-one", "group": 3}, "`group` should be a valid list, not 3"),
        ({"kind": "at-most-one", "group": "q", "false": "False"}, "takes no `false`"),
    ],
)
def test_a_constraint_that_makes_no_sense_is_refused(
    constraint: dict[str, object], said: str
) -> None:
    for make in (ConstraintSpec.model_validate, lambda described: a_task(**described)):
        with pytest.raises(TaskError) as caught:
            make(constraint)
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"true": "true"},
            "`true` is 'true', which is none of the labels 'True', 'False'. Did you",
        ),
        ({"false": "nope"}, "`false` is 'nope', which is none of the labels"),
        ({"true": "True", "false": "True"}, "`true` and `false` are the same label"),
    ],
)
def test_label_words_are_the_tasks(settings: dict[str, object], said: str) -> None:
    with pytest.raises(TaskError) as caught:
        a_task(kind="asymmetry", group="pair", **settings)
    assert said in str(caught.value)


def test_the_labels_that_hold_and_do_not_are_the_first_two_unless_said() -> None:
    labels = ("yes", "no", "tie")
    assert ConstraintSpec(kind="asymmetry").words(labels) == ("yes", "no")
    assert ConstraintSpec(kind="asymmetry", true="no").words(labels) == ("no", "yes")
    assert ConstraintSpec(kind="asymmetry", true="tie").words(labels) == ("tie", "yes")


# the kinds


def test_no_constraint() -> None:
    assert rule_on([{}, {}], kind="none") == NoConstraint()


def test_different_answers_to_one_question_cannot_both_be_true() -> None:
    rows: list[dict[str, object]] = [
        {"q": "one", "a": "$1,000"},
        {"q": "two", "a": "5"},
        {"q": "one", "a": "1000.00"},
        {"q": "one", "a": 999},
        {"q": "two", "a": "five"},
        {"q": "three", "a": "5"},  # alone
        {"q": "one", "a": ""},  # no answer, so it contradicts none
        {"q": None, "a": "7"},
        {"a": "7"},
    ]
    rule = rule_on(rows, kind="mutual-exclusion", group="q", answer="a")
    assert isinstance(rule, MutualExclusion)
    assert rule.groups == ((0, 2, 3), (1, 4))
    assert allowed(rule, 0, 3) == {(FALSE, FALSE), (FALSE, TRUE), (TRUE, FALSE)}
    assert (TRUE, TRUE) in allowed(rule, 0, 2)


def test_the_label_that_holds_may_be_named() -> None:
    rows = [{"q": "one", "a": "1"}, {"q": "one", "a": "2"}]
    rule = rule_on(rows, kind="mutual-exclusion", group="q", answer="a", true="False")
    assert allowed(rule) == {(TRUE, TRUE), (FALSE, TRUE), (TRUE, FALSE)}


def test_the_same_answer_has_the_same_label() -> None:
    rows = [
        {"q": "one", "a": "1.0"},
        {"q": "two", "a": "1"},
        {"q": "one", "a": "1"},
        {"q": "one", "a": "2"},
        {"q": "one"},
        {"q": "one"},
    ]
    rule = rule_on(rows, kind="same-answer", group="q", answer="a")
    assert rule.groups == ((0, 2),)
    assert allowed(rule, 0, 2) == {(FALSE, FALSE), (TRUE, TRUE)}
    assert rule_on(rows, kind="same-answer", group="q").groups == ((0, 2, 3, 4, 5),)
    assert rule_on(rows, kind="same-answer", group=["q", "a"]).groups == ()


@pytest.mark.parametrize(("kind", "neither"), [("at-most-one", True), ("exactly-one", False)])
def test_one_of_a_group(kind: str, neither: bool) -> None:
    rule = rule_on([{"q": 1}, {"q": "1"}, {"q": 2}], kind=kind, group="q")
    assert rule.groups == ((0, 1),)
    assert not rule.allows((0, 1), (TRUE, TRUE))
    assert rule.allows((0, 1), (FALSE, TRUE))
    assert rule.allows((0, 1), (FALSE, FALSE)) == neither


def test_several_fields_name_a_group_together() -> None:
    rows = [{"a": "x", "b": "yz"}, {"a": "xy", "b": "z"}, {"a": "x", "b": "yz"}, {"a": "x"}]
    assert rule_on(rows, kind="at-most-one", group=["a", "b"]).groups == ((0, 2),)


def test_a_row_implies_the_rows_whose_ids_it_has() -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "then": ["b", 7]},
        {"id": "b", "then": None},
        {"id": 7, "then": []},
        {"id": "d"},
        {"id": "e", "then": "d"},
    ]
    rule = rule_on(rows, kind="implication", implies="then")
    assert sorted(rule.groups) == [(0, 1, 2), (3, 4)]
    assert allowed(rule, 0, 2) == {(FALSE, FALSE), (FALSE, TRUE), (TRUE, TRUE)}
    assert allowed(rule, 3, 4) == {(FALSE, FALSE), (TRUE, FALSE), (TRUE, TRUE)}
    assert len(allowed(rule, 1, 2)) == 4


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("rwo", "rows:1: the field 'then' names 'rwo', which is no row's id. Did you mean 'row'?"),
        (["row", "one"], "rows:1: the field 'then' names 'one', the row itself"),
        ({"a": 1}, "rows:1: the field 'then', which the constraint reads, is an object"),
        ([["row"]], "rows:1: the field 'then', which the constraint reads, is a list"),
    ],
)
def test_an_implication_of_no_other_row_is_named(then: object, said: str) -> None:
    with pytest.raises(RowError) as caught:
        rule_on([{"id": "one", "then": then}, {"id": "row"}], kind="implication", implies="then")
    assert str(caught.value).startswith(said)


def test_rows_that_hold_both_orders_are_paired_by_group() -> None:
    rows: list[dict[str, object]] = [{"p": 1}, {"p": 2}, {"p": 2}, {"p": 1}, {"p": None}]
    rule = rule_on(rows, kind="asymmetry", group="p")
    assert rule == Asymmetry(((0, 3), (1, 2)), true=TRUE, false=FALSE)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ("aab", "rows.jsonl:4: only this row has 'b' in 'p'; asymmetry needs exactly the two"),
        ("ababb", "rows.jsonl:2: 3 rows (lines 2, 5 and 6) have 'b' in 'p'; asymmetry needs"),
    ],
)
def test_a_group_that_is_no_pair_is_named_with_its_lines(pairs: str, said: str) -> None:
    lines = [f'{{"text": "x", "p": "{pair}"}}\n' for pair in pairs]
    lines.insert(2, "\n")
    Path("rows.jsonl").write_text("".join(lines))
    with pytest.raises(RowError) as caught:
        built(a_task(kind="asymmetry", group="p"), read_rows("rows.jsonl"))
    assert str(caught.value).startswith(said)


# fields


@pytest.mark.parametrize(
    "constraint",
    [
        {"kind": "same-answer", "group": "questoin"},
        {"kind": "same-answer", "group": ["text", "questoin"]},
        {"kind": "mutual-exclusion", "group": "text", "answer": "questoin"},
        {"kind": "implication", "implies": "questoin"},
    ],
)
def test_a_field_that_no_row_has_is_named(constraint: dict[str, object]) -> None:
    said = r"'questoin', which no row has; the rows have 'text', 'question'\. Did you mean 'questi"
    with pytest.raises(TaskError, match=said):
        rule_on([{}, {"question": "x"}], **constraint)


def test_a_list_names_no_group() -> None:
    with pytest.raises(
        RowError, match="rows:2: the field 'q', which the constraint reads, is a li"
    ):
        rule_on([{"q": "a"}, {"q": ["a"]}], kind="same-answer", group="q")


# what people are told


def test_people_are_told_how_much_a_rule_joins() -> None:
    task = a_task(kind="same-answer", group="q")
    rows: list[dict[str, object]] = [{"text": "x", "q": q} for q in "aabbbc"]
    said = "the constraint 'same-answer' joins 5 of 6 rows in 2 groups"
    assert notices(task, rows) == (said,)
    assert warnings(task, rows) == ()
    assert notices(task, rows[4:]) == ()
    (idle,) = warnings(task, rows[4:])
    assert idle.endswith("so it changes nothing: no two rows are related by 'q'")
    assert notices(a_task(kind="none"), rows) == ()


# several rules


GSM8K = (
    {"kind": "mutual-exclusion", "group": "q", "answer": "a"},
    {"kind": "same-answer", "group": "q", "answer": "a"},
)
ANSWERS: list[dict[str, object]] = [
    {"text": f"row {number}", "q": q, "a": a}
    for number, (q, a) in enumerate([(1, "4"), (1, "4.0"), (1, "5"), (2, "4"), (2, "6")])
]


def several(*constraints: Mapping[str, object]) -> Task:
    return Task.model_validate(
        {"template": "{text}", "labels": ["True", "False"], "constraint": constraints}
    )


def test_rules_hold_at_once() -> None:
    rule = built(several(*GSM8K), rows_from(ANSWERS))
    assert isinstance(rule, AllOf)
    assert rule.groups == ((0, 1, 2), (3, 4))
    assert allowed(rule, 0, 1) == {(FALSE, FALSE), (TRUE, TRUE)}
    assert allowed(rule, 0, 2) == {(FALSE, FALSE), (FALSE, TRUE), (TRUE, FALSE)}
    task = several(*GSM8K)
    assert task.read_fields == ("text", "q", "a")
    assert notices(task, ANSWERS) == (
        "the constraint 'mutual-exclusion' joins 5 of 5 rows in 2 groups",
        "the constraint 'same-answer' joins 2 of 5 rows in 1 group",
    )


def test_one_rule_in_a_list_is_that_rule() -> None:
    assert several(GSM8K[0]) == a_task(**GSM8K[0])
    assert Task(**several(*GSM8K).model_dump()) == several(*GSM8K)


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ([GSM8K[0], {"kind": "none"}], "'none' lets any labels stand together: name it alone"),
        ([GSM8K[0], GSM8K[0]], "'mutual-exclusion' is given twice with the same fields"),
        ([GSM8K[0], {"kind": "same-answer"}], "the constraint 'same-answer' needs `group`"),
        ([GSM8K[0], {"kind": "at-most-one", "group": "q", "true": "Yes"}], "`true` is 'Yes'"),
    ],
)
def test_rules_that_make_no_sense_together_are_refused(
    constraints: list[dict[str, object]], said: str
) -> None:
    with pytest.raises(TaskError, match=said):
        several(*constraints)


def test_pairs_shown_in_both_orders_have_that_rule_alone() -> None:
    both = [{"kind": "asymmetry"}, {"kind": "same-answer", "group": "a"}]
    with pytest.raises(TaskError, match="in both orders, whose rule is asymmetry"):
        Task.model_validate(
            {
                "template": "{a} {b}",
                "labels": ["True", "False"],
                "exchange": ["a", "b"],
                "constraint": both,
            }
        )


def test_each_of_several_kinds_has_the_fields_that_it_takes() -> None:
    rules = rules_of(["implication", "same-answer"], group=("q",), answer="a", implies="then")
    assert rules == (
        ConstraintSpec(kind="implication", implies="then"),
        ConstraintSpec(kind="same-answer", group=("q",), answer="a"),
    )
    assert rules_of(["at-most-one"], group=("q",)) == ConstraintSpec(
        kind="at-most-one", group=("q",)
    )
    with pytest.raises(TaskError, match=r"none of the constraints .* takes `implies`"):
        rules_of(["at-most-one", "same-answer"], group=("q",), implies="then")
    with pytest.raises(TaskError, match=r"Did you mean 'same-answer'\?"):
        rules_of(["at-most-one", "same-anser"], group=("q",))


# a rule of one's own


@pytest.fixture
def rules(tmp_path: Path) -> Iterable[tuple[Path, str]]:
    """A module's file in the current folder, and the module's name."""
    name = f"rules_{next(_numbers)}"
    yield tmp_path / f"{name}.py", name
    sys.modules.pop(name, None)


ROWS: list[dict[str, object]] = [
    {"id": "a", "q": 1, "size": 3},
    {"id": "b", "q": 1, "size": 5},
    {"id": "c", "q": 2, "size": 9},
]


def test_a_function_says_what_may_stand_together(rules: tuple[Path, str]) -> None:
    file, name = rules
    file.write_text(
        "asked = []\n"
        "def larger(row_i, label_i, row_j, label_j):\n"
        "    asked.append((row_i['id'], label_i, row_j['id'], label_j))\n"
        "    if row_i['size'] > row_j['size']:\n"
        "        row_i, label_i, row_j, label_j = row_j, label_j, row_i, label_i\n"
        "    return not (label_i == 'True' and label_j == 'False')\n"
    )
    path = list(sys.path)
    rule = rule_on(ROWS, kind=f"{name}:larger", group="q")
    assert sys.path == path
    assert rule.groups == ((0, 1),)
    assert allowed(rule, 0, 1) == {(FALSE, FALSE), (FALSE, TRUE), (TRUE, TRUE)}
    assert allowed(rule, 1, 0) == {(FALSE, FALSE), (TRUE, FALSE), (TRUE, TRUE)}
    asked = sys.modules[name].asked
    assert len(asked) == len(set(asked)) == 8  # two orders of four pairs of labels, each once
    assert rule.allows((0, 1), (TRUE, TRUE))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "def f(*_): return 1",
            r"asked about row 'a' \(line 1\) as 'False' and row 'b' \(line 2\) ",
        ),
        ("def f(*_): return 1", r"gave '1'; it must give True or False"),
        ("def f(*_): return None", r"gave 'None'; it must give True or False"),
        ("def f(*_): return {}['x']", r"raised KeyError: 'x'"),
        ("def f(a, b): return True", r"raised TypeError: f\(\) takes 2 positional arguments but 4"),
        (
            "def f(r, a, s, b): return a <= b",
            r"as 'False' and .* as 'True', gave True, and False w",
        ),
        (
            "def f(r, a, s, b): r['id'] = 1",
            r"raised TypeError: 'mappingproxy' object does not supp",
        ),
        ("f = 3", r"'f' is no function in .*\.py"),
        ("def ff(): pass", r"'f' is not there in .*\.py\. Did you mean 'ff'\?"),
        (
            "import nowhere_at_all",
            r"importing 'rules_\d+' raised ModuleNotFoundError: No module na",
        ),
        ("1 / 0", r"importing 'rules_\d+' raised ZeroDivisionError: division by zero\. Python"),
        ("def f(:", r"importing 'rules_\d+' raised SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(
    rules: tuple[Path, str], code: str, said: str
) -> None:
    file, name = rules
    file.write_text(code)
    with pytest.raises(TaskError, match=said):
        rule_on(ROWS, kind=f"{name}:f", group="q")


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(
        TaskError, match=r"raised ModuleNotFoundError.* looks for it in the current fo"
    ):
        rule_on(ROWS, kind="no_such_rules:f", group="q")


def test_a_function_never_sees_gold(rules: tuple[Path, str]) -> None:
    file, name = rules
    file.write_text("seen = set()\ndef f(r, a, s, b):\n    seen.update(r, s)\n    return True\n")
    rows = [{"text": str(n), "q": 1, "label": word} for n, word in enumerate(["True", "False"])]
    built(a_task(kind=f"{name}:f", group="q"), rows_from(rows, gold="label"))
    assert sys.modules[name].seen == {"text", "q"}


# a law


_rows = st.lists(
    st.fixed_dictionaries(
        {"q": st.sampled_from(["x", "y", None]), "a": st.sampled_from([1, "1.0", "2", None])}
    ),
    min_size=2,
    max_size=8,
)


@given(_rows, st.sampled_from([kind for kind in KINDS if kind not in ("none", "asymmetry")]))
def test_every_rule_is_symmetric_and_its_groups_are_disjoint(
    rows: list[dict[str, object]], kind: str
) -> None:
    settings: dict[str, object] = {"group": "q"}
    if kind == "mutual-exclusion":
        settings["answer"] = "a"
    if kind == "implication":
        rows = [row | {"then": number or None} for number, row in enumerate(rows)]
        settings = {"implies": "then"}
    rule = rule_on(rows, kind=kind, **settings)
    items = [item for group in rule.groups for item in group]
    assert len(items) == len(set(items))
    for group in rule.groups:
        for i, j in combinations(group, 2):
            assert allowed(rule, i, j) == {(a, b) for b, a in allowed(rule, j, i)}
