"""What looks wrong with task and rows before a run, though a search would take them.

What cannot be used at all is an error elsewhere: a label that is there twice, a cell that is empty,
a gold label that the task does not have.

Refused here are constraints that are made from the gold labels. A field that repeats these under
another name would give the search the answers, and every accuracy after it would be worthless. Gold
is used here to refuse a run, never to change one.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import combinations

from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.messages import listed, shown
from icm_client.data.rows import Dataset, named_places
from icm_client.data.rule import keys_of
from icm_client.data.task import Task
from icm_client.errors import RowError, TaskError

_LONG = 48
"""Characters from which a label is long: it has then about ten tokens."""

_SHORTEST_ALIKE = 5
"""Letters from which two words that differ in one are probably the same: not `legal`, `regal`."""

_JOINED, _AROUND = re.compile(r"(?<=\w)[-_\s]+(?=\w)"), " \t\n.,;:!\"'"

_PLACEHOLDERS = frozenset("- -- . ? n/a #n/a <na> na nan nat nil none null tbd".split())  # noqa: SIM905
"""What stands for nothing in tables, without regard to case."""


def sanity_warnings(task: Task, dataset: Dataset) -> tuple[str, ...]:
    """Return sentences on labels and cells that the user should mend or mean."""
    return (*_alike(task.labels), *_long(task.labels), *_placeholders(task, dataset))


def gold_notices(task: Task, dataset: Dataset) -> tuple[str, ...]:
    """Return sentences on what the gold labels cover; none without gold."""
    counts = Counter(label for label in dataset.gold or () if label is not None)
    missing = [label for label in task.labels if label not in counts]
    if not counts or not missing:
        return ()
    return (f"no row has the gold label {listed(missing)}: of it, accuracy and recall say nothing",)


def _alike(labels: Sequence[str]) -> list[str]:
    return [
        f"the labels {shown(one)} and {shown(other)} are nearly the same: if one is a slip, "
        "correct it; if both are meant, take words that lie further apart"
        for one, other in combinations(labels, 2)
        if nearly_the_same(one, other)
    ]


def nearly_the_same(one: str, other: str) -> bool:
    """Whether two labels differ in case, spaces and hyphens alone, or in one slip of a letter.

    A slip is a letter more, another, or two exchanged, after the first two; never a digit.
    """
    a, b = (_JOINED.sub("", label.casefold()).strip(_AROUND) for label in (one, other))
    if a == b:
        return bool(a)
    if min(len(a), len(b)) < _SHORTEST_ALIKE:
        return False
    begins = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if begins is None:  # one is the other's beginning
        begins = min(len(a), len(b))
    a, b = a[begins:], b[begins:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    slip = max(len(a), len(b)) == 1 or (len(a) == len(b) == 2 and a == b[::-1])  # noqa: PLR2004
    return slip and begins > 1 and not any(map(str.isdigit, a + b))


def _long(labels: Sequence[str]) -> list[str]:
    long = [label for label in labels if len(label) > _LONG]
    if not long:
        return []
    each = "is" if len(long) == 1 else "are each"
    sentence = (
        f"{listed(long)} {each} longer than {_LONG} characters: long labels are read in many "
        "places, and the model may prefer the shorter ones. Take a word for each, and let the "
        "template say what it means"
    )
    return [sentence]


def _placeholders(task: Task, dataset: Dataset) -> list[str]:
    sentences = []
    for field in task.template_fields:
        held = [row.fields.get(field) for row in dataset.rows]
        empty = [
            number
            for number, value in enumerate(held)
            if isinstance(value, str) and value.strip().casefold() in _PLACEHOLDERS
        ]
        # In a column of short answers "none" or "unknown" is one of them.
        if not empty or len(set(map(str, held))) * 2 < len(held):
            continue
        where = named_places([(dataset.rows[empty[0]].place, "")])
        rows = "1 row has" if len(empty) == 1 else f"{len(empty):,} rows have"
        sentences.append(
            f"{rows} nothing but {shown(held[empty[0]])} or the like in the field {shown(field)}, "
            f"the first in {where}: the model is asked about it as about any text. Leave "
            "such rows out"
        )
    return sentences


Keys = Sequence[Hashable | None]
Gold = Sequence[str | None]

_CHANCE = 1e-3
_FEWEST_ROWS_A_VALUE = 2
_FEWEST_VALUES = 2
_FEWEST_SPLITS = 10


def refuse_gold_keys(task: Task, dataset: Dataset) -> None:
    """Refuse a constraint one of whose fields is the gold field, or determines it.

    Without gold labels nothing can be checked, and in a part of a file's rows only the fields'
    names: a few groups show the signs by chance. With them, three signs are looked for in the
    `group` and `answer` fields; only rows with gold and a value count:

    - `one_to_one`: each value comes with one gold label and no other, each label with one value.
    - `single_labels`: values that come up again elsewhere always have the same gold label, which
      by chance would happen in fewer than 1 of 1,000 data sets. "Elsewhere" is another group; for
      a rule whose groups should mix the labels, it is another row of the group. Where an answer
      was right for one question and wrong for another, this sign is absent.
    - `same_split`: within the groups, rows share a value exactly when they share a gold label,
      although wrong answers could have differed.

    The last two do not apply to a field that the template shows: the model reads it as it is.

    These are signs, not proofs. A rule without `answer` that joins rows of the same label is sound
    when each value has one label, so single labels mean nothing there. Two or three groups can pair
    off with the labels by coincidence. A field that gives gold away for most rows only, or together
    with another, or that numbers the labels anew in each group, shows none of the signs. Of the
    user's own function, which sees whole rows, only the `group` fields are looked at.

    Raises:
        TaskError: names the field, what was seen in it, and what to do.
    """
    for spec in task.rules:
        for setting, field in spec.fields():
            if field in (dataset.gold_field, task.gold):
                raise TaskError(
                    f"the constraint's `{setting}`: `{field}` holds the gold labels; a rule made "
                    "from them would give the search the answers. Name a field that comes from "
                    "the rows' own text"
                )
        if dataset.gold is not None and not dataset.is_part:
            _refuse_signs(spec, task, dataset, dataset.gold)


def _refuse_signs(spec: ConstraintSpec, task: Task, dataset: Dataset, gold: Gold) -> None:
    columns = {
        (setting, field): keys_of(setting, field, dataset)
        for setting, field in spec.fields()
        if setting != "implies"
    }
    for (setting, field), keys in columns.items():
        seen = one_to_one(keys, gold)
        if seen is None and field not in task.template_fields:
            outer = [
                other
                for (other_setting, name), other in columns.items()
                if name != field and other_setting == "group"
            ]
            groups = [None if None in key else key for key in zip(*outer, strict=True)]
            seen = _sign(spec, task, dataset, keys, groups if outer else None)
        if seen is not None:
            raise TaskError(
                f"the constraint's `{setting}`: `{field}` gives the gold labels away: {seen}. A "
                "rule made from it would give the search the answers. Name a field that comes "
                "from the rows' own text, such as the answer in it; if this one does, run without "
                "gold labels, and compare afterwards"
            )


def _sign(
    spec: ConstraintSpec, task: Task, dataset: Dataset, keys: Keys, outer: Keys | None
) -> str | None:
    """Return the sign of gold in a field, given the groups that the other fields make."""
    gold = dataset.gold or ()
    if spec.is_own or spec.kind == "asymmetry":
        return None
    if outer is None and spec.kind != "same-answer":
        seen = single_labels(keys, range(len(keys)), gold)
        return seen and f"every value that several rows share has a single gold label ({seen})"
    if outer is not None and (seen := single_labels(keys, outer, gold)):
        return f"every value that comes up in several groups has a single gold label ({seen})"
    true = spec.words(task.labels)[0] if spec.kind == "mutual-exclusion" else None
    wider = [outer] if outer is not None else _wider_groups(dataset, keys)
    return next((seen for groups in wider if (seen := same_split(keys, groups, gold, true))), None)


def _wider_groups(dataset: Dataset, keys: Keys) -> list[Keys]:
    """Return the rows' other fields whose values gather whole values of this one."""
    wider: list[Keys] = []
    for name in dict.fromkeys(name for row in dataset.rows for name in row.fields):
        try:
            values = keys_of("group", name, dataset)
        except RowError:
            continue  # lists and objects gather nothing
        pairs = {(key, value) for key, value in zip(keys, values, strict=True) if key is not None}
        n_keys = len({key for key, _ in pairs})
        if len(pairs) == n_keys > len({value for _, value in pairs}):
            wider.append(values)
    return wider


