"""One labelling out of several runs over the same rows: `vote`. Nothing is asked.

match the runs' rows by what they hold; those that one run lacks are left out
a run that the others contradict, or whose names are exchanged against theirs, has no vote
count the others' votes (`icm_client.stats.votes`), under the task's rule and pins
compare every two runs, by gold or by what the others say
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from icm_client.coherence.assignment import prepared
from icm_client.coherence.problem import FloatArray, IntArray
from icm_client.data import FileFormat, LabelledRow, write_labels
from icm_client.data.messages import listed
from icm_client.endpoints import Exactness
from icm_client.endpoints.protocol import worst
from icm_client.errors import InputError
from icm_client.record.archive import Run
from icm_client.record.comparison import labels_by_row
from icm_client.record.run_labels import RunLabels, read_labels
from icm_client.runs.predictor import Predictor
from icm_client.stats.agreement import Agreement, Labelling, agreements
from icm_client.stats.votes import (
    FEWEST_LABELLINGS,
    HARDLY,
    ROWS_OF_A_LABEL,
    PairedTest,
    Standing,
    bounded,
    dawid_skene,
    exchanged,
    implied_accuracy,
    majority,
    paired_test,
    standings,
    weight,
    weighted_majority,
)
from icm_client.verdict.findings import recorded_verdict

VOTE = "the vote"
"""Its name in a comparison."""

CAMPS = (
    "the runs fall into camps of equal size that contradict each other, so none was left out: look "
    "at the contested rows before you use these labels"
)


@dataclass(frozen=True, slots=True)
class Voter:
    """A run, and what its votes are worth.

    Attributes:
        run: its name.
        model: that found its labels.
        verdict: on them.
        coherence: of them, for that model.
        standing: to what most of the others say; None where there are no two others.
        counts: whether it has a vote.
        weight: the most that its vote counts in a weighted majority, nats; a row of less confidence
            counts less. None where votes are counted otherwise.
        estimated: the share of its labels that is right, if the vote's probabilities are.
        agrees: the share that is the label voted for.
        accuracy: the share that is the gold label, of the rows with gold; None where none has.
    """

    run: str
    model: str | None
    verdict: str
    coherence: float
    standing: Standing | None
    counts: bool
    weight: float | None
    estimated: float
    agrees: float
    accuracy: float | None


class Comparison(NamedTuple):
    """A paired test of two runs, or of a run and the vote, by their names."""

    first: str
    second: str
    test: PairedTest


@dataclass(frozen=True, slots=True)
class Vote:
    """The labels voted for.

    Attributes:
        rows: the first run's that all label, with the label voted for; confidence and log-probs are
            the vote's.
        votes: for each row the label of each run.
        voters: the runs, in the order in which they were named.
        method: how votes were counted.
        gold: for each row, where a run knows it; None where none does.
        gold_field: its name in that run's data.
        pairs: how far every two runs agree, by their places.
        judged_by: who is right in `comparisons`: "gold", or "others", what most of the other runs
            with a vote say; None where there is neither.
        comparisons: of every two runs; by gold, of the vote and each run as well.
        left_out: rows that some runs lack.
        warnings: sentences on what a person must know before the labels are used.
        notices: sentences on what is worth knowing.
    """

    rows: tuple[LabelledRow, ...]
    votes: tuple[tuple[str, ...], ...]
    voters: tuple[Voter, ...]
    method: Literal["dawid-skene", "weighted-majority"]
    gold: tuple[str | None, ...] | None
    gold_field: str | None
    pairs: Mapping[tuple[int, int], Agreement]
    judged_by: Literal["gold", "others"] | None
    comparisons: tuple[Comparison, ...]
    left_out: int
    warnings: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def contested(self) -> tuple[int, ...]:
        """The rows that runs with a vote label differently, by number, the least certain first."""
        heard = [number for number, voter in enumerate(self.voters) if voter.counts]
        found = [n for n, votes in enumerate(self.votes) if len({votes[run] for run in heard}) > 1]
        return tuple(sorted(found, key=lambda number: self.rows[number].confidence or 0.0))

    @property
    def accuracy(self) -> float | None:
        """The share of the rows with gold that the vote has right; None where none has."""
        gold = self.gold or (None,) * len(self.rows)
        right = [row.label == one for row, one in zip(self.rows, gold, strict=True) if one]
        return sum(right) / len(right) if right else None

    def write(self, path: str | os.PathLike[str], *, format: FileFormat | None = None) -> None:  # noqa: A002 - the word that users know
        """Write the labels as those of a run, with a column `label_RUN` for each run's.

        Raises:
            InputError, SetupError: as `icm_client.data.write_labels`.
        """
        rows = []
        for one, votes in zip(self.rows, self.votes, strict=True):
            runs = {
                f"label_{voter.run}": label for voter, label in zip(self.voters, votes, strict=True)
            }
            rows.append(replace(one, row=replace(one.row, fields={**one.row.fields, **runs})))
        write_labels(path, rows, format=format, gold=self.gold, gold_field=self.gold_field)

    def summary(self) -> dict[str, Any]:
        """Return everything but the rows that nobody contests, as JSON values."""
        names = [voter.run for voter in self.voters]
        return {
            "rows": len(self.rows),
            "left_out": self.left_out,
            "method": self.method,
            "accuracy": self.accuracy,
            "runs": [
                {**asdict(voter), "standing": _stands(voter.standing)} for voter in self.voters
            ],
            "pairs": [
                {"first": names[one], "second": names[other], **asdict(pair)}
                for (one, other), pair in self.pairs.items()
            ],
            "judged_by": self.judged_by,
            "comparisons": [
                {"first": first, "second": second, "first_alone": a, "second_alone": b, "p": p}
                for first, second, (a, b, p) in self.comparisons
            ],
            "contested": [
                {
                    "id": self.rows[number].row.id,
                    "label": self.rows[number].label,
                    "confidence": self.rows[number].confidence,
                    "votes": dict(zip(names, self.votes[number], strict=True)),
                }
                for number in self.contested
            ],
            "warnings": list(self.warnings),
            "notices": list(self.notices),
        }


def _stands(found: Standing | None) -> dict[str, Any] | None:
    if found is None:
        return None
    said = {"contradicted": found.contradicted, "exchanged": found.exchanged}
    return {**said, "among_others": found.among_others, **asdict(found.with_others)}


def vote(runs: Sequence[Run]) -> Vote:
    """Let runs over the same rows vote on each row's label.

    Labels that a person pinned in one of the runs are kept, and the task's rule holds. Ids and
    fields of the rows are the first run's.

    Raises:
        InputError: fewer than two runs, or one named twice; they have no row in common, or other
            labels; one has no labels yet; pins contradict each other.
        RunError: a run's files are damaged.
    """
    kept = _read(runs)
    by_row = labels_by_row(runs)
    keys = [row for row in by_row[0] if all(row in one for one in by_row)]
    if not keys:
        raise InputError("no row has a label in all of these runs: leave one of them out")
    places = [{row: place for place, row in enumerate(one)} for one in by_row]
    at = [[one[row] for row in keys] for one in places]  # in the runs' files
    labellings = [{row: one[row].label for row in keys} for one in by_row]
    found = standings(labellings)
    outvoted = [one is not None and (one.contradicted or one.exchanged) for one in found]
    camps = 2 * sum(outvoted) >= len(runs)
    heard = [number for number in range(len(runs)) if camps or not outvoted[number]]

    words = sorted(kept[0].task.labels)
    votes = np.array([[words.index(one[row]) for one in labellings] for row in keys])
    coherences = [float(one.result.get("coherence") or 0.0) for one in kept]
    posterior, weights = _counted(votes, heard, coherences, _confidence(kept, at), len(words))
    rows = _labelled(runs[0], kept, at, posterior)
    gold_field, gold = _gold(kept, at)

    voted = {row: one.label for row, one in zip(keys, rows, strict=True)}
    known = {row: label for row, label in zip(keys, gold or (), strict=False) if label}
    voters = tuple(
        Voter(
            run=run.name,
            model=run.record["server"].get("model"),
            verdict=recorded_verdict(kept[number].result),
            coherence=coherences[number],
            standing=found[number],
            counts=number in heard,
            weight=None if weights is None else float(weights[number]),
            estimated=float(posterior[np.arange(len(keys)), votes[:, number]].mean()),
            agrees=_alike(labellings[number], voted),
            accuracy=_alike(labellings[number], known) if known else None,
        )
        for number, run in enumerate(runs)
    )
    judged_by, comparisons = _compared([run.name for run in runs], labellings, heard, voted, known)
    pairs = agreements(labellings)
    left_out = len({row for one in by_row for row in one}) - len(keys)
    return Vote(
        rows=rows,
        votes=tuple(zip(*(one.values() for one in labellings), strict=True)),
        voters=voters,
        method="dawid-skene" if weights is None else "weighted-majority",
        gold=gold,
        gold_field=gold_field,
        pairs=pairs,
        judged_by=judged_by,
        comparisons=comparisons,
        left_out=left_out,
        warnings=(CAMPS,) if camps else tuple(_warnings(voters, pairs)),
        notices=tuple(_notices(runs, voters, left_out)),
    )


def _read(runs: Sequence[Run]) -> list[RunLabels]:
    if len({run.path.resolve() for run in runs}) < max(len(runs), 2):
        raise InputError("a vote takes two runs or more, each named once")
    kept = [read_labels(run.path) for run in runs]
    for one in kept[1:]:
        if set(one.task.labels) != set(kept[0].task.labels):
            words = f"{listed(kept[0].task.labels)}, and {listed(one.task.labels)}"
            raise InputError(
                f"the runs {kept[0].name} and {one.name} have other labels ({words}): a vote takes "
                "runs with the same ones"
            )
    return kept


def _counted(
    votes: IntArray,
    heard: Sequence[int],
    coherences: Sequence[float],
    confidence: FloatArray,
    n_labels: int,
) -> tuple[FloatArray, FloatArray | None]:
    """The labels' probabilities `[N, K]`, and the weights `[R]` of a majority, if it is one."""
    if len(heard) >= FEWEST_LABELLINGS and len(votes) >= ROWS_OF_A_LABEL * n_labels:
        return dawid_skene(votes[:, heard], n_labels), None
    weights = np.zeros(len(coherences))
    implied = [implied_accuracy(coherences[number], n_labels) for number in heard]
    weights[heard] = bounded(np.array([weight(accuracy, n_labels) for accuracy in implied]))
    of_rows = np.vectorize(partial(weight, n_labels=n_labels))(confidence)
    return weighted_majority(votes, np.minimum(of_rows, weights), n_labels), weights


