"""vLLM's answers, and those that only look like them."""

import json
from typing import Any

import pytest
from served_models import READS, SETTINGS, VLLM_MODELS

from icm_client.endpoints import (
    Read,
    Transport,
    VllmEndpoint,
)
from icm_client.errors import (
    LabelMissing,
    MalformedAnswer,
    PromptTooLong,
    ScoreNotFinite,
)


def choice(index: int, found: Any) -> dict[str, Any]:
    return {"index": index, "text": "x", "logprobs": {"top_logprobs": [found]}}


def completion(*choices: Any, usage: Any = None) -> str:
    return json.dumps({"choices": choices, "usage": usage or {"prompt_tokens": 4}})


GOOD = {"token_id:7": -0.5, "token_id:9": -1.5, "token_id:3": -0.1}


async def test_choices_are_put_back_in_order(server: Any, say: Any, vllm: VllmEndpoint) -> None:
    other = GOOD | {"token_id:7": -2.0}
    server.script = [say(completion(choice(1, other), choice(0, GOOD)))]
    answers = await vllm.read(READS)
    assert [answer.log_probs for answer in answers] == [(-0.5, -1.5), (-2.0, -1.5)]
    sent = server.bodies[-1]
    assert sent["prompt"] == [[1, 2], [1, 3]]
    assert sent["logprob_token_ids"] == [7, 9]
    assert sent["max_tokens"] == 1
    assert "prompt_logprobs" not in sent


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        (None, 0),
        ({"cached_tokens": None}, 0),
        ({"cached_tokens": 0}, 0),
        # vLLM tells it of the last prompt only: three tokens there and in its twin, two in the
        # prompt that shares no more, none in the stranger.
        ({"cached_tokens": 3}, 8),
        # A server that adds them up must not lead to more than what is shared.
        ({"cached_tokens": 99}, 10),
    ],
)
async def test_cached_tokens_are_counted_for_every_prompt(
    server: Any, say: Any, vllm: VllmEndpoint, details: Any, cached: int
) -> None:
    prompts = [(1, 2, 3, 4), (1, 2, 8), (5, 6), (1, 2, 3, 4)]
    usage = {"prompt_tokens": 13, "prompt_tokens_details": details}
    choices = [choice(index, GOOD) for index in range(4)]
    server.script = [say(completion(*choices, usage=usage))]
    await vllm.read([Read(prompt, (7, 9)) for prompt in prompts])
    assert (vllm.usage.computed_tokens, vllm.usage.cached_tokens) == (13 - cached, cached)


async def test_a_prompt_that_leaves_no_room_for_the_answer_is_too_long(
    server: Any, say: Any, vllm: VllmEndpoint
) -> None:
    words = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
    body = json.dumps({"error": {"message": words, "type": "BadRequestError", "code": 400}})
    server.script = [say(body, status=400)]
    with pytest.raises(PromptTooLong):
        await vllm.read(READS)


@pytest.mark.parametrize(
    "choices",
    [[], [choice(0, GOOD)], [choice(0, GOOD), choice(0, GOOD)], [choice(1, GOOD), choice(2, GOOD)]],
)
async def test_a_missing_or_doubled_choice_is_malformed(
    server: Any, say: Any, vllm: VllmEndpoint, choices: Any
) -> None:
    server.script = [say(completion(*choices))]
    with pytest.raises(MalformedAnswer, match="2 prompts"):
        await vllm.read(READS)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "-9999.0", "0.01", "null"])
async def test_what_is_no_log_prob_is_never_a_score(
    server: Any, say: Any, vllm: VllmEndpoint, value: str
) -> None:
    body = completion(choice(0, GOOD), choice(1, GOOD)).replace("-1.5", value)
    server.script = [say(body)]
    with pytest.raises(ScoreNotFinite, match="token 9"):
        await vllm.read(READS)
    assert vllm.usage.retries == 1


async def test_a_score_that_heals_is_taken(server: Any, say: Any, vllm: VllmEndpoint) -> None:
    good = completion(choice(0, GOOD), choice(1, GOOD))
    server.script = [say(good.replace("-1.5", "NaN")), say(good.replace("-1.5", "1e-8"))]
    assert (await vllm.read(READS))[0].log_probs == (-0.5, 0.0)


