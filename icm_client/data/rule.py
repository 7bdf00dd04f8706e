"""Build the constraint of a task on these rows: fields of the rows become groups of items.

The method knows a constraint as `c(x_i, y_i, x_j, y_j)`, in `icm_client.coherence.constraints`.
Gold labels take no part: no row has them, and `icm_client.data.sanity` refuses fields that
repeat them.

`CustomRule` is the user's own, a Python function of two rows of one group, without gold labels:

    def may_stand_together(row_i, label_i, row_j, label_j) -> bool

It must return the same with the two exchanged, and the same every time.
"""

import importlib
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from icm_client.coherence.constraints import (
    AllOf,
    Asymmetry,
    AtMostOne,
    ExactlyOne,
    Implication,
    MutualExclusion,
    SameAnswer,
    groups_by_key,
)
from icm_client.coherence.problem import Constraint, Groups, NoConstraint
from icm_client.data.answer_text import comparable, exact
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.items import Item
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.rows import Dataset, Row, named_places, path_of
from icm_client.data.task import Task
from icm_client.data.values import JsonValue, Unusable
from icm_client.errors import RowError, TaskError

_BOTH_ORDERS = 2


def build_constraint(task: Task, dataset: Dataset, items: Sequence[Item]) -> Constraint:
    """Return the task's rule on these items; label numbers are those of the labels sorted.

    A row that lacks a field of the rule, or has it null or blank, is in no group; nor is a row that
    is alone with its value, even under "exactly one". A row's second order, if any, stands right
    after the row.

    Raises:
        TaskError: a field that no row has, or a function of the user's that cannot be used.
        RowError: a value that is a list or object, a group of asymmetry that is no pair, an id
            that no row has.
    """
    rules = [_built(spec, task, dataset, items) for spec in task.rules]
    return rules[0] if len(rules) == 1 else AllOf(tuple(rules))


def _built(spec: ConstraintSpec, task: Task, dataset: Dataset, items: Sequence[Item]) -> Constraint:
    labels = sorted(task.labels)
    true, false = (labels.index(word) for word in spec.words(task.labels))
    if spec.kind == "none":
        return NoConstraint()
    if spec.kind == "asymmetry":
        return Asymmetry(_pairs(spec, dataset, items), true, false)
    if spec.implies is not None:
        return Implication(_implications(spec.implies, dataset), true)
    return _grouped(spec, dataset, labels, true)


def _grouped(
    spec: ConstraintSpec, dataset: Dataset, labels: Sequence[str], true: int
) -> Constraint:
    keys: Sequence[Hashable | None] = _group_keys(spec, dataset)
    if spec.answer is not None:
        answers = keys_of("answer", spec.answer, dataset)
        answered = [
            None if key is None or answer is None else (key, answer)
            for key, answer in zip(keys, answers, strict=True)
        ]
        if spec.kind == "mutual-exclusion":
            groups = groups_by_key([key and key[0] for key in answered])
            return MutualExclusion(groups, answers, true)
        keys = answered
    groups = groups_by_key(keys)
    match spec.kind:
        case "same-answer":
            return SameAnswer(groups)
        case "at-most-one":
            return AtMostOne(groups, true)
        case "exactly-one":
            return ExactlyOne(groups, true)
        case _:
            return CustomRule(spec.kind, load_function(spec.kind), dataset.rows, labels, groups)


def rule_notices(
    task: Task, constraint: Constraint, dataset: Dataset, items: Sequence[Item]
) -> tuple[str, ...]:
    """Return sentences on what each rule joins; none where there is no rule, or it joins none."""
    rows = len(dataset.rows)
    if task.exchange is not None and task.rules[0].kind != "none":
        return (f"each of {rows:,} pairs is shown in both orders: {len(items):,} prompts",)
    return tuple(
        _joins(spec, built, rows) for spec, built in _rules(task, constraint) if built.groups
    )


def idle_rules(task: Task, constraint: Constraint) -> tuple[str, ...]:
    """Return a sentence on each rule that joins no rows."""
    return tuple(
        f"the constraint {shown(spec.kind)} joins no rows, so it changes nothing: no two rows are "
        f"related by {listed(name for _, name in spec.fields())}"
        for spec, built in _rules(task, constraint)
        if not built.groups
    )


