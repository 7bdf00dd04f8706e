"""One request: from the first attempt to its parsed answer, or to a typed error.

    repeat, at most `RetryPolicy.attempts` times and `item_timeout_s` seconds in all:
        wait for its turn (`limiter`: requests in flight, a pace, a pause that was asked for)
        if it is in doubt who answers, ask (`identity_check`): another model is ModelChanged
        send it, and read the whole answer within `attempt_timeout_s` (`exchange`);
            a failed connection or a status other than 2xx is a typed error (`http_errors`)
        parse the answer and return (`parsing`: else MalformedAnswer or ScoreNotFinite)
        after an error:
            429, 503: have fewer requests in flight, a pause, perhaps a pace (`limiter`)
            raise it if no repetition helps (`IcmError.retry` is NEVER), at the third bad answer,
                and where no attempt or no time is left or the run is to stop
            wait: a random time whose range doubles, or what Retry-After asks for

Retries, deadlines and waits are here; each other step is in the file named beside it.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, Self, TypeVar

import anyio
import orjson
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from icm_client.endpoints.identity_check import COMPARING, LOOKING, Evidence, IdentityCheck
from icm_client.endpoints.limiter import Gate
from icm_client.endpoints.parsing import MODELS, listed, models_in, page_words
from icm_client.endpoints.protocol import ServerIdentity, Usage
from icm_client.endpoints.settings import (
    NO_HEADERS,
    Body,
    RetryPolicy,
    TransportSettings,
    Waiting,
)
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

T = TypeVar("T")

GET_ATTEMPTS: Final = 3
"""A run begins with GET requests, and a wrong URL should be reported at once. In mid-run a server
that is restarting is asked again with the next request."""

_ASIDE_S: Final = 5.0
"""Deadline of what is asked beside the work: the length of the queue, the list of models."""

_POLL_S: Final = 0.1
"""How often a wait checks whether the run is to stop."""


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
        # Imported with the first server: the SDK below it takes half a second, and a command's help
        # and a shell's completion open none.
        from icm_client.endpoints.exchange import Exchange  # noqa: PLC0415

        self._exchange = Exchange(url, api_key=api_key, settings=self.settings)
        self.url: Final = self._exchange.url
        self._gate = Gate(
            self.settings, lambda: self._exchange.body_of("/metrics", None, deadline_s=_ASIDE_S)
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
        return self._gate.limiter.limit

    def redacted(self, words: str) -> str:
        """The server's words, fit for a message: clipped, and without our secrets."""
        return self._exchange.redacted(words)

    def guard(
        self,
        known: ServerIdentity,
        ask: Callable[[], Awaitable[ServerIdentity]],
        evidence: Evidence,
    ) -> None:
        """From now on, check before scoring requests that the server is still `known`.

        It is checked after the server failed or was silent, and every
        `TransportSettings.identity_interval_s`. Call this where an event loop runs. `ask` asks
        again who answers, with `get`; `evidence` asks with `post`.
        """
        interval_s = self.settings.identity_interval_s
        self._identity = IdentityCheck(
            interval_s, known, ask, evidence, lambda: self._gate.limiter.spacing_s
        )

    def doubt(self) -> None:
        """Compare answers before the next scoring request: there is a sign that they may differ."""
        self._identity.doubt(compare=True)

    async def get(
        self, path: str, parse: Callable[[bytes], T], *, attempts: int = GET_ATTEMPTS
    ) -> T:
        """`parse` of the body that `path` answers with. Raises and retries as `post`."""
        return await self.post(path, None, parse, attempts=attempts)

    async def post(
        self,
        path: str,
        body: Body | Callable[[], Awaitable[Body]] | None,
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
                part of the attempt. None: a GET request.
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
        if attempts is None:
            attempts = 1 if COMPARING.get() else self.settings.retry.attempts
        item = _Item(self.settings.retry, attempts)
        retrying = AsyncRetrying(
            retry=retry_if_exception(item.may_heal),
            stop=lambda state: item.is_over(state) or self.settings.stopping(),
            wait=lambda state: item.wait_s(state, self._gate.limiter.spacing_s),
            sleep=self._sleep,
            before_sleep=lambda state: self._report_wait(item, state),
            reraise=True,
        )
        try:
            return await retrying(
                self._attempt, path, body, parse, item, headers=headers, scoring=scoring
            )
        except IcmError as error:
            given_up = item.made > 1 and not LOOKING.get() and not isinstance(error, RunStopped)
            if given_up and "(gave up after" not in str(error):
                error.args = (f"{error} (gave up after {item.made} attempts)",)
            if isinstance(error, ModelNotFound) and body is not None:
                error.args = (f"{error}; {await self._models_there(body)}",)
            raise

    async def _attempt(
        self,
        path: str,
        body: Body | Callable[[], Awaitable[Body]] | None,
        parse: Callable[[bytes], T],
        item: "_Item",
        *,
        headers: Mapping[str, str],
        scoring: bool,
    ) -> T:
        """`parse` of the body of the answer to one attempt, sent when it is its turn."""
        item.made += 1
        self.usage.retries += item.made > 1
        # GET requests are small, and those who send them have their turn already.
        comparing = COMPARING.get()
        sent = await body() if callable(body) else body
        # Written here: the SDK's json takes ten times as long for thousands of ids.
        content = sent if sent is None or isinstance(sent, bytes) else orjson.dumps(sent)
        ready = self._identity.check if scoring and not comparing else None
        takes_turn = content is not None and not comparing
        try:
            async with self._gate.turn(path, ready) if takes_turn else self._gate.aside():
                if scoring:
                    self.usage.requests += 1
                    self.usage.sent_bytes += len(content or b"")
                began = anyio.current_time()
                try:
                    with self._identity.under_way() if scoring else nullcontext():
                        raw = await self._exchange.body_of(
                            path, content, deadline_s=item.deadline_s(), headers=headers
                        )
                finally:
                    item.spent_s += anyio.current_time() - began
            if scoring and not comparing:
                await self._identity.confirm()
        except EndpointError as error:
            self._identity.failed(error)
            raise
        self._identity.answered()
        try:
            return parse(raw)
        except MalformedAnswer as error:
            reason = str(error)
        raise self._malformed(reason, raw, path)

    def _malformed(self, reason: str, raw: bytes, path: str) -> MalformedAnswer:
        """What the server sent may hold secrets: a key may be a word like "token"."""
        reason = self.redacted(reason)
        if self.url not in reason:
            reason = f"{self.url}{path}: {reason}"
        text = raw.decode("utf-8", "replace")
        page = page_words(text)
        if page is not None:
            shown = f" ({self.redacted(page)!r})" if page else ""
            return MalformedAnswer(
                f"{self.url}{path}: a web page came instead of an answer{shown}: this is not the "
                "model server's URL, or a login page or proxy stands before it"
            )
        failure = MalformedAnswer(f"{reason}; the answer begins with {self.redacted(text)!r}")
        failure.is_json = _is_json(raw)
        return failure

    def _report_wait(self, item: "_Item", state: RetryCallState) -> None:
        seconds = state.next_action.sleep if state.next_action else 0.0
        item.spent_s += seconds
        error = state.outcome.exception() if state.outcome else None
        if self.settings.observe is not None:
            asked = isinstance(error, EndpointOverloaded) and error.retry_after_s is not None
            self.settings.observe(Waiting(seconds, str(error), item.made, asked))

    async def _sleep(self, seconds: float) -> None:
        """Wait, but no longer than until the run is to stop."""
        until = anyio.current_time() + seconds
        while (left := until - anyio.current_time()) > 0 and not self.settings.stopping():  # noqa: ASYNC110 - `stopping` is a function, no event
            await anyio.sleep(min(left, _POLL_S))

    async def _models_there(self, body: object) -> str:
        try:
            raw = await self._exchange.body_of(MODELS, None, deadline_s=_ASIDE_S)
            names = [self.redacted(entry.id) for entry in models_in(raw)]
        except IcmError:
            return "the server does not list its models"
        asked = body.get("model") if isinstance(body, Mapping) else None
        there = listed(names, like=asked if isinstance(asked, str) else None)
        return f"the server has: {there or 'none'}"


@dataclass(slots=True)
class _Item:
    """The attempts at one request: whether there is another one, and when."""

    policy: RetryPolicy
    attempts: int
    made: int = 0
    bad: int = 0
    spent_s: float = 0.0  # on the wire and between attempts; waiting for a turn does not count

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

        Where requests keep a distance of `spacing_s` (0: they keep none), that distance is the
        answer to a refusal, and a long wait besides would leave gaps.
        """
        policy = self.policy
        error = state.outcome.exception() if state.outcome else None
        first_s = policy.initial_wait_s
        if spacing_s > 0 and isinstance(error, EndpointOverloaded):
            first_s = min(first_s, 2 * spacing_s)
        drawn_s = wait_random_exponential(multiplier=first_s, max=policy.maximum_wait_s)(state)
        asked_s = error.retry_after_s if isinstance(error, EndpointOverloaded) else None
        return max(drawn_s, min(asked_s or 0.0, policy.retry_after_cap_s))


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True
