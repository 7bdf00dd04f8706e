"""One way to a server: deadlines, retries with back-off, the in-flight limit, typed errors.

The SDK's typed methods are not used: `completions.create` validates every token id of a prompt
and is 15 times slower than `post` (25 against 0.8 ms of CPU for a request of 2,000 ids). Its
retries are off, because they give up at once on a long Retry-After and do not see malformed
answers; its read time-outs are too, because a server that sends a byte now and then resets them.
"""

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Self, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import aiohttp
import anyio
import httpx2
from openai import (
    APIConnectionError,
    APIStatusError,
    AsyncOpenAI,
    DefaultAioHttpClient,
    RequestOptions,
)
from pydantic import SecretStr
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from icm_client.endpoints.answers import clipped
from icm_client.endpoints.faults import error_of_status
from icm_client.endpoints.protocol import Usage
from icm_client.endpoints.settings import TransportSettings
from icm_client.errors import (
    EndpointOverloaded,
    EndpointTimeout,
    EndpointUnreachable,
    IcmError,
    InputError,
    MalformedAnswer,
    ScoreNotFinite,
)

T = TypeVar("T")

GET_ATTEMPTS: Final = 3
"""What is asked with GET is asked first, and a wrong URL should be told at once; a server that is
restarting is met again in mid-run."""

Body = Mapping[str, object]

# The SDK's own switch for "hand me the response before its body is read".
_STREAMED: Final[RequestOptions] = {"headers": {"X-Stainless-Raw-Response": "stream"}}