def _confidence(kept: Sequence[RunLabels], at: Sequence[Sequence[int]]) -> FloatArray:
    """How sure each run is of its labels, `[N, R]`; 1 where it gives no confidence."""
    columns = [
        [1.0 if (sure := one.records[n]["confidence"]) is None else float(sure) for n in places]
        for one, places in zip(kept, at, strict=True)
    ]
    return np.array(columns).T


def _labelled(
    first: Run, kept: Sequence[RunLabels], at: Sequence[Sequence[int]], posterior: FloatArray
) -> tuple[LabelledRow, ...]:
    """The first run's rows with the likeliest labels that rule and pins allow."""
    found = Predictor.load(first.path).found
    words = sorted(found.task.labels)
    by_word = np.log(np.maximum(posterior, np.finfo(np.float64).tiny))
    rows = []
    for number, places in enumerate(zip(*at, strict=True)):
        records = [one.records[place] for one, place in zip(kept, places, strict=True)]
        row = found.rows[places[0]].row
        pins = {str(record["label"]) for record in records if record.get("pinned") is True}
        if len(pins) > 1:
            raise InputError(
                f"the row {row.id!r} is pinned to {listed(sorted(pins))} in these runs: decide "
                "which is right, and run the others again"
            )
        rows.append(
            LabelledRow(
                row,
                label=min(pins, default=words[int(posterior[number].argmax())]),
                confidence=None,
                log_probs={
                    word: float(by_word[number, words.index(word)]) for word in found.task.labels
                },
                exactness=worst(Exactness(str(one["exactness"])) for one in records).value,
                pinned=bool(pins),
            )
        )
    voted = replace(found, rows=rows)
    job = voted.job()
    problem, assign = prepared(job.problem(pinned=voted.pins(job)))
    labels = assign(problem.hold_pins(voted.of_items(job)[1])).labels[job.row_items]
    return tuple(
        replace(row, label=words[label], confidence=float(posterior[number, label]))
        for number, (row, label) in enumerate(zip(rows, labels.tolist(), strict=True))
    )


