"""A reward model learns from pairs which response is preferred, also of other pairs."""

import math
from functools import partial
from pathlib import Path

import anyio
import pytest
from tiny_model import make_tiny_model, tiny_pairs

from icm_client.data import Task, rows_from
from icm_client.errors import InputError, TrainingError
from icm_client.runs.trainer import Trained
from icm_client.training.examples import Pair, task_examples, task_pairs
from icm_client.training.local import LocalTrainer
from icm_client.training.local_settings import LocalSettings
from icm_client.training.reward_model import LocalRewardTrainer

pytestmark = pytest.mark.slow

PAIRS = Task(
    template="Prompt: {prompt}\nA: {one}\nB: {two}\nClaim: A is better.\nI think this claim is",
    labels=("True", "False"),
    exchange=("one", "two"),
)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_prefers_what_was_preferred_in_pairs_it_has_not_seen(
    method: str, tmp_path: Path
) -> None:
    pairs = tiny_pairs()
    seen, unseen = pairs[:27], pairs[27:]
    assert not set(seen) & set(unseen)
    settings = LocalSettings(method, 5, 1e-2, 9)  # type: ignore[arg-type]
    model = make_tiny_model(tmp_path / "tiny")
    trainer = LocalRewardTrainer(
        LocalTrainer(str(model), folder=tmp_path / "models", settings=settings, threads=2)
    )

    async def both() -> tuple[Trained, float, float, list[bool]]:
        done = await trainer.train(seen, name="pairs", seed=0)
        assert await trainer.train(seen, name="pairs", seed=0) == done
        exchanged = [(pair.prompt, pair.rejected, pair.chosen) for pair in unseen]
        async with trainer.open(done) as reward:
            return (
                done,
                await reward.accuracy(seen),
                await reward.accuracy(unseen),
                await reward.prefers_first(exchanged),
            )

    done, on_seen, on_unseen, exchanged = anyio.run(both)
    assert done.loss is not None
    assert done.loss < math.log(2) / 2
    assert on_seen > 0.9
    assert on_unseen > 0.8
    assert sum(exchanged) / len(exchanged) == pytest.approx(1 - on_unseen)


def test_a_pair_that_prefers_nothing_is_refused(tmp_path: Path) -> None:
    trainer = LocalRewardTrainer(LocalTrainer(str(tmp_path), folder=tmp_path))
    pairs = [Pair("p", " a", " b"), Pair("p", " a", " a")]
    with pytest.raises(TrainingError, match=r"pair 1 .*the same response twice"):
        anyio.run(partial(trainer.train, pairs, name="pairs", seed=0))
    with pytest.raises(TrainingError, match="no pairs"):
        anyio.run(partial(trainer.train, [], name="pairs", seed=0))


def test_labels_on_pairs_say_which_response_is_chosen() -> None:
    rows = [{"prompt": f"q{n}", "one": f"a{n}", "two": f"b{n}"} for n in range(3)]
    labels = ("True", "False", None)
    assert task_pairs(PAIRS, rows_from(rows), labels) == [
        Pair("q0\n", "a0", "b0"),
        Pair("q1\n", "b1", "a1"),
    ]
    examples = task_examples(PAIRS, rows_from(rows), labels)
    assert [example.label for example in examples] == [" True", " False", " False", " True"]
    assert "A: b0\nB: a0" in examples[1].prompt


def test_a_task_without_pairs_makes_no_reward_model() -> None:
    task = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
    with pytest.raises(InputError, match="exchange = "):
        task_pairs(task, rows_from(["a", "b"]), ("positive", "negative"))
