"""`icm-client why`: which demos and which words carry a row's label, and which rows teach which."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import click

from icm_client.cli.completion import complete_runs
from icm_client.cli.documents import print_json
from icm_client.cli.options import server_options, store_option
from icm_client.cli.run_options import json_option, runs_option
from icm_client.cli.search_display import reading_display
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import draining, ended_at_once
from icm_client.cli.terminal import (
    beginning,
    plain,
    print_table,
    share,
    table_that_fits,
)
from icm_client.coherence.influence import reads_for
from icm_client.runs.server import Server
from icm_client.runs.why import (
    READS,
    Planned,
    check_amounts,
    explain,
    plan_why,
    teaching,
    text_of,
)
from icm_client.runs.why_result import Explanation, OtherLabel, Teaching
from icm_client.scoring import open_store

_SHOWN = 8  # demos and words for the label, and as many against it; rows that teach
_TEXT = 60
_One = TypeVar("_One")


@click.command("why", cls=SectionedCommand, short_help="Show what carries a row's label.")
@click.argument("run_name", metavar="RUN", shell_complete=complete_runs)
@click.argument("row", required=False)
@section(
    "Explanation",
    click.option(
        "--reads",
        type=click.IntRange(1),
        help="Reads of a row in a context at most; what none are left for is said. "
        f"[default: {READS}; with --rows as many as it takes]",
    ),
    click.option(
        "--beside",
        metavar="RUN",
        multiple=True,
        shell_complete=complete_runs,
        help="Say what another run over the same rows makes of it. May be repeated.",
    ),
    click.option(
        "--rows",
        type=click.IntRange(2),
        help="In the place of ROW: which rows teach others, as N of them show.",
    ),
)
@server_options(wire=True)
@section("Record", runs_option, store_option)
@click.option("--dry-run", is_flag=True, help="Show the row and what it would take, and stop.")
@json_option
def why_command(
    *,
    run_name: str,
    row: str | None,
    reads: int | None,
    beside: tuple[str, ...],
    rows: int | None,
    server: Server,
    base: Path,
    store: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Show why RUN gave the row with the id ROW its label: what carries it.

    The row is read in a context of the run's labels of other rows. Then demos are left out of it
    and given another label, and words are left out of the row: what moves the log-odds of the
    label carries it. Other concepts of the run (label --concepts) are asked for theirs.

    With --rows it shows which rows teach others: how far the labels of N rows hang on each demo's.

    The run's folder keeps an explanation, and its report shows it: icm-client report RUN.
    """
    if (row is None) == (rows is None):
        raise click.UsageError("Name a row's id, or how many rows: --rows N.")
    if rows is not None and beside:
        raise click.UsageError("--beside goes with a row.")
    planned = plan_why(run_name, row, beside=beside, runs=base)
    if dry_run:
        check_amounts(planned, reads=reads, rows=rows)
        _show(planned, reads, rows, as_json=as_json)
        return

    options = {} if reads is None else {"reads": reads}

    async def ask() -> Explanation | Teaching:
        async with draining() as drain:
            with reading_display(hidden=as_json) as progress:
                find = explain if rows is None else partial(teaching, rows=rows)
                return await find(
                    planned,
                    endpoint=server,
                    store=kept,
                    on_progress=progress,
                    stopping=drain.stopping,
                    **options,
                )

    with open_store(store) as kept, ended_at_once(kept):
        found = anyio.run(ask)
    if as_json:
        print_json(asdict(found))
        return
    if isinstance(found, Explanation):
        _print_explanation(found)
    else:
        _print_teaching(found)
    stats = found.stats
    click.echo(f"\n{stats.asked:,} reads, {stats.from_store:,} more from the store")
    for notice in found.notices:
        click.echo(f"Note: {notice}.", err=True)


