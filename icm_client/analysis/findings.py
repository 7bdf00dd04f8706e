"""What a diagnosis is made of: findings, and the verdict that they add up to."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["fatal", "check", "note"]
"""`fatal`: the labels are not to be trusted. `check`: something may be wrong with them, look at
some. `note`: good to know."""

Verdict = Literal["trust", "check", "do not trust"]
"""What all findings together say of the labels."""

_ORDER: tuple[Severity, ...] = ("fatal", "check", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person must know before the labels are used.

    Attributes:
        code: a stable name for programs.
        message: what was seen, with its figures.
        advice: what to do.
        severity: how bad it is.
    """

    code: str
    message: str
    advice: str
    severity: Severity

    @property
    def fatal(self) -> bool:
        """The labels are not to be trusted."""
        return self.severity == "fatal"

    def summary(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {**asdict(self), "fatal": self.fatal}


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings by severity; those of one severity as they came."""
    return tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity)))


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """What the findings add up to: the worst of them decides."""
    found = {finding.severity for finding in findings}
    if "fatal" in found:
        return "do not trust"
    return "check" if "check" in found else "trust"


def many(count: int, word: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
