"""Keys stay with the server they are for, and what a server says stays harmless."""

import logging
import os
import ssl
import subprocess
import traceback
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from anyio.abc import ByteStream, SocketAttribute
from planted_run import concept, scores, settings
from pydantic import SecretStr

from icm_client.endpoints import Transport, TransportSettings, VllmEndpoint, exchange
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    EndpointUnreachable,
    EndpointUntrusted,
    IcmError,
    InputError,
    RequestRefused,
)
from icm_client.settings import Environment
from icm_client.testing import (
    PlantedServer,
    answering,
    error_200,
    redirect,
    reset,
    status,
    with_log_prob,
)

KEY = "sk-canary-3141592653"


def everything_told(error: BaseException) -> str:
    """Messages, chains and the variables of every frame but the test's, as some loggers write."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    told = repr(error) + repr(vars(error))
    link: traceback.TracebackException | None = shown
    while link is not None:
        link.stack[:] = [frame for frame in link.stack if frame.filename != __file__]
        told += "".join(link.format(chain=False))
        link = link.__cause__ or link.__context__
    return told


def everything_written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "fault",
    [
        None,
        status(400, '{"error": {"message": "no"}}'),
        status(401),
        status(429, headers={"Retry-After": "1"}),
        status(500),
        redirect("http://elsewhere.example/v1"),
        reset(),
        reset(after_bytes=30),
        answering("<html>"),
        error_200(),
        with_log_prob("NaN"),
    ],
)
async def test_the_key_is_in_nothing_raised_logged_or_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], fault: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Any] = []
    told = ""
    async with PlantedServer(concept(), api_key=KEY, faults=lambda _: fault) as server:
        for url in (server.url, server.url.replace("//", "//ann:pa55word-canary@")):
            transport = Transport(url, api_key=SecretStr(KEY), settings=settings(events.append))
            try:
                async with await VllmEndpoint.open(transport) as endpoint:
                    told += repr(endpoint) + repr(endpoint.identity)
                    await scores(endpoint, tmp_path)
            except IcmError as error:
                told += everything_told(error)
            finally:
                await transport.aclose()
            told += repr(transport) + repr(transport.settings)
        assert told.count("Transport") >= 2
    told += repr(events) + caplog.text + "".join(capfd.readouterr())
    written = everything_written(tmp_path)
    for secret in (KEY, "pa55word-canary"):
        assert secret not in told
        assert secret.encode() not in written


@pytest.mark.parametrize("key", ["sk-\nX-Evil: 1", "sk-clé", " sk-1", "sk-1\r"])
def test_a_key_that_no_header_may_hold_is_refused_unshown(key: str) -> None:
    with pytest.raises(InputError, match="ICM_API_KEY") as caught:
        Transport("http://localhost:1", api_key=SecretStr(key))
    assert "sk-" not in str(caught.value)


async def test_a_key_goes_to_nobody_a_redirect_points_to() -> None:
    async with PlantedServer(concept()) as elsewhere:
        to = f"{elsewhere.url}/v1/completions"
        async with (
            PlantedServer(concept(), faults=lambda _: redirect(to)) as server,
            Transport(server.url, api_key=SecretStr(KEY)) as transport,
        ):
            with pytest.raises(RequestRefused, match="redirects are not followed"):
                await transport.post("/v1/completions", {"prompt": [[1]]}, bytes)
        assert elsewhere.received == []


async def test_the_planted_server_asks_for_its_key() -> None:
    async with PlantedServer(concept(), api_key=KEY) as server:
        for key in (None, SecretStr("wrong")):
            async with Transport(server.url, api_key=key) as transport:
                with pytest.raises(AuthenticationRefused, match="ICM_API_KEY"):
                    await VllmEndpoint.open(transport)


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("ICM_API_KEY", "ICM_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_key_is_read_from_its_file(
    tmp_path: Path, bare_environment: pytest.MonkeyPatch
) -> None:
    bare_environment.setenv("ICM_API_KEY_FILE", str(key_file(tmp_path, f"{KEY}\n")))
    environment = Environment()
    assert environment.api_key is not None
    assert environment.api_key.get_secret_value() == KEY
    assert KEY not in repr(environment)
    bare_environment.setenv("ICM_API_KEY", "another")
    environment = Environment()
    assert environment.api_key is not None
    assert environment.api_key.get_secret_value() == "another"


@pytest.mark.skipif(os.name != "posix", reason="no such bits")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o602, 0o610])
def test_a_key_file_that_others_may_read_is_refused(
    tmp_path: Path, bare_environment: pytest.MonkeyPatch, mode: int
) -> None:
    path = key_file(tmp_path, KEY, mode)
    bare_environment.setenv("ICM_API_KEY_FILE", str(path))
    with pytest.raises(InputError, match=rf"mode {mode:04o}\): run `chmod 600 {path}`") as caught:
        Environment()
    assert KEY not in everything_told(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", f"{KEY}\n{KEY}\n", f"KEY = {KEY}", "x" * 20_000, "é"])
def test_a_key_file_that_holds_no_key_is_refused(
    tmp_path: Path, bare_environment: pytest.MonkeyPatch, text: str
) -> None:
    bare_environment.setenv("ICM_API_KEY_FILE", str(key_file(tmp_path, text)))
    with pytest.raises(InputError, match="must hold one line") as caught:
        Environment()
    assert KEY not in str(caught.value)


def test_a_key_file_that_is_not_there_is_the_users_error(
    tmp_path: Path, bare_environment: pytest.MonkeyPatch
) -> None:
    bare_environment.setenv("ICM_API_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Environment()


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """A server with a certificate that it signed itself; its URL and the certificate."""
    certificate, private = tmp_path / "certificate.pem", tmp_path / "private.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        await anyio.run_process(
            [*command.split(), *names, "-keyout", str(private), "-out", str(certificate)]
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private)

    async def answer(request: web.Request) -> web.Response:
        await anyio.sleep(0.5 if request.path == "/slow" else 0)
        return web.Response(text="reached")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}", certificate
    await runner.cleanup()


async def test_an_unknown_certificate_is_refused_at_once(tls: tuple[str, Path]) -> None:
    url, _ = tls
    async with Transport(url, api_key=SecretStr(KEY), settings=settings()) as transport:
        with pytest.raises(EndpointUntrusted, match="SSL_CERT_FILE") as caught:
            await transport.post("/v1/completions", {}, bytes)
        assert transport.usage.retries == 0
    assert KEY not in everything_told(caught.value)


async def test_a_certificate_for_another_name_is_said(
    tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = tls
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with Transport(url.replace("localhost", "127.0.0.1"), settings=settings()) as transport:
        with pytest.raises(EndpointUntrusted, match="use the name that the certificate is for"):
            await transport.get("/x", bytes)


async def test_a_certificate_that_the_user_trusts_is_taken(
    tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = tls
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with Transport(url, settings=settings()) as transport:
        assert await transport.get("/x", bytes) == b"reached"


@pytest.mark.parametrize(("text", "reason"), [(None, "No such file"), ("none", "no certificate")])
def test_a_file_of_authorities_that_is_none_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, reason: str
) -> None:
    path = tmp_path / "authority.pem"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(InputError, match=rf"SSL_CERT_FILE={path}: {reason}.*unset it"):
        Transport("https://localhost:1", settings=settings())


async def waits_for_a_line(stream: ByteStream) -> None:
    """A server of http that takes a TLS hello for the beginning of a request."""
    async with stream:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                received += await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def test_https_to_an_http_port_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_HANDSHAKE_S", 0.2)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    mute = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django here
    async with listener, anyio.create_task_group() as tasks, PlantedServer(concept()) as server:
        tasks.start_soon(listener.serve, waits_for_a_line)
        for port in (mute, server.url.rpartition(":")[2]):
            url = f"https://127.0.0.1:{port}"
            with anyio.fail_after(5):
                async with Transport(url, api_key=SecretStr(KEY)) as transport:
                    right = f"{url}: this port speaks http, not https; give http://127.0.0.1:{port}"
                    with pytest.raises(InputError, match=right):
                        await transport.get("/v1/models", bytes)
        assert KEY not in repr(server.received)
        tasks.cancel_scope.cancel()


async def test_http_to_an_https_port_is_said_at_once(tls: tuple[str, Path]) -> None:
    url = tls[0].replace("https:", "http:")
    async with Transport(url, settings=settings()) as transport:
        with pytest.raises(InputError, match=f"this port speaks https, not http; give {tls[0]}"):
            await transport.get("/v1/models", bytes)


async def test_a_slow_server_with_tls_is_waited_for(
    tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = tls
    monkeypatch.setattr(exchange, "_HANDSHAKE_S", 0.1)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with Transport(url, settings=settings()) as transport:
        assert await transport.get("/slow", bytes) == b"reached"


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
    """A proxy that answers everything itself, and what it was asked for."""
    asked: list[tuple[str, str]] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        asked.append((str(request.url), request.headers.get("Proxy-Authorization", "")))
        return web.Response(text="proxied")

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.filterwarnings("ignore::DeprecationWarning:openai")
async def test_the_proxy_of_the_environment_is_used_and_its_password_kept(
    proxy: tuple[str, list[tuple[str, str]]],
    no_proxies: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place, asked = proxy
    caplog.set_level(logging.DEBUG)
    no_proxies.setenv("HTTP_PROXY", f"http://bob:pr0xy-canary@{place}")
    async with Transport("http://model.example", settings=settings()) as transport:
        assert await transport.get("/x", bytes) == b"proxied"
        told = repr(transport)
    assert [url for url, _ in asked] == ["http://model.example/x"]
    assert asked[0][1].startswith("Basic ")
    assert "pr0xy-canary" not in told + caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning:openai")
async def test_a_proxy_that_is_down_is_told_without_its_password(
    no_proxies: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    no_proxies.setenv("HTTP_PROXY", f"http://bob:pr0xy-canary@127.0.0.1:{free_tcp_port}")
    async with Transport("http://model.example", settings=settings()) as transport:
        with pytest.raises(EndpointUnreachable) as caught:
            await transport.get("/x", bytes)
    assert "pr0xy-canary" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:openai")
async def test_a_proxy_that_fails_is_named(
    no_proxies: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    place = f"127.0.0.1:{free_tcp_port}"
    no_proxies.setenv("ALL_PROXY", f"http://bob:pr0xy-canary@{place}")
    async with Transport("http://model.example", settings=settings()) as transport:
        with pytest.raises(EndpointUnreachable, match=rf"proxy {place} \(ALL_PROXY\), nothing"):
            await transport.get("/x", bytes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:openai")
@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (407, AuthenticationRefused, "asks for a user name and a password"),
        (403, EndpointUnreachable, r"the proxy refuses to connect \(403 Forbidden\)"),
    ],
)
async def test_a_proxy_that_opens_no_tunnel_is_said(
    no_proxies: pytest.MonkeyPatch, status: int, error: type[EndpointError], sentence: str
) -> None:
    async def refuse(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status)

    runner = web.ServerRunner(web.Server(refuse))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    no_proxies.setenv("HTTPS_PROXY", f"http://127.0.0.1:{runner.addresses[0][1]}")
    async with Transport("https://model.example", settings=settings()) as transport:
        with pytest.raises(error, match=sentence) as caught:
            await transport.get("/x", bytes)
    assert type(caught.value) is error
    await runner.cleanup()


@pytest.mark.parametrize("proxy", ["http://[::1", "ftp://x:1", "http://bob:canary@host:port"])
def test_a_proxy_that_is_no_url_is_the_users_error(
    no_proxies: pytest.MonkeyPatch, proxy: str
) -> None:
    no_proxies.setenv("HTTP_PROXY", proxy)
    with pytest.raises(InputError, match="HTTP_PROXY in the environment") as caught:
        Transport("http://model.example", settings=settings())
    assert "canary" not in str(caught.value)


def test_a_proxy_of_another_scheme_that_is_no_url_gives_no_password_away(
    no_proxies: pytest.MonkeyPatch,
) -> None:
    no_proxies.setenv("HTTP_PROXY", "http://proxy.example:3128")
    no_proxies.setenv("HTTPS_PROXY", "http://user:canary/x@proxy.example:1")
    with pytest.raises(InputError, match="is not the URL of a proxy") as caught:
        Transport("http://model.example", settings=settings())
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_socks_proxy_needs_connections_that_know_it(no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("ALL_PROXY", "socks5://bob:canary@proxy.example:1080")
    with pytest.raises(InputError, match=r"pip install 'httpx2\[socks\]'"):
        Transport("http://model.example")  # aiohttp, the default, would speak HTTP to it
    named = TransportSettings(transport="aiohttp")
    with pytest.raises(InputError, match=r"no SOCKS proxy, and the way leads by proxy\.ex") as told:
        Transport("http://model.example", settings=named)
    assert "canary" not in str(told.value)
    no_proxies.setenv("NO_PROXY", "model.example")
    Transport("http://model.example", settings=TransportSettings(transport="httpx2"))


async def test_no_proxy_stands_between_us_and_our_own_machine(
    proxy: tuple[str, list[tuple[str, str]]], no_proxies: pytest.MonkeyPatch
) -> None:
    place, asked = proxy
    no_proxies.setenv("HTTP_PROXY", f"http://{place}")
    async with (
        PlantedServer(concept()) as server,
        await VllmEndpoint.open(Transport(server.url)) as endpoint,
    ):
        assert await endpoint.tokenize("a b", add_special=False)
    assert asked == []
