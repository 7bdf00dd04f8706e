"""Every method on a planted concept, where what must come out is known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from icm_client import Task
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.endpoints import Answer, Read, TokenIds
from icm_client.errors import EndpointFault, RunStopped, StoreError
from icm_client.experiments.evaluation import Evaluation, Kind, plan_evaluation
from icm_client.experiments.evaluation_results import Moment, Outcome, results
from icm_client.experiments.evaluation_run import run_evaluation
from icm_client.runs.progress import Progress
from icm_client.scoring import ScoringProgress
from icm_client.testing import PlantedConcept

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
CLASSES = np.random.default_rng(7).integers(2, size=80).tolist()
SEEDS = (0, 1)
Outcomes: TypeAlias = Mapping[tuple[str, int], Outcome]


def job_of(gold: Sequence[str] | None = None) -> Job:
    gold = gold or [WORDS[one] for one in CLASSES]
    rows: list[dict[str, JsonValue]] = [
        {"text": f"words of row {n}", "gold": word, "who": [1, 2, 3] if one else [-1, -2, 3]}
        for n, (word, one) in enumerate(zip(gold, CLASSES, strict=True))
    ]
    return Job.prepare(rows, TASK, gold="gold")


def concept(job: Job, *, strength: float = 3.0, meaning: float = 1.0) -> PlantedConcept:
    """Its words mean something, but it likes the first label better than they say."""
    planted = dict(zip(job.prompts, CLASSES, strict=True))
    return PlantedConcept(
        planted, job.label_texts, strength=strength, meaning=meaning, bias=(2.0, 0.0), noise=0.9
    )


def plan_of(job: Job, **options: object) -> Evaluation:
    return plan_evaluation(
        job,
        seeds=SEEDS,
        human="who",
        human_positive="positive",
        chat_prompt="You are kind.",
        **options,  # type: ignore[arg-type]
    )


async def ran(
    evaluation: Evaluation, folder: Path, endpoint: PlantedConcept | None = None
) -> Outcomes:
    outcomes, _ = await run_evaluation(
        evaluation,
        endpoint=endpoint or concept(evaluation.job),
        store=str(folder / "scores.sqlite3"),
    )
    return {(outcome.method.name, outcome.seed): outcome for outcome in outcomes}


def correct(outcomes: Outcomes, name: str) -> list[list[bool]]:
    return [
        [] if found is None else found.tolist()
        for found in (outcomes[name, seed].correct for seed in SEEDS)
    ]


def accuracy(outcomes: Outcomes, name: str) -> float:
    return float(np.mean(correct(outcomes, name)))


async def test_methods_fare_as_they_must(tmp_path: Path) -> None:
    plan = plan_of(job_of())
    outcomes = await ran(plan, tmp_path)
    assert {outcome.error for outcome in outcomes.values()} == {None}
    assert len(outcomes) == 11 * len(SEEDS)
    # The model's taste decides every row by itself; divided out, the words' meaning is left.
    assert accuracy(outcomes, "zero-shot") == pytest.approx(1 - np.mean(CLASSES), abs=0.15)
    assert accuracy(outcomes, "zero-shot-calibrated") > accuracy(outcomes, "zero-shot") + 0.2
    assert accuracy(outcomes, "golden") == 1.0
    assert accuracy(outcomes, "golden") > accuracy(outcomes, "random") + 0.05
    assert accuracy(outcomes, "icm-fast") == 1.0
    assert accuracy(outcomes, "bootstrap") > accuracy(outcomes, "random")
    gap = {
        one.method.name: one.gap.share for one in results(plan, list(outcomes.values())) if one.gap
    }
    assert (gap["zero-shot"], gap["golden"], gap["icm-fast"]) == (0.0, 1.0, 1.0)
    assert 0.0 < (gap["random"] or 0.0) < (gap["bootstrap"] or 0.0) <= 1.0
    assert accuracy(outcomes, "human") > accuracy(outcomes, "random")
    for seed in SEEDS:
        labels = {
            name: outcomes[name, seed].label_accuracy for name, one in outcomes if one == seed
        }
        assert labels["golden"] == 1.0
        assert labels["same-accuracy-fast"] == labels["icm-fast"]
        assert (labels["icm-fast"] or 0) > 0.95
        assert (labels["bootstrap"] or 0) > 0.9
        assert outcomes["bootstrap", seed].verdict == outcomes["icm-fast", seed].verdict == "trust"
        assert 0.3 < (labels["random"] or 0) < 0.7
        assert 0.6 < (labels["human"] or 0) < 1.0  # one in three of the negative rows is misread
        assert labels["majority"] is None
        assert labels["zero-shot"] is None
        assert outcomes["golden", seed].labelled == 40
        assert outcomes["pseudo-labels", seed].labelled in (20, 21)


async def test_majority_is_that_of_the_train_rows(tmp_path: Path) -> None:
    plan = plan_of(job_of(), kinds=["majority"])
    outcomes = await ran(plan, tmp_path)
    for seed, split in zip(SEEDS, plan.splits, strict=True):
        most = int(np.mean(plan.gold[split.train]) > 0.5)
        expected = plan.gold[split.test] == most
        found = outcomes["majority", seed].correct
        assert found is not None
        assert found.tolist() == expected.tolist()


async def test_random_labels_are_as_accurate_as_icms_where_icms_are_wrong(tmp_path: Path) -> None:
    plan = plan_of(job_of(), kinds=["icm", "same-accuracy"])
    weak = concept(plan.job, strength=1.5, meaning=0.5)
    outcomes = await ran(plan, tmp_path, weak)
    for seed in SEEDS:
        icm, like = (outcomes[f"{kind}-fast", seed] for kind in ("icm", "same-accuracy"))
        assert icm.label_accuracy is not None
        assert icm.label_accuracy < 1.0
        assert like.label_accuracy == pytest.approx(icm.label_accuracy, abs=0.5 / 40)


async def test_gold_of_train_rows_reaches_only_what_is_made_of_it(tmp_path: Path) -> None:
    true = plan_of(job_of())
    poisoned = [WORDS[one] for one in CLASSES]
    for row in set(true.splits[0].train.tolist()) & set(true.splits[1].train.tolist()):
        poisoned[row] = WORDS[1 - CLASSES[row]]
    plan = plan_of(job_of(poisoned))
    assert [split.test.tolist() for split in plan.splits] == [
        split.test.tolist() for split in true.splits
    ]
    before = await ran(true, tmp_path / "true", concept(true.job))
    after = await ran(plan, tmp_path / "poisoned", concept(plan.job))
    changed = {
        name
        for name, seed in before
        if _predictions(true, before[name, seed]) != _predictions(plan, after[name, seed])
    }
    assert changed <= {"majority", "same-accuracy-fast", "golden"}
    assert "golden" in changed


def _predictions(plan: Evaluation, outcome: Outcome) -> list[int]:
    """Two labels: what was right is gold, what was wrong is the other one."""
    assert outcome.correct is not None
    gold = plan.gold[plan.splits[SEEDS.index(outcome.seed)].test]
    predicted: list[int] = np.where(outcome.correct, gold, 1 - gold).tolist()
    return predicted


class Remembers(PlantedConcept):
    """Keeps the prompts that it was asked."""

    asked: list[TokenIds]

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        self.asked += [read.prompt for read in reads]
        return await super().read(reads, lane=lane)


async def test_test_rows_never_stand_in_a_context(tmp_path: Path) -> None:
    job = job_of()
    plan = plan_of(job)
    plan = replace(plan, seeds=plan.seeds[:1], splits=plan.splits[:1])
    endpoint = Remembers(dict(zip(job.prompts, CLASSES, strict=True)), job.label_texts)
    endpoint.asked = []
    await ran_once(plan, tmp_path, endpoint)
    prompts = [await endpoint.tokenize(prompt, add_special=False) for prompt in job.prompts]
    test = {prompts[row] for row in plan.splits[0].test.tolist()}
    length = len(prompts[0])
    assert {len(prompt) for prompt in prompts} == {length}
    behind_demos = 0
    for asked in endpoint.asked:
        in_front = {asked[n : n + length] for n in range(len(asked) - length)}
        assert not in_front & test
        behind_demos += bool(in_front & set(prompts))
    assert behind_demos > 800


async def ran_once(plan: Evaluation, folder: Path, endpoint: PlantedConcept) -> None:
    await run_evaluation(plan, endpoint=endpoint, store=str(folder / "scores.sqlite3"))


async def test_the_same_again_asks_nothing_and_says_the_same(tmp_path: Path) -> None:
    plan = plan_of(job_of())
    first = await ran(plan, tmp_path)
    silent = concept(plan.job)
    again = await ran(plan, tmp_path, silent)
    assert silent.usage.requests == 0
    for key, outcome in first.items():
        assert _predictions(plan, again[key]) == _predictions(plan, outcome)
        assert again[key].spent.reads == outcome.spent.reads
        assert again[key].spent.requests == again[key].spent.computed_tokens == 0
    assert sum(outcome.spent.requests for outcome in first.values()) > 0


class FallsOver(PlantedConcept):
    """Refuses its reads from some number on."""

    after = 0

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        if self.usage.requests >= self.after:
            raise EndpointFault("the server fell over")
        return await super().read(reads, lane=lane)


async def test_what_broke_off_is_noted_and_goes_on_where_it_was(tmp_path: Path) -> None:
    plan = plan_of(job_of(), kinds=["majority", "zero-shot", "random", "golden"])
    whole = concept(plan.job)
    undisturbed = await ran(plan, tmp_path / "whole", whole)
    failing = FallsOver(
        dict(zip(plan.job.prompts, CLASSES, strict=True)),
        plan.job.label_texts,
        meaning=1.0,
        bias=(2.0, 0.0),
        noise=0.9,
    )
    failing.after = 150
    broken = await ran(plan, tmp_path / "broken", failing)
    assert broken["zero-shot", 0].error is None
    assert broken["majority", 1].error is None
    assert broken["golden", 1].error == "the server fell over"
    assert broken["golden", 1].accuracy is None
    asked = failing.usage.requests
    later = concept(plan.job)
    mended = await ran(plan, tmp_path / "broken", later)
    assert asked + later.usage.requests == whole.usage.requests
    for key, outcome in undisturbed.items():
        assert _predictions(plan, mended[key]) == _predictions(plan, outcome)


async def test_told_to_stop_it_ends_and_keeps_what_it_has(tmp_path: Path) -> None:
    plan = plan_of(job_of(), kinds=["zero-shot", "icm", "golden"])
    whole = concept(plan.job)
    await ran(plan, tmp_path / "whole", whole)
    stopped = concept(plan.job)
    with pytest.raises(RunStopped):
        await run_evaluation(
            plan,
            endpoint=stopped,
            store=str(tmp_path / "scores.sqlite3"),
            stopping=lambda: stopped.usage.requests >= 100,
        )
    assert stopped.usage.requests < whole.usage.requests
    later = concept(plan.job)
    await ran(plan, tmp_path, later)
    assert stopped.usage.requests + later.usage.requests == whole.usage.requests


async def test_progress_says_which_method_and_how_far(tmp_path: Path) -> None:
    plan = plan_of(job_of(), kinds=["icm", "golden"])
    told: list[Moment] = []
    await run_evaluation(
        plan,
        endpoint=concept(plan.job),
        store=str(tmp_path / "scores.sqlite3"),
        progress=told.append,
    )
    golden = [now.at for now in told if now.method.kind == "golden" and now.seed == 0]
    assert all(isinstance(at, ScoringProgress) for at in golden)
    last = golden[-1]
    assert isinstance(last, ScoringProgress)
    assert (last.done, last.total) == (200, 200)
    assert any(isinstance(now.at, Progress) for now in told if now.method.kind == "icm")


async def test_a_store_that_cannot_be_opened_ends_all(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        await ran(plan_of(job_of(), kinds=["golden"]), tmp_path / "file")


async def test_chat_reads_what_stands_in_front_and_nothing_else_does(tmp_path: Path) -> None:
    job = job_of()
    endpoint = Remembers(dict(zip(job.prompts, CLASSES, strict=True)), job.label_texts)
    endpoint.asked = []
    plan = plan_of(job, kinds=["zero-shot", "zero-shot-chat"])
    await ran_once(plan, tmp_path, endpoint)
    ids = await endpoint.tokenize(f"You are kind.{TASK.separator}", add_special=False)
    chat = [asked for asked in endpoint.asked if asked[1 : 1 + len(ids)] == ids]
    plain = [asked for asked in endpoint.asked if asked not in chat]
    assert len(chat) == len(plain) > 0
    assert {asked[1 + len(ids) :] for asked in chat} == {asked[1:] for asked in plain}


async def test_people_who_labelled_no_train_row_are_an_error_of_that_method(tmp_path: Path) -> None:
    job = job_of()
    plan = plan_of(job, kinds=["human", "golden"])
    nobody = tuple(() for _ in job.dataset.rows)
    outcomes = await ran(replace(plan, human=nobody), tmp_path)
    assert outcomes["human", 0].error == "no train row has a label"
    assert outcomes["golden", 0].error is None


async def test_contexts_that_do_not_fit_are_said(tmp_path: Path) -> None:
    job = job_of()
    small = PlantedConcept(
        dict(zip(job.prompts, CLASSES, strict=True)), job.label_texts, context_length=200
    )
    _, notices = await run_evaluation(
        plan_of(job, kinds=["golden"]), endpoint=small, store=str(tmp_path / "s.sqlite3")
    )
    (notice,) = notices
    assert "demos instead of 64" in notice


@pytest.mark.parametrize("kinds", [["icm", "same-accuracy"], ["same-accuracy", "icm"]])
async def test_icm_searches_once_whoever_needs_it(kinds: list[Kind], tmp_path: Path) -> None:
    plan = plan_of(job_of(), kinds=kinds, searches=[SweepSettings(), AnnealSettings(iterations=9)])
    outcomes = await ran(plan, tmp_path)
    for preset in ("fast", "paper"):
        assert outcomes[f"same-accuracy-{preset}", 0].spent.reads == 40 * 5
        assert outcomes[f"icm-{preset}", 0].spent.reads > 40 * 5


async def test_pairs_are_labelled_in_both_orders_and_the_longer_wins(tmp_path: Path) -> None:
    task = Task(
        template="{one}\n{other}\nThe first is better:",
        labels=("True", "False"),
        exchange=("one", "other"),
    )
    rows: list[dict[str, JsonValue]] = [
        {
            "one": f"text {n}" + " more" * (n % 2),
            "other": f"text {n + 100}" + " more" * (1 - n % 2),
            "gold": "True" if n % 2 else "False",
        }
        for n in range(60)
    ]
    job = Job.prepare(rows, task, gold="gold")
    planted = {
        prompt: int((item.row % 2 == 1) != item.exchanged)
        for prompt, item in zip(job.prompts, job.items, strict=True)
    }
    plan = plan_evaluation(job, kinds=["longer", "golden", "icm", "random"])
    outcomes = await ran(plan, tmp_path, PlantedConcept(planted, job.label_texts))
    assert outcomes["longer", 0].accuracy == 1.0
    assert outcomes["golden", 0].accuracy == 1.0
    assert outcomes["icm-fast", 0].accuracy == 1.0
