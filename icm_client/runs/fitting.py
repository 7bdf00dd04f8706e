"""A job's prompts in tokens, and demos lowered to what the server's context holds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from icm_client.coherence.settings import SweepSettings
from icm_client.data.bad_rows import refused_rows
from icm_client.data.job import Job
from icm_client.data.rows import FEWEST_ROWS, path_of
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, RowsTooLong
from icm_client.runs.presets import Settings, TrainedSettings
from icm_client.scoring import Pieces, ScoreStore, tokenize_pieces


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
    if isinstance(settings, TrainedSettings):
        return replace(settings, sweeps=_fit_sweeps(settings.sweeps, pieces, server, without))
    if isinstance(settings, SweepSettings):
        return _fit_sweeps(settings, pieces, server, without)
    n_items = len(pieces.prompts) - len(without)
    most = n_items - 1 if settings.max_demos is None else settings.max_demos
    fitting = _fitting(pieces, server, settings.max_demos, most, without)
    return settings if fitting >= most else replace(settings, max_demos=fitting)


def _fit_sweeps(
    settings: SweepSettings, pieces: Pieces, server: Endpoint, without: Collection[int]
) -> SweepSettings:
    n_labels = len(pieces.labels)
    fitting = _fitting(pieces, server, settings.demos, settings.demos, without)
    return replace(
        settings,
        demos=min(settings.demos, fitting),
        second_demos=min(max(settings.second_demos, n_labels), fitting),
        initial=min(max(settings.initial, n_labels), fitting),
    )


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


def _fitting(
    pieces: Pieces, server: Endpoint, asked: int | None, most: int, without: Collection[int]
) -> int:
    """Of the longest rows, how many fit in front of the longest one; at most `most`."""
    n_labels = len(pieces.labels)
    if asked is not None and asked < n_labels:
        raise InputError(f"{asked} demos in a context cannot show {n_labels} labels: allow more")
    lengths = sorted(
        (len(ids) for item, ids in enumerate(pieces.prompts) if item not in without), reverse=True
    )
    fitting = _demos_that_fit(lengths[:most], pieces, server)
    if fitting < min(n_labels, len(lengths), most):
        raise RowsTooLong(
            f"the longest rows take {lengths[0]} tokens, and "
            f"the server's context holds {server.identity.context_length}: no room for one demo of "
            "each label. Shorten the rows, or start the server with a larger context."
        )
    return fitting


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
