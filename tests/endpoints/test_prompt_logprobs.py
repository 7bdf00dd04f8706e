"""The label as part of the prompt: OpenAI's echo, and vLLM's prompt log-probs."""

import json
from typing import Any

import pytest
from served_models import OPENAI_MODELS, SETTINGS, ids

from icm_client.endpoints import (
    EchoEndpoint,
    Exactness,
    LabelToken,
    PromptLogProbsEndpoint,
    Read,
    connect,
)
from icm_client.errors import (
    LabelMissing,
    MalformedAnswer,
    PromptTooLong,
    ScoreNotFinite,
    UnsupportedServer,
)


def echoed(tokens: list[str], values: list[float | None]) -> str:
    told = {"tokens": tokens, "token_logprobs": values}
    return json.dumps({"choices": [{"text": "".join(tokens), "logprobs": told}]})


@pytest.fixture
async def echo(server: Any, say: Any) -> Any:
    server.script = [say(OPENAI_MODELS)]
    async with await connect(server.url, settings=SETTINGS, kind="echo") as endpoint:
        assert isinstance(endpoint, EchoEndpoint)
        yield endpoint


async def test_an_echoed_label_is_the_sum_of_its_tokens(server: Any, say: Any, echo: Any) -> None:
    found = await echo.find_label_token(" not good", prompt="Film:", separator="\n")
    number = echo.name_label(found)
    body = echoed(["<bos>", "Film", ":", " not", " good", "\n"], [None, -9, -8, -0.5, -0.25, -3])
    server.script = [say(body)]
    assert await echo.read([Read(ids("Film:"), (number,))]) == [((-0.75,), Exactness.EXACT)]
    sent = server.bodies[-1]
    assert (sent["prompt"], sent["echo"]) == ("Film: not good", True)


@pytest.mark.parametrize(
    "tokens",
    [
        ["Film", ": not", " good", "\n"],  # the label's first token holds the template's end
        ["x"],  # nothing was echoed
        [" good", "\n"],  # only a part
    ],
)
async def test_a_label_that_does_not_end_the_echo_is_no_score(
    server: Any, say: Any, echo: Any, tokens: list[str]
) -> None:
    number = echo.name_label(LabelToken(" not good", ""))
    server.script = [say(echoed(tokens, [-1.0] * len(tokens)))]
    with pytest.raises(LabelMissing, match="does not end the echoed"):
        await echo.read([Read(ids("Film:"), (number,))])


async def test_a_server_that_echoes_nothing_is_said_at_once(
    server: Any, say: Any, echo: Any
) -> None:
    number = echo.name_label(LabelToken(" good", ""))
    server.script = [say('{"choices": [{"text": "x"}]}')]
    with pytest.raises(UnsupportedServer, match="does not take `echo` with `logprobs`"):
        await echo.read([Read(ids("Film:"), (number,))])
    assert server.paths.count("/v1/completions") == 1


@pytest.mark.parametrize("keeps", ["first", "last"])
async def test_an_echo_that_is_cut_is_a_prompt_too_long(
    server: Any, say: Any, echo: Any, keeps: str
) -> None:
    words = ["Film:", *(f" word{number}" for number in range(40)), ":"]
    number = echo.name_label(LabelToken(" good", ""))
    tokens = [*words, " good", "\n"]
    cut = tokens[20:] if keeps == "last" else [*tokens[:20], "\n"]
    for said, error in ((tokens, None), (cut, PromptTooLong)):
        server.script = [say(echoed(said, [-1.0] * len(said)))]
        asking = echo.read([Read(ids("".join(words)), (number,))])
        if error is None:
            assert await asking == [((-1.0,), Exactness.EXACT)]
        else:
            with pytest.raises(error, match="cuts prompts without saying so"):
                await asking


VLLM_MODELS = '{"data": [{"id": "base", "max_model_len": 64, "owned_by": "vllm"}]}'


def in_prompt(index: int, token: int, value: float | None) -> dict[str, Any]:
    """vLLM's `CompletionResponseChoice.prompt_logprobs`: null, then a position for each token."""
    last = {str(token): {"logprob": value, "rank": 3, "decoded_token": "x"}}
    first = {"2": {"logprob": -7.0, "rank": 9, "decoded_token": "y"}}
    return {"index": index, "logprobs": None, "prompt_logprobs": [None, first, last]}


@pytest.fixture
async def prompted(server: Any, say: Any) -> Any:
    server.script = [say(VLLM_MODELS), say('{"version": "0.6.0"}')]
    async with await connect(server.url, settings=SETTINGS, kind="prompt-logprobs") as endpoint:
        assert isinstance(endpoint, PromptLogProbsEndpoint)
        assert endpoint.identity.kind == "prompt-logprobs"
        yield endpoint


async def test_prompt_log_probs_are_those_of_the_last_token(
    server: Any, say: Any, prompted: Any
) -> None:
    choices = [
        in_prompt(3, 9, -4.0),
        in_prompt(0, 7, -1.0),
        in_prompt(1, 9, -2.0),
        in_prompt(2, 7, -3.0),
    ]
    server.script = [say(json.dumps({"choices": choices, "usage": {"prompt_tokens": 12}}))]
    answers = await prompted.read([Read((1, 2), (7, 9)), Read((1, 3), (7, 9))])
    assert [answer.log_probs for answer in answers] == [(-1.0, -2.0), (-3.0, -4.0)]
    sent = server.bodies[-1]
    assert sent["prompt"] == [[1, 2, 7], [1, 2, 9], [1, 3, 7], [1, 3, 9]]
    assert sent["prompt_logprobs"] == 0
    assert "logprob_token_ids" not in sent


@pytest.mark.parametrize(
    ("choice", "error"),
    [
        ({"index": 0, "prompt_logprobs": None}, LabelMissing),
        (in_prompt(0, 8, -1.0), LabelMissing),
        (in_prompt(0, 7, None), ScoreNotFinite),
        (in_prompt(0, 7, -9999.0), ScoreNotFinite),
        (in_prompt(1, 7, -1.0), MalformedAnswer),
    ],
)
async def test_a_prompt_without_its_log_probs_is_no_score(
    server: Any, say: Any, prompted: Any, choice: Any, error: type[Exception]
) -> None:
    server.script = [say(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3}}))]
    with pytest.raises(error):
        await prompted.read([Read((1, 2), (7,))])
