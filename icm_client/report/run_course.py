"""How a run went, sweep by sweep or step by step, as series to draw.

A sweep records `U`, how many items each label has, how many labels changed, and the labels after
it. A step of Algorithm 1 records which label it set: balance and accuracy follow, of the labels
that steps have set, since the journal does not name the few that the search started from.

Accuracy is measured afterwards, where there is gold; the search knew nothing of it. A sweep's
labels have the names that its start used. A search may exchange names at its end, and then the
sweeps of the start that was kept were wrong by name only. They are shown with the exchange of names
that agrees best with the run's final labels, or with none; gold has no part in that choice.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icm_client.coherence.matching import best_permutation, pair_counts
from icm_client.coherence.problem import UNLABELLED, IntArray
from icm_client.record.archive import Run
from icm_client.record.journal import PASS, SWEEP, read
from icm_client.record.layout import JOURNAL
from icm_client.record.run_labels import labels_by_sweep
from icm_client.report.label_table import NO_GOLD, LabelTable

STEPS_A_POINT = 50
"""Each point of the acceptance rate is the share of accepted steps among so many."""

MOST_POINTS = 400
"""A longer series, of thousands of steps, is thinned out to so many points."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: of it, for a legend.
        points: `(x, y)`, x rising.
        kept: whether it belongs to the labels that the run ended with.
        notes: each point's figures in words, in a chart that marks its points.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    kept: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Course:
    """The series of a run.

    Attributes:
        unit: "sweep" or "step": what x counts, from 1.
        utility: `U`, a series for each start (sweeps, nats an item) or batch (steps, the preset's
            own objective); passes of trained models are a series that continues the sweeps.
        shares: the labels' shares of the labelled rows, 0 to 1, a series for each label.
        moved: share of the labels that a sweep changed, a series for each start; of steps, the
            share of the last `STEPS_A_POINT` that were accepted, a series for each batch.
        accuracy: share of the labels with gold that are right, as `utility`; of steps one series.
            Empty where there is no gold, or the record holds no labels.
        renamed: whether names were exchanged for the accuracy, as the search did at its end.
    """

    unit: str
    utility: tuple[Series, ...]
    shares: tuple[Series, ...]
    moved: tuple[Series, ...]
    accuracy: tuple[Series, ...]
    renamed: bool = False


def read_course(run: Run, table: LabelTable) -> Course:
    """Return how the run went."""
    if sweeps := (run.result or {}).get("sweeps"):
        kept = int((run.result or {}).get("restart", 0))
        accuracy, renamed = _sweep_accuracy(run, table, sweeps, kept)
        return _of_sweeps(table.words, sweeps, kept, accuracy, renamed=renamed)
    events = read(run.path / JOURNAL)
    steps = [event for event in events if event["event"] == "step"]
    pairs = zip(table.ids, table.gold.tolist(), strict=True)
    gold = {str(row): table.words[gold] for row, gold in pairs if gold != NO_GOLD}
    return _of_steps(steps, _Replay(table.words, gold))


def read_course_so_far(run: Run) -> Course:
    """Return how a run goes that has no labels yet, from its journal; its latest start is kept."""
    events = read(run.path / JOURNAL)
    words = tuple(map(str, run.record["task"]["labels"]))
    latest = {
        (event["event"], event.get("restart"), event.get("sweep")): event
        for event in events
        if event["event"] in (SWEEP, PASS)
    }
    if not latest:
        steps = [event for event in events if event["event"] == "step"]
        return _of_steps(steps, _Replay(words))
    order = sorted(words)  # as the search numbers its labels
    sweeps = [
        {**event, "counts": [event["counts"][word] for word in order]} for event in latest.values()
    ]
    kept = max(sweep["restart"] for sweep in sweeps)
    return _of_sweeps(words, sweeps, kept, [None] * len(sweeps), renamed=False)