def _gold(
    kept: Sequence[RunLabels], at: Sequence[Sequence[int]]
) -> tuple[str | None, tuple[str | None, ...] | None]:
    """Name and values of the gold labels that the first run with any knows."""
    for one, places in zip(kept, at, strict=True):
        if (column := one.gold_column) is not None:
            gold = tuple(one.records[place].get(column) for place in places)
            return str(one.result["gold_field"]), gold
    return None, None


def _alike(labels: Labelling, right: Labelling) -> float:
    return sum(labels[row] == label for row, label in right.items()) / len(right)


def _compared(
    names: Sequence[str],
    labellings: Sequence[Labelling],
    heard: Sequence[int],
    voted: Labelling,
    known: Labelling,
) -> tuple[Literal["gold", "others"] | None, tuple[Comparison, ...]]:
    """Test every two runs, by gold or else by what most of the others with a vote say."""
    found = []
    for one, other in combinations(range(len(names)), 2):
        others = [labellings[number] for number in heard if number not in (one, other)]
        right = known or (majority(others) if others else {})
        if right:
            test = paired_test(labellings[one], labellings[other], right)
            found.append(Comparison(names[one], names[other], test))
    if known:
        found += [
            Comparison(VOTE, name, paired_test(voted, own, known))
            for name, own in zip(names, labellings, strict=True)
        ]
        return "gold", tuple(found)
    return ("others" if found else None), tuple(found)


