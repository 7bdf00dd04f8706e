"""Does a field of the rows explain a label: do all its rows come from one question, one source?

Labels that a search was to find row by row may then be one group's. That can be right, and it can
be all that was found; so it is said where it is striking, and never decides a verdict.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from icm_client.coherence.problem import IntArray
from icm_client.verdict.findings import Finding

CONCENTRATED = 0.9
"""`one-group` is found where one value of a field has this share of a label's rows ..."""

CHANCE = 1e-4
"""... where labels dealt out at random over the rows would do so for any label and value with less
than this probability."""

FEWEST = 5
"""Rows that a label must have: fewer are together by chance too easily."""

_ROWS_A_VALUE = 2
"""Rows that a value must have on average, so that a field is one of groups and not of texts."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A value of a field that explains a label.

    Attributes:
        label: a number.
        field: the rows' field.
        value: of the field.
        rows: with the label.
        rows_of_value: with the value.
        rows_of_both: with label and value.
        chance: an upper bound of the probability of as many of both, for any label and value that
            was looked at, if labels were dealt out at random.
    """

    label: int
    field: str
    value: str
    rows: int
    rows_of_value: int
    rows_of_both: int
    chance: float


def group_findings(
    fields: Mapping[str, Sequence[str | None]], held: IntArray, labels: Sequence[str]
) -> list[Finding]:
    """Does one value of a field hold nearly all rows of a label? One finding for a label at most.

    Args:
        fields: field -> what each row holds there, None for nothing; no gold. Shape `[rows]` each.
        held: the labels found, shape `[rows]`, no row without one.
        labels: the label words, shape `[K]`.
    """
    findings = []
    for one in explanations(fields, held):
        all_of_them = one.rows_of_both == one.rows
        those = f"All {one.rows:,}" if all_of_them else f"{one.rows_of_both:,} of the {one.rows:,}"
        message = f"{those} rows called {labels[one.label]!r} have {one.field} {one.value!r}."
        advice = (
            f"Look at some of them: the label may say no more than which {one.field} a row has."
        )
        figures = (
            f"{one.rows_of_value:,} of all {len(held):,} rows have that {one.field}; labels dealt "
            f"out at random would come together so with a probability under {_bound(one.chance)} "
            "(hypergeometric, times the labels and values looked at)"
        )
        findings.append(Finding("one-group", message, advice, "note", figures))
    return findings


def explanations(
    fields: Mapping[str, Sequence[str | None]], held: IntArray
) -> tuple[Explanation, ...]:
    """Return for each label, the most common one aside, the value that explains it best, if any.

    The rest of the rows has the most common label: it is explained by whatever explains the others.
    """
    counts = Counter(held.tolist())
    common, _ = counts.most_common(1)[0]
    asked = [label for label in sorted(counts) if label != common and counts[label] >= FEWEST]
    groups = {name: values for name, values in fields.items() if _is_of_groups(values)}
    compared = len(asked) * sum(len(set(values) - {None}) for values in groups.values())
    found: dict[int, list[Explanation]] = defaultdict(list)
    for name, values in groups.items():
        of_value = Counter(values)
        both = Counter(zip(held.tolist(), values, strict=True))
        for label, value, n_both in _concentrated(asked, counts, both):
            chance = compared * _at_least(n_both, len(held), of_value[value], counts[label])
            if chance < CHANCE:
                found[label].append(
                    Explanation(label, name, value, counts[label], of_value[value], n_both, chance)
                )
    return tuple(min(found[label], key=lambda one: one.chance) for label in asked if found[label])


def _is_of_groups(values: Sequence[str | None]) -> bool:
    known = [value for value in values if value is not None]
    return 1 < len(set(known)) <= len(known) / _ROWS_A_VALUE


def _concentrated(
    asked: Sequence[int], counts: Mapping[int, int], both: Mapping[tuple[int, str | None], int]
) -> Iterator[tuple[int, str, int]]:
    """Labels and values where the value has nearly all of the label's rows, and how many."""
    for (label, value), n_both in both.items():
        if value is not None and label in asked and n_both >= CONCENTRATED * counts[label]:
            yield label, value, n_both


def _at_least(n_both: int, n_rows: int, of_value: int, of_label: int) -> float:
    """The hypergeometric probability that a random label has `n_both` rows of a value, or more."""
    every = _log_choose(n_rows, of_label)
    return math.fsum(
        math.exp(_log_choose(of_value, n) + _log_choose(n_rows - of_value, of_label - n) - every)
        for n in range(n_both, min(of_value, of_label) + 1)
        if of_label - n <= n_rows - of_value
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _bound(chance: float) -> str:
    """The power of ten above: `1e-7`."""
    return f"1e{max(math.floor(math.log10(max(chance, 1e-300))) + 1, -99)}"
