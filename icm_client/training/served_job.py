"""One training by a service: from examples to a job, and from a job to a model.

Each step looks first at what the service holds already, and notes what it is about to do, so that
a process which dies between any two of them is followed by one that goes on.

What is known of a served training between two processes: one small JSON file each.
"""

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal, Self

import anyio
import orjson
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from icm_client.endpoints.exchange import Body
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    InputError,
    RequestRefused,
    TrainingError,
)
from icm_client.record.folder import replace_file
from icm_client.runs.trainer import Example, OnTraining, TrainingProgress
from icm_client.training.fine_tuning_api import FineTuningApi, JobEvent, TuningJob

WAIT_GROWTH: Final = 1.5
"""Each wait for a job is this many times the one before."""


@dataclass(frozen=True, slots=True)
class ServedSettings:
    """What a user may set about a training by a service.

    Attributes:
        epochs: passes over the examples; None leaves it to the service.
        learning_rate_multiplier: as the service understands it; None leaves it to the service.
        batch_size: examples a step; None leaves it to the service.
        format: how examples are written: `completion`, a prompt and what follows it, as the scorer
            reads a model; or `chat`, a message and its answer, which chat models take only.
        parallel: trainings that may run at the same time.
        first_poll_s: seconds until a job is looked at again; half as long again each time.
        longest_poll_s: where that ends.
        deadline_s: how long one call waits for a job, in seconds; the job itself goes on.
        missing_polls: looks in a row that do not find the job, after which it is given up.
        served_within_s: how long `open` waits for a trained model to be served.
    """

    epochs: int | None = 3
    learning_rate_multiplier: float | None = None
    batch_size: int | None = None
    format: Literal["completion", "chat"] = "completion"
    parallel: int = 4
    first_poll_s: float = 2.0
    longest_poll_s: float = 60.0
    deadline_s: float = 24 * 3600.0
    missing_polls: int = 5
    served_within_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing could be trained or awaited; raises `InputError`."""
        for name, value in asdict(self).items():
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"{name} must be over 0, not {value}")

    @property
    def hyperparameters(self) -> dict[str, float]:
        """What is told to the service, under its names."""
        given = {
            "n_epochs": self.epochs,
            "learning_rate_multiplier": self.learning_rate_multiplier,
            "batch_size": self.batch_size,
        }
        return {name: value for name, value in given.items() if value is not None}


METADATA_KEY: Final = "icm_client"
"""Under which the digest stands in a job's metadata."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A training, as the service is told of it.

    Attributes:
        name: as the caller gave it.
        base: the model that is trained from.
        content: the training file.
        digest: hex, over examples, base, name, seed and settings: which training it is.
        seed: of the service's own randomness.
        hyperparameters: under the service's names.
    """

    name: str
    base: str
    content: bytes
    digest: str
    seed: int
    hyperparameters: dict[str, float]

    @classmethod
    def of(
        cls, examples: Sequence[Example], base: str, name: str, seed: int, settings: ServedSettings
    ) -> Self:
        """Write the examples down, in an order drawn from `seed`.

        Raises:
            TrainingError: they bear fewer than two different labels.
        """
        if len({example.label for example in examples}) < 2:  # noqa: PLR2004
            raise TrainingError(
                f"{name}: the {len(examples)} examples bear fewer than two different labels, from "
                "which there is nothing to learn"
            )
        ordered = list(examples)
        random.Random(seed).shuffle(ordered)  # noqa: S311 - an order, not a secret
        chat = settings.format == "chat"
        content = b"".join(orjson.dumps(_line(one, chat=chat)) + b"\n" for one in ordered)
        given = settings.hyperparameters
        facts = {"base": base, "name": name, "seed": seed, "hyperparameters": given}
        told = json.dumps(facts, sort_keys=True).encode()
        digest = blake2b(told + b"\n" + content, digest_size=16, person=b"icm training")
        return cls(name, base, content, digest.hexdigest(), seed, given)

    @property
    def file_name(self) -> str:
        """What the uploaded file is called."""
        return f"icm-{self.digest}.jsonl"

    @property
    def suffix(self) -> str:
        """Part of the model's name; the shortest limit that services have is 18 characters."""
        return f"icm-{self.digest[:12]}"

    def body(self, file: str) -> Body:
        """Return what submits the job."""
        return {
            "model": self.base,
            "training_file": file,
            "seed": self.seed % 2**31,
            "suffix": self.suffix,
            "metadata": {METADATA_KEY: self.digest},
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": self.hyperparameters},
            },
        }

    def owns(self, job: TuningJob, file: str | None) -> bool:
        """Whether the job is this training; services differ in what of it they repeat."""
        return (
            (job.metadata or {}).get(METADATA_KEY) == self.digest
            or self.suffix in (job.suffix, job.user_provided_suffix)
            or (file is not None and job.training_file == file)
        )


