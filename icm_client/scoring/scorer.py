"""The `icm_client.coherence.problem.Score` of a server: queries in, label log-probs out.

`Scorer` turns queries into questions, looks them up in the score store, has the endpoint answer
what is missing in the planner's order, and stores each answer before it is used. Its result depends
on the queries and the store's contents, and not on the order in which answers arrive.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
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
from icm_client.scoring.call import (
    Call,
    FailedItem,
    Failure,
    ScorerStats,
    Streak,
    find_blamed,
    is_about_reads,
)
from icm_client.scoring.drift import DriftCheck, withdraw_doubtful
from icm_client.scoring.execute import Caller, execute
from icm_client.scoring.prompts import LabelTrie, Question, score_keys
from icm_client.scoring.store import ScoreStore

_CONTROLS = 3


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


OnFailed = Callable[[Mapping[int, FailedItem]], None]
"""Called with the items that cannot be scored; what it raises ends the call."""


class Scorer:
    """The `icm_client.coherence.problem.Score` over one endpoint and one store.

    Args:
        endpoint: answers what the store does not hold.
        store: where answers are looked up and kept.
        pieces: the token ids of items and labels; queries index into them.
        group_size: reads that go in one request, on a server without lanes.
        reads_in_flight: reads in flight at a time, on a server without lanes; about as many as it
            computes at once, so that prefixes are used before they are evicted.
        on_progress: called when the store has been looked up, and after each group of answers.
        on_failed: called with the items that cannot be scored once all else has been answered and
            stored, or earlier, where one spoils a context; the rows without a score are then NaN.
            None raises the first failure instead.
        stopping: asked before a request is begun; once it says so, what is in flight is awaited
            and stored, and the call raises `RunStopped`.
        drift: compares stored answers with the server's; None takes one for this object alone.
        unusable: items that are known not to be scored: their rows are NaN, and nothing is asked.

    Attributes:
        stats: running totals.
        labels: the labels' tokens and the reads that score them.
        exactness: item -> the least reliable kind of log-prob that it was given in any call.
        drift: compares stored answers with the server's.

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
        again asks for the others. This object does not ask again about an item that failed
        zero-shot.

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
        usable = [n for n, query in enumerate(queries) if query.target not in self._given_up]
        try:
            call = self._look_up([queries[n] for n in usable])
            if not self._stopping():
                await self.drift.check(call, self.stats)
            blamed: set[int] = set()
            over = False
            while not over:
                over = await self._ask(call)
                failing = [
                    (queries[n], error)
                    for place, n in enumerate(usable)
                    if (error := call.failure(place)) and queries[n].target not in blamed
                ]
                if failing:
                    await self._blame(failing, call)
                    blamed |= {query.target for query, _ in failing}
        except IcmError as error:
            withdraw_doubtful(error, self._store, self._endpoint.identity.fingerprint)
            may_succeed = error.retry is not Retry.NEVER or isinstance(error, RunStopped)
            error.goes_on = may_succeed and self.stats.asked + self.stats.from_store > 0
            raise
        for n, needed in zip(usable, call.needed, strict=True):
            if call.failed.keys().isdisjoint(needed):
                answers = [call.known[index] for index in needed]
                item = queries[n].target
                before = self.exactness.get(item, Exactness.EXACT)
                self.exactness[item] = worst((before, self.labels.exactness(answers)))
                rows[n] = self.labels.log_probs(answers)
        return rows

    def _look_up(self, queries: Sequence[Query], *, aside: bool = False) -> Call:
        """Return what `queries` ask, with the answers that the store has."""
        identity = self._endpoint.identity
        room = identity.context_length - 1  # one for the token that is read
        contexts: dict[Context, TokenIds] = {}  # fold contexts are shared by many queries
        asked = []
        for query in queries:
            if query.context not in contexts:
                contexts[query.context] = context_ids(self._pieces, query.context)
            prompt = self._pieces.prompts[query.target]
            asked.append(self.labels.questions(contexts[query.context], prompt))
            longest = max(map(len, asked[-1]))
            if longest > room:
                raise PromptTooLong(
                    f"the prompt of item {query.target} (counting from 0) is longer than the "
                    "server's context. Use fewer demos in a context, shorten or drop the longest "
                    "rows, or start the server with a larger context. (The prompt with "
                    f"{len(query.context)} demos has {longest} tokens; the server has room for "
                    f"{room}.)"
                )
        questions, needed = different(asked, identity.fingerprint)
        stored = self._store.get_many(identity.fingerprint, questions)
        known = {n: answer for n, answer in enumerate(stored) if answer is not None}
        self.stats.from_store += len(known)
        missing = set(range(len(questions))) - known.keys()
        call = Call(questions, needed, missing, known, from_store=len(known), aside=aside)
        self._report(call)
        return call

    async def _ask(self, call: Call) -> bool:
        """Ask what is missing; False where too much failed in a row, though the server answers.

        Of what is asked aside, any number may fail.
        """
        if not call.missing:
            return True
        try:
            await execute(
                call.questions,
                call.missing,
                self._endpoint,
                Caller(
                    arrived=partial(self._arrived, call),
                    failed=partial(self._failed, call),
                    stopping=self._stopping,
                ),
                group_size=self._group_size,
                reads_in_flight=self._reads_in_flight,
            )
        except (EndpointError, ScoreError) as error:
            if self._stopping():  # the error may only be there because nothing is repeated any more
                raise RunStopped("stopped on request") from error
            if call.aside or not is_about_reads(error) or not await self._server_answers(call):
                raise
            call.trusted = True
            self._streak.answered()
            return False
        if call.missing or (call.failed and self._stopping()):
            raise RunStopped("stopped on request")
        return True

    def _arrived(self, call: Call, indices: Sequence[int], answers: Sequence[Answer]) -> None:
        """Store answers before anything uses them; an earlier answer of another run stands."""
        group = [call.questions[index] for index in indices]
        check_answers(group, answers)
        self.drift.answered(group)
        standing = self._store.put_many(self._endpoint.identity.fingerprint, group, answers)
        call.known.update(zip(indices, standing, strict=True))
        call.missing.difference_update(indices)
        call.answered = True
        self._streak.answered()
        self.stats.asked += len(group)
        self._report(call)

    def _failed(self, call: Call, indices: Sequence[int], error: Failure) -> None:
        """Record a request that failed for good; raise where others would fail like it."""
        if not is_about_reads(error):
            raise error
        if len(indices) == 1:
            call.failed[indices[0]] = error
            call.missing.discard(indices[0])
        if not call.aside:
            self._streak.failed(error, len(indices), trusted=call.trusted)
            if self._streak.is_suspicious:
                raise error

    async def _server_answers(self, call: Call) -> bool:
        """Ask again what was answered last, or else about the shortest items, zero-shot."""
        if call.known:
            controls = [call.questions[[*call.known][-1]]]
        else:
            bos, prompts = context_ids(self._pieces, ()), self._pieces.prompts
            short = sorted(range(len(prompts)), key=lambda item: len(prompts[item]))[:_CONTROLS]
            controls = [self.labels.questions(bos, prompts[item])[0] for item in short]
        controls, needed = different([controls], self._endpoint.identity.fingerprint)
        again = Call(controls, needed, set(range(len(controls))), aside=True)
        await self._ask(again)
        call.answered |= again.answered
        return again.answered

    async def _blame(self, failing: Sequence[tuple[Query, Failure]], call: Call) -> None:
        """Report the items that made queries fail; raise where no items are to blame."""
        # A replay asks only for what failed before: that does not show that the server works.
        if self._on_failed is None or not (call.answered or await self._server_answers(call)):
            raise failing[0][1]
        blamed = await find_blamed(failing, self._alone)
        self._streak.answered()
        self._given_up |= {item for item, one in blamed.items() if one.alone}
        self._on_failed(blamed)

    async def _alone(self, items: Sequence[int]) -> dict[int, Failure | None]:
        """Return why each item fails zero-shot; None for those that do not."""
        call = self._look_up([Query((), item) for item in items], aside=True)
        await self._ask(call)
        return {item: call.failure(place) for place, item in enumerate(items)}

    def _report(self, call: Call) -> None:
        if self._on_progress is not None and not call.aside:
            done = len(call.known) + len(call.failed)
            self._on_progress(ScoringProgress(done, len(call.questions), call.from_store))


