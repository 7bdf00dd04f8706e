"""Servers that take text only. The shapes are OpenAI's (platform.openai.com/docs/api-reference):
completions with `top_logprobs` by text, chat with `content`; llama.cpp gives the latter on both."""

import json
import math
from typing import Any

import pytest
from served_models import OPENAI_MODELS, SETTINGS, ids

from icm_client.endpoints import (
    Exactness,
    LabelToken,
    OpenAITopKEndpoint,
    Read,
    TextEndpoint,
    Transport,
    connect,
)
from icm_client.endpoints.served import ASSUMED_CONTEXT, CHARACTERS_A_TOKEN
from icm_client.errors import (
    AuthenticationRefused,
    EndpointFault,
    InputError,
    LabelMissing,
    MalformedAnswer,
    ModelNotFound,
    ScoreNotFinite,
    UnsupportedServer,
)

TOP = {" positive": -0.5, " negative": -1.5, " great": -2.0}


def completions(top: Any) -> str:
    told = {"tokens": ["x"], "token_logprobs": [-0.5], "top_logprobs": [top], "text_offset": [9]}
    usage = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    return json.dumps({"choices": [{"index": 0, "text": "x", "logprobs": told}], "usage": usage})


def chat(top: Any) -> str:
    entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top.items()]
    content = [{"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": entries}]
    message = {"role": "assistant", "content": "x"}
    return json.dumps({"choices": [{"message": message, "logprobs": {"content": content}}]})


async def opened(server: Any, say: Any, **options: Any) -> OpenAITopKEndpoint:
    server.script = [say(OPENAI_MODELS), say(completions(TOP))]
    transport = Transport(server.url, settings=SETTINGS)
    endpoint = await OpenAITopKEndpoint.open(transport, **options)
    assert isinstance(endpoint, TextEndpoint)
    return endpoint


def labels_of(endpoint: OpenAITopKEndpoint) -> tuple[int, int]:
    return (
        endpoint.name_label(LabelToken(" positive", " positive")),
        endpoint.name_label(LabelToken(" negative", " negative")),
    )


async def test_labels_are_found_by_their_text_and_marked(server: Any, say: Any) -> None:
    async with await opened(server, say) as endpoint:
        wanted = labels_of(endpoint)
        demo = (*ids("Good film:"), wanted[0], *ids("\n"), *ids("Bad film:"))
        (answer,) = await endpoint.read([Read(demo, wanted)])
        assert answer == ((-0.5, -1.5), Exactness.TOP_K)
        sent = server.bodies[-1]
        assert sent["prompt"] == "Good film: positive\nBad film:"
        assert (sent["logprobs"], sent["max_tokens"]) == (20, 1)
        assert (endpoint.usage.computed_tokens, endpoint.usage.cached_tokens) == (6, 4)
        assert endpoint.identity.kind == "openai"
        assert endpoint.identity.context_length == ASSUMED_CONTEXT * CHARACTERS_A_TOKEN


async def test_a_label_outside_the_top_is_an_error_and_not_a_number(server: Any, say: Any) -> None:
    async with await opened(server, say) as endpoint:
        server.script = [say(completions({" positive": -0.5, " great": -2.0}))]
        with pytest.raises(LabelMissing, match=r"' negative'.*2 most probable.*--allow-floor"):
            await endpoint.read([Read(ids("x:"), labels_of(endpoint))])


@pytest.mark.parametrize(
    ("top", "floor"),
    [
        ({" positive": -0.5, " great": -2.0}, -2.0),  # the rest holds more than the last one
        ({" positive": -0.01, " great": -5.0}, math.log(1 - math.exp(-0.01) - math.exp(-5.0))),
        ({" positive": 0.0, " great": -1.0}, math.log(1e-6)),  # rounding leaves nothing
    ],
)
async def test_a_floor_is_an_upper_bound_and_marked(
    server: Any, say: Any, top: Any, floor: float
) -> None:
    async with await opened(server, say, allow_floor=True) as endpoint:
        server.script = [say(completions(top))]
        (answer,) = await endpoint.read([Read(ids("x:"), labels_of(endpoint))])
        assert answer.exactness is Exactness.FLOOR
        assert answer.log_probs == pytest.approx((top[" positive"], floor))
        assert answer.log_probs[1] <= min(top.values())


