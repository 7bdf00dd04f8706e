"""Training on this machine, for real: a tiny model, and the bundled one from its GGUF file."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import make_tiny_model, tiny_examples

from icm_client.endpoints import Endpoint, Read
from icm_client.errors import InputError, SetupError, TrainingError
from icm_client.runs.trainer import Example, Trained, TrainingProgress
from icm_client.training import base_model, local
from icm_client.training.local import LocalTrainer
from icm_client.training.local_settings import LocalSettings, rate_for

pytestmark = pytest.mark.slow

EXAMPLES = tiny_examples()
SETTINGS = LocalSettings(epochs=4, rate=1e-2, batch=8)
STEPS = 24
WORDS = (" positive", " negative")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(trainer_of(tiny, tmp_path_factory.mktemp("first")))


def trainer_of(model: Path | str, folder: Path, **more: Any) -> LocalTrainer:
    return LocalTrainer(str(model), folder=folder, **{"settings": SETTINGS, "threads": 2, **more})


def train(
    trainer: LocalTrainer,
    examples: Sequence[Example] = EXAMPLES,
    *,
    seed: int = 0,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Trained:
    return anyio.run(partial(trainer.train, examples, name="tiny", seed=seed, progress=progress))


def weights(trained: Trained) -> dict[str, Any]:
    (file,) = Path(trained.model).glob("*.safetensors")
    return load_file(file)


def same(one: Trained, other: Trained) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all((left[key] == right[key]).all() for key in left)


async def accuracy(endpoint: Endpoint, examples: Sequence[Example]) -> float:
    wanted = tuple([(await endpoint.tokenize(word, add_special=False))[0] for word in WORDS])
    reads = [
        Read(await endpoint.tokenize(one.prompt, add_special=True), wanted) for one in examples
    ]
    best = [WORDS[max((0, 1), key=a.log_probs.__getitem__)] for a in await endpoint.read(reads)]
    return sum(word == one.label for word, one in zip(best, examples, strict=True)) / len(best)


def accuracies(trainer: LocalTrainer, trained: Trained) -> tuple[float, float]:
    async def both() -> tuple[float, float]:
        async with trainer.open_base() as base, trainer.open(trained) as endpoint:
            assert base.identity.fingerprint != endpoint.identity.fingerprint
            return await accuracy(base, EXAMPLES), await accuracy(endpoint, EXAMPLES)

    return anyio.run(both)


def test_what_is_learned_is_the_labels(tiny: Path, trained: Trained) -> None:
    before, after = accuracies(trainer_of(tiny, Path(trained.model).parent), trained)
    assert before < 0.8
    assert after > 0.95
    assert trained.examples == 48
    assert trained.loss is not None
    assert trained.loss < 0.4
    facts = json.loads((Path(trained.model) / "icm-client.json").read_text("utf-8"))
    assert (facts["steps"], facts["rate"]) == (STEPS, 1e-2)
    assert not list(Path(trained.model).parent.glob("*.partial")), "checkpoints are gone"


def test_the_same_call_finds_what_is_there(
    tiny: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "train_in_child", None)
    assert train(trainer_of(tiny, Path(trained.model).parent)) == trained


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(
    tiny: Path, trained: Trained, tmp_path: Path
) -> None:
    trainer = trainer_of(tiny, tmp_path)
    again = train(trainer)
    assert again.model != trained.model
    assert same(again, trained)
    assert not same(train(trainer, seed=1), trained)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_local import EXAMPLES, train, trainer_of

def die(moment):
    if moment.step == 9:
        os.kill(os.getpid(), signal.SIGKILL)

train(trainer_of({model!r}, Path({folder!r}), checkpoint_s=0.0), progress=die)
"""


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_weights(
    tiny: Path, trained: Trained, tmp_path: Path
) -> None:
    code = KILLED.format(
        here=str(Path(__file__).parent), model=str(tiny), folder=str(tmp_path / "models")
    )
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    (work,) = (tmp_path / "models").glob("*.partial")
    # The child ends with its parent; a checkpoint that it did not finish has no mark, as here.
    broken = work / "checkpoint-20"
    broken.mkdir()
    moments: list[TrainingProgress] = []
    done = train(trainer_of(tiny, tmp_path / "models"), progress=moments.append)
    assert 5 <= moments[0].step <= 12, "not from the start, and not from the broken one"
    assert moments[-1].step == moments[-1].steps == STEPS
    assert same(done, trained)
    assert done.seconds > moments[-1].seconds - moments[0].seconds, "with those before the kill"


def test_the_child_of_a_cancelled_training_ends_with_it(tiny: Path, tmp_path: Path) -> None:
    begun = anyio.Event()

    async def cancelled() -> None:
        trainer = trainer_of(tiny, tmp_path, settings=LocalSettings(epochs=1000, rate=1e-3))
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                await trainer.train(EXAMPLES, name="tiny", seed=0, progress=lambda _: begun.set())

            tasks.start_soon(work)
            await begun.wait()
            assert children()
            tasks.cancel_scope.cancel()

    anyio.run(cancelled)
    assert not children()