async def test_a_server_that_ignores_logprob_token_ids_is_told_apart(
    server: Any, say: Any, vllm: VllmEndpoint
) -> None:
    top = {"token_id:7": -0.1}
    server.script = [say(completion(choice(0, top), choice(1, top)))]
    with pytest.raises(LabelMissing, match="logprob_token_ids"):
        await vllm.read(READS)


@pytest.mark.parametrize("logprobs", [None, {"top_logprobs": []}, {"top_logprobs": [None]}])
async def test_null_log_probs_are_malformed(
    server: Any, say: Any, vllm: VllmEndpoint, logprobs: Any
) -> None:
    choices = [{"index": index, "logprobs": logprobs} for index in (0, 1)]
    server.script = [say(completion(*choices))]
    with pytest.raises(MalformedAnswer):
        await vllm.read(READS)


async def test_vllm_tokenizes_and_warms(server: Any, say: Any, vllm: VllmEndpoint) -> None:
    server.script = [say('{"tokens": [2, 5], "count": 2}'), say(completion(choice(0, None)))]
    assert await vllm.tokenize("x", add_special=True) == (2, 5)
    assert server.bodies[-1]["add_special_tokens"] is True
    await vllm.warm((1, 2, 3))
    assert server.bodies[-1]["prompt"] == [[1, 2, 3]]
    assert vllm.usage.requests == 1


async def test_vllm_tokenizes_many_texts_at_once(server: Any, say: Any, vllm: VllmEndpoint) -> None:
    server.script = [say('[{"token_ids": [5], "request_id": "a"}, {"token_ids": [6, 7]}]')]
    assert await vllm.tokenize_many(["x", "yz"]) == [(5,), (6, 7)]
    assert server.bodies[-1]["prompt"] == ["x", "yz"]
    assert server.bodies[-1]["add_special_tokens"] is False


async def test_a_vllm_that_does_not_tokenize_many_is_asked_once(
    server: Any, say: Any, vllm: VllmEndpoint
) -> None:
    server.script = [say('{"error": {"message": "disabled"}}', status=403)]
    asked = len(server.bodies)
    assert await vllm.tokenize_many(["x", "yz"]) is None
    assert await vllm.tokenize_many(["x", "yz"]) is None
    assert len(server.bodies) == asked + 1


async def test_what_prompts_share_is_written_once_and_means_the_same(
    server: Any, say: Any, vllm: VllmEndpoint
) -> None:
    for prompts in ([(1, 2, 3), (1, 2, 4, 5)], [(1, 2), (1, 2, 3)], [(7,)], [(1,), (2, 3)]):
        choices = [choice(n, GOOD) for n in range(len(prompts))]
        sent = {"prompt_tokens": sum(map(len, prompts))}
        server.script = [say(completion(*choices, usage=sent))]
        await vllm.read([Read(prompt, (7, 9)) for prompt in prompts])
        assert server.bodies[-1]["prompt"] == [list(prompt) for prompt in prompts]


async def test_reads_of_one_call_must_want_the_same(vllm: VllmEndpoint) -> None:
    with pytest.raises(ValueError, match="same tokens"):
        await vllm.read([Read((1,), (2,)), Read((1,), (3,))])


async def test_another_version_is_another_fingerprint(
    server: Any, say: Any, vllm: VllmEndpoint
) -> None:
    server.script = [say(VLLM_MODELS), say('{"version": "0.33.0"}')]
    async with Transport(server.url) as transport:
        newer = await VllmEndpoint.open(transport)
    assert newer.identity.fingerprint != vllm.identity.fingerprint


async def test_what_a_vllm_adapter_is_for_is_in_the_fingerprint(server: Any, say: Any) -> None:
    found = set()
    for root in ("org/base", "org/other"):
        base = {"id": "base", "root": root, "max_model_len": 64}
        adapter = {"id": "tuned", "root": "/adapters/1", "parent": "base"}
        models = json.dumps({"data": [base, adapter]})
        server.script = [say(models), say('{"version": "0.32.0"}')]
        transport = Transport(server.url, settings=SETTINGS)
        async with await VllmEndpoint.open(transport, model="tuned") as endpoint:
            found.add(endpoint.identity.fingerprint)
    assert len(found) == 2
