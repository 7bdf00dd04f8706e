import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from icm_client.endpoints import (
    LlamaCppEndpoint,
    Read,
    RetryPolicy,
    Transport,
    TransportSettings,
    VllmEndpoint,
    connect,
)
from icm_client.endpoints.parsing import fingerprint
from icm_client.errors import (
    AuthenticationRefused,
    IcmError,
    LabelMissing,
    MalformedAnswer,
    ModelNotFound,
    PromptTooLong,
    RequestRefused,
    ScoreNotFinite,
    UnsupportedServer,
)

SETTINGS = TransportSettings(retry=RetryPolicy(attempts=2, initial_wait_s=0.0))
READS = [Read((1, 2), (7, 9)), Read((1, 3), (7, 9))]
VLLM_MODELS = json.dumps(
    {"data": [{"id": "base", "root": "org/base", "max_model_len": 64, "owned_by": "vllm"}]}
)
META = {"n_vocab": 5000, "n_params": 1, "size": 2, "ftype": "Q4"}
LLAMA_MODELS = json.dumps(
    {"data": [{"id": "g", "aliases": ["gem"], "owned_by": "llamacpp", "meta": META}]}
)
PROPS = json.dumps(
    {
        "default_generation_settings": {"n_ctx": 64},
        "total_slots": 2,
        "model_alias": "g",
        "build_info": "b1",
    }
)


def choice(index: int, found: Any) -> dict[str, Any]:
    return {"index": index, "text": "x", "logprobs": {"top_logprobs": [found]}}


def completion(*choices: Any, usage: Any = None) -> str:
    return json.dumps({"choices": choices, "usage": usage or {"prompt_tokens": 4}})


@pytest.fixture
async def vllm(server: Any, say: Any) -> AsyncIterator[VllmEndpoint]:
    server.script = [say(VLLM_MODELS), say('{"version": "0.32.0"}')]
    endpoint = await VllmEndpoint.open(Transport(server.url, settings=SETTINGS))
    yield endpoint
    await endpoint.aclose()


@pytest.fixture
async def llama(server: Any, say: Any) -> AsyncIterator[LlamaCppEndpoint]:
    server.script = [say(LLAMA_MODELS), say(PROPS)]
    endpoint = await LlamaCppEndpoint.open(Transport(server.url, settings=SETTINGS))
    yield endpoint
    await endpoint.aclose()


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


async def test_reads_of_one_call_must_want_the_same(vllm: VllmEndpoint) -> None:
    with pytest.raises(ValueError, match="same tokens"):
        await vllm.read([Read((1,), (2,)), Read((1,), (3,))])


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


async def test_connect_finds_vllm(server: Any, say: Any) -> None:
    server.script = [say(VLLM_MODELS), say(VLLM_MODELS), say('{"version": "0.32.0"}')]
    endpoint = await connect(f"{server.url}/v1", settings=SETTINGS)
    assert endpoint.identity.kind == "vllm"
    assert endpoint.identity.context_length == 64
    assert endpoint.lanes == 0
    await endpoint.aclose()


async def test_connect_finds_llama_cpp_by_alias(server: Any, say: Any) -> None:
    server.script = [say(LLAMA_MODELS), say(LLAMA_MODELS), say(PROPS)]
    endpoint = await connect(server.url, model="gem", settings=SETTINGS)
    assert (endpoint.identity.kind, endpoint.identity.model, endpoint.lanes) == (
        "llama.cpp",
        "g",
        2,
    )
    await endpoint.aclose()


@pytest.mark.parametrize("model", [None, "other"])
async def test_connect_lists_the_models_it_may_not_choose_from(
    server: Any, say: Any, model: str | None
) -> None:
    entry = {"root": None, "max_model_len": 64, "owned_by": "vllm"}
    models = json.dumps({"data": [entry | {"id": "alpha"}, entry | {"id": "beta"}]})
    server.script = [say(models)]
    with pytest.raises(ModelNotFound, match="alpha, beta"):
        await connect(server.url, model=model, settings=SETTINGS)


