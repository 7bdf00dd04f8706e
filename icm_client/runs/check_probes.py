"""The probes of a check, over the prompts that a run would send."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import numpy as np

from icm_client.coherence.problem import Demo, Query
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.endpoints import (
    Endpoint,
    PromptLogProbsEndpoint,
    Read,
    TextEndpoint,
    VllmEndpoint,
)
from icm_client.endpoints.probe import (
    Figure,
    Observation,
    Verdict,
    failed,
    label_scores,
    number_of,
    prefix_cache,
    prompts_arrive,
    ratio,
    raw_log_probs,
)
from icm_client.endpoints.probe_load import neighbours, noise_floor, throughput
from icm_client.errors import EndpointError, ScoreError, TaskError
from icm_client.runs.fitting import fitted_job
from icm_client.runs.run_cost import RunCost, run_cost
from icm_client.scoring import LabelTrie, Pieces, ScoreStore, prompt_ids
from icm_client.task_groups import open_task_group

IN_FLIGHT: Final = (1, 8, 64)
"""At which numbers of requests the throughput is measured."""

_SECONDS_A_LEVEL: Final = 5.0
_READS_A_LEVEL: Final = {1: 8, 8: 32, 64: 128}
_BESIDE: Final = 7
_NOISE_READS: Final = 2
_NOISE_DEMOS: Final = 8
_NEIGHBOURS: Final = 8

_SECONDS: Final = 120.0
"""What a check takes, about, however slow the server is: later parts are then cut or left out."""

_TOLD_EVERY_S: Final = 10.0

OnStep = Callable[[str], None]
"""Called with what is being done, ahead of each step."""


class Probing:
    """The probes one after the other, over one job and one server.

    Args:
        job: rows and task.
        server: who is asked.
        store: where token ids are kept.
        rng: draws the prompts.
        tell: called with each probe's name, ahead of it.

    Attributes:
        observations: one a probe, in the order they were made.
    """

    def __init__(
        self,
        job: Job,
        server: Endpoint,
        store: ScoreStore,
        rng: np.random.Generator,
        tell: OnStep,
    ) -> None:
        self.observations: list[Observation] = []
        self._job = job
        self._server = server
        self._store = store
        self._rng = rng
        self._tell = tell
        self._pieces: Pieces | None = None
        self._settings = SweepSettings()
        self._began = time.monotonic()

    async def ask(self, settings: SweepSettings) -> None:
        """Make the observations; a run would have these `settings`."""
        self._settings = settings
        await self._kept("labels", self._tokenize, fatal=True)
        if self._pieces is None:
            return
        trie = LabelTrie(self._pieces.labels, self._pieces.label_texts)
        demos = self._settings.demos
        short, long = self._fresh(trie, 1, 1)[0], self._fresh(trie, 1, demos)[0]
        # The words that the first read asks for, which may be no more than the labels' beginnings.
        first = trie.reads(())[0].wanted
        words = [self._beginning(token) for token in first]
        server = self._server
        await self._kept("log-probs", lambda: label_scores(server, short, words), fatal=True)
        if self.observations[-1].verdict is Verdict.BAD:
            return  # whatever comes now would fail the same way
        await self._kept("prompts", lambda: prompts_arrive(server, short, long), fatal=True)
        await self._kept("raw or processed", lambda: raw_log_probs(server, short))
        cold = self._fresh(trie, 1, demos)[0]
        await self._kept("prefix cache", lambda: prefix_cache(server, cold))
        apart = self._fresh(trie, _NOISE_READS, min(demos, _NOISE_DEMOS))
        beside = self._fresh(trie, _BESIDE, 1)
        await self._kept("noise", lambda: noise_floor(server, apart, beside))
        levels = {n: self._fresh(trie, _READS_A_LEVEL[n], 1) for n in IN_FLIGHT}
        await self._kept("throughput", lambda: throughput(server, levels, seconds=_SECONDS_A_LEVEL))
        if isinstance(server, VllmEndpoint) and not isinstance(server, PromptLogProbsEndpoint):
            near = self._fresh(trie, _NEIGHBOURS, 1)
            await self._kept("neighbours", lambda: neighbours(server, near))

    def run_cost(self, n_rows: int) -> RunCost | None:
        """What a run over `n_rows` would take, by what the probes measured."""
        if self._pieces is None:
            return None
        figures = {one.name: one.figures for one in self.observations}
        cache, rates = figures.get("prefix cache", {}), figures.get("throughput", {})
        prompts = figures.get("prompts", {})
        return run_cost(
            n_rows,
            self._pieces,
            self._settings,
            lanes=self._server.lanes,
            texts=isinstance(self._server, TextEndpoint),
            ids_a_token=ratio(prompts.get("sent"), prompts.get("read_tokens")),
            tokens_a_second=ratio(cache.get("cold_computed_tokens"), cache.get("cold_s")),
            reads_a_second=max((number_of(rate) for rate in rates.values()), default=0.0),
            # Where it was not measured: whether the server has told of cached tokens at all.
            caches=self._server.usage.cached_tokens > 0
            if cache.get("caches") is None
            else bool(cache["caches"]),
            bytes_an_id=ratio(prompts.get("sent_bytes"), prompts.get("sent")),
        )

    async def _tokenize(self) -> Observation:
        job, server = self._job, self._server
        pieces, fitted, _ = await fitted_job(job, self._settings, server, self._store)
        if isinstance(fitted, SweepSettings):  # of the same kind as what was asked
            self._settings = fitted
        self._pieces = pieces
        identity = server.identity
        who = f"{identity.model} on {identity.kind}"
        figures: dict[str, Figure] = {
            "model": identity.model,
            "kind": identity.kind,
            "context_length": identity.context_length,
            "fingerprint": identity.fingerprint,
            "demos": self._settings.demos,
        }
        tokens: dict[str, Figure] = {
            "reads_a_row": len(LabelTrie(pieces.labels, pieces.label_texts).reads(()))
        }
        if isinstance(server, TextEndpoint):
            length = f"about {identity.context_length:,} characters"
            said = "as text"
        else:
            length = f"{identity.context_length:,} tokens"
            for label, ids in zip(job.labels, pieces.labels, strict=True):
                tokens[f"tokens_of_{label}"] = " ".join(map(str, ids))
            said = ", ".join(
                f"{text!r} as {' '.join(map(str, ids))}"
                for text, ids in zip(job.label_texts, pieces.labels, strict=True)
            )
        self.observations.append(
            Observation(
                "server",
                Verdict.GOOD,
                f"{who}, context {length}: room for {self._settings.demos} demos",
                figures,
            )
        )
        several = max(map(len, pieces.labels)) > 1
        return Observation(
            "labels",
            Verdict.GOOD,
            f"tokenized {said}" + (": several tokens take several reads a row" if several else ""),
            tokens,
        )

    async def _kept(
        self, name: str, probe: Callable[[], Awaitable[Observation]], *, fatal: bool = False
    ) -> None:
        """Make one observation, whatever becomes of the probe.

        Without what is `fatal` there is nothing to say; the rest is cut where time is short.
        """
        left_s = math.inf if fatal else self._began + _SECONDS - time.monotonic()
        if left_s <= 0:
            words = f"left out: what came before it took {_SECONDS:.0f} s, for a slow server"
            self.observations.append(Observation(name, Verdict.NOTE, words))
            return
        self._tell(name)

        async def run() -> None:
            self.observations.append(await probe())
            tasks.cancel_scope.cancel()

        async def tell() -> None:
            began = time.monotonic()
            while True:
                await anyio.sleep(_TOLD_EVERY_S)
                self._tell(f"{name}, for {time.monotonic() - began:.0f} s so far")

        scope = anyio.move_on_after(left_s)
        try:
            with scope:
                async with open_task_group() as tasks:  # several failures at once are one of ours
                    tasks.start_soon(run)
                    tasks.start_soon(tell)
        except (EndpointError, ScoreError, TaskError) as error:
            self.observations.append(failed(name, error, fatal=fatal))
        if scope.cancelled_caught:
            words = f"cut off: the check had taken {_SECONDS:.0f} s, for a slow server"
            self.observations.append(Observation(name, Verdict.NOTE, words))

    def _fresh(self, trie: LabelTrie, count: int, demos: int) -> list[Read]:
        """Reads of random rows behind random demos: prompts that no cache has seen."""
        if self._pieces is None:
            raise AssertionError
        pieces = self._pieces
        size, words = len(pieces.prompts), len(pieces.labels)
        reads = []
        for _ in range(count):
            target, *shown = self._rng.permutation(size)[: min(demos, size - 1) + 1].tolist()
            context = tuple(Demo(item, int(self._rng.integers(words))) for item in shown)
            reads.append(trie.reads(prompt_ids(pieces, Query(context, target)))[0])
        return reads

    def _beginning(self, token: int) -> str:
        """The labels that begin with `token`, for a person."""
        if self._pieces is None:
            raise AssertionError
        pairs = zip(self._job.labels, self._pieces.labels, strict=True)
        return "/".join(label for label, ids in pairs if ids[0] == token)