def different(
    asked: Sequence[Sequence[Question]], fingerprint: str
) -> tuple[list[Question], list[list[int]]]:
    """Return the questions without repetitions, and which of them each of `asked` needs.

    Questions are the same where their keys in the store of the server `fingerprint` are: a context
    is digested once for its keys, and would be hashed again for every prompt.
    """
    keys = iter(score_keys(fingerprint, [question for own in asked for question in own]))
    found: dict[bytes, tuple[int, Question]] = {}
    needed = [
        [found.setdefault(next(keys), (len(found), question))[0] for question in own]
        for own in asked
    ]
    return [question for _, question in found.values()], needed


def check_answers(questions: Sequence[Question], answers: Sequence[Answer]) -> None:
    """Refuse what must not enter the store, whichever endpoint it came from.

    Raises:
        MalformedAnswer: not as many answers as questions, or log-probs as tokens.
        ScoreNotFinite: a number that is no log-prob.
    """
    if len(answers) != len(questions):
        raise MalformedAnswer(f"{len(answers)} answers to {len(questions)} reads")
    for question, answer in zip(questions, answers, strict=True):
        if len(answer.log_probs) != len(question.wanted):
            raise MalformedAnswer(
                f"{len(answer.log_probs)} log-probs for {len(question.wanted)} tokens"
            )
        if not all(-math.inf < log_prob <= 0 for log_prob in answer.log_probs):
            raise ScoreNotFinite(f"{answer.log_probs} as log-probs of tokens {question.wanted}")
