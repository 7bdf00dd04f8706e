import base64
import re
import traceback
from contextvars import ContextVar
from typing import Any, get_args

import anyio
import pytest
from aiohttp import web
from anyio.abc import ByteStream, SocketAttribute
from pydantic import SecretStr

from icm_client.endpoints.http_errors import error_of_status
from icm_client.endpoints.parsing import Wire, clipped, parsed
from icm_client.endpoints.settings import Connections, RetryPolicy, TransportSettings
from icm_client.endpoints.transport import Transport
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    EndpointFault,
    EndpointOverloaded,
    EndpointTimeout,
    EndpointUnreachable,
    IcmError,
    InputError,
    MalformedAnswer,
    ModelNotFound,
    PromptTooLong,
    RequestRefused,
    Retry,
    ScoreNotFinite,
)

KEY = "sk-canary-3141592653"


class Fine(Wire):
    fine: bool


def fine(body: Any) -> bool:
    return parsed(Fine, body).fine


CONNECTIONS: ContextVar[Connections] = ContextVar("connections")


@pytest.fixture(params=get_args(Connections), autouse=True)
def connections(request: pytest.FixtureRequest) -> Connections:
    CONNECTIONS.set(request.param)
    found: Connections = request.param
    return found


def to(url: str, **retry: Any) -> Transport:
    retry = {"attempts": 3, "initial_wait_s": 0.0, "retry_after_cap_s": 0.0} | retry
    settings = TransportSettings(
        retry=RetryPolicy(**retry), max_body_bytes=100_000, transport=CONNECTIONS.get()
    )
    return Transport(url, api_key=SecretStr(KEY), settings=settings)


async def ask(transport: Transport) -> bool:
    async with transport:
        return await transport.post("/v1/completions", {"prompt": [1]}, fine, scoring=True)


async def reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(100):
        await response.write(b" ")
        await anyio.sleep(0.02)
    return response


async def half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"fine":')
    assert request.transport is not None
    request.transport.abort()
    return response


@pytest.mark.parametrize("status", [429, 503, 500, 502, 504])
async def test_a_burst_of_faults_is_survived_and_counted(
    server: Any, say: Any, status: int
) -> None:
    burst = [say("busy", status=status, headers={"Retry-After": "7"})] * 2
    server.script = [*burst, say('{"fine": true}')]
    transport = to(server.url)
    assert await ask(transport)
    assert (transport.usage.requests, transport.usage.retries) == (3, 2)


@pytest.mark.parametrize("fault", [reset, half])
async def test_a_broken_connection_is_unreachable_not_a_timeout(server: Any, fault: Any) -> None:
    server.script = [fault]
    with pytest.raises(EndpointUnreachable, match="gave up after 3 attempts"):
        await ask(to(server.url))


@pytest.mark.parametrize(
    "body",
    ['{"fine": tr', "<html>proxy</html>", '{"error": {"message": "no"}}', "", "[]", '{"fine": 1}'],
)
async def test_status_200_with_another_body_is_never_an_answer(
    server: Any, say: Any, body: Any
) -> None:
    server.script = [say(body)]
    with pytest.raises(MalformedAnswer, match="attempts"):
        await ask(to(server.url))
    assert len(server.paths) == 3


async def test_a_malformed_answer_heals(server: Any, say: Any) -> None:
    server.script = [say('{"fi'), say('{"fine": true}')]
    assert await ask(to(server.url))


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, '{"error": {"message": "bad key"}}', AuthenticationRefused),
        (403, "no", AuthenticationRefused),
        (404, '{"error": {"message": "The model `x` does not exist"}}', ModelNotFound),
        (404, "Not Found", RequestRefused),
        (400, '{"error": {"type": "exceed_context_size_error", "message": "m"}}', PromptTooLong),
        (400, '{"message": "This model\'s maximum context length is 10"}', PromptTooLong),
        (400, '{"error": {"message": "Out of range float values: nan"}}', ScoreNotFinite),
        (400, '{"error": "what?"}', RequestRefused),
        (408, "", EndpointTimeout),
        (501, '{"error": {"message": "no metrics"}}', RequestRefused),
        (429, '{"error": {"message": "m", "code": "insufficient_quota"}}', AuthenticationRefused),
        (402, '{"error": {"message": "no credits"}}', AuthenticationRefused),
        (429, '{"error": {"message": "m", "type": "requests"}}', EndpointOverloaded),
        (422, '{"detail": [{"loc": 1}]}', RequestRefused),
        (500, "", EndpointFault),
        (599, "null", EndpointFault),
    ],
)
async def test_each_status_has_its_error(
    server: Any, say: Any, status: int, body: Any, error: type[IcmError]
) -> None:
    server.script = [say(body, status=status)]
    with pytest.raises(IcmError) as caught:
        await ask(to(server.url))
    assert type(caught.value) is error
    asked = server.paths.count("/v1/completions")
    assert asked == (3 if error.retry is not Retry.NEVER else 1)


