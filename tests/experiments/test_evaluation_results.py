"""Figures by hand, and the same figures as table, JSON and picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest

from icm_client import Task
from icm_client.data.job import Job
from icm_client.experiments.comparison import Spent
from icm_client.experiments.evaluation import Evaluation, plan_evaluation
from icm_client.experiments.evaluation_results import (
    Outcome,
    Result,
    csv_text,
    document,
    results,
    table,
)
from icm_client.experiments.figures import draw_evaluation
from icm_client.stats.bootstrap import GapRecovered

TASK = Task(template="Review: {text}\nSentiment:", labels=("negative", "positive"))
JOB = Job.prepare(
    [{"text": f"row {n}", "gold": TASK.labels[n % 2]} for n in range(40)], TASK, gold="gold"
)
PLAN = plan_evaluation(
    JOB,
    kinds=["majority", "zero-shot", "icm", "golden"],
    seeds=(4, 2),
)


def outcome(
    evaluation: Evaluation, name: str, seed: int, right: int | None, **figures: object
) -> Outcome:
    """The first `right` of the 20 test rows are right."""
    method = next(one for one in evaluation.methods if one.name == name)
    correct = None if right is None else np.arange(20) < right
    return Outcome(method, seed, correct, **figures)  # type: ignore[arg-type]


def made_up() -> tuple[Result, ...]:
    cost = Spent(100, 7, 1000, 1.5)
    outcomes = [
        outcome(PLAN, "majority", 4, 8),
        outcome(PLAN, "majority", 2, 12),
        outcome(PLAN, "zero-shot", 4, None, error="gone"),
        outcome(PLAN, "zero-shot", 2, None, error="gone"),
        outcome(
            PLAN,
            "icm-fast",
            4,
            18,
            labelled=20,
            label_accuracy=0.9,
            verdict="check",
            findings=("a",),
            spent=cost,
        ),
        outcome(PLAN, "icm-fast", 2, None, error="gone"),
        outcome(PLAN, "golden", 4, 16, labelled=20, label_accuracy=1.0, spent=cost),
        outcome(PLAN, "golden", 2, 18, labelled=20, label_accuracy=1.0, spent=cost),
    ]
    return results(PLAN, outcomes)


def by_name(found: Sequence[Result]) -> dict[str, Result]:
    return {one.method.name: one for one in found}


def test_the_mean_is_over_seeds_and_the_difference_over_those_that_both_have() -> None:
    found = by_name(made_up())
    assert found["majority"].accuracy == 0.5
    assert found["golden"].accuracy == pytest.approx(0.85)
    assert found["golden"].to_golden is None
    icm = found["icm-fast"]
    assert icm.accuracy == 0.9
    assert icm.to_golden is not None
    assert icm.to_golden.difference == pytest.approx(0.9 - 0.8)  # seed 4 alone
    assert icm.to_golden.interval.low >= 0.0  # right wherever golden is right
    low, high = icm.interval or (0.0, 0.0)
    assert 0.7 < low < 0.9 < high <= 1.0
    assert found["zero-shot"].accuracy is None
    assert found["zero-shot"].interval is None
    assert found["zero-shot"].to_golden is None


def test_without_golden_labels_there_is_no_difference() -> None:
    plan = plan_evaluation(PLAN.job, kinds=["majority"])
    (alone,) = results(plan, [outcome(plan, "majority", 0, 5)])
    assert alone.accuracy == 0.25
    assert alone.to_golden is None


def gaps(right: dict[str, tuple[int | None, int | None]]) -> dict[str, GapRecovered | None]:
    """The gaps of these methods, by how many of the 20 test rows are right with seeds 4 and 2."""
    kinds = [name.removesuffix("-fast") for name in right]
    plan = plan_evaluation(JOB, kinds=kinds, seeds=(4, 2))  # type: ignore[arg-type]
    outcomes = [
        outcome(plan, name, seed, its)
        for name, both in right.items()
        for seed, its in zip(plan.seeds, both, strict=True)
    ]
    return {name: one.gap for name, one in by_name(results(plan, outcomes)).items()}


def test_the_gap_is_0_at_zero_shot_and_1_at_golden_and_by_hand_between_them() -> None:
    found = gaps(
        {
            "majority": (2, 4),
            "zero-shot": (4, 6),
            "bootstrap": (10, 12),
            "icm-fast": (None, 18),
            "golden": (12, 18),
        }
    )
    assert found["zero-shot"] == (0.0, (0.0, 0.0))
    assert found["golden"] == (1.0, (1.0, 1.0))
    bootstrap, majority, icm = (found[name] for name in ("bootstrap", "majority", "icm-fast"))
    assert bootstrap is not None
    assert bootstrap.share == pytest.approx(12 / 20)
    low, high = bootstrap.interval or (0.0, 0.0)
    assert 0.2 < low < 0.6 < high <= 1.0
    assert majority is not None
    assert majority.share == pytest.approx(-4 / 20)
    assert icm is not None
    assert icm.share == 1.0  # with seed 2, the only one that all three have


@pytest.mark.parametrize("golden", [(8, 8), (7, 8)])
def test_golden_labels_that_are_no_better_leave_no_gap(golden: tuple[int, int]) -> None:
    found = gaps({"zero-shot": (8, 8), "bootstrap": (9, 9), "golden": golden})
    assert {name: gap and gap.gap for name, gap in found.items()} == dict.fromkeys(found, "none")


def test_a_gap_that_may_not_be_there_has_shares_without_an_interval() -> None:
    found = gaps({"zero-shot": (8, 8), "bootstrap": (9, 9), "golden": (10, 10)})
    assert found["bootstrap"] == (0.5, None)


def test_without_zero_shot_or_golden_with_the_same_seed_no_gap_is_said() -> None:
    for right in (
        {"bootstrap": (9, 9), "golden": (18, 18)},
        {"zero-shot": (8, 8), "bootstrap": (9, 9)},
        {"zero-shot": (None, None), "bootstrap": (9, 9), "golden": (18, 18)},
        {"zero-shot": (8, None), "bootstrap": (9, 9), "golden": (None, 18)},
    ):
        assert set(gaps(right).values()) == {None}  # type: ignore[arg-type]


def test_trained_models_have_a_gap_of_their_own() -> None:
    right = {
        "zero-shot": (8, 8),
        "random": (9, 9),
        "golden": (10, 18),
        "finetuned-random": (14, 14),
        "finetuned-golden": (20, 20),
    }
    found = gaps(right)  # type: ignore[arg-type]
    shares = {name: gap and gap.share for name, gap in found.items()}
    assert shares == pytest.approx(
        {
            "zero-shot": 0.0,
            "random": 1 / 6,
            "golden": 1.0,
            "finetuned-random": 0.5,
            "finetuned-golden": 1.0,
        }
    )
    del right["golden"]
    alone = gaps(right)["random"]  # type: ignore[arg-type]
    assert alone is not None
    assert alone.share == pytest.approx(1 / 12)  # as `to_golden`, where golden is not in context


def test_the_table_has_no_number_where_nothing_ended() -> None:
    _, zero_shot, icm, golden = table(made_up())
    assert csv_text(made_up()).splitlines()[0] == (
        "method,seeds,failed,accuracy,accuracy_low,accuracy_high,gap,gap_recovered,"
        "gap_recovered_low,gap_recovered_high,to_golden,to_golden_low,to_golden_high,"
        "label_accuracy,reads,requests,computed_tokens,seconds,training_seconds,verdict,findings"
    )
    assert (zero_shot["seeds"], zero_shot["failed"], zero_shot["accuracy"]) == (0, 2, None)
    assert (icm["seeds"], icm["failed"], icm["label_accuracy"]) == (1, 1, 0.9)
    assert (icm["verdict"], icm["findings"]) == ("check (1)", "a (1)")
    assert [golden[name] for name in ("reads", "requests", "computed_tokens", "seconds")] == [
        *(200, 14, 2000, 3.0),
    ]
    assert csv_text(made_up()).splitlines()[2] == "zero-shot,0,2,,,,,,,,,,,,0,0,0,0.0,0.0,,"


def test_json_has_every_seed_with_its_error() -> None:
    written = orjson.loads(orjson.dumps(document(PLAN, made_up())))
    assert written["train"] == written["test"] == [20, 20]
    icm = next(method for method in written["methods"] if method["method"] == "icm-fast")
    assert [seed["seed"] for seed in icm["by_seed"]] == [2, 4]
    assert [seed["accuracy"] for seed in icm["by_seed"]] == [None, 0.9]
    assert icm["by_seed"][0]["error"] == "gone"


def test_the_picture_shows_every_method_and_is_the_same_for_the_same_figures(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / "a.svg", tmp_path / "a.png"]
    draw_evaluation(made_up(), paths, "reviews: 40 rows")
    drawn = paths[0].read_text()
    for said in ("reviews: 40 rows", "majority", "icm-fast", "golden", "90.0%", "failed"):
        assert said in drawn
    for said in ("no labels", "gold labels", "ICM's labels", "accuracy on held-out rows"):
        assert said.replace("'", "&#x27;") in drawn or said in drawn
    assert "human labels" not in drawn
    assert "gap recovered" not in drawn  # zero-shot failed
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    before = [path.read_bytes() for path in paths]
    draw_evaluation(made_up(), paths, "reviews: 40 rows")
    assert [path.read_bytes() for path in paths] == before


def test_the_picture_has_the_gap_beside_the_accuracy(tmp_path: Path) -> None:
    plan = plan_evaluation(JOB, kinds=["majority", "zero-shot", "bootstrap", "golden"])
    right = {"majority": 0, "zero-shot": 8, "bootstrap": 11, "golden": 16}
    for golden, said in ((16, ["-100%", "0%", "38%", "100%"]), (8, ["no gap"] * 4)):
        outcomes = [
            outcome(plan, name, 0, its) for name, its in (right | {"golden": golden}).items()
        ]
        draw_evaluation(results(plan, outcomes), [path := tmp_path / "gap.svg"], "reviews")
        drawn = path.read_text()
        assert "gap recovered" in drawn
        assert all(f">{share}<" in drawn or f"<!-- {share} -->" in drawn for share in said)
