"""Demos lowered to what a server's context holds."""

from dataclasses import replace

from icm_client.coherence.settings import SweepSettings
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, PromptTooLong
from icm_client.runs.presets import Settings, TrainedSettings
from icm_client.scoring import Pieces


def fit(settings: Settings, pieces: Pieces, server: Endpoint) -> Settings:
    """Lower the demos in a context to what fits the server's context whichever are drawn.

    Raises:
        InputError: fewer demos than labels are allowed.
        PromptTooLong: not even one demo of each label fits.
    """
    if isinstance(settings, TrainedSettings):
        return replace(settings, sweeps=_fit_sweeps(settings.sweeps, pieces, server))
    if isinstance(settings, SweepSettings):
        return _fit_sweeps(settings, pieces, server)
    most = len(pieces.prompts) - 1 if settings.max_demos is None else settings.max_demos
    fitting = _fitting(pieces, server, settings.max_demos, most)
    return settings if fitting >= most else replace(settings, max_demos=fitting)


def _fit_sweeps(settings: SweepSettings, pieces: Pieces, server: Endpoint) -> SweepSettings:
    n_labels = len(pieces.labels)
    fitting = _fitting(pieces, server, settings.demos, settings.demos)
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


def _fitting(pieces: Pieces, server: Endpoint, asked: int | None, most: int) -> int:
    """Of the longest rows, how many fit in front of the longest one; at most `most`."""
    n_labels = len(pieces.labels)
    if asked is not None and asked < n_labels:
        raise InputError(f"{asked} demos in a context cannot show {n_labels} labels: allow more")
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
        longest = max(range(len(lengths)), key=lambda item: len(pieces.prompts[item]))
        raise PromptTooLong(
            f"the longest rows take {lengths[0]} tokens (prompt {longest + 1:,} does), and "
            f"the server's context holds {server.identity.context_length}: no room for one demo of "
            "each label. Shorten the rows, or start the server with a larger context."
        )
    return fitting
