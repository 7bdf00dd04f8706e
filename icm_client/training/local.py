"""Training on this machine: torch in a process of its own, one on a CPU or one for each GPU.

A trained model is a folder named by a digest over base, examples, settings and seed. It is written
beside its final place and moved there when it is complete. So the same call finds the model, or
continues from the last checkpoint of a process that was killed.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import anyio
import orjson

from icm_client.cache import cache_folder, share_like
from icm_client.cores import physical_cores
from icm_client.data import JsonValue
from icm_client.data.whole_files import locked
from icm_client.endpoints import Endpoint
from icm_client.errors import TrainingError
from icm_client.runs.trainer import Example, OnTraining, Trained
from icm_client.serving.hardware import detect
from icm_client.serving.model import BUNDLED
from icm_client.training.base_model import FACTS, BaseModel, find_base, require_training
from icm_client.training.examples import check_examples
from icm_client.training.local_process import train_in_child
from icm_client.training.local_settings import LocalSettings, Objective, Orders

FORMAT: Final = 1
"""Increased when a change here trains different weights from the same call."""

_DIGEST_LENGTH: Final = 12
_NAME_LENGTH: Final = 60


@dataclass(frozen=True, slots=True)
class _Training:
    """A training, and the folder of its model."""

    base: BaseModel
    objective: Objective
    rows: list[list[str]]
    name: str
    seed: int
    within: Path
    settings: LocalSettings

    def described(self) -> dict[str, object]:
        """Everything that can change the weights."""
        return {
            "format": FORMAT,
            "base_digest": self.base.digest,
            "objective": self.objective,
            "examples": len(self.rows),
            "examples_digest": hashlib.sha256(orjson.dumps(self.rows)).hexdigest(),
            "settings": asdict(self.settings),
            "seed": self.seed,
        }

    @property
    def folder(self) -> Path:
        packed = orjson.dumps(self.described(), option=orjson.OPT_SORT_KEYS)
        digest = hashlib.sha256(packed).hexdigest()[:_DIGEST_LENGTH]
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", self.name).strip("._-")[:_NAME_LENGTH]
        return self.within / f"{plain or 'model'}-{digest}"


class LocalTrainer:
    """Trains with torch on this machine's GPUs, or its CPU; a `Trainer`.

    Args:
        model: the base model: a folder, a GGUF file, a hub's OWNER/NAME, or `gemma-3-270m` for the
            one of the `local` extra.
        folder: where trained models go; None takes the user's cache folder.
        settings: of the training.
        threads: CPU threads of one training; None takes the physical cores.
        checkpoint_s: seconds between checkpoints: a machine that is taken away loses no more.
        say: called with what takes time before training begins, such as a download.
    """

    def __init__(
        self,
        model: str = BUNDLED,
        *,
        folder: Path | None = None,
        settings: LocalSettings | None = None,
        threads: int | None = None,
        checkpoint_s: float = 120.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings = settings or LocalSettings()
        self._model = model
        self._folder = folder
        self._threads = threads or physical_cores()
        self._checkpoint_s = checkpoint_s
        self._say = say
        self._gpus = _gpus()
        self._free: list[str | None] = [*self._gpus] or [None]
        self._room = anyio.Semaphore(len(self._free))
        self._finding = anyio.Lock()
        self._base: BaseModel | None = None

    @property
    def parallel(self) -> int:
        """A training for each GPU; one where there is none."""
        return max(1, len(self._gpus))

    @property
    def described(self) -> Mapping[str, JsonValue]:
        """As `Trainer.described`."""
        return {"base": self._model, **asdict(self.settings)}

    async def base(self) -> BaseModel:
        """Return the base model; fetched or dequantized the first time. Raises as `find_base`."""
        async with self._finding:
            if self._base is None:
                self._base = await anyio.to_thread.run_sync(find_base, self._model, self._say)
            return self._base

    async def train(
        self,
        examples: Sequence[Example],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """As `Trainer.train`: the loss is that of the labels' tokens alone.

        Raises:
            TrainingError: fewer than two different labels, a label that merges with its prompt,
                too little memory, a folder that cannot be written, or another process works on the
                same training.
            InputError: there is no such base model.
            SetupError: a package is missing.
        """
        check_examples(examples, name)
        rows = [list(example) for example in examples]
        return await self.fit("sft", rows, name=name, seed=seed, progress=progress)

    async def fit(
        self,
        objective: Objective,
        rows: Sequence[Sequence[str]],
        *,
        name: str,
        seed: int,
        progress: OnTraining | None = None,
    ) -> Trained:
        """Train on rows (prompt, label) or (prompt, chosen, rejected), unchecked; see `train`."""
        require_training()
        training = _Training(
            base=await self.base(),
            objective=objective,
            rows=[list(row) for row in rows],
            name=name,
            seed=seed,
            within=self._folder or cache_folder() / "trained",
            settings=self.settings,
        )
        if (found := _kept(training)) is not None:
            return found
        async with self._room:
            with _locked(training.folder):
                return _kept(training) or await self._trained(training, progress)

    def open(self, trained: Trained) -> AbstractAsyncContextManager[Endpoint]:
        """Open the trained model, in this process."""
        return self._opened(Path(trained.model))

    def open_base(self) -> AbstractAsyncContextManager[Endpoint]:
        """Open the base model, in this process."""
        return self._opened(None)

    @asynccontextmanager
    async def _opened(self, trained: Path | None) -> AsyncIterator[Endpoint]:
        from icm_client.training.torch_endpoint import TorchEndpoint  # noqa: PLC0415 - torch

        endpoint = await TorchEndpoint.open(await self.base(), trained)
        try:
            yield endpoint
        finally:
            await endpoint.aclose()

    async def _trained(self, training: _Training, progress: OnTraining | None) -> Trained:
        folder = training.folder
        work = folder.with_name(f"{folder.name}.partial")
        with _writing(work):
            work.mkdir(parents=True, exist_ok=True)
            (work / "examples.json").write_bytes(orjson.dumps(training.rows))
        gpu = self._free.pop()
        try:
            orders = Orders(
                base=training.base.folder,
                examples=work / "examples.json",
                objective=training.objective,
                settings=self.settings,
                seed=training.seed,
                work=work,
                threads=self._threads,
                device="cpu" if gpu is None else "cuda",
                checkpoint_s=self._checkpoint_s,
            )
            report = await train_in_child(orders, name=training.name, gpu=gpu, progress=progress)
        finally:
            self._free.append(gpu)
        facts = {
            "name": training.name,
            "base": training.base.name,
            **training.described(),
            "rate": report.rate,
            "steps": report.steps,
            "loss": report.loss,
            "seconds": round(report.seconds, 1),
        }
        with _writing(work):
            (work / "model" / FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")
            share_like(work / "model" / FACTS)
            (work / "model").replace(folder)
            shutil.rmtree(work)
        found = _kept(training)
        if found is None:
            raise TrainingError(f"{folder}: the trained model has been deleted")
        return found


def _kept(training: _Training) -> Trained | None:
    """The model, if an earlier call has trained it."""
    path = training.folder / FACTS
    try:
        facts = json.loads(path.read_bytes())
        return Trained(
            name=training.name,
            model=str(training.folder),
            base=training.base.name,
            examples=len(training.rows),
            loss=facts["loss"],
            seconds=facts["seconds"],
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"{path} is damaged ({error}). Move the folder away, and the same command trains again"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    busy = TrainingError(
        f"{folder.name} is being trained by another process (in {folder.parent}): wait for it, or "
        "end it and run the same command again"
    )
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(folder.with_name(f"{folder.name}.lock"), busy, timeout_s=1.0)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written ({error.strerror}): make room, or name another folder"
        ) from error


def _gpus() -> tuple[str, ...]:
    """For each GPU, the CUDA_VISIBLE_DEVICES with which a child sees that one alone."""
    found = len(detect().gpus)
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(found)) if chosen is None else chosen.split(",")
    return tuple(name.strip() for name in names)[:found]
