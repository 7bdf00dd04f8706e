"""The way out of the method: queries in, label log-probs back, each answer kept.

`Scorer` turns queries into reads, looks them up in the score store, has the endpoint answer what
is missing in the planner's order, and stores each answer before it is used. Its result depends on
the queries and the store's contents, and not on the order in which answers arrive.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import anyio.lowlevel
import numpy as np

from icm_client.coherence.problem import Context, FloatArray, Query
from icm_client.endpoints.protocol import Answer, Endpoint, Exactness, TokenIds, worst
from icm_client.errors import (
    EndpointError,
    IcmError,
    MalformedAnswer,
    PromptTooLong,
    Retry,
    RunStopped,
    ScoreError,
    ScoreNotFinite,
)
from icm_client.scoring.assemble import Pieces, context_ids
from icm_client.scoring.call import Call, FailedItem, Failure, Streak, find_blamed, is_about_reads
from icm_client.scoring.drift import DriftCheck, withdraw_doubtful
from icm_client.scoring.execute import Caller, execute
from icm_client.scoring.label_trie import LabelTrie
from icm_client.scoring.planner import plan, prune
from icm_client.scoring.prompts import Asked, Prompt, Question, score_keys
from icm_client.scoring.store import ScoreStore


class ScoringProgress(NamedTuple):
    """How far one call of a scorer is, in reads.

    Attributes:
        done: reads with an answer, those from the store included.
        total: different reads that the call needs.
        from_store: reads that the store had.
    """

    done: int
    total: int
    from_store: int


_CONTROLS = 3

OnFailed = Callable[[Mapping[int, FailedItem]], None]
"""Called with the items that cannot be scored; what it raises ends the call."""


@dataclass(slots=True)
class ScorerStats:
    """Running totals over a scorer's calls, in reads.

    Attributes:
        asked: answered by the server.
        from_store: answered by the store.
        checked: of those from the store, the server was asked again so many times, to see that
            they are its own. They do not count as `asked`.
    """

    asked: int = 0
    from_store: int = 0
    checked: int = 0


class Scorer:
    """The `icm_client.coherence.problem.Score` over one endpoint and one store.

    Args:
        endpoint: who answers what the store does not hold.
        store: where answers are looked up and kept.
        pieces: the token ids of items and labels; queries index into them.
        group_size: reads that go in one request, on a server without lanes.
        reads_in_flight: reads under way at a time, on a server without lanes; about as many as it
            computes at once, so that prefixes are used before they are evicted.
        on_progress: called when the store has been looked up, and after each group of answers.
        on_failed: told of items that cannot be scored once all else has been answered and stored,
            or earlier, where one spoils a context; the rows without a score are then NaN. None
            raises the first failure instead.
        stopping: asked before a request is begun; once it says so, what is under way is awaited
            and stored, and the call raises `RunStopped`.
        drift: compares stored answers with the server's; None takes one for this object alone.
        unusable: items that are known not to be scored: their rows are NaN, and nothing is asked.

    Attributes:
        stats: running totals.
        labels: the labels' tokens and the reads that score them.
        exactness: item -> the least reliable kind of log-prob that it was given in any call.
        drift: what compares stored answers with the server's.

    Raises:
        TaskError: the labels' tokens cannot be told apart.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        store: ScoreStore,
        pieces: Pieces,
        *,
        group_size: int = 16,
        reads_in_flight: int = 256,
        on_progress: Callable[[ScoringProgress], None] | None = None,
        on_failed: OnFailed | None = None,
        stopping: Callable[[], bool] = lambda: False,
        drift: DriftCheck | None = None,
        unusable: Collection[int] = (),
    ) -> None:
        self.drift = DriftCheck(endpoint) if drift is None else drift
        self.stats = ScorerStats()
        self.exactness: dict[int, Exactness] = {}
        self.labels = LabelTrie(pieces.labels, pieces.label_texts)
        self._endpoint = endpoint
        self._store = store
        self._pieces = pieces
        self._group_size = group_size
        self._reads_in_flight = reads_in_flight
        self._on_progress = on_progress
        self._on_failed = on_failed
        self._stopping = stopping
        self._streak = Streak()
        self._given_up = set(unusable)

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """Return `log P(label | context, target)` in nats, shape `[len(queries), K]`.

        Cancelled or failed, it leaves every answer that had arrived in the store; the same call
        again asks for the others. An item that failed without any demos is not asked about again
        by this object.

        Raises:
            PromptTooLong: a prompt does not fit the server's context; nothing has been sent.
            ModelChanged: another model answers; what may be its has been taken out of the store.
            EndpointError: the server did not answer.
            ScoreError: it answered, but not with a log-prob.
            RunStopped: it was to stop before all was answered.
            StoreError: the store could not be read or written.
        """
        await anyio.lowlevel.checkpoint()  # a replay awaits nothing else: let it be cancelled
        rows = np.full((len(queries), len(self._pieces.labels)), np.nan)
        there = [n for n, query in enumerate(queries) if query.target not in self._given_up]
        asked = [queries[n] for n in there]
        try:
            found = await self._answers(asked, self._reads(asked))
        except IcmError as error:
            withdraw_doubtful(error, self._store, self._endpoint.identity.fingerprint)
            error.goes_on = self._goes_on(error)
            raise
        for n, answers in zip(there, found, strict=True):
            if answers is not None:
                item = queries[n].target
                before = self.exactness.get(item, Exactness.EXACT)
                self.exactness[item] = worst((before, self.labels.exactness(answers)))
                rows[n] = self.labels.log_probs(answers)
        return rows

    def _goes_on(self, error: IcmError) -> bool:
        """Whether the same call again may succeed, and finds what was answered until now."""
        may_succeed = error.retry is not Retry.NEVER or isinstance(error, RunStopped)
        return may_succeed and self.stats.asked + self.stats.from_store > 0

    def _reads(self, queries: Sequence[Query]) -> list[tuple[Question, ...]]:
        """Return each query's reads; all of them fit the server's context."""
        contexts: dict[Context, TokenIds] = {}  # fold contexts are shared by many queries
        room = self._endpoint.identity.context_length - 1  # one for the token that is read
        reads = []
        for query in queries:
            if query.context not in contexts:
                contexts[query.context] = context_ids(self._pieces, query.context)
            prompt = Prompt(contexts[query.context], self._pieces.prompts[query.target])
            reads.append(self.labels.questions(prompt))
            longest = max(len(read.prompt) for read in reads[-1])
            if longest > room:
                raise PromptTooLong(
                    f"item {query.target} (counting from 0) behind {len(query.context)} demos "
                    f"makes a prompt of {longest} tokens; the server has room for {room}. "
                    "Use fewer demos in a context, shorten or drop the longest rows, or start the "
                    "server with a larger context."
                )
        return reads

    async def _answers(
        self, queries: Sequence[Query], asked: Sequence[Sequence[Question]]
    ) -> list[list[Answer] | None]:
        """Return the answers to each query's reads, None where one of them failed."""
        reads, needed = different(asked, self._endpoint.identity.fingerprint)
        call = self._looked_up(reads)
        self._report(call)
        await self._check_drift(call)
        self._streak.begin()
        blamed: set[int] = set()
        over = False
        while not over:
            over = await self._asked(call, self._streak)
            failing = [
                (query, next(call.failed[index] for index in indices if index in call.failed))
                for query, indices in zip(queries, needed, strict=True)
                if not call.failed.keys().isdisjoint(indices) and query.target not in blamed
            ]
            if failing:
                await self._blame(failing, call)
                blamed |= {query.target for query, _ in failing}
        return [
            [call.known[index] for index in indices]
            if call.failed.keys().isdisjoint(indices)
            else None
            for indices in needed
        ]

    async def _check_drift(self, call: Call) -> None:
        if self._stopping():
            return
        before = self.drift.reads
        try:
            await self.drift.check(call)
        finally:
            self.stats.checked += self.drift.reads - before

    def _looked_up(self, reads: list[Question], *, aside: bool = False) -> Call:
        stored = self._store.get_many(self._endpoint.identity.fingerprint, reads)
        known = {index: answer for index, answer in enumerate(stored) if answer is not None}
        self.stats.from_store += len(known)
        return Call(reads, known, len(known), aside=aside)

    async def _asked(self, call: Call, streak: Streak | None) -> bool:
        """Ask what is missing; False where too much failed in a row, though the server is there.

        With no `streak`, any number may fail.
        """
        if not call.missing:
            return True
        try:
            # Planned over all reads and pruned afterwards: a run that goes on where another ended
            # sends the same prefixes ahead.
            await execute(
                prune(plan(call.reads), call.missing),
                call.reads,
                self._endpoint,
                Caller(
                    arrived=partial(self._arrived, call),
                    failed=partial(_failed, call, streak),
                    stopping=self._stopping,
                ),
                group_size=self._group_size,
                reads_in_flight=self._reads_in_flight,
            )
        except (EndpointError, ScoreError) as error:
            if self._stopping():  # it may be of what was not repeated any more
                raise RunStopped("stopped on request") from error
            if streak is None or not is_about_reads(error) or not await self._server_answers(call):
                raise
            streak.trust()
            return False
        if call.missing or (call.failed and self._stopping()):
            raise RunStopped("stopped on request")
        return True

    def _arrived(self, call: Call, indices: Sequence[int], answers: Sequence[Answer]) -> None:
        group = [call.reads[index] for index in indices]
        check_answers(group, answers)
        self.drift.answered(group)
        standing = self._store.put_many(self._endpoint.identity.fingerprint, group, answers)
        call.known.update(zip(indices, standing, strict=True))
        call.heard = True
        self._streak.answered()
        self.stats.asked += len(group)
        self._report(call)

    async def _server_answers(self, call: Call) -> bool:
        """Ask once more what had an answer, or else about a few short items, without a context."""
        known = [call.reads[index] for index in [*call.known][-1:]]
        if not known:
            prompts = self._pieces.prompts
            short = sorted(range(len(prompts)), key=lambda item: len(prompts[item]))[:_CONTROLS]
            known = [own[0] for own in self._reads([Query((), item) for item in short])]
        again = Call(list(dict.fromkeys(known)), {}, 0, aside=True)
        await self._asked(again, None)
        call.heard |= again.heard
        return again.heard

    async def _blame(self, failing: Sequence[tuple[Query, Failure]], call: Call) -> None:
        """Tell which items made queries fail; raise where that is not for items to be blamed."""
        # In a replay what failed is all that is asked: who is to blame is not said by that.
        if self._on_failed is None or not (call.heard or await self._server_answers(call)):
            raise failing[0][1]
        blamed = await find_blamed(failing, self._alone)
        self._streak.answered()
        self._given_up |= {item for item, one in blamed.items() if one.alone}
        self._on_failed(blamed)

    async def _alone(self, items: Iterable[int]) -> dict[int, Failure | None]:
        """How each item fares without a context."""
        reads = {item: self._reads([Query((), item)])[0] for item in items}
        different = dict.fromkeys(read for own in reads.values() for read in own)
        call = self._looked_up(list(different), aside=True)
        await self._asked(call, None)
        failed = {call.reads[index]: error for index, error in call.failed.items()}
        return {
            item: next((failed[read] for read in own if read in failed), None)
            for item, own in reads.items()
        }

    def _report(self, call: Call) -> None:
        if self._on_progress is not None and not call.aside:
            done = len(call.known) + len(call.failed)
            self._on_progress(ScoringProgress(done, len(call.reads), call.from_store))


