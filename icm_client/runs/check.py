"""`check`: probe a server, over prompts such as a run would send, before a run depends on it."""

import math
import os
import shlex
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final

import anyio
import numpy as np

from icm_client.coherence.settings import SweepSettings
from icm_client.data import Task, rows_from
from icm_client.data.job import Job, Rows, named_task
from icm_client.endpoints import (
    Endpoint,
    PromptLogProbsEndpoint,
    Read,
    RetryPolicy,
    TextEndpoint,
    TransportSettings,
    VllmEndpoint,
    Waiting,
    WireEvent,
)
from icm_client.endpoints.probe import (
    Figure,
    Grade,
    Observation,
    failed,
    label_scores,
    neighbours,
    noise_floor,
    number_of,
    prefix_cache,
    prompts_arrive,
    ratio,
    raw_log_probs,
    throughput,
)
from icm_client.errors import EndpointError, ScoreError, TaskError
from icm_client.runs.presets import fitted_job
from icm_client.runs.run_cost import RunCost, fresh_reads, run_cost
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import LabelTrie, Pieces, ScoreStore, open_store
from icm_client.task_groups import open_task_group

OnStep = Callable[[str], None]
"""Called before each step, with what it is."""

_ANY_TASK: Final = Task(
    template="Is this row made up for a check? {text}\nAnswer:", labels=("yes", "no")
)
"""What is asked where no task is given."""

MADE_UP_ROWS: Final = 64
"""Rows that are made up where none are given: enough for a context and some targets."""

_RETRY: Final = RetryPolicy(attempts=3, attempt_timeout_s=60.0, item_timeout_s=120.0)
"""Few retries: a check that fails says more than one that hangs."""

_REPORTED_WAIT_S: Final = 1.0
_POLL_S: Final = 0.1

