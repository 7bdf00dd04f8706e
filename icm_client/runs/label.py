"""`label`: rows, a task and an endpoint in; labels out. The command line calls this and no more."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
from anyio.from_thread import start_blocking_portal

from icm_client.analysis.diagnosis import diagnose
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.sweep import SearchResult, search
from icm_client.data import LabelledRow, Task
from icm_client.endpoints import EmbeddedEndpoint, Endpoint, connect
from icm_client.errors import InputError, PromptTooLong
from icm_client.runs.job import Job, Rows
from icm_client.runs.progress import Cost, OnProgress, ProgressMeter
from icm_client.runs.result import Labels
from icm_client.scoring import Pieces, Scorer, ScoreStore, default_path, tokenize_pieces
from icm_client.settings import Environment


async def label(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    endpoint: Endpoint | str | None = None,
    model: str | None = None,
    gold: str | None = None,
    prior: Mapping[str, float] | None = None,
    seed: int = 0,
    settings: SweepSettings | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: OnProgress | None = None,
) -> Labels:
    """Find the labels that the model itself finds most coherent.

    The same call again asks the server nothing that it answered before: scores are kept in
    `store`, and the search is a function of rows, task, settings, seed and scores.

    Args:
        rows: a data file's path, a data set that was read, or mappings (or texts, which become
            the field `text`).
        task: a `Task`, the name of a built-in one, or a task file's path.
        endpoint: a server's base URL, an endpoint that is open (and stays so), or None for
            ICM_ENDPOINT, else the embedded llama.cpp server with gemma-3-270m.
        model: which of the server's models; None takes ICM_MODEL, else the only one.
        gold: the field with known labels, used for nothing but `Labels.accuracy`; None takes the
            task's own.
        prior: label -> share of the rows, where known; None takes the task's own.
        seed: of all that is random here.
        settings: of the search; None takes the `fast` preset.
        store: the score store's file; None takes the user's own.
        progress: called as the run goes on; be quick, and do not raise.

    Raises:
        InputError: rows or task cannot be used; nothing has been sent.
        EndpointError: the server cannot be reached, refuses, or does not answer.
        ScoreError: it answers with something that is no score.
        StoreError: scores cannot be kept.
    """
    job = Job.prepare(rows, task, gold=gold, prior=prior)
    with ScoreStore.open(Path(store) if store is not None else default_path()) as kept:
        async with open_endpoint(endpoint, model=model) as server:
            meter = ProgressMeter(job.labels, server, progress)
            pieces = await tokenize_pieces(
                job.prompts, job.label_texts, job.task.separator, server, kept
            )
            fitted = fit_demos(settings or SweepSettings(), pieces, server, len(job.labels))
            meter.begin(pieces, fitted)
            scorer = Scorer(
                server, kept, pieces, on_progress=lambda now: meter.scored(now, scorer.stats)
            )
            result = await search(
                len(job.prompts),
                len(job.labels),
                scorer,
                rng=np.random.default_rng(seed),
                settings=fitted,
                prior=job.prior,
                observe=meter.swept,
            )
            return _labels(job, result, server, meter.cost(), seed)


def label_sync(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    endpoint: str | None = None,
    model: str | None = None,
    gold: str | None = None,
    prior: Mapping[str, float] | None = None,
    seed: int = 0,
    settings: SweepSettings | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: OnProgress | None = None,
) -> Labels:
    """`label` for code that is not async; works inside a notebook's running loop too.

    It runs in a loop of its own, in another thread, where `progress` is then called.
    """

    async def run() -> Labels:
        return await label(
            rows,
            task=task,
            endpoint=endpoint,
            model=model,
            gold=gold,
            prior=prior,
            seed=seed,
            settings=settings,
            store=store,
            progress=progress,
        )

    with start_blocking_portal() as portal:
        return portal.call(run)


@asynccontextmanager
async def open_endpoint(
    endpoint: Endpoint | str | None, *, model: str | None = None
) -> AsyncIterator[Endpoint]:
    """Open what `label` was given; close only what was opened here.

    Raises:
        EndpointError: nothing usable answers at a URL.
        SetupError: the embedded server is not installed.
    """
    if endpoint is not None and not isinstance(endpoint, str):
        yield endpoint
        return
    environment = Environment()
    url = endpoint or environment.endpoint
    if url is None and (asked := model or environment.model) is not None:
        raise InputError(
            f"the model {asked!r} was asked for, but no server: name one with --endpoint or "
            "ICM_ENDPOINT (for the embedded server, --gguf takes a model's file)"
        )
    opened: Endpoint = (
        EmbeddedEndpoint()
        if url is None
        else await connect(url, model=model or environment.model, api_key=environment.api_key)
    )
    try:
        yield opened
    finally:
        with anyio.CancelScope(shield=True):
            await opened.aclose()


def fit_demos(
    settings: SweepSettings, pieces: Pieces, server: Endpoint, n_labels: int
) -> SweepSettings:
    """Lower the demos in a context to what fits the server's context whichever are drawn.

    Raises:
        InputError: fewer demos than labels are allowed.
        PromptTooLong: not even one demo of each label fits.
    """
    if settings.demos < n_labels:
        raise InputError(
            f"{settings.demos} demos in a context cannot show {n_labels} labels: allow more"
        )
    label_tokens = max(map(len, pieces.labels))
    lengths = sorted(map(len, pieces.prompts), reverse=True)
    room = server.identity.context_length - len(pieces.bos) - lengths[0] - label_tokens
    fitting, used = 0, 0
    for length in lengths[: settings.demos]:
        used += length + label_tokens + len(pieces.separator)
        if used > room:
            break
        fitting += 1
    if fitting < min(n_labels, len(lengths)):
        raise PromptTooLong(
            f"the longest rows take {lengths[0]} tokens, and the server's context holds "
            f"{server.identity.context_length}: no room for one demo of each label. Shorten the "
            "rows, or start the server with a larger context."
        )
    return replace(
        settings,
        demos=min(settings.demos, fitting),
        second_demos=min(max(settings.second_demos, n_labels), fitting),
        initial=min(max(settings.initial, n_labels), fitting),
    )


def _labels(job: Job, result: SearchResult, server: Endpoint, cost: Cost, seed: int) -> Labels:
    """Translate items and label numbers back into rows and words."""
    log_probs = dict(zip(job.labels, result.log_probs.T.tolist(), strict=True))
    labelled = tuple(
        LabelledRow(
            row=row,
            label=job.labels[number],
            confidence=float(np.exp(log_probs[job.labels[number]][i])),
            log_probs={word: log_probs[word][i] for word in job.task.labels},
        )
        for i, (row, number) in enumerate(zip(job.dataset.rows, result.labels, strict=True))
    )
    return Labels(
        rows=labelled,
        dataset=job.dataset,
        labels=job.task.labels,
        utility=result.utility,
        coherence=result.coherence,
        findings=diagnose(result, job.labels),
        notices=job.notices,
        server=server.identity,
        history=result.history,
        restart=result.restart,
        prior_source=result.prior.source,
        cost=cost,
        seed=seed,
    )