async def test_retry_after_is_kept_on_the_error(server: Any, say: Any) -> None:
    server.script = [say("", status=429, headers={"Retry-After": "300"})]
    with pytest.raises(EndpointOverloaded) as caught:
        await ask(to(server.url))
    assert caught.value.retry_after_s == 300


async def test_the_wait_a_server_asks_for_is_honoured_up_to_the_cap(server: Any, say: Any) -> None:
    server.script = [
        say("", status=503, headers={"Retry-After": "3600"}),
        say('{"fine": true}'),
    ]
    start = anyio.current_time()
    assert await ask(to(server.url, retry_after_cap_s=0.2))
    assert 0.2 <= anyio.current_time() - start < 5


async def test_no_attempt_starts_after_the_items_deadline(server: Any, say: Any) -> None:
    server.script = [say("", status=503, headers={"Retry-After": "50"})]
    start = anyio.current_time()
    with pytest.raises(EndpointOverloaded):
        await ask(to(server.url, retry_after_cap_s=60.0, item_timeout_s=10.0))
    assert anyio.current_time() - start < 5


async def test_the_last_attempt_ends_with_the_items_time(server: Any) -> None:
    server.script = [trickle]
    with anyio.fail_after(10), pytest.raises(EndpointTimeout, match=r"0\.3 s"):
        await ask(to(server.url, attempts=1, item_timeout_s=0.3, attempt_timeout_s=60.0))


async def test_waiting_for_a_turn_costs_an_item_none_of_its_time(server: Any) -> None:
    async def slow(_: Any) -> web.Response:
        await anyio.sleep(0.1)
        return web.Response(body=b'{"fine": true}')

    server.script = [slow]
    retry = RetryPolicy(item_timeout_s=0.5)
    answers: list[bool] = []

    async def one(transport: Transport) -> None:
        answers.append(await transport.post("/x", {}, fine))

    async with (
        Transport(server.url, settings=TransportSettings(retry=retry, max_in_flight=1)) as queued,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(10):
            tasks.start_soon(one, queued)
    assert answers == [True] * 10


async def test_every_wait_is_told_ahead_of_it(server: Any, say: Any) -> None:
    events: list[Any] = []
    server.script = [
        say("\x1b[31mbusy", status=503, headers={"Retry-After": "0.01"}),
        say("", status=500),
        say('{"fine": true}'),
    ]
    retry = RetryPolicy(initial_wait_s=0.001)
    settings = TransportSettings(retry=retry, max_in_flight=1, observe=events.append)
    assert await ask(Transport(server.url, settings=settings))
    assert [(wait.attempt, wait.asked_by_server) for wait in events] == [(1, True), (2, False)]
    assert events[0].seconds == 0.01
    assert "busy" in events[0].reason
    assert events[0].reason.isprintable()


async def test_a_body_that_trickles_for_ever_times_out(server: Any) -> None:
    server.script = [trickle]
    with pytest.raises(EndpointTimeout, match=r"0\.1 s"):
        await ask(to(server.url, attempts=1, attempt_timeout_s=0.1))


async def test_a_refused_connection_is_unreachable(free_tcp_port: int) -> None:
    with pytest.raises(EndpointUnreachable):
        await ask(to(f"http://127.0.0.1:{free_tcp_port}"))


async def test_something_that_is_not_http_is_an_endpoint_error() -> None:
    async def babble(stream: ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django here
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, babble)
            with pytest.raises(EndpointError):
                await ask(to(f"http://127.0.0.1:{port}"))
            tasks.cancel_scope.cancel()


async def test_a_redirect_is_refused_and_says_where_it_points(server: Any, say: Any) -> None:
    elsewhere = "http://u:pw@evil.example/v1"
    server.script = [say("", status=307, headers={"Location": elsewhere})]
    with pytest.raises(RequestRefused, match=r"evil\.example") as caught:
        await ask(to(server.url))
    assert len(server.paths) == 1
    assert "pw@" not in str(caught.value)


async def test_a_body_over_the_limit_is_refused(server: Any, say: Any) -> None:
    server.script = [say(b" " * 200_000)]
    with pytest.raises(MalformedAnswer, match="longer than 100,000 bytes"):
        await ask(to(server.url))


async def test_no_more_than_the_limit_is_in_flight(server: Any) -> None:
    now = most = 0

    async def slow(_: Any) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.02)
        now -= 1
        return web.Response(body=b'{"fine": true}')

    server.script = [slow]
    settings = TransportSettings(max_in_flight=3)
    async with (
        Transport(server.url, settings=settings) as transport,
        anyio.create_task_group() as t,
    ):
        for _ in range(12):
            t.start_soon(transport.post, "/x", {}, fine)
    assert most == 3


