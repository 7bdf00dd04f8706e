"""A run's search: which preset, with which numbers, fitted to what the server's context holds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import blake2b
from typing import Literal, NamedTuple, get_args, overload

import numpy as np

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.decode import anneal_search
from icm_client.coherence.fast import search
from icm_client.coherence.folds import FoldSettings, fold_search
from icm_client.coherence.initial_labels import Start
from icm_client.coherence.iterate import IterateSettings, iterative_search
from icm_client.coherence.problem import IntArray, Problem, Score
from icm_client.coherence.result import UNWATCHED, SearchResult, Watch
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.trained import Train
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.data.rows import FEWEST_ROWS, path_of, refused_rows
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, RowsTooLong
from icm_client.runs.trainer import Trained, Trainer, TrainingProgress
from icm_client.scoring import Pieces, ScoreStore, tokenize_pieces

InContextPreset = Literal["fast", "paper", "official"]
"""Searches that show the model its labels as few-shot demos. `fast`: sweeps over calibrated scores.
`paper`: Algorithms 1 and 2 as printed. `official`: as the authors' released code has them."""

Preset = Literal[InContextPreset, "folds", "iterate"]
"""Those, and two that train models on the labels. `folds`: Algorithms 3 and 4, fine-tuned folds.
`iterate`: batch after batch, each searched with a model trained on those before it."""

InContextSettings = SweepSettings | AnnealSettings | OfficialSettings

TrainedSettings = FoldSettings | IterateSettings

Settings = InContextSettings | TrainedSettings

TrainingEvent = TrainingProgress | Trained
"""What a training reports: as it goes on, and when there is a model."""


@overload
def preset_settings(preset: InContextPreset) -> InContextSettings: ...


@overload
def preset_settings(preset: Preset) -> Settings: ...


def preset_settings(preset: Preset) -> Settings:
    """The preset's own settings."""
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


def checked_settings(
    preset: Preset, settings: Settings | None, *, trainer: bool, start: bool
) -> Settings:
    """The settings given, or the preset's own, where they can be used.

    Args:
        preset: which search; "fast" where the settings alone say it.
        settings: None takes the preset's own.
        trainer: whether there is one.
        start: whether first labels are given.

    Raises:
        InputError: there is no such preset, or the settings are none; a trainer is missing, or has
            nothing to do; first labels are given to a search that cannot use them.
    """
    if preset not in get_args(Preset):
        raise InputError(f"there is no preset {preset!r}; there are {', '.join(get_args(Preset))}")
    if settings is None:
        settings = preset_settings(preset)
    if not isinstance(settings, Settings):
        raise InputError(
            f"settings are an object such as icm_client.SweepSettings(demos=32), not {settings!r}"
        )
    own = preset_of(settings)
    if preset not in ("fast", own):
        raise InputError(f"these settings are of the preset {own}, and {preset} was asked for")
    trains = isinstance(settings, TrainedSettings)
    if trains and not trainer:
        raise InputError(
            f"the preset {own} trains models, and there is no trainer: name one (trainer=..., on "
            "the command line --trainer)"
        )
    if trainer and not trains:
        raise InputError(f"the preset {own} trains no models: a trainer is for folds and iterate")
    if start and isinstance(settings, IterateSettings):
        raise InputError(
            "the preset iterate begins with a search of its first batch: first labels (--init) are "
            "for the other presets"
        )
    return settings


class Fitted(NamedTuple):
    """A job as a server can score it.

    Attributes:
        pieces: of all items.
        settings: of the search, fitted to the server.
        unusable: items that cannot be scored and are to be skipped, with the reasons.
    """

    pieces: Pieces
    settings: Settings
    unusable: Mapping[int, str]


async def fitted_job(
    job: Job,
    settings: Settings,
    server: Endpoint,
    store: ScoreStore,
    *,
    skip_bad_rows: bool = False,
) -> Fitted:
    """Tokenize a job's prompts, and fit the settings to the server.

    Raises:
        RowError: labels merge with the ends of some rows' prompts, or rows are too long.
        RowsTooLong: so many that no search is left.
        TaskError, EndpointError, StoreError: as `tokenize_pieces`.
        InputError: as `fit`.
    """
    unusable: dict[int, str] = {}
    pieces = await tokenize_pieces(
        job.prompts, job.label_texts, job.task.separator, server, store, merged=unusable
    )
    unusable |= _too_long(pieces, server, unusable)
    rows = {job.items[item].row: why for item, why in sorted(unusable.items(), reverse=True)}
    if rows:
        bad = [job.dataset.rows[row].failed(why) for row, why in sorted(rows.items())]
        usable = len(job.dataset.rows) - len(rows)
        if not skip_bad_rows or usable < FEWEST_ROWS:
            raise refused_rows(bad, path=path_of(job.dataset), usable=usable)
    unusable = {item: rows[one.row] for item, one in enumerate(job.items) if one.row in rows}
    return Fitted(pieces, fit(settings, pieces, server, without=unusable), unusable)