def one_to_one(keys: Keys, gold: Gold) -> str | None:
    """Return how values and gold labels pair off, or None if they do not.

    At least two values must have at least two rows each.
    """
    pairs = Counter(
        (key, label)
        for key, label in zip(keys, gold, strict=True)
        if key is not None and label is not None
    )
    values, labels = Counter(key for key, _ in pairs), Counter(label for _, label in pairs)
    often = sum(count >= _FEWEST_ROWS_A_VALUE for count in pairs.values())
    if often < _FEWEST_VALUES or max(values.values()) > 1 or max(labels.values()) > 1:
        return None
    return "its values pair off with the gold labels " + listed(label for _, label in pairs)


def single_labels(keys: Keys, units: Keys, gold: Gold) -> str | None:
    """Return how many values have a single gold label across units, or None if any has two.

    By chance all `n_v` units of a value `v` agree with probability `sum_k p_k^n_v`, where `p_k` is
    label `k`'s share of the rows; the product over the values must be under 1 in 1,000, and the
    values must not all have the same label.

    Args:
        keys: each row's value.
        units: what a value must come up in twice to count: groups, or rows.
        gold: each row's gold label.
    """
    labels_of: dict[Hashable, set[str]] = defaultdict(set)
    units_of: dict[Hashable, set[Hashable]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for key, unit, label in zip(keys, units, gold, strict=True):
        if key is not None and unit is not None and label is not None:
            labels_of[key].add(label)
            units_of[key].add(unit)
            counts[label] += 1
    again = [key for key, found in units_of.items() if len(found) > 1]
    if any(len(labels_of[key]) > 1 for key in again):
        return None
    if len(set().union(*(labels_of[key] for key in again))) < _FEWEST_VALUES:
        return None
    shares = [count / counts.total() for count in counts.values()]
    log_chance = sum(math.log(sum(p ** len(units_of[key]) for p in shares)) for key in again)
    if log_chance > math.log(_CHANCE):
        return None
    return f"{len(again):,} of {len(again):,}"


def same_split(keys: Keys, groups: Keys, gold: Gold, true: str | None) -> str | None:
    """Return in how many groups values and gold labels split the rows alike, or None.

    All groups must be split alike, and ten of them must be informative: they have two gold labels,
    and rows that share a label though their values could have differed. Two right answers to one
    question are the same answer, two wrong ones need not be.

    A value that has different gold labels in different groups ("yes", "no") shows that the field
    does not depend on gold: None.

    Args:
        keys: each row's value.
        groups: each row's group.
        gold: each row's gold label.
        true: the label of right answers; None where it is not known, and so two labels must each
            have two rows in a group.
    """
    labels_of: dict[Hashable, set[str]] = defaultdict(set)
    rows_of: dict[Hashable, list[tuple[Hashable, str]]] = defaultdict(list)
    for key, group, label in zip(keys, groups, gold, strict=True):
        if key is not None and group is not None and label is not None:
            labels_of[key].add(label)
            rows_of[group].append((key, label))
    if any(len(labels) > 1 for labels in labels_of.values()):
        return None
    informative = 0
    for rows in rows_of.values():
        repeated = Counter(label for _, label in rows)
        if len({key for key, _ in rows}) != len(repeated):  # each value has one label
            return None
        several = [label for label, count in repeated.items() if count > 1 and label != true]
        informative += len(repeated) > 1 and len(several) >= (1 if true is not None else 2)
    if informative < _FEWEST_SPLITS:
        return None
    return (
        f"in every one of {informative:,} groups, rows share a value exactly where they share a "
        "gold label"
    )
