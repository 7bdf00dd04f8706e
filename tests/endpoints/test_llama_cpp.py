"""llama.cpp's answers: labels out of the top, tokens drawn, slots that forget."""

import json
from typing import Any

import anyio
import pytest
from served_models import LLAMA_MODELS, PROPS, READS, SETTINGS

from icm_client.endpoints import (
    LlamaCppEndpoint,
    Transport,
)
from icm_client.errors import (
    IcmError,
    LabelMissing,
    MalformedAnswer,
    PromptTooLong,
    ScoreNotFinite,
)


def llama_answer(entries: Any, **changes: Any) -> str:
    body = {
        "completion_probabilities": [
            {"top_logprobs": [{"id": token, "logprob": value} for token, value in entries]}
        ],
        "timings": {"cache_n": 1, "prompt_n": 1},
        "tokens_evaluated": 2,
        "truncated": False,
    }
    return json.dumps(body | changes)


async def test_llama_asks_for_ten_times_as_many_until_the_token_is_there(
    server: Any, say: Any, llama: LlamaCppEndpoint
) -> None:
    server.script = [
        say(llama_answer([(7, -0.1)])),
        say(llama_answer([(7, -0.1)])),
        say(llama_answer([(9, -9.0), (7, -0.1)])),
    ]
    assert (await llama.read([READS[0]], lane=1))[0].log_probs == (-0.1, -9.0)
    assert [body["n_probs"] for body in server.bodies[-3:]] == [60, 600, 5000]
    assert {body["id_slot"] for body in server.bodies[-3:]} == {1}
    await llama.read([READS[0]])
    assert server.bodies[-1]["n_probs"] == 600


async def test_llama_without_the_token_in_the_whole_vocabulary(
    server: Any, say: Any, llama: LlamaCppEndpoint
) -> None:
    server.script = [say(llama_answer([(7, -0.1)]))]
    with pytest.raises(LabelMissing, match="whole vocabulary"):
        await llama.read([READS[0]])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"truncated": True}, PromptTooLong),
        ({"tokens_evaluated": 1}, PromptTooLong),
        ({"tokens_evaluated": 3}, MalformedAnswer),
        ({"completion_probabilities": []}, MalformedAnswer),
    ],
)
async def test_llama_with_another_prompt_than_ours_is_refused(
    server: Any, say: Any, llama: LlamaCppEndpoint, changes: Any, error: type[IcmError]
) -> None:
    server.script = [say(llama_answer([(7, -0.1), (9, -1.0)], **changes))]
    with pytest.raises(error):
        await llama.read([READS[0]])


async def test_llama_null_log_prob_counts_only_where_it_is_wanted(
    server: Any, say: Any, llama: LlamaCppEndpoint
) -> None:
    server.script = [say(llama_answer([(7, -0.1), (9, -1.0), (8, None)]))]
    assert (await llama.read([READS[0]]))[0].log_probs == (-0.1, -1.0)
    server.script = [say(llama_answer([(7, None), (9, -1.0)]))]
    with pytest.raises(ScoreNotFinite):
        await llama.read([READS[0]])


class DrawsBytes:
    """A llama.cpp whose likeliest token is 5, a byte of a character, or 97, the whole "a"."""

    def __init__(self, say: Any, *, likeliest: int = 5, biased: bool = False) -> None:
        self.say, self.likeliest, self.biased = say, likeliest, biased
        self.biases: list[Any] = []

    async def __call__(self, request: Any) -> Any:
        if request.path == "/tokenize":
            return await self.say('{"tokens": [97]}')(request)
        bias = (await request.json()).get("logit_bias")
        self.biases.append(bias)
        entries = [(self.likeliest, -0.1), (7, -3.0), (9, -4.0)]
        if bias and self.biased:
            entries = [(97, 0.0), (self.likeliest, -999.0), (7, -1003.0), (9, -1004.0)]
        drawn = 97 if bias else self.likeliest
        answer = llama_answer(entries) if drawn == 97 else llama_answer([], **LEFT_OUT)
        return await self.say(answer)(request)


LEFT_OUT: dict[str, Any] = {"completion_probabilities": []}


BIAS = [[97, 1000.0]]


async def test_llama_log_probs_left_out_for_a_byte_are_asked_with_another_token_drawn(
    server: Any, say: Any, llama: LlamaCppEndpoint
) -> None:
    """llama.cpp gives none where its answer ends within a character."""
    server.script = [draws := DrawsBytes(say)]
    for _ in range(2):
        assert (await llama.read([READS[0]]))[0].log_probs == (-3.0, -4.0)
    assert draws.biases == [None, BIAS, BIAS]
    # The bias is not to be seen: what is likeliest is the token that is drawn.
    draws.likeliest = 97
    assert (await llama.read([READS[0]]))[0].log_probs == (-3.0, -4.0)
    assert draws.biases == [None, BIAS, BIAS, BIAS, None]


async def test_llama_log_probs_that_hold_the_bias_are_no_scores(
    server: Any, say: Any, llama: LlamaCppEndpoint
) -> None:
    server.script = [DrawsBytes(say, biased=True)]
    with pytest.raises(MalformedAnswer, match="no log-probs of the next token"):
        await llama.read([READS[0]])


async def test_another_file_behind_the_same_alias_is_another_fingerprint(
    server: Any, say: Any, llama: LlamaCppEndpoint
) -> None:
    server.script = [say(LLAMA_MODELS), say(json.dumps(json.loads(PROPS) | {"model_path": "/b"}))]
    async with await LlamaCppEndpoint.open(Transport(server.url)) as other:
        assert other.identity.fingerprint != llama.identity.fingerprint


async def test_after_a_failure_a_steady_slot_is_told_to_forget(server: Any, say: Any) -> None:
    server.script = [say(LLAMA_MODELS), say(PROPS)]
    transport = Transport(server.url, settings=SETTINGS)
    async with await LlamaCppEndpoint.open(transport, steady=True) as llama:
        good = say(llama_answer([(7, -0.1), (9, -1.0)]))
        server.script = [good]
        await llama.read([READS[0]])
        server.script = [say("", status=500), good]
        server.bodies.clear()
        await llama.read([READS[0]])
        assert [(len(sent["prompt"]), sent["cache_prompt"]) for sent in server.bodies] == [
            (1, True),
            (2, False),
        ]
        with anyio.CancelScope() as scope:
            server.script = [never]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(llama.read, [READS[0]])
                await anyio.sleep(0.1)
                scope.cancel()
        server.script = [good]
        server.bodies.clear()
        await llama.read([READS[0]])
        assert [sent["cache_prompt"] for sent in server.bodies] == [False]


async def never(_: Any) -> Any:
    await anyio.sleep_forever()


ADAPTERS = [{"id": 0, "path": "a.gguf", "scale": 1.0}, {"id": 1, "path": "b.gguf", "scale": 0.0}]


async def test_adapters_of_llama_cpp_and_their_scales_are_in_the_fingerprint(
    server: Any, say: Any, llama: LlamaCppEndpoint
) -> None:
    found = {llama.identity.fingerprint}
    for scale in (1.0, 0.5, 0.0):
        adapters = [ADAPTERS[0] | {"scale": scale}, ADAPTERS[1]]
        server.script = [say(LLAMA_MODELS), say(PROPS), say(json.dumps(adapters))]
        async with await LlamaCppEndpoint.open(Transport(server.url, settings=SETTINGS)) as other:
            found.add(other.identity.fingerprint)
    assert len(found) == 3, "one that is off changes nothing"