def children() -> list[int]:
    """The trainings' processes that this one has started, and that live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == str(os.getpid()) and state != "Z" and b"local_process" in command:
                found.append(int(entry.name))
    return found


def test_a_killed_child_is_reported_and_the_checkpoint_stays(tiny: Path, tmp_path: Path) -> None:
    def kill(moment: TrainingProgress) -> None:
        if moment.step == 5:
            for child in children():
                os.kill(child, signal.SIGKILL)

    trainer = trainer_of(tiny, tmp_path, checkpoint_s=0.0)
    with pytest.raises(TrainingError, match=r"was killed.*memory ran out.*continues"):
        train(trainer, progress=kill)
    (work,) = tmp_path.glob("*.partial")
    assert list(work.glob("checkpoint-*"))


def test_accumulated_passes_are_one_step_and_all_weights_can_be_trained(
    tiny: Path, tmp_path: Path
) -> None:
    examples = EXAMPLES[:21]  # the last pass is a smaller one
    found = []
    for batch, accumulate in ((8, 1), (4, 2)):
        settings = LocalSettings("full", 2, 1e-3, batch, accumulate)
        found.append(train(trainer_of(tiny, tmp_path, settings=settings), examples))
    one, other = map(weights, found)
    assert "model.embed_tokens.weight" in one, "a whole model, not an adapter"
    for key, tensor in one.items():
        assert tensor == pytest.approx(other[key], abs=2e-4), key
    before, after = accuracies(trainer_of(tiny, tmp_path), found[0])
    assert before != after


def test_the_bundled_model_is_trained_from_its_gguf_file(tmp_path: Path) -> None:
    settings = LocalSettings(epochs=4, batch=4)
    trainer = LocalTrainer(folder=tmp_path, settings=settings, threads=2)
    texts = ("a joy from start to end", "I left after an hour", "superb", "dull and far too long")
    examples = [
        Example(f"Review: {text}\nSentiment:", WORDS[number % 2])
        for number, text in enumerate(texts * 2)
    ]
    moments: list[TrainingProgress] = []
    done = train(trainer, examples, progress=moments.append)
    assert done.base == "gemma-3-270m"
    losses = [moment.loss for moment in moments if moment.loss is not None]
    assert losses[0] > 1.0, "a base model that has not seen the task"
    assert done.loss is not None
    assert done.loss < losses[0] - 0.5, losses


def test_labels_that_are_all_the_same_teach_nothing(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="fewer than two different labels"):
        train(trainer_of(tiny, tmp_path), [Example("a", " positive"), Example("b", " positive")])


def test_the_childs_error_is_raised_in_the_parent(tiny: Path, tmp_path: Path) -> None:
    examples = [Example("Review: film", "good"), Example("Review: film", " bad")]
    with pytest.raises(TrainingError, match=r"tiny: example 0 .*no tokens of its own"):
        train(trainer_of(tiny, tmp_path), examples)


def test_a_training_that_diverges_is_reported(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    tensors = load_file(broken / "model.safetensors")
    key = "model.layers.0.mlp.down_proj.weight"
    tensors[key] = torch.full_like(tensors[key], torch.inf)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="became NaN or infinite after step 1: take a lower"):
        train(trainer_of(broken, tmp_path))


def test_a_training_under_way_elsewhere_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    def other(moment: TrainingProgress) -> None:
        if moment.step == 2:
            (lock,) = tmp_path.glob("*.lock")
            folder = Path(str(lock).removesuffix(".lock"))
            said = pytest.raises(TrainingError, match="is being trained by another process")
            with said, local._locked(folder):
                pass

    train(trainer_of(tiny, tmp_path, settings=LocalSettings(epochs=1)), progress=other)


def test_a_missing_extra_is_named_with_the_line_that_installs_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "find_spec", lambda name: None if name == "trl" else name)
    with pytest.raises(SetupError, match=r"needs trl; run: pip install 'icm-client\[train\]'"):
        train(trainer_of(tiny, tmp_path))


def test_a_folder_that_cannot_be_written_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file.* cannot be written"):
        train(trainer_of(tiny, tmp_path / "file"))


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        train(trainer_of(tmp_path / "nothing", tmp_path))


def test_rates_are_the_papers_and_grow_as_models_shrink() -> None:
    assert rate_for(int(8e9), "full") == pytest.approx(1e-5)
    assert rate_for(int(70e9), "lora") == pytest.approx(5e-5)
    sizes = [int(70e9), int(8e9), int(1e9), 268_000_000]
    for method in ("lora", "full"):
        rates = [rate_for(size, method) for size in sizes]
        assert rates == sorted(rates)
    assert rate_for(int(8e9 / 16), "full") == pytest.approx(2e-5)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"rate": 1.5}, {"method": "half"}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        LocalSettings(**wrong)