async def test_the_token_drawn_beyond_the_top_is_left_out(server: Any, say: Any) -> None:
    """With it a floor would be lower than the bound that the top k gives."""
    many = {f" word{number}": -4.0 - number / 10 for number in range(20)} | {" drawn": -9.0}
    async with await opened(server, say, allow_floor=True) as endpoint:
        server.script = [say(completions(many))]
        (answer,) = await endpoint.read([Read(ids("x:"), labels_of(endpoint))])
        assert answer.log_probs == pytest.approx((-5.9, -5.9))


@pytest.mark.parametrize("value", ["NaN", "-9999.0", "null", "0.5", "-Infinity"])
async def test_what_is_no_log_prob_is_never_a_score(server: Any, say: Any, value: str) -> None:
    async with await opened(server, say) as endpoint:
        server.script = [say(completions(TOP).replace("-1.5", value))]
        with pytest.raises(ScoreNotFinite, match="' negative'"):
            await endpoint.read([Read(ids("x:"), labels_of(endpoint))])


@pytest.mark.parametrize("body", ['{"choices": []}', completions({}), completions(None), "{}"])
async def test_an_answer_without_log_probs_is_malformed(server: Any, say: Any, body: str) -> None:
    async with await opened(server, say) as endpoint:
        server.script = [say(body)]
        with pytest.raises(MalformedAnswer):
            await endpoint.read([Read(ids("x:"), labels_of(endpoint))])


async def test_reads_of_one_call_keep_their_order(server: Any, say: Any) -> None:
    async with await opened(server, say) as endpoint:
        wanted = labels_of(endpoint)

        async def by_prompt(request: Any) -> Any:
            number = int((await request.json())["prompt"])
            return await say(completions({" positive": -number - 1.0, " negative": -9.0}))(request)

        server.script = [by_prompt]
        answers = await endpoint.read([Read(ids(str(n)), wanted) for n in range(8)])
        assert [answer.log_probs[0] for answer in answers] == [-n - 1.0 for n in range(8)]


async def test_a_label_begins_as_the_server_begins_it(server: Any, say: Any) -> None:
    async with await opened(server, say) as endpoint:
        server.script = [say(completions({" ": -0.1, " pos": -0.2, " positive": -3.0, "x": -4.0}))]
        found = await endpoint.find_label_token(" positive", prompt="Film:", separator="\n")
        assert found == LabelToken(" positive", " pos")
        assert server.bodies[-1]["prompt"] == "Film: positive\n" * 4 + "Film:"
        number = endpoint.name_label(found)
        assert number != endpoint.name_label(LabelToken(" positive", " positive"))
        (answer,) = await endpoint.read([Read(ids("x:"), (number,))])
        assert answer.log_probs == (-0.2,)


async def test_a_label_that_the_server_does_not_say_is_refused(server: Any, say: Any) -> None:
    async with await opened(server, say) as endpoint:
        server.script = [say(completions({"other": -0.1, "positive": -3.0}))]
        with pytest.raises(LabelMissing, match=r"' positive'.*'other'"):
            await endpoint.find_label_token(" positive", prompt="Film:", separator="\n")


async def test_a_label_has_the_same_number_in_every_process(server: Any, say: Any) -> None:
    async with await opened(server, say) as endpoint:
        assert labels_of(endpoint) == (1_310_655_699, 1_015_152_381)


async def test_openais_own_limit_of_five_is_found(server: Any, say: Any) -> None:
    server.script = [
        say(OPENAI_MODELS),
        say('{"error": {"message": "logprobs must be <= 5"}}', status=400),
        say(completions(TOP)),
    ]
    async with await connect(server.url, settings=SETTINGS, kind="openai") as endpoint:
        assert isinstance(endpoint, OpenAITopKEndpoint)
        assert endpoint.top == 5


async def test_a_chat_model_is_asked_by_chat(server: Any, say: Any) -> None:
    bodies = {
        "/v1/models": OPENAI_MODELS,
        "/v1/completions": '{"error": {"message": "This is a chat model"}}',
        "/v1/chat/completions": chat(TOP),
    }

    async def by_path(request: Any) -> Any:
        good = request.path in bodies and request.path != "/v1/completions"
        return await say(bodies.get(request.path, ""), status=200 if good else 404)(request)

    server.script = [by_path]
    async with await connect(server.url, settings=SETTINGS) as endpoint:
        assert isinstance(endpoint, OpenAITopKEndpoint)
        assert endpoint.identity.kind == "openai-chat"
        server.script = [say(chat({"positive": -0.25, "negative": -2.0}))]
        found = await endpoint.find_label_token(" positive", prompt="Film:", separator="\n")
        assert found.token == "positive"
        (answer,) = await endpoint.read([Read(ids("Film:"), (endpoint.name_label(found),))])
        assert answer.log_probs == (-0.25,)
        sent = server.bodies[-1]
        assert sent["messages"] == [{"role": "user", "content": "Film:"}]
        assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)


