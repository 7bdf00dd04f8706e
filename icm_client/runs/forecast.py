"""What a run will take, from a short probe: two long prompts and a few dozen short ones."""

import os
from dataclasses import replace
from typing import Final

import numpy as np

from icm_client.coherence.problem import Demo, Query
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint, Read, TextEndpoint
from icm_client.endpoints.probe import number_of, prefix_cache, ratio
from icm_client.endpoints.probe_load import throughput
from icm_client.errors import InputError
from icm_client.runs.fitting import fitted_job
from icm_client.runs.presets import Settings
from icm_client.runs.run_cost import RunCost, run_cost
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import (
    LabelTrie,
    Pieces,
    open_store,
    prompt_ids,
)

SHORT_READS: Final = {8: 16, 64: 64}
"""In flight -> reads that the speed is measured with; the best one counts."""

_SECONDS_A_LEVEL: Final = 3.0


async def forecast(
    pieces: Pieces, settings: SweepSettings, server: Endpoint, *, rng: np.random.Generator
) -> RunCost:
    """Return what the search of these settings would take, in requests, tokens and minutes.

    Answers that the score store has already are not taken off.

    Args:
        pieces: of the run's rows.
        settings: fitted to the server. What Algorithm 1 takes depends on the steps that it
            accepts; nobody knows it before.
        server: asked about 80 times.
        rng: draws the prompts; they should be new to the server's cache.

    Raises:
        EndpointError, ScoreError: the server did not answer, or not with a log-prob.
    """
    trie = LabelTrie(pieces.labels, pieces.label_texts)

    def read(demos: int) -> Read:
        target, *shown = rng.permutation(len(pieces.prompts))[: demos + 1].tolist()
        context = tuple(Demo(item, int(rng.integers(len(pieces.labels)))) for item in shown)
        return trie.reads(prompt_ids(pieces, Query(context, target)))[0]

    cache = (await prefix_cache(server, read(settings.demos))).figures
    levels = {number: [read(1) for _ in range(reads)] for number, reads in SHORT_READS.items()}
    rates = (await throughput(server, levels, seconds=_SECONDS_A_LEVEL)).figures
    return run_cost(
        len(pieces.prompts),
        pieces,
        settings,
        lanes=server.lanes,
        texts=isinstance(server, TextEndpoint),
        ids_a_token=0.0,
        tokens_a_second=ratio(cache["cold_computed_tokens"], cache["cold_s"]),
        reads_a_second=max(map(number_of, rates.values())),
        caches=server.usage.cached_tokens > 0 if cache["caches"] is None else bool(cache["caches"]),
    )


async def forecast_job(
    job: Job,
    endpoint: Endpoint | Server | str | None,
    settings: Settings,
    *,
    store: str | os.PathLike[str] | None = None,
    skip_bad_rows: bool = False,
) -> RunCost:
    """Return what `label` would take for this job, in requests, tokens and minutes.

    Args:
        job: rows and task.
        endpoint: as for `icm_client.label`.
        settings: of the search.
        store: where token ids are kept; None takes the user's own.
        skip_bad_rows: as for `icm_client.label`.

    Raises:
        InputError: the search is one that accepts steps by chance: nobody knows before.
        EndpointError, ScoreError, StoreError: as `icm_client.label`.
    """
    if not isinstance(settings, SweepSettings):
        raise InputError(
            "what Algorithm 1 takes depends on the steps that it accepts, and what training takes "
            "on the trainer; nobody knows it before: --forecast is for --preset fast"
        )
    with open_store(store) as kept:
        async with open_endpoint(endpoint) as server:
            fitted = await fitted_job(job, settings, server, kept, skip_bad_rows=skip_bad_rows)
            assert isinstance(fitted.settings, SweepSettings)  # noqa: S101 - `fit` keeps the kind
            used = (
                ids for item, ids in enumerate(fitted.pieces.prompts) if item not in fitted.unusable
            )
            pieces = replace(fitted.pieces, prompts=tuple(used))
            return await forecast(pieces, fitted.settings, server, rng=np.random.default_rng())