def _line(example: Example, *, chat: bool) -> dict[str, object]:
    if not chat:
        return {"prompt": example.prompt, "completion": example.label}
    asked = {"role": "user", "content": example.prompt}
    return {"messages": [asked, {"role": "assistant", "content": example.label}]}


Stage = Literal["uploading", "uploaded", "submitting", "submitted", "succeeded", "failed"]
"""How far a training is. `uploading` and `submitting` are written before the request is sent."""


class TrainingState(BaseModel):
    """How far a training is.

    Attributes:
        icm_client_training: the file's format.
        name: of the training.
        url: of the service.
        base: the model that is trained from.
        digest: hex, over examples, base, name, seed and settings: which training it is.
        began: when it was first begun, seconds since 1970.
        stage: how far it is.
        file: id of the uploaded file.
        job: id of the job.
        model: what the service calls the model.
        loss: the last training loss told, nats.
        seconds: what the training took.
        reason: why it failed.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    icm_client_training: Literal[1] = 1
    name: str
    url: str
    base: str
    digest: str
    began: float
    stage: Stage = "uploading"
    file: str | None = None
    job: str | None = None
    model: str | None = None
    loss: float | None = None
    seconds: float | None = None
    reason: str | None = None


class StateFile:
    """The state of one training, on the disk before and after every request; made with `locked`."""

    def __init__(self, path: Path, state: TrainingState) -> None:
        self.path = path
        self.state = state

    @classmethod
    @contextmanager
    def locked(cls, path: Path, new: TrainingState) -> Iterator[Self]:
        """Give the state in `path`, or `new` where there is none, while nobody else has it.

        Raises:
            TrainingError: another process or task has it, or it cannot be read or written.
        """
        lock = FileLock(f"{path}.lock", timeout=0, thread_local=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise TrainingError(
                f"the training {new.name} is under way in another process (state: {path}): wait "
                "for it, or end it and make the same call again"
            ) from None
        except OSError as error:
            raise TrainingError(f"{path.parent}: cannot be written: {error.strerror}") from error
        try:
            yield cls(path, _read(path) or new)
        finally:
            lock.release()

    def note(self, stage: Stage, **facts: str | float | None) -> None:
        """Write down how far the training is.

        Raises:
            TrainingError: the file cannot be written.
        """
        self.state = self.state.model_copy(update={"stage": stage, **facts})
        try:
            replace_file(self.path, self.state.model_dump_json(indent=2).encode())
        except OSError as error:
            raise TrainingError(
                f"{self.path}: the training's state cannot be written: {error.strerror}. Make room "
                "or make it writable, then make the same call again"
            ) from error


def _read(path: Path) -> TrainingState | None:
    try:
        return TrainingState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError:
        # Outside the handler: pydantic's error holds the whole file.
        reason = "no state of a training, or a newer version's"
    raise TrainingError(
        f"{path}: {reason}. Delete the file: the service's list of jobs is searched for this "
        "training before another one is submitted"
    )


_SAME_CALL: Final = "the same call submits it anew"


class _AlreadyThere(Exception):
    """Ends the attempts to upload or submit: an earlier one got through."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.id = name


