"""SGLang's answers have the shape that `logprob_ops.absorb_recv` of its tokenizer manager gives:
`meta_info.output_token_ids_logprobs[position] = [[log-prob, id, text or null], ...]`."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from icm_client.endpoints import (
    Exactness,
    Read,
    RetryPolicy,
    SglangEndpoint,
    Transport,
    TransportSettings,
)
from icm_client.errors import (
    LabelMissing,
    MalformedAnswer,
    PromptTooLong,
    ScoreNotFinite,
    UnsupportedServer,
)

SETTINGS = TransportSettings(retry=RetryPolicy(attempts=2, initial_wait_s=0.0))
READS = [Read((1, 2), (7, 9)), Read((1, 3), (7, 9))]
CARD = {"id": "base", "root": "org/base", "owned_by": "sglang", "max_model_len": 64}
MODELS = json.dumps({"object": "list", "data": [CARD]})
WEIGHTS = json.dumps({"model_path": "org/base", "is_generation": True, "weight_version": "1"})
SERVER = json.dumps({"version": "0.5.6", "max_total_num_tokens": 10})


def generation(pairs: Any, *, prompt_tokens: int = 2, cached: int = 1) -> dict[str, Any]:
    return {
        "text": "x",
        "output_ids": [7],
        "meta_info": {
            "id": "r",
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 1,
            "cached_tokens": cached,
            "output_token_logprobs": [[-0.5, 7, None]],
            "output_token_ids_logprobs": [
                None if pairs is None else [[value, token, None] for token, value in pairs]
            ],
        },
    }


GOOD = [(7, -0.5), (9, -1.5)]


@pytest.fixture
async def sglang(server: Any, say: Any) -> AsyncIterator[SglangEndpoint]:
    server.script = [say(MODELS), say(WEIGHTS), say(SERVER)]
    async with await SglangEndpoint.open(Transport(server.url, settings=SETTINGS)) as endpoint:
        yield endpoint


async def test_labels_are_read_by_id_and_not_by_place(
    server: Any, say: Any, sglang: SglangEndpoint
) -> None:
    other = [(9, -2.5), (7, -2.0)]
    server.script = [say(json.dumps([generation(GOOD), generation(other)]))]
    answers = await sglang.read(READS)
    assert [answer.log_probs for answer in answers] == [(-0.5, -1.5), (-2.0, -2.5)]
    assert {answer.exactness for answer in answers} == {Exactness.EXACT}
    sent = server.bodies[-1]
    assert sent["input_ids"] == [[1, 2], [1, 3]]
    assert sent["token_ids_logprob"] == [[7, 9], [7, 9]]
    assert (sent["return_logprob"], sent["logprob_start_len"]) == (True, -1)
    assert sent["sampling_params"]["max_new_tokens"] == 1
    assert (sglang.usage.computed_tokens, sglang.usage.cached_tokens) == (2, 2)


async def test_a_label_that_is_not_there_is_no_zero(
    server: Any, say: Any, sglang: SglangEndpoint
) -> None:
    server.script = [say(json.dumps([generation(GOOD), generation([(7, -0.5)])]))]
    with pytest.raises(LabelMissing, match=r"tokens \[9\]"):
        await sglang.read(READS)


@pytest.mark.parametrize("pairs", [None, []])
async def test_a_server_that_ignores_the_ids_is_told_apart(
    server: Any, say: Any, sglang: SglangEndpoint, pairs: Any
) -> None:
    server.script = [say(json.dumps([generation(pairs), generation(pairs)]))]
    with pytest.raises(LabelMissing, match="ignored `token_ids_logprob`"):
        await sglang.read(READS)


@pytest.mark.parametrize("value", [None, float("nan"), float("-inf"), -3.4e38, 0.1])
async def test_what_is_no_log_prob_is_never_a_score(
    server: Any, say: Any, sglang: SglangEndpoint, value: Any
) -> None:
    server.script = [say(json.dumps([generation(GOOD), generation([(7, -0.5), (9, value)])]))]
    with pytest.raises(ScoreNotFinite, match="token 9"):
        await sglang.read(READS)


@pytest.mark.parametrize(
    "answers",
    [[generation(GOOD)], [generation(GOOD), generation(GOOD, prompt_tokens=9)], {"error": "x"}],
)
async def test_too_few_answers_and_longer_prompts_are_malformed(
    server: Any, say: Any, sglang: SglangEndpoint, answers: Any
) -> None:
    server.script = [say(json.dumps(answers))]
    with pytest.raises(MalformedAnswer):
        await sglang.read(READS)


async def test_a_prompt_that_is_cut_is_too_long(
    server: Any, say: Any, sglang: SglangEndpoint
) -> None:
    """As with --allow-auto-truncate."""
    server.script = [say(json.dumps([generation(GOOD), generation(GOOD, prompt_tokens=1)]))]
    with pytest.raises(PromptTooLong, match="1 of 2 tokens") as caught:
        await sglang.read(READS)
    assert caught.value.cut


async def test_reads_of_one_call_must_want_the_same(sglang: SglangEndpoint) -> None:
    with pytest.raises(ValueError, match="same tokens"):
        await sglang.read([Read((1,), (2,)), Read((1,), (3,))])


async def test_sglang_tokenizes_and_warms(server: Any, say: Any, sglang: SglangEndpoint) -> None:
    server.script = [say('{"tokens": [2, 5], "count": 2, "max_model_len": 64}')]
    assert await sglang.tokenize("x", add_special=False) == (2, 5)
    assert server.paths[-1] == "/v1/tokenize"
    assert server.bodies[-1]["add_special_tokens"] is False
    server.script = [say(json.dumps([generation(None, prompt_tokens=3, cached=0)]))]
    await sglang.warm((1, 2, 3))
    assert server.bodies[-1]["input_ids"] == [[1, 2, 3]]
    assert "return_logprob" not in server.bodies[-1]


async def test_an_adapter_is_named_in_every_request(server: Any, say: Any) -> None:
    lora = {"id": "lora", "parent": "base", "owned_by": "sglang", "max_model_len": None}
    server.script = [say(json.dumps({"data": [CARD, lora]})), say(WEIGHTS), say(SERVER)]
    transport = Transport(server.url, settings=SETTINGS)
    async with await SglangEndpoint.open(transport, model="lora") as endpoint:
        assert endpoint.identity.context_length == 64
        server.script = [say(json.dumps([generation(GOOD), generation(GOOD)]))]
        await endpoint.read(READS)
        assert server.bodies[-1]["lora_path"] == ["lora", "lora"]


async def test_other_weights_are_another_fingerprint_and_old_routes_still_tell(
    server: Any, say: Any, sglang: SglangEndpoint
) -> None:
    newer = json.dumps(json.loads(WEIGHTS) | {"weight_version": "2"})
    server.script = [say(MODELS), say("", status=404), say(newer), say(SERVER)]
    server.paths.clear()
    async with await SglangEndpoint.open(Transport(server.url, settings=SETTINGS)) as other:
        assert server.paths[1:3] == ["/model_info", "/get_model_info"]
        assert other.identity.fingerprint != sglang.identity.fingerprint


async def test_a_list_of_models_without_a_length_is_explained(server: Any, say: Any) -> None:
    server.script = [say('{"data": [{"id": "x", "owned_by": "sglang"}]}')]
    async with Transport(server.url, settings=SETTINGS) as transport:
        with pytest.raises(UnsupportedServer, match=r"no max_model_len for x.*gateway"):
            await SglangEndpoint.open(transport)
