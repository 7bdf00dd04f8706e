"""`icm-client audit`: which of the labels that rows already have are probably wrong."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.options import (
    check_output_option,
    file_options,
    limit_option,
    output_format_option,
    refuse_overwriting,
    seed_option,
    server_options,
    store_option,
    task_options,
)
from icm_client.cli.result_display import print_notices, print_preview, result_console
from icm_client.cli.search_display import reading_display
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import draining, ended_at_once
from icm_client.cli.terminal import beginning, facts_table, share
from icm_client.data import FileFormat, FileOptions, Task
from icm_client.data.job import task_for
from icm_client.data.outputs import STANDARD_OUTPUT, check_output
from icm_client.data.sources import found_files
from icm_client.runs.audit import CONTEXTS, PreparedAudit, audit_prepared, prepare_audit
from icm_client.runs.audit_result import Audit
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.server import Server
from icm_client.scoring import open_store

_TEXT = 60
"""Characters of a suspect's text that the terminal shows."""


def _tells_labels_from_given(command: Callable[..., None]) -> Callable[..., None]:
    """Say which option is meant where --labels names the field."""

    @wraps(command)
    def checked(*args: Any, template: str | None, labels: str | None, **kwargs: Any) -> None:
        if labels is not None and template is None:
            raise click.UsageError(
                "--labels lists the words that a label may be, and goes with --template. The field "
                "with the labels to audit is --given FIELD."
            )
        command(*args, template=template, labels=labels, **kwargs)

    return checked