async def test_connect_takes_a_stranger_for_openai_and_says_what_it_answered(
    server: Any, say: Any
) -> None:
    models = '{"data": [{"id": "x", "owned_by": "somebody"}]}'
    server.script = [say(models), *[say("", status=404)] * 3, say(models), say("", status=404)]
    with pytest.raises(UnsupportedServer, match=r"no /v1/completions and.*completions: 404"):
        await connect(server.url, settings=SETTINGS)
    server.script = [say("<html>")]
    with pytest.raises(UnsupportedServer, match=r"/v1/models: a web page came instead"):
        await connect(server.url, settings=SETTINGS)
    server.script = [say("", status=404)]
    with pytest.raises(UnsupportedServer, match=r"models: 404.*OpenAI-compatible.*give --model"):
        await connect(server.url, settings=SETTINGS)
    server.script = [say("", status=302, headers={"Location": "http://elsewhere"})]
    with pytest.raises(RequestRefused, match="it points to http://elsewhere"):
        await connect(server.url, settings=SETTINGS)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"/props": PROPS, "/v1/models": LLAMA_MODELS.replace("llamacpp", "me")}, "llama.cpp"),
        (
            {"/version": '{"version": "1"}', "/v1/models": VLLM_MODELS.replace('"vllm"', '"me"')},
            "vllm",
        ),
        (
            {
                "/get_model_info": '{"model_path": "/m"}',
                "/v1/models": VLLM_MODELS.replace('"vllm"', '"sglang"'),
            },
            "sglang",
        ),
        (
            {
                "/get_model_info": '{"model_path": "/m"}',
                "/v1/models": VLLM_MODELS.replace('"vllm"', '"me"'),
            },
            "sglang",
        ),
    ],
)
async def test_connect_asks_the_native_routes_where_the_list_does_not_tell(
    server: Any, say: Any, answers: Any, kind: str
) -> None:
    async def by_path(request: Any) -> Any:
        body = answers.get(request.path)
        return await say(body or "", status=200 if body else 404)(request)

    server.script = [by_path]
    async with await connect(server.url, settings=SETTINGS) as endpoint:
        assert endpoint.identity.kind == kind


@pytest.mark.parametrize(
    ("models", "who"),
    [
        (LLAMA_MODELS, "llama.cpp {} does not pass /props"),
        (VLLM_MODELS, "vLLM {} does not pass /v"),
    ],
)
@pytest.mark.parametrize("answer", [("", 404), ("<html><title>Home</title></html>", 200)])
async def test_a_gateway_that_passes_only_v1_is_said(
    server: Any, say: Any, models: str, who: str, answer: tuple[str, int]
) -> None:
    async def gateway(request: Any) -> Any:
        if request.path == "/v1/models":
            return await say(models)(request)
        return await say(answer[0], status=answer[1])(request)

    server.script = [gateway]
    sentence = who.format("behind a gateway that") + ".*--kind openai"
    with pytest.raises(UnsupportedServer, match=sentence) as caught:
        await connect(server.url, settings=SETTINGS)
    assert server.url in str(caught.value)


async def test_connect_without_the_key_says_how_to_set_it(server: Any, say: Any) -> None:
    server.script = [say("", status=401)]
    with pytest.raises(AuthenticationRefused, match="ICM_API_KEY"):
        await connect(server.url, settings=SETTINGS)


BASE = {"id": "base", "root": "org/base", "max_model_len": 64, "owned_by": "vllm"}


@pytest.mark.parametrize("parent", ["base", "org/base", None, "renamed"])
async def test_an_adapter_has_the_context_of_its_base(
    server: Any, say: Any, parent: str | None
) -> None:
    models = json.dumps({"data": [BASE, {"id": "lora", "parent": parent, "owned_by": "vllm"}]})
    server.script = [say(models), say(models), say('{"version": "0.32.0"}')]
    async with await connect(server.url, model="lora", api_key="k", settings=SETTINGS) as endpoint:
        assert endpoint.identity.context_length == 64


async def test_a_list_of_models_that_a_gateway_rewrote_is_explained(server: Any, say: Any) -> None:
    server.script = [say('{"data": [{"id": "x", "owned_by": "vllm"}]}')]
    with pytest.raises(UnsupportedServer, match=r"no max_model_len for x.*gateway"):
        await connect(server.url, settings=SETTINGS)
    server.script = [say('{"data": [{"id": "g", "owned_by": "llamacpp", "meta": null}]}')]
    with pytest.raises(UnsupportedServer, match="no `meta` for g"):
        await connect(server.url, settings=SETTINGS)


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


async def test_another_version_is_another_fingerprint(
    server: Any, say: Any, vllm: VllmEndpoint
) -> None:
    server.script = [say(VLLM_MODELS), say('{"version": "0.33.0"}')]
    async with Transport(server.url) as transport:
        newer = await VllmEndpoint.open(transport)
    assert newer.identity.fingerprint != vllm.identity.fingerprint


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


async def test_scores_stored_before_adapters_were_asked_for_are_found(
    vllm: VllmEndpoint, llama: LlamaCppEndpoint
) -> None:
    """Fingerprints of servers without adapters, as they have always been."""
    assert vllm.identity.fingerprint == fingerprint(
        {
            "kind": "vllm",
            "model": "base",
            "root": "org/base",
            "context_length": 64,
            "version": "0.32.0",
        }
    )
    assert llama.identity.fingerprint == fingerprint(
        {
            "kind": "llama.cpp",
            "model": "g",
            "context_length": 64,
            "n_params": 1,
            "size": 2,
            "n_vocab": 5000,
            "ftype": "Q4",
            "path": "",
            "build": "b1",
        }
    )
