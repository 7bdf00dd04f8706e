"""OpenAI's fine-tuning API: files, jobs and events, over the package's transport.

Source: https://platform.openai.com/docs/api-reference/files and .../fine-tuning. Services differ in
what they answer, so only what is needed here is read, and most of it may be missing.

The SDK's own `files` and `fine_tuning.jobs` are not used: they accept an answer of any shape, and
would miss the transport's retries, deadlines, size limit and redaction.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

import httpx2
from pydantic import BaseModel, Field, ValidationError

from icm_client.endpoints.parsing import Wire, parsed
from icm_client.endpoints.settings import NO_HEADERS, Body
from icm_client.endpoints.transport import Transport

FILES: Final = "/v1/files"
JOBS: Final = "/v1/fine_tuning/jobs"

_PURPOSE: Final = "fine-tune"
_PAGE: Final = 100


class StoredFile(Wire):
    """A file that the service holds."""

    id: str
    filename: str | None = None


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
        """Whether it ended without a model. A job of unknown status is still running."""
        return self.status in ("failed", "cancelled")


class Metrics(BaseModel):
    """The figures of the training in an event; services send more."""

    step: int
    total_steps: int | None = None
    train_loss: float | None = None


class JobEvent(Wire):
    """Something that happened to a job."""

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


_Entry = TypeVar("_Entry", StoredFile, TuningJob)


class _Page(Wire, Generic[_Entry]):
    data: list[_Entry]
    has_more: bool | None = None


class _Events(Wire):
    data: list[JobEvent]


class FineTuningApi:
    """The routes of one service; every method raises `EndpointError` as `Transport.post` does."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        # As many as for a POST: a service that restarts in mid-training must not end it.
        self._attempts = transport.settings.retry.attempts

    async def upload(self, name: str, content: bytes) -> StoredFile:
        """Upload JSON Lines as a training file, unless the service has a file of this name."""

        async def earlier() -> StoredFile | None:
            # Asked once, since it is part of an attempt.
            files = await self._listed(f"{FILES}?purpose={_PURPOSE}&", _Page[StoredFile], 1)
            return next((file for file in files if file.filename == name), None)

        form = httpx2.Request(
            "POST",
            self._transport.url,
            data={"purpose": _PURPOSE},
            files={"file": (name, content, "application/jsonl")},
        )
        # The SDK would write a form of its own if it knew the media type; servers ignore its case
        # (RFC 9110, 8.3.1).
        kind = form.headers["Content-Type"].replace("multipart/form-data", "Multipart/Form-Data")
        return await self._created(
            FILES, form.read(), StoredFile, earlier, headers={"Content-Type": kind}
        )

    async def submit(
        self, job: Body, earlier: Callable[[], Awaitable[TuningJob | None]]
    ) -> TuningJob:
        """Submit a job, unless `earlier`, which is awaited before every attempt, finds one."""
        return await self._created(JOBS, job, TuningJob, earlier)

    async def jobs(self, *, attempts: int | None = None) -> Sequence[TuningJob]:
        """Return all jobs; `attempts` as for `Transport.post`."""
        return await self._listed(f"{JOBS}?", _Page[TuningJob], attempts or self._attempts)

    async def job(self, job: str) -> TuningJob:
        """Return the job of this id."""
        return await self._transport.get(
            f"{JOBS}/{job}", partial(parsed, TuningJob), attempts=self._attempts
        )

    async def events(self, job: str) -> Sequence[JobEvent]:
        """Return the latest events of a job, the oldest first; asked once."""
        found = await self._transport.get(
            f"{JOBS}/{job}/events?limit={_PAGE}", partial(parsed, _Events), attempts=1
        )
        return sorted(found.data, key=lambda event: event.created_at)

    async def _created(
        self,
        path: str,
        body: Body,
        kind: type[_Entry],
        earlier: Callable[[], Awaitable[_Entry | None]],
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> _Entry:
        """Post the body, unless an earlier attempt got through though its answer was lost."""

        async def unless_there() -> Body:
            if (entry := await earlier()) is not None:
                raise _AlreadyThere(entry)
            return body

        try:
            return await self._transport.post(
                path, unless_there, partial(parsed, kind), headers=headers
            )
        except _AlreadyThere as found:
            return kind.model_validate(found.entry)

    async def _listed(self, path: str, kind: type[_Page[_Entry]], attempts: int) -> list[_Entry]:
        found: dict[str, _Entry] = {}
        after = ""
        while True:
            page = await self._transport.get(
                f"{path}limit={_PAGE}{after}", partial(parsed, kind), attempts=attempts
            )
            fresh = [entry for entry in page.data if entry.id not in found]
            found.update((entry.id, entry) for entry in fresh)
            # A service that ignores `after` gives the same page again.
            if not page.has_more or not fresh:
                return list(found.values())
            after = f"&after={page.data[-1].id}"


class _AlreadyThere(Exception):
    """Ends the attempts to create something: it exists."""

    def __init__(self, entry: StoredFile | TuningJob) -> None:
        super().__init__(entry.id)
        self.entry = entry
