"""A run's search: which preset, with which numbers, fitted to what the server's context holds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import blake2b
from typing import Literal, NamedTuple, overload

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.initial_labels import Start
from icm_client.coherence.iterate import IterateSettings
from icm_client.coherence.problem import IntArray
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.simple import FewShotSettings, SimpleSettings, ZeroShotSettings
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.data.rows import FEWEST_ROWS, path_of, refused_rows
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, RowsTooLong
from icm_client.runs.trainer import Trained, Trainer, TrainingProgress
from icm_client.scoring import Pieces, ScoreStore, tokenize_pieces

SearchPreset = Literal["fast", "paper", "official"]
"""Searches that show the model its labels as few-shot demos. `fast`: sweeps over calibrated scores.
`paper`: Algorithms 1 and 2 as printed. `official`: as the authors' released code has them."""

SimplePreset = Literal["zero-shot", "zero-shot-calibrated", "random", "bootstrap"]
"""What a search is judged by (`icm_client.coherence.simple`): rows without demos, given demos with
random labels, and given the model's own predictions as demos."""

InContextPreset = Literal[SearchPreset, SimplePreset]
"""Both: whatever asks one model, and trains none."""

Preset = Literal[InContextPreset, "folds", "iterate"]
"""Those, and two that train models on the labels. `folds`: Algorithms 3 and 4, fine-tuned folds.
`iterate`: batch after batch, each searched with a model trained on those before it."""

InContextSettings = SweepSettings | AnnealSettings | OfficialSettings | SimpleSettings

TrainedSettings = FoldSettings | IterateSettings

Settings = InContextSettings | TrainedSettings

TrainingEvent = TrainingProgress | Trained
"""What a training reports: as it goes on, and when there is a model."""


_OWN: Mapping[Preset, Settings] = {
    "fast": SweepSettings(),
    "paper": AnnealSettings(),
    "official": OfficialSettings(),
    "zero-shot": ZeroShotSettings(calibrated=False),
    "zero-shot-calibrated": ZeroShotSettings(calibrated=True),
    "random": FewShotSettings(rounds=0),
    "bootstrap": FewShotSettings(rounds=2),
    "folds": FoldSettings(),
    "iterate": IterateSettings(),
}


@overload
def preset_settings(preset: InContextPreset) -> InContextSettings: ...


@overload
def preset_settings(preset: Preset) -> Settings: ...


def preset_settings(preset: Preset) -> Settings:
    """The preset's own settings."""
    return _OWN[preset]


def preset_of(settings: Settings) -> Preset:
    """Which search the settings are for."""
    match settings:
        case ZeroShotSettings(calibrated=calibrated):
            return "zero-shot-calibrated" if calibrated else "zero-shot"
        case FewShotSettings(rounds=rounds):
            return "bootstrap" if rounds else "random"
    return next(preset for preset, own in _OWN.items() if type(settings) is type(own))


class Fitted(NamedTuple):
    """A job as a server can score it.

    Attributes:
        pieces: of all items.
        settings: of the search, fitted to the server.
        unusable: items that cannot be scored and are to be skipped, with the reasons.
        notice: a sentence on contexts that cannot hold what was asked for, or None.
    """

    pieces: Pieces
    settings: Settings
    unusable: Mapping[int, str]
    notice: str | None


async def fitted_job(
    job: Job,
    settings: Settings,
    server: Endpoint,
    store: ScoreStore,
    *,
    skip_bad_rows: bool = False,
    too_long: Mapping[int, str] | None = None,
) -> Fitted:
    """Tokenize a job's prompts, and fit the settings to the server.

    Args:
        job: rows and task.
        settings: of the search.
        server: whose tokenizer and context these are.
        store: where token ids are kept.
        skip_bad_rows: leave rows that cannot be scored aside, in `Fitted.unusable`.
        too_long: items that cannot be scored for their length, with the reasons
            (`icm_client.runs.row_lengths`).

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
    unusable |= too_long or {}
    unusable |= _too_long(pieces, server, unusable)
    rows = job.by_row(unusable)
    if rows:
        bad = [job.dataset.rows[row].failed(why) for row, why in rows.items()]
        usable = len(job.dataset.rows) - len(rows)
        if not skip_bad_rows or usable < FEWEST_ROWS:
            raise refused_rows(bad, path=path_of(job.dataset), usable=usable)
    unusable = job.by_item(rows)
    fitted, notice = fit(settings, pieces, server, without=unusable)
    return Fitted(pieces, fitted, unusable, notice)


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
) -> tuple[Settings, str | None]:
    """Lower the demos in a context to what fits the server's context whichever are drawn.

    Args:
        settings: of the search.
        pieces: of all items.
        server: whose context it is.
        without: items that are never shown.

    Returns:
        The settings; and where contexts cannot hold what was asked for, a sentence that says so.

    Raises:
        InputError: fewer demos than labels are allowed.
        RowsTooLong: not even one demo of each label fits.
    """
    search = settings.sweeps if isinstance(settings, TrainedSettings) else settings
    asked = (
        search.max_demos if isinstance(search, AnnealSettings | OfficialSettings) else search.demos
    )
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
    if isinstance(search, AnnealSettings | OfficialSettings):
        if fitting >= most:
            return search, None
        return replace(search, max_demos=fitting), (
            f"contexts hold {fitting} demos, a seeded sample balanced over the labels: "
            "the server's context has no room for all others"
        )
    notice = None
    if fitting < min(search.demos, len(lengths)):
        notice = (
            f"contexts hold {fitting} demos instead of {search.demos}: the longest rows leave no "
            "room for more in the server's context"
        )
    if not isinstance(search, SweepSettings):
        return replace(search, demos=min(search.demos, fitting)), notice
    fitted = replace(
        search,
        demos=min(search.demos, fitting),
        second_demos=min(max(search.second_demos, n_labels), fitting),
        initial=min(max(search.initial, n_labels), fitting),
    )
    if isinstance(settings, TrainedSettings):
        return replace(settings, sweeps=fitted), notice
    return fitted, notice


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


def run_settings(
    settings: Settings,
    start: Start | IntArray | None,
    trainer: Trainer | None = None,
    pinned: IntArray | None = None,
    unlike: IntArray | None = None,
) -> dict[str, JsonValue]:
    """What of a search can change the labels found, for a run's record and name.

    First labels, pins and the labels that these are to be unlike stand in it as digests, a trainer
    as what it says of itself; where there are none, they are left out.
    """
    described: dict[str, JsonValue] = {"preset": preset_of(settings), **asdict(settings)}
    described["start"] = start if start is None or isinstance(start, str) else _digest(start)
    if trainer is not None:
        described["trainer"] = {"kind": type(trainer).__name__, **trainer.described}
    if pinned is not None:
        described["pinned"] = _digest(pinned)
    if unlike is not None:
        described["unlike"] = _digest(unlike)
    return described


def _digest(labels: IntArray) -> str:
    return blake2b(labels.tobytes(), digest_size=8).hexdigest()
