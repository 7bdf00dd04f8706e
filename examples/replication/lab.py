"""The lab's side of every check: its server, the options, and runs that are kept."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal

import click
import orjson

from icm_client.cli.options import server_options
from icm_client.cli.search_display import progress_display
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.endpoints import EmbeddedEndpoint, Endpoint
from icm_client.record.archive import read_run
from icm_client.record.description import RunDescription
from icm_client.record.layout import DEFAULT_BASE
from icm_client.runs.label import label
from icm_client.runs.presets import run_settings
from icm_client.runs.server import Server, open_endpoint
from icm_client.settings import Environment

EMBEDDED_SWEEPS: Final = SweepSettings(demos=8, min_sweeps=2, max_sweeps=3, restarts=1)
"""Less than the preset's: the embedded model is there to show that everything runs."""
EMBEDDED_STEPS: Final = 4
PAPER_BATCH: Final = 256
"""Rows that the paper anneals at a time: as many as fit into its models' context."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What the options say.

    Attributes:
        server: where the model is served.
        embedded: the embedded model, on a few rows, instead.
        seeds: `0..seeds-1`.
        preset: which search.
        steps: of the preset `paper`, in each batch; None takes its own.
        store: the score store's file; None takes the user's own.
        runs: the folder that the runs' records are kept in.
        forecast: tell what it would take, and stop.
        as_json: JSON in the table's place.
        out: where the JSON goes as well.
    """

    server: Server
    embedded: bool
    seeds: int
    preset: Literal["fast", "paper"]
    steps: int | None
    store: str | None
    runs: Path
    forecast: bool
    as_json: bool
    out: Path | None

    @property
    def settings(self) -> SweepSettings | AnnealSettings:
        """The search's numbers."""
        if self.preset == "fast":
            return EMBEDDED_SWEEPS if self.embedded else SweepSettings()
        usual = EMBEDDED_STEPS if self.embedded else AnnealSettings().iterations
        return AnnealSettings(iterations=self.steps or usual, batch=PAPER_BATCH)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Endpoint]:
        """The server, or the embedded one.

        Raises:
            EndpointError: nothing usable answers.
            SetupError: the embedded server is not installed.
        """
        if self.embedded:
            async with EmbeddedEndpoint() as embedded:
                yield embedded
            return
        async with open_endpoint(self.server) as endpoint:
            yield endpoint

    def rows(self, wanted: int | None, *, usual: int, embedded: int) -> int:
        """How many rows to take: those asked for, else as is usual."""
        return wanted or (embedded if self.embedded else usual)

    def say(self, line: str) -> None:
        """Tell the person who waits."""
        click.echo(line, err=True)


def lab_options(
    *, preset: Literal["fast", "paper"]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what adds the options that all checks have, and hands the command a `lab`.

    Args:
        preset: the check's own search.
    """
    options = (
        click.option("--embedded", is_flag=True, help="A few rows on the embedded model: a test."),
        click.option("--seeds", type=click.IntRange(1), help="[default: 3; with --embedded 1]"),
        click.option(
            "--preset",
            type=click.Choice(("fast", "paper")),
            default=preset,
            show_default=True,
            help="The search: sweeps, or Algorithms 1 and 2 as printed.",
        ),
        click.option(
            "--steps",
            type=click.IntRange(1),
            help="paper: how many steps. [default: 3000; with --embedded 4]",
        ),
        click.option("--store", help="The score store. [default: in the user's cache]"),
        click.option(
            "--runs",
            type=click.Path(path_type=Path),
            default=DEFAULT_BASE,
            show_default=True,
            help="The folder for the records of runs.",
        ),
        click.option("--forecast", is_flag=True, help="Tell what it would take, and stop."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON in the table's place."),
        click.option("--out", type=click.Path(path_type=Path), help="Write the JSON here as well."),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_lab(*args: Any, **given: Any) -> None:
            names = Lab.__dataclass_fields__
            of_lab = {name: given.pop(name) for name in names if name in given}
            of_lab["seeds"] = of_lab["seeds"] or (1 if of_lab["embedded"] else 3)
            command(*args, lab=_checked(Lab(**of_lab)), **given)

        wrapped: Callable[..., None] = server_options(wire=True)(with_lab)
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _checked(lab: Lab) -> Lab:
    """Refuse two servers, or none, and steps where there are none."""
    if lab.steps is not None and lab.preset == "fast":
        raise click.UsageError("--steps is for --preset paper: fast has none.")
    named = lab.server.url is not None or lab.server.gguf is not None
    if lab.embedded and named:
        raise click.UsageError("--embedded takes no other server: leave --endpoint and --gguf out.")
    if not lab.embedded and not named and Environment().endpoint is None:
        raise click.UsageError("Missing option '--endpoint': which server? (--embedded for a test)")
    return lab


@dataclass(frozen=True, slots=True)
class Found:
    """One run's labels.

    Attributes:
        labels: row's id -> label.
        summary: the run's, as `Labels.summary`.
        kept: whether it had ended before, and was only read.
    """

    labels: Mapping[str, str]
    summary: Mapping[str, Any]
    kept: bool


async def label_once(lab: Lab, job: Job, seed: int, endpoint: Endpoint) -> Found:
    """Label the rows, or read what the same run has found before.

    Raises:
        IcmError: as `icm_client.label`.
    """
    described = RunDescription.of(job, run_settings(lab.settings, None), seed, endpoint.identity)
    if (lab.runs / described.name / "result.json").exists():
        run = read_run(described.name, lab.runs)
        lines = (run.path / "labels.jsonl").read_bytes().splitlines()
        rows = [orjson.loads(line) for line in lines]
        return Found({str(row["id"]): row["label"] for row in rows}, run.result or {}, kept=True)
    with progress_display(hidden=lab.as_json) as progress:
        found = await label(
            job.dataset,
            task=job.task,
            endpoint=endpoint,
            settings=lab.settings,
            seed=seed,
            store=lab.store,
            runs=lab.runs,
            progress=progress,
        )
    return Found({str(row.row.id): row.label for row in found.rows}, found.summary(), kept=False)


def diagnosis_of(runs: Sequence[Found]) -> str:
    """What the runs say of their own labels: verdicts and findings, and in how many runs."""
    verdicts = Counter(run.summary["verdict"] for run in runs if "verdict" in run.summary)
    codes = Counter(finding["code"] for run in runs for finding in run.summary["findings"])
    every = [*sorted(verdicts.items()), *sorted(codes.items())]
    return ", ".join(f"{said} ({times})" for said, times in every)
