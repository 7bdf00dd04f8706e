"""`icm-client runs score` and `runs vote`: what other models and other runs say of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import click
from rich.table import Table

from icm_client.cli.completion import complete_runs
from icm_client.cli.documents import print_json
from icm_client.cli.options import (
    check_output_option,
    output_format_option,
    server_options,
    store_option,
)
from icm_client.cli.run_options import json_option, runs_option
from icm_client.cli.search_display import reading_display
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import draining, ended_at_once
from icm_client.cli.terminal import beginning, print_table, share, table_that_fits
from icm_client.data import FileFormat
from icm_client.data.outputs import STANDARD_OUTPUT
from icm_client.errors import InputError
from icm_client.record.archive import find_run
from icm_client.runs.second_opinion import SecondOpinion, second_opinion
from icm_client.runs.server import Server
from icm_client.runs.vote import Vote, Voter, vote
from icm_client.scoring import open_store

_ROWS_SHOWN = 20
_TEXT = 60  # of a row, in a table
_LEAST = 0.001
_METHODS = {
    "dawid-skene": "Dawid and Skene's: each run's confusion matrix, from how the runs agree",
    "weighted-majority": "a weighted majority",
}


@click.command("score", cls=SectionedCommand)
@click.argument("name", metavar="RUN", shell_complete=complete_runs)
@section(
    "Output",
    click.option(
        "-o", "--output", type=click.Path(), help="Write a line for each row, disputed ones first."
    ),
)
@output_format_option
@server_options(wire=True)
@section("Record", runs_option, store_option)
@json_option
def score_command(
    *,
    name: str,
    output: str | None,
    output_format: FileFormat | None,
    server: Server,
    base: Path,
    store: str | None,
    as_json: bool,
) -> None:
    """Show how coherent a run's labels are for another model, row by row.

    Name its server with --endpoint. It reads each row of RUN once, given the run's labels of other
    rows as demos; nothing is searched, and the run stays as it is.

    Rows whose label the model disputes come first, by the log-odds of their label.
    """
    run = find_run(name, base)
    _check_output(output, output_format, as_json=as_json)

    async def ask() -> SecondOpinion:
        async with draining() as drain:
            with reading_display(hidden=as_json) as progress:
                return await second_opinion(
                    run.path,
                    endpoint=server,
                    store=kept,
                    on_progress=progress,
                    stopping=drain.stopping,
                )

    with open_store(store) as kept, ended_at_once(kept):
        found = anyio.run(ask)
    if output is not None:
        found.write(output, format=output_format)
    if as_json:
        print_json(found.summary())
        return
    _print_opinion(found, output)


def _check_output(output: str | None, kind: FileFormat | None, *, as_json: bool) -> None:
    if output == STANDARD_OUTPUT:
        raise InputError("the result is printed on standard output: name a file for the labels")
    if output is not None:
        check_output_option(output, kind, as_json=as_json)


def _print_opinion(found: SecondOpinion, output: str | None) -> None:
    own = found.own
    columns = {
        "": ["this model", "the run's own"],
        "model": [found.server.model, str(own["server"]["model"])],
        "U": [f"{found.utility:+.3f} (s.e. {found.standard_error:.3f})", _signed(own["utility"])],
        "coherence": [share(found.coherence), share(own["coherence"])],
    }
    print_table(table_that_fits(columns, drop=("model",), numbers={"coherence"}))
    click.echo(f"\n{found.sentence()}.")
    if found.unread:
        click.echo(f"{len(found.unread):,} rows could not be scored; --json lists them.")
    if found.disputed:
        click.echo()
        rows = found.disputed[:_ROWS_SHOWN]
        columns = {
            "row": [str(one.row.id) for one in rows],
            "label": [one.label for one in rows],
            "this model": [one.other for one in rows],
            "log-odds": [f"{one.log_odds:+.2f}" for one in rows],
            "": [_text(one.row.fields) for one in rows],
        }
        print_table(table_that_fits(columns, drop=("",), numbers={"log-odds"}))
        _say_more(len(found.disputed), "-o FILE writes" if output is None else f"{output} has")
    if output is not None:
        click.echo(f"\nall rows in {output}")


def _signed(value: object) -> str:
    return f"{value:+.3f}" if isinstance(value, float) else "-"


def _text(fields: Mapping[str, object]) -> str:
    """The beginning of a row's longest text."""
    texts = [one for one in fields.values() if isinstance(one, str)]
    return beginning(max(texts, key=len, default=""), _TEXT)


def _say_more(rows: int, where: str) -> None:
    if rows > _ROWS_SHOWN:
        click.echo(f"and {rows - _ROWS_SHOWN:,} more; {where} them all")


