"""Presets: which search runs, and with which numbers."""

from collections.abc import Callable, Collection
from typing import Literal, get_args, overload

import numpy as np

from icm_client.coherence.anneal import AnnealSettings, Step
from icm_client.coherence.folds import FoldSettings, fold_search
from icm_client.coherence.iterate import IterateSettings, iterative_search
from icm_client.coherence.official import OfficialSettings
from icm_client.coherence.problem import IntArray, Score, Stop
from icm_client.coherence.search_result import SearchResult, SweepRecord
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.settle import anneal_search
from icm_client.coherence.sweep import search
from icm_client.coherence.trained import Train
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.runs.trainer import Trained, TrainingProgress

InContextPreset = Literal["fast", "paper", "official"]
"""Searches that show the model its labels in a context. `fast`: sweeps over calibrated scores.
`paper`: Algorithms 1 and 2 as printed. `official`: as the authors' released code has them."""

Preset = Literal[InContextPreset, "folds", "iterate"]
"""Those, and two that train models on the labels. `folds`: Algorithms 3 and 4, fine-tuned folds.
`iterate`: batch after batch, each searched with a model trained on those before it."""

InContextSettings = SweepSettings | AnnealSettings | OfficialSettings

TrainedSettings = FoldSettings | IterateSettings

Settings = InContextSettings | TrainedSettings

Observed = SweepRecord | Step
"""What a search tells as it goes on: a sweep of `fast`, a step of Algorithm 1, a pass or a batch of
a search that trains (`PassRecord`, behind the sweeps that it begins with)."""

TrainingEvent = TrainingProgress | Trained
"""What a training tells: as it goes on, and when there is a model."""


@overload
def preset_settings(preset: InContextPreset) -> InContextSettings: ...


@overload
def preset_settings(preset: Preset) -> Settings: ...


def preset_settings(preset: Preset) -> Settings:
    """The numbers of a preset, where nothing else is said."""
    match preset:
        case "fast":
            return SweepSettings()
        case "paper":
            return AnnealSettings()
        case "official":
            return OfficialSettings()
        case "folds":
            return FoldSettings()
        case "iterate":
            return IterateSettings()


def settings_for(preset: Preset, settings: Settings | None) -> Settings:
    """The settings given, or the preset's own.

    Raises:
        InputError: there is no such preset, or the settings are none.
    """
    if preset not in get_args(Preset):
        raise InputError(f"there is no preset {preset!r}; there are {', '.join(get_args(Preset))}")
    if settings is None:
        return preset_settings(preset)
    if not isinstance(settings, Settings):
        raise InputError(
            f"settings are an object such as icm_client.SweepSettings(demos=32), not {settings!r}"
        )
    if preset not in ("fast", preset_of(settings)):
        raise InputError(
            f"these settings are of the preset {preset_of(settings)}, and {preset} was asked for"
        )
    return settings


def preset_of(settings: Settings) -> Preset:
    """Which search the settings are for."""
    match settings:
        case SweepSettings():
            return "fast"
        case AnnealSettings():
            return "paper"
        case OfficialSettings():
            return "official"
        case FoldSettings():
            return "folds"
        case IterateSettings():
            return "iterate"


def check_trainer(settings: Settings, *, given: bool) -> None:
    """Refuse a search that trains without a trainer, and a trainer for one that does not.

    Raises:
        InputError: says which.
    """
    trains = isinstance(settings, TrainedSettings)
    if trains and not given:
        raise InputError(
            f"the preset {preset_of(settings)} trains models, and there is nothing to train with: "
            "name a trainer (trainer=..., on the command line --trainer)"
        )
    if given and not trains:
        raise InputError(
            f"the preset {preset_of(settings)} trains nothing: a trainer is for folds and iterate"
        )


async def find_labels(
    job: Job,
    settings: Settings,
    score: Score,
    train: Train | None = None,
    *,
    seed: int,
    start: IntArray | None,
    pinned: IntArray | None = None,
    left_out: Collection[int],
    stop: Stop,
    observe: Callable[[Observed], None],
) -> SearchResult:
    """Run the search that the settings are for.

    Args:
        job: items, labels, prior and constraint.
        settings: fitted to the server (`fit`).
        score: the way out.
        train: the second one, for `folds` and `iterate`.
        seed: of all that is random.
        start: first labels, shape `[N]`; None leaves them to the search.
        pinned: labels that are kept, shape `[N]`, `UNLABELLED` where an item is free.
        left_out: items that cannot be scored.
        stop: asked after each sweep or step whether to end there.
        observe: told of each sweep or step.

    Raises:
        InputError: the constraint allows some items no labels, or not the pinned ones; nothing to
            train with; first labels for `iterate`, which begins with a search of one batch.
        TrainingError: a model cannot be trained.
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
            pinned=pinned,
            left_out=left_out,
            stop=stop,
            observe=observe,
        )
    if isinstance(settings, TrainedSettings):
        return await _find_by_training(
            job,
            settings,
            score,
            train,
            chance=chance,
            start=start,
            pinned=pinned,
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
        pinned=pinned,
        left_out=left_out,
        stop=stop,
        observe=observe,
    )


async def _find_by_training(
    job: Job,
    settings: TrainedSettings,
    score: Score,
    train: Train | None,
    *,
    chance: np.random.Generator,
    start: IntArray | None,
    pinned: IntArray | None,
    left_out: Collection[int],
    stop: Stop,
    observe: Callable[[Observed], None],
) -> SearchResult:
    check_trainer(settings, given=train is not None)
    check_start_of(settings, given=start is not None)
    assert train is not None  # noqa: S101 - just checked
    n_items, n_labels = len(job.prompts), len(job.labels)
    if isinstance(settings, FoldSettings):
        return await fold_search(
            n_items,
            n_labels,
            score,
            train,
            rng=chance,
            settings=settings,
            prior=job.prior,
            constraint=job.constraint,
            start=start,
            pinned=pinned,
            left_out=left_out,
            stop=stop,
            observe=observe,
        )
    return await iterative_search(
        n_items,
        n_labels,
        score,
        train,
        rng=chance,
        settings=settings,
        prior=job.prior,
        constraint=job.constraint,
        pinned=pinned,
        left_out=left_out,
        stop=stop,
        observe=observe,
    )


def check_start_of(settings: Settings, *, given: bool) -> None:
    """Refuse first labels for a search that has no use for them; raises `InputError`."""
    if given and isinstance(settings, IterateSettings):
        raise InputError(
            "the preset iterate begins with a search of its first batch: first labels (--init) are "
            "for the other presets"
        )
