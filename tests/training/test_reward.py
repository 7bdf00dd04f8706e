"""Labels on a few pairs, a reward model, labels on many, the final reward model."""

import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from filelock import FileLock
from planted_reward import TASK, PlantedRewardTrainer, concept, quality, rows_of

from icm_client import Labels, Task, label
from icm_client.data import Dataset, JsonValue
from icm_client.data.job import Job
from icm_client.errors import InputError, RunError, RunStopped, TrainingError
from icm_client.runs.trainer import Trained, TrainingProgress
from icm_client.testing import PlantedConcept
from icm_client.training.examples import Pair
from icm_client.training.reward import (
    LabelFew,
    OnStep,
    RewardPlan,
    RewardSteps,
    Scored,
    Step,
    plan_reward,
    reward_in_three_steps,
)
from icm_client.training.reward_scores import BATCH, ScoreFile, Scores, measured

N, FIRST, TESTED = 400, 40, 200
BLIND = Task(**{**TASK.model_dump(), "gold": None})


def plan_of(seed: int = 0, **options: Any) -> RewardPlan:
    job, test = Job.prepare(rows_of(N), TASK), Job.prepare(rows_of(TESTED, seed=1), TASK)
    return plan_reward(job, **{"first": FIRST, "test": test, "seed": seed, **options})


def by_icm(plan: RewardPlan, folder: Path, endpoint: PlantedConcept | None = None) -> LabelFew:
    async def label_few(rows: Dataset) -> Labels:
        return await label(
            rows, task=BLIND, endpoint=endpoint or concept(plan.job), store=folder / "store"
        )

    return label_few


async def ran(
    plan: RewardPlan,
    folder: Path,
    trainer: PlantedRewardTrainer | None = None,
    *,
    label_few: LabelFew | None = None,
    progress: OnStep = lambda _step, _at: None,
) -> RewardSteps:
    return await reward_in_three_steps(
        plan,
        label_few=label_few or by_icm(plan, folder),
        trainer=trainer or PlantedRewardTrainer(folder / "models"),
        folder=folder / "out",
        progress=progress,
    )


async def test_the_final_model_is_better_than_the_first(tmp_path: Path) -> None:
    plan, trainer = plan_of(), PlantedRewardTrainer(tmp_path / "models")
    reported: list[tuple[Step, TrainingProgress | Scored]] = []
    done = await ran(plan, tmp_path, trainer, progress=lambda step, at: reported.append((step, at)))
    assert trainer.trained == ["reward-first", "reward-final"]
    assert (len(trainer.pairs["reward-first"]), len(trainer.pairs["reward-final"])) == (FIRST, N)
    assert (len(done.few), len(done.many), done.ties) == (FIRST, N, 0)
    assert done.few_accuracy is not None
    assert done.many_accuracy is not None
    assert done.few_accuracy > 0.9
    assert 0.6 < done.many_accuracy < done.few_accuracy, "a model that saw 40 pairs errs"
    assert done.test is not None
    assert done.test.pairs == TESTED
    assert done.test.final.share > done.test.first.share > 0.6
    assert done.test.gained.share == pytest.approx(done.test.final.share - done.test.first.share)
    low, high = done.test.gained.interval
    assert low < done.test.gained.share < high
    assert 0.4 < done.test.longer.share < 0.6
    low, high = done.test.final.interval
    assert low < done.test.final.share < high
    assert list(dict.fromkeys(step for step, _ in reported)) == ["first", "scores", "final", "test"]
    assert [at for step, at in reported if step == "scores"][-1] == Scored(N, N)


async def test_pairs_are_those_of_the_labels(tmp_path: Path) -> None:
    plan, trainer = plan_of(), PlantedRewardTrainer(tmp_path / "models")
    done = await ran(plan, tmp_path, trainer)
    for name, labels in (("reward-first", done.few), ("reward-final", done.many)):
        for row, pair in zip(sorted(labels), trainer.pairs[name], strict=True):
            fields = plan.job.dataset.rows[row].fields
            chosen, rejected = ("one", "two") if labels[row] == "True" else ("two", "one")
            assert pair == (f"{fields['prompt']}\n", fields[chosen], fields[rejected])
    assert tuple(sorted(done.few)) == plan.first


