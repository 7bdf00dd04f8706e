"""Label three data sets at once on the embedded server, with a live line for each.

    pip install 'icm-client[local]'
    python examples/async_jobs.py

They share one model and its cache: a job keeps the server while its prompts go on behind the same
demos, and gives it to the others then. A minute or two on two cores.
"""

import json
import sys
from itertools import islice
from pathlib import Path

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[local]'\n"
    )
    sys.exit(2)

import anyio
from rich.live import Live
from rich.table import Table

from icm_client import Client, LabelJob, Labels, Progress, SweepRecord, SweepSettings

HERE = Path(__file__).parent
NAMES = ("movie_reviews", "product_reviews", "movie_stars")
ROWS = 24
SETTINGS = SweepSettings(max_sweeps=6, restarts=1)  # less than the preset's, to end soon


def first_rows(file: Path) -> list[dict[str, str]]:
    """Return a file's first rows; their gold labels are for the accuracy only."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, ROWS)]


def table(lines: dict[str, str]) -> Table:
    """Return a line a job."""
    shown = Table.grid(padding=(0, 2))
    for name, line in lines.items():
        shown.add_row(name, line)
    return shown


def told(moment: Progress) -> str:
    """Return where a job stands."""
    sweeps = moment.last.sweep + 1 if isinstance(moment.last, SweepRecord) else 0
    return f"{sweeps} sweeps, then {moment.done} of {moment.total}; {moment.cost.seconds:.0f} s"


def ended(found: Labels) -> str:
    """Return what a job found."""
    counts = ", ".join(f"{count} {label}" for label, count in found.counts.items())
    return f"{counts}; {found.accuracy or 0:.0%} as the raters; {found.cost.seconds:.0f} s"


async def main() -> None:
    """Start all, look on, and print what was found."""
    lines = dict.fromkeys(NAMES, "waits")
    async with Client() as client:
        with Live(table(lines), refresh_per_second=4) as live:

            async def follow(job: LabelJob) -> None:
                async for moment in job.progress():
                    lines[job.name] = told(moment)
                    live.update(table(lines))
                found = await job.result()
                lines[job.name] = ended(found)
                live.update(table(lines))

            async with anyio.create_task_group() as tasks:
                for name in NAMES:
                    job = client.start(
                        first_rows(HERE / name / f"{name}.jsonl"),
                        task=HERE / name / "task.toml",
                        settings=SETTINGS,
                        name=name,
                    )
                    tasks.start_soon(follow, job)


if __name__ == "__main__":
    anyio.run(main)