def _warnings(voters: Sequence[Voter], pairs: Mapping[tuple[int, int], Agreement]) -> Iterator[str]:
    for voter in voters:
        if voter.standing is not None:
            yield from _outvoted(voter.run, voter.standing)
    heard = {number for number, voter in enumerate(voters) if voter.counts}
    among = [pair for places, pair in pairs.items() if set(places) <= heard]
    if max(pair.exchanged_kappa or 0.0 for pair in among) < HARDLY:
        yield (
            "the runs hardly agree with each other, so what they vote for says little about the "
            "rows"
        )
    if len(voters) < FEWEST_LABELLINGS and exchanged(among[0]):
        yield (
            f"the two runs have the same classes under exchanged names ({_renamed(among[0])}): see "
            "which names are right before you use these labels"
        )
    for number in sorted(heard):
        if voters[number].verdict == "do not trust":
            yield f"the run {voters[number].run} has a vote, and is not to be trusted"


def _outvoted(run: str, found: Standing) -> Iterator[str]:
    alike = found.with_others
    if found.exchanged:
        yield (
            f"the run {run} has the others' classes under exchanged names ({_renamed(alike)}): so "
            f"read, it agrees with {alike.exchanged_share:.0%} of the {alike.rows:,} labels that "
            f"the others agree on, and as it is with {alike.share:.0%}. It has no vote: see which "
            "names are right"
        )
    elif found.contradicted:
        yield (
            f"the run {run} contradicts the others: it agrees with {alike.share:.0%} of the "
            f"{alike.rows:,} labels that they agree on (kappa {alike.kappa or 0.0:.2f}; among "
            f"themselves {found.among_others:.2f}). It has no vote: it follows something else, or "
            "its model misleads"
        )


def _renamed(alike: Agreement) -> str:
    return ", ".join(f"{theirs} as {ours}" for theirs, ours in alike.names.items())


def _notices(runs: Sequence[Run], voters: Sequence[Voter], left_out: int) -> Iterator[str]:
    if left_out:
        yield f"{left_out:,} rows have no label in some of the runs, and are left out"
    heard = [number for number, voter in enumerate(voters) if voter.counts]
    if len(heard) < FEWEST_LABELLINGS:
        best = max((voters[number] for number in heard), key=lambda voter: voter.coherence)
        yield (
            "two runs do not show which of them is right more often: contested rows have the label "
            f"of the one that is surer there ({best.run} is the more coherent one)"
        )
    asked: dict[str, list[str]] = {}
    for number in heard:
        model = str(runs[number].record["server"].get("fingerprint"))
        asked.setdefault(model, []).append(runs[number].name)
    for same in asked.values():
        if len(same) > 1:
            yield (
                f"{', '.join(same)} asked the same model, and may share its mistakes: the vote "
                "takes runs to err independently"
            )
