"""`icm-client ablate`."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import anyio
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icm_client.cli.options import (
    constraint_of,
    search_options,
    server_options,
    settings_of,
    task_option,
)
from icm_client.cli.signals import ended_at_once
from icm_client.cli.terminal import live_display, moment
from icm_client.data.job import Job, task_for
from icm_client.data.messages import did_you_mean, listed
from icm_client.errors import IcmError, InputError, RunError, SetupError
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
from icm_client.experiments.comparison import some_rows
from icm_client.experiments.figures import draw_ablations
from icm_client.record.folder import replace_file
from icm_client.runs.labels_file import read_start
from icm_client.runs.presets import Preset
from icm_client.runs.progress import OnProgress
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import open_store

PICTURES = ("ablation.svg", "ablation.png")
_PIPED_COLUMNS = 160


def _chosen(_: click.Context, __: click.Parameter, value: str | None) -> tuple[Ablation, ...]:
    """The ablations named, in our order."""
    if value is None:
        return ABLATIONS
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in ABLATIONS:
            raise click.BadParameter(
                f"{name!r} is no ablation: there are {listed(ABLATIONS)}."
                f"{did_you_mean(name, ABLATIONS)}"
            )
    return tuple(name for name in ABLATIONS if name in names)


@click.command(
    "ablate",
    short_help="Change one thing at a time, and compare.",
    context_settings={"default_map": {"preset": "paper"}},
)
@click.argument("data", type=click.Path())
@click.option("--out", type=click.Path(path_type=Path), help="The results' folder (required).")
@task_option
@click.option("--gold", help="Field with known labels. [default: the task's]")
@click.option(
    "--only",
    callback=_chosen,
    metavar="NAMES",
    help=f"Some of {', '.join(ABLATIONS)}, separated by commas. [default: all]",
)
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each variant."
)
@click.option(
    "--rows",
    "count",
    type=click.IntRange(2),
    metavar="N",
    help="A sample of so many rows, a rule's groups whole. [default: all]",
)
@server_options(wire=True)
@search_options
@click.option("--store", type=click.Path(), help="The score store. [default: in the user's cache]")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print plan or results as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print no line for each run.")
def ablate_command(  # noqa: C901 - options one by one
    *,
    data: str,
    out: Path | None,
    task_name: str | None,
    gold: str | None,
    only: tuple[Ablation, ...],
    seeds: int,
    count: int | None,
    server: Server,
    preset: Preset,
    start: str | None,
    rules: tuple[str, ...],
    group: tuple[str, ...],
    answer: str | None,
    implies: str | None,
    store: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **numbers: object,
) -> None:
    """Compare runs on DATA that differ in one thing: constraint, initial, alpha, init or preset.

    The search's options describe the run that all others differ from. What has been run is kept in
    the folder --out: the same command again runs what is missing.
    """
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out': where should the results go?")
    base = settings_of(preset, numbers)
    task = task_for(data, task_name)
    job = Job.prepare(
        data, task, gold=gold, constraint=constraint_of(rules, group, answer, implies)
    )
    if count is not None:
        job = Job.prepare(some_rows(job, count), job.task)
    if start is not None:
        read_start(start, job)
    plan = plan_ablations(job, base, start=start, only=only)
    if not as_json:
        for notice in (*job.notices, *plan.notices):
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
            with _display(lines, hidden=quiet or as_json) as progress:
                return await run_ablations(
                    job,
                    plan,
                    seeds=seeds,
                    endpoint=endpoint,
                    folder=out,
                    store=kept,
                    ended=ended,
                    progress=progress,
                )

    with open_store(store) as kept, ended_at_once(kept):
        outcomes = anyio.run(run)
    compared = compare(plan, outcomes)
    written, missing = _write(compared, out, f"{Path(data).name}: {len(job.dataset.rows)} rows")
    failed = sum(outcome.error is not None for one in compared for outcome in one.outcomes)
    if as_json:
        document = {"rows": table(compared), "notices": list(plan.notices), "files": written}
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    else:
        _print_table(compared)
        click.echo(f"Written: {', '.join(written)}")
    if missing is not None:
        click.echo(f"Note: no picture: {missing}", err=True)
    if failed:
        raise IcmError(f"{failed} of {seeds * len(compared)} runs failed; the table says which")


@contextmanager
def _display(console: Console, *, hidden: bool) -> Iterator[OnProgress | None]:
    """Where a terminal is, the run under way below the lines of those that ended."""
    if hidden or not console.is_terminal:
        yield None
        return
    with live_display(console) as live:
        yield lambda progress: live.update(moment(progress))


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
    says = f", {', '.join(outcome.findings)}" if outcome.findings else ""
    return f"{what}: {accuracy}coherence {outcome.coherence:.0%}, {took}{says}"


def _write(compared: Sequence[Compared], out: Path, title: str) -> tuple[list[str], str | None]:
    """Write table and pictures; the files written, and why there are no pictures, or None."""
    try:
        replace_file(out / "results.csv", csv_text(compared).encode())
        written = [str(out / "results.csv")]
        try:
            draw_ablations(compared, [out / name for name in PICTURES], title)
        except SetupError as error:
            return written, str(error)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from error
    return [*written, *(str(out / name) for name in PICTURES)], None


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
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return
    for ablation in dict.fromkeys(variant.ablation for variant in plan.variants):
        names = [variant.name for variant in plan.variants if variant.ablation == ablation]
        click.echo(f"{ablation:<12}{', '.join(names)}")
    same = len(plan.variants) - plan.distinct
    shared = f" ({same} of {len(plan.variants)} variants are another one's runs)" if same else ""
    click.echo(f"{plan.distinct} variants{shared}, {seeds} seeds: {plan.distinct * seeds} runs")


def _print_table(compared: Sequence[Compared]) -> None:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "", "accuracy", "coherence", "accepted", "runs", "says"):
        shown.add_column(column, header_style="bold", no_wrap=column != "says")
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
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_COLUMNS
    console.print(shown)


def _spread(values: Sequence[float]) -> str:
    """The mean, and from where to where."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.1%} ({min(values):.0%} to {max(values):.0%})"