def _too_long(pieces: Pieces, server: Endpoint, without: Collection[int]) -> dict[int, str]:
    """The longest items, up to the first in front of which a demo of each label fits.

    Empty where fewer than two would be left: it is the context then that is too short.
    """
    items = [item for item in range(len(pieces.prompts)) if item not in without]
    items.sort(key=lambda item: len(pieces.prompts[item]), reverse=True)
    lengths = [len(pieces.prompts[item]) for item in items]
    for gone in range(max(0, len(items) - FEWEST_ROWS) + 1):
        needed = min(len(pieces.labels), len(items) - gone)
        if _demos_that_fit(lengths[gone : gone + needed], pieces, server) >= needed:
            return {
                item: f"its prompt takes {len(pieces.prompts[item]):,} tokens, and the server's "
                f"context of {server.identity.context_length:,} has no room for it and one demo of "
                "each label: shorten the text, or start the server with a larger context"
                for item in items[:gone]
            }
    return {}


def fit(
    settings: Settings, pieces: Pieces, server: Endpoint, *, without: Collection[int] = ()
) -> Settings:
    """Lower the demos in a context to what fits the server's context whichever are drawn.

    Args:
        settings: of the search.
        pieces: of all items.
        server: whose context it is.
        without: items that are never shown.

    Raises:
        InputError: fewer demos than labels are allowed.
        RowsTooLong: not even one demo of each label fits.
    """
    search = settings.sweeps if isinstance(settings, TrainedSettings) else settings
    asked = search.demos if isinstance(search, SweepSettings) else search.max_demos
    n_labels = len(pieces.labels)
    if asked is not None and asked < n_labels:
        raise InputError(f"{asked} demos in a context cannot show {n_labels} labels: allow more")
    lengths = sorted(
        (len(ids) for item, ids in enumerate(pieces.prompts) if item not in without), reverse=True
    )
    most = len(lengths) - 1 if asked is None else asked
    fitting = _demos_that_fit(lengths[:most], pieces, server)
    if fitting < min(n_labels, len(lengths), most):
        raise RowsTooLong(
            "the server's context has no room for one demo of each label: shorten the rows, or "
            f"start the server with a larger context. (The longest row takes {lengths[0]:,} tokens "
            f"of a context of {server.identity.context_length:,}.)"
        )
    if not isinstance(search, SweepSettings):
        return search if fitting >= most else replace(search, max_demos=fitting)
    fitted = replace(
        search,
        demos=min(search.demos, fitting),
        second_demos=min(max(search.second_demos, n_labels), fitting),
        initial=min(max(search.initial, n_labels), fitting),
    )
    return replace(settings, sweeps=fitted) if isinstance(settings, TrainedSettings) else fitted


def _demos_that_fit(lengths: Sequence[int], pieces: Pieces, server: Endpoint) -> int:
    """How many prompts of these lengths, falling, fit as demos in front of the first of them."""
    label_tokens = max(map(len, pieces.labels))
    room = server.identity.context_length - len(pieces.bos) - lengths[0] - label_tokens
    fitting, used = 0, 0
    for length in lengths:
        used += length + label_tokens + len(pieces.separator)
        if used > room:
            break
        fitting += 1
    return fitting


def fitted_notice(asked: Settings, fitted: Settings, n_items: int) -> str | None:
    """A sentence on contexts that cannot hold what was asked for, or None."""
    if isinstance(fitted, TrainedSettings):
        own = asked.sweeps if isinstance(asked, TrainedSettings) else asked
        return fitted_notice(own, fitted.sweeps, n_items)
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


async def find_labels(
    problem: Problem,
    settings: Settings,
    score: Score,
    train: Train | None = None,
    *,
    seed: int,
    watch: Watch = UNWATCHED,
) -> SearchResult:
    """Run the search that the settings are for.

    Args:
        problem: what is searched.
        settings: fitted to the server (`fit`).
        score: asks the served model.
        train: trains models, for `folds` and `iterate`.
        seed: of all that is random.
        watch: follows the search, and ends it.

    Raises:
        InputError: the constraint allows some items no labels, or not the pinned ones.
        TrainingError: a model cannot be trained.
        EndpointError, ScoreError, StoreError: whatever `score` raises.
    """
    rng = np.random.default_rng(seed)
    match settings:
        case SweepSettings():
            return await search(problem, score, settings=settings, rng=rng, watch=watch)
        case AnnealSettings() | OfficialSettings():
            return await anneal_search(problem, score, settings=settings, rng=rng, watch=watch)
    assert train is not None  # noqa: S101 - `checked_settings` has seen to it
    if isinstance(settings, FoldSettings):
        return await fold_search(problem, score, train, settings=settings, rng=rng, watch=watch)
    return await iterative_search(problem, score, train, settings=settings, rng=rng, watch=watch)


def run_settings(
    settings: Settings,
    start: Start | IntArray | None,
    trainer: Trainer | None = None,
    pinned: IntArray | None = None,
) -> dict[str, JsonValue]:
    """What of a search can change the labels found, for a run's record and name.

    First labels and pins stand in it as a digest, a trainer as what it says of itself; where there
    are no pins and no trainer, they are left out.
    """
    described: dict[str, JsonValue] = {"preset": preset_of(settings), **asdict(settings)}
    described["start"] = start if start is None or isinstance(start, str) else _digest(start)
    if trainer is not None:
        described["trainer"] = {"kind": type(trainer).__name__, **trainer.described}
    if pinned is not None:
        described["pinned"] = _digest(pinned)
    return described


def _digest(labels: IntArray) -> str:
    return blake2b(labels.tobytes(), digest_size=8).hexdigest()
