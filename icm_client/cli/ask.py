"""`icm-client ask`: the rows that a person's answers tell a run most about, one key a row."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from icm_client.cli.completion import complete_runs
from icm_client.cli.documents import print_json
from icm_client.cli.run_options import json_option, runs_option
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.terminal import plain
from icm_client.errors import InputError
from icm_client.record.archive import Run, find_run
from icm_client.record.checks import Checks
from icm_client.runs.ask import Asked, choose_rows, missing_from_command, pin_command
from icm_client.training.exports import export_run, write_lines

_BACK: Final = ("\x1b[D", "\x1bOD", "\x1b[A", "\x1bOA", "b", "\x7f")
"""The arrows to the left and up, in both ways that terminals send them; b; and backspace."""

_SKIP: Final = ("\x1b[C", "\x1bOC", "\x1b[B", "\x1bOB", "s")
_QUIT: Final = "q"
_KEY: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)
"""A key as terminals send it: ECMA-48's control sequences are one each, whatever they hold."""

_LABEL_KEYS: Final = "123456789acdefghijklmnoprtuvwxyz"


@click.command(
    "ask", cls=SectionedCommand, short_help="Ask a person about the rows that tell a run most."
)
@click.argument("run_name", metavar="RUN", shell_complete=complete_runs)
@section(
    "Rows",
    click.option(
        "--budget",
        type=click.IntRange(1),
        default=20,
        show_default=True,
        help="How many rows to ask about.",
    ),
)
@section(
    "Answers",
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="PATH",
        help="Write the rows instead of asking: .json for Label Studio, .jsonl for JSON Lines.",
    ),
    click.option("--by", default="", metavar="NAME", help="Who answers, kept with each answer."),
)
@section("Record", runs_option)
@json_option
def ask_command(
    *, run_name: str, budget: int, output: Path | None, by: str, base: Path, as_json: bool
) -> None:
    """Ask which labels some rows of RUN have: a run's name, its beginning, `latest`, or its folder.

    First the surest row of each label, which tells whether the names are right, then rows that
    could as well have another label, no two that read alike while there are others.

    In the terminal a key answers a row, and each answer is saved at once, in checked.jsonl in the
    run's folder. The same command again asks about other rows. At the end stands the command that
    labels all rows again and keeps what was said.

    --json prints the rows and asks nothing.
    """
    run = find_run(run_name, base)
    if output is not None and output.suffix not in (".json", ".jsonl"):
        raise InputError(f"{output}: name a file that ends in .json (Label Studio) or .jsonl")
    if output is None and not as_json and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "the answers are keys pressed in a terminal, and here is none: write the rows to a "
            "file (-o tasks.json, -o rows.jsonl), print them with --json, or use ssh -t."
        )
    asked = choose_rows(run, budget)
    if not asked:
        raise InputError(f"the run {run.name}: somebody has given a label to each of its rows")
    if output is not None:
        _write(run, asked, output)
    if as_json:
        print_json(
            {
                "run": run.name,
                "rows": [row.summary() for row in asked],
                "written_to": None if output is None else str(output),
                "checked": str(Checks(run.path).path),
                "again": pin_command(run),
                "again_lacks": missing_from_command(run),
            }
        )
    elif output is not None:
        click.echo(f"Wrote {len(asked):,} rows to {output}.")
        click.echo("Give the file with the answers to the run's command, as one more --pin FILE.")
    else:
        _ask(run, asked, by)


def _write(run: Run, asked: Sequence[Asked], output: Path) -> None:
    if output.suffix == ".json":
        export_run(run, "label-studio", output, only=[row.id for row in asked])
    else:
        write_lines(output, (row.summary() for row in asked))


def _ask(run: Run, asked: Sequence[Asked], by: str) -> None:
    words: Sequence[str] = run.record["task"]["labels"]
    if len(words) > len(_LABEL_KEYS):
        raise InputError(
            f"{len(words)} labels are more than there are keys: write the rows to a file, for "
            "example -o tasks.json"
        )
    labels = dict(zip(_LABEL_KEYS, words, strict=False))
    listed = "  ".join(f"{key} {word}" for key, word in labels.items())
    checks = Checks(run.path)
    answers: dict[int, str] = {}
    at = 0
    with _pressed() as keys:
        while at < len(asked):
            row = asked[at]
            row_id = plain(row.id)
            click.secho(f"\n{at + 1} of {len(asked)}: row {row_id}, {row.reason}", bold=True)
            click.echo(plain(row.prompt))
            said = f"  (you said {answers[at]})" if at in answers else ""
            click.echo(f"{listed}  \u2190 back  s skip  q quit{said}")
            key = next(key for key in keys if key in (*labels, *_BACK, *_SKIP, _QUIT))
            if key == _QUIT:
                break
            if key in labels:
                checks.add(row.id, labels[key], by)
                answers[at] = labels[key]
                other = "" if labels[key] == row.label else f" (the run says {row.label})"
                click.echo(f"{labels[key]}{other}")
            at = max(at - 1, 0) if key in _BACK else at + 1
    _tell(run, asked, answers)


@contextmanager
def _pressed() -> Iterator[Iterator[str]]:
    """Give each key that is pressed, without Enter; an arrow is one, although it is three letters.

    Within the block no key is lost that is pressed before it is asked for. Where the terminal has
    gone, or Ctrl-D is pressed, the key to quit.
    """
    try:
        # Not on Windows.
        import termios  # noqa: PLC0415
        import tty  # noqa: PLC0415
    except ImportError:
        yield iter(click.getchar, None)
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal, termios.TCSANOW)
    try:
        yield (
            key if key != "\x04" else _QUIT
            for pressed in iter(lambda: os.read(terminal, 64).decode(errors="replace"), None)
            for key in _KEY.findall(pressed) or [_QUIT]
        )
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _tell(run: Run, asked: Sequence[Asked], answers: Mapping[int, str]) -> None:
    """What was said, and how to go on."""
    changed = sum(asked[at].label != said for at, said in answers.items())
    click.echo(f"\n{len(answers)} of {len(asked)} rows answered, {changed} with another label.")
    checks = Checks(run.path)
    if not checks.read():
        return
    click.echo(f"The answers are in {checks.path}.")
    if command := pin_command(run):
        click.echo(f"Label all rows again, and keep them:\n  {command}")
        for sentence in missing_from_command(run):
            click.echo(sentence)
    else:
        last = f"label(..., pins=[..., {str(checks.path)!r}])"
        click.echo(f"Label all rows again, with this file as the last of the pins: {last}")