async def test_gold_reaches_no_step(tmp_path: Path) -> None:
    def run(rows: list[dict[str, JsonValue]]) -> RewardPlan:
        return plan_reward(Job.prepare(rows, TASK), first=FIRST)

    true = rows_of(N)
    wrong = [{**row, "better": {"True": "False"}.get(str(row["better"]), "True")} for row in true]
    seen: list[Dataset] = []
    trained = []
    for name, rows in (("true", true), ("wrong", wrong), ("none", rows_of(N, gold=False))):
        plan, trainer = run(rows), PlantedRewardTrainer(tmp_path / name)
        inner = by_icm(plan, tmp_path / name)

        async def label_few(dataset: Dataset, inner: LabelFew = inner) -> Labels:
            seen.append(dataset)
            return await inner(dataset)

        await ran(plan, tmp_path / name, trainer, label_few=label_few)
        trained.append(trainer.pairs)
    assert trained[0] == trained[1] == trained[2]
    assert all(one.gold is None and one.gold_field is None for one in seen)
    assert all("better" not in row.fields for one in seen for row in one.rows)


def test_the_sample_is_the_seeds_and_the_first_pairs_are_among_the_many() -> None:
    plans = [plan_of(seed, many=100) for seed in (0, 0, 1)]
    assert plans[0].first == plans[1].first != plans[2].first
    assert set(plans[0].first) < set(plans[0].many)
    assert [len(plan.many) for plan in plans] == [100, 100, 100]
    assert plan_of().many == tuple(range(N))


async def test_the_same_call_again_reads_trains_and_scores_nothing(tmp_path: Path) -> None:
    plan = plan_of()
    first = await ran(plan, tmp_path)
    silent, later = concept(plan.job), PlantedRewardTrainer(tmp_path / "models")
    again = await ran(plan, tmp_path, later, label_few=by_icm(plan, tmp_path, silent))
    assert silent.usage.requests == 0
    assert (later.trained, later.scored) == ([], 0)
    assert again.summary() == first.summary()


KILLED = """
import os, signal, sys
from pathlib import Path
import anyio
sys.path.insert(0, {here!r})
from test_reward import plan_of, ran

def die(step, at):
    if step == "scores" and at.done >= 128:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    await ran(plan_of(), Path({folder!r}), progress=die)

anyio.run(main)
"""