def _rules(task: Task, constraint: Constraint) -> list[tuple[ConstraintSpec, Constraint]]:
    """The task's rules, each with what was built of it."""
    built = constraint.rules if isinstance(constraint, AllOf) else (constraint,)
    each = zip(task.rules, built, strict=True)
    return [(spec, rule) for spec, rule in each if spec.kind != "none"]


def _joins(spec: ConstraintSpec, rule: Constraint, rows: int) -> str:
    groups = len(rule.groups)
    joined = sum(len(group) for group in rule.groups)
    return (
        f"the constraint {shown(spec.kind)} joins {joined:,} of {rows:,} rows in {groups:,} "
        f"{'group' if groups == 1 else 'groups'}"
    )


def keys_of(setting: str, field: str, dataset: Dataset) -> tuple[str | None, ...]:
    """Return for every row what the rule compares in a field, or None where it has nothing.

    Args:
        setting: `answer`, whose values are compared as answers, or another, compared as they are.
        field: the field.
        dataset: the rows.

    Raises:
        TaskError: no row has the field.
        RowError: it holds a list or an object.
    """
    _check_field(setting, field, dataset)
    read = comparable if setting == "answer" else exact
    return tuple(_read(read, row.fields.get(field), row, field, dataset) for row in dataset.rows)


def _group_keys(spec: ConstraintSpec, dataset: Dataset) -> list[tuple[str | None, ...] | None]:
    """Return for every row the values that name its group, or None where one is missing."""
    columns = [keys_of("group", field, dataset) for field in spec.group]
    return [None if None in key else key for key in zip(*columns, strict=True)]


def _pairs(
    spec: ConstraintSpec, dataset: Dataset, items: Sequence[Item]
) -> tuple[tuple[int, int], ...]:
    """Return the two orders of each comparison, as items."""
    if not spec.group:
        return tuple((number - 1, number) for number, item in enumerate(items) if item.exchanged)
    found: dict[tuple[str | None, ...], list[int]] = {}
    for number, key in enumerate(_group_keys(spec, dataset)):
        if key is not None:
            found.setdefault(key, []).append(number)
    for values, group in found.items():
        if len(group) != _BOTH_ORDERS:
            first = dataset.rows[group[0]]
            where = named_places([(dataset.rows[number].place, "") for number in group])
            rows = f"{len(group)} rows ({where}) have"
            raise RowError(
                f"{'only this row has' if len(group) == 1 else rows} {listed(map(str, values))} in "
                f"{listed(spec.group)}; asymmetry needs exactly the two orders of one comparison "
                "in a group",
                path=path_of(dataset, first),
                line=first.line,
            )
    return tuple((one, other) for one, other in found.values())


def _implications(field: str, dataset: Dataset) -> frozenset[tuple[int, int]]:
    """Return the pairs `(i, j)` of rows where `i` names `j`."""
    _check_field("implies", field, dataset)
    numbers = {str(row.id): number for number, row in enumerate(dataset.rows)}
    found = set()
    for number, row in enumerate(dataset.rows):
        value = row.fields.get(field)
        for named in value if isinstance(value, list) else [value]:
            implied = _read(exact, named, row, field, dataset)
            if implied is None:
                continue
            if numbers.get(implied, number) == number:
                reason = (
                    "the row itself: name the other rows that it implies"
                    if implied in numbers
                    else f"which is no row's id.{did_you_mean(implied, numbers)}"
                )
                raise RowError(
                    f"the field {shown(field)} names {shown(implied)}, {reason}",
                    path=path_of(dataset, row),
                    line=row.line,
                )
            found.add((number, numbers[implied]))
    return frozenset(found)


def _check_field(setting: str, field: str, dataset: Dataset) -> None:
    if dataset.is_part:
        return  # other rows of the file may have it
    if not any(field in row.fields for row in dataset.rows):
        names = tuple(dict.fromkeys(name for row in dataset.rows for name in row.fields))
        raise TaskError(
            f"the constraint's `{setting}` is the field {shown(field)}, which no row has; the rows "
            f"have {listed(names)}.{did_you_mean(field, names)}"
        )


def _read(
    read: Callable[[JsonValue], str | None],
    value: JsonValue,
    row: Row,
    field: str,
    dataset: Dataset,
) -> str | None:
    try:
        return read(value)
    except Unusable as problem:
        raise RowError(
            f"the field {shown(field)}, which the constraint reads, is {problem}",
            path=path_of(dataset, row),
            line=row.line,
        ) from None


