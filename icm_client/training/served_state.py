"""What is known of a served training between two processes: one small JSON file each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from icm_client.errors import TrainingError
from icm_client.record.folder import replace_file

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