@pytest.mark.parametrize("status", [200, 302, 400, 401, 500])
async def test_the_key_is_in_no_exception_even_if_the_server_echoes_it(
    server: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def echo(request: web.Request) -> web.Response:
        words = f"you said {request.headers['Authorization']}"
        return web.Response(text=words, status=status, headers={"Location": "/elsewhere"})

    caplog.set_level("DEBUG")
    server.script = [echo]
    transport = to(server.url)
    with pytest.raises(IcmError) as caught:
        await ask(transport)
    told = "".join(traceback.format_exception(caught.value)) + repr(transport) + caplog.text
    assert KEY not in told


@pytest.mark.parametrize("route", ["/v1/", "/v1/chat/completions", "/v1/completions", "/v1/models"])
async def test_credentials_in_the_url_are_sent_but_never_shown(
    server: Any, caplog: pytest.LogCaptureFixture, route: str
) -> None:
    seen: list[str] = []

    async def remember(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(text=f"{request.headers['Authorization']} pa55word", status=500)

    caplog.set_level("DEBUG")
    server.script = [remember]
    transport = to(server.url.replace("//", "//ann:pa55word@") + route)
    with pytest.raises(EndpointFault) as caught:
        await ask(transport)
    assert seen[0].startswith("Basic ")
    assert "pa55word" not in str(caught.value) + repr(transport) + caplog.text
    assert server.paths[0] == "/v1/completions"


@pytest.mark.parametrize("userinfo", ["sk-abc31415", "ann:pa55word"])
async def test_neither_user_name_nor_basic_token_is_shown(
    server: Any, say: Any, userinfo: str
) -> None:
    user, _, password = userinfo.partition(":")
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    server.script = [say(f"{user} said {token}", status=400)]
    with pytest.raises(RequestRefused) as caught:
        await ask(to(server.url.replace("//", f"//{userinfo}@")))
    assert user not in str(caught.value)
    assert token not in str(caught.value)


@pytest.mark.parametrize("status", [200, 400])
async def test_no_half_of_the_key_survives_the_clipping(server: Any, say: Any, status: int) -> None:
    server.script = [say("x" * 290 + KEY, status=status)]
    with pytest.raises(IcmError) as caught:
        await ask(to(server.url))
    assert KEY[:4] not in str(caught.value)


@pytest.mark.parametrize("key", ["fine", "true", "e"])
async def test_a_key_that_is_a_word_of_the_answer_changes_no_answer(
    server: Any, say: Any, key: str
) -> None:
    server.script = [say('{"fine": true}')]
    assert await ask(Transport(server.url, api_key=SecretStr(key)))


@pytest.mark.parametrize("status", [200, 400])
async def test_half_of_a_surrogate_pair_can_be_told(server: Any, say: Any, status: int) -> None:
    server.script = [say('{"error": {"message": "bad \\ud800"}, "fine": 1}', status=status)]
    with pytest.raises(IcmError) as caught:
        await ask(to(server.url))
    assert str(caught.value).encode()


# Apache 2.4 says what is wrong below the title.
APACHE = """<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">
<html><head>\n<title>400 Bad Request</title>\n</head><body>\n<h1>Bad Request</h1>
<p>Your browser sent a request that this server could not understand.<br />
Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />\n</p></body></html>"""
NGINX = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
)
LITELLM = '{"error": {"message": "%s", "type": "%s", "param": null, "code": "400"}}'
UNKNOWN = "litellm.BadRequestError: There are no healthy deployments for this model"


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (
            (
                401,
                {"WWW-Authenticate": 'Basic realm="models"'},
                NGINX.format("401 Authorization Required"),
            ),
            AuthenticationRefused,
            "a user name and a password, not for a key: put them into the URL",
        ),
        ((401, {}, ""), AuthenticationRefused, "set ICM_API_KEY to the server's key"),
        (
            (401, {"WWW-Authenticate": 'Bearer realm="x"'}, ""),
            AuthenticationRefused,
            "set ICM_API_KEY to the server's key",
        ),
        (
            (401, {"WWW-Authenticate": 'Digest realm="a, b", nonce="n", qop="auth"'}, ""),
            AuthenticationRefused,
            "a login of the kind Digest, which is not known here",
        ),
        (
            (401, {"WWW-Authenticate": "Negotiate"}, ""),
            AuthenticationRefused,
            "a login of the kind Negotiate, which is not known here",
        ),
        (
            (401, {"WWW-Authenticate": 'Negotiate, Basic realm="x"'}, ""),
            AuthenticationRefused,
            "put them into the URL",
        ),
        (
            (403, {}, "<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>"),
            AuthenticationRefused,
            "403 Forbidden: Just a moment... .a web page came instead of an answer: a firewall or",
        ),
        (
            (402, {}, '{"error": {"message": "Insufficient credits"}}'),
            AuthenticationRefused,
            "402 Payment Required: Insufficient credits .the account has no credit left",
        ),
        (
            (524, {}, "<html><head><title>524: A timeout occurred</title></head></html>"),
            EndpointFault,
            r"/v1/completions: 524: A timeout occurred \(gave up",
        ),
        ((407, {}, ""), AuthenticationRefused, "the proxy of HTTP_PROXY or HTTPS_PROXY"),
        (
            (413, {}, NGINX.format("413 Request Entity Too Large")),
            RequestRefused,
            "fewer --demos, or raise its limit, which nginx calls client_max_body_size",
        ),
        ((413, {}, '{"error": "exceed_context_size_error"}'), PromptTooLong, "exceed_context"),
        (
            (400, {}, NGINX.format("400 The plain HTTP request was sent to HTTPS port")),
            InputError,
            "this port speaks https: give the URL with https://",
        ),
        (
            (400, {}, APACHE),
            InputError,
            "this port speaks https: give the URL with https://",
        ),
        (
            (400, {}, "Client sent an HTTP request to an HTTPS server.\n"),
            InputError,
            "this port speaks https: give the URL with https://",
        ),
        (
            (400, {}, LITELLM % ("No connected db.", "no_db_connection")),
            AuthenticationRefused,
            "LiteLLM got no key, or does not know it: set ICM_API_KEY",
        ),
        (
            (401, {}, LITELLM % ("Authentication Error, No api key passed in.", "auth_error")),
            AuthenticationRefused,
            "LiteLLM got no key",
        ),
        ((400, {}, LITELLM % (UNKNOWN, "null")), ModelNotFound, "no healthy deployments"),
        (
            (404, {}, NGINX.format("404 Not Found")),
            RequestRefused,
            r"/v1/completions: 404 Not Found$",
        ),
        (
            (400, {}, LITELLM % ("litellm.APIError: <html><h1>Sorry</h1></html>", "")),
            RequestRefused,
            "Sorry",
        ),
    ],
)
async def test_what_a_proxy_says_is_one_sentence_without_tags(
    server: Any, say: Any, answer: Any, error: type[IcmError], sentence: str
) -> None:
    status, headers, body = answer
    server.script = [say(body, status=status, headers=headers)]
    async with to(server.url) as transport:
        with pytest.raises(error, match=sentence) as caught:
            await transport.post("/v1/completions", {}, fine)
    assert type(caught.value) is error
    if isinstance(caught.value, EndpointError):
        assert caught.value.status == status
    assert f"{server.url}/v1/completions" in str(caught.value)
    assert not re.search(r"<\w", str(caught.value))


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<!DOCTYPE html><html><head><title>Guest\n WiFi</title></head>", "'Guest WiFi'"),
        ("\n<HTML><body><script>var a</script><p>Please <b>log in</b></p>", "'Please log in'"),
        ('<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "'AccessDenied'"),
    ],
)
async def test_a_portals_page_with_200_is_said_to_be_one(
    server: Any, say: Any, page: str, words: str
) -> None:
    server.script = [say(page)]
    async with to(server.url) as transport:
        with pytest.raises(
            MalformedAnswer, match=f"a web page came.*{words}.: this is not"
        ) as caught:
            await transport.get("/v1/models", fine)
    assert f"{server.url}/v1/models" in str(caught.value)
    assert not re.search(r"<\w", str(caught.value))


