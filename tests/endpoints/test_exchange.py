"""Single exchanges over httpx2's own connections, answered by respx in the place of a server."""

import httpx2
import pytest
import respx
from pydantic import SecretStr

from icm_client.endpoints.exchange import Exchange
from icm_client.endpoints.settings import TransportSettings
from icm_client.errors import (
    AuthenticationRefused,
    EndpointOverloaded,
    EndpointUnreachable,
    IcmError,
    InputError,
    MalformedAnswer,
)

URL = "http://lab.example:8000"
KEY = "sk-canary-2718281828"


async def asked(*, max_body_bytes: int = 1000) -> bytes:
    settings = TransportSettings(transport="httpx2", max_body_bytes=max_body_bytes)
    exchange = Exchange(f"{URL}/v1", api_key=SecretStr(KEY), settings=settings)
    try:
        return await exchange.body_of(
            "/v1/completions", b'{"prompt":[1]}', deadline_s=5, headers={"X-Session-ID": "7"}
        )
    finally:
        await exchange.aclose()


async def test_a_request_is_sent_as_it_is_and_its_answer_comes_whole(
    httpx2_mock: respx.Router,
) -> None:
    route = httpx2_mock.post(f"{URL}/v1/completions").respond(200, content=b'{"choices":[]}')
    assert await asked() == b'{"choices":[]}'
    sent = route.calls.last.request
    assert sent.content == b'{"prompt":[1]}'
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.headers["X-Session-ID"] == "7"
    assert sent.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, f'{{"error": {{"message": "{KEY} is no key"}}}}', AuthenticationRefused),
        (429, "slower", EndpointOverloaded),
        (503, "later", EndpointOverloaded),
    ],
)
async def test_a_status_is_an_error_that_holds_no_key(
    httpx2_mock: respx.Router, status: int, body: str, error: type[IcmError]
) -> None:
    httpx2_mock.post(f"{URL}/v1/completions").respond(status, text=body)
    with pytest.raises(error) as raised:
        await asked()
    assert KEY not in str(raised.value)


async def test_an_answer_over_the_limit_is_refused(httpx2_mock: respx.Router) -> None:
    httpx2_mock.post(f"{URL}/v1/completions").respond(200, content=b"x" * 1001)
    with pytest.raises(MalformedAnswer, match="longer than 1,000 bytes"):
        await asked()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        # What began it is respx's own error here.
        (httpx2.ConnectError("refused"), f"POST {URL}/v1/completions"),
        (httpx2.ReadError("reset"), f"POST {URL}/v1/completions"),
        (httpx2.ProxyError("502 Bad Gateway"), "the proxy refuses to connect (502 Bad Gateway)"),
    ],
)
async def test_a_broken_connection_says_what_broke(
    httpx2_mock: respx.Router, failure: Exception, words: str
) -> None:
    httpx2_mock.post(f"{URL}/v1/completions").mock(side_effect=failure)
    with pytest.raises(EndpointUnreachable) as raised:
        await asked()
    assert words in str(raised.value)


async def test_a_proxy_that_wants_a_password_is_named(httpx2_mock: respx.Router) -> None:
    failure = httpx2.ProxyError("407 Proxy Authentication Required")
    httpx2_mock.post(f"{URL}/v1/completions").mock(side_effect=failure)
    with pytest.raises(AuthenticationRefused):
        await asked()


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(InputError, match="no transport 'requests': aiohttp and httpx2 are"):
        TransportSettings(transport="requests")  # type: ignore[arg-type]
