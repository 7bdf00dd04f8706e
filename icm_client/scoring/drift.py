"""Find stored answers that are another model's, and withdraw answers that may be.

A server reports the same identity where a path names the latest weights, an adapter is loaded anew,
or a file is overwritten, but it computes other log-probs. So before stored answers are used, a few
of them are asked again.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Final

import anyio

from icm_client.endpoints.identity_check import described, nats_apart
from icm_client.endpoints.protocol import (
    SAME_NATS,
    Answer,
    Endpoint,
    SampledEndpoint,
    lane_of,
)
from icm_client.errors import EndpointError, IcmError, ModelChanged, ScoreError
from icm_client.scoring.call import Call, ScorerStats, is_about_reads
from icm_client.scoring.prompts import Question
from icm_client.scoring.store import ScoreStore

FIRST_CHECKED: Final = 3
"""So many stored answers are asked again where a run first uses any."""

MOST_CHECKED: Final = 8
"""A run asks at most so many again: one more in each later call with other stored contexts."""

_BESIDE: Final = 2
"""So many more are asked before one answer that has changed is taken for another model's."""

DRIFT_ADVICE: Final = (
    "To label with what is served now, from the start: `icm-client label --accept-drift`, which "
    "drops these scores. To keep them: name another file with --store. To drop them: `icm-client "
    "store prune --model NAME --yes`."
)


class DriftCheck:
    """Compares a few stored answers with the server's, before a run uses them.

    Scorers of one run share it. Answers that the server gave in this run, and contexts that have
    been looked at, are not asked about again. Nothing is asked of an endpoint whose fingerprint is
    a digest of its weights.

    Attributes:
        reads: how many the server has answered for it.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.reads = 0
        self._endpoint = endpoint
        self._checked = 0
        self._contexts: set[int] = set()  # by hash: those that are known to be this model's
        self._asked_since = math.inf

    def answered(self, questions: Sequence[Question]) -> None:
        """Record, before they are stored, that the server has answered these questions."""
        if self._endpoint.identity.of_weights:
            return
        self._asked_since = min(self._asked_since, anyio.current_time())
        for head in {id(question.head): question.head for question in questions}.values():
            self._contexts.add(hash(head))

    async def check(self, call: Call, stats: ScorerStats) -> None:
        """Compare some of the stored answers of `call`; count the reads that this takes in `stats`.

        Raises:
            ModelChanged: they are another model's. They stay where they are; what this run has
                been answered since it began is taken back.
            EndpointError, ScoreError: none of them was answered.
        """
        most = 1 if self._checked else FIRST_CHECKED
        most = min(most, MOST_CHECKED - self._checked)
        if self._endpoint.identity.of_weights or most <= 0:
            return
        heads = {id(head): head for head in (call.questions[n].head for n in call.known)}
        new = {place for place, head in heads.items() if hash(head) not in self._contexts}
        stored = sorted(n for n in call.known if id(call.questions[n].head) in new)
        if not stored:
            return
        most = min(most, len(stored))
        chosen = [stored[(2 * k + 1) * len(stored) // (2 * most)] for k in range(most)]
        others = [n for n in stored if n not in chosen]
        self._checked += most
        failures: list[EndpointError | ScoreError] = []
        compared = partial(self._apart, call=call, stats=stats, failures=failures)
        same = 0
        for number in chosen:
            apart = await compared(number)
            if apart:
                beside = [await compared(n) for n in _nearest(number, others)]
                if any(beside) or all(other is None for other in beside):
                    raise self._changed(max([apart, *filter(None, beside)]))
            same += apart is not None
        if not same and failures:
            raise failures[0]
        self._contexts |= {hash(call.questions[n].head) for n in chosen}

    async def _apart(
        self,
        number: int,
        *,
        call: Call,
        stats: ScorerStats,
        failures: list[EndpointError | ScoreError],
    ) -> float | None:
        """Return how far an answer has moved in nats, 0 within noise; None where it fails now."""

        async def ask() -> Answer:
            endpoint, read = self._endpoint, call.questions[number].read()
            if isinstance(endpoint, SampledEndpoint):  # its `read` may ask more than once
                answer = await endpoint.read_sampled(read, {})
            else:
                (answer,) = await endpoint.read([read], lane=lane_of(endpoint))
            self.reads += 1
            stats.checked += 1
            return answer

        try:
            return await nats_apart(call.known[number], ask)
        except (EndpointError, ScoreError) as error:
            if not is_about_reads(error):
                raise
            failures.append(error)
            return None

    def _changed(self, apart: float) -> ModelChanged:
        identity = self._endpoint.identity
        return ModelChanged(
            f"the stored scores are not of the weights that {described(identity)} has now. "
            f"{DRIFT_ADVICE} (Asked again, its log-probs are up to {apart:.2f} nats away, and up "
            f"to {SAME_NATS:g} is noise. The server reports the same identity as then; nothing "
            "stored has been changed.)",
            last_confirmed_at=self._asked_since,
            stored=identity.fingerprint,
        )


def withdraw_doubtful(error: IcmError, store: ScoreStore, fingerprint: str) -> int:
    """Drop from the store the answers since the server was last known to be unchanged.

    Only a `ModelChanged`, or a group of errors with one in it, casts doubt on any.

    Returns:
        How many answers.
    """
    changed = _model_change(error)
    if changed is None or math.isinf(changed.last_confirmed_at):
        return 0
    ago_s = anyio.current_time() - changed.last_confirmed_at
    return store.withdraw(fingerprint, store.now() - ago_s)


def _nearest(number: int, others: Sequence[int]) -> list[int]:
    return sorted(others, key=lambda other: abs(other - number))[:_BESIDE]


def _model_change(error: IcmError) -> ModelChanged | None:
    """Return the change among what ended a call: of several failures, one was raised for all."""
    together = error.__cause__
    if isinstance(error, ModelChanged) or not isinstance(together, BaseExceptionGroup):
        return error if isinstance(error, ModelChanged) else None
    found: BaseException | None = together.subgroup(ModelChanged)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, ModelChanged) else None
