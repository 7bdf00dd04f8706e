"""Several runs' labels as one balanced set of preferences, for trl's DPOTrainer.

Every run has the same share of it, and every label the same share of its run. So neither the run
with the most rows nor a task's frequent label decides what a model learns.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from icm_client.data.messages import shown
from icm_client.data.outputs import explained
from icm_client.data.whole_files import replace_file
from icm_client.errors import InputError
from icm_client.record.archive import Run
from icm_client.record.run_labels import RunLabels
from icm_client.training.card import CardFacts, export_card, table
from icm_client.training.examples import preferences_of
from icm_client.training.exports import (
    Export,
    check_request,
    kept_rows,
    labels_of,
    warnings_of,
    write_lines,
)
from icm_client.verdict.findings import VERDICTS, Verdict, recorded_verdict

_CONTRADICTED = "a row that is labelled differently elsewhere in these runs"
_REPEATED = "a row that is there already"
_BEYOND = "beyond the smallest share"

_Preferences = list[dict[str, str]]


@dataclass(slots=True)
class _Part:
    """One run's share.

    Attributes:
        run: whose labels they are.
        found: all of its labels.
        kept: those that may be exported.
        preferences: for each row of `kept` its records.
        left_out: why rows are missing, and how many.
        rows: numbers of the rows of `kept` that are exported.
    """

    run: Run
    found: RunLabels
    kept: RunLabels
    preferences: list[_Preferences]
    left_out: dict[str, int]
    rows: list[int]

    def leave_out(self, rows: Sequence[int], why: str) -> None:
        if rows:
            gone = set(rows)
            self.rows = [row for row in self.rows if row not in gone]
            self.left_out[why] = self.left_out.get(why, 0) + len(gone)

    @property
    def words(self) -> tuple[str, ...]:
        """The labels that have a share: of pairs the two that prefer a response."""
        task = self.kept.task
        return task.labels if task.exchange is None else task.holds_words

    def of_label(self, word: str) -> list[int]:
        return [row for row in self.rows if self.kept.labels[row] == word]


def export_combined(
    runs: Sequence[Run],
    path: str | os.PathLike[str],
    *,
    min_confidence: float | None = None,
    seed: int = 0,
) -> Export:
    """Write the preferences of several runs in equal shares, and a card that lists the runs.

    A row that several runs label alike is taken once, and one that they label differently not at
    all. Which rows are taken, and their order, is drawn.

    Raises:
        InputError: as `export_run`; a run is named twice; or of a run no row with one of its labels
            is left, so that no share can be equal.
        RunError: a run's files are damaged.
    """
    name = os.fspath(path)
    twice = [run for run, count in Counter(run.path.resolve() for run in runs).items() if count > 1]
    if twice:
        raise InputError(f"the run {twice[0].name} is named twice: its rows would count double")
    parts = []
    for run in runs:
        found = labels_of(run)
        check_request(found, "dpo", name, min_confidence=min_confidence, gold=None)
        kept, left_out = kept_rows(run, found, "dpo", min_confidence)
        every = list(range(len(kept.labels)))
        parts.append(_Part(run, found, kept, preferences_of(kept), left_out, every))
    _once(parts)
    rng = np.random.default_rng(seed)
    _balance(parts, rng)
    rows = [part.preferences[row] for part in parts for row in part.rows]
    lines = [record for place in rng.permutation(len(rows)) for record in rows[place]]
    facts = [_facts(part, min_confidence) for part in parts]
    verdict = max((one.verdict for one in facts), key=VERDICTS.index)
    card = Path(f"{name}.md")
    with explained(name):
        replace_file(card, _card(facts, len(lines), seed, verdict).encode("utf-8", "replace"))
        write_lines(Path(os.path.realpath(name)), lines)
    missing: Counter[str] = Counter()
    for part in parts:
        missing.update(part.left_out)
    return Export(
        path=Path(name),
        card=card,
        format="dpo",
        rows=len(rows),
        records=len(lines),
        left_out=dict(missing),
        verdict=verdict,
        warnings=tuple(f"{one.run.name}: {said}" for one in facts for said in warnings_of(one)),
        shares={one.run.name: dict(one.exported) for one in facts},
    )


def _once(parts: Sequence[_Part]) -> None:
    """Leave out rows that are labelled differently, and of those labelled alike all but the first.

    Two rows are the same where their records hold the same texts, whichever of these is chosen.
    """
    chosen: dict[object, set[str]] = {}
    keys = [
        [
            (records[0]["prompt"], frozenset(text for one in records for text in _texts(one)))
            for records in part.preferences
        ]
        for part in parts
    ]
    for part, own in zip(parts, keys, strict=True):
        for row in part.rows:
            chosen.setdefault(own[row], set()).add(part.preferences[row][0]["chosen"])
    taken: set[object] = set()
    for part, own in zip(parts, keys, strict=True):
        part.leave_out([row for row in part.rows if len(chosen[own[row]]) > 1], _CONTRADICTED)
        repeated = []
        for row in part.rows:
            if own[row] in taken:
                repeated.append(row)
            taken.add(own[row])
        part.leave_out(repeated, _REPEATED)


def _texts(record: dict[str, str]) -> tuple[str, str]:
    return record["chosen"], record["rejected"]


def _balance(parts: Sequence[_Part], rng: np.random.Generator) -> None:
    """Leave out rows until each run has as many, and each label as many as the run's others."""
    fewest = [
        min((len(part.of_label(word)), word) for word in part.words)  # the rarest label
        for part in parts
    ]
    for part, (count, word) in zip(parts, fewest, strict=True):
        if not count:
            raise InputError(
                f"the run {part.run.name}: no row with the label {shown(word)} is left, so its "
                "labels cannot have equal shares: leave the run out"
            )
    share = min(len(part.words) * count for part, (count, _) in zip(parts, fewest, strict=True))
    for part in parts:
        drawn: set[int] = set()
        for word in part.words:
            own = part.of_label(word)
            picked = rng.permutation(len(own))[: share // len(part.words)]
            drawn.update(own[place] for place in picked)
        part.leave_out([row for row in part.rows if row not in drawn], _BEYOND)


def _facts(part: _Part, min_confidence: float | None) -> CardFacts:
    return CardFacts(
        run=part.run,
        to="dpo",
        task=part.found.task,
        found=Counter(part.found.labels),
        exported=Counter(part.kept.labels[row] for row in part.rows),
        records=sum(len(part.preferences[row]) for row in part.rows),
        left_out=part.left_out,
        min_confidence=min_confidence,
        with_gold=False,
        verdict=recorded_verdict(part.run.result or {}),
    )


def _card(facts: Sequence[CardFacts], records: int, seed: int, verdict: Verdict) -> str:
    """Return the card: what the runs have in common, then each run's own card."""
    shares = [
        (
            f"`{one.run.name}`",
            one.verdict,
            sum(one.found.values()),
            sum(one.exported.values()),
            ", ".join(f"{label} {count}" for label, count in sorted(one.exported.items())),
        )
        for one in facts
    ]
    said = (
        f"{records:,} records: JSON Lines: `prompt`, `chosen`, `rejected` (trl's preference). Each "
        "run has the same share of the rows, and each label the same share of its run. The rows "
        f"were drawn and shuffled with the seed {seed}."
    )
    parts = [
        f"# Labels of {len(facts)} runs in equal shares",
        f"**Verdict: {verdict}**, the worst of the runs'.",
        said,
        table(("run", "verdict", "rows found", "rows here", "of each label"), shares),
        *(export_card(one, "##") for one in facts),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