@pytest.mark.slow
async def test_killed_while_scoring_it_continues_from_there(tmp_path: Path) -> None:
    plan = plan_of()
    undisturbed = await ran(plan, tmp_path / "whole")
    folder = tmp_path / "killed"
    code = KILLED.format(here=str(Path(__file__).parent), folder=str(folder))
    killed = await anyio.run_process([sys.executable, "-W", "ignore", "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    (scores,) = (folder / "out").glob("scores-*.jsonl")
    with scores.open("ab") as file:
        file.write(b"[0.25")  # a line that a process was killed in the middle of
    trainer = PlantedRewardTrainer(folder / "models")
    done = await ran(plan, folder, trainer)
    assert trainer.trained == ["reward-final"]
    assert trainer.scored == 2 * (N - 128) + 2 * 2 * TESTED
    assert done.many == undisturbed.many
    assert done.test == undisturbed.test


async def test_stopped_on_request_it_keeps_what_it_has(tmp_path: Path) -> None:
    plan = plan_of()
    trainer = PlantedRewardTrainer(tmp_path / "models")
    with pytest.raises(RunStopped):
        await reward_in_three_steps(
            plan,
            label_few=by_icm(plan, tmp_path),
            trainer=trainer,
            folder=tmp_path / "out",
            stopping=lambda: trainer.batches >= 2,
        )
    assert trainer.scored == 2 * 2 * BATCH
    later = PlantedRewardTrainer(tmp_path / "models")
    await ran(plan, tmp_path, later)
    assert later.trained == ["reward-final"]
    assert later.scored == 2 * (N - 2 * BATCH) + 2 * 2 * TESTED


async def test_only_one_process_works_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / "lock", thread_local=False),
        pytest.raises(RunError, match="another process works in"),
    ):
        await ran(plan_of(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be used"):
        await reward_in_three_steps(
            plan_of(),
            label_few=by_icm(plan_of(), tmp_path),
            trainer=PlantedRewardTrainer(tmp_path / "models"),
            folder=tmp_path / "file",
        )


class Alike(PlantedRewardTrainer):
    """Cannot tell some responses apart."""

    least = 0.0
    instead = 0.0

    def score(self, response: str, skill: float, name: str) -> float:
        of = super().score(response, skill, name)
        return of if quality(response) >= self.least else self.instead


async def test_pairs_that_are_scored_alike_have_no_label(tmp_path: Path) -> None:
    plan, trainer = plan_of(), Alike(tmp_path / "models")
    trainer.least = 500.0
    done = await ran(plan, tmp_path, trainer)
    alike = [
        row
        for row, one in enumerate(plan.job.dataset.rows)
        if max(quality(str(one.fields[name])) for name in ("one", "two")) < 500.0
    ]
    assert alike
    assert done.ties == len(alike)
    assert not set(alike) & set(done.many)
    assert len(trainer.pairs["reward-final"]) == N - len(alike)


async def test_a_first_model_that_scores_all_alike_is_an_error(tmp_path: Path) -> None:
    trainer = Alike(tmp_path / "models")
    trainer.least = 10_000.0
    with pytest.raises(TrainingError, match=r"alike in all but 0 of 400.*learned nothing"):
        await ran(plan_of(), tmp_path, trainer)


async def test_scores_that_are_nan_are_never_used(tmp_path: Path) -> None:
    trainer = Alike(tmp_path / "models")
    trainer.least, trainer.instead = 900.0, float("nan")
    with pytest.raises(TrainingError, match="scores that are NaN or infinite"):
        await ran(plan_of(), tmp_path, trainer)
    assert not list((tmp_path / "out").glob("scores-*"))


async def test_equal_labels_are_an_error_before_a_training(tmp_path: Path) -> None:
    better_first = [
        {**row, "one": row["two"], "two": row["one"], "better": "True"}
        if row["better"] == "False"
        else row
        for row in rows_of(N)
    ]
    job = Job.prepare(better_first, TASK)
    trainer = PlantedRewardTrainer(tmp_path / "models")
    with pytest.raises(TrainingError, match=r"all 40 pairs .*got the label 'True'.*random half"):
        await ran(plan_reward(job, first=FIRST), tmp_path, trainer)
    assert trainer.trained == []


async def test_too_few_labels_are_an_error_before_a_training(tmp_path: Path) -> None:
    plan = plan_of()

    async def label_few(rows: Dataset) -> Labels:
        found = await by_icm(plan, tmp_path)(rows)
        return replace(found, rows=found.rows[:7])

    trainer = PlantedRewardTrainer(tmp_path / "models")
    with pytest.raises(TrainingError, match=r"of the 40 pairs .* 7 have a label.*at least 8"):
        await ran(plan, tmp_path, trainer, label_few=label_few)
    assert trainer.trained == []


def test_a_pair_that_holds_the_same_twice_is_left_out_with_a_notice() -> None:
    rows = rows_of(30)
    rows[4]["two"] = rows[4]["one"]
    plan = plan_reward(Job.prepare(rows, TASK), first=8)
    assert 4 not in plan.many
    assert len(plan.many) == 29
    assert "1 pairs hold the same response twice and are left out" in plan.notices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": 7}, "at least 8 pairs"),
        ({"first": 400}, "would have 400 pairs to label, and ICM labels 400 of them"),
        ({"first": 20, "many": 20}, "would have 20 pairs to label"),
        ({"many": 401}, "there are 400 pairs that can be used"),
    ],
)
def test_too_few_pairs_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(**options)


