"""`icm-client store`: look after the score store, which keeps every answer."""

import re
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from icm_client.cli.documents import print_json
from icm_client.cli.run_options import json_option
from icm_client.cli.sections import ListingGroup
from icm_client.scoring import default_path
from icm_client.scoring.store_transfer import export_store, import_store
from icm_client.scoring.store_upkeep import check, describe, prune

_MEGABYTE = 1e6
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class _Age(click.ParamType[timedelta]):
    """An age such as `30d`, in minutes (m), hours (h), days (d) or weeks (w)."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d{1,6})([mhdw])", value)
        if found is None:
            self.fail(f"{value!r} is no age such as 12h, 30d or 8w", param, ctx)
        return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


_store_option = click.option(
    "--store",
    "path",
    type=click.Path(path_type=Path),
    help="The score store. [default: in the user's cache]",
)


@click.group("store", cls=ListingGroup, short_help="Look after the score store.")
def store_group() -> None:
    """The score store keeps every answer of every server, so that nothing is asked twice."""


@store_group.command("info")
@_store_option
@json_option
def info_command(*, path: Path | None, as_json: bool) -> None:
    """Show what is in the store, server by server."""
    found = describe(path or default_path())
    if as_json:
        print_json(asdict(found))
        return
    click.echo(f"store   {found.path}")
    click.echo(f"size    {found.bytes / _MEGABYTE:,.1f} MB")
    click.echo(f"scores  {found.scores:,}")
    click.echo(f"texts   {found.texts:,} with their token ids")
    for server in found.servers:
        whose = server.model or "no model noted"
        kind = f" ({server.kind})" if server.kind else ""
        mark = (server.fingerprint or "from before servers were noted")[:12]
        since = f", {server.oldest} to {server.newest}" if server.oldest else ""
        click.echo(
            f"  {whose}{kind} {mark}: {server.scores:,} scores, {server.texts:,} texts{since}"
        )


@store_group.command("check")
@click.option("--repair", is_flag=True, help="Drop bad rows; they are asked again when needed.")
@_store_option
@json_option
@click.pass_context
def check_command(
    context: click.Context, *, repair: bool, path: Path | None, as_json: bool
) -> None:
    """Compare every row with its checksum. Exit status 1 if any is bad.

    A bad row is never used by a run; it is asked again.
    """
    found = check(path or default_path(), repair=repair)
    if as_json:
        print_json({**asdict(found), "whole": found.whole})
    else:
        click.echo(f"{found.scores:,} scores checked, {found.bad_scores:,} bad")
        click.echo(f"{found.texts:,} texts checked, {found.bad_texts:,} bad")
        for problem in found.problems:
            click.echo(f"structure: {problem}")
        if found.notice:
            click.echo(found.notice)
        elif found.repaired:
            click.echo("The bad rows are dropped.")
        elif not found.whole:
            click.echo("icm-client store check --repair drops the bad rows.")
    if not found.whole:
        context.exit(1)


@store_group.command("prune")
@click.option(
    "--older-than", type=_Age(), metavar="AGE", help="Answers older than this: 12h, 30d, 8w."
)
@click.option("--model", help="Answers of this model.")
@click.option("-y", "--yes", is_flag=True, help="Drop them; without this, only show how many.")
@_store_option
@json_option
def prune_command(
    *,
    older_than: timedelta | None,
    model: str | None,
    yes: bool,
    path: Path | None,
    as_json: bool,
) -> None:
    """Drop answers by age, by model, or by both at once.

    Rows of older versions, which have no time, count from the day when the file was upgraded.
    """
    if older_than is None and model is None:
        raise click.UsageError("Say what to drop: --older-than AGE, --model NAME, or both.")
    found = prune(path or default_path(), older_than=older_than, model=model, dry_run=not yes)
    if as_json:
        print_json(asdict(found))
        return
    verb = "Dropped" if found.done else "Would drop"
    click.echo(
        f"{verb} {found.scores:,} scores and {found.texts:,} texts; {found.scores_left:,} scores "
        f"stay.{'' if found.done else ' Add --yes to drop them.'}"
    )


@store_group.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@_store_option
@json_option
def export_command(*, file: Path, path: Path | None, as_json: bool) -> None:
    """Write the store to FILE as JSON Lines, every number exact to the bit."""
    found = export_store(path or default_path(), file)
    if as_json:
        print_json({**asdict(found), "file": str(file)})
        return
    click.echo(f"Wrote {found.scores:,} scores and {found.texts:,} texts to {file}.")
    _warn_of_damaged(found.damaged)


@store_group.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_store_option
@json_option
def import_command(*, file: Path, path: Path | None, as_json: bool) -> None:
    """Add the answers in FILE: JSON Lines of store export, or another store.

    An answer that the store has already stays; a row that does not match its checksum is left out.
    """
    found = import_store(path or default_path(), file)
    if as_json:
        print_json({**asdict(found), "file": str(file)})
        return
    click.echo(
        f"Added {found.scores:,} scores and {found.texts:,} texts; the store had {found.there:,} "
        "already."
    )
    _warn_of_damaged(found.damaged)


def _warn_of_damaged(damaged: int) -> None:
    if damaged:
        click.echo(f"Warning: {damaged:,} damaged rows were left out.", err=True)
