"""Which rows of a run a person is best asked about: `icm-client ask`."""

from collections.abc import Sequence
from dataclasses import dataclass

from icm_client.record.archive import Run


@dataclass(frozen=True, slots=True)
class Asked:
    """A row that a person is to be asked about.

    Attributes:
        id: of the row.
        prompt: what the model was asked.
        label: that the run has found.
        confidence: of the label; None where the run has none.
        reason: why this row is asked about, in words.
    """

    id: str | int
    prompt: str
    label: str
    confidence: float | None
    reason: str


def choose_rows(run: Run, budget: int) -> Sequence[Asked]:
    """Return the rows to ask about, in the order in which to ask.

    Rows that are pinned, or that somebody has checked already, are left out.

    Args:
        run: from `icm_client.record.archive.find_run`.
        budget: how many rows; fewer are returned where the run has fewer.

    Raises:
        InputError: the run has no labels yet, or the budget is not at least 1.
        RunError: its files are damaged.
    """
    raise NotImplementedError
