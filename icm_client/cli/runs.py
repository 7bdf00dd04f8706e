"""`icm-client runs`: what was run here, how it ended, how to go on, and how runs differ."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.table import Table

from icm_client.cli.completion import complete_runs
from icm_client.cli.documents import print_json
from icm_client.cli.run_options import json_option, runs_option
from icm_client.cli.sections import ListingGroup
from icm_client.cli.terminal import print_table, share, table_that_fits
from icm_client.errors import InputError
from icm_client.record.archive import Run, find_run, list_runs, remove_run, resume_command
from icm_client.verdict.findings import of_run

if TYPE_CHECKING:
    from icm_client.record.comparison import RunDiff
    from icm_client.stats.agreement import Agreement


@click.command("agree")
@click.argument(
    "names", metavar="NAME NAME...", nargs=-1, required=True, shell_complete=complete_runs
)
@runs_option
@json_option
def agree_command(*, names: tuple[str, ...], base: Path, as_json: bool) -> None:
    """Show how far runs over the same rows agree: other seeds, models, servers.

    Rows are matched by their content, so their order and ids may differ; runs over different data
    are refused. Kappa is 1 for the same labels and 0 for chance. Where two runs agree better under
    another label permutation, that is shown too.
    """
    # Imported here, as below: the list of runs is to be there at once, and needs no NumPy.
    from icm_client.record.comparison import labels_by_row  # noqa: PLC0415
    from icm_client.stats.agreement import agreements  # noqa: PLC0415

    runs = [find_run(name, base) for name in names]
    labels = [{row: found.label for row, found in by_row.items()} for by_row in labels_by_row(runs)]
    for run, own in zip(runs, labels, strict=True):
        if not own:
            raise InputError(f"the run {run.name} has no labels yet (it is {run.state})")
    found = agreements(labels)
    if as_json:
        pairs = [
            {"first": runs[one].name, "second": runs[other].name, **asdict(pair)}
            for (one, other), pair in found.items()
        ]
        print_json({"runs": [_compared(run) for run in runs], "pairs": pairs})
        return
    _print_agreements(runs, found)


def _compared(run: Run) -> dict[str, Any]:
    server, result = run.record["server"], run.result or {}
    return {
        "name": run.name,
        "seed": run.record["seed"],
        "model": server.get("model"),
        "server": server.get("kind"),
        "preset": result.get("preset"),
        "coherence": result.get("coherence"),
        "accuracy": result.get("accuracy"),
    }


def _print_agreements(runs: Sequence[Run], found: "Mapping[tuple[int, int], Agreement]") -> None:
    compared = [_compared(run) for run in runs]
    columns = {
        "": [str(number) for number in range(1, len(runs) + 1)],
        "run": [about["name"] for about in compared],
        "seed": [str(about["seed"]) for about in compared],
        "model": [str(about["model"]) for about in compared],
        "server": [str(about["server"]) for about in compared],
        "preset": [str(about["preset"] or "-") for about in compared],
        "coherence": [share(about["coherence"]) for about in compared],
        "accuracy": [share(about["accuracy"]) for about in compared],
    }
    dropped = ("server", "preset", "coherence", "accuracy", "seed", "model")
    print_table(table_that_fits(columns, drop=dropped, numbers=_NUMBERS))
    pairs = Table(box=None, pad_edge=False)
    for column in ("runs", "rows", "agree", "kappa", "with labels permuted"):
        pairs.add_column(column)
    for (one, other), pair in found.items():
        exchanged = ""
        if pair.names:
            which = ", ".join(f"{theirs} as {ours}" for theirs, ours in pair.names.items())
            exchanged = f"{pair.exchanged_share:.1%}, kappa {_kappa(pair.exchanged_kappa)}: {which}"
        figures = (f"{pair.rows:,}", f"{pair.share:.1%}", _kappa(pair.kappa), exchanged)
        pairs.add_row(f"{one + 1}, {other + 1}", *figures)
    click.echo()
    print_table(pairs)


def _kappa(kappa: float | None) -> str:
    return "-" if kappa is None else f"{kappa:.2f}"


_ROWS_SHOWN = 20


class _RunsGroup(ListingGroup):
    """The commands on runs; those that need NumPy to be imported are so when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in alphabetical order."""
        return sorted([*super().list_commands(ctx), "score", "vote"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, if it is one of these."""
        if cmd_name not in ("score", "vote"):
            return super().get_command(ctx, cmd_name)
        from icm_client.cli.second_opinions import score_command, vote_command  # noqa: PLC0415

        return score_command if cmd_name == "score" else vote_command