_STOPPED: Final = Observation(
    "check", Grade.BAD, "it was stopped before its end: what is missing has not been probed"
)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check has found.

    Attributes:
        observations: one a probe, in the order they were made.
        cost: what a labelling run would take; None where no server has answered.
        requests: sent by the check itself.
        tokens: prompt tokens computed for the check itself.
        next: what to do now, one command each with what it does; none where a task was checked.
    """

    observations: tuple[Observation, ...]
    cost: RunCost | None
    requests: int
    tokens: int
    next: tuple[tuple[str, str], ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a run would fail; empty where none would."""
        bad = (one for one in self.observations if one.verdict is Grade.BAD)
        return tuple(f"{one.name}: {one.says}" for one in bad)

    @property
    def ready(self) -> bool:
        """Whether a labelling run can start."""
        return not self.reasons

    def summary(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {
            "ready": self.ready,
            "reasons": list(self.reasons),
            "observations": [
                {**asdict(one), "verdict": one.verdict.value} for one in self.observations
            ],
            "run": None if self.cost is None else self.cost.summary(),
            "requests": self.requests,
            "computed_tokens": self.tokens,
            "next": [{"command": command, "does": does} for command, does in self.next],
        }


async def check(
    *,
    task: Task | str | os.PathLike[str] | None = None,
    rows: Rows | None = None,
    run_rows: int | None = None,
    endpoint: Endpoint | Server | str | None = None,
    settings: SweepSettings | None = None,
    store: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    step: OnStep | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> CheckReport:
    """Find out whether a labelling run can work, and what it would cost.

    The check sends about 250 short requests and a dozen long ones. A probe that fails is an
    observation, and the others are made all the same. On a slow server, probes for which no time is
    left are cut short or left out, and reported as such.

    Without a task half a dozen requests show who serves which model, whether log-probs come back
    and of what kind, and that prompts arrive whole.

    Args:
        task: as for `icm_client.label`; None asks nothing about a run.
        rows: as for `icm_client.label`; None makes some up.
        run_rows: how many rows the run would have, for its cost; None takes those of `rows`.
        endpoint: as for `icm_client.label`; retries and requests in flight are the check's own.
        settings: of the run.
        store: where token ids are kept; None takes the user's own.
        seed: of the prompts; None draws new ones each time, which no cache has seen.
        step: called before each step, and with why a request waits before it is sent again.
        stopping: once it is true, the check ends with what it has found.

    Raises:
        InputError: rows or task cannot be used; nothing has been sent.
        StoreError: token ids cannot be kept.
    """
    job = _job(task, rows)
    report_step = step or (lambda _: None)

    def waits(event: WireEvent) -> None:
        if isinstance(event, Waiting) and event.seconds >= _REPORTED_WAIT_S:
            report_step(f"waiting {event.seconds:.0f} s: {event.reason}")

    report: CheckReport | None = None
    begun: tuple[Probing, Endpoint] | None = None

    def so_far() -> CheckReport:
        if begun is None:
            return CheckReport((), None, 0, 0)
        probing, server = begun
        cost = None if task is None else probing.run_cost(run_rows or len(job.prompts))
        used = server.usage
        return CheckReport(tuple(probing.observations), cost, used.requests, used.computed_tokens)

    async def work() -> None:
        nonlocal report, begun
        try:
            async with open_endpoint(_for_a_check(endpoint), waits) as server:
                probing = Probing(job, server, kept, np.random.default_rng(seed), report_step)
                begun = probing, server
                await (
                    probing.ask_briefly()
                    if task is None
                    else probing.ask(settings or SweepSettings())
                )
                report = so_far()
        except EndpointError as error:
            report = CheckReport((failed("server", error, fatal=True),), None, 0, 0)
        tasks.cancel_scope.cancel()

    async def watch() -> None:
        while not stopping():  # noqa: ASYNC110 - a caller sets no event
            await anyio.sleep(_POLL_S)
        tasks.cancel_scope.cancel()

    with open_store(store) as kept:
        report_step("connecting to the server")
        async with open_task_group() as tasks:
            tasks.start_soon(work)
            tasks.start_soon(watch)
    if report is not None:
        return replace(report, next=_next(report, endpoint)) if task is None else report
    seen = so_far()
    return replace(seen, observations=(*seen.observations, _STOPPED))


def _job(task: Task | str | os.PathLike[str] | None, rows: Rows | None) -> Job:
    """What is asked: rows and task, made up where they are not given."""
    if task is not None:
        return Job.prepare(_made_up(task) if rows is None else rows, task)
    if rows is not None:
        raise TaskError("rows are given, and no task: name one")
    return Job.prepare(_made_up(_ANY_TASK), _ANY_TASK)


def _next(
    report: CheckReport, endpoint: Endpoint | Server | str | None
) -> tuple[tuple[str, str], ...]:
    """What to do once a server is known to give log-probs, or to give none."""
    if not report.ready:
        return (("icm-client serve MODEL", "starts a vLLM server here that gives log-probs"),)
    url = endpoint.url if isinstance(endpoint, Server) else endpoint
    urls = [url] if isinstance(url, str) else url if isinstance(url, tuple) else []
    option = "".join(f" -e {shlex.quote(one)}" for one in urls)
    return (
        ("icm-client tasks init DATA", "writes down what to ask about your rows, in a file"),
        (f"icm-client check{option} --data DATA", "tries that prompt, and says what a run costs"),
        (f"icm-client label DATA -o labels.jsonl{option}", "labels the rows"),
    )


def _for_a_check(endpoint: Endpoint | Server | str | None) -> Endpoint | Server:
    """The endpoint, or how to open it: with few retries, and as many in flight as are measured."""
    if endpoint is not None and not isinstance(endpoint, str | Server):
        return endpoint
    server = endpoint if isinstance(endpoint, Server) else Server(endpoint)
    most = max(IN_FLIGHT)
    return replace(
        server,
        transport=TransportSettings(retry=_RETRY, max_in_flight=most, start_in_flight=most),
    )


def _made_up(task: Task | str | os.PathLike[str]) -> Rows:
    """Rows with the task's fields, all different."""
    fields = (task if isinstance(task, Task) else named_task(task)).template_fields
    made: Iterable[dict[str, str]] = (
        {field: f"This is the {field} of row {number}, made up for a check." for field in fields}
        for number in range(1, MADE_UP_ROWS + 1)
    )
    return rows_from(made)


IN_FLIGHT: Final = (1, 8, 64)
"""At which numbers of requests the throughput is measured."""

_SECONDS_A_LEVEL: Final = 5.0
_READS_A_LEVEL: Final = {1: 8, 8: 32, 64: 128}
_BESIDE: Final = 7
_NOISE_READS: Final = 2
_NOISE_DEMOS: Final = 8
_NEIGHBOURS: Final = 8
_BRIEF_DEMOS: Final = 16

_SECONDS: Final = 120.0
"""About what a check takes at most: on a slow server, later probes are cut short or left out."""

_REPORTED_EVERY_S: Final = 10.0


class Probing:
    """Makes the probes one after the other, over one job and one server.

    Attributes:
        observations: one a probe, in the order they were made.
    """

    def __init__(
        self,
        job: Job,
        server: Endpoint,
        store: ScoreStore,
        rng: np.random.Generator,
        step: OnStep,
    ) -> None:
        self.observations: list[Observation] = []
        self._job = job
        self._server = server
        self._store = store
        self._rng = rng
        self._step = step
        self._pieces: Pieces | None = None
        self._settings = SweepSettings()
        self._began = time.monotonic()

    async def ask_briefly(self) -> None:
        """Make the observations that say who serves, and whether log-probs come back."""
        self._settings = SweepSettings(demos=_BRIEF_DEMOS)
        await self._first_probes()
        # How made-up labels are tokenized, and how many made-up rows fit, says nothing.
        self.observations[:] = [
            replace(one, says=one.says.partition(": room for")[0])
            for one in self.observations
            if one.name != "labels" or one.verdict is Grade.BAD
        ]

    async def ask(self, settings: SweepSettings) -> None:
        """Make the observations, for a run with these `settings`."""
        self._settings = settings
        fresh = await self._first_probes()
        if fresh is None:
            return
        server, demos = self._server, self._settings.demos
        cold = fresh(1, demos)[0]
        await self._kept("prefix cache", lambda: prefix_cache(server, cold))
        apart = fresh(_NOISE_READS, min(demos, _NOISE_DEMOS))
        beside = fresh(_BESIDE, 1)
        await self._kept("noise", lambda: noise_floor(server, apart, beside))
        levels = {n: fresh(_READS_A_LEVEL[n], 1) for n in IN_FLIGHT}
        await self._kept("throughput", lambda: throughput(server, levels, seconds=_SECONDS_A_LEVEL))
        if isinstance(server, VllmEndpoint) and not isinstance(server, PromptLogProbsEndpoint):
            near = fresh(_NEIGHBOURS, 1)
            await self._kept("neighbours", lambda: neighbours(server, near))

    async def _first_probes(self) -> Callable[[int, int], list[Read]] | None:
        """Ask what a run cannot do without; return what makes new reads, unless it is missing."""
        await self._kept("labels", self._tokenize, fatal=True)
        if self._pieces is None:
            return None
        pieces, demos = self._pieces, self._settings.demos
        trie = LabelTrie(pieces.labels, pieces.label_texts)
        fresh = partial(fresh_reads, pieces, trie, self._rng)
        short, long = fresh(1, 1)[0], fresh(1, demos)[0]
        # The words of the first read's tokens, which may be only the beginnings of labels.
        words = [
            "/".join(
                label
                for label, ids in zip(self._job.labels, pieces.labels, strict=True)
                if ids[0] == token
            )
            for token in trie.reads(())[0].wanted
        ]
        server = self._server
        await self._kept("log-probs", lambda: label_scores(server, short, words), fatal=True)
        if self.observations[-1].verdict is Grade.BAD:
            return None  # the other probes would fail the same way
        await self._kept("prompts", lambda: prompts_arrive(server, short, long), fatal=True)
        await self._kept("raw or processed", lambda: raw_log_probs(server, short))
        return fresh

    def run_cost(self, n_rows: int) -> RunCost | None:
        """What a run over `n_rows` would take, from what the probes have measured."""
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
            # Where it was not measured: whether the server has reported any cached tokens.
            caches=self._server.usage.cached_tokens > 0
            if cache.get("caches") is None
            else bool(cache["caches"]),
            bytes_an_id=ratio(prompts.get("sent_bytes"), prompts.get("sent")),
        )

    async def _tokenize(self) -> Observation:
        job, server = self._job, self._server
        pieces, fitted, _, _ = await fitted_job(job, self._settings, server, self._store)
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
                Grade.GOOD,
                f"{who}, context {length}: room for {self._settings.demos} demos",
                figures,
            )
        )
        several = max(map(len, pieces.labels)) > 1
        return Observation(
            "labels",
            Grade.GOOD,
            f"tokenized {said}" + (": several tokens take several reads a row" if several else ""),
            tokens,
        )

    async def _kept(
        self, name: str, probe: Callable[[], Awaitable[Observation]], *, fatal: bool = False
    ) -> None:
        """Make one observation, even where the probe fails.

        A run cannot do without what is `fatal`; other probes are cut short where time is.
        """
        left_s = math.inf if fatal else self._began + _SECONDS - time.monotonic()
        if left_s <= 0:
            words = f"left out: the probes before it took {_SECONDS:.0f} s on this slow server"
            self.observations.append(Observation(name, Grade.NOTE, words))
            return
        self._step(name)

        async def run() -> None:
            self.observations.append(await probe())
            tasks.cancel_scope.cancel()

        async def report() -> None:
            began = time.monotonic()
            while True:
                await anyio.sleep(_REPORTED_EVERY_S)
                self._step(f"{name}, for {time.monotonic() - began:.0f} s so far")

        scope = anyio.move_on_after(left_s)
        try:
            with scope:
                async with open_task_group() as tasks:  # several failures at once are one of ours
                    tasks.start_soon(run)
                    tasks.start_soon(report)
        except (EndpointError, ScoreError, TaskError) as error:
            self.observations.append(failed(name, error, fatal=fatal))
        if scope.cancelled_caught:
            words = f"cut short: the check took {_SECONDS:.0f} s on this slow server"
            self.observations.append(Observation(name, Grade.NOTE, words))
