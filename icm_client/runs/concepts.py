"""Several concepts of the same rows: a run for each, independent of those before it.

for 1, 2, .., at most N:
    search, unlike all labels found so far (`icm_client.coherence.unlike`)
    stop where these labels follow no concept
which one is meant, a person says, by what its clearest rows have in common

A model may hold several concepts of the same rows. Where the label words do not choose, chance
decides at which of them a search ends, and nothing in its coherence tells the one that was meant.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Final

from icm_client.coherence.unlike import classes_of
from icm_client.data import FileFormat, LabelledRow
from icm_client.data.rows import FailedRow
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, RunStopped
from icm_client.runs.label import label_prepared
from icm_client.runs.labels_file import read_classes
from icm_client.runs.progress import OnProgress, left_of
from icm_client.runs.request import PreparedRun
from icm_client.runs.result import Labels
from icm_client.runs.server import Server
from icm_client.scoring import ScoreStore
from icm_client.stats.agreement import Agreement, agreement

NAMES: Final = frozenset({"ambiguous-names", "names-reversed"})
"""Fatal findings that speak of the names only: the labels themselves follow a concept."""

CLEAREST: Final = 3
"""Rows of each label that are shown."""


def follows_a_concept(labels: Labels) -> bool:
    """Whether the labels are coherent, whatever they should be called."""
    return not any(finding.fatal and finding.code not in NAMES for finding in labels.findings)


def clearest_rows(labels: Labels, count: int = CLEAREST) -> dict[str, tuple[LabelledRow, ...]]:
    """The rows of each label whose log-prob lies farthest above the next best one's."""

    def lead(row: LabelledRow) -> float:
        return row.log_probs[row.label] - max(
            log_prob for word, log_prob in row.log_probs.items() if word != row.label
        )

    by_label: dict[str, list[LabelledRow]] = {word: [] for word in labels.labels}
    for row in labels.rows:
        by_label[row.label].append(row)
    return {
        word: tuple(sorted(rows, key=lead, reverse=True)[:count]) for word, rows in by_label.items()
    }


@dataclass(frozen=True, repr=False)
class ConceptLabels:
    """The labels of all concepts that were found.

    Attributes:
        concepts: what each run has found, in order; at least one.
        nothing: what the last run found where its labels follow no concept; None where as many
            concepts were found as were asked for, or a limit ended the runs.
        pick: the number of the concept whose labels are written, from 1.
        stopped: the limit that ended the runs.
    """

    concepts: tuple[Labels, ...]
    nothing: Labels | None
    pick: int
    stopped: str | None

    def __repr__(self) -> str:
        """Return a line: the rows themselves may be thousands."""
        return f"<{len(self.concepts)} concepts, the first of them {self.concepts[0]!r}>"

    @property
    def picked(self) -> Labels:
        """The labels of the concept that was picked.

        Raises:
            InputError: there are not so many.
        """
        if self.pick > len(self.concepts):
            raise InputError(
                f"concept {self.pick} was picked, and {len(self.concepts)} were found: pick another"
            )
        return self.concepts[self.pick - 1]

    @property
    def failed(self) -> tuple[FailedRow, ...]:
        """The rows without a label, of the concept that was picked."""
        return self.picked.failed

    @cached_property
    def agreements(self) -> Mapping[tuple[int, int], Agreement]:
        """How far every two concepts' labels agree, by their numbers from 1."""
        by_id = [labels.by_id for labels in self.concepts]
        return {
            (one + 1, other + 1): agreement(by_id[one], by_id[other])
            for one, other in combinations(range(len(by_id)), 2)
        }

    def write(self, path: str | os.PathLike[str], *, format: FileFormat | None = None) -> None:  # noqa: A002 - the word that users know
        """Write the labels of the concept that was picked; as `Labels.write`."""
        self.picked.write(path, format=format)

    def summary(self) -> dict[str, Any]:
        """Everything but the rows, as JSON values; of each concept its clearest rows' ids."""
        return {
            "picked": self.pick,
            "concepts": [
                {
                    **labels.summary(),
                    "clearest": {
                        word: [row.row.id for row in rows]
                        for word, rows in clearest_rows(labels).items()
                    },
                }
                for labels in self.concepts
            ],
            "agreement": [
                {"first": one, "second": other, **asdict(found)}
                for (one, other), found in self.agreements.items()
            ],
            "no_further_concept": None if self.nothing is None else self.nothing.summary(),
            "stopped": self.stopped,
        }


async def find_concepts(
    prepared: PreparedRun,
    most: int,
    *,
    pick: int = 1,
    endpoint: Endpoint | Server | str | None,
    store: ScoreStore,
    began: Callable[[int], None] = lambda _: None,
    progress: OnProgress | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> ConceptLabels:
    """Find up to `most` concepts, each independent of those before it.

    The budget is that of all runs together. Where the first labels follow no concept, they are
    returned as the only ones, with their verdict.

    Args:
        prepared: all rows (`LabelRequest.read`).
        most: runs at most.
        pick: the number of the concept to write, from 1.
        endpoint: as for `icm_client.label`, like all that follow but `began`.
        store: of all runs.
        began: called with a concept's number, before its run.
        progress: of the run under way.
        stopping: once it says so, the run under way is stopped, and `RunStopped` raised.

    Raises:
        InputError: more is picked than looked for.
        IcmError: as `icm_client.label`. What earlier runs have found is in their folders, and the
            same call goes on.
    """
    if not 1 <= pick <= most:
        raise InputError(f"concept {pick} cannot be picked of {most}: they count from 1")
    concepts: list[Labels] = []
    nothing: Labels | None = None
    stopped: str | None = None
    known = [] if prepared.unlike is None else [prepared.unlike]
    for number in range(1, most + 1):
        costs = [found.cost for found in concepts]
        budget, stopped = left_of(prepared.request.budget, costs)
        if stopped is not None:
            break
        began(number)
        run = replace(
            prepared,
            request=replace(prepared.request, budget=budget),
            unlike=classes_of(known) if known else None,
        )
        try:
            found = await label_prepared(
                run.sampled(),
                endpoint=endpoint,
                store=store,
                progress=progress,
                stopping=stopping,
            )
        except RunStopped as ended:
            if stopping() or not concepts:
                raise
            stopped = str(ended)
            break
        if concepts and not follows_a_concept(found):
            nothing, stopped = found, found.stopped
            break
        concepts.append(found)
        stopped = found.stopped
        if stopped is not None or not follows_a_concept(found):
            break
        known.append(read_classes(found.by_id, prepared.whole))
    return ConceptLabels(tuple(concepts), nothing, pick, stopped)
