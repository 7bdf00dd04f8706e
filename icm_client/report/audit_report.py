"""The page of an audit: the suspects one by one, all given labels, and a download of checked ones.

Style sheet, script and rules are those of a run's report (`report.py`): one file, no requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from icm_client.report.label_table import LabelTable
from icm_client.report.report import Matrix, page, write_page
from icm_client.report.report_data import Said, page_rows
from icm_client.stats.label_noise import LabelNoise

_SAID = Said(found="given", gold="read as", first="the most suspect first", file="the data")


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Everything that the page shows.

    Attributes:
        table: the rows: the given label as `held`, how probably it is right as `confidence`, what
            it was read as in the place of `gold`.
        data: the data's name.
        sentence: what was found.
        suspects: rows whose given label is more probably wrong than right.
        noise: the estimates.
        facts: name -> value, of the audit.
        notices: sentences on what is worth knowing.
    """

    table: LabelTable
    data: str
    sentence: str
    suspects: int
    noise: LabelNoise
    facts: Mapping[str, str]
    notices: tuple[str, ...]


def write_audit_page(found: AuditPage, path: Path) -> None:
    """Write the page; an old file is replaced in one step.

    Raises:
        RunError: it cannot be written.
    """
    low, high = found.noise.matrix_interval
    words = found.table.words
    matrix = Matrix(
        "What was given for what",
        "Of the rows that are truly of a label, the share that was given each, with 95% intervals.",
        "Truly",
        [f"given {word}" for word in words],
        [
            (word, [f"{share:.1%} ({a:.0%} to {b:.0%})" for share, a, b in zip(*line, strict=True)])
            for word, *line in zip(words, found.noise.matrix, low, high, strict=True)
        ],
        agreed=True,
    )
    write_page(
        path,
        page(
            "audit.html.j2",
            {
                "audit": found,
                "name": found.data.replace("\\", "/").rpartition("/")[2],
                "matrix": matrix,
                "notices": [f"{one}." for one in found.notices],
            },
            rows=page_rows(found.table, _SAID),
        ),
    )
