"""`icm-client ablate`: change one thing of a run at a time, and compare."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.options import (
    Names,
    file_options,
    gold_option,
    limit_option,
    rows_alias,
    search_options,
    server_options,
    store_option,
    task_options,
)
from icm_client.cli.search_display import moment
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import ended_at_once
from icm_client.cli.terminal import live_display, output_console
from icm_client.data import FileOptions, Task
from icm_client.data.constraint_spec import Rules
from icm_client.data.job import Job, task_for
from icm_client.data.sources import found_files
from icm_client.errors import IcmError, InputError
from icm_client.experiments.ablation import (
    ABLATIONS,
    Ablation,
    Compared,
    Ended,
    Outcome,
    Plan,
    Variant,
    compare,
    csv_text,
    plan_ablations,
    run_ablations,
    table,
)
from icm_client.experiments.comparison import write_results
from icm_client.experiments.figures import draw_ablations
from icm_client.runs.labels_file import read_start
from icm_client.runs.presets import Settings
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import open_store

PICTURES = ("ablation.svg", "ablation.png")


@click.command(
    "ablate",
    cls=SectionedCommand,
    short_help="Change one thing at a time, and compare.",
    context_settings={"default_map": {"preset": "paper"}},
)
@click.argument("data", nargs=-1, required=True, type=click.Path())
@section(
    "Output",
    click.option(
        "--out", type=click.Path(path_type=Path), help="The folder for the results (required)."
    ),
)
@task_options
@file_options
@gold_option
@section(
    "Comparison",
    click.option(
        "--only",
        type=Names(ABLATIONS),
        default=",".join(ABLATIONS),
        help=f"Some of {', '.join(ABLATIONS)}, separated by commas. [default: all]",
    ),
    click.option(
        "--seeds",
        default=3,
        show_default=True,
        type=click.IntRange(1),
        help="Runs of each variant.",
    ),
)
@limit_option
@rows_alias
@server_options(wire=True)
@search_options
@section(
    "Record",
    store_option,
)
@click.option("--dry-run", is_flag=True, help="Print what would be run, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print plan or results as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print no line for each run.")
def ablate_command(  # noqa: C901 - options one by one
    *,
    data: tuple[str, ...],
    out: Path | None,
    task: Task | str | None,
    file: FileOptions,
    gold: str | None,
    only: tuple[Ablation, ...],
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
    """Compare runs on DATA that differ in one thing: constraint, initial, alpha, init or preset.

    The search's options describe the run that all others are compared with. Finished runs are kept
    in the folder --out: the same command again runs the missing ones.
    """
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out': where should the results go?")
    with found_files(data) as files:
        job = Job.prepare(
            files, task_for(data[0], task), gold=gold, constraint=constraint, file=file, limit=limit
        )
    if start is not None:
        read_start(start, job)
    plan = plan_ablations(job, settings, start=start, only=only)
    if not as_json:
        for notice in (*job.warnings, *job.notices, *plan.notices):
            click.echo(f"Note: {notice}.", err=True)
    if not plan.variants:
        raise InputError(f"nothing to compare: {'; '.join(plan.notices)}")
    if dry_run or out is None:
        _print_plan(plan, seeds, as_json=as_json)
        return
    lines = Console(stderr=True, highlight=False)

    def ended(run: Ended) -> None:
        if not quiet and not as_json:
            lines.print(Text(_line(run)), soft_wrap=True)

    async def run() -> dict[tuple[Variant, int], Outcome]:
        async with open_endpoint(server) as endpoint:
            with live_display(lines, hidden=quiet or as_json) as show:
                return await run_ablations(
                    job,
                    plan,
                    seeds=seeds,
                    endpoint=endpoint,
                    folder=out,
                    store=kept,
                    ended=ended,
                    progress=None if show is None else lambda at: show(moment(at)),
                )

    with open_store(store) as kept, ended_at_once(kept):
        outcomes = anyio.run(run)
    compared = compare(plan, outcomes)
    title = f"{Path(job.dataset.name).name}: {len(job.dataset.rows)} rows"
    written, missing = write_results(
        out,
        {"results.csv": csv_text(compared).encode()},
        PICTURES,
        partial(draw_ablations, compared, title=title),
    )
    failed = sum(outcome.error is not None for one in compared for outcome in one.outcomes)
    if as_json:
        document = {"rows": table(compared), "notices": list(plan.notices), "files": written}
        print_json(document)
    else:
        _print_table(compared)
        click.echo(f"Written: {', '.join(written)}")
    if missing is not None:
        click.echo(f"Note: no picture was drawn: {missing}", err=True)
    if failed:
        raise IcmError(f"{failed} of {seeds * len(compared)} runs failed: the table names them")


def _line(run: Ended) -> str:
    variant, outcome = run.variant, run.outcome
    what = f"{run.number}/{run.of} {variant.ablation} {variant.name}, seed {outcome.seed}"
    if outcome.error is not None or outcome.coherence is None:
        return f"{what}: failed: {outcome.error}"
    accuracy = "" if outcome.accuracy is None else f"accuracy {outcome.accuracy:.1%}, "
    took = (
        "kept"
        if run.kept
        else f"{outcome.computed_tokens:,} tokens computed, {outcome.seconds:.0f} s"
    )
    findings = f", {', '.join(outcome.findings)}" if outcome.findings else ""
    return f"{what}: {accuracy}coherence {outcome.coherence:.0%}, {took}{findings}"


def _print_plan(plan: Plan, seeds: int, *, as_json: bool) -> None:
    if as_json:
        variants = [
            {
                "ablation": variant.ablation,
                "variant": variant.name,
                "settings": asdict(variant.settings),
                "start": variant.made or variant.start,
                "rule": variant.rule,
            }
            for variant in plan.variants
        ]
        document = {
            "runs": plan.distinct * seeds,
            "seeds": seeds,
            "variants": variants,
            "notices": list(plan.notices),
        }
        print_json(document)
        return
    for ablation in dict.fromkeys(variant.ablation for variant in plan.variants):
        names = [variant.name for variant in plan.variants if variant.ablation == ablation]
        click.echo(f"{ablation:<12}{', '.join(names)}")
    same = len(plan.variants) - plan.distinct
    shared = f" ({same} of {len(plan.variants)} variants share the runs of another)" if same else ""
    click.echo(f"{plan.distinct} variants{shared}, {seeds} seeds: {plan.distinct * seeds} runs")


def _print_table(compared: Sequence[Compared]) -> None:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "", "accuracy", "coherence", "accepted", "runs", "findings"):
        shown.add_column(column, header_style="bold", no_wrap=column != "findings")
    before = None
    for one, record in zip(compared, table(compared), strict=True):
        failed = f" ({record['failed']} failed)" if record["failed"] else ""
        shown.add_row(
            Text("" if one.variant.ablation == before else one.variant.ablation, style="bold"),
            Text(one.variant.name),
            _spread(one.values("accuracy")),
            _spread(one.values("coherence")),
            f"{record['accepted_mean']} of {record['steps_mean']}" if one.ended else "-",
            f"{record['runs']}{failed}",
            Text(str(record["findings"]) or "-"),
        )
        before = one.variant.ablation
    output_console().print(shown)


def _spread(values: Sequence[float]) -> str:
    """The mean and the range."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.1%} ({min(values):.0%} to {max(values):.0%})"
