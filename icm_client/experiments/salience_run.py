"""The probe of `salience` over a server and a store: which rows, how many, and what it takes."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from icm_client.coherence.fast import SweepSettings
from icm_client.coherence.problem import IntArray
from icm_client.data import Task
from icm_client.data.job import Job, Rows
from icm_client.endpoints import Endpoint, TextEndpoint
from icm_client.errors import InputError, TaskError
from icm_client.experiments.salience import (
    Salience,
    judge,
    read_salience,
    rows_read,
)
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import Pieces, Scorer, ScoreStore, open_store, tokenize_pieces

FEWEST = 24
"""Rows in a sample at least: fewer tell nothing, whatever share of a run they take."""

MOST = 64
"""Rows in a sample at most: more change the score by less than which rows they are."""

SHARE = 0.05
"""Of the tokens of the shortest run, what a sample over `FEWEST` may take."""

LETTERS_A_TOKEN = 4.0
"""Where a server takes text, and nobody tells how it is tokenized."""


@dataclass(frozen=True, slots=True)
class SalienceReport:
    """What a probe found, and what it took.

    Attributes:
        found: score, interval and features.
        sampled: rows of the sample.
        rows: rows at hand.
        planned_tokens: prompt tokens that the probe was expected to have computed.
        run_tokens: those of a run over all rows, at least.
        computed_tokens: that the server computed for this probe; fewer where the store had answers.
        requests: that were sent.
        model: who answered.
        notices: sentences that the user should see.
    """

    found: Salience
    sampled: int
    rows: int
    planned_tokens: int
    run_tokens: int
    computed_tokens: int
    requests: int
    model: str
    notices: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The planned tokens as a share of the shortest run's."""
        return self.planned_tokens / self.run_tokens

    def cost_sentence(self) -> str:
        """Say what it took."""
        return (
            f"This probe: {self.sampled} of {self.rows:,} rows, {self.requests:,} requests, "
            f"{self.computed_tokens:,} tokens computed; without stored answers about "
            f"{self.planned_tokens:,}, {self.share:.1%} of the least that a run takes."
        )

    def summary(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {
            **self.found.summary(),
            "sampled": self.sampled,
            "rows": self.rows,
            "planned_tokens": self.planned_tokens,
            "run_tokens": self.run_tokens,
            "share": self.share,
            "computed_tokens": self.computed_tokens,
            "requests": self.requests,
            "model": self.model,
            "notices": list(self.notices),
        }


async def salience(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    endpoint: Endpoint | Server | str | None = None,
    seed: int = 0,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    step: Callable[[str], None] | None = None,
) -> SalienceReport:
    """Judge from a small sample whether a run on these rows would beat chance; gold is not read.

    Args:
        rows: as for `icm_client.label`.
        task: as for `icm_client.label`; two labels. A rule is not looked at: labels are random.
        endpoint: as for `icm_client.label`.
        seed: of the sample and the labels in it.
        store: the score store's file; None takes the user's own. The same call again asks 8 reads
            at most.
        step: told what is about to be done, and what it will take.

    Raises:
        InputError: rows or task cannot be used, or there are too few; nothing has been sent.
        EndpointError, ScoreError, StoreError: as `icm_client.label`.
    """
    tell = step or (lambda _: None)
    job = Job.prepare(rows, task)
    if len(job.labels) != 2:  # noqa: PLR2004
        raise TaskError(
            f"a probe exchanges two labels, and the task has {len(job.labels)}: make a task file "
            "with the two that matter most"
        )
    items = job.row_items
    chosen = sample(items, sample_size(len(items), len(job.items)), seed)
    with open_store(store) as kept:
        async with open_endpoint(endpoint) as server:
            before = replace(server.usage)
            kept.record_server(server.identity)
            pieces = await tokenize_pieces(
                [job.prompts[item] for item in chosen],
                job.label_texts,
                job.task.separator,
                server,
                kept,
            )
            least = run_tokens(pieces, server, len(job.items))
            pieces = _affordable(pieces, server, least)
            planned = probe_tokens(pieces, server)
            size = len(pieces.prompts)
            tell(
                f"Sample: {size} of {len(items):,} rows, about {planned:,} tokens, "
                f"{planned / least:.1%} of the least that a run takes{_why(planned, least)}"
            )
            readings = await read_salience(
                size,
                Scorer(server, kept, pieces),
                rng=np.random.default_rng(seed),
                step=tell,
            )
            return SalienceReport(
                found=judge(readings),
                sampled=size,
                rows=len(items),
                planned_tokens=planned,
                run_tokens=least,
                computed_tokens=server.usage.computed_tokens - before.computed_tokens,
                requests=server.usage.requests - before.requests,
                model=server.identity.model,
                notices=(*job.notices, *kept.notices),
            )


def _affordable(pieces: Pieces, server: Endpoint, least: int) -> Pieces:
    """Leave out the last rows where, as they are tokenized, they take more than `SHARE`."""
    a_row = probe_tokens(pieces, server) / len(pieces.prompts)
    size = min(max(int(SHARE * least / a_row), FEWEST), len(pieces.prompts)) // 2 * 2
    return replace(pieces, prompts=pieces.prompts[:size])


def _why(planned: int, least: int) -> str:
    """Say why it is more than `SHARE`, where it is."""
    if planned <= SHARE * least:
        return ""
    return f" (more than {SHARE:.0%}: fewer than {FEWEST} rows tell nothing)"


def sample_size(n_rows: int, n_items: int) -> int:
    """Rows to read: as many as `SHARE` of the shortest run pays for, within the limits.

    Args:
        n_rows: to draw from.
        n_items: that a run labels; twice as many where pairs are shown in both orders.

    Raises:
        InputError: there are fewer rows than the fewest that tell anything.
    """
    if n_rows < FEWEST:
        raise InputError(
            f"{n_rows} rows are too few for a probe, which takes {FEWEST}: label them, which costs "
            "little more, and see whether the labels are coherent"
        )
    usual = SweepSettings()
    sweep = usual.folds * min(usual.demos, n_items) + n_items
    affordable = int(SHARE * (usual.min_sweeps + 1 / usual.folds) * sweep / rows_read(1))
    return min(max(affordable, FEWEST), MOST, n_rows) // 2 * 2


def sample(items: IntArray, size: int, seed: int) -> list[int]:
    """Draw so many of the items."""
    drawn: list[int] = np.random.default_rng((3, seed)).permutation(items)[:size].tolist()
    return drawn


def probe_tokens(pieces: Pieces, server: Endpoint) -> int:
    """Prompt tokens that a probe over these rows takes on a server with a prefix cache, about."""
    target, demo = _lengths(pieces, server)
    n_rows = len(pieces.prompts)
    demos = (rows_read(n_rows) - n_rows) // 2
    return round((rows_read(n_rows) - demos) * target + demos * demo)


def run_tokens(pieces: Pieces, server: Endpoint, n_items: int) -> int:
    """Prompt tokens that the shortest run over `n_items` rows like these takes, about."""
    target, demo = _lengths(pieces, server)
    usual = SweepSettings()
    room = int((server.identity.context_length - target) / demo)
    demos = max(min(usual.demos, room, n_items), 1)
    sweep = usual.folds * demos * demo + n_items * target
    return round((usual.min_sweeps + 1 / usual.folds) * sweep)


def _lengths(pieces: Pieces, server: Endpoint) -> tuple[float, float]:
    """Mean tokens of a target, and of a demo; letters are counted where a server takes text."""
    scale = LETTERS_A_TOKEN if isinstance(server, TextEndpoint) else 1.0
    target = sum(map(len, pieces.prompts)) / len(pieces.prompts)
    label = sum(map(len, pieces.labels)) / len(pieces.labels)
    return target / scale, (target + label + len(pieces.separator)) / scale
