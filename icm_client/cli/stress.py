"""`icm-client stress`: make trouble out of the user's own rows, and see what the verdict says."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, get_args

import anyio
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.eval import make_folder, print_notices
from icm_client.cli.options import (
    Names,
    file_options,
    gold_option,
    limit_option_of,
    search_options,
    server_options,
    store_option,
    task_options,
)
from icm_client.cli.result_display import VERDICT_STYLES
from icm_client.cli.search_display import moment
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import ended_at_once
from icm_client.cli.terminal import live_display, output_console
from icm_client.coherence.initial_labels import Start
from icm_client.data import FileOptions, Task
from icm_client.data.constraint_spec import Rules
from icm_client.data.job import Job, task_for
from icm_client.data.messages import one_after_another
from icm_client.data.sources import found_files
from icm_client.endpoints import ServerIdentity
from icm_client.errors import IcmError
from icm_client.experiments.comparison import write_results
from icm_client.experiments.stress import (
    Outcome,
    Plan,
    Stressed,
    csv_text,
    document,
    plan_stress,
    run_stress,
    summary,
)
from icm_client.experiments.stress_rows import KINDS, Kind
from icm_client.runs.presets import Settings
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import open_store

MOST_ROWS: Final = 128
"""Rows that are drawn of more, where --limit does not say how many: there are about 25 runs."""


@click.command(
    "stress",
    cls=SectionedCommand,
    short_help="Find out where labelling breaks on your rows, and whether the verdict sees it.",
)
@click.argument("data", nargs=-1, required=True, type=click.Path())
@section(
    "Output",
    click.option("--out", type=click.Path(path_type=Path), help="A folder for the table."),
)
@task_options
@file_options
@gold_option
@section(
    "Comparison",
    click.option(
        "--only",
        type=Names(KINDS),
        default=",".join(KINDS),
        help=f"Some of {', '.join(KINDS)}, separated by commas. [default: all]",
    ),
    click.option(
        "--seeds",
        default=1,
        show_default=True,
        type=click.IntRange(1),
        help="Runs on each trouble, each with rows drawn anew.",
    ),
)
@limit_option_of(f"{MOST_ROWS}")
@server_options(wire=True)
@search_options
@section("Record", store_option)
@click.option("--dry-run", is_flag=True, help="Print what would be run, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print plan or results as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print no line for each run.")
def stress_command(
    *,
    data: tuple[str, ...],
    out: Path | None,
    task: Task | str | None,
    file: FileOptions,
    gold: str | None,
    only: tuple[Kind, ...],
    seeds: int,
    limit: int | None,
    server: Server,
    settings: Settings,
    start: str | None,
    constraint: Rules | None,
    store: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make trouble out of the rows of DATA, label each kind, and compare labels and verdict.

    Salient features that have nothing to do with the labels, one label at 2 to 98% of the rows,
    and rows and questions without an answer. Labels are compared with gold, or without gold with
    those of the rows as they are. A wrong run whose verdict is `trust` is a false trust.
    """
    if start is not None and start not in get_args(Start):
        raise click.UsageError(
            f"--init takes a kind here, {one_after_another(get_args(Start))}: the rows of a labels "
            "file are other ones once they are disturbed."
        )
    with found_files(data) as files:
        job = Job.prepare(
            files, task_for(data[0], task), gold=gold, constraint=constraint, file=file, limit=limit
        )
    notices: tuple[str, ...] = (*job.warnings, *job.notices)
    if limit is None and (given := len(job.dataset.rows)) > MOST_ROWS:
        job = Job.prepare(job.dataset, job.task, limit=MOST_ROWS)
        notices += (f"{MOST_ROWS} of {given:,} rows were drawn: --limit takes more",)
    plan = plan_stress(job, only)
    if not as_json:
        print_notices((*notices, *plan.notices))
    if dry_run:
        _print_plan(plan, seeds, (*notices, *plan.notices), as_json=as_json)
        return
    lines = Console(stderr=True, highlight=False)
    of, count = len(plan.runs) * seeds, 0

    def ended(outcome: Outcome) -> None:
        nonlocal count
        count += 1
        if not quiet and not as_json:
            lines.print(Text(f"{count}/{of} {_line(outcome)}"), soft_wrap=True)

    async def run() -> tuple[Stressed, ServerIdentity]:
        with live_display(lines, hidden=quiet or as_json) as show:
            async with open_endpoint(server) as endpoint:
                found = await run_stress(
                    job,
                    settings,
                    kinds=only,
                    seeds=seeds,
                    start=start,
                    endpoint=endpoint,
                    store=kept,
                    ended=ended,
                    progress=None if show is None else lambda at: show(moment(at)),
                )
                return found, endpoint.identity

    with open_store(store) as kept, ended_at_once(kept):
        found, identity = anyio.run(run)
    about = {
        "data": job.dataset.name,
        "rows": len(job.dataset.rows),
        "server": {"kind": identity.kind, "model": identity.model},
        "settings": asdict(settings),
    }
    later = [notice for notice in found.notices if notice not in plan.notices]
    found = replace(found, notices=(*notices, *found.notices))
    _report(found, about, out, later, as_json=as_json)
    if failed := sum(outcome.error is not None for outcome in found.outcomes):
        raise IcmError(f"{failed} of {len(found.outcomes)} runs failed: the table names them")