def _print_explanation(found: Explanation) -> None:
    """Print what carries a row's label: demos, words, and what other runs say."""
    click.echo(f"{plain(found.sentence())}.\n")
    demos = _ends([(one.relabelled, one) for one in found.demos])
    columns = {
        "demo": [str(one.row) for one in demos],
        "label": [one.label for one in demos],
        "left out": [_nats(one.left_out) for one in demos],
        "relabelled": [_nats(one.relabelled) for one in demos],
        "": [beginning(one.text, _TEXT) for one in demos],
    }
    if demos:
        print_table(table_that_fits(columns, drop=("",), numbers={"left out", "relabelled"}))
        _say_more(len(demos), len(found.demos))
    if found.unread:
        most = found.unread_effect
        blocks = (
            "not all of them in a block" if most is None else f"{most:.2f} nats a block at most"
        )
        click.echo(f"{found.unread} demos were not tried one by one ({blocks}): --reads tries more")
    spans = _ends([(one.effect, one) for one in found.spans if one.effect is not None])
    if spans:
        click.echo()
        columns = {
            "words": [beginning(one.text, _TEXT) for one in spans],
            "left out": [_nats(one.effect) for one in spans],
        }
        print_table(table_that_fits(columns, drop=(), numbers={"left out"}))
        _say_more(len(spans), len(found.spans))
    _print_beside(found.beside)


def _print_beside(beside: Sequence[OtherLabel]) -> None:
    if beside:
        click.echo()
        columns = {
            "other run": [one.run for one in beside],
            "label": [one.label or "none" for one in beside],
            "confidence": [share(one.confidence) for one in beside],
            "kappa": ["-" if one.kappa is None else f"{one.kappa:.2f}" for one in beside],
        }
        print_table(table_that_fits(columns, drop=(), numbers={"confidence", "kappa"}))


def _ends(found: Sequence[tuple[float | None, _One]]) -> list[_One]:
    """The first few by their effects, and the last few of those against the label."""
    ordered = sorted(found, key=lambda one: -(one[0] or 0.0))
    against = [one for effect, one in ordered[_SHOWN:] if (effect or 0.0) < 0]
    return [*(one for _, one in ordered[:_SHOWN]), *against[-_SHOWN:]]


def _say_more(shown: int, every: int) -> None:
    if shown < every:
        click.echo(f"and {every - shown:,} more; --json has them all")


def _nats(effect: float | None) -> str:
    return "-" if effect is None else f"{effect:+.3f}"


def _print_teaching(found: Teaching) -> None:
    rows = _ends([(one.effect, one) for one in found.rows])
    columns = {
        "demo": [str(one.row) for one in rows],
        "label": [one.label for one in rows],
        "teaches": [_nats(one.effect) for one in rows],
        "helps": [share(one.helped) for one in rows],
        "": [beginning(one.text, _TEXT) for one in rows],
    }
    print_table(table_that_fits(columns, drop=("", "helps"), numbers={"teaches", "helps"}))
    _say_more(len(rows), len(found.rows))
    click.echo(f"\n{found.sentence()}.")
    if found.unread:
        click.echo(f"{found.unread} demos were not tried: --reads tries more")


def _show(planned: Planned, reads: int | None, rows: int | None, *, as_json: bool) -> None:
    """Print what is known before anything is asked."""
    if reads is None:
        demos = planned.settings.demos
        reads = READS if rows is None else 2 * reads_for(demos, rows // 2, leave_out=False)
    job, number = planned.job, planned.number
    if number is None:
        shown: dict[str, object] = {"rows": rows}
        words = f"{rows:,} of {len(job.dataset.rows):,} rows, in two contexts"
    else:
        one = planned.found.rows[number]
        shown = {"row": one.row.id, "label": one.label}
        words = f"{one.row.id}, labelled {one.label}: {text_of(one.row, job.task)}"
    if as_json:
        beside = [asdict(one) for one in planned.beside]
        print_json({"run": planned.run.name, **shown, "reads": reads, "beside": beside})
        return
    click.echo(f"{plain(words)}\nAt most {reads:,} reads.")
    _print_beside(planned.beside)
