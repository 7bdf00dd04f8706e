"""The way out of the method: queries in, label log-probs back, each answer kept.

`Scorer` turns queries into reads, looks them up in the score store, has the endpoint answer what
is missing in the planner's order, and stores each answer before it is used. Its result depends on
the queries and the store's contents, and not on the order in which answers arrive.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import anyio.lowlevel
import numpy as np

from icm_client.coherence.problem import Context, FloatArray, Query
from icm_client.endpoints.protocol import Answer, Endpoint, Exactness, Read, TokenIds, worst
from icm_client.errors import MalformedAnswer, PromptTooLong, ScoreNotFinite
from icm_client.scoring.assemble import Pieces, context_ids
from icm_client.scoring.execute import execute
from icm_client.scoring.label_trie import LabelTrie
from icm_client.scoring.planner import plan, prune
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


@dataclass(slots=True)
class ScorerStats:
    """Running totals over a scorer's calls, in reads.

    Attributes:
        asked: answered by the server.
        from_store: answered by the store.
    """

    asked: int = 0
    from_store: int = 0


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

    Attributes:
        stats: running totals.
        labels: the labels' tokens and the reads that score them.
        exactness: item -> the least reliable kind of log-prob that it was given in any call.

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
    ) -> None:
        self.stats = ScorerStats()
        self.exactness: dict[int, Exactness] = {}
        self.labels = LabelTrie(pieces.labels, pieces.label_texts)
        self._endpoint = endpoint
        self._store = store
        self._pieces = pieces
        self._group_size = group_size
        self._reads_in_flight = reads_in_flight
        self._on_progress = on_progress

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """Return `log P(label | context, target)` in nats, shape `[len(queries), K]`.

        Cancelled or failed, it leaves every answer that had arrived in the store; the same call
        again asks for the others.

        Raises:
            PromptTooLong: a prompt does not fit the server's context; nothing has been sent.
            EndpointError: the server did not answer.
            ScoreError: it answered, but not with a log-prob.
            StoreError: the store could not be read or written.
        """
        await anyio.lowlevel.checkpoint()  # a replay awaits nothing else: let it be cancelled
        asked = self._reads(queries)
        position: dict[Read, int] = {}
        needed = [[position.setdefault(read, len(position)) for read in reads] for reads in asked]
        answers = await self._answers(list(position))
        behind = [[answers[index] for index in indices] for indices in needed]
        for query, found in zip(queries, behind, strict=True):
            before = self.exactness.get(query.target, Exactness.EXACT)
            self.exactness[query.target] = worst((before, self.labels.exactness(found)))
        rows = [self.labels.log_probs(found) for found in behind]
        return np.array(rows, dtype=np.float64).reshape(len(queries), len(self._pieces.labels))

    def _reads(self, queries: Sequence[Query]) -> list[tuple[Read, ...]]:
        """Return each query's reads; all of them fit the server's context."""
        contexts: dict[Context, TokenIds] = {}  # fold contexts are shared by many queries
        room = self._endpoint.identity.context_length - 1  # one for the token that is read
        reads = []
        for query in queries:
            if query.context not in contexts:
                contexts[query.context] = context_ids(self._pieces, query.context)
            prompt = contexts[query.context] + self._pieces.prompts[query.target]
            reads.append(self.labels.reads(prompt))
            longest = max(len(read.prompt) for read in reads[-1])
            if longest > room:
                raise PromptTooLong(
                    f"item {query.target} (counting from 0) behind {len(query.context)} demos "
                    f"makes a prompt of {longest} tokens; the server has room for {room}. "
                    "Use fewer demos in a context, shorten or drop the longest rows, or start the "
                    "server with a larger context."
                )
        return reads

    async def _answers(self, reads: Sequence[Read]) -> list[Answer]:
        fingerprint = self._endpoint.identity.fingerprint
        stored = self._store.get_many(fingerprint, reads)
        known = {index: answer for index, answer in enumerate(stored) if answer is not None}
        from_store = len(known)
        self.stats.from_store += from_store
        self._report(len(known), len(reads), from_store)

        def arrived(indices: Sequence[int], answers: Sequence[Answer]) -> None:
            group = [reads[index] for index in indices]
            _check(group, answers)
            standing = self._store.put_many(fingerprint, group, answers)
            known.update(zip(indices, standing, strict=True))
            self.stats.asked += len(group)
            self._report(len(known), len(reads), from_store)

        if from_store < len(reads):
            # Planned over all reads and pruned afterwards: a run that goes on where another ended
            # sends the same prefixes ahead.
            missing = frozenset(range(len(reads))) - known.keys()
            await execute(
                prune(plan(reads), missing),
                reads,
                self._endpoint,
                arrived,
                group_size=self._group_size,
                reads_in_flight=self._reads_in_flight,
            )
        return [known[index] for index in range(len(reads))]

    def _report(self, done: int, total: int, from_store: int) -> None:
        if self._on_progress is not None:
            self._on_progress(ScoringProgress(done, total, from_store))


def _check(reads: Sequence[Read], answers: Sequence[Answer]) -> None:
    """Refuse what must not enter the store, whichever endpoint it came from."""
    if len(answers) != len(reads):
        raise MalformedAnswer(f"{len(answers)} answers to {len(reads)} reads")
    for read, answer in zip(reads, answers, strict=True):
        if len(answer.log_probs) != len(read.wanted):
            raise MalformedAnswer(
                f"{len(answer.log_probs)} log-probs for {len(read.wanted)} tokens"
            )
        if not all(-math.inf < log_prob <= 0 for log_prob in answer.log_probs):
            raise ScoreNotFinite(f"{answer.log_probs} as log-probs of tokens {read.wanted}")