@pytest.mark.parametrize("key", ["token", "max", "sk-1", "a.b*c"])
def test_a_short_key_is_taken_out_where_it_stands_alone(key: str) -> None:
    told = f'max_tokens, tokenizer, maximum; got key={key}, "{key}" and Bearer {key}'
    shown = clipped(told, secrets=[key])
    assert shown == 'max_tokens, tokenizer, maximum; got key=***, "***" and Bearer ***'


@pytest.mark.parametrize("before", ["Bearer%20", "%3D", "\\n", "\\u0022", "user:", '"', ""])
def test_a_short_key_is_taken_out_behind_an_escape(before: str) -> None:
    assert clipped(f"{before}max%20", secrets=["max"]) == f"{before}***%20"


def test_a_long_key_is_taken_out_wherever_it_stands() -> None:
    assert clipped(f"x{KEY}y_{KEY}", secrets=[KEY]) == "x***y_***"


async def test_an_answer_that_stays_bad_is_asked_for_three_times(server: Any, say: Any) -> None:
    server.script = [say("", status=503), say("", status=503), say("[]")]
    with pytest.raises(MalformedAnswer, match="5 attempts"):
        await ask(to(server.url, attempts=20))


async def test_what_is_asked_first_is_asked_three_times(server: Any, say: Any) -> None:
    server.script = [say("", status=503)]
    async with to(server.url, attempts=20) as transport:
        with pytest.raises(EndpointOverloaded):
            await transport.get("/x", fine)
    assert len(server.paths) == 3


