"""What a run of `fast` takes: `forecast_job` from a short probe, `run_cost` from its figures."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from icm_client.coherence.fast import MOST_ROTATIONS
from icm_client.coherence.label_names import asked_first
from icm_client.coherence.predict import CONTEXTS
from icm_client.coherence.problem import Demo, Query
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.endpoints import Endpoint, Read, TextEndpoint
from icm_client.endpoints.probe import Figure, number_of, prefix_cache, ratio, throughput
from icm_client.errors import InputError
from icm_client.runs.presets import Settings, fitted_job
from icm_client.runs.row_lengths import NO_LIMIT, RowLimit, within_limit
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import (
    LabelTrie,
    Pieces,
    open_store,
    prompt_ids,
)

_GROUP: Final = 16
"""Reads that the scorer sends in one request, where a server takes several."""

SHORT_READS: Final = {8: 16, 64: 64}
"""Requests in flight -> reads with which the speed is measured; the best one counts."""

_SECONDS_A_LEVEL: Final = 3.0

_CHARACTERS_A_TOKEN: Final = 4.0
"""Of a server that takes texts, where nothing better is known."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run takes, from the fewest sweeps of one restart to the most of all restarts.

    Attributes:
        rows: of the run.
        requests: fewest and most, without retries.
        tokens: prompt tokens that the server computes, fewest and most.
        minutes: fewest and most; None where nothing was measured.
        sent_bytes: uploaded with those requests, fewest and most; None where that is not known.
        probe: what the forecast itself has asked; None where it was not asked for.
    """

    rows: int
    requests: tuple[int, int]
    tokens: tuple[int, int]
    minutes: tuple[float, float] | None
    sent_bytes: tuple[int, int] | None = None
    probe: "ProbeCost | None" = None

    def sentence(self) -> str:
        """Return the cost in one sentence."""
        time = (
            "a time that was not measured"
            if self.minutes is None
            else f"{self.minutes[0]:.1f} to {self.minutes[1]:.1f} minutes"
        )
        sent = (
            ""
            if self.sent_bytes is None
            else f"{_size(self.sent_bytes[0])} to {_size(self.sent_bytes[1])} uploaded, "
        )
        return (
            f"A run over {self.rows:,} rows: {self.requests[0]:,} to {self.requests[1]:,} "
            f"requests, {self.tokens[0]:,} to {self.tokens[1]:,} tokens computed, {sent}{time}."
        )

    def summary(self) -> dict[str, object]:
        """Return the cost as JSON values."""
        return {
            "rows": self.rows,
            "requests": list(self.requests),
            "computed_tokens": list(self.tokens),
            "minutes": None if self.minutes is None else list(self.minutes),
            "sent_bytes": None if self.sent_bytes is None else list(self.sent_bytes),
            "probe": None if self.probe is None else asdict(self.probe),
        }


@dataclass(frozen=True, slots=True)
class ProbeCost:
    """The most that a forecast asks of the server, known before it asks anything.

    Attributes:
        requests: without retries.
        prompt_tokens: of all of them; of a server that takes texts, an estimate.
    """

    requests: int
    prompt_tokens: int

    def sentence(self) -> str:
        """Return the cost in one sentence."""
        return (
            f"The forecast sends at most {self.requests:,} requests with {self.prompt_tokens:,} "
            "prompt tokens in all."
        )


async def forecast_job(
    job: Job,
    endpoint: Endpoint | Server | str | None,
    settings: Settings,
    *,
    predicted: int = 0,
    store: str | os.PathLike[str] | None = None,
    skip_bad_rows: bool = False,
    row_limit: RowLimit = NO_LIMIT,
    on_probe: Callable[[ProbeCost], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> RunCost:
    """Return what `label` would take for this job, in requests, tokens and minutes.

    So many further rows are `predicted` from the labels of these. `on_probe` is called before
    anything is scored with what the forecast will ask at most, and `on_step` with what is measured
    next, in words; the other arguments are those of `icm_client.label`.

    Raises:
        InputError: the search is not `fast`: its cost cannot be known before.
        EndpointError, ScoreError, StoreError: as `icm_client.label`.
    """
    if not isinstance(settings, SweepSettings):
        raise InputError(
            "--forecast is for --preset fast: what Algorithm 1 takes depends on the steps that it "
            "accepts, and what training takes on the trainer, which cannot be known before. The "
            "simpler presets read each row 2 or 3 times (docs/methods.md)"
        )
    with open_store(store) as kept:
        async with open_endpoint(endpoint) as server:
            within = await within_limit(job, row_limit, server, kept)
            fitted = await fitted_job(
                within.job,
                settings,
                server,
                kept,
                skip_bad_rows=skip_bad_rows,
                too_long=within.too_long,
            )
            assert isinstance(fitted.settings, SweepSettings)  # noqa: S101 - `fit` keeps the kind
            used = (
                ids for item, ids in enumerate(fitted.pieces.prompts) if item not in fitted.unusable
            )
            pieces = replace(fitted.pieces, prompts=tuple(used))
            return await forecast(
                pieces,
                fitted.settings,
                server,
                predicted=predicted,
                rng=np.random.default_rng(),
                on_probe=on_probe,
                on_step=on_step,
            )


async def forecast(
    pieces: Pieces,
    settings: SweepSettings,
    server: Endpoint,
    *,
    predicted: int = 0,
    rng: np.random.Generator,
    on_probe: Callable[[ProbeCost], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> RunCost:
    """Return what the search of these settings would take, in requests, tokens and minutes.

    Answers that the score store has already are counted too. The server is asked 82 times at most:
    a long prompt twice, and short ones for a few seconds. Arguments are those of `forecast_job`.
    """
    trie = LabelTrie(pieces.labels, pieces.label_texts)
    long = fresh_reads(pieces, trie, rng, 1, settings.demos)[0]
    levels = {n: fresh_reads(pieces, trie, rng, reads, 1) for n, reads in SHORT_READS.items()}
    short = [read for reads in levels.values() for read in reads]
    texts = isinstance(server, TextEndpoint)
    length = 2 * len(long.prompt) + sum(len(read.prompt) for read in short)
    probe = ProbeCost(2 + len(short), round(length / _CHARACTERS_A_TOKEN) if texts else length)
    if on_probe is not None:
        on_probe(probe)
    say = on_step or (lambda _: None)
    say("how fast a long prompt is computed, and whether it is cached")
    cache = (await prefix_cache(server, long)).figures
    rates: dict[str, Figure] = {}
    for in_flight, reads in levels.items():
        say(f"how many short prompts a second, {in_flight} at a time")
        level = {in_flight: reads}
        rates |= (await throughput(server, level, seconds=_SECONDS_A_LEVEL)).figures
    cost = run_cost(
        len(pieces.prompts),
        pieces,
        settings,
        predicted=predicted,
        lanes=server.lanes,
        texts=texts,
        ids_a_token=0.0,
        tokens_a_second=ratio(cache["cold_computed_tokens"], cache["cold_s"]),
        reads_a_second=max(map(number_of, rates.values())),
        caches=server.usage.cached_tokens > 0 if cache["caches"] is None else bool(cache["caches"]),
    )
    return replace(cost, probe=probe)


def fresh_reads(
    pieces: Pieces, trie: LabelTrie, rng: np.random.Generator, count: int, demos: int
) -> list[Read]:
    """Reads of random rows in random contexts: prompts that no cache has seen."""
    reads = []
    for _ in range(count):
        target, *shown = rng.permutation(len(pieces.prompts))[: demos + 1].tolist()
        context = tuple(Demo(item, int(rng.integers(len(pieces.labels)))) for item in shown)
        reads.append(trie.reads(prompt_ids(pieces, Query(context, target)))[0])
    return reads


def run_cost(
    n_rows: int,
    pieces: Pieces,
    settings: SweepSettings,
    *,
    predicted: int = 0,
    lanes: int,
    texts: bool,
    ids_a_token: float,
    tokens_a_second: float,
    reads_a_second: float,
    caches: bool,
    bytes_an_id: float = 0.0,
) -> RunCost:
    """Return what `n_rows` like those of `pieces` would take.

    A sweep computes each fold's context once, and every row after it; a server without a prefix
    cache computes the context again for each row. The time is that of the contexts at the speed of
    one long prompt, and of the rows at the best speed of short ones.

    Args:
        n_rows: `N`.
        pieces: of rows like those of the run.
        settings: of the run, fitted to the server.
        predicted: further rows like them, each read once a frozen context.
        lanes: of the endpoint.
        texts: whether the ids of `pieces` are characters, one prompt a request.
        ids_a_token: characters a token, where they are; 0 for unknown.
        tokens_a_second: measured on one long prompt; 0 for unknown.
        reads_a_second: measured on short prompts, at its best; 0 for unknown.
        caches: whether the server has a prefix cache.
        bytes_an_id: uploaded for each id of a prompt; 0 for unknown.
    """
    reads_a_row = len(LabelTrie(pieces.labels).reads(()))
    length = sum(map(len, pieces.prompts)) / max(len(pieces.prompts), 1)
    label = sum(map(len, pieces.labels)) / len(pieces.labels)
    scale = 1 / (ids_a_token or _CHARACTERS_A_TOKEN) if texts else 1.0
    demo = (length + label + len(pieces.separator)) * scale
    folds, n_labels = settings.folds, len(pieces.labels)

    def sweep(demos: float, contexts: float = folds, share: float = 1.0) -> _Work:
        """The work of reading this share of the rows in so many contexts."""
        reads = share * n_rows * reads_a_row
        again = 0.0 if caches else demos * demo
        return _Work(
            requests=(reads if lanes or texts else math.ceil(reads / _GROUP))
            + (0 if lanes else contexts),
            contexts=contexts * demos * demo if caches else 0.0,
            rows=share * n_rows * (length * scale + again),
            reads=reads,
            # Each prompt is sent whole, whatever the server has cached of it.
            ids=reads * (demos * demo / scale + length)
            + (0 if lanes else contexts * demos * demo / scale),
        )

    others = settings.keep * n_rows * (1 - 1 / folds)  # rows that a fold's demos are drawn from
    whole = sweep(min(settings.demos, others))
    begun = sweep(min(settings.initial, n_rows / 2), 1) + sweep(min(settings.second_demos, others))
    # At the end, part of a fold or all rows are read under other label permutations; and sweeps
    # over all of them follow where the label-word effect is small.
    exchanged = n_labels - 1 + (n_labels > 2)  # noqa: PLR2004 - of two, rotating is exchanging
    at_once = min(n_labels, MOST_ROTATIONS)
    under_all = settings.all_names and settings.all_names * at_once + exchanged - (at_once - 1)
    asked = min(1 / folds, asked_first(n_labels) / n_rows)
    fewest = (
        begun
        + whole * (settings.min_sweeps - 2)
        + sweep(min(settings.demos, others), 1, asked) * exchanged
    )
    most = (begun + whole * (settings.max_sweeps - 2)) * settings.restarts + whole * (
        exchanged + max(under_all, settings.renamed)
    )
    if predicted:
        frozen = sweep(min(settings.demos, others), 1, predicted / n_rows + 1 / 2) * CONTEXTS
        fewest, most = fewest + frozen, most + frozen
    minutes = None
    if tokens_a_second and reads_a_second:
        minutes = (
            fewest.minutes(tokens_a_second, reads_a_second, caches=caches),
            most.minutes(tokens_a_second, reads_a_second, caches=caches),
        )
    return RunCost(
        n_rows + predicted,
        (math.ceil(fewest.requests), math.ceil(most.requests)),
        (math.ceil(fewest.tokens), math.ceil(most.tokens)),
        minutes,
        (math.ceil(fewest.ids * bytes_an_id), math.ceil(most.ids * bytes_an_id))
        if bytes_an_id
        else None,
    )


class _Work(NamedTuple):
    """Requests, prompt tokens computed (of shared contexts, and of rows), reads, and ids sent."""

    requests: float
    contexts: float
    rows: float
    reads: float
    ids: float

    def __add__(self, other: "_Work") -> "_Work":  # type: ignore[override]  # no longer a tuple's
        return _Work(*(one + another for one, another in zip(self, other, strict=True)))

    def __mul__(self, times: int) -> "_Work":  # type: ignore[override]
        return _Work(*(one * times for one in self))

    @property
    def tokens(self) -> float:
        return self.contexts + self.rows

    def minutes(self, tokens_a_second: float, reads_a_second: float, *, caches: bool) -> float:
        """The time at the speed of one long prompt, and of short ones after cached prefixes."""
        long = self.contexts if caches else self.rows
        return (long / tokens_a_second + self.reads / reads_a_second) / 60


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:  # noqa: PLR2004
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
