"""`icm-client predict`: label new rows with what a run has found."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import anyio
import click
from rich.console import Console
from rich.status import Status
from rich.text import Text

from icm_client.cli.completion import complete_runs
from icm_client.cli.documents import print_json
from icm_client.cli.options import (
    check_output_option,
    file_options,
    output_format_option,
    refuse_overwriting,
    server_options,
    store_option,
)
from icm_client.cli.result_display import (
    VERDICT_STYLES,
    cost_rows,
    print_confusion,
    print_notices,
    print_verdict,
    result_console,
)
from icm_client.cli.run_options import runs_option
from icm_client.cli.search_display import rows_bar
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.serve import serve_option, served
from icm_client.cli.signals import Interrupted, draining, ended_at_once
from icm_client.cli.terminal import facts_table
from icm_client.coherence.predict import CONTEXTS
from icm_client.data import FileFormat, FileOptions
from icm_client.data.sources import found_files
from icm_client.runs.predict_file import Predicted, PredictProgress, predict_file
from icm_client.runs.predict_ray import WORKERS, ShardProgress, predict_shards
from icm_client.runs.predictor import Predictor
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.server import Server
from icm_client.scoring import open_store

Engine = Literal["local", "ray"]

_LINES_APART_S = 10.0
"""Seconds between two lines of progress, where there is no terminal."""


@click.command(
    "predict", cls=SectionedCommand, short_help="Label new rows with what a run has found."
)
@click.argument("run_name", metavar="RUN", shell_complete=complete_runs)
@click.argument("data", nargs=-1, required=True, type=click.Path())
@section(
    "Output",
    click.option(
        "-o", "--output", required=True, type=click.Path(), help="Where to write the labels."
    ),
)
@section(
    "Prediction",
    click.option("--gold", help="Field with known labels, used for the accuracy alone."),
    click.option(
        "--contexts",
        type=click.IntRange(0),
        default=CONTEXTS,
        show_default=True,
        help="Contexts that each row is read in; the reads are averaged. 0 shows no demos, for a "
        "model that was trained on the run's labels.",
    ),
)
@server_options(wire=True)
@serve_option
@section(
    "Prediction",
    click.option(
        "--accept-other-model",
        is_flag=True,
        help="Take another model than the run's: the run's rows are read again, for its own "
        "thresholds and confidence.",
    ),
    click.option(
        "--fail-on-error",
        type=click.FloatRange(0, min_open=True),
        default=DEFAULT_FAIL_ON_ERROR,
        show_default=True,
        metavar="ROWS",
        help="How many rows without a score end it: a count if at least 1, else a fraction of the "
        "rows so far.",
    ),
)
@section(
    "Data",
    click.option(
        "--skip-bad-rows",
        is_flag=True,
        help="Leave rows that cannot be used (broken, empty, too long) without a label.",
    ),
)
@section(
    "Prediction",
    click.option("--fresh", is_flag=True, help="Begin a partial output over; stored scores stay."),
)
@section(
    "Many machines",
    click.option(
        "--engine",
        type=click.Choice(get_args(Engine)),
        default="local",
        show_default=True,
        help="ray: DATA is a pattern ('data/*.parquet'), OUTPUT a folder, and workers of a Ray "
        "cluster label the files.",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="ray: the cluster. [env: RAY_ADDRESS; default: Ray is started on this machine]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        help=f"ray: processes that label, which share --max-in-flight. [default: {WORKERS}]",
    ),
)
@section(
    "Record",
    runs_option,
    store_option,
)
@file_options
@section(
    "Data",
    click.option(
        "--limit",
        type=click.IntRange(1),
        metavar="N",
        help="The first N rows alone, and what is left of a group that goes on. [default: all]",
    ),
)
@output_format_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings only.")
@click.pass_context
def predict_command(
    context: click.Context,
    /,
    *,
    run_name: str,
    data: tuple[str, ...],
    output: str,
    gold: str | None,
    contexts: int,
    server: Server,
    serve: str | None,
    accept_other_model: bool,
    fail_on_error: float,
    skip_bad_rows: bool,
    fresh: bool,
    engine: Engine,
    address: str | None,
    workers: int | None,
    base: Path,
    store: str | None,
    file: FileOptions,
    limit: int | None,
    output_format: FileFormat | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Label the rows of DATA with what RUN has found: a run's name, its beginning, or `latest`.

    DATA is a file or several, a pattern ('data/*.csv'), a URL, or - for standard input.

    Each row is read once, given demos that the run labelled, so any number of rows costs little
    more than their own length. What a row gets does not depend on the rows that come with it; rows
    that a rule of the task relates must stand next to each other.

    Labels are written to OUTPUT.partial as they come, and moved to OUTPUT at the end. The same
    command again goes on where an interrupted one stopped. With -o - they are printed at the end,
    and scores alone are kept until then. With --engine ray, OUTPUT is whole once there is an
    OUTPUT/_manifest.json, which lists the files and counts their rows.

    Exit status: 0 done, 1 failed or some rows have no label, 2 wrong input, 130, 143 and 129
    interrupted (Ctrl-C, TERM, a closed terminal).
    """
    predictor = Predictor.load(run_name, runs=base)
    options: dict[str, Any] = {
        "contexts": contexts,
        "gold": gold,
        "file": file,
        "output_format": output_format,
        "skip_bad_rows": skip_bad_rows,
        "fail_on_error": fail_on_error,
        "accept_other_model": accept_other_model,
        "fresh": fresh,
    }
    hidden = quiet or as_json
    if engine == "ray":
        if serve is not None or limit is not None:
            raise click.UsageError("--serve and --limit are for --engine local.")
        options |= {"endpoint": server, "store": store, "address": address}
        options["workers"] = workers or WORKERS
        if len(data) > 1:
            raise click.UsageError("--engine ray takes one pattern: put it in quotes, 'data/*.csv'")
        found = _on_ray(predictor, data[0], output, hidden=hidden, options=options)
    elif address is not None or workers is not None:
        raise click.UsageError("--address and --workers go with --engine ray.")
    else:
        check_output_option(output, output_format, as_json=as_json)
        options["limit"] = limit
        with served(serve, server) as (asked, has_ended):
            options["endpoint"] = asked
            found = _here(predictor, data, output, store, has_ended, hidden=hidden, options=options)
    if as_json:
        print_json(found.summary())
    elif not quiet:
        print_predicted(found, result_console(output))
    print_notices(() if hidden else found.notices, found.totals.failed)
    print_verdict(
        found.verdict, found.findings, sure=found.confidence is not None, notes=not hidden
    )
    if found.totals.without_label:
        context.exit(1)


