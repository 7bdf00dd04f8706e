"""`icm-client runs agree`: do other seeds, models and servers find the same labels?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from icm_client.cli.runs_output import base_option, json_option, print_json, print_table, share
from icm_client.errors import InputError
from icm_client.record.archive import Run, find_run, labels_by_row
from icm_client.stats.agreement import Agreement, agreements


@click.command("agree")
@click.argument("names", metavar="NAME NAME...", nargs=-1, required=True)
@base_option
@json_option
def agree_command(*, names: tuple[str, ...], base: Path, as_json: bool) -> None:
    """Show how far runs agree: other seeds, models, servers over the same rows.

    NAME may be a run's folder too. Rows are matched by what they hold, so their order and ids may
    differ; runs over different data are refused. Kappa is 1 for the same labels and 0 for what
    chance gives. Where two runs agree better with the labels' names exchanged, that is shown beside
    it.
    """
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


def _print_agreements(runs: Sequence[Run], found: Mapping[tuple[int, int], Agreement]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "run", "seed", "model", "server", "preset", "coherence", "accuracy"):
        table.add_column(column)
    for number, run in enumerate(runs, start=1):
        told = _compared(run)
        shares = (share(told["coherence"]), share(told["accuracy"]))
        words = (told["name"], told["seed"], told["model"], told["server"], told["preset"] or "-")
        table.add_row(str(number), *map(str, words), *shares)
    print_table(table)
    pairs = Table(box=None, pad_edge=False)
    for column in ("runs", "rows", "agree", "kappa", "with names exchanged"):
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