def by_path(say: Any, **answers: Any) -> Any:
    """Answers by route: `(status, body)`; what is not named is 404, as FastAPI says it."""
    routes = {"models": (200, OPENAI_MODELS), **answers}

    async def step(request: Any) -> Any:
        status, body = routes.get(
            request.path.rpartition("v1/")[2], (404, '{"detail":"Not Found"}')
        )
        return await say(body, status=status)(request)

    return step


def said(text: str, **message: Any) -> str:
    """An answer of either route without log-probs."""
    choice = {"text": text, "message": {"content": text, **message}, "logprobs": None}
    return json.dumps({"choices": [choice]})


# A base model has no chat template: `transformers serve`, on Starlette, answers so.
NO_TEMPLATE = (500, "Internal Server Error")
# api.openai.com, of a reasoning model.
REFUSED = '{"error": {"message": "You are not allowed to request logprobs from this model"}}'
# llama-cpp-python's server, with 500.
NO_LOGITS = '{"error": {"message": "logprobs is not supported for models created with \
logits_all=False", "type": "internal_server_error", "param": null, "code": null}}'
NO_CHAT = '{"error": {"message": "This is a chat model, not supported in v1/completions"}}'
SERVE = "ICM needs them: serve a base model with vLLM"
GONE = '{"error": {"message": "The model `davinci` does not exist", "code": "model_not_found"}}'


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (
            {"completions": (200, said("8")), "chat/completions": NO_TEMPLATE},
            f"transformers serve.*{SERVE}",
        ),
        ({"chat/completions": (200, said("Hi"))}, f"chat only, and leaves log-probs out. {SERVE}"),
        (
            {"completions": (404, NO_CHAT), "chat/completions": (200, said("Hi"))},
            f"chat only, and leaves log-probs out. {SERVE}",
        ),
        ({"chat/completions": (200, said("<think>"))}, f"davinci is a reasoning model, .*{SERVE}"),
        (
            {"chat/completions": (200, said("", reasoning_content="Okay"))},
            f"davinci is a reasoning model, .*{SERVE}",
        ),
        (
            {"chat/completions": (403, REFUSED)},
            f"log-probs are refused for davinci .*not allowed to request logprobs.*{SERVE}",
        ),
        (
            {"completions": (500, NO_LOGITS), "chat/completions": (500, NO_LOGITS)},
            "llama-cpp-python gives log-probs only .*--logits_all true",
        ),
        ({}, "has no /v1/completions and no /v1/chat/completions: it is not a model server's URL"),
    ],
)
async def test_a_server_without_log_probs_is_said_in_one_sentence(
    server: Any, say: Any, answers: Any, sentence: str
) -> None:
    server.script = [by_path(say, **answers)]
    with pytest.raises(UnsupportedServer, match=sentence) as caught:
        await connect(server.url, settings=SETTINGS)
    assert server.url in str(caught.value)
    assert "ICM_API_KEY" not in str(caught.value)


async def test_a_model_that_no_route_has_is_not_found(server: Any, say: Any) -> None:
    server.script = [by_path(say, **{"completions": (404, GONE), "chat/completions": (404, GONE)})]
    with pytest.raises(ModelNotFound, match="does not exist"):
        await connect(server.url, settings=SETTINGS)


async def test_a_fault_of_every_route_is_a_fault(server: Any, say: Any) -> None:
    server.script = [by_path(say, **{"completions": NO_TEMPLATE, "chat/completions": (502, "")})]
    with pytest.raises(EndpointFault, match=r"fails whatever is asked.*500 Internal Server Error"):
        await connect(server.url, settings=SETTINGS)


async def test_a_fault_of_one_route_leaves_the_other(server: Any, say: Any) -> None:
    server.script = [
        by_path(say, **{"completions": (500, "oops"), "chat/completions": (200, chat(TOP))})
    ]
    async with await connect(server.url, settings=SETTINGS) as endpoint:
        assert endpoint.identity.kind == "openai-chat"


async def test_log_probs_that_are_left_out_now_and_then_are_asked_again(
    server: Any, say: Any
) -> None:
    """llama.cpp leaves them out where what it drew is a part of a character."""
    server.script = [say(OPENAI_MODELS), say(said("x")), say(completions(TOP))]
    async with await connect(server.url, settings=SETTINGS, kind="openai") as endpoint:
        assert isinstance(endpoint, OpenAITopKEndpoint)
        assert (endpoint.identity.kind, endpoint.top) == ("openai", 20)