Fields: TypeAlias = Mapping[str, JsonValue]
PairFunction: TypeAlias = Callable[[Fields, str, Fields, str], bool]

# Calls made before a request is sent: enough to find most mistakes, and done in a second.
_ASKED_AHEAD = 20_000


def load_function(reference: str) -> PairFunction:
    """Return the function that `module:function` names; the current folder is looked in first.

    Raises:
        TaskError: the module cannot be imported, or has no such function.
    """
    module_name, _, name = reference.partition(":")
    try:
        with _current_folder_first():
            module = importlib.import_module(module_name)
    except Exception as problem:  # whatever the user's module does when it is run
        raise TaskError(
            f"the constraint {shown(reference)}: importing {shown(module_name)} raised "
            f"{_named(problem)}. Python looks for it in the current folder and among the "
            "installed packages"
        ) from problem
    function: PairFunction | None = getattr(module, name, None)
    if not callable(function):
        what = "is no function" if hasattr(module, name) else "is not there"
        functions = [own for own, value in vars(module).items() if callable(value)]
        raise TaskError(
            f"the constraint {shown(reference)}: {shown(name)} {what} in {module.__file__}."
            f"{did_you_mean(name, functions)}"
        )
    return function


class CustomRule(Constraint):
    """The user's function as a rule on items, each of which is one row.

    Answers are kept, so that the function is called once for two rows and two labels.

    Args:
        reference: the function as the user named it, `module:function`.
        function: the function.
        rows: shape `[N]`.
        labels: shape `[K]`, the label words in the order of the search's numbers.
        groups: disjoint groups of items.

    Raises:
        TaskError: here or in a later call: the function raised, returned no bool, or returned
            something else with the two rows exchanged.
    """

    def __init__(
        self,
        reference: str,
        function: PairFunction,
        rows: Sequence[Row],
        labels: Sequence[str],
        groups: Groups,
    ) -> None:
        self._reference = reference
        self._function = function
        self._rows = rows
        self._labels = labels
        self._groups = groups
        self._answers: dict[tuple[int, int, int, int], bool] = {}
        self._ask_ahead()

    @property
    def groups(self) -> Groups:
        """The groups."""
        return self._groups

    def consistent(self, i: int, y_i: int, j: int, y_j: int, /) -> bool:
        """Whether the user's function lets the two labels stand together."""
        question = (i, y_i, j, y_j) if i < j else (j, y_j, i, y_i)
        answer = self._answers.get(question)
        if answer is None:
            answer = self._answers[question] = self._asked_both_ways(*question)
        return answer

    def _ask_ahead(self) -> None:
        asked = 0
        numbers = range(len(self._labels))
        for group in self._groups:
            for i, j in combinations(group, 2):
                for y_i in numbers:
                    for y_j in numbers:
                        self.consistent(i, y_i, j, y_j)
                asked += len(numbers) ** 2
                if asked >= _ASKED_AHEAD:
                    return

    def _asked_both_ways(self, i: int, y_i: int, j: int, y_j: int) -> bool:
        answer = self._asked(i, y_i, j, y_j)
        if self._asked(j, y_j, i, y_i) != answer:
            raise TaskError(
                f"{self._about(i, y_i, j, y_j)} gave {answer}, and {not answer} with the two rows "
                "exchanged: let the order make no difference"
            )
        return answer

    def _asked(self, i: int, y_i: int, j: int, y_j: int) -> bool:
        one, other = (MappingProxyType(self._rows[item].fields) for item in (i, j))
        try:
            answer: object = self._function(one, self._labels[y_i], other, self._labels[y_j])
        except Exception as problem:  # whatever the user's function raises
            raise TaskError(f"{self._about(i, y_i, j, y_j)} raised {_named(problem)}") from problem
        if not isinstance(answer, bool):
            raise TaskError(
                f"{self._about(i, y_i, j, y_j)} gave {shown(repr(answer))}; it must give True or "
                "False"
            )
        return answer

    def _about(self, i: int, y_i: int, j: int, y_j: int) -> str:
        asked = " and ".join(
            f"row {shown(self._rows[item].id)} ({named_places([(self._rows[item].place, '')])}) as "
            f"{shown(self._labels[label])}"
            for item, label in ((i, y_i), (j, y_j))
        )
        return f"the constraint {shown(self._reference)}, asked about {asked},"


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _named(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".rstrip(": ")