@click.group("runs", cls=_RunsGroup, short_help="List, resume, compare and remove runs.")
def runs_group() -> None:
    """Runs of icm-client label, each in a folder of its own.

    NAME is a run's name, the beginning of a single run's name, `latest` for the run that was worked
    on last, or a run's folder.
    """


runs_group.add_command(agree_command)


@runs_group.command("list")
@runs_option
@json_option
def list_command(*, base: Path, as_json: bool) -> None:
    """List the runs, the one that was worked on last first.

    A narrow terminal shows fewer columns; --json has everything.
    """
    found = list_runs(base)
    if as_json:
        print_json(
            {"runs": [run.document() for run in found.runs], "notes": list(found.notes)},
        )
        return
    for note in found.notes:
        click.echo(f"Warning: {note}", err=True)
    if not found.runs:
        click.echo(f"No runs in {base}.")
        return
    now = datetime.now(UTC)
    lines = [_line(run, now)._asdict() for run in found.runs]
    columns = {name: [line[name] for line in lines] for name in _Line._fields}
    print_table(table_that_fits(columns, drop=_DROPPED, numbers=_NUMBERS))


class _Line(NamedTuple):
    """A run in the list; `age` is the time since it was worked on."""

    name: str
    state: str
    age: str
    verdict: str
    rows: str
    accuracy: str
    coherence: str
    seed: str
    model: str


_NUMBERS = frozenset({"age", "rows", "accuracy", "coherence", "seed"})

_DROPPED = ("model", "seed", "coherence", "rows", "accuracy", "verdict", "age", "state")
"""What is left out on a narrow terminal, in this order; a name is always whole."""


def _line(run: Run, now: datetime) -> _Line:
    result = run.result or {}
    return _Line(
        name=run.name,
        state=run.state,
        age=_age(now, datetime.fromisoformat(run.updated or run.created)),
        verdict=str(result.get("verdict") or "-"),
        rows=f"{run.record['rows']:,}",
        accuracy=share(result.get("accuracy")),
        coherence=share(result.get("coherence")),
        seed=str(run.record["seed"]),
        model=str(run.record["server"].get("model")),
    )


_UNITS = ((60, "s"), (60, "min"), (48, "h"), (60, "d"))
"""How many of a unit are still told in it."""


def _age(now: datetime, then: datetime) -> str:
    """`40 s`, `5 min`, `3 h`, `12 d`; of what is older, the day."""
    passed = max(0.0, (now - then).total_seconds())  # the clock may have been set back
    for (most, unit), seconds in zip(_UNITS, (1, 60, 3600, 86400), strict=True):
        if passed < most * seconds:
            return f"{passed // seconds:.0f} {unit}"
    return f"{then:%Y-%m-%d}"


@runs_group.command("show")
@click.argument("name", shell_complete=complete_runs)
@runs_option
@json_option
def show_command(*, name: str, base: Path, as_json: bool) -> None:
    """Show what a run is and what it found."""
    run = find_run(name, base)
    if as_json:
        print_json(run.document())
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in _facts(run):
        table.add_row(key, value)
    print_table(table)
    # Commands are printed whole, however narrow the terminal: they are to be pasted.
    click.echo(f"\nIt was started in {run.record.get('folder')} by:")
    click.echo(f"  {_command_line(run.record.get('command'))}")
    if run.state in ("stopped", "failed") and run.record.get("command"):
        click.echo(f"It goes on with:\n  {resume_command(run)}")


def _facts(run: Run) -> list[tuple[str, str]]:
    record, result = run.record, run.result or {}
    reason = f": {run.reason}" if run.reason else ""
    facts = [
        ("run", run.name),
        ("state", f"{run.state}{reason}"),
        ("data", f"{record['data']} ({record['rows']} rows)"),
        ("task", str(record["task"].get("name") or record["task"].get("template"))),
        ("seed", str(record["seed"])),
        ("settings", ", ".join(f"{name} {value}" for name, value in record["settings"].items())),
        ("model", f"{record['server'].get('model')} ({record['server'].get('kind')})"),
        ("server", str(record["server"].get("fingerprint"))),
        ("created", run.created),
        ("last event", f"{run.updated or '-'} ({run.events} in the journal)"),
        ("folder", str(run.path)),
    ]
    if result.get("verdict"):
        facts.append(("verdict", f"{result['verdict']}{of_run(result.get('stopped'))}"))
    if result.get("no_confidence"):
        facts.append(("confidence", str(result["no_confidence"])))
    facts += [(str(label), f"{count} rows") for label, count in result.get("counts", {}).items()]
    shares = [(name, share(result.get(name))) for name in ("coherence", "confidence", "accuracy")]
    return facts + [(name, share) for name, share in shares if share != "-"]


