"""One way to a server: retries with back-off, deadlines, the in-flight limit, typed errors.

`icm_client.endpoints.exchange` sends one request; this decides when, how often, and whether what
answers is still the model that the run began with.

How often and how long one item is tried.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final, Self, TypeVar

import anyio
import orjson
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from icm_client.endpoints.exchange import NO_HEADERS, Body, Exchange
from icm_client.endpoints.identity_check import Evidence, IdentityCheck
from icm_client.endpoints.limiter import Gate
from icm_client.endpoints.models import MODELS, models_in
from icm_client.endpoints.parsing import listed, page_words
from icm_client.endpoints.protocol import ServerIdentity, Usage
from icm_client.endpoints.settings import RetryPolicy, TransportSettings, Waiting
from icm_client.errors import (
    EndpointError,
    EndpointOverloaded,
    IcmError,
    MalformedAnswer,
    ModelNotFound,
    Retry,
    RunStopped,
    ScoreNotFinite,
)


@dataclass(slots=True)
class Item:
    """The attempts at one item: how many were made, and what they took."""

    policy: RetryPolicy
    attempts: int
    made: int = 0
    bad: int = 0
    spent_s: float = 0.0  # on the wire and between attempts; waiting for a turn is not

    def deadline_s(self) -> float:
        """Of the next attempt."""
        left_s = self.policy.item_timeout_s - self.spent_s
        return max(0.001, min(self.policy.attempt_timeout_s, left_s))

    def may_heal(self, error: BaseException) -> bool:
        """Whether the attempt that ended so is worth another."""
        self.bad += isinstance(error, MalformedAnswer | ScoreNotFinite)
        return (
            isinstance(error, IcmError)
            and error.retry is not Retry.NEVER
            and self.bad < self.policy.bad_answers
        )

    def is_over(self, state: RetryCallState) -> bool:
        """Whether there is no attempt left, or no time for one."""
        return (
            self.made >= self.attempts
            or self.spent_s + state.upcoming_sleep >= self.policy.item_timeout_s
        )

    def wait_s(self, state: RetryCallState, spacing_s: float) -> float:
        """Seconds until the next attempt.

        Args:
            state: of the attempts so far.
            spacing_s: seconds that requests keep between them; 0 for none. Where they do, it is
                what a refusal is answered with, and a long wait besides would leave gaps.
        """
        policy = self.policy
        error = state.outcome.exception() if state.outcome else None
        paced = spacing_s > 0 and isinstance(error, EndpointOverloaded)
        drawn = wait_random_exponential(
            multiplier=min(policy.initial_wait_s, 2 * spacing_s)
            if paced
            else policy.initial_wait_s,
            max=policy.maximum_wait_s,
        )(state)
        asked = error.retry_after_s if isinstance(error, EndpointOverloaded) else None
        return max(drawn, min(asked or 0.0, policy.retry_after_cap_s))


T = TypeVar("T")

GET_ATTEMPTS: Final = 3
"""What is asked with GET is asked first, and a wrong URL should be told at once; a server that is
restarting is met again in mid-run."""

_ASIDE_S: Final = 5.0
"""Deadline for what is asked beside the work: the queue's length, the list of models."""

_LOOKED_S: Final = 0.1
"""How often a wait looks whether the run is to stop."""

_LOOKING: Final = ContextVar("looking", default=False)
"""Whether what is asked is who answers; it gives up early, and is asked again with the request."""


_COMPARING: Final[ContextVar[bool]] = ContextVar("comparing", default=False)
"""Whether answers are being compared on behalf of a request that waits to be sent: what is asked
then uses that request's turn, raises no doubt of its own, and is an attempt of that request's."""


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