@click.command(
    "audit", cls=SectionedCommand, short_help="Find wrong labels among those that rows have."
)
@click.argument("data", nargs=-1, required=True, type=click.Path())
@section(
    "Output",
    click.option("-o", "--output", type=click.Path(), help="Where to write every row's audit."),
    click.option(
        "--report", type=click.Path(), help="Where to write a page to check the suspects on (HTML)."
    ),
    click.option(
        "--pred-probs",
        type=click.Path(),
        help="Where to write the labels' probabilities as cleanlab reads them: .npy, or a table.",
    ),
    click.option(
        "--top",
        type=click.IntRange(0),
        default=20,
        show_default=True,
        help="How many suspects to print.",
    ),
)
@section(
    "Audit",
    click.option(
        "--given",
        metavar="FIELD",
        help="Field with the labels to audit. [default: the task's field of gold labels]",
    ),
    click.option(
        "--contexts",
        type=click.IntRange(1),
        default=CONTEXTS,
        show_default=True,
        help="Contexts that each row is read in; the reads are averaged.",
    ),
    click.option(
        "--fail-on-error",
        type=click.FloatRange(0, min_open=True),
        default=DEFAULT_FAIL_ON_ERROR,
        show_default=True,
        metavar="ROWS",
        help="How many rows without a score end it: a count if at least 1, else a fraction.",
    ),
)
@_tells_labels_from_given
@task_options
@file_options
@section(
    "Data",
    click.option(
        "--skip-bad-rows",
        is_flag=True,
        help="Leave out rows that cannot be used, or whose given label is none of the task's.",
    ),
)
@limit_option
@server_options(wire=True)
@output_format_option
@seed_option
@store_option
@click.option("--dry-run", is_flag=True, help="Check rows and labels, show a prompt, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings only.")
@click.pass_context
def audit_command(
    context: click.Context,
    /,
    *,
    data: tuple[str, ...],
    output: str | None,
    report: str | None,
    pred_probs: str | None,
    top: int,
    given: str | None,
    contexts: int,
    fail_on_error: float,
    task: Task | str | None,
    file: FileOptions,
    skip_bad_rows: bool,
    limit: int | None,
    server: Server,
    output_format: FileFormat | None,
    seed: int,
    store: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find labels in DATA that are probably wrong: --given names the field that holds them.

    Each row is read once, given demos of other rows with their given labels; no gold label is
    needed. Suspects come first, with an estimate of how many labels are wrong. Where the reads do
    not follow the given labels, they are beyond audit for this model, and no row is suspected.

    --labels is another matter: with --template it lists the words that a label may be.

    Exit status: 0 done, 1 failed, beyond audit or some rows were not read, 2 wrong input, 130, 143
    and 129 interrupted (Ctrl-C, TERM, a closed terminal).
    """
    _check_outputs(output, report, pred_probs, output_format, as_json=as_json)
    with found_files(data) as files:
        for name in (output, report, pred_probs):
            refuse_overwriting(name, files)
        prepared = prepare_audit(
            files,
            task=task_for(data[0], task),
            given=given,
            file=file,
            skip_bad_rows=skip_bad_rows,
            limit=limit,
        )
    hidden = as_json or quiet
    if dry_run:
        _show(prepared, as_json=as_json, quiet=quiet)
        return

    async def work() -> Audit:
        async with draining() as drain:
            with reading_display(hidden=hidden) as reading:
                return await audit_prepared(
                    prepared,
                    endpoint=server,
                    store=kept,
                    contexts=contexts,
                    seed=seed,
                    fail_on_error=fail_on_error,
                    skip_bad_rows=skip_bad_rows,
                    progress=reading,
                    stopping=drain.stopping,
                )

    with open_store(store) as kept, ended_at_once(kept):
        found = anyio.run(work)
    written = _write(found, output, report, pred_probs, output_format)
    if as_json:
        print_json(found.summary())
    elif not quiet:
        print_audit(found, top, written, result_console(output))
    print_notices(() if hidden else found.notices, found.failed, warnings=found.warnings)
    if found.noise is None and (quiet or output == STANDARD_OUTPUT):
        click.echo(f"Warning: {found.sentence()}", err=True)
    if found.noise is None or found.failed:
        context.exit(1)


def _check_outputs(
    output: str | None,
    report: str | None,
    pred_probs: str | None,
    output_format: FileFormat | None,
    *,
    as_json: bool,
) -> None:
    """Return if all files can be written; raises `InputError`, `SetupError` or `UsageError`."""
    if output is not None:
        check_output_option(output, output_format, as_json=as_json)
    if report is not None:
        check_output(report, "jsonl")  # a page is text, as JSON Lines are
    if pred_probs is not None:
        check_output(pred_probs, "jsonl" if pred_probs.endswith(".npy") else None)


def _write(
    found: Audit,
    output: str | None,
    report: str | None,
    pred_probs: str | None,
    output_format: FileFormat | None,
) -> list[str]:
    """Write what was asked for; return the names. Beyond audit there is nothing to write."""
    if found.noise is None:
        return []
    if output is not None:
        found.write(output, format=output_format)
    if pred_probs is not None:
        found.write_pred_probs(pred_probs)
    if report is not None:
        found.write_report(report)
    return [name for name in (output, pred_probs, report) if name is not None]


def print_audit(found: Audit, top: int, written: list[str], console: Console | None = None) -> None:
    """Print the first suspects, the estimates, and what it cost.

    Args:
        found: the audit.
        top: how many suspects.
        written: the files that hold the rest.
        console: where to; None for standard output.
    """
    console = console or Console(highlight=False)
    suspects = found.suspects[:top]
    if suspects:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("id", "given", "read as", "wrong", "text"):
            table.add_column(heading, justify="right" if heading == "wrong" else "left")
        for one in suspects:
            text = " ".join(f"{one.row.fields.get(name)}" for name in found.task.template_fields)
            cells = (f"{one.row.id}", one.given, one.read_as, f"{one.wrong:.0%}")
            table.add_row(*map(Text, (*cells, beginning(text, _TEXT))))
        console.print(table)
        console.print()
    console.print(Text(found.sentence(), style="bold"), soft_wrap=True)
    if found.noise is not None:
        probably = f"{found.probably_wrong:,} of them more probably than not."
        console.print(Text(f"{probably} What was given for what:"), soft_wrap=True)
        console.print()
        console.print(_matrix(found))
    console.print()
    cost = found.cost
    facts = facts_table()
    facts.add_row("coherence", f"{found.coherence:.0%} of the given labels")
    if found.unlabelled:
        facts.add_row("not audited", f"{len(found.unlabelled):,} rows without a given label")
    facts.add_row("tokens", f"{cost.computed_tokens:,} computed, {cost.cached_tokens:,} cached")
    facts.add_row(
        "scores", f"{cost.from_server:,} from the server, {cost.from_store:,} from the store"
    )
    facts.add_row("model", Text(f"{found.server.model} ({found.server.kind})"))
    if written:
        facts.add_row("written to", Text(", ".join(written)))
    console.print(facts)


def _matrix(found: Audit) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("truly")
    for word in found.labels:
        table.add_column(Text(f"given {word}"), justify="right")
    assert found.noise is not None  # noqa: S101 - the caller has looked
    for word, line in zip(found.labels, found.noise.matrix.tolist(), strict=True):
        table.add_row(Text(word), *map(share, line))
    return table


def _show(prepared: PreparedAudit, *, as_json: bool, quiet: bool) -> None:
    """Print what is known before a row is read."""
    job, unlabelled = prepared.job, prepared.unlabelled
    if as_json:
        print_json(
            {
                "rows": len(job.dataset.rows),
                "given_field": prepared.field,
                "counts": prepared.counts,
                "unlabelled": list(unlabelled),
                "first_prompt": job.prompts[0],
                "labels": job.label_texts,
                "failed": [row.summary() for row in job.dataset.skipped],
                "warnings": job.warnings,
                "notices": job.notices,
            }
        )
        return
    print_preview(job, Console(highlight=False))
    counts = ", ".join(f"{word}: {count:,}" for word, count in prepared.counts.items())
    words = f"Given labels in the field {prepared.field!r}: {counts}"
    without = f"; {len(unlabelled):,} rows have none and are not audited" if unlabelled else ""
    click.echo(f"{words}{without}.")
    print_notices(() if quiet else job.notices, job.dataset.skipped, warnings=job.warnings)