def _of_sweeps(
    words: Sequence[str],
    sweeps: Sequence[Mapping[str, Any]],
    kept: int,
    accuracy: Sequence[float | None],
    *,
    renamed: bool,
) -> Course:
    starts: dict[int, list[tuple[int, int]]] = defaultdict(list)  # x, place in `sweeps`
    for place, sweep in enumerate(sweeps):
        if "trained_on" not in sweep:
            starts[int(sweep["restart"])].append((sweep["sweep"] + 1, place))
    own = starts.get(kept, [])
    before = max((x for x, _ in own), default=0)
    passes = [
        (before + sweep["sweep"] + 1, place)
        for place, sweep in enumerate(sweeps)
        if "trained_on" in sweep
    ]
    named = [(f"start {start + 1}", start == kept, its) for start, its in starts.items()]
    if passes:
        named.append(("trained models", True, passes))

    def lines(values: Sequence[float | None]) -> tuple[Series, ...]:
        return tuple(
            Series(
                name,
                tuple((x, value) for x, place in its if (value := values[place]) is not None),
                kept=is_kept,
            )
            for name, is_kept, its in named
        )

    items = max(1, *(sum(sweep["counts"]) for sweep in sweeps))  # the first leaves demos out
    order = sorted(words)  # as the search numbers its labels
    return Course(
        unit="sweep",
        utility=lines([sweep["utility"] for sweep in sweeps]),
        shares=tuple(
            Series(word, tuple((x, _share(sweeps[place], k)) for x, place in (*own, *passes)))
            for word, k in ((word, order.index(word)) for word in words)
        ),
        moved=lines([sweep["moved"] / items for sweep in sweeps]),
        accuracy=tuple(one for one in lines(accuracy) if one.points),
        renamed=renamed,
    )


def _share(sweep: Mapping[str, Any], k: int) -> float:
    return float(sweep["counts"][k] / max(sum(sweep["counts"]), 1))


def _sweep_accuracy(
    run: Run, table: LabelTable, sweeps: Sequence[Mapping[str, Any]], kept: int
) -> tuple[list[float | None], bool]:
    """For each sweep the share of the rows with gold whose label was right then.

    Rows that had no label then are not counted: the first sweep scores no row that it starts from.
    Starts that were not kept keep their names.

    Returns:
        None where nothing is known: no gold, or a record without labels. And whether names were
        exchanged.
    """
    unknown: list[float | None] = [None] * len(sweeps)
    if not table.judged.any():
        return unknown, False
    words = sorted(table.words)  # as the search numbers its labels
    numbers = np.array([words.index(word) for word in table.words])
    found = labels_by_sweep(run.path / JOURNAL, sweeps, words)
    passes = [place for place, sweep in enumerate(sweeps) if "trained_on" in sweep]
    own = [
        place
        for place, sweep in enumerate(sweeps)
        if "trained_on" not in sweep and sweep["restart"] == kept
    ]
    final = _with_all_rows(numbers[table.held], [found[place] for place in (*own, *passes)])
    if final is None:
        return unknown, False
    renamed = False
    for places in ([place for place in own if not sweeps[place].get("renamed")], passes):
        known = [(place, labels) for place in places if (labels := found[place]) is not None]
        if not known:
            continue
        names = np.array(final_names(known[-1][1], final, len(words)))
        renamed |= bool((names != np.arange(len(words))).any())
        for place, labels in known:
            found[place] = np.where(labels == UNLABELLED, UNLABELLED, names[labels])
    gold = np.full(len(final), UNLABELLED)
    gold[final != UNLABELLED] = np.where(table.judged, numbers[table.gold], UNLABELLED)
    return [None if labels is None else _accuracy(labels, gold) for labels in found], renamed


def final_names(labels: IntArray, final: IntArray, n_labels: int) -> tuple[int, ...]:
    """Return the exchange of names by which a start's last labels agree best with the run's.

    Args:
        labels: shape `[N]`, the start's, `UNLABELLED` where a row has none.
        final: shape `[N]`, the run's, as `labels`.
        n_labels: `K`.

    Returns:
        Label `k` is to be called `names[k]`; unchanged where no exchange agrees better.
    """
    known = labels != UNLABELLED
    return best_permutation(pair_counts(labels[known], final[known], n_labels))


