"""A `Trainer` over a service with OpenAI's fine-tuning API; a crash never leads to a second job."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from pydantic import SecretStr

from icm_client.data import JsonValue
from icm_client.endpoints import Endpoint, Kind, Transport, TransportSettings, connect
from icm_client.endpoints.connect import ServedModel
from icm_client.endpoints.openai_top_k import CHAT
from icm_client.endpoints.parsing import without_credentials
from icm_client.errors import ModelNotFound, TrainingError
from icm_client.runs.trainer import Example, OnTraining, Trained
from icm_client.training.fine_tuning_api import FineTuningApi
from icm_client.training.served_job import (
    WAIT_GROWTH,
    ServedJob,
    ServedSettings,
    StateFile,
    Submission,
)


class ServedTrainer:
    """Has a service train, and opens its models by the names that the service gives them.

    A job goes on when the process that waits for it ends; the same call finds it again. If the job
    failed, was cancelled or vanished, `train` raises `TrainingError`, and the same call then
    submits a new one.

    Args:
        url: the service's root, or its OpenAI root (`.../v1`).
        base: the service's name of the model that is trained from.
        folder: where the state of trainings is kept; made if missing.
        api_key: the service's key.
        settings: of training and waiting.
        transport: deadlines and retries of every request.
        kind: how the trained model is read; None asks the server, or takes chat for a model that
            was trained on chat.
        allow_floor: as for `connect`; a trained model soon leaves improbable labels out of its
            five most probable tokens.

    Attributes:
        base: as given.
        settings: as given.
    """

    def __init__(
        self,
        url: str,
        base: str,
        *,
        folder: str | Path,
        api_key: str | SecretStr | None = None,
        settings: ServedSettings | None = None,
        transport: TransportSettings | None = None,
        kind: Kind | None = None,
        allow_floor: bool = False,
    ) -> None:
        self.base = base
        self.settings = settings or ServedSettings()
        self._url = url
        self._folder = Path(folder)
        self._key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._transport = transport
        self._kind: Kind | None = kind or (CHAT if self.settings.format == "chat" else None)
        self._allow_floor = allow_floor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({without_credentials(self._url)!r}, {self.base!r})"

    @property
    def parallel(self) -> int:
        """As `Trainer.parallel`."""
        return self.settings.parallel

    @property
    def described(self) -> Mapping[str, JsonValue]:
        """As `Trainer.described`."""
        chosen = self.settings
        return {"base": self.base, "format": chosen.format, **chosen.hyperparameters}

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """As `Trainer.train`.

        Raises:
            InputError: the URL is no http or https one.
            TrainingError: fewer than two different labels; the job failed, was cancelled, vanished
                or takes longer than `ServedSettings.deadline_s`; the service refuses it, or has no
                such API; another process works on the same training.
            AuthenticationRefused: the key is missing or wrong.
            EndpointError: the service does not answer, retries included.
        """
        submission = Submission.of(examples, self.base, name, seed, self.settings)
        async with Transport(self._url, api_key=self._key, settings=self._transport) as transport:
            with StateFile.locked(self._folder, submission, transport.url) as noted:
                if noted.state.stage != "succeeded":
                    api = FineTuningApi(transport)
                    await ServedJob(api, submission, noted, self.settings, progress).finish()
        state = noted.state
        if state.model is None:
            raise TrainingError(f"{noted.path}: the training succeeded, but no model is named")
        return Trained(
            name=state.name,
            model=state.model,
            base=state.base,
            examples=len(examples),
            loss=state.loss,
            seconds=state.seconds or 0.0,
        )

    @asynccontextmanager
    async def open(self, trained: Trained) -> AsyncIterator[Endpoint]:
        """As `Trainer.open`; waits (`served_within_s`) for a model that is not served yet."""
        endpoint = await self._connected(trained.model)
        try:
            yield endpoint
        finally:
            with anyio.CancelScope(shield=True):
                await endpoint.aclose()

    async def _connected(self, model: str) -> ServedModel:
        ends = anyio.current_time() + self.settings.served_within_s
        wait = self.settings.first_poll_s
        while True:
            try:
                return await connect(
                    self._url,
                    model=model,
                    api_key=self._key,
                    settings=self._transport,
                    kind=self._kind,
                    allow_floor=self._allow_floor,
                )
            except ModelNotFound:
                if anyio.current_time() + wait > ends:
                    raise
            await anyio.sleep(wait)
            wait = min(wait * WAIT_GROWTH, self.settings.longest_poll_s)
