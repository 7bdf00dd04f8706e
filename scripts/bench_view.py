"""What a page that watches costs the run it watches: `scripts/bench view`.

A planted search runs in a process of its own, in turn with and without a view of its folder to
whose events somebody listens. What is compared is the CPU time of the run's process, which on a
busy machine says more than the clock. The view's own is its process's.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import httpx2

_RUN = """
import resource, sys
from pathlib import Path
from icm_client import SweepSettings, Task, label_sync, rows_from
from icm_client.testing import PlantedConcept

n, folder = int(sys.argv[1]), Path(sys.argv[2])
task = Task(template="Review: {text}\\nSentiment:", labels=("positive", "negative"))
rows = rows_from([{"text": f"words of row {i}"} for i in range(n)])
planted = {prompt: i % 2 for i, prompt in enumerate(task.render_all(rows))}
endpoint = PlantedConcept(planted, task.label_texts)
settings = SweepSettings(min_sweeps=8, max_sweeps=8, restarts=1)
label_sync(rows, task=task, endpoint=endpoint, settings=settings, store=folder / "store",
           runs=folder / "runs")
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


@click.command()
@click.option("--rows", default=2_000, show_default=True, type=click.IntRange(100))
@click.option("--times", default=3, show_default=True, type=click.IntRange(1), help="Of each.")
def view(rows: int, times: int) -> None:
    """A run's CPU time with a page that listens, and without one."""
    without, watched, own, clock = [], [], 0.0, 0.0
    for _ in range(times):
        without.append(_run_alone(rows))
        began = time.monotonic()
        seconds, views = _run_watched(rows)
        clock += time.monotonic() - began
        watched.append(seconds)
        own += views
    alone, seen = statistics.median(without), statistics.median(watched)
    click.echo(f"run alone    {alone:6.2f} s CPU  ({_all(without)})")
    click.echo(f"run watched  {seen:6.2f} s CPU  ({_all(watched)}), {seen / alone - 1:+.1%}")
    click.echo(f"the view     {own:6.2f} s CPU in {clock:.0f} s: {own / clock:.2%} of a core")


def _all(seconds: list[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in seconds)


def _run_alone(rows: int) -> float:
    """CPU seconds of a run."""
    with tempfile.TemporaryDirectory() as folder:
        return _searched(rows, Path(folder))


def _run_watched(rows: int) -> tuple[float, float]:
    """CPU seconds of a run, and of the view meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "icm_client", "view", str(folder / "runs"), "--no-open"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with (
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            ) as process,
            httpx2.Client(follow_redirects=True, timeout=None) as client,
        ):
            try:
                assert process.stdout is not None  # noqa: S101 - it is a pipe
                url = process.stdout.readline().split()[-1]
                client.get(url)
                events = url.partition("?")[0] + "events"
                threading.Thread(target=_listen, args=(client, events), daemon=True).start()
                time.sleep(1)  # what comes once has come
                before = _cpu_of(process.pid)
                seconds = _searched(rows, folder)
                return seconds, _cpu_of(process.pid) - before
            finally:
                process.terminate()
                process.wait()


def _searched(rows: int, folder: Path) -> float:
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, str(rows), str(folder)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(ended.stdout)


def _listen(client: httpx2.Client, url: str) -> None:
    try:
        with client.stream("GET", url) as answer:
            for _ in answer.iter_lines():
                pass
    except httpx2.HTTPError:
        return  # the view has ended


def _cpu_of(process: int) -> float:
    """User and system time of a process in Linux, seconds: proc(5)."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