def _here(
    predictor: Predictor,
    data: tuple[str, ...],
    output: str,
    store: str | None,
    has_ended: Callable[[], bool],
    *,
    hidden: bool,
    options: dict[str, Any],
) -> Predicted:
    """Label a file or several, in this process; `has_ended` says that its server is no more."""

    async def work() -> Predicted:
        async with draining() as drain:

            def stopping() -> bool:
                return drain.stopping() or has_ended()

            with _display(hidden=hidden) as progress:
                return await predict_file(
                    predictor,
                    files,
                    output,
                    store=kept,
                    progress=progress,
                    stopping=stopping,
                    **options,
                )

    with found_files(data) as files:
        refuse_overwriting(output, files)
        with open_store(store) as kept, ended_at_once(kept):
            return anyio.run(work)


def _on_ray(
    predictor: Predictor, data: str, output: str, *, hidden: bool, options: dict[str, Any]
) -> Predicted:
    """Label many files, on Ray's workers."""
    console = Console(stderr=True, highlight=False)
    status = console.status("Starting") if console.is_terminal and not hidden else nullcontext()

    last_at = -_LINES_APART_S

    def show(at: ShardProgress) -> None:
        nonlocal last_at
        words = f"{at.done:,} of {at.total:,} files labelled, {at.rows:,} rows by this command"
        if isinstance(status, Status):
            status.update(words)
        elif not hidden and (at.done == at.total or time.monotonic() - last_at >= _LINES_APART_S):
            last_at = time.monotonic()
            console.print(Text(words))

    try:
        with status:
            return predict_shards(predictor, data, output, progress=show, **options)
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT) from None


def print_predicted(found: Predicted, console: Console | None = None) -> None:
    """Print the table that a prediction ends with, on standard output or a console of yours."""
    table = facts_table()
    table.add_row("verdict", Text(found.verdict, style=VERDICT_STYLES[found.verdict]))
    for word, count in found.totals.counts.items():
        table.add_row(Text(word), f"{count:,} rows ({count / found.labelled:.0%})")
    if found.confidence is not None:
        table.add_row("confidence", f"{found.confidence:.1%} on average")
    if found.accuracy is not None:
        table.add_row(
            "accuracy", f"{found.accuracy:.1%} of {found.totals.with_gold:,} rows with gold"
        )
    cost_rows(table, found.cost)
    table.add_row("model", Text(f"{found.server.model} ({found.server.kind})"))
    table.add_row("labels in", Text(found.output or "no file: no row has a label"))
    console = console or Console(highlight=False)
    console.print(table)
    print_confusion(found.confusion, console)


@contextmanager
def _display(*, hidden: bool) -> Iterator[Callable[[PredictProgress], None]]:
    """Yield what to call with progress: a bar, or a line now and then where no terminal is."""
    console = Console(stderr=True, highlight=False)
    if hidden:
        yield lambda _: None
    elif console.is_terminal:
        with rows_bar(console) as bar:
            rows = bar.add_task("Labelling", total=None)

            def show(at: PredictProgress) -> None:
                bar.update(rows, description=_doing(at), completed=at.done, total=at.total)

            yield show
    else:
        last_at = anyio.current_time()

        def show_line(at: PredictProgress) -> None:
            nonlocal last_at
            now = anyio.current_time()
            if now - last_at >= _LINES_APART_S:
                last_at = now
                console.print(Text(f"{_doing(at)}: {at.done:,} of {at.total:,} rows"))

        yield show_line


def _doing(at: PredictProgress) -> str:
    if at.waiting is not None:
        return "Waiting for the server"
    return "Reading the run's rows" if at.to_score and not at.batch else "Labelling"
