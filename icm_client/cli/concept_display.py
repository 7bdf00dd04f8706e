"""What `label --concepts N` shows: each concept with its clearest rows, and how they agree."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.result_display import VERDICT_STYLES, print_notices, print_verdict
from icm_client.cli.terminal import beginning
from icm_client.data import LabelledRow, Task
from icm_client.runs.concepts import ConceptLabels, clearest_rows

_LONGEST = 90
"""Characters of a row that are shown."""


def print_concepts(found: ConceptLabels, output: str, console: Console | None = None) -> None:
    """Print each concept's coherence, size and clearest rows, and how far the concepts agree."""
    console = console or Console(highlight=False)
    for number, labels in enumerate(found.concepts, start=1):
        sizes = ", ".join(f"{count:,} {word}" for word, count in labels.counts.items())
        right = "" if labels.accuracy is None else f", accuracy {labels.accuracy:.1%}"
        console.print(
            Text(f"concept {number}  ", style="bold")
            + Text(labels.verdict, style=VERDICT_STYLES[labels.verdict])
            + Text(f"  coherence {labels.coherence:.0%}, {sizes}{right}"),
            soft_wrap=True,
        )
        table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
        for word, rows in clearest_rows(labels).items():
            for place, row in enumerate(rows):
                table.add_row(Text("" if place else word), Text(_beginning(row, labels.task)))
        console.print(table)
        if labels.run is not None:
            console.print(Text(f"  record in {labels.run}\n"), soft_wrap=True)
    for (one, other), agreed in found.agreements.items():
        kappa = "-" if agreed.exchanged_kappa is None else f"{agreed.exchanged_kappa:.2f}"
        console.print(
            Text(
                f"Concepts {one} and {other} agree on {agreed.exchanged_share:.0%} of the rows "
                f"under their best names (kappa {kappa})."
            ),
            soft_wrap=True,
        )
    if found.nothing is not None:
        console.print(
            Text(
                "No further concept was found: labels independent of these follow none "
                f"({', '.join(one.code for one in found.nothing.findings if one.fatal)})."
            ),
            soft_wrap=True,
        )
    console.print(
        Text(f"labels of concept {found.pick} in {output} (--pick takes another)"), soft_wrap=True
    )


def print_concept_warnings(found: ConceptLabels, *, notes: bool) -> None:
    """Print the verdict on the concept that was picked, and what the user should mend."""
    labels = found.picked
    print_notices(
        labels.notices if notes else (), labels.failed if notes else (), warnings=labels.warnings
    )
    print_verdict(labels.verdict, labels.findings, sure=labels.confidence is not None, notes=notes)
    if found.stopped is not None:
        Console(stderr=True, highlight=False).print(
            Text(
                f"Warning: the runs were ended early by {found.stopped}. The same command goes on "
                "from here.",
                "yellow",
            ),
            soft_wrap=True,
        )


def _beginning(row: LabelledRow, task: Task) -> str:
    """What the template shows of a row, as one line."""
    shown = " | ".join(f"{row.row.fields.get(name, '')}" for name in task.template_fields)
    return beginning(shown, _LONGEST)