@click.command("vote", cls=SectionedCommand)
@click.argument(
    "names", metavar="RUN RUN...", nargs=-1, required=True, shell_complete=complete_runs
)
@section(
    "Output",
    click.option("-o", "--output", type=click.Path(), help="Where to write the labels."),
)
@output_format_option
@section("Record", runs_option)
@json_option
def vote_command(
    *,
    names: tuple[str, ...],
    output: str | None,
    output_format: FileFormat | None,
    base: Path,
    as_json: bool,
) -> None:
    """Let runs over the same rows vote on each row's label; name one that the others contradict.

    Other models and other prompts are other opinions; other seeds of one model share its mistakes.
    Rows are matched by their content. Nothing is asked. From three runs on, their agreement shows
    how much each is worth; two are weighed by their coherence.

    The output is a labels file: icm-client label takes it with --init and --pin.
    """
    _check_output(output, output_format, as_json=as_json)
    found = vote([find_run(name, base) for name in names])
    if output is not None:
        found.write(output, format=output_format)
    if as_json:
        print_json(found.summary())
    else:
        _print_vote(found, output)
    for notice in () if as_json else found.notices:
        click.echo(f"Note: {notice}.", err=True)
    for warning in found.warnings:
        click.echo(click.style(f"Warning: {warning}.", fg="yellow"), err=True)


def _print_vote(found: Vote, output: str | None) -> None:
    click.echo(f"{len(found.rows):,} rows, by {_METHODS[found.method]}\n")
    voters = found.voters
    columns = {
        "": [str(number) for number in range(1, len(voters) + 1)],
        "run": [voter.run for voter in voters],
        "model": [str(voter.model) for voter in voters],
        "verdict": [voter.verdict for voter in voters],
        "coherence": [share(voter.coherence) for voter in voters],
        "vote": [_votes(voter) for voter in voters],
        "estimated right": [share(voter.estimated) for voter in voters],
        "as voted": [share(voter.agrees) for voter in voters],
    }
    if found.accuracy is not None:
        columns["accuracy"] = [share(voter.accuracy) for voter in voters]
    dropped = ("model", "verdict", "coherence", "as voted", "vote")
    print_table(table_that_fits(columns, drop=dropped, numbers=columns.keys() - {"run", "model"}))
    if found.accuracy is not None:
        click.echo(f"accuracy of the vote: {found.accuracy:.1%}")
    click.echo()
    print_table(_pairs(found))
    contested = found.contested
    click.echo(f"\n{len(contested):,} rows are contested by runs with a vote")
    if contested:
        shown = contested[:_ROWS_SHOWN]
        columns = {
            "row": [str(found.rows[n].row.id) for n in shown],
            "voted": [found.rows[n].label for n in shown],
            "sure": [share(found.rows[n].confidence) for n in shown],
            "runs": [", ".join(found.votes[n]) for n in shown],
            "": [_text(found.rows[n].row.fields) for n in shown],
        }
        print_table(table_that_fits(columns, drop=("",), numbers={"sure"}))
        _say_more(len(contested), "--json has")
    if output is not None:
        click.echo(f"\nlabels in {output}")


def _votes(voter: Voter) -> str:
    if not voter.counts:
        return "none"
    return "yes" if voter.weight is None else f"{voter.weight:.2f}"


def _pairs(found: Vote) -> Table:
    """How far every two runs agree, and which of them is right more often where that is known."""
    numbers = {voter.run: str(number) for number, voter in enumerate(found.voters, start=1)}
    tests = {
        (numbers.get(one.first, one.first), numbers.get(one.second, one.second)): one.test
        for one in found.comparisons
    }
    agreed = {
        (str(one + 1), str(other + 1)): (share(pair.share), _kappa(pair.kappa))
        for (one, other), pair in found.pairs.items()
    }
    table = Table(box=None, pad_edge=False)
    headings = ["", "agree", "kappa"]
    if tests:
        judge = "gold" if found.judged_by == "gold" else "the other runs"
        headings += [f"right alone, by {judge}", "p"]
    for heading in headings:
        table.add_column(heading)
    for pair in dict.fromkeys([*agreed, *tests]):
        test = tests.get(pair)
        figures: Sequence[str] = ()
        if test is not None:
            figures = (
                f"{test.first:,}, {test.second:,}",
                f"{test.p:.3f}" if test.p >= _LEAST else f"< {_LEAST}",
            )
        table.add_row(", ".join(pair), *agreed.get(pair, ("", "")), *figures)
    return table


def _kappa(kappa: float | None) -> str:
    return "-" if kappa is None else f"{kappa:.2f}"
