"""How a run went: what its sweeps or steps told, as series to draw.

A sweep tells `U`, how many items each label has, how many labels moved, and the labels after it. A
step of Algorithm 1 tells which label it set, so that balance, and accuracy where there is gold,
follow: of the labels that steps have set, since the journal does not name the few that the search
started from.

How many labels were right after each sweep, where gold is there; the search knew nothing of it.

A sweep's labels have the names that its start used. When a search ends, it may exchange names, and
then the sweeps of the start that it kept were wrong by name only. So their names are those of the
end: as they were, or exchanged as a search can exchange them, whichever of these agrees best with
the labels that the run ended with. Gold has no part in that.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from icm_client.coherence.matching import best_permutation, pair_counts
from icm_client.coherence.problem import UNLABELLED, IntArray
from icm_client.record.archive import Run
from icm_client.record.journal import labels_by_sweep, read
from icm_client.report.label_table import NO_GOLD, LabelTable


def sweep_accuracy(run: Run, table: LabelTable) -> tuple[list[float | None], bool]:
    """Return for each sweep of the result the share of the rows with gold whose label was right.

    Rows that had no label then are not counted: the first sweep scores no row that it starts from.
    Other starts than the one whose labels these are keep the names that they had.

    Returns:
        One share a sweep, None where nothing is known: no gold, or a record without the labels.
        And whether names were exchanged for it.

    Raises:
        RunError: the journal cannot be read.
    """
    result = run.result or {}
    sweeps = result["sweeps"]
    if not table.judged.any():
        return [None] * len(sweeps), False
    words = sorted(table.words)  # as the search numbers them
    numbers = np.array([words.index(word) for word in table.words])
    told = labels_by_sweep(run.path / "journal.jsonl", sweeps, words)
    restart = result.get("restart", 0)
    passes = [place for place, sweep in enumerate(sweeps) if "trained_on" in sweep]
    kept = [
        place
        for place, sweep in enumerate(sweeps)
        if "trained_on" not in sweep and sweep["restart"] == restart
    ]
    ended = _with_all_rows(numbers[table.held], [told[place] for place in (*kept, *passes)])
    if ended is None:
        return [None] * len(sweeps), False
    renamed = False
    for places in ([place for place in kept if not sweeps[place].get("renamed")], passes):
        own = [labels for place in places if (labels := told[place]) is not None]
        names = np.array(names_of_the_end(own[-1], ended, len(words)) if own else range(len(words)))
        renamed = renamed or names.tolist() != list(range(len(words)))
        for place in places:
            if (labels := told[place]) is not None:
                told[place] = np.where(labels == UNLABELLED, UNLABELLED, names[labels])
    gold = np.full(len(ended), UNLABELLED)
    gold[ended != UNLABELLED] = np.where(table.judged, numbers[table.gold], UNLABELLED)
    return [None if labels is None else _share(labels, gold) for labels in told], renamed


def names_of_the_end(labels: IntArray, ended: IntArray, n_labels: int) -> tuple[int, ...]:
    """Return the names by which a start's last labels agree best with those of the run.

    Args:
        labels: shape `[N]`, the start's, `UNLABELLED` where a row has none.
        ended: shape `[N]`, the run's, as `labels`.
        n_labels: `K`.

    Returns:
        Label `k` is to be called `names[k]`; unchanged where an exchange agrees no better.
    """
    known = labels != UNLABELLED
    return best_permutation(pair_counts(labels[known], ended[known], n_labels))


def _with_all_rows(held: IntArray, told: Sequence[IntArray | None]) -> IntArray | None:
    """The run's labels over all rows of the data, `UNLABELLED` where a row has none.

    Rows that the server refused stand in no labels file; the last sweep has no label for them
    either. None where no sweep tells labels, or the last one tells of other rows than the file.
    """
    known = [labels for labels in told if labels is not None]
    if not known:
        return None
    last = known[-1]
    there = np.ones(len(last), bool) if len(last) == len(held) else last != UNLABELLED
    if there.sum() != len(held):
        return None
    ended = np.full(len(last), UNLABELLED)
    ended[there] = held
    return ended


def _share(labels: IntArray, gold: IntArray) -> float | None:
    judged = (gold != UNLABELLED) & (labels != UNLABELLED)
    return float((labels == gold)[judged].mean()) if judged.any() else None


STEPS_A_POINT = 50
"""Over how many steps the share of accepted ones is taken."""

MOST_POINTS = 400
"""Of one series; thousands of steps are thinned out to these."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        name: of it, for a legend.
        points: `(x, y)`, x rising.
        kept: whether it belongs to the labels that the run ended with.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Course:
    """The series of a run.

    Attributes:
        unit: "sweep" or "step": what x counts, from 1.
        utility: `U`, a series a restart (sweeps, nats an item) or a batch (steps, the preset's own
            objective); passes of trained models are a series that goes on behind the sweeps.
        shares: the labels' shares of the labelled rows, 0 to 1, a series a label.
        moved: share of the labels that a sweep moved, a series a restart; of steps the share of
            the last `STEPS_A_POINT` that were accepted, a series a batch.
        accuracy: share of the labels with gold that are right, as `utility`; of steps one series.
            Empty where there is no gold, or the record holds no labels.
        renamed: whether accuracy is that of the labels with names exchanged, as the search did in
            the end.
    """

    unit: str
    utility: tuple[Series, ...]
    shares: tuple[Series, ...]
    moved: tuple[Series, ...]
    accuracy: tuple[Series, ...]
    renamed: bool = False


