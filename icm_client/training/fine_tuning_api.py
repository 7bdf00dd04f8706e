"""OpenAI's fine-tuning API: files, jobs, events. One method a route, over the package's transport.

Source: https://platform.openai.com/docs/api-reference/files and .../fine-tuning. Of an answer only
what is needed here is read, and most of that may be missing: services differ in the rest.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, Field, ValidationError

from icm_client.endpoints.exchange import Body
from icm_client.endpoints.parsing import Wire, parsed
from icm_client.endpoints.transport import Transport

FILES: Final = "/v1/files"
JOBS: Final = "/v1/fine_tuning/jobs"

_PURPOSE: Final = "fine-tune"
_PAGE: Final = 100
_DEAD: Final = ("failed", "cancelled")


class StoredFile(Wire):
    """A file that the service holds."""

    id: str
    filename: str | None = None
    bytes: int | None = None
    purpose: str | None = None


class JobFailure(Wire):
    """Why a job failed; an empty object where it did not."""

    message: str | None = None


class TuningJob(Wire):
    """A fine-tuning job. Times are seconds since 1970 by the service's clock."""

    id: str
    status: str
    fine_tuned_model: str | None = None
    training_file: str | None = None
    metadata: dict[str, str | None] | None = None
    suffix: str | None = None
    user_provided_suffix: str | None = None
    created_at: float | None = Field(default=None, strict=False)
    finished_at: float | None = Field(default=None, strict=False)
    error: JobFailure | None = None

    @property
    def succeeded(self) -> bool:
        """Whether there is a model."""
        return self.status == "succeeded"

    @property
    def is_dead(self) -> bool:
        """Whether it ended without one, for good. An unknown status is one that goes on."""
        return self.status in _DEAD


class Metrics(BaseModel):
    """What an event tells of the training; services send more."""

    step: int
    total_steps: int | None = None
    train_loss: float | None = None


class JobEvent(Wire):
    """Something that happened to a job."""

    id: str
    created_at: float = Field(default=0.0, strict=False)
    level: str | None = None
    message: str = ""
    data: object = None

    @property
    def metrics(self) -> Metrics | None:
        """The figures in it, where it has some."""
        try:
            return Metrics.model_validate(self.data)
        except ValidationError:
            return None


_Listed = TypeVar("_Listed", StoredFile, TuningJob)


class _Page(Wire, Generic[_Listed]):
    data: list[_Listed]
    has_more: bool | None = None


class _Events(Wire):
    data: list[JobEvent]


class FineTuningApi:
    """The routes of one service.

    Every method raises `EndpointError` as `Transport.post` does.

    Args:
        transport: the way to it; not closed here.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        # A poll is not a first look at a server: it outlasts a restart, as every request does.
        self._attempts = transport.settings.retry.attempts

    async def files(self) -> Sequence[StoredFile]:
        """Return all training files; asked once, for it is part of an attempt to upload one."""
        return await self._listed(f"{FILES}?purpose={_PURPOSE}&", _Page[StoredFile], attempts=1)

    async def upload(
        self, name: str, content: bytes, *, first: Callable[[], Awaitable[None]]
    ) -> StoredFile:
        """Upload JSON Lines as a training file of this name.

        `first` is awaited ahead of every attempt, and may raise to end them.
        """
        boundary = "icm-client-training-file"
        form = _form(name, content, boundary)

        async def body() -> Body:
            await first()
            return form

        # The SDK wants to write a form itself where it knows the media type; its case says nothing
        # to a server (RFC 9110, 8.3.1).
        headers = {"Content-Type": f"Multipart/Form-Data; boundary={boundary}"}
        return await self._transport.post(
            FILES, body, lambda raw: parsed(StoredFile, raw), headers=headers
        )

    async def jobs(self, *, attempts: int | None = None) -> Sequence[TuningJob]:
        """Return all jobs; `attempts` as for `Transport.post`."""
        return await self._listed(f"{JOBS}?", _Page[TuningJob], attempts=attempts or self._attempts)

    async def create(self, submission: Body, *, first: Callable[[], Awaitable[None]]) -> TuningJob:
        """Submit a job; `first` as for `upload`."""

        async def body() -> Body:
            await first()
            return submission

        return await self._transport.post(JOBS, body, lambda raw: parsed(TuningJob, raw))

    async def job(self, job: str) -> TuningJob:
        """Return the job of this id."""
        return await self._transport.get(
            f"{JOBS}/{job}", lambda body: parsed(TuningJob, body), attempts=self._attempts
        )

    async def events(self, job: str) -> Sequence[JobEvent]:
        """Return the latest events of a job, the oldest first; asked once, for they are aside."""
        found = await self._transport.get(
            f"{JOBS}/{job}/events?limit={_PAGE}",
            lambda body: parsed(_Events, body).data,
            attempts=1,
        )
        return sorted(found, key=lambda event: event.created_at)

    async def _listed(
        self, path: str, kind: type[_Page[_Listed]], *, attempts: int
    ) -> list[_Listed]:
        found: dict[str, _Listed] = {}
        after = ""
        while True:
            page = await self._transport.get(
                f"{path}limit={_PAGE}{after}",
                lambda body: parsed(kind, body),
                attempts=attempts,
            )
            fresh = [entry for entry in page.data if entry.id not in found]
            found.update((entry.id, entry) for entry in fresh)
            # A service that ignores `after` gives the same page again.
            if not page.has_more or not fresh:
                return list(found.values())
            after = f"&after={page.data[-1].id}"


def _form(name: str, content: bytes, boundary: str) -> bytes:
    """RFC 7578; a line of JSON Lines begins with `{`, so that the boundary is in none."""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{_PURPOSE}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