async def test_a_model_that_refuses_max_tokens_is_asked_with_max_completion_tokens(
    server: Any, say: Any
) -> None:
    words = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead."
    )
    refusal = json.dumps({"error": {"message": words, "code": "unsupported_parameter"}})

    async def strict(request: Any) -> Any:
        if request.path == "/v1/models":
            return await say(OPENAI_MODELS)(request)
        refused = "max_tokens" in await request.json()
        return await say(refusal if refused else chat(TOP), status=400 if refused else 200)(request)

    server.script = [strict]
    async with await connect(server.url, settings=SETTINGS, kind="openai-chat") as endpoint:
        assert isinstance(endpoint, OpenAITopKEndpoint)
        found = await endpoint.find_label_token(" positive", prompt="Film:", separator="\n")
        assert found.token == " positive"
    fields = [
        sorted(body.keys() & {"max_tokens", "max_completion_tokens"}) for body in server.bodies[1:]
    ]
    assert fields == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


@pytest.mark.parametrize(
    ("top", "advice"),
    [
        ({"<think>": -0.01, "x": -5.0}, "reasoning model.*switch its thinking off"),
        ({"<|channel|>": -0.01}, "reasoning model"),
        ({"Negative": -0.1, " x": -3.0}, "writes 'Negative', with other capitals"),
        ({"NEG": -0.1, " x": -3.0}, "writes 'NEG', with other capitals"),
        ({"negative": -0.1, " x": -3.0}, "without a space before it: end the template with a line"),
        ({"N": -0.1, "n": -3.0}, "Choose label words that are ordinary"),
    ],
)
async def test_what_a_model_says_in_the_place_of_a_label_is_said(
    server: Any, say: Any, top: Any, advice: str
) -> None:
    async with await opened(server, say) as endpoint:
        server.script = [say(completions(top))]
        with pytest.raises(LabelMissing, match=advice):
            await endpoint.find_label_token(" negative", prompt="Film:", separator="\n")
        if "ordinary" not in advice:
            with pytest.raises(LabelMissing, match=advice):
                await endpoint.read([Read(ids("x:"), labels_of(endpoint)[1:])])


async def test_a_model_that_surely_thinks_is_not_said_to_cut_prompts(server: Any, say: Any) -> None:
    """A forced `<think>` has probability 1 after any text."""
    top = {"<think>": 0.0, **{f"word{n}": -40.0 - n for n in range(4)}}
    server.script = [by_path(say, completions=(200, completions(top)))]
    async with await connect(server.url, settings=SETTINGS) as endpoint:
        assert isinstance(endpoint, OpenAITopKEndpoint)
        with pytest.raises(LabelMissing, match="It is a reasoning model"):
            await endpoint.find_label_token(" positive", prompt="Film:" * 60, separator="\n")


LISTS = [
    '{"data": [{"id": "openai/*"}]}',
    '{"data": [{"id": "*"}, {"id": "other"}]}',
    '{"object": "list", "data": []}',
    '{"object": "list", "data": null}',
    '{"models": [{"name": "m"}]}',
]


@pytest.mark.parametrize("models", LISTS)
async def test_a_list_without_names_takes_the_named_model_on_trust(
    server: Any, say: Any, models: str
) -> None:
    routes = {"models": (200, models), "completions": (200, completions(TOP))}
    server.script = [by_path(say, **routes)]
    async with await connect(server.url, model="openai/m", settings=SETTINGS) as endpoint:
        assert endpoint.identity.model == "openai/m"
    assert server.bodies[-1]["model"] == "openai/m"
    server.script = [
        by_path(say, **routes | {"completions": (404, GONE), "chat/completions": (404, GONE)})
    ]
    with pytest.raises(ModelNotFound):
        await connect(server.url, model="openai/m", settings=SETTINGS)


async def test_a_bare_list_of_models_is_one(server: Any, say: Any) -> None:
    """Together's has no object around it."""
    models = '[{"id": "m", "object": "model"}]'
    server.script = [by_path(say, models=(200, models), completions=(200, completions(TOP)))]
    async with await connect(server.url, settings=SETTINGS) as endpoint:
        assert endpoint.identity.model == "m"
    with pytest.raises(ModelNotFound, match="the server has: m"):
        await connect(server.url, model="n", settings=SETTINGS)


