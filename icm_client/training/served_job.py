"""One training by a service: what is submitted, how far it is, and the way to a model.

A digest over examples, base model, name, seed and settings identifies the training. It is the
uploaded file's name, and stands in the job's metadata and suffix. Each step first looks for the
digest at the service, and records what it is about to do, so that a process that dies between any
two steps is followed by one that continues.
"""

import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal, Self

import anyio
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from icm_client.data.whole_files import locked, replace_file
from icm_client.endpoints.settings import Body
from icm_client.errors import (
    AuthenticationRefused,
    EndpointError,
    InputError,
    RequestRefused,
    TrainingError,
)
from icm_client.runs.trainer import Example, OnTraining, TrainingProgress
from icm_client.training.examples import chat_messages, check_examples
from icm_client.training.fine_tuning_api import FineTuningApi, JobEvent, TuningJob

METADATA_KEY: Final = "icm_client"
"""The key of the digest in a job's metadata."""

WAIT_GROWTH: Final = 1.5
"""Each wait for a job is this many times the one before."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ServedSettings:
    """What a user may set about a training by a service.

    Attributes:
        epochs: passes over the examples; None leaves it to the service.
        learning_rate_multiplier: as the service understands it; None leaves it to the service.
        batch_size: examples a step; None leaves it to the service.
        format: how examples are written: `completion`, a prompt and what follows it, as the scorer
            reads a model; or `chat`, a message and its answer, the only format that chat models
            accept.
        parallel: trainings that may run at the same time.
        first_poll_s: seconds until a job is looked at again; each wait is half as long again.
        longest_poll_s: the longest wait, in seconds.
        deadline_s: how long one call waits for a job, in seconds; the job itself continues.
        missing_polls: after this many looks in a row that do not find the job, it is given up.
        served_within_s: how long `open` waits for a trained model to be served, in seconds.

    Raises:
        InputError: a number is not over 0.
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
        """Refuse numbers with which nothing could be trained or awaited."""
        for name, value in asdict(self).items():
            if isinstance(value, int | float) and not value > 0:
                raise InputError(f"{name} must be over 0, not {value}")

    @property
    def hyperparameters(self) -> dict[str, float]:
        """What is sent to the service, under its names."""
        given = {
            "n_epochs": self.epochs,
            "learning_rate_multiplier": self.learning_rate_multiplier,
            "batch_size": self.batch_size,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Submission:
    """A training as it is submitted to a service.

    Attributes:
        name: as the caller gave it.
        base: the model that is trained from.
        content: the training file.
        digest: hex; identifies the training.
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
        """Write the examples as a training file, in an order drawn from `seed`."""
        check_examples(examples, name)
        ordered = list(examples)
        random.Random(seed).shuffle(ordered)  # noqa: S311 - an order, not a secret
        lines = (
            chat_messages(one)
            if settings.format == "chat"
            else {"prompt": one.prompt, "completion": one.label}
            for one in ordered
        )
        content = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        given = settings.hyperparameters
        facts = {"base": base, "name": name, "seed": seed, "hyperparameters": given}
        packed = json.dumps(facts, sort_keys=True).encode()
        digest = blake2b(packed + b"\n" + content, digest_size=16, person=b"icm training")
        return cls(name, base, content, digest.hexdigest(), seed, given)

    @property
    def file_name(self) -> str:
        """The uploaded file's name."""
        return f"icm-{self.digest}.jsonl"

    @property
    def suffix(self) -> str:
        """Part of the model's name; the shortest limit that services have is 18 characters."""
        return f"icm-{self.digest[:12]}"

    def body(self, file: str) -> Body:
        """Return the request that submits the job, for the uploaded file of this id."""
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


Stage = Literal["uploading", "uploaded", "submitting", "submitted", "succeeded", "failed"]
"""How far a training is. `uploading` and `submitting` are written before the request is sent."""


class TrainingState(BaseModel):
    """How far a training is.

    Attributes:
        icm_client_training: the file's format.
        name: of the training.
        url: of the service.
        base: the model that is trained from.
        digest: as of `Submission`.
        began: when it was first begun, seconds since 1970.
        stage: how far it is.
        file: id of the uploaded file.
        job: id of the job.
        model: the trained model's name at the service.
        loss: the last training loss that the service reported, nats.
        seconds: duration of the training.
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
    """One training's state, written before and after every request; made with `locked`."""

    def __init__(self, path: Path, state: TrainingState) -> None:
        self.path = path
        self.state = state

    @classmethod
    @contextmanager
    def locked(cls, folder: Path, submission: Submission, url: str) -> Iterator[Self]:
        """Yield the state of the training at the service of this URL, a new one if there is none.

        Raises:
            TrainingError: another process or task holds it, or it cannot be read or written.
        """
        stem = _UNSAFE.sub("_", submission.name).strip("_-")[:40] or "training"
        place = blake2b(f"{url} {submission.digest}".encode(), digest_size=8).hexdigest()
        path = folder / f"{stem}-{place}.json"
        busy = TrainingError(
            f"the training {submission.name} is under way in another process: wait for it, or end "
            f"it and make the same call again (state: {path})"
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = locked(Path(f"{path}.lock"), busy)
        except OSError as error:
            raise TrainingError(f"{folder}: cannot be written: {error.strerror}") from error
        new = TrainingState(
            name=submission.name,
            url=url,
            base=submission.base,
            digest=submission.digest,
            began=time.time(),
        )
        try:
            yield cls(path, _read(path) or new)
        finally:
            lock.release()

    def note(self, stage: Stage, **facts: str | float | None) -> None:
        """Record how far the training is."""
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
        # Raised below, outside the handler: pydantic's error holds the whole file.
        reason = "not the state of a training, or a newer version's"
    raise TrainingError(
        f"{path}: {reason}. Delete the file: the service's list of jobs is searched for this "
        "training before another one is submitted"
    )


class ServedJob:
    """A submission on its way to a model."""

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

    async def finish(self) -> None:
        """Return once there is a model; the state then names it.

        Raises:
            TrainingError: it failed, was cancelled, vanished or takes too long; or the service
                refuses it or has no such API.
            EndpointError: the service does not answer, or refuses the key.
        """
        state = self._noted.state
        try:
            if state.stage == "submitted" and state.job is not None:
                await self._wait_for(state.job)
            else:
                await self._wait_for(await self._submitted(await self._uploaded()))
        except AuthenticationRefused:
            raise
        except RequestRefused as error:
            raise TrainingError(
                f"{state.url} does not accept the training: {error}. It needs OpenAI's fine-tuning "
                f"API (/v1/files, /v1/fine_tuning/jobs), and {state.base} must be a model that may "
                "be fine-tuned there"
            ) from None

    async def _uploaded(self) -> str:
        """The training file's id, by whichever process it was uploaded."""
        if self._noted.state.stage == "failed":  # an earlier job, which is over
            self._noted.note("uploading", job=None, reason=None, began=time.time())
        else:
            self._noted.note("uploading")
        file = await self._api.upload(self._submission.file_name, self._submission.content)
        self._noted.note("uploaded", file=file.id)
        return file.id

    async def _submitted(self, file: str) -> str:
        """The job's id, by whichever process it was submitted."""
        self._noted.note("submitting")
        job = await self._api.submit(
            self._submission.body(file),
            # Once: a look that fails is an attempt to submit that failed.
            lambda: self._found(file, attempts=1),
        )
        self._noted.note("submitted", job=job.id)
        return job.id

    async def _found(
        self, file: str | None, *, but: str | None = None, attempts: int | None = None
    ) -> TuningJob | None:
        """This submission's job that runs or has a model; of two, the older one."""
        jobs = [
            job
            for job in await self._api.jobs(attempts=attempts)
            if self._submission.owns(job, file) and not job.is_dead and job.id != but
        ]
        return min(jobs, key=lambda job: (job.created_at or 0.0, job.id), default=None)

    async def _wait_for(self, job_id: str) -> None:
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
                job_id = await self._missing(job_id, missing, error)
            else:
                missing = 0
                if job.succeeded or job.is_dead:
                    await self._end(job)
                    return
                if self._progress is not None:
                    self._progress(self._progress_of(await self._events(job)))
            if anyio.current_time() + wait > ends:
                raise TrainingError(
                    f"{self._title} is not done after {settings.deadline_s:,.0f} s, and the job "
                    f"{job_id} goes on. Make the same call again to wait for it, or cancel it at "
                    "the service"
                )
            await anyio.sleep(wait)
            wait = min(wait * WAIT_GROWTH, settings.longest_poll_s)

    async def _missing(self, job_id: str, times: int, error: RequestRefused) -> str:
        """The id to look for next when the service does not find this one."""
        other = await self._found(self._noted.state.file, but=job_id)
        if other is not None:
            self._noted.note("submitted", job=other.id)
            return other.id
        if times < self._settings.missing_polls:  # a new job may not be known everywhere yet
            return job_id
        raise self._failed(f"the job {job_id} has vanished: {error}")

    async def _end(self, job: TuningJob) -> None:
        events = await self._events(job)
        if job.is_dead:
            errors = [one.message for one in events if one.level == "error" and one.message]
            why = (job.error and job.error.message) or (errors[-1] if errors else "")
            how = "was cancelled" if job.status == "cancelled" else job.status
            raise self._failed(f"the job {job.id} {how}{f': {why}' if why else ''}")
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
            loss=self._progress_of(events).loss,
            seconds=max(took, 0.0),
        )

    def _failed(self, reason: str) -> TrainingError:
        """The error; the state records that the next call begins anew."""
        self._noted.note("failed", reason=reason)
        return TrainingError(f"{self._title}: {reason}; the same call submits it anew")

    @property
    def _title(self) -> str:
        state = self._noted.state
        return f"{state.url}: the training {state.name} of {state.base}"

    async def _events(self, job: TuningJob) -> Sequence[JobEvent]:
        """None where the service gives no events now: nothing depends on them."""
        try:
            return await self._api.events(job.id)
        except EndpointError:
            return ()

    def _progress_of(self, events: Sequence[JobEvent]) -> TrainingProgress:
        found = [metrics for event in events if (metrics := event.metrics) is not None]
        latest = max(found, key=lambda metrics: metrics.step, default=None)
        return TrainingProgress(
            name=self._submission.name,
            step=latest.step if latest else 0,
            steps=latest.total_steps if latest else None,
            loss=latest.train_loss if latest else None,
            seconds=max(time.time() - self._noted.state.began, 0.0),
        )
