"""What a finding is, and the verdict that findings add up to. `diagnosis.py` collects them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Severity = Literal["fatal", "check", "note"]
"""`fatal`: the labels are not to be trusted. `check`: something may be wrong with them, look at
some. `note`: good to know."""

Verdict = Literal["trust", "check", "do not trust"]
"""What all findings of a run say about its labels."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""The best first."""

NO_CONFIDENCE = (
    'No confidence is given: the verdict is "do not trust", and how likely each label is right is '
    "estimated from the labels themselves."
)
"""Why the labels of such a run have no confidence."""

TRY_ANOTHER_QUESTION = (
    "Try a larger base model, label words that say what is meant, or a template that asks the "
    "question more plainly."
)
"""Advice where the model does not see the concept."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person must know before the labels are used.

    Attributes:
        code: a stable name for programs.
        message: what was found, in a plain sentence.
        advice: what to do.
        severity: how bad it is.
        figures: what was measured, and where it helps what is needed; empty for nothing.
    """

    code: str
    message: str
    advice: str
    severity: Severity
    figures: str = ""

    @property
    def fatal(self) -> bool:
        """The labels are not to be trusted."""
        return self.severity == "fatal"

    @property
    def text(self) -> str:
        """Message, advice and figures in one paragraph."""
        return f"{self.message} {self.advice}{f' ({self.figures}.)' if self.figures else ''}"

    def summary(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {**asdict(self), "fatal": self.fatal}


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings by severity; those of one severity stay in their order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict: the worst finding decides."""
    severities = {finding.severity for finding in findings}
    if "fatal" in severities:
        return "do not trust"
    return "check" if "check" in severities else "trust"


def of_run(stopped: object) -> str:
    """Return what a verdict is of where the run did not come to its end; else nothing.

    Args:
        stopped: what ended it, `a limit of 20 requests`; None where nothing did.
    """
    return "" if stopped is None else f", of a run that {stopped} ended early"


def recorded_severity(finding: Mapping[str, Any]) -> Severity:
    """Return a recorded finding's severity: one from before severities is fatal or `check`."""
    older: Severity = "fatal" if finding.get("fatal") else "check"
    return next((one for one in SEVERITIES if one == finding.get("severity")), older)


def recorded_finding(finding: Mapping[str, Any]) -> Finding:
    """Return a finding of a run's record; an older version recorded less."""
    code, message, advice, figures = (
        str(finding.get(name, "")) for name in ("code", "message", "advice", "figures")
    )
    return Finding(code, message, advice, recorded_severity(finding), figures)


def recorded_verdict(result: Mapping[str, Any]) -> Verdict:
    """Return the verdict in a run's record; of one without a verdict, that of its findings."""
    recorded = next((one for one in VERDICTS if one == result.get("verdict")), None)
    return recorded or verdict_of(recorded_finding(one) for one in result.get("findings", ()))


def many(count: int, word: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
