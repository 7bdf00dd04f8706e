"""Presets: which search runs, and with which numbers."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Literal

import numpy as np

from icm_client.coherence.anneal import AnnealSettings, Step
from icm_client.coherence.official import OfficialSettings
from icm_client.coherence.problem import IntArray, Score, Stop
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.settle import anneal_search
from icm_client.coherence.sweep import SearchResult, SweepRecord, search
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, PromptTooLong
from icm_client.runs.job import Job
from icm_client.scoring import Pieces

Preset = Literal["fast", "paper", "official"]
"""`fast`: sweeps over calibrated scores. `paper`: Algorithms 1 and 2 as printed. `official`: as the
authors' released code has them."""

Settings = SweepSettings | AnnealSettings | OfficialSettings

Observed = SweepRecord | Step
"""What a search tells as it goes on: a sweep of `fast`, a step of the other two."""


def preset_settings(preset: Preset) -> Settings:
    """The numbers of a preset, where nothing else is said."""
    match preset:
        case "fast":
            return SweepSettings()
        case "paper":
            return AnnealSettings()
        case "official":
            return OfficialSettings()


def preset_of(settings: Settings) -> Preset:
    """Which search the settings are for."""
    match settings:
        case SweepSettings():
            return "fast"
        case AnnealSettings():
            return "paper"
        case OfficialSettings():
            return "official"


async def find_labels(
    job: Job,
    settings: Settings,
    score: Score,
    *,
    seed: int,
    start: IntArray | None,
    left_out: Collection[int],
    stop: Stop,
    observe: Callable[[Observed], None],
) -> SearchResult:
    """Run the search that the settings are for.

    Args:
        job: items, labels, prior and constraint.
        settings: fitted to the server (`fit`).
        score: the way out.
        seed: of all that is random.
        start: first labels, shape `[N]`; None leaves them to the search.
        left_out: items that cannot be scored.
        stop: asked after each sweep or step whether to end there.
        observe: told of each sweep or step.

    Raises:
        InputError: the constraint allows some items no labels.
        EndpointError, ScoreError, StoreError: whatever `score` raises.
    """
    n_items, n_labels = len(job.prompts), len(job.labels)
    chance = np.random.default_rng(seed)
    if isinstance(settings, SweepSettings):
        return await search(
            n_items,
            n_labels,
            score,
            rng=chance,
            settings=settings,
            prior=job.prior,
            constraint=job.constraint,
            start=start,
            left_out=left_out,
            stop=stop,
            observe=observe,
        )
    return await anneal_search(
        n_items,
        n_labels,
        score,
        rng=chance,
        settings=settings,
        constraint=job.constraint,
        start=start,
        prior=job.prior,
        left_out=left_out,
        stop=stop,
        observe=observe,
    )


def fit(settings: Settings, pieces: Pieces, server: Endpoint) -> Settings:
    """Lower the demos in a context to what fits the server's context whichever are drawn.

    Raises:
        InputError: fewer demos than labels are allowed.
        PromptTooLong: not even one demo of each label fits.
    """
    n_labels = len(pieces.labels)
    asked = settings.demos if isinstance(settings, SweepSettings) else settings.max_demos
    if asked is not None and asked < n_labels:
        raise InputError(f"{asked} demos in a context cannot show {n_labels} labels: allow more")
    most = len(pieces.prompts) - 1 if asked is None else asked
    fitting = _fitting(pieces, server, n_labels, most)
    if isinstance(settings, SweepSettings):
        return replace(
            settings,
            demos=min(settings.demos, fitting),
            second_demos=min(max(settings.second_demos, n_labels), fitting),
            initial=min(max(settings.initial, n_labels), fitting),
        )
    return settings if fitting >= most else replace(settings, max_demos=fitting)


def fitted_notice(asked: Settings, fitted: Settings, n_items: int) -> str | None:
    """A sentence on contexts that cannot hold what was asked for, or None."""
    if isinstance(fitted, SweepSettings):
        if isinstance(asked, SweepSettings) and fitted.demos < min(asked.demos, n_items):
            return (
                f"contexts hold {fitted.demos} demos instead of {asked.demos}: the longest rows "
                "leave no room for more in the server's context"
            )
        return None
    if fitted.max_demos is not None and fitted != asked:
        return (
            f"contexts hold {fitted.max_demos} demos, a seeded sample balanced over the labels: "
            "the server's context has no room for all others"
        )
    return None


def _fitting(pieces: Pieces, server: Endpoint, n_labels: int, most: int) -> int:
    """Of the longest rows, how many fit in front of the longest one; at most `most`."""
    label_tokens = max(map(len, pieces.labels))
    lengths = sorted(map(len, pieces.prompts), reverse=True)
    room = server.identity.context_length - len(pieces.bos) - lengths[0] - label_tokens
    fitting, used = 0, 0
    for length in lengths[:most]:
        used += length + label_tokens + len(pieces.separator)
        if used > room:
            break
        fitting += 1
    if fitting < min(n_labels, len(lengths), most):
        raise PromptTooLong(
            f"the longest rows take {lengths[0]} tokens, and the server's context holds "
            f"{server.identity.context_length}: no room for one demo of each label. Shorten the "
            "rows, or start the server with a larger context."
        )
    return fitting
