"""One attempt: a request over HTTP, and its whole answer or a typed error.

No secret leaves this file: neither key nor password stands in an error.

Requests go over aiohttp, which the openai SDK puts below httpx2, or over httpx2's own connections:
three times the CPU a request, but under trio too, and through proxies that aiohttp does not know.

Of the openai SDK only the HTTP client is used. Its typed methods validate every token id of a
prompt and are 15 times slower (25 against 0.8 ms of CPU for a request of 2,000 ids). Its retries
give up at once on a long Retry-After and do not see malformed answers. Read time-outs are off: a
server that sends a byte now and then resets them.
"""

import base64
import json
import os
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx2
from pydantic import SecretStr

from icm_client.endpoints.http_errors import error_of_status
from icm_client.endpoints.parsing import clipped
from icm_client.endpoints.settings import NO_HEADERS, TransportSettings
from icm_client.errors import (
    EndpointTimeout,
    EndpointUnreachable,
    EndpointUntrusted,
    IcmError,
    InputError,
    MalformedAnswer,
)

HAS_AIOHTTP: Final = find_spec("aiohttp") is not None

_FAILURES: tuple[type[Exception], ...] = (httpx2.TransportError, OSError)

if TYPE_CHECKING or HAS_AIOHTTP:
    import aiohttp

    _FAILURES = (*_FAILURES, aiohttp.ClientError)

ERROR_BODY_BYTES: Final = 64 * 1024
"""So much is read of an answer whose status is an error; no message holds more."""

_HANDSHAKE_S: Final = 1.5
"""After so many seconds of a TLS handshake, the port is asked whether it speaks TLS at all."""


