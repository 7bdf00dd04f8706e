"""`icm-client label`: label the rows of a file."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import anyio
import click

from icm_client.cli.documents import print_json
from icm_client.cli.dry_run import show_dry_run
from icm_client.cli.label_output import Found, put_out
from icm_client.cli.options import (
    check_output_option,
    file_options,
    limit_option,
    output_format_option,
    refuse_overwriting,
    search_options,
    seed_option,
    server_options,
    store_option,
    task_options,
)
from icm_client.cli.result_display import (
    RunsProgress,
    print_notices,
    print_preview,
    result_console,
)
from icm_client.cli.run_file import (
    ConfiguredCommand,
    config_option,
    save_config_option,
    whole_command,
    write_config,
)
from icm_client.cli.search_display import progress_display
from icm_client.cli.sections import section
from icm_client.cli.serve import serve_option, served
from icm_client.cli.signals import Interrupted, draining, ended_at_once
from icm_client.cli.streams import say_above
from icm_client.cli.terminal import step_display
from icm_client.cli.trainer_options import TrainerKind, trainer_of, trainer_options
from icm_client.data import FileFormat, FileOptions, Task, find_beside, read_rows
from icm_client.data.constraint_spec import Rules
from icm_client.data.job import Job, task_for
from icm_client.data.rows import refused_rows
from icm_client.data.sources import found_files
from icm_client.data.task_file import write_task
from icm_client.record.archive import find_run
from icm_client.record.layout import DEFAULT_BASE
from icm_client.runs.by_field import (
    PreparedGroups,
    label_groups,
    prepare_groups,
)
from icm_client.runs.concepts import find_concepts
from icm_client.runs.label import label_prepared
from icm_client.runs.presets import Settings, TrainedSettings
from icm_client.runs.progress import Budget
from icm_client.runs.request import SEARCH_ROWS, LabelRequest, PreparedRun
from icm_client.runs.run_cost import ProbeCost, forecast_job
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.server import Server
from icm_client.scoring import ScoreStore, open_store

STOPPED = 3
"""Exit status of a run that a limit has ended."""

_Asked = PreparedRun | PreparedGroups


def _prior(
    _: click.Context, __: click.Parameter, shares: tuple[str, ...]
) -> dict[str, float] | None:
    prior: dict[str, float] = {}
    for share in shares:
        word, _equals, number = share.rpartition("=")
        if word.strip() in prior:
            raise click.BadParameter(f"{word.strip()!r} is there twice")
        try:
            prior[word.strip()] = float(number)
        except ValueError:
            raise click.BadParameter(
                f"{share!r} is not LABEL=SHARE, such as positive=0.2"
            ) from None
    return prior or None


@click.command("label", cls=ConfiguredCommand, short_help="Label the rows of a file.")
@click.argument("data", nargs=-1, required=True, type=click.Path())
@task_options
@section(
    "Task",
    click.option("--gold", help="Field with known labels, used for the accuracy alone."),
    click.option(
        "--prior",
        callback=_prior,
        multiple=True,
        metavar="LABEL=SHARE",
        help="A label's share of the rows, where known: positive=0.2.",
    ),
    click.option(
        "--save-task", type=click.Path(), metavar="FILE", help="Write the task into a file, too."
    ),
)
@file_options
@limit_option
@section(
    "Data",
    click.option(
        "--skip-bad-rows",
        is_flag=True,
        help="Leave rows that cannot be used (broken, empty, too long) without a label, and list "
        "them.",
    ),
    click.option(
        "--max-row-tokens",
        type=click.IntRange(1),
        metavar="N",
        help="Rows whose own prompt takes more tokens cannot be used. [default: what the server's "
        "context has room for]",
    ),
    click.option(
        "--truncate",
        is_flag=True,
        help="Cut such rows to --max-row-tokens, their longest text from its end; the column "
        "cut_tokens says which.",
    ),
    click.option(
        "--by",
        metavar="FIELD",
        help="A run for each value of FIELD, such as a persona or a country, and how far their "
        "labels agree; limits are of all runs together.",
    ),
    click.option(
        "--match",
        multiple=True,
        metavar="FIELD",
        help="With --by: what rows of two values share that are the same; it may be repeated. "
        "[default: the template's other fields]",
    ),
)
@section(
    "Output",
    click.option(
        "-o",
        "--output",
        type=click.Path(),
        help="Where to write the labels; required but for --dry-run and --forecast.",
    ),
    output_format_option,
)
@server_options(wire=True)
@serve_option
@section(
    "Search",
    seed_option,
    search_options,
    click.option(
        "--pin",
        "pins",
        type=click.Path(),
        multiple=True,
        metavar="FILE",
        help="Labels that a person has checked (id and label): the search keeps and uses them. It "
        "may be repeated: what a later file says of a row counts.",
    ),
    click.option(
        "--easy",
        metavar="FILE:FIELD",
        help="Further rows, whose labels FIELD holds: they say which concept is meant. They are "
        "searched with the others, and not written.",
    ),
    click.option(
        "--unlike",
        multiple=True,
        metavar="RUN|FILE",
        help="Find another concept: labels independent of those of a run, or of a labels file; it "
        "may be repeated.",
    ),
    click.option(
        "--concepts",
        type=click.IntRange(1),
        metavar="N",
        help="Find up to N concepts, each independent of those before it, and show their clearest "
        "rows; limits are of all runs together.",
    ),
    click.option(
        "--pick",
        type=click.IntRange(1),
        default=1,
        metavar="K",
        help="With --concepts: which of them is written. [default: 1]",
    ),
    click.option(
        "--search-rows",
        type=click.IntRange(2),
        default=SEARCH_ROWS,
        show_default=True,
        help="The most rows to search. Of more, so many are drawn, and the others are predicted "
        "from their labels, one read each.",
    ),
)
@trainer_options("folds, iterate")
@section(
    "Limits",
    click.option(
        "--max-requests",
        type=click.IntRange(1),
        help="End with the best labels so far (exit status 3) before a sweep that would take more "
        "requests than these in all.",
    ),
    click.option(
        "--max-prompt-tokens",
        type=click.IntRange(1),
        help="The same for prompt tokens that the server computes.",
    ),
    click.option(
        "--max-minutes",
        type=click.FloatRange(0, min_open=True),
        help="The same for the time. After a tenth more, even a sweep under way is broken off.",
    ),
    click.option(
        "--fail-on-error",
        type=click.FloatRange(0, min_open=True),
        default=DEFAULT_FAIL_ON_ERROR,
        show_default=True,
        metavar="ROWS",
        help="How many rows without a score end the run: a count if at least 1, else a fraction.",
    ),
)
@section(
    "Record",
    click.option(
        "--runs",
        type=click.Path(),
        default=str(DEFAULT_BASE),
        show_default=True,
        help="The folder for the records of runs.",
    ),
    click.option("--no-record", is_flag=True, help="Keep no record of the run."),
    click.option("--fresh", is_flag=True, help="Start the run's record over; stored scores stay."),
    store_option,
    click.option(
        "--accept-drift",
        is_flag=True,
        help="If another model answers than the one whose scores are stored, or than when the run "
        "began, label with that one from the start instead of ending.",
    ),
)
@config_option
@save_config_option
@click.option("--dry-run", is_flag=True, help="Check rows and task, show a prompt, and stop.")
@click.option("--forecast", "forecasts", is_flag=True, help="Print what a run would take; stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings only.")
@click.option("-v", "--verbose", is_flag=True, help="Show a prompt before the run.")
@click.pass_context
def label_command(  # noqa: C901, PLR0912, PLR0915 - options one by one
    context: click.Context,
    /,
    *,
    data: tuple[str, ...],
    output: str | None,
    task: Task | str | None,
    gold: str | None,
    prior: dict[str, float] | None,
    save_task: str | None,
    server: Server,
    seed: int,
    settings: Settings,
    start: str | None,
    constraint: Rules | None,
    pins: tuple[str, ...],
    easy: str | None,
    unlike: tuple[str, ...],
    concepts: int | None,
    pick: int,
    trainer_kind: TrainerKind | None,
    train_from: str | None,
    epochs: int | None,
    runs: str,
    no_record: bool,
    fresh: bool,
    search_rows: int,
    max_requests: int | None,
    max_prompt_tokens: int | None,
    max_minutes: float | None,
    fail_on_error: float,
    skip_bad_rows: bool,
    max_row_tokens: int | None,
    truncate: bool,
    by: str | None,
    match: tuple[str, ...],
    serve: str | None,
    accept_drift: bool,
    store: str | None,
    file: FileOptions,
    limit: int | None,
    output_format: FileFormat | None,
    dry_run: bool,
    forecasts: bool,
    save_config: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Label the rows of DATA: JSON Lines, a JSON array, CSV, Parquet, Arrow, or an Excel workbook.

    DATA is a file or several, a pattern ('data/*.csv'), a URL, or - for standard input. With -o -
    the labels go to standard output, and all else to standard error.

    Every score is kept: the same command again asks nothing twice, and goes on where an
    interrupted one stopped. At most 8 stored scores are first compared with what the server answers
    now, so that scores of another model are not used.

    Exit status: 0 done, 1 failed or some rows have no label, 2 wrong input, 3 a limit was reached,
    130, 143 and 129 interrupted (Ctrl-C, TERM, a closed terminal).
    """
    trains = isinstance(settings, TrainedSettings)
    trainer = trainer_of(
        server,
        purpose=None if trains else "--preset folds and iterate",
        kind=trainer_kind,
        train_from=train_from,
        epochs=epochs,
    )
    if forecasts and by is not None:
        raise click.UsageError("--forecast is for one run: forecast the rows of one value alone.")
    if pick > (concepts or 1):
        raise click.UsageError(f"--pick {pick} takes one of at least --concepts {pick}.")
    if by is not None and (concepts or unlike or easy):
        raise click.UsageError(
            "--by makes a run for each value, and --concepts, --unlike and --easy are for one run: "
            "label the rows of one value alone."
        )
    if match and by is None:
        raise click.UsageError("--match goes with --by FIELD.")
    if output is None and not (dry_run or forecasts):
        raise click.UsageError("Missing option '-o' / '--output': where should the labels go?")
    if output is not None:
        check_output_option(output, output_format, as_json=as_json)
    found_at = find_beside(data[0]) if task is None else None
    task = task_for(data[0], task)
    with found_files(data) as files:
        refuse_overwriting(output, files)
        dataset = read_rows(  # those that cannot be used are among its skipped ones
            files,
            **asdict(file),
            gold=gold,
            loader=task.loader,
            template_fields=task.template_fields,
            skip_bad_rows=True,
        )
    request = LabelRequest(
        dataset,
        task,
        prior=prior,
        constraint=constraint,
        settings=settings,
        start=start,
        pins=pins,
        unlike=[_run_or_file(one, Path(runs)) for one in unlike],
        easy=easy,
        trainer=trainer,
        seed=seed,
        budget=Budget(max_requests, max_prompt_tokens, max_minutes),
        fail_on_error=fail_on_error,
        skip_bad_rows=skip_bad_rows,
        accept_drift=accept_drift,
        runs=None if no_record else runs,
        command=whole_command(context),
        fresh=fresh,
        search_rows=search_rows,
        limit=limit,
        max_row_tokens=max_row_tokens,
        truncate=truncate,
    )
    if not as_json and not quiet and found_at is not None:
        click.echo(f"Task: {found_at}", err=True)
    if dry_run:
        shown = show_dry_run(
            request,
            server,
            store=store,
            output=output,
            by=by,
            match=match,
            serve=serve,
            as_json=as_json,
            quiet=quiet,
        )
        _save(context, shown, save_task, save_config, say=not (quiet or as_json))
        return
    if dataset.skipped and not skip_bad_rows:  # they are named with those that the task refuses
        every = replace(request, skip_bad_rows=True).read().whole.dataset
        raise refused_rows(every.skipped, path=dataset.name, usable=len(every.rows))
    groups = None if by is None else prepare_groups(request, by, match=match)
    prepared = request.read() if groups is None else groups.whole
    asked_of: _Asked = groups or (prepared.sampled() if concepts is None else prepared)
    job = prepared.whole
    _save(context, job, save_task, save_config, say=not (quiet or as_json))
    if verbose and not as_json:
        print_preview(job, result_console(output))
    if forecasts:
        with served(serve, server) as (asked, _):
            _print_forecast(prepared.sampled(), asked, store, as_json=as_json, quiet=quiet)
    if forecasts or output is None:
        return
    if not as_json and not quiet:  # now, while they can be heeded; after the run again
        print_notices((), (), warnings=job.warnings)

    interrupted: Interrupted | None = None
    try:
        with (
            served(serve, server) as (asked, has_ended),
            open_store(store) as kept,
            ended_at_once(kept),
        ):
            many = None if concepts is None else (concepts, pick)
            work = partial(_labelled, asked_of, many, asked, kept, hidden=quiet or as_json)
            found = anyio.run(work, has_ended)
    except Interrupted as stopped:
        if stopped.labels is None:
            raise
        found, interrupted = stopped.labels, stopped
    put_out(found, output, output_format, as_json=as_json, quiet=quiet)
    if interrupted is not None:
        raise interrupted
    if found.stopped is not None:
        context.exit(STOPPED)
    if found.failed:
        context.exit(1)