class ServedJob:
    """A submission on its way to a model.

    Args:
        api: the service.
        submission: what is trained.
        noted: how far it is; kept up to date.
        settings: how long is waited.
        progress: told at every look at the job.
    """

    def __init__(
        self,
        api: FineTuningApi,
        submission: Submission,
        noted: StateFile,
        settings: ServedSettings,
        progress: OnTraining | None,
    ) -> None:
        self._api = api
        self._submission = submission
        self._noted = noted
        self._settings = settings
        self._progress = progress
        self._where = f"{noted.state.url}: the training {submission.name} of {submission.base}"

    async def finish(self) -> None:
        """Return once there is a model, as the state then says.

        Raises:
            TrainingError: it failed, was cancelled, vanished, or takes too long.
            EndpointError: the service does not answer, or refuses.
        """
        state = self._noted.state
        if state.stage == "submitted" and state.job is not None:
            job_id = state.job
        else:
            job_id = await self._submitted(await self._uploaded())
            self._noted.note("submitted", job=job_id)
        await self._await(job_id)

    async def _uploaded(self) -> str:
        """The training file's id, whoever uploaded it."""
        submission = self._submission
        if self._noted.state.stage == "failed":  # an earlier job, which is done with
            self._noted.note("uploading", job=None, reason=None, began=time.time())
        else:
            self._noted.note("uploading")
        try:
            file = (
                await self._api.upload(
                    submission.file_name, submission.content, first=self._look_for_file
                )
            ).id
        except _AlreadyThere as found:
            file = found.id
        self._noted.note("uploaded", file=file)
        return file

    async def _look_for_file(self) -> None:
        for one in await self._api.files():
            if one.filename == self._submission.file_name:
                raise _AlreadyThere(one.id)

    async def _submitted(self, file: str) -> str:
        """The job's id, whoever submitted it."""

        async def look_for_job() -> None:
            # Once: what fails here is an attempt to submit that failed.
            if (job := await self._found(file, attempts=1)) is not None:
                raise _AlreadyThere(job.id)

        self._noted.note("submitting")
        try:
            return (await self._api.create(self._submission.body(file), first=look_for_job)).id
        except _AlreadyThere as found:
            return found.id

    async def _found(
        self, file: str | None, *, but: str | None = None, attempts: int | None = None
    ) -> TuningJob | None:
        """The job of this submission that is alive or has a model; the oldest, were there two."""
        jobs = [
            job
            for job in await self._api.jobs(attempts=attempts)
            if self._submission.owns(job, file) and not job.is_dead and job.id != but
        ]
        return min(jobs, key=lambda job: (job.created_at or 0.0, job.id), default=None)

    async def _await(self, job_id: str) -> None:
        settings = self._settings
        ends = anyio.current_time() + settings.deadline_s
        wait, missing = settings.first_poll_s, 0
        while True:
            try:
                job = await self._api.job(job_id)
            except AuthenticationRefused:
                raise
            except RequestRefused as error:
                missing += 1
                job_id = await self._missed(job_id, missing, error)
            else:
                missing = 0
                if job.succeeded or job.is_dead:
                    await self._end(job)
                    return
                await self._tell(job)
            if anyio.current_time() + wait > ends:
                raise TrainingError(
                    f"{self._where} is not done after {settings.deadline_s:,.0f} s; the job "
                    f"{job_id} goes on. The same call awaits it further; cancel it at the service "
                    "if it is not wanted any more"
                )
            await anyio.sleep(wait)
            wait = min(wait * WAIT_GROWTH, settings.longest_poll_s)

    async def _missed(self, job_id: str, times: int, error: RequestRefused) -> str:
        """The id to look for next, when the service has no job of this one."""
        other = await self._found(self._noted.state.file, but=job_id)
        if other is not None:
            self._noted.note("submitted", job=other.id)
            return other.id
        if times < self._settings.missing_polls:  # a job that is new may not be everywhere yet
            return job_id
        raise self._failed(f"the job {job_id} has vanished: {error}")

    async def _end(self, job: TuningJob) -> None:
        events = await self._events(job)
        if job.is_dead:
            told = (job.error and job.error.message) or _last_words(events)
            raise self._failed(
                f"the job {job.id} {_ENDED[job.status]}{f': {told}' if told else ''}"
            )
        if not job.fine_tuned_model:
            raise self._failed(f"the job {job.id} succeeded, but the service names no model")
        took = (
            job.finished_at - job.created_at
            if job.finished_at is not None and job.created_at is not None
            else time.time() - self._noted.state.began
        )
        self._noted.note(
            "succeeded",
            job=job.id,
            model=job.fine_tuned_model,
            loss=self._moment(events).loss,
            seconds=max(took, 0.0),
        )

    def _failed(self, reason: str) -> TrainingError:
        """The error, noted as the training's end: what comes after it begins anew."""
        self._noted.note("failed", reason=reason)
        return TrainingError(f"{self._where}: {reason}; {_SAME_CALL}")

    async def _tell(self, job: TuningJob) -> None:
        if self._progress is not None:
            self._progress(self._moment(await self._events(job)))

    async def _events(self, job: TuningJob) -> Sequence[JobEvent]:
        """None where the service has no events to tell, or not now: they decide nothing."""
        try:
            return await self._api.events(job.id)
        except EndpointError:
            return ()

    def _moment(self, events: Sequence[JobEvent]) -> TrainingProgress:
        told = [metrics for event in events if (metrics := event.metrics) is not None]
        latest = max(told, key=lambda metrics: metrics.step, default=None)
        return TrainingProgress(
            name=self._submission.name,
            step=latest.step if latest else 0,
            steps=latest.total_steps if latest else None,
            loss=latest.train_loss if latest else None,
            seconds=max(time.time() - self._noted.state.began, 0.0),
        )


_ENDED: Final = {"failed": "failed", "cancelled": "was cancelled"}


def _last_words(events: Sequence[JobEvent]) -> str:
    """The latest message that says what went wrong, or nothing."""
    said = [event.message for event in events if event.level == "error" and event.message]
    return said[-1] if said else ""