class Transport:
    """Requests to one server, until they are answered or there is a reason to give up.

    Args:
        url: the server's root, or its OpenAI root (`.../v1`); `user:password@` is sent as basic
            authentication and appears nowhere else.
        api_key: sent as a bearer token; kept out of every message and repr.
        settings: deadlines and limits.
        usage: where requests and retries are counted; a new one if None.

    Raises:
        InputError: `url` is not an http or https URL, or the key cannot stand in a header.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: SecretStr | None = None,
        settings: TransportSettings | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.settings: Final = settings or TransportSettings()
        self.usage: Final = usage if usage is not None else Usage()
        self._exchange = Exchange(url, api_key=api_key, settings=self.settings)
        self.url: Final = self._exchange.url
        self._gate = Gate(
            self.settings,
            lambda: self._exchange.body_of("/metrics", None, deadline_s=_ASIDE_S),
        )
        self._identity = IdentityCheck(self.settings.identity_interval_s)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._exchange.aclose()

    @property
    def in_flight_limit(self) -> int:
        """Requests that may be on the wire now."""
        return self._gate.limit

    def told(self, words: str) -> str:
        """What the server said, fit for a message: clipped, and without our secrets."""
        return self._exchange.told(words)

    def guard(
        self,
        known: ServerIdentity,
        ask: Callable[[], Awaitable[ServerIdentity]],
        evidence: Evidence,
    ) -> None:
        """Have it looked after that the server stays what it is.

        Before a scoring request, `ask` is awaited again when the server failed or was silent since
        the last time, and every `TransportSettings.identity_interval_s`.

        Args:
            known: what it is.
            ask: who answers now, by way of `get`.
            evidence: what it computes, by way of `post`.

        It is called where an event loop runs, and takes `known` for confirmed.
        """

        async def look() -> ServerIdentity:
            before = _LOOKING.set(True)
            try:
                return await ask()
            finally:
                _LOOKING.reset(before)

        async def compare() -> float:
            before = _COMPARING.set(True)
            try:
                return await evidence.compare()
            finally:
                _COMPARING.reset(before)

        self._identity = IdentityCheck(
            self.settings.identity_interval_s,
            known,
            look,
            replace(evidence, compare=compare),
            lambda: self._gate.spacing_s,
        )

    def doubt(self) -> None:
        """Have answers compared before the next scoring request: something says they may differ."""
        self._identity.doubt(compare=True)

    async def get(
        self, path: str, parse: Callable[[bytes], T], *, attempts: int = GET_ATTEMPTS
    ) -> T:
        """`parse` of the body that `path` answers with. Raises and retries as `post`."""
        return await self._retried(path, None, parse, scoring=False, attempts=attempts)

    async def post(
        self,
        path: str,
        body: Body | Callable[[], Awaitable[Body]],
        parse: Callable[[bytes], T],
        *,
        scoring: bool = False,
        attempts: int | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> T:
        """`parse` of the body that `path` answers with to `body`.

        Args:
            path: from the server's root, e.g. "/v1/completions".
            body: sent as JSON; a function is called ahead of every attempt, and what it raises is
                part of the attempt.
            parse: what it raises is retried too, where its `retry` is not NEVER.
            scoring: counts in `Usage.requests`; sent only to the model of `guard`.
            attempts: at most this many; None takes `RetryPolicy.attempts`.
            headers: sent besides the usual ones.

        Raises:
            EndpointError: as the tree in `icm_client.errors` says; one that a repetition may heal
                is raised once `RetryPolicy` is exhausted, with the number of attempts in its
                message.
            ScoreError: from `parse`.
        """
        return await self._retried(
            path, body, parse, scoring=scoring, attempts=attempts, headers=headers
        )

    async def _retried(
        self,
        path: str,
        body: Body | Callable[[], Awaitable[Body]] | None,
        parse: Callable[[bytes], T],
        *,
        scoring: bool,
        attempts: int | None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> T:
        policy = self.settings.retry
        if attempts is None:
            attempts = 1 if _COMPARING.get() else policy.attempts
        item = Item(policy, attempts)

        async def attempt() -> T:
            item.made += 1
            self.usage.retries += item.made > 1
            sent = await body() if callable(body) else body
            try:
                raw = await self._sent(path, sent, item, headers, scoring=scoring)
                if scoring and not _COMPARING.get():
                    await self._identity.confirm()
            except EndpointError as error:
                self._identity.failed(error)
                raise
            self._identity.answered()
            return self._parsed(parse, raw, path)

        retrying = AsyncRetrying(
            retry=retry_if_exception(item.may_heal),
            stop=lambda state: item.is_over(state) or self.settings.stopping(),
            wait=lambda state: item.wait_s(state, self._gate.spacing_s),
            sleep=self._slept,
            before_sleep=lambda state: self._waits(item, state),
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except IcmError as error:
            given_up = item.made > 1 and not _LOOKING.get() and not isinstance(error, RunStopped)
            if given_up and "(gave up after" not in str(error):
                error.args = (f"{error} (gave up after {item.made} attempts)",)
            if isinstance(error, ModelNotFound) and body is not None:
                error.args = (f"{error}; {await self._models_there(body)}",)
            raise

    async def _slept(self, seconds: float) -> None:
        """Wait, but no longer than until the run is to stop."""
        until = anyio.current_time() + seconds
        while (left := until - anyio.current_time()) > 0 and not self.settings.stopping():  # noqa: ASYNC110 - a caller tells nobody
            await anyio.sleep(min(left, _LOOKED_S))

    async def _sent(
        self, path: str, body: Body | None, item: Item, headers: Mapping[str, str], *, scoring: bool
    ) -> bytes:
        # What is asked with GET is little, and asked by those who have their turn already.
        comparing = _COMPARING.get()
        takes_turn = body is not None and not comparing
        ready = self._identity.check if scoring and not comparing else None
        # Written here: the SDK's json takes ten times as long for thousands of ids.
        content = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        async with self._gate.turn(path, ready) if takes_turn else self._gate.aside():
            if scoring:
                self.usage.requests += 1
                self.usage.sent_bytes += len(content or b"")
            began = anyio.current_time()
            try:
                with self._identity.under_way() if scoring else nullcontext():
                    return await self._exchange.body_of(
                        path, content, deadline_s=item.deadline_s(), headers=headers
                    )
            finally:
                item.spent_s += anyio.current_time() - began

    def _parsed(self, parse: Callable[[bytes], T], raw: bytes, path: str) -> T:
        """`parse` of what the server sent, untouched: a key like "token" may be a word of it."""
        try:
            return parse(raw)
        except MalformedAnswer as error:
            reason = self.told(str(error))
        if self.url not in reason:
            reason = f"{self.url}{path}: {reason}"
        text = raw.decode("utf-8", "replace")
        page = page_words(text)
        if page is not None:
            shown = f" ({self.told(page)!r})" if page else ""
            raise MalformedAnswer(
                f"{self.url}{path}: a web page came instead of an answer{shown}: this is not the "
                "model server's URL, or a login page or proxy stands before it"
            )
        failure = MalformedAnswer(f"{reason}; the answer begins with {self.told(text)!r}")
        failure.is_json = _is_json(raw)
        raise failure

    def _waits(self, item: Item, state: RetryCallState) -> None:
        seconds = state.next_action.sleep if state.next_action else 0.0
        item.spent_s += seconds
        error = state.outcome.exception() if state.outcome else None
        if self.settings.observe is not None:
            asked = isinstance(error, EndpointOverloaded) and error.retry_after_s is not None
            self.settings.observe(Waiting(seconds, str(error), item.made, asked))

    async def _models_there(self, body: object) -> str:
        try:
            raw = await self._exchange.body_of(MODELS, None, deadline_s=_ASIDE_S)
            names = [self.told(entry.id) for entry in models_in(raw)]
        except IcmError:
            return "the server does not list its models"
        asked = body.get("model") if isinstance(body, Mapping) else None
        there = listed(names, like=asked if isinstance(asked, str) else None)
        return f"the server has: {there or 'none'}"
