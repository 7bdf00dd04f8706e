"""A trained adapter on a served vLLM: loaded beside the base model, and read as any model is.

vLLM keeps an adapter under its name, and the prefixes that it computed with it. So each version of
an adapter is loaded under a name of its own, which ends with a digest over its files.

Source: https://docs.vllm.ai/en/latest/features/lora.html (dynamic serving of adapters), and vLLM
0.32 for the words of its refusals.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from pydantic import SecretStr

from icm_client.data import JsonValue
from icm_client.endpoints import Endpoint, Transport, TransportSettings, connect
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    EndpointFault,
    EndpointOverloaded,
    EndpointTimeout,
    RequestRefused,
    SetupError,
    TrainingError,
)
from icm_client.runs.trainer import Example, OnTraining, Trained, Trainer
from icm_client.training.base_model import digest_of

LOAD: Final = "/v1/load_lora_adapter"
UNLOAD: Final = "/v1/unload_lora_adapter"

CONFIG: Final = "adapter_config.json"
"""PEFT's description of an adapter; a model whose weights were all trained has none."""

START: Final = (
    "`icm-client serve MODEL --lora`, which is vLLM's --enable-lora with "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
)

_BY_NAME: Final = "already been loaded"
_NOT_ENABLED: Final = "lora is not enabled"
_RANK: Final = "max_lora_rank"
_NO_ADAPTER: Final = "no adapter found"
_MORE_TRIES: Final = 4
"""After a 500, which may be temporary or permanent: an error is raised within seconds."""
_UNLOAD_S: Final = 30.0
_DIGEST_LENGTH: Final = 12
_STEM: Final = re.compile(r"[^A-Za-z0-9_.-]+")


def adapter_name(folder: Path, name: str) -> str:
    """Return a name for this version of an adapter: `name`, and a digest over its files.

    Raises:
        TrainingError: the folder holds no adapter, or cannot be read.
    """
    if not (folder / CONFIG).is_file():
        raise TrainingError(
            f"{folder} holds no adapter (no {CONFIG}). If all weights were trained, the model "
            "cannot be loaded into a running server: start one for it with icm-client serve"
        )
    try:
        digest = digest_of(folder)[:_DIGEST_LENGTH]
    except SetupError as error:
        raise TrainingError(str(error)) from error
    return f"{_STEM.sub('_', name).strip('_-') or 'adapter'}-{digest}"


async def load_adapter(transport: Transport, folder: Path, name: str) -> bool:
    """Have vLLM load the adapter under this name; return False if it had it before.

    The server's machine must find the folder at the same absolute path.

    Raises:
        TrainingError: the server was not started for adapters or for one of this rank, cannot
            read the folder, or cannot use what lies there; the message quotes it and says what to
            do.
        EndpointTimeout: it does not answer an attempt in time (`RetryPolicy.attempt_timeout_s`).
        EndpointError: it cannot be reached, or stays overloaded.
    """
    body = {"lora_name": name, "lora_path": str(folder)}
    try:
        try:
            await transport.post(LOAD, body, bytes, attempts=1)
        except (EndpointFault, EndpointOverloaded) as error:
            # vLLM answers 500 both to what it will never do and to what it cannot do now.
            if any(sign in str(error).lower() for sign in (_NOT_ENABLED, _RANK)):
                raise
            await transport.post(LOAD, body, bytes, attempts=_MORE_TRIES)
    except AuthenticationRefused:
        raise
    except EndpointTimeout as error:
        raise EndpointTimeout(
            f"{error}: the server neither loads {folder} nor refuses it; its log says why. If it "
            "was only slow, run the same command again; if it hangs, restart it"
        ) from None
    except (RequestRefused, EndpointFault) as error:
        if _BY_NAME in str(error):
            return False
        raise _refused(transport.url, folder, error) from None
    return True


async def unload_adapter(transport: Transport, name: str) -> None:
    """Have vLLM unload the adapter; do nothing if it does not have it."""
    try:
        await transport.post(UNLOAD, {"lora_name": name}, bytes)
    except AuthenticationRefused:
        raise
    except RequestRefused:
        return


@asynccontextmanager
async def open_adapter(
    url: str,
    folder: Path,
    *,
    name: str = "adapter",
    api_key: str | SecretStr | None = None,
    settings: TransportSettings | None = None,
) -> AsyncIterator[Endpoint]:
    """Load an adapter into a served vLLM, yield it as an endpoint, and unload it at the end.

    If somebody else has loaded this version, it is used and not unloaded.
    """
    key = SecretStr(api_key) if isinstance(api_key, str) else api_key
    folder = await anyio.to_thread.run_sync(folder.absolute)
    version = await anyio.to_thread.run_sync(adapter_name, folder, name)
    async with Transport(url, api_key=key, settings=settings) as transport:
        ours = await load_adapter(transport, folder, version)
        try:
            async with await connect(
                url, model=version, api_key=key, settings=settings, kind="vllm"
            ) as endpoint:
                yield endpoint
        finally:
            if ours:
                # Waiting longer gains nothing: a server that restarts forgets the adapter.
                with anyio.move_on_after(_UNLOAD_S, shield=True), suppress(EndpointError):
                    await unload_adapter(transport, version)


class VllmAdapterTrainer:
    """A `Trainer` that trains with another one, and opens the adapters on a served vLLM.

    Args:
        trainer: trains adapters into folders (`LocalTrainer` with LoRA).
        url: a vLLM that serves the same base model and finds those folders at the same paths.
        api_key: the server's key, if it has one.
        settings: deadlines and retries of every request.
    """

    def __init__(
        self,
        trainer: Trainer,
        url: str,
        *,
        api_key: str | SecretStr | None = None,
        settings: TransportSettings | None = None,
    ) -> None:
        self._trainer = trainer
        self._url = url
        self._key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._settings = settings

    @property
    def parallel(self) -> int:
        """As of the trainer that it trains with."""
        return self._trainer.parallel

    @property
    def described(self) -> Mapping[str, JsonValue]:
        """As `Trainer.described`, of the trainer that it trains with."""
        return self._trainer.described

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """As `Trainer.train`."""
        return await self._trainer.train(examples, name=name, seed=seed, progress=progress)

    def open(self, trained: Trained) -> AbstractAsyncContextManager[Endpoint]:
        """As `Trainer.open`; see `open_adapter`."""
        return open_adapter(
            self._url,
            Path(trained.model),
            name=trained.name,
            api_key=self._key,
            settings=self._settings,
        )


def _refused(url: str, folder: Path, error: Exception) -> TrainingError:
    words = str(error).lower()
    if _RANK in words:
        advice = f"start the server with a larger --lora-rank: {START}"
    elif _NO_ADAPTER in words:
        advice = (
            f"the server does not find {folder}: it must run on this machine, or have the folder "
            "at the same path"
        )
    elif _NOT_ENABLED in words or "404" in words:
        advice = f"the server was not started for adapters: {START}"
    elif isinstance(error, EndpointFault):
        advice = f"the server cannot read {folder}, or cannot use what it holds; its log says more"
    else:
        advice = f"it must be a vLLM that was started for adapters: {START}"
    return TrainingError(
        f"{url}: the adapter was not loaded: {error}. {advice[0].upper()}{advice[1:]}"
    )