def read_course(run: Run, table: LabelTable) -> Course:
    """Return how the run went.

    Raises:
        RunError: the journal cannot be read.
    """
    result = run.result or {}
    if sweeps := result.get("sweeps"):
        shares, renamed = sweep_accuracy(run, table)
        judged = [{**told, "accuracy": share} for told, share in zip(sweeps, shares, strict=True)]
        course = _of_sweeps(judged, int(result.get("restart", 0)), table.words)
        return replace(course, renamed=renamed)
    events = [event for event in read(run.path / "journal.jsonl") if event["event"] == "step"]
    return _of_steps(events, table)


def _of_sweeps(sweeps: Sequence[Mapping[str, Any]], kept: int, words: Sequence[str]) -> Course:
    items = max(1, *(sum(sweep["counts"]) for sweep in sweeps))  # the first leaves demos out
    by_start: dict[int, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for sweep in sweeps:
        if "trained_on" not in sweep:
            by_start[int(sweep["restart"])].append((sweep["sweep"] + 1, sweep))
    own = list(by_start.get(kept, ()))
    before = max((x for x, _ in own), default=0)
    passes = [(before + sweep["sweep"] + 1, sweep) for sweep in sweeps if "trained_on" in sweep]
    named = [(f"start {start + 1}", start == kept, its) for start, its in by_start.items()]
    if passes:
        named.append(("trained models", True, passes))

    def of_each(value: str, total: int = 1) -> tuple[Series, ...]:
        return tuple(
            Series(
                name,
                tuple((x, told[value] / total) for x, told in its if told[value] is not None),
                kept=is_kept,
            )
            for name, is_kept, its in named
        )

    places = [sorted(words).index(word) for word in words]  # a search has its labels sorted
    return Course(
        unit="sweep",
        utility=of_each("utility"),
        shares=tuple(
            Series(
                word,
                tuple(
                    (x, told["counts"][k] / max(sum(told["counts"]), 1))
                    for x, told in (*own, *passes)
                ),
            )
            for word, k in zip(words, places, strict=True)
        ),
        moved=of_each("moved", items),
        accuracy=tuple(series for series in of_each("accuracy") if series.points),
    )


def _of_steps(steps: Sequence[Mapping[str, Any]], table: LabelTable) -> Course:
    by_batch: dict[int, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for number, step in enumerate(steps, start=1):
        by_batch[int(step.get("batch", 0))].append((number, step))
    names = {batch: f"batch {batch + 1}" for batch in by_batch}
    shares, accuracy = _replayed(steps, table)
    return Course(
        unit="step",
        utility=tuple(
            Series(names[batch], _thinned((number, step["U"]) for number, step in its))
            for batch, its in by_batch.items()
        ),
        shares=shares,
        moved=tuple(
            Series(names[batch], _thinned(_acceptance(its))) for batch, its in by_batch.items()
        ),
        accuracy=accuracy,
    )


def _acceptance(
    steps: Sequence[tuple[int, Mapping[str, Any]]],
) -> Iterable[tuple[float, float]]:
    accepted = [bool(step["accepted"]) for _, step in steps]
    for place, (number, _) in enumerate(steps):
        recent = accepted[max(0, place + 1 - STEPS_A_POINT) : place + 1]
        yield number, sum(recent) / len(recent)


def _replayed(
    steps: Sequence[Mapping[str, Any]], table: LabelTable
) -> tuple[tuple[Series, ...], tuple[Series, ...]]:
    """Return shares and accuracy of the labels that accepted steps have set."""
    replay = _Replay(table)
    shares: dict[str, list[tuple[float, float]]] = {word: [] for word in table.words}
    accuracy: list[tuple[float, float]] = []
    for number, step in enumerate(steps, start=1):
        if step["accepted"]:
            replay.relabel(step["item"], step["proposal"])
            for change in step["fix"]:
                replay.relabel(change["item"], change["after"])
        if replay.labels:
            for word, points in shares.items():
                points.append((number, replay.counts[word] / len(replay.labels)))
        if replay.judged:
            accuracy.append((number, replay.right / replay.judged))
    return (
        tuple(Series(word, _thinned(points)) for word, points in shares.items()),
        (Series("accuracy", _thinned(accuracy)),) if accuracy else (),
    )


class _Replay:
    """Labels that steps have set, by item, with what is counted over them.

    An item is a row's id; of a pair's other order, `ID (exchanged)`, no gold is known.
    """

    def __init__(self, table: LabelTable) -> None:
        golds = () if table.gold is None else table.gold.tolist()
        self._gold = {
            str(row): table.words[gold]
            for row, gold in zip(table.ids, golds, strict=bool(golds))
            if gold != NO_GOLD
        }
        self.labels: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.judged = 0
        self.right = 0

    def relabel(self, item: str, word: str | None) -> None:
        """Give the item the label, or none."""
        gold, before = self._gold.get(item), self.labels.pop(item, None)
        if before is not None:
            self._count(before, gold, -1)
        if word is not None:
            self.labels[item] = word
            self._count(word, gold, 1)

    def _count(self, word: str, gold: str | None, by: int) -> None:
        self.counts[word] += by
        if gold is not None:
            self.judged += by
            self.right += by * (word == gold)


def _thinned(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most `MOST_POINTS`, evenly taken; first and last stay."""
    every = tuple(points)
    if len(every) <= MOST_POINTS:
        return every
    last = len(every) - 1
    taken = {round(k * last / (MOST_POINTS - 1)) for k in range(MOST_POINTS)}
    return tuple(every[place] for place in sorted(taken))
