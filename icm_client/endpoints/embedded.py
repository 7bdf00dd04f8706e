"""The embedded server: llama.cpp in a child process, for a machine with no other server.

It starts on the first request. Until then it costs nothing, not even the model file; nor does a run
whose scores are all in the store.

The child (`serve`) reads one JSON line (`Orders`) from its stdin, writes one (`Report`) to stdout
once the model is loaded, and logs to stderr. Its stdin is a pipe from the parent, so that it ends
with the parent, even if that one is killed.
"""

import os
import secrets
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

import anyio
from anyio.abc import Process
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_serializer

from icm_client.cache import cache_folder
from icm_client.child_process import begin_child, last_words, open_child, stop_child
from icm_client.cores import YIELDING, physical_cores
from icm_client.endpoints import gemma
from icm_client.endpoints.gguf import check_gguf, sha256_of, state_of, trained_context_of
from icm_client.endpoints.llama_cpp import KIND, MICRO_BATCH, LlamaCppEndpoint
from icm_client.endpoints.parsing import fingerprint
from icm_client.endpoints.protocol import Answer, Read, ServerIdentity, TokenIds, Usage
from icm_client.endpoints.settings import RetryPolicy, TransportSettings
from icm_client.endpoints.transport import Transport
from icm_client.errors import EmbeddedServerFailed, EndpointError, ModelChanged, SetupError

T = TypeVar("T")

DEFAULT_CONTEXT_LENGTH: Final = 8192
"""Tokens."""

_CHILD: Final = "from icm_client.endpoints.embedded import serve; serve()"

# No network lies between us and the child: if a second attempt does not help, only a restart does.
# But a long prompt on a large model and few cores is slow.
_RETRY: Final = RetryPolicy(
    attempts=2,
    attempt_timeout_s=900.0,
    item_timeout_s=1800.0,
    initial_wait_s=0.1,
    maximum_wait_s=1.0,
)


class Orders(BaseModel):
    """What to serve, and how."""

    model_config = ConfigDict(frozen=True)

    model_path: str
    model_name: str
    api_key: SecretStr
    context_length: int
    threads: int
    port: int = 0  # any free one

    @field_serializer("api_key", when_used="json")
    def _key_in_clear(self, api_key: SecretStr) -> str:
        return api_key.get_secret_value()


class Report(BaseModel):
    """Where the server listens."""

    model_config = ConfigDict(frozen=True)

    url: str


@dataclass(frozen=True, slots=True)
class _Running:
    """A child process and the endpoint over it."""

    process: Process
    endpoint: LlamaCppEndpoint