class Exchange:
    """Requests to one server, each sent once. Arguments and errors as for `Transport`.

    Attributes:
        url: the server's root, without credentials.
    """

    def __init__(self, url: str, *, api_key: SecretStr | None, settings: TransportSettings) -> None:
        self.url, credentials = _root_of(url)
        self._max_body_bytes = settings.max_body_bytes
        self._answered = False  # until it has, the URL itself is in doubt
        key = _header_value(api_key)
        self._secrets = _spellings(key, *(credentials or ()))
        # A proxy from the environment must not stand between us and our own machine.
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        proxy = None if local else _proxy_of(self.url)
        self._proxy = None if proxy is None else proxy.words
        self._client = _client_of(
            settings,
            proxy,
            base_url=self.url,
            headers={
                "Accept": "application/json",
                "Content-Type": "application/json",
                "User-Agent": "icm-client",
                "Authorization": f"Bearer {key or 'none'}",
            },
            timeout=httpx2.Timeout(None, connect=settings.connect_timeout_s),
            follow_redirects=False,
            verify=_authorities(),
            auth=httpx2.BasicAuth(*credentials) if credentials else None,
            # The in-flight limit decides how many connections there are.
            limits=httpx2.Limits(max_connections=None),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def redacted(self, words: str) -> str:
        """What the server said, fit for a message: clipped, and without our secrets."""
        return clipped(words, secrets=self._secrets)

    async def body_of(
        self,
        path: str,
        body: bytes | None,
        *,
        deadline_s: float,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> bytes:
        """The body of the answer to `body` (None: GET), whole and within `deadline_s`.

        Raises:
            EndpointError: any but those that only the content of an answer shows.
            InputError: the port speaks http where the URL has https, or the other way round.
            ScoreNotFinite: a 400 that says so.
        """
        asked = self._asked(path, body)
        # Errors are made inside the handlers and raised outside: httpx2's errors hold the request,
        # whose headers hold the key, and a logger that walks the chain would write it down.
        try:
            with anyio.fail_after(deadline_s):
                if self._answered or not self.url.startswith("https:"):
                    return await self._exchanged(path, body, headers)
                return await self._first_over_tls(path, body, headers)
        except TimeoutError:
            failure: IcmError = EndpointTimeout(
                f"{asked}: no complete answer in {deadline_s:.3g} s"
            )
        # A time-out is one of these: the SDK's aiohttp bridge calls a connection that the server
        # closed a "connect time-out".
        except _FAILURES as error:
            failure = self._unreachable(asked, _causes(error))
        except (httpx2.DecodingError, httpx2.TooManyRedirects) as error:
            failure = MalformedAnswer(f"{asked}: {self._words_of(error)}")
        if (
            not self._answered
            and isinstance(failure, EndpointUnreachable | MalformedAnswer)
            and await self._has_wrong_scheme()
        ):
            failure = self._wrong_scheme()
        raise failure

    async def _first_over_tls(
        self, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> bytes:
        """As `_exchanged`, but a server without TLS cannot keep the handshake waiting for ever."""
        raw = b""
        failure: Exception | None = None

        async def look() -> None:
            nonlocal failure
            await anyio.sleep(_HANDSHAKE_S)
            if await self._has_wrong_scheme():
                failure = self._wrong_scheme()
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            try:
                raw = await self._exchanged(path, body, headers)
            except Exception as error:  # noqa: BLE001 - raised below, where no group wraps it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return raw

    async def _has_wrong_scheme(self) -> bool:
        """Whether the port speaks http and the URL has https, or the other way round."""
        parts = urlsplit(self.url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        if await _speaks_tls(host, port):
            return not secure
        return secure and await _speaks_http(host, port)

    def _wrong_scheme(self) -> InputError:
        given, spoken = ("https", "http") if self.url.startswith("https:") else ("http", "https")
        right = self.url.replace(given, spoken, 1)
        return InputError(f"{self.url}: this port speaks {spoken}, not {given}; give {right}")

    async def _exchanged(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        method, limit = "GET" if body is None else "POST", self._max_body_bytes
        request = self._client.build_request(method, path, content=body, headers=headers)
        response = await self._client.send(request, stream=True)
        self._answered = True
        whole = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                whole += chunk
                if not response.is_success and len(whole) >= ERROR_BODY_BYTES:
                    break
                if len(whole) > limit:
                    raise MalformedAnswer(
                        f"{self._asked(path, body)}: the answer is longer than {limit:,} bytes"
                    )
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
        if response.is_success:
            return bytes(whole)
        raise error_of_status(
            response.status_code,
            response.headers,
            bytes(whole),
            asked=self._asked(path, body),
            secrets=self._secrets,
        )

    def _asked(self, path: str, body: bytes | None) -> str:
        return f"{'GET' if body is None else 'POST'} {self.url}{path}"

    def _unreachable(self, asked: str, causes: Sequence[BaseException]) -> IcmError:
        cause = causes[-1]
        words = self._words_of(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return EndpointUntrusted(f"{asked}: {words} ({_certificate_advice(cause)})")
        through = f"by way of the proxy {self._proxy}, " if self._proxy else ""
        if (refused := _refused_by_proxy(causes)) is not None:
            status, why = refused
            if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                return error_of_status(status, {}, b"", asked=asked)
            words = f"the proxy refuses to connect ({status} {self.redacted(why)})"
        elif _is_not_http(causes):
            return MalformedAnswer(
                f"{asked}: what listens there does not speak HTTP; look at the port ({words})"
            )
        elif isinstance(cause, socket.gaierror):
            words = f"no host has that name ({words})"
        elif isinstance(cause, ConnectionRefusedError):
            words = f"nothing listens there ({words})"
        elif isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            words = f"what listens there does not speak TLS; look at the port ({words})"
        return EndpointUnreachable(f"{asked}: {through}{words}")

    def _words_of(self, error: BaseException) -> str:
        return self.redacted(f"{type(error).__name__} {error}")


def _authorities() -> ssl.SSLContext:
    """The trusted authorities: those of SSL_CERT_FILE, or the usual ones."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if type(error) is not ssl.SSLError else "no certificate in it"
    path = os.environ.get("SSL_CERT_FILE")
    raise InputError(
        f"SSL_CERT_FILE={path}: {reason}; it names a PEM file with the authorities to trust: mend "
        "it, or unset it"
    )


_NOT_FOR_THE_HOST: Final = (62, 64)
_NOT_IN_TIME: Final = (9, 10)
"""OpenSSL's X509_V_ERR_*: HOSTNAME_MISMATCH and IP_ADDRESS_MISMATCH; CERT_NOT_YET_VALID and
CERT_HAS_EXPIRED. Source: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/"""


def _certificate_advice(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _NOT_FOR_THE_HOST:
        return "use the name that the certificate is for in the URL"
    if error.verify_code in _NOT_IN_TIME:
        return "the server's owner must renew it; or this machine's clock is wrong"
    return "a private authority's certificate is trusted with SSL_CERT_FILE=authority.pem"


class _Proxy(NamedTuple):
    """A proxy of the environment: its URL, and what is said of it, without its password."""

    url: str
    words: str


def _proxy_of(url: str) -> _Proxy | None:
    """The proxy from the environment that `url` is reached through."""
    parts = urlsplit(url)
    proxies = getproxies()
    if not proxies or proxy_bypass(parts.netloc):
        return None
    name = parts.scheme if parts.scheme in proxies else "all"
    if (proxy := proxies.get(name)) is None:
        return None
    variable = f"{name.upper()}_PROXY"
    whole = proxy if "://" in proxy else f"http://{proxy}"
    try:
        found = _split(whole)
    except ValueError:
        found = None
    if found is None or not found.hostname or found.scheme not in _PROXY_SCHEMES:
        raise InputError(
            f"{variable} in the environment is not the URL of a proxy, which looks like "
            "http://proxy:3128: mend it, or unset it"
        )
    return _Proxy(whole, f"{found.netloc.rpartition('@')[2]} ({variable})")


_PROXY_SCHEMES: Final = ("http", "https", "socks5", "socks5h")


def _split(url: str) -> SplitResult:
    """`urlsplit`, with the port checked at once. Raises `ValueError`."""
    parts = urlsplit(url)
    _ = parts.port
    return parts


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether a TLS handshake succeeds with any certificate; nothing else is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
        with anyio.move_on_after(_HANDSHAKE_S):
            stream = await anyio.connect_tcp(host, port, ssl_context=context)
            await anyio.aclose_forcefully(stream)
            return True
    return False


async def _speaks_http(host: str, port: int) -> bool:
    """Whether the port answers http without TLS, and does not ask for https."""
    with suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
        with anyio.move_on_after(_HANDSHAKE_S):
            async with await anyio.connect_tcp(host, port) as stream:
                await stream.send(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                answer = await stream.receive()
                return answer.startswith(b"HTTP/") and b"https" not in answer.lower()
    return False


def _causes(error: BaseException) -> list[BaseException]:
    """The error, its cause, and so on to where it began; of several addresses, at the first."""
    found = [error]
    while True:
        last = found[-1]
        cause = last.exceptions[0] if isinstance(last, BaseExceptionGroup) else last.__cause__
        # httpx2's and anyio's say that no connection was made, and not from which error.
        if cause is None and getattr(last, "errno", None) is None:
            context = last.__context__
            said = (OSError, ExceptionGroup, anyio.BrokenResourceError)
            cause = context if isinstance(context, said) else None
        if cause is None or any(cause is one for one in found):
            return found
        found.append(cause)


def _refused_by_proxy(causes: Sequence[BaseException]) -> tuple[int, str] | None:
    """Status and words with which a proxy refused to connect; None where none did."""
    for one in reversed(causes):
        if HAS_AIOHTTP and isinstance(one, aiohttp.ClientHttpProxyError):
            return one.status, one.message
        if isinstance(one, httpx2.ProxyError) and (said := str(one))[:3].isdecimal():
            return int(said[:3]), said[4:]
    return None


def _is_not_http(causes: Sequence[BaseException]) -> bool:
    """Whether what was read is no answer of HTTP."""
    return any(
        (HAS_AIOHTTP and isinstance(one, aiohttp.ClientResponseError))
        or (isinstance(one, httpx2.RemoteProtocolError) and str(one).startswith("illegal"))
        for one in causes
    )


def _client_of(
    settings: TransportSettings, proxy: _Proxy | None, **options: Any
) -> httpx2.AsyncClient:
    """A client over the connections that the settings name, and through that proxy.

    Raises:
        InputError: aiohttp is named, and cannot be taken: it is not installed, this loop is trio's,
            or the proxy is one that it does not know. Or a package is missing for the proxy.
    """
    chosen, why = settings.transport, None
    trio = sys.modules.get("trio")
    if not HAS_AIOHTTP:
        why = "it is not installed (pip install aiohttp)"
    elif trio is not None and trio.lowlevel.in_trio_run():
        why = "it needs an asyncio loop, and this one is trio's"
    elif proxy is not None and proxy.url.startswith("socks"):
        why = f"it knows no SOCKS proxy, and the way leads by {proxy.words}"
    if why is None and chosen != "httpx2":
        from openai import DefaultAioHttpClient  # noqa: PLC0415 - it takes half a second

        # It looks for proxies in the environment by itself. What it says of one that is no URL may
        # hold a password, so the error is raised outside of the handler.
        with suppress(ValueError, httpx2.InvalidURL):
            return DefaultAioHttpClient(**options, trust_env=proxy is not None)
        raise InputError(
            "one of HTTP_PROXY, HTTPS_PROXY and ALL_PROXY in the environment is not the URL of a "
            "proxy, which looks like http://proxy:3128: mend it, or unset it"
        )
    if chosen == "aiohttp":
        raise InputError(f"requests cannot go over aiohttp: {why}; take the transport httpx2")
    http2 = find_spec("h2") is not None
    with suppress(ImportError):
        through = None if proxy is None else proxy.url
        return httpx2.AsyncClient(**options, trust_env=False, proxy=through, http2=http2)
    raise InputError("a SOCKS proxy needs one package more: pip install 'httpx2[socks]'")


def _header_value(api_key: SecretStr | None) -> str:
    """The key, checked: one that HTTP cannot carry would end in an error that shows it."""
    key = api_key.get_secret_value() if api_key else ""
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise InputError(
            "the API key holds spaces around it, line ends or characters other than ASCII, which "
            "no header may; it is not shown here. Look at ICM_API_KEY or the key's file."
        )
    return key


def _spellings(key: str, user: str = "", password: str = "") -> list[str]:
    """The secrets in each form in which a server may echo them, the longest first.

    A user name may itself be a key (`http://sk-abc@host`).
    """
    basic = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    plain = [secret for secret in (key, user, password, basic) if secret]
    in_json = [json.dumps(secret)[1:-1] for secret in plain]
    return sorted({*plain, *in_json}, key=len, reverse=True)


def _root_of(url: str) -> tuple[str, tuple[str, str] | None]:
    """The server's root without a trailing slash or /v1, and the credentials that stood in it."""
    try:
        parts = _split(url.strip())
    except ValueError:  # not a port, a bracket that is not closed
        parts = None
    if "@" in url and (parts is None or "@" not in parts.netloc):
        raise InputError(
            "the server's URL, which is not shown here, seems to hold a password with a character "
            "that must be written otherwise: / is %2F, # is %23, ? is %3F, @ is %40"
        )
    if parts is None:
        raise InputError(
            f"{clipped(url)!r} is not a server's URL: its port must be a number up to 65535; it "
            "looks like http://localhost:8000"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"{clipped(url)!r} is not a server's URL; it looks like http://localhost:8000"
        )
    path = parts.path.rstrip("/")
    for pasted in ("/completions", "/chat", "/models", "/v1"):  # of a route's whole URL
        path = path.removesuffix(pasted).rstrip("/")
    place = parts.netloc.rpartition("@")[2]
    credentials = (
        (unquote(parts.username or ""), unquote(parts.password or ""))
        if parts.username or parts.password
        else None
    )
    return urlunsplit((parts.scheme, place, path, "", "")), credentials