def _report(
    found: Stressed,
    about: Mapping[str, object],
    out: Path | None,
    notices: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Print table and summary, and write them into the folder."""
    shown = {**about, **document(found)}
    written: list[str] = []
    if out is not None:
        as_bytes = orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        make_folder(out)
        content = {"stress.json": as_bytes, "stress.csv": csv_text(found).encode()}
        written, _ = write_results(out, content, (), lambda _: None)
    if as_json:
        print_json({**shown, "files": written})
        return
    print_notices(notices)
    _print_table(found)
    click.echo()
    for sentence in summary(found):
        click.echo(sentence)
    if written:
        click.echo(f"Written: {', '.join(written)}")


def _line(outcome: Outcome) -> str:
    what = f"{outcome.full_name}, seed {outcome.seed}"
    if outcome.verdict is None:
        return f"{what}: failed: {outcome.error}"
    figures = "".join(
        f"{name} {figure:.1%}, "
        for name, figure in (("right", outcome.right), ("as the feature", outcome.follows))
        if figure is not None
    )
    wrong = " though wrong" if outcome.wrong and outcome.trusted else ""
    return (
        f"{what}: {figures}{outcome.verdict}{wrong}, {outcome.computed_tokens:,} tokens computed, "
        f"{outcome.seconds:.0f} s"
    )


def _print_plan(plan: Plan, seeds: int, notices: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        names = ("kind", "trouble", "strength", "rows")
        runs = [dict(zip(names, run, strict=True)) for run in plan.runs]
        document = {"runs": len(runs) * seeds, "seeds": seeds, "troubles": runs}
        print_json({**document, "notices": list(notices)})
        return
    for name in dict.fromkeys(name for _, name, _, _ in plan.runs):
        same = [(strength, rows) for _, other, strength, rows in plan.runs if other == name]
        rows = same[0][1]
        said = "as many as its labels allow" if rows is None else f"{rows:,}"
        click.echo(f"{name:<14}{said} rows{''.join(f', {one}' for one, _ in same if one)}")
    click.echo(f"{len(plan.runs)} sets of rows, seeds: {seeds}; {len(plan.runs) * seeds} runs")


def _print_table(found: Stressed) -> None:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    right = "accuracy" if found.gold else "agreement"
    several = len({outcome.seed for outcome in found.outcomes}) > 1
    numbers = (*(("seed",) if several else ()), "rows", right, "AUROC", "as the feature")
    for column in ("trouble", "", *numbers, "wrong", "verdict", "findings"):
        shown.add_column(
            column,
            header_style="bold",
            justify="right" if column in numbers else "left",
            no_wrap=column != "findings",
        )
    before = None
    for outcome in found.outcomes:
        verdict = Text(outcome.verdict or "failed")
        if outcome.verdict is not None:
            trusted = outcome.wrong and outcome.trusted
            verdict.style = "bold red" if trusted else VERDICT_STYLES[outcome.verdict]
        shown.add_row(
            Text("" if outcome.name == before else outcome.name, style="bold"),
            Text(outcome.strength),
            *((f"{outcome.seed}",) if several else ()),
            f"{outcome.rows:,}",
            *(_percent(one) for one in (outcome.right, outcome.auroc, outcome.follows)),
            _wrong(outcome),
            verdict,
            Text(", ".join(outcome.findings) or outcome.error or "-"),
        )
        before = outcome.name
    output_console().print(shown)


def _percent(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1%}"


def _wrong(outcome: Outcome) -> str:
    if outcome.turned:
        return "turned"
    return "wrong" if outcome.wrong else "-"