def _failed(call: Call, streak: Streak | None, indices: Sequence[int], error: Failure) -> None:
    """Note a request that failed for good; raise where it says something of all."""
    if not is_about_reads(error):
        raise error
    if len(indices) == 1:
        call.failed[indices[0]] = error
    if streak is not None:
        streak.failed(error, len(indices))
        if streak.is_suspicious:
            raise error


def different(
    asked: Sequence[Sequence[Question]], fingerprint: str
) -> tuple[list[Question], list[list[int]]]:
    """Return the reads without repetitions, and which of them each of `asked` needs.

    They are told apart by their keys in the store of the server `fingerprint`: a key takes a
    context once, the hash of a prompt takes it for every prompt.
    """
    keys = iter(score_keys(fingerprint, [read for reads in asked for read in reads]))
    position: dict[bytes, int] = {}
    found: list[Question] = []
    needed = []
    for reads in asked:
        own = []
        for read in reads:
            place = position.setdefault(next(keys), len(found))
            if place == len(found):
                found.append(read)
            own.append(place)
        needed.append(own)
    return found, needed


def check_answers(reads: Sequence[Asked], answers: Sequence[Answer]) -> None:
    """Refuse what must not enter the store, whichever endpoint it came from.

    Raises:
        MalformedAnswer: not as many answers as reads, or log-probs as tokens.
        ScoreNotFinite: a log-prob that is none.
    """
    if len(answers) != len(reads):
        raise MalformedAnswer(f"{len(answers)} answers to {len(reads)} reads")
    for read, answer in zip(reads, answers, strict=True):
        if len(answer.log_probs) != len(read.wanted):
            raise MalformedAnswer(
                f"{len(answer.log_probs)} log-probs for {len(read.wanted)} tokens"
            )
        if not all(-math.inf < log_prob <= 0 for log_prob in answer.log_probs):
            raise ScoreNotFinite(f"{answer.log_probs} as log-probs of tokens {read.wanted}")