class Transport:
    """Requests to one server, until they are answered or there is a reason to give up.

    Args:
        url: the server's root, or its OpenAI root (`.../v1`); `user:password@` is sent as basic
            authentication and appears nowhere else.
        api_key: sent as a bearer token; kept out of every message and repr.
        settings: deadlines and limits.
        usage: where requests and retries are counted; a new one if None.

    Raises:
        InputError: `url` is not an http or https URL.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: SecretStr | None = None,
        settings: TransportSettings | None = None,
        usage: Usage | None = None,
    ) -> None:
        root, credentials = _root_of(url)
        self.url: Final = root
        self.settings: Final = settings or TransportSettings()
        self.usage: Final = usage if usage is not None else Usage()
        key = api_key.get_secret_value() if api_key else ""
        self._secrets = _spellings(key, *(credentials or ()))
        self._limiter = anyio.CapacityLimiter(self.settings.max_in_flight)
        # A proxy from the environment must not stand between us and our own machine.
        local = urlsplit(root).hostname in ("localhost", "127.0.0.1", "::1")
        timeout = httpx2.Timeout(None, connect=self.settings.connect_timeout_s)
        self._client = AsyncOpenAI(
            base_url=root,
            api_key=key or "none",
            max_retries=0,
            timeout=timeout,
            http_client=DefaultAioHttpClient(
                timeout=timeout,
                follow_redirects=False,
                trust_env=not local,
                auth=httpx2.BasicAuth(*credentials) if credentials else None,
            ),
        )
        # Read from OPENAI_ORG_ID and OPENAI_PROJECT_ID by the SDK: no business of this server's.
        self._client.organization = None
        self._client.project = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def told(self, words: str) -> str:
        """What the server said, fit for a message: clipped, and without our secrets."""
        return clipped(words, secrets=self._secrets)

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
    ) -> T:
        """`parse` of the body that `path` answers with to `body`.

        Args:
            path: from the server's root, e.g. "/v1/completions".
            body: sent as JSON; a function is called ahead of every attempt, and what it raises is
                part of the attempt.
            parse: what it raises is retried too, where it is `retryable`.
            scoring: counts in `Usage.requests`.
            attempts: at most this many; None takes `RetryPolicy.attempts`.

        Raises:
            EndpointError: as the tree in `icm_client.errors` says; a retryable one is raised once
                `RetryPolicy` is exhausted, with the number of attempts in its message.
            ScoreError: from `parse`.
        """
        return await self._retried(path, body, parse, scoring=scoring, attempts=attempts)

    async def _retried(
        self,
        path: str,
        body: Body | Callable[[], Awaitable[Body]] | None,
        parse: Callable[[bytes], T],
        *,
        scoring: bool,
        attempts: int | None,
    ) -> T:
        policy = self.settings.retry
        attempts = attempts if attempts is not None else policy.attempts
        made = bad = 0

        def may_heal(error: BaseException) -> bool:
            nonlocal bad
            bad += isinstance(error, MalformedAnswer | ScoreNotFinite)
            return isinstance(error, IcmError) and error.retryable and bad < policy.bad_answers

        retrying = AsyncRetrying(
            retry=retry_if_exception(may_heal),
            stop=stop_any(stop_after_attempt(attempts), stop_before_delay(policy.item_timeout_s)),
            wait=self._wait_s,
            reraise=True,
        )

        async def attempt() -> T:
            nonlocal made
            made += 1
            self.usage.retries += made > 1
            sent = await body() if callable(body) else body
            async with self._limiter:
                self.usage.requests += scoring
                return self._parsed(parse, await self._body_of(path, sent))

        try:
            return await retrying(attempt)
        except IcmError as error:
            if made > 1:
                error.args = (f"{error} (gave up after {made} attempts)",)
            raise

    def _parsed(self, parse: Callable[[bytes], T], raw: bytes) -> T:
        """`parse` of what the server sent, untouched: a key like "token" may be a word of it."""
        try:
            return parse(raw)
        except MalformedAnswer as error:
            reason = self.told(str(error))
        begins = self.told(raw.decode("utf-8", "replace"))
        raise MalformedAnswer(f"{reason}; the answer begins with {begins!r}")

    def _wait_s(self, state: RetryCallState) -> float:
        policy = self.settings.retry
        drawn = wait_random_exponential(
            multiplier=policy.initial_wait_s, max=policy.maximum_wait_s
        )(state)
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, EndpointOverloaded) else None
        return max(drawn, min(asked or 0.0, policy.retry_after_cap_s))

    async def _body_of(self, path: str, body: Body | None) -> bytes:
        """The body of one attempt's answer, whole and within the deadline."""
        asked = f"{'GET' if body is None else 'POST'} {self.url}{path}"
        deadline_s = self.settings.retry.attempt_timeout_s
        # Errors are made inside and raised outside of the handlers: the SDK's hold the request,
        # whose headers hold the key, and a logger that walks the chain would write it down.
        try:
            with anyio.fail_after(deadline_s):
                return await self._exchanged(path, body)
        except TimeoutError:
            failure: IcmError = EndpointTimeout(f"{asked}: no complete answer in {deadline_s:g} s")
        except APIStatusError as error:
            failure = error_of_status(
                error.status_code,
                error.response.headers,
                error.response.content,
                asked=asked,
                secrets=self._secrets,
            )
        except aiohttp.ClientResponseError as error:
            failure = MalformedAnswer(f"{asked}: not HTTP: {self._words_of(error)}")
        # The SDK's APITimeoutError is one of these: its aiohttp bridge calls a connection that
        # the server closed a "connect time-out".
        except (APIConnectionError, httpx2.TransportError, aiohttp.ClientError, OSError) as error:
            failure = EndpointUnreachable(f"{asked}: {self._words_of(_root_cause(error))}")
        except (httpx2.DecodingError, httpx2.TooManyRedirects) as error:
            failure = MalformedAnswer(f"{asked}: {self._words_of(error)}")
        except _BodyTooLong:
            limit = self.settings.max_body_bytes
            failure = MalformedAnswer(f"{asked}: the answer is longer than {limit:,} bytes")
        raise failure

    async def _exchanged(self, path: str, body: Body | None) -> bytes:
        if body is None:
            response = await self._client.get(path, cast_to=httpx2.Response, options=_STREAMED)
        else:
            response = await self._client.post(
                path, body=body, cast_to=httpx2.Response, options=_STREAMED
            )
        try:
            chunks = bytearray()
            async for chunk in response.aiter_bytes():
                chunks += chunk
                if len(chunks) > self.settings.max_body_bytes:
                    raise _BodyTooLong
            return bytes(chunks)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    def _words_of(self, error: BaseException) -> str:
        return self.told(f"{type(error).__name__} {error}")


class _BodyTooLong(Exception):
    pass


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _spellings(key: str, user: str = "", password: str = "") -> list[str]:
    """What must not be shown, as a server may echo it; the longest first.

    A user name may itself be a key (`http://sk-abc@host`).
    """
    basic = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    plain = [secret for secret in (key, user, password, basic) if secret]
    in_json = [json.dumps(secret)[1:-1] for secret in plain]
    return sorted({*plain, *in_json}, key=len, reverse=True)


def _root_of(url: str) -> tuple[str, tuple[str, str] | None]:
    """The server's root without a trailing slash or /v1, and the credentials that stood in it."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"{clipped(url)!r} is not a server's URL; it looks like http://localhost:8000"
        )
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    place = parts.netloc.rpartition("@")[2]
    credentials = (
        (unquote(parts.username or ""), unquote(parts.password or ""))
        if parts.username or parts.password
        else None
    )
    return urlunsplit((parts.scheme, place, path, "", "")), credentials