def _run_or_file(named: str, base: Path) -> str:
    """A labels file as it was named, or else the folder of a run."""
    return named if Path(named).is_file() else str(find_run(named, base).path)


def _print_forecast(
    prepared: PreparedRun, server: Server, store: str | None, *, as_json: bool, quiet: bool
) -> None:
    """Say what a forecast costs, then what is measured, and print what the run would take."""
    hidden = as_json or quiet

    def say(probe: ProbeCost) -> None:
        if not hidden:
            say_above(probe.sentence())

    with step_display(hidden=hidden, prefix="Measuring ") as step:
        forecast = partial(
            forecast_job,
            predicted=len(prepared.rest.rows),
            store=store,
            skip_bad_rows=prepared.request.skip_bad_rows,
            row_limit=prepared.request.row_limit,
            on_probe=say,
            on_step=step,
        )
        cost = anyio.run(forecast, prepared.job, server, prepared.settings)
    if as_json:
        print_json(cost.summary())
    else:
        click.echo(cost.sentence())


def _save(
    context: click.Context, job: Job, task: str | None, config: str | None, *, say: bool
) -> None:
    """Write the task and the run file that were asked for, and say so."""
    if task is not None:
        gold = job.dataset.gold_field
        saved = job.task if gold is None else Task(**{**job.task.model_dump(), "gold": gold})
        write_task(saved, task, tuple(job.dataset.rows[0].fields))
    if config is not None:
        for secret in write_config(context, config):
            click.echo(f"Not written to {config}: {secret}.", err=True)
    if say and (written := [name for name in (task, config) if name is not None]):
        click.echo(f"Wrote {' and '.join(written)}.", err=True)


