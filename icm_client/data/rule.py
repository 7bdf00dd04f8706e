"""Build the constraint of a task on these rows: fields of the rows become groups of items.

The method knows a constraint as `c(x_i, y_i, x_j, y_j)`, in `icm_client.coherence.constraints`.
Gold labels take no part: no row has them, and `icm_client.data.gold_leak` refuses fields that
repeat them.
"""

from collections.abc import Callable, Hashable, Sequence

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
from icm_client.coherence.problem import Constraint, NoConstraint
from icm_client.data.answer_text import comparable, exact
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.custom_rule import CustomRule, load_function
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
    is alone with its value, even under "exactly one".

    Args:
        task: its `rules` say what is wanted.
        dataset: the rows.
        items: as `items_of` gives them: a row's second order, if any, right after the row.

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
