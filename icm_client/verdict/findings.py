"""What a diagnosis is made of: findings, and the verdict that they add up to."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Severity = Literal["fatal", "check", "note"]
"""`fatal`: the labels are not to be trusted. `check`: something may be wrong with them, look at
some. `note`: good to know."""

Verdict = Literal["trust", "check", "do not trust"]
"""What all findings together say of the labels."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""The best first."""


NO_CONFIDENCE = (
    'No confidence is given: the verdict is "do not trust", and how likely each label is right is '
    "estimated from the labels themselves."
)
"""Why the labels of a run have none, in a sentence."""


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
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """What the findings add up to: the worst of them decides."""
    return _verdict({finding.severity for finding in findings})


def recorded_severity(finding: Mapping[str, Any]) -> Severity:
    """Of a finding in a run's record; one from before severities is fatal or to be looked at."""
    older: Severity = "fatal" if finding.get("fatal") else "check"
    return next((one for one in SEVERITIES if one == finding.get("severity")), older)


def recorded_verdict(result: Mapping[str, Any]) -> Verdict:
    """Of a run's record; of one without a verdict what its findings add up to."""
    told = next((one for one in VERDICTS if one == result.get("verdict")), None)
    return told or _verdict({recorded_severity(one) for one in result.get("findings", ())})


def _verdict(severities: Collection[Severity]) -> Verdict:
    if "fatal" in severities:
        return "do not trust"
    return "check" if "check" in severities else "trust"


def many(count: int, word: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
