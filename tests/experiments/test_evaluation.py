"""What is planned: which methods, which rows are held out, and what is refused before it costs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from icm_client import Task
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.simple import FewShotSettings
from icm_client.data import JsonValue
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.experiments.evaluation import (
    KINDS,
    Evaluation,
    Kind,
    Method,
    fewest_and_most_reads,
    plan_evaluation,
    split_rows,
    units_of,
)

TASK = Task(template="Review: {text}\nSentiment:", labels=("negative", "positive"))
PAIRED = Task(
    template="{one}\n{other}\nThe first is better:",
    labels=("True", "False"),
    exchange=("one", "other"),
)


def rows_of(count: int = 20) -> list[dict[str, JsonValue]]:
    return [{"text": f"row {n}", "gold": TASK.labels[n % 2], "who": n - 10} for n in range(count)]


def job_of(count: int = 20) -> Job:
    return Job.prepare(rows_of(count), TASK, gold="gold")


def names(evaluation: Evaluation) -> list[str]:
    return [method.name for method in evaluation.methods]


def test_everything_is_run_that_can_be_and_the_rest_is_said() -> None:
    plan = plan_evaluation(job_of(), human="who", chat_prompt="Be kind.")
    assert names(plan) == [
        *("majority", "zero-shot", "zero-shot-calibrated", "zero-shot-chat", "random"),
        *("bootstrap", "pseudo-labels", "icm-fast", "same-accuracy-fast", "human", "golden"),
    ]
    assert plan.notices[0] == "longer is left out: the rows are not pairs shown in both orders"
    bare = plan_evaluation(job_of())
    assert not {"human", "zero-shot-chat", "longer"} & {method.kind for method in bare.methods}
    assert [notice.split()[0] for notice in bare.notices] == [
        *("longer", "zero-shot-chat", "human"),
    ]


def test_methods_that_are_not_wanted_leave_no_notice() -> None:
    plan = plan_evaluation(job_of(), kinds=["golden", "random"])
    assert names(plan) == ["random", "golden"]
    assert plan.notices == ()


def test_icm_and_random_labels_like_it_come_in_every_preset() -> None:
    searches = (SweepSettings(), AnnealSettings(iterations=5))
    plan = plan_evaluation(job_of(), kinds=["icm", "same-accuracy"], searches=searches)
    assert names(plan) == ["icm-fast", "icm-paper", "same-accuracy-fast", "same-accuracy-paper"]


def test_bootstrap_shows_as_many_demos_as_the_other_methods_whichever_search_icm_takes() -> None:
    kinds: list[Kind] = ["bootstrap", "finetuned-bootstrap"]
    plan = plan_evaluation(job_of(), kinds=kinds, searches=(AnnealSettings(),), demos=4)
    assert plan.methods == tuple(Method(kind, FewShotSettings(demos=4)) for kind in kinds)
    assert names(plan) == kinds


def test_pairs_have_a_longer_one() -> None:
    rows = [{"one": f"a{n}", "other": f"b{n}", "gold": "True"} for n in range(20)]
    plan = plan_evaluation(Job.prepare(rows, PAIRED, gold="gold"))
    assert "longer" in names(plan)


def test_annotators_who_contradict_gold_raise_a_notice() -> None:
    rows = [{**row, "who": 1 if row["gold"] == "positive" else -1} for row in rows_of()]
    job = Job.prepare(rows, TASK, gold="gold")
    (notice,) = plan_evaluation(job, kinds=["human"], human="who").notices
    assert notice.startswith("a single annotator agrees with gold in 0.0%")  # first: negative
    assert "--human-positive" in notice
    (right,) = plan_evaluation(job, kinds=["human"], human="who", human_positive="positive").notices
    assert right == "a single annotator agrees with gold in 100.0% of the rows"


def test_rows_are_held_out_at_random_and_all_are_used() -> None:
    units = np.arange(40)
    for seed in range(5):
        split = split_rows(units, 0.25, seed)
        assert len(split.test) == 10
        assert sorted([*split.train.tolist(), *split.test.tolist()]) == list(range(40))
        assert split.test.tolist() == split_rows(units, 10, seed).test.tolist()
    tests = {tuple(split_rows(units, 0.25, seed).test.tolist()) for seed in range(5)}
    assert len(tests) == 5


def test_gold_has_no_part_in_who_is_held_out() -> None:
    other = [{**row, "gold": "positive"} for row in rows_of()]
    ours, theirs = (
        plan_evaluation(Job.prepare(rows, TASK, gold="gold")).splits[0]
        for rows in (rows_of(), other)
    )
    assert ours.test.tolist() == theirs.test.tolist()


def test_what_gives_a_label_away_stays_on_one_side() -> None:
    task = Task(
        template="{question} {claim}:",
        labels=("True", "False"),
        constraint=ConstraintSpec(kind="at-most-one", group=("question",)),
    )
    rows = [
        {"question": f"q{n // 3}", "claim": f"c{n}", "gold": task.labels[n % 2]} for n in range(60)
    ]
    rows.append({"question": "q0", "claim": "c0", "gold": "True"})  # says the same as the first
    rows[7]["question"], rows[7]["claim"] = "elsewhere", "c59"
    rows.append({"question": "elsewhere", "claim": "c59", "gold": "True"})
    job = Job.prepare(rows, task, gold="gold")
    units = units_of(job)
    assert units[0] == units[1] == units[2] == units[60]
    assert units[7] == units[61] != units[6]
    for seed in range(4):
        split = split_rows(units, 0.5, seed)
        assert not set(units[split.train].tolist()) & set(units[split.test].tolist())


def test_rows_without_gold_are_left_out() -> None:
    rows = rows_of()
    rows.append({"text": "nobody knows", "gold": "", "who": 1})
    plan = plan_evaluation(Job.prepare(rows, TASK, gold="gold"))
    assert len(plan.job.dataset.rows) == len(plan.gold) == 20
    assert "1 of 21 rows have no label" in plan.notices[0]


@pytest.mark.parametrize(("test", "message"), [(0.1, "2 held out"), (15, "5 to train on")])
def test_too_few_rows_on_a_side_are_refused(test: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_evaluation(job_of(), test=test)


def test_rows_without_any_gold_are_refused() -> None:
    with pytest.raises(InputError, match=r"no row has a gold label.*--gold"):
        plan_evaluation(Job.prepare([{"text": f"row {n}"} for n in range(20)], TASK))


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to compare: human is left out"):
        plan_evaluation(job_of(), kinds=["human"])


def test_reads_are_reckoned_ahead() -> None:
    plan = plan_evaluation(job_of(), seeds=(0, 1), human="who", contexts=3)
    reads = {method.name: fewest_and_most_reads(plan, method) for method in plan.methods}
    assert reads["majority"] == (0, 0)
    assert reads["zero-shot"] == (20, 20)
    assert reads["golden"] == reads["human"] == reads["same-accuracy-fast"] == (60, 60)
    assert reads["pseudo-labels"] == (80, 80)
    assert reads["bootstrap"] == (60 + 2 * 10 * 3, 60 + 2 * (10 * 4 + 8))
    assert reads["icm-fast"] == (60 + 2 * 10 * 3, 60 + 2 * (10 * 10 * 2 + 8))
    paper = replace(plan, methods=plan_evaluation(job_of(), searches=[AnnealSettings()]).methods)
    unknown = {method.name for method in paper.methods if not fewest_and_most_reads(paper, method)}
    assert unknown == {"icm-paper"}


@pytest.mark.parametrize("kinds", [["golden"], KINDS])
def test_seeds_have_their_own_splits(kinds: Sequence[Kind]) -> None:
    plan = plan_evaluation(job_of(40), kinds=kinds, seeds=(3, 5))
    assert plan.seeds == (3, 5)
    assert plan.splits[0].test.tolist() != plan.splits[1].test.tolist()
