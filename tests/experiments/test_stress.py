"""Runs on disturbed rows of a planted concept: what counts as wrong, turned and falsely trusted."""

import pytest

from icm_client import Task
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.experiments.stress import (
    Outcome,
    Stressed,
    csv_text,
    document,
    plan_stress,
    run_stress,
    summary,
)
from icm_client.experiments.stress_rows import (
    Trouble,
    imbalance,
    impossible,
    salient,
    undisturbed,
)
from icm_client.testing import PlantedConcept

WORDS = ("positive", "negative")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
ROWS = 40
TURNED = "opinion x4"


def gold_of(number: int) -> str:
    return WORDS[number * 7 % 5 % 2]


def job_of(*, gold: bool = True) -> Job:
    rows = [{"text": f"words of row {n}.", "gold": gold_of(n)} for n in range(ROWS)]
    return Job.prepare(rows, TASK, gold="gold" if gold else None)


def planted(job: Job, *, chance: bool = False) -> PlantedConcept:
    """Know all rows that are made: the loudest opinion as it says, all others by their labels.

    Texts that say nothing have a class too: labels for them are coherent, and right for nobody.
    """
    classes: dict[str, int] = {}
    made = [undisturbed(job), *salient(job, 0)[0], *impossible(job, 0)[0]]
    for trouble in made:
        for number, prompt in enumerate(Job.prepare(trouble.dataset, trouble.task).prompts):
            word = WORDS[number * 5 % 7 % 2] if chance else gold_of(number)
            if _name(trouble) == TURNED and trouble.feature is not None:
                word = trouble.feature[number]
            classes[prompt] = job.labels.index(word)
    return PlantedConcept(classes, job.label_texts)


def _name(trouble: Trouble) -> str:
    return f"{trouble.name} {trouble.strength}"


async def stressed(job: Job, endpoint: PlantedConcept, told: list[Outcome]) -> Stressed:
    return await run_stress(
        job, SweepSettings(), endpoint=endpoint, store="scores.sqlite3", ended=told.append
    )


@pytest.mark.anyio
async def test_a_feature_that_turns_the_labels_is_found() -> None:
    job = job_of()
    told: list[Outcome] = []
    found = await stressed(job, planted(job), told)
    assert list(found.outcomes) == told
    assert len(told) == len(plan_stress(job).runs) == 24
    by_name = {outcome.full_name: outcome for outcome in told}
    own = by_name["undisturbed"]
    assert (own.right, own.before, own.auroc, own.wrong) == (1.0, 1.0, 1.0, False)
    turned = by_name.pop(TURNED)
    assert turned.follows == 1.0
    assert turned.turned
    assert turned.wrong
    assert turned.right is not None
    assert turned.right < 0.7
    quiet = by_name["phrase x1"]
    assert quiet.right == 1.0
    assert quiet.follows is not None
    assert quiet.follows < 0.75
    assert not quiet.wrong
    for outcome in told:
        assert outcome.error is None
        if outcome.kind == "impossible":
            assert outcome.wrong
            assert outcome.right is None
    assert found.false_trust is not None
    names = {outcome.full_name for outcome in found.trusted_wrongly}
    assert {"no-answer neutral", "no-answer letters"} <= names
    assert "unrelated shelf" not in names  # no label word of it is ever said
    assert f"They follow it rather than what is right: {TURNED}." in summary(found)
    assert any(one.startswith("A planted feature spoils them: ") for one in summary(found))
    assert len(csv_text(found).splitlines()) == 25
    assert document(found)["compared_with"] == "gold"


@pytest.mark.anyio
async def test_without_gold_labels_are_compared_with_the_undisturbed_ones() -> None:
    job = job_of(gold=False)
    told: list[Outcome] = []
    found = await stressed(job, planted(job), told)
    assert not found.gold
    by_name = {outcome.full_name: outcome for outcome in told}
    assert by_name["undisturbed"].right == 1.0
    assert by_name[TURNED].turned
    assert by_name["imbalance 10%"].rows == by_name["imbalance 90%"].rows >= 16
    assert len(told) == len(plan_stress(job).runs)
    assert plan_stress(job).runs[-1] == ("imbalance", "imbalance", "98%", None)


@pytest.mark.anyio
async def test_labels_that_are_at_chance_from_the_start_are_wrong_everywhere() -> None:
    job = job_of()
    told: list[Outcome] = []
    found = await stressed(job, planted(job, chance=True), told)
    assert found.outcomes[0].wrong
    assert summary(found)[0].startswith("The labels of the rows as they are (")
    assert all(outcome.wrong for outcome in told if outcome.kind == "salient")


def test_imbalance_needs_gold_before_a_run() -> None:
    job = job_of()
    labels = [gold_of(number) for number in range(ROWS)]
    sizes = {len(one.dataset.rows) for one in imbalance(job, labels, range(ROWS))[0]}
    planned = {rows for kind, _, _, rows in plan_stress(job).runs if kind == "imbalance"}
    assert planned == sizes


@pytest.mark.anyio
async def test_presets_that_train_are_refused() -> None:
    job = job_of()
    with pytest.raises(InputError, match="folds trains models"):
        await run_stress(job, FoldSettings(), endpoint=planted(job))


def test_nothing_wrong_is_said_so() -> None:
    fine = Outcome(None, "undisturbed", "", 0, rows=9, right=0.9, before=0.9, verdict="trust")
    found = Stressed((fine,), gold=True, notices=())
    assert found.false_trust is None
    assert summary(found) == [
        "The labels were wrong in 0 of 1 runs.",
        "The verdict trusts 1 of the 1 others.",
    ]