class EmbeddedEndpoint:
    """A base model served by llama.cpp on this machine's CPU, one request at a time.

    Log-probs are bit-identical, whatever is cached and in whatever order they are asked for.

    Args:
        model: a GGUF file; None takes gemma-3-270m from the `local` extra. Its digest is part of
            the fingerprint and is computed here, once per file, at about a second per GB.
        context_length: tokens that a prompt may hold; no more than the model was trained on.
        threads: of the CPU; None takes the physical cores this process may run on.
        start_timeout_s: deadline for loading the model, in seconds.

    Attributes:
        identity: who answers; known before the server runs.
        lanes: 1, since a second slot would share the same cores.
        usage: running totals, over restarts of the child.

    Raises:
        SetupError: `xllamacpp` is not installed, or `model` cannot be read.
    """

    lanes: int = 1

    def __init__(
        self,
        model: Path | None = None,
        *,
        context_length: int = DEFAULT_CONTEXT_LENGTH,
        threads: int | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        try:
            engine = metadata.version("xllamacpp")
        except metadata.PackageNotFoundError as error:
            raise SetupError(
                "the embedded server is not installed; run: pip install 'icm-client[local]' "
                "(or give the URL of a server)"
            ) from error
        self._model = model
        self._threads = threads or physical_cores()
        self._start_timeout_s = start_timeout_s
        self.usage = Usage()
        self._lock = anyio.Lock()
        self._running: _Running | None = None
        self._log_is_wanted = False
        self._log = cache_folder() / "logs" / f"embedded-{os.getpid()}-{id(self):x}.log"
        self._state = None if model is None else _state_of(model)
        self._sha256 = gemma.SHA256 if model is None else sha256_of(model)
        self._confirmed_at = 0.0
        name = gemma.MODEL_NAME if model is None else model.stem
        # The server serves no more than this. It must be known before it starts: demos are fitted
        # into the context, and a run repeated from the store starts no server.
        trained = gemma.TRAINED_CONTEXT if model is None else trained_context_of(model)
        self.identity = ServerIdentity(
            kind=KIND,
            model=name,
            context_length=min(context_length, trained or context_length),
            fingerprint=fingerprint(
                {
                    "kind": "embedded",
                    "model": name,
                    "sha256": self._sha256,
                    "engine": engine,
                    "settings": "CPU, swa_full, no_extra_bufts, no flash attention, steady",
                }
            ),
            of_weights=True,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.identity.model!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """As `Endpoint.tokenize`."""
        return await self._with_server(
            lambda server: server.tokenize(text, add_special=add_special)
        )

    async def tokenize_many(self, texts: Sequence[str]) -> list[TokenIds] | None:
        """As `BatchTokenizer.tokenize_many`."""
        return await self._with_server(lambda server: server.tokenize_many(texts))

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`.

        Raises:
            EmbeddedServerFailed: the child did not start, or died twice over these reads.
        """
        return await self._with_server(lambda server: server.read(reads, lane=lane))

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`."""
        await self._with_server(lambda server: server.warm(prefix, lane=lane))

    async def aclose(self) -> None:
        """End the child, wait for it, and remove its log unless an error message names it.

        It is shielded from cancellation: nobody else ends the child.
        """
        with anyio.CancelScope(shield=True):
            async with self._lock:
                running, self._running = self._running, None
                if running is not None:
                    await _ended(running)
                if not self._log_is_wanted:
                    with suppress(OSError):
                        self._log.unlink()

    async def _with_server(self, ask: Callable[[LlamaCppEndpoint], Awaitable[T]]) -> T:
        """`ask` the running child, and a second one if the first dies over it."""
        await self._check_file()
        running = await self._started(instead_of=None)
        try:
            return await ask(running.endpoint)
        except EndpointError:
            if not await _is_dead(running.process):
                raise
        running = await self._started(instead_of=running)
        try:
            return await ask(running.endpoint)
        except EndpointError as error:
            if not await _is_dead(running.process):
                raise
            raise self._failed("died twice over the same request") from error

    async def _check_file(self) -> None:
        """Raise `ModelChanged` where the model's file holds other weights than at the start.

        llama.cpp maps the file into its memory, and so computes with whatever is written to it.
        """
        if self._model is None:
            return
        now = _state_of(self._model)
        if now is not None and now != self._state:
            if await anyio.to_thread.run_sync(sha256_of, self._model) != self._sha256:
                raise ModelChanged(
                    f"the model file {self._model} has been overwritten since the run began; run "
                    "the same command again to begin with the new one",
                    last_confirmed_at=self._confirmed_at,
                )
            self._state = now
        self._confirmed_at = anyio.current_time()

    async def _started(self, *, instead_of: _Running | None) -> _Running:
        async with self._lock:
            if self._running is not None and self._running is not instead_of:
                return self._running
            if self._running is not None:
                dead, self._running = self._running, None
                await _ended(dead)
            self._running = await self._start()
            return self._running

    async def _start(self) -> _Running:
        if self._model is not None:
            check_gguf(self._model)
        model_path = self._model or await anyio.to_thread.run_sync(gemma.model_path)
        api_key = SecretStr(secrets.token_urlsafe(32))
        orders = Orders(
            model_path=str(model_path),
            model_name=self.identity.model,
            api_key=api_key,
            context_length=self.identity.context_length,
            threads=self._threads,
        )
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            log = self._log.open("wb")
        except OSError as error:
            raise SetupError(
                f"cannot write {self._log} ({error.strerror}); set ICM_CACHE_DIR to a folder that "
                "can be written"
            ) from error
        with log:
            process = await open_child("-c", _CHILD, log=log, env={**YIELDING, **os.environ})
        transport: Transport | None = None
        try:
            with anyio.fail_after(self._start_timeout_s):
                url = await self._url_of(process, orders)
                transport = Transport(
                    url,
                    api_key=api_key,
                    settings=TransportSettings(retry=_RETRY),
                    usage=self.usage,
                )
                # Versions that listen before the model is loaded answer 503 until then.
                await transport.get("/health", bytes, attempts=sys.maxsize)
                endpoint = await LlamaCppEndpoint.open(transport, steady=True)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                if transport is not None:
                    await transport.aclose()
                await stop_child(process)
            if isinstance(error, TimeoutError):
                raise self._failed(f"was not ready in {self._start_timeout_s:g} s") from None
            raise
        # It may serve less than the model's header says.
        served = min(endpoint.identity.context_length, self.identity.context_length)
        self.identity = replace(self.identity, context_length=served)
        return _Running(process, endpoint)

    async def _url_of(self, process: Process, orders: Orders) -> str:
        """Send the orders and wait for the report."""
        if process.stdin is None or process.stdout is None:
            raise AssertionError
        line = b""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            await process.stdin.send(orders.model_dump_json().encode() + b"\n")
            while not line.endswith(b"\n"):
                line += await process.stdout.receive()
        try:
            return Report.model_validate_json(line).url
        except ValidationError:
            code = await process.wait()
            raise self._failed(f"did not start (exit status {code})") from None

    def _failed(self, what: str) -> EmbeddedServerFailed:
        words = last_words(self._log)
        self._log_is_wanted = True
        return EmbeddedServerFailed(
            f"the embedded server for {self.identity.model} {what}; its log, {self._log}, ends "
            f"with:\n{words}"
        )


def _state_of(model: Path) -> tuple[int, int, int] | None:
    """The file's state; None if it is gone, which a running server does not notice."""
    try:
        return state_of(model)
    except OSError:
        return None


async def _is_dead(process: Process) -> bool:
    """Whether the child has ended, or ends within a second: its sockets close first."""
    with anyio.move_on_after(1.0):
        await process.wait()
    return process.returncode is not None


async def _ended(running: _Running) -> None:
    await running.endpoint.aclose()
    await stop_child(running.process)


def serve() -> None:
    """Serve in a child process until stdin closes."""
    orders, report = begin_child(Orders)
    server = start(orders)
    os.write(report, Report(url=server.listening_address).model_dump_json().encode() + b"\n")
    os.close(report)
    threading.Event().wait()


class Server(Protocol):
    """The part of `xllamacpp.Server` that is used here."""

    listening_address: str


def start(orders: Orders) -> Server:
    """Load the model and serve it from threads of this process."""
    import xllamacpp  # noqa: PLC0415 - an optional dependency, which the parent does not load

    params = xllamacpp.CommonParams()
    params.model.path = orders.model_path
    params.model_alias = {orders.model_name}
    params.api_keys = [orders.api_key.get_secret_value()]
    params.hostnames = ["127.0.0.1"]
    params.port = orders.port
    params.n_ctx = orders.context_length
    params.n_parallel = 1
    params.warmup = False
    # The cache keeps only the last window of a sliding-window model (Gemma 3) without this, and
    # no prefix can be reused.
    params.swa_full = True
    params.cache_ram_mib = 0
    params.n_gpu_layers = 0
    # With `steady`, these two make log-probs bit-identical whatever was cached before, so that a
    # resumed run ends with the labels of an undisturbed one. They cost about a tenth of the speed.
    params.no_extra_bufts = True
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_ubatch = MICRO_BATCH
    params.cpuparams.n_threads = orders.threads
    params.cpuparams_batch.n_threads = orders.threads
    server: Server = xllamacpp.Server(params)
    return server