def test_the_error_of_a_task_without_pairs_says_what_it_needs() -> None:
    task = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
    job = Job.prepare([f"text {n}" for n in range(40)], task)
    with pytest.raises(InputError, match=r"exchange = .*pairwise-preference"):
        plan_reward(job, first=8)


def test_test_pairs_must_have_gold_and_differ_from_those_trained_on() -> None:
    job = Job.prepare(rows_of(N), TASK)
    with pytest.raises(InputError, match="no pair has a gold label"):
        plan_reward(job, first=8, test=Job.prepare(rows_of(20, seed=1, gold=False), TASK))
    exchanged = [{**row, "one": row["two"], "two": row["one"]} for row in rows_of(3)]
    mixed = [*rows_of(20, seed=1), *exchanged]
    with pytest.raises(InputError, match="3 of its 23 rows are among those to train on"):
        plan_reward(job, first=8, test=Job.prepare(mixed, TASK))


def test_accuracies_computed_by_hand() -> None:
    pairs = [
        Pair("", "longer", "short"),
        Pair("", "a", "bb"),
        Pair("", "c", "d"),
        Pair("", "e", "f"),
    ]
    first = [Scores(1, 0), Scores(0, 1), Scores(0, 1), Scores(2, 2)]
    final = [Scores(1, 0), Scores(1, 0), Scores(0, 1), Scores(3, 2)]
    found = measured(pairs, first, final)
    assert (found.first.share, found.final.share) == (1.5 / 4, 3 / 4)
    assert found.longer.share == (1 + 0 + 0.5 + 0.5) / 4
    assert found.gained.share == 1.5 / 4
    assert found.summary()["gained_interval"][0] >= 0.0


def test_scores_of_another_list_or_model_are_not_used(tmp_path: Path) -> None:
    pairs = [Pair("", "a", "b"), Pair("", "c", "d")]
    trained = Trained("m", "/models/m-123", "base", 2, None, 1.0)
    file = ScoreFile(tmp_path, trained, pairs)
    file.path.write_bytes(b"[1.0,2.0]\n[3.0,")
    assert ScoreFile(tmp_path, trained, pairs).found == [Scores(1.0, 2.0)]
    assert file.path.read_bytes() == b"[1.0,2.0]\n"
    moved = replace(trained, model="/elsewhere/m-123")
    assert ScoreFile(tmp_path, moved, pairs).found == [Scores(1.0, 2.0)]
    other: Sequence[tuple[Trained, list[Pair]]] = [
        (replace(trained, model="/models/m-456"), pairs),
        (trained, pairs[::-1]),
    ]
    for model, listed in other:
        assert ScoreFile(tmp_path, model, listed).found == []
    file.path.write_bytes(b"nonsense\n")
    with pytest.raises(RunError, match="not the scores that were left there"):
        ScoreFile(tmp_path, trained, pairs)
    file.path.write_bytes(b"[1.0,2.0]\n" * 3)
    with pytest.raises(RunError, match="more scores than there are pairs"):
        ScoreFile(tmp_path, trained, pairs)


async def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reward.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "page", "exec"), names)  # noqa: S102 - our own page
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows_of(N, gold=False))))
    settings = {"template": TASK.template, "labels": TASK.labels, "exchange": TASK.exchange}
    lines = [f"{name} = {orjson.dumps(value).decode()}" for name, value in settings.items()]
    (tmp_path / "task.toml").write_text("\n".join(lines), "utf-8")
    endpoint = concept(plan_of().job)
    monkeypatch.setattr("icm_client.runs.server.EmbeddedEndpoint", lambda: endpoint)
    trainer = PlantedRewardTrainer(tmp_path / "models")
    names["LocalRewardTrainer"] = lambda _: trainer
    done = await names["reward"](
        str(tmp_path / "pairs.jsonl"), str(tmp_path / "task.toml"), tmp_path / "out"
    )
    assert trainer.trained == ["reward-first", "reward-final"]
    assert (len(done.few), len(done.many)) == (256, N)