def _with_all_rows(held: IntArray, by_sweep: Sequence[IntArray | None]) -> IntArray | None:
    """The run's labels over all rows of the data, `UNLABELLED` where a row has none.

    Rows that the server refused are not in the labels file; the last sweep has no label for them
    either. None where no sweep has labels, or the last one has other rows than the file.
    """
    last = next((labels for labels in reversed(by_sweep) if labels is not None), None)
    if last is None:
        return None
    labelled = np.ones(len(last), bool) if len(last) == len(held) else last != UNLABELLED
    if labelled.sum() != len(held):
        return None
    final = np.full(len(last), UNLABELLED)
    final[labelled] = held
    return final


def _accuracy(labels: IntArray, gold: IntArray) -> float | None:
    judged = (gold != UNLABELLED) & (labels != UNLABELLED)
    return float((labels == gold)[judged].mean()) if judged.any() else None


def _of_steps(steps: Sequence[Mapping[str, Any]], replay: "_Replay") -> Course:
    batches: dict[int, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for number, step in enumerate(steps, start=1):
        batches[int(step.get("batch", 0))].append((number, step))
    shares, accuracy = _replayed(steps, replay)
    return Course(
        unit="step",
        utility=tuple(
            Series(f"batch {batch + 1}", _thinned([(number, step["U"]) for number, step in its]))
            for batch, its in batches.items()
        ),
        shares=shares,
        moved=tuple(
            Series(f"batch {batch + 1}", _thinned(_acceptance(its)))
            for batch, its in batches.items()
        ),
        accuracy=accuracy,
    )


def _acceptance(steps: Sequence[tuple[int, Mapping[str, Any]]]) -> list[tuple[float, float]]:
    accepted = [bool(step["accepted"]) for _, step in steps]
    recent = (accepted[max(0, end - STEPS_A_POINT) : end] for end in range(1, len(accepted) + 1))
    return [(number, sum(of) / len(of)) for (number, _), of in zip(steps, recent, strict=True)]


def _replayed(
    steps: Sequence[Mapping[str, Any]], replay: "_Replay"
) -> tuple[tuple[Series, ...], tuple[Series, ...]]:
    """Shares and accuracy of the labels that accepted steps have set."""
    shares: dict[str, list[tuple[float, float]]] = {word: [] for word in replay.words}
    accuracy: list[tuple[float, float]] = []
    for number, step in enumerate(steps, start=1):
        if step["accepted"]:
            replay.relabel(step["item"], step["proposal"])
            for change in step["fix"]:
                replay.relabel(change["item"], change["after"])
        for word, points in shares.items():
            if replay.labels:
                points.append((number, replay.counts[word] / len(replay.labels)))
        if judged := replay.right + replay.wrong:
            accuracy.append((number, replay.right / judged))
    return (
        tuple(Series(word, _thinned(points)) for word, points in shares.items()),
        (Series("accuracy", _thinned(accuracy)),) if accuracy else (),
    )


class _Replay:
    """Labels by item: a row's id, or `ID (exchanged)` for a pair's other order, without gold."""

    def __init__(self, words: Sequence[str], gold: Mapping[str, str] | None = None) -> None:
        self.words = words
        self._gold = gold or {}
        self.labels: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.right = self.wrong = 0

    def relabel(self, item: str, word: str | None) -> None:
        """Give the item the label, or none."""
        gold = self._gold.get(item)
        for by, each in ((-1, self.labels.pop(item, None)), (1, word)):
            if each is None:
                continue
            self.counts[each] += by
            if gold is not None:
                self.right += by * (each == gold)
                self.wrong += by * (each != gold)
        if word is not None:
            self.labels[item] = word


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most `MOST_POINTS`, evenly taken; first and last stay."""
    if len(points) <= MOST_POINTS:
        return tuple(points)
    last = len(points) - 1
    taken = {round(k * last / (MOST_POINTS - 1)) for k in range(MOST_POINTS)}
    return tuple(points[place] for place in sorted(taken))