async def test_openai_account_variables_are_not_sent(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-private")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    seen: list[str] = []

    async def remember(request: web.Request) -> web.Response:
        seen.append(str(request.headers))
        return web.Response(body=b'{"fine": true}')

    server.script = [remember]
    async with Transport(server.url) as transport:
        assert await transport.get("/x", fine)
    assert "private" not in seen[0]


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://x", "http://"])
def test_what_is_not_a_url_is_the_users_error(url: str) -> None:
    with pytest.raises(InputError, match="http://localhost:8000"):
        Transport(url)


def test_a_servers_words_are_clipped_and_harmless() -> None:
    words = clipped("a\x1b[31m\nb http://u:p@h/ " + "x" * 1000)
    assert len(words) <= 303
    assert words.isprintable()
    assert "u:p@" not in words
    error = error_of_status(
        400, {}, b'{"error": {"message": "' + b"y" * 5000 + b'"}}', asked="GET x"
    )
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:99999", "http://127.0.0.1:80a", "http://[::1", "https://host:8000:8000"],
)
def test_a_url_whose_port_is_none_is_the_users_error(url: str) -> None:
    with pytest.raises(InputError, match=r"is not a server's URL.* http://localhost:8000"):
        to(url)


@pytest.mark.parametrize("rest", ["/cret@host:1", "#cret@host", "?cret@host:80/v1"])
@pytest.mark.parametrize("beginning", ["canary", "12", ""])
def test_a_password_that_ends_the_url_early_is_refused_unshown(beginning: str, rest: str) -> None:
    """Without a name of its own such a URL would lead to the host `bob`, with half a password."""
    with pytest.raises(InputError, match="/ is %2F") as caught:
        to(f"http://bob:{beginning}{rest}")
    assert "cret" not in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_what_does_not_speak_http_is_said(
    free_tcp_port: int, connections: Connections
) -> None:
    # httpx2 tells only that a connection ended without an answer.
    no_http: tuple[type[EndpointError], str] = (
        (MalformedAnswer, "does not speak HTTP; look at the port")
        if connections == "aiohttp"
        else (EndpointUnreachable, "disconnected without sending a response")
    )

    async def ssh(stream: Any) -> None:
        async with stream:
            await stream.send(b"SSH-2.0-OpenSSH_9.6\r\n")
            await anyio.sleep(0.1)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=free_tcp_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, ssh)
        for scheme, (error, words) in (
            ("http", no_http),
            ("https", (EndpointUnreachable, "does not speak TLS; look at the port")),
        ):
            async with to(f"{scheme}://127.0.0.1:{free_tcp_port}") as transport:
                with pytest.raises(error, match=words):
                    await transport.get("/v1/models", bytes)
        tasks.cancel_scope.cancel()
