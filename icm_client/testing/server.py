"""A planted concept served over HTTP, as vLLM would: a real socket, and faults by script.

Routes and bodies are those that `icm_client.endpoints.vllm` uses; see
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import anyio
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from icm_client.endpoints.protocol import Read, TokenIds
from icm_client.errors import PromptTooLong
from icm_client.testing.faults import Asked, Fault, Json, Script, scripted
from icm_client.testing.planted import PlantedConcept

COMPLETIONS = "/v1/completions"


class RateLimit:
    """How many requests a gateway lets through, counted as by nginx's `limit_req`.

    Args:
        a_second: requests a second, of all routes together.
        burst: how many more may come at once.
        status: of the answer to the others.
    """

    def __init__(self, a_second: float, *, burst: int = 0, status: int = 503) -> None:
        self.status = status
        self._a_second, self._burst = a_second, burst
        self._excess = 0.0
        self._last_at: float | None = None

    def lets_through(self, now: float) -> bool:
        """Whether a request that comes at `now` (seconds) is let through; if so, it is counted."""
        excess = 0.0
        if self._last_at is not None:
            excess = max(0.0, self._excess - self._a_second * (now - self._last_at) + 1)
        if excess > self._burst:
            return False
        self._excess, self._last_at = excess, now
        return True


class Received(NamedTuple):
    """A request that the server got."""

    path: str
    body: Json
    headers: Mapping[str, str]


class PlantedServer:
    """An OpenAI-compatible server on a port of this machine. An async context manager.

    Args:
        concept: what the served model knows, and its context length.
        faults: for requests to `/v1/completions`: one entry a request, or a function of the
            request's number; `script` may also be set later.
        model: the model's name.
        api_key: the key that `/v1` requires; None requires none.
        slots: requests computed at a time; None for any number. Others queue.
        latency_s: how long each is computed, in seconds.
        max_queue: more waiting requests than this are answered 503; None for an endless queue.
        rate_limit: of a gateway before the server; None for no limit.
        priorities: whether it was started with `--scheduling-policy priority`; if not, a request
            with a `priority` other than 0 is refused. All are served in the order they come.
        root: the path given as the model's; None names the concept served. With a path such as
            ".../latest" the server's description of itself does not change with the concept.

    Attributes:
        url: the server's root, while it runs.
        script: from the number of a request to `/v1/completions` to its fault, or None.
        received: every request, in the order of arrival, except those that `rate_limit` refused.
        refused: how many `rate_limit` refused.
        most_in_flight: the most requests to `/v1/completions` that were open at a time.
    """

    def __init__(
        self,
        concept: PlantedConcept,
        *,
        faults: Sequence[Fault | None] | Script = (),
        model: str = "planted",
        api_key: str | None = None,
        slots: int | None = None,
        latency_s: float = 0.0,
        max_queue: int | None = None,
        rate_limit: RateLimit | None = None,
        priorities: bool = False,
        root: str | None = None,
    ) -> None:
        self.script: Script = scripted(faults) if isinstance(faults, Sequence) else faults
        self.received: list[Received] = []
        self.most_in_flight = 0
        self.url = ""
        self._concept = concept
        self._model = model
        self._api_key = api_key
        self._latency_s = latency_s
        self._max_queue = max_queue
        self._rate_limit = rate_limit
        self.refused = 0
        self._priorities = priorities
        self._root = root
        self._slots = anyio.CapacityLimiter(2**31 if slots is None else slots)
        self._refused: set[str] = set()
        self._numbered = 0
        self._in_flight = 0
        self._port = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    @property
    def open_connections(self) -> int:
        """Connections that clients keep open."""
        server = self._runner.server if self._runner else None
        return len(server.connections) if server else 0

    async def all_closed(self) -> None:
        """Wait until no client keeps a connection open."""
        while self.open_connections:  # noqa: ASYNC110 - aiohttp has no such event
            await anyio.sleep(0.01)

    @property
    def waiting(self) -> int:
        """Requests in its queue, as in `/metrics`."""
        return self._slots.statistics().tasks_waiting

    def refuse(self, path: str) -> None:
        """Answer this path with 404 from now on, as a server that lacks it does."""
        self._refused.add(path)

    def swap(self, concept: PlantedConcept) -> None:
        """Serve another model under the same name from now on."""
        self._concept = concept

    async def restart(self, *, down_s: float = 0.0) -> None:
        """Break every connection, stay down, and come back on the same port with an empty cache."""
        await self._close()
        await anyio.sleep(down_s)
        await self._listen()

    async def _listen(self) -> None:
        app = web.Application(client_max_size=2**30, middlewares=[self._limited])
        self._add_routes(app.router)
        # A request that hangs is cancelled with its connection: it must not outlive its client.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._runner = runner

    @web.middleware
    async def _limited(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        limit = self._rate_limit
        if limit is None or limit.lets_through(anyio.current_time()):
            return await handler(request)
        self.refused += 1
        return web.Response(status=limit.status)

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v1/models", self._models)
        router.add_get("/version", self._version)
        router.add_get("/metrics", self._metrics)
        router.add_post("/tokenize", self._tokenize)
        router.add_post(COMPLETIONS, self._complete)
        router.add_post(f"{COMPLETIONS}/render", self._render)

    async def _close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        await self._note(request)
        identity = self._concept.identity
        entry = {
            "id": self._model,
            "object": "model",
            "owned_by": "vllm",
            "root": self._root or f"planted/{identity.fingerprint}",
            "parent": None,
            "max_model_len": identity.context_length,
        }
        return web.json_response({"object": "list", "data": [entry]})

    async def _version(self, request: web.Request) -> web.Response:
        await self._note(request)
        return web.json_response({"version": "0.32.0"})

    async def _metrics(self, request: web.Request) -> web.Response:
        await self._note(request)
        running = self._slots.borrowed_tokens
        lines = [
            f'vllm:num_requests_{state}{{engine="0",model_name="{self._model}"}} {float(count)}\n'
            for state, count in (("running", running), ("waiting", self.waiting))
        ]
        return web.Response(text="".join(lines))

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await self._note(request)
        ids = await self._concept.tokenize(
            body["prompt"], add_special=body.get("add_special_tokens", True)
        )
        return web.json_response({"tokens": ids, "count": len(ids)})

    async def _render(self, request: web.Request) -> web.Response:
        body = await self._note(request)
        special = body.get("add_special_tokens", True)
        ids = [await self._concept.tokenize(text, add_special=special) for text in body["prompt"]]
        return web.json_response([{"token_ids": one, "request_id": "cmpl"} for one in ids])

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        number, self._numbered = self._numbered, self._numbered + 1
        body = await self._note(request)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            fault = self.script(number)
            if fault is not None:
                return await fault(Asked(request, body, self._answer_to))
            return await self._in_turn(body)
        finally:
            self._in_flight -= 1

    async def _in_turn(self, body: Json) -> web.Response:
        if self._max_queue is not None and self.waiting >= self._max_queue:
            raise refused(503, "the queue is full", "ServiceUnavailableError")
        async with self._slots:
            await anyio.sleep(self._latency_s)
            content = orjson.dumps(await self._answer_to(body))
            return web.Response(body=content, content_type="application/json")

    async def _answer_to(self, body: Json) -> Json:
        if body.get("model") not in (None, self._model):
            raise refused(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        if body.get("priority") and not self._priorities:
            words = f"Got priority {body['priority']} but Priority scheduling is not enabled."
            raise refused(400, words, "BadRequestError")
        prompts = [tuple(prompt) for prompt in body["prompt"]]
        wanted = tuple(body.get("logprob_token_ids") or ())
        choices, cached = [], 0
        usage = self._concept.usage
        for index, prompt in enumerate(prompts):
            before = usage.cached_tokens
            choices.append(await self._choice(index, prompt, wanted))
            cached = usage.cached_tokens - before  # vLLM reports those of the last prompt
        tokens = sum(map(len, prompts))
        return {
            "id": f"cmpl-{self._numbered}",
            "object": "text_completion",
            "model": self._model,
            "choices": choices,
            "usage": {
                "prompt_tokens": tokens,
                "completion_tokens": len(prompts),
                "total_tokens": tokens + len(prompts),
                "prompt_tokens_details": {"cached_tokens": cached},
            },
        }

    async def _choice(self, index: int, prompt: TokenIds, wanted: TokenIds) -> Json:
        try:
            if not wanted:
                await self._concept.warm(prompt)
                return {"index": index, "text": "", "logprobs": None, "finish_reason": "length"}
            (answer,) = await self._concept.read([Read(prompt, wanted)])
        except PromptTooLong:
            most = self._concept.identity.context_length
            words = f"This model's maximum context length is {most} tokens; {len(prompt)} were sent"
            raise refused(400, words, "BadRequestError") from None
        except ValueError as error:  # not one of the concept's prompts: the test is wrong
            raise refused(400, f"{error}", "BadRequestError") from None
        found = {f"token_id:{token}": p for token, p in zip(wanted, answer.log_probs, strict=True)}
        logprobs = {"top_logprobs": [found]}
        return {"index": index, "text": "", "logprobs": logprobs, "finish_reason": "length"}

    async def _note(self, request: web.Request) -> Json:
        """Record the request and return its JSON, unless its path or its key is refused."""
        is_json = request.can_read_body and not request.content_type.startswith("multipart/")
        body = orjson.loads(await request.read()) if is_json else {}
        self.received.append(Received(request.path, body, request.headers))
        if request.path in self._refused:
            raise refused(404, "Not Found", "NotFoundError")
        given = request.headers.get("Authorization")
        if self._api_key and request.path.startswith("/v1/") and given != f"Bearer {self._api_key}":
            raise refused(401, "Unauthorized", "AuthenticationError")
        return body


def refused(status: int, words: str, kind: str | None = None) -> web.HTTPException:
    """A refusal that aiohttp sends: in vLLM's shape where it has a kind, else in OpenAI's."""
    error = {"message": words, "type": kind or "invalid_request_error"}
    body = {"error": {**error, "code": status if kind else None}}
    kinds = {
        400: web.HTTPBadRequest,
        401: web.HTTPUnauthorized,
        404: web.HTTPNotFound,
        503: web.HTTPServiceUnavailable,
    }
    return kinds[status](text=orjson.dumps(body).decode(), content_type="application/json")