async def test_a_gateway_that_fails_on_paths_it_lacks_is_asked_on(server: Any, say: Any) -> None:
    other = dict.fromkeys(("/props", "/get_model_info", "/version"), (502, "Bad Gateway"))
    server.script = [by_path(say, completions=(200, completions(TOP)), **other)]
    async with await connect(server.url, settings=SETTINGS) as endpoint:
        assert endpoint.identity.kind == "openai"


@pytest.mark.parametrize("models", [LISTS[0], *LISTS[2:4]])
async def test_a_list_without_names_needs_a_name(server: Any, say: Any, models: str) -> None:
    server.script = [by_path(say, models=(200, models))]
    with pytest.raises(ModelNotFound, match="--model"):
        await connect(server.url, settings=SETTINGS)


async def test_a_server_without_a_list_takes_the_named_model_on_trust(
    server: Any, say: Any
) -> None:
    server.script = [by_path(say, models=(404, ""), completions=(200, completions(TOP)))]
    async with await connect(server.url, model="m", settings=SETTINGS) as endpoint:
        assert (endpoint.identity.kind, endpoint.identity.model) == ("openai", "m")


async def test_litellms_wildcards_are_asked_for(server: Any, say: Any) -> None:
    """LiteLLM lists some 200 names in the place of `openai/*`, unless asked for wildcards."""
    known = [{"id": f"openai/gpt-{number}"} for number in range(200)]

    async def lite(request: Any) -> Any:
        if request.path == "/v1/models":
            wild = [{"id": "openai/*"}] if request.query.get("return_wildcard_routes") else []
            return await say(json.dumps({"data": wild + known}))(request)
        good = request.path == "/v1/completions"
        return await say(completions(TOP) if good else "", status=200 if good else 404)(request)

    server.script = [lite]
    async with await connect(server.url, model="openai/m", settings=SETTINGS) as endpoint:
        assert endpoint.identity.model == "openai/m"
    with pytest.raises(ModelNotFound, match=r"'gpt-7' is not served.*openai/gpt-7,.* and 180 more"):
        await connect(server.url, model="gpt-7", settings=SETTINGS)


async def test_a_model_that_is_listed_twice_is_one(server: Any, say: Any) -> None:
    twice = '{"data": [{"id": "m"}, {"id": "m"}]}'
    server.script = [by_path(say, models=(200, twice), completions=(200, completions(TOP)))]
    for model in ("m", None):
        async with await connect(server.url, model=model, settings=SETTINGS) as endpoint:
            assert endpoint.identity.model == "m"


async def test_a_wrong_key_is_told_at_once(server: Any, say: Any) -> None:
    server.script = [say("", status=401)]
    with pytest.raises(AuthenticationRefused):
        await connect(server.url, settings=SETTINGS, kind="openai", model="m")
    assert len(server.paths) == 1


async def test_models_that_are_not_listed_must_be_named(server: Any, say: Any) -> None:
    server.script = [say("", status=404)]
    with pytest.raises(ModelNotFound, match="name one with --model"):
        await connect(server.url, settings=SETTINGS, kind="openai")
    server.script = [say("", status=404), say(completions(TOP))]
    async with await connect(server.url, settings=SETTINGS, kind="openai", model="m") as endpoint:
        assert endpoint.identity.model == "m"


@pytest.mark.parametrize(
    ("entry", "options", "tokens"),
    [
        ({"context_length": 1000}, {}, 1000),
        ({"meta": {"n_ctx": 500}}, {}, 500),
        ({"max_model_len": 700}, {}, 700),
        ({"context_length": 1000}, {"context_length": 300}, 300),
    ],
)
async def test_the_context_is_what_the_server_or_the_user_tells(
    server: Any, say: Any, entry: Any, options: Any, tokens: int
) -> None:
    server.script = [say(json.dumps({"data": [{"id": "m", **entry}]})), say(completions(TOP))]
    transport = Transport(server.url, settings=SETTINGS)
    async with await OpenAITopKEndpoint.open(transport, **options) as endpoint:
        assert endpoint.identity.context_length == tokens * CHARACTERS_A_TOKEN


async def test_a_floor_and_an_exact_run_do_not_share_scores(server: Any, say: Any) -> None:
    async with await opened(server, say) as one, await opened(server, say, allow_floor=True) as two:
        assert one.identity.fingerprint != two.identity.fingerprint


async def test_options_that_a_server_has_no_use_for_are_refused(server: Any, say: Any) -> None:
    server.script = [say('{"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 9}]}')]
    with pytest.raises(InputError, match="--allow-floor"):
        await connect(server.url, settings=SETTINGS, allow_floor=True)
    with pytest.raises(InputError, match="--context-length"):
        await connect(server.url, settings=SETTINGS, context_length=9)