async def _labelled(
    asked: _Asked,
    concepts: tuple[int, int] | None,
    server: Server,
    store: ScoreStore,
    has_ended: Callable[[], bool],
    *,
    hidden: bool,
) -> Found:
    """What the run finds, or several do; a signal or the server's end drains it.

    `concepts`: how many to look for at most, and which of them to write.
    """
    async with draining() as drain:

        def stopping() -> bool:
            return drain.stopping() or has_ended()

        if isinstance(asked, PreparedGroups):
            field = asked.field
            with closing(RunsProgress(hidden=hidden)) as shown:
                return await label_groups(
                    asked,
                    endpoint=server,
                    store=store,
                    began=lambda value, rows: shown.begin(f"{field} = {value}, {rows:,} rows"),
                    progress=shown,
                    stopping=stopping,
                )
        if concepts is not None:
            with closing(RunsProgress(hidden=hidden)) as shown:
                return await find_concepts(
                    asked,
                    concepts[0],
                    pick=concepts[1],
                    endpoint=server,
                    store=store,
                    began=lambda number: shown.begin(f"concept {number}"),
                    progress=shown,
                    stopping=stopping,
                )
        with progress_display(hidden=hidden) as progress:
            return await label_prepared(
                asked, endpoint=server, store=store, progress=progress, stopping=stopping
            )