def _command_line(command: Sequence[str] | None) -> str:
    return "(from Python)" if command is None else shlex.join(["icm-client", *map(str, command)])


@runs_group.command("resume")
@click.argument("name", shell_complete=complete_runs)
@runs_option
@json_option
@click.pass_context
def resume_runs_command(context: click.Context, *, name: str, base: Path, as_json: bool) -> None:
    """Run a run's command again, in the folder where it was started: it goes on where it stopped.

    A run that is done is replayed from the score store and writes the same labels again. Keys are
    never kept: give them in the environment (ICM_API_KEY), as the first time.
    """
    run = find_run(name, base)
    command = run.record.get("command")
    folder = Path(str(run.record.get("folder")))
    if not command:
        raise InputError(f"the run {run.name} was started from Python: make the same call again")
    if not folder.is_dir():
        raise InputError(
            f"the run {run.name} was started in {folder}, which does not exist any more: run its "
            f"command by hand: {_command_line(command)}"
        )
    for option in run.record.get("left_out", ()):
        click.echo(f"This option was not kept, so it is not given again: {option}", err=True)
    kept = tuple(str(argument) for argument in command)
    from icm_client.data.sources import STDIN  # noqa: PLC0415 - as above

    if STDIN in str(run.record.get("data")) and sys.stdin.isatty():
        raise InputError(
            f"the run {run.name} read its rows from standard input, and they are not kept: pipe "
            f"the same rows into it, for example zcat rows.jsonl.gz | icm-client runs resume "
            f"{run.name}"
        )
    arguments = [*kept, "--json"] if as_json and "--json" not in kept else list(kept)
    program = context.find_root().command
    with chdir(folder):
        ended = program.main(
            args=arguments, prog_name="icm-client", standalone_mode=False, obj=kept
        )
    if isinstance(ended, int):
        context.exit(ended)


@runs_group.command("diff")
@click.argument("first", shell_complete=complete_runs)
@click.argument("second", shell_complete=complete_runs)
@runs_option
@json_option
def diff_command(*, first: str, second: str, base: Path, as_json: bool) -> None:
    """Show where two runs differ: in their settings, and in their labels.

    Rows are matched by their content, so their order and ids may differ; runs over different data
    are refused.
    """
    from icm_client.record.comparison import diff_runs  # noqa: PLC0415 - as above

    one, other = find_run(first, base), find_run(second, base)
    found = diff_runs(one, other)
    if as_json:
        document = {
            "first": one.name,
            "second": other.name,
            "settings": {key: list(values) for key, values in found.settings.items()},
            "compared": found.compared,
            "labels": [row._asdict() for row in found.labels],
            "only_in_first": list(found.only_in_first),
            "only_in_second": list(found.only_in_second),
        }
        print_json(document)
        return
    _print_diff(one, other, found)


def _print_diff(one: Run, other: Run, found: "RunDiff") -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", one.name, other.name):
        table.add_column(column)
    for key, values in found.settings.items():
        table.add_row(key, *map(str, values))
    for row in found.labels[:_ROWS_SHOWN]:
        there = "" if str(row.id_in_second) == str(row.id) else f", there {row.id_in_second}"
        table.add_row(f"row {row.id}{there}", row.first, row.second)
    if table.row_count:
        print_table(table)
    if len(found.labels) > _ROWS_SHOWN:
        click.echo(f"and {len(found.labels) - _ROWS_SHOWN} more rows; --json lists them all")
    click.echo(
        f"{len(found.labels)} of the {found.compared} rows that both runs labelled have different "
        f"labels; {len(found.only_in_first)} and {len(found.only_in_second)} rows are in one run "
        "alone."
    )


@runs_group.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_runs)
@runs_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def remove_command(*, names: tuple[str, ...], base: Path, yes: bool, as_json: bool) -> None:
    """Remove runs: their folders, with labels and journals. The score store keeps all scores."""
    named = [find_run(name, base) for name in names]
    runs = list({run.path.resolve(): run for run in named}.values())  # two names may mean one run
    if not yes:
        listing = ", ".join(str(run.path) for run in runs)
        click.confirm(f"Remove {listing}?", abort=True, err=True)
    for run in runs:
        remove_run(run)
    if as_json:
        print_json({"removed": [run.name for run in runs]})
    else:
        click.echo(f"Removed {', '.join(run.name for run in runs)}.")
