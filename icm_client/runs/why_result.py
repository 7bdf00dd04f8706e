"""What carries a row's label, and which rows teach which: what `icm_client.runs.why` finds."""

from dataclasses import dataclass

from icm_client.endpoints import ServerIdentity
from icm_client.scoring import ScorerStats


@dataclass(frozen=True, slots=True)
class CarryingDemo:
    """A row as a demo with its label, and what it does for another row's label.

    `left_out` and `relabelled` are by how many nats that one's log-odds fall without the demo, and
    with another label of it; under 0 they rise. Each order of a pair is a demo of its own.
    """

    row: str | int
    label: str
    text: str
    left_out: float
    relabelled: float


@dataclass(frozen=True, slots=True)
class CarryingSpan:
    """Characters `start` to `end` of a field's text; `effect` as that of a demo that is left out.

    It is None where the server could not read the row so.
    """

    field: str
    start: int
    end: int
    text: str
    effect: float | None = None


@dataclass(frozen=True, slots=True)
class OtherLabel:
    """What another run says of the row: None what it does not say; `kappa` is of all rows."""

    run: str
    label: str | None = None
    confidence: float | None = None
    kappa: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a row has its label.

    Attributes:
        run: the run's name.
        row: the row's id.
        label: that the run gave it.
        other: the likeliest of the other labels, as read here.
        log_odds: of `label` against it, nats, given all demos.
        shown: demos in the context.
        demos: those that were tried one by one, the ones that speak most for the label first.
        unread: how many were not.
        unread_effect: nats, the most that a block of those does for the label or against it;
            None where not all of these blocks were read, either.
        spans: of the row's texts, in their order.
        beside: what other runs say of it.
        server: who was asked.
        notices: sentences on what is worth knowing.
        stats: what was asked.
    """

    run: str
    row: str | int
    label: str
    other: str
    log_odds: float
    shown: int
    demos: tuple[CarryingDemo, ...]
    unread: int
    unread_effect: float | None
    spans: tuple[CarryingSpan, ...]
    beside: tuple[OtherLabel, ...]
    server: ServerIdentity
    notices: tuple[str, ...]
    stats: ScorerStats

    def sentence(self) -> str:
        """Return in a sentence what the row was read as."""
        read = "" if self.log_odds >= 0 else f", and read as {self.other} in this one context"
        return (
            f"{self.row} is labelled {self.label}{read}: log-odds {self.log_odds:+.2f} against "
            f"{self.other}, given {self.shown} demos"
        )


@dataclass(frozen=True, slots=True)
class TeachingRow:
    """A row as a demo, and what its label does for the labels of the rows that it is shown to.

    Attributes:
        row: its id.
        label: that it is shown with.
        text: what it says.
        effect: nats by which their log-odds fall where it has another label, on average; under 0
            it speaks against the others' labels.
        helped: share of the rows whose log-odds fall.
    """

    row: str | int
    label: str
    text: str
    effect: float
    helped: float


@dataclass(frozen=True, slots=True)
class Teaching:
    """Which rows of a run teach others.

    Attributes:
        run: its name.
        rows: those that were tried as demos, the ones that teach most first.
        read_by: how many rows each was shown to, at least.
        speak_for: share of the demos whose label speaks for those of the others.
        of_a_tenth: the most teaching tenth's share of all that demos do for others' labels; None
            where none do anything.
        unread: demos that no reads were left for.
        server: who was asked.
        notices: sentences on what is worth knowing.
        stats: what was asked.
    """

    run: str
    rows: tuple[TeachingRow, ...]
    read_by: int
    speak_for: float
    of_a_tenth: float | None
    unread: int
    server: ServerIdentity
    notices: tuple[str, ...]
    stats: ScorerStats

    def sentence(self) -> str:
        """Return in a sentence what was found."""
        tenth = (
            ""
            if self.of_a_tenth is None
            else f"; the most teaching tenth does {self.of_a_tenth:.0%} of what all do for them"
        )
        return (
            f"{self.speak_for:.0%} of {len(self.rows):,} demos speak for the labels of the "
            f"{self.read_by} rows that each was shown to{tenth}"
        )
