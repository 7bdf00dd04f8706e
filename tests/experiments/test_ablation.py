"""What is run, what is skipped, and what the table says of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import orjson
import pytest

from icm_client import Task
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.endpoints import Answer, Read
from icm_client.errors import EndpointFault, RunError, StoreError
from icm_client.experiments.ablation import (
    ABLATIONS,
    Compared,
    Ended,
    MadeStart,
    Outcome,
    Plan,
    Variant,
    compare,
    csv_text,
    made_start,
    plan_ablations,
    run_ablations,
    table,
)
from icm_client.experiments.figures import draw_ablations
from icm_client.runs.label import label
from icm_client.runs.labels_file import read_start
from icm_client.runs.presets import InContextPreset, Settings
from icm_client.testing import PlantedConcept

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
PAIRED = Task(
    template="Question: {question}\nClaim: {claim}\nI think this claim is",
    labels=("True", "False"),
    constraint=ConstraintSpec(kind="mutual-exclusion", group=("question",), answer="claim"),
)
SHORT = AnnealSettings(iterations=4, initial=4)


def job_of(count: int = 20, *, gold: bool = True) -> Job:
    rows = [{"text": f"words of row {n}", "gold": WORDS[n * 7 % 5 % 2]} for n in range(count)]
    return Job.prepare(rows, TASK, gold="gold" if gold else None)


def paired(questions: int = 6) -> Job:
    return Job.prepare(
        [{"question": f"q{n // 2}", "claim": f"claim {n}"} for n in range(2 * questions)], PAIRED
    )


def endpoint_for(job: Job) -> PlantedConcept:
    planted = {prompt: n * 7 % 5 % 2 for n, prompt in enumerate(job.prompts)}
    return PlantedConcept(planted, job.label_texts)


async def ran(
    job: Job,
    plan: Plan,
    folder: Path,
    *,
    endpoint: PlantedConcept | None = None,
    seeds: int = 1,
    told: list[Ended] | None = None,
) -> dict[tuple[Variant, int], Outcome]:
    """Run the plan in `folder`, with the store beside it."""
    return await run_ablations(
        job,
        plan,
        seeds=seeds,
        endpoint=endpoint or endpoint_for(job),
        folder=folder,
        store=folder.parent / "scores.sqlite3",
        ended=(lambda _: None) if told is None else told.append,
    )


def names(plan: Plan, ablation: str) -> list[str]:
    return [variant.name for variant in plan.variants if variant.ablation == ablation]


def test_the_paper_preset_is_changed_in_all_five_ways() -> None:
    plan = plan_ablations(paired(20), AnnealSettings())
    assert names(plan, "constraint") == ["mutual-exclusion", "none"]
    assert names(plan, "initial") == ["0", "2", "8", "32", "40"]
    assert names(plan, "alpha") == ["falling", "10", "20", "30", "50", "100"]
    assert names(plan, "init") == ["random", "balanced", "zero-shot", "random-labels"]
    assert names(plan, "preset") == list(get_args(InContextPreset))
    assert plan.notices == (
        "the starts 'golden' and 'all-wrong' are left out: no row has a gold label",
    )


def test_each_variant_differs_from_the_base_in_one_thing() -> None:
    base = AnnealSettings(iterations=7, max_demos=9)
    for variant in plan_ablations(paired(), base).variants:
        if variant.ablation == "preset":
            continue
        assert isinstance(variant.settings, AnnealSettings)
        changed = [
            variant.settings.initial != base.initial,
            replace(variant.settings, initial=base.initial) != base,
            variant.start is not None or variant.made is not None,
            not variant.rule,
        ]
        assert sum(changed) <= 1, variant


def test_variants_that_are_the_base_are_run_once() -> None:
    plan = plan_ablations(job_of(), AnnealSettings())
    base = [variant for variant in plan.variants if variant.runs_as == plan.variants[1].runs_as]
    assert [(v.ablation, v.name) for v in plan.variants if v.settings == AnnealSettings()][:1] == [
        ("initial", "8")
    ]
    assert len(base) == 1
    same = [v for v in plan.variants if v.runs_as == (AnnealSettings(), None, None, True)]
    assert {v.ablation for v in same} == {"initial", "alpha", "init", "preset"}
    assert plan.distinct == len(plan.variants) - len(same) + 1


def test_more_first_labels_than_rows_are_no_variant() -> None:
    assert names(plan_ablations(job_of(20), AnnealSettings()), "initial") == ["0", "2", "8", "20"]


def test_sweeps_start_from_something_and_have_no_alpha() -> None:
    plan = plan_ablations(job_of(20), SweepSettings())
    assert names(plan, "initial") == ["2", "8", "10"]
    assert names(plan, "alpha") == []
    assert names(plan, "init")[:2] == ["own", "random"]
    assert "the ablation 'alpha' is left out: the preset fast has no alpha" in plan.notices


def test_rows_without_a_rule_have_none_to_leave_out() -> None:
    plan = plan_ablations(job_of(), SHORT, only=["constraint"])
    assert plan.variants == ()
    assert plan.notices == ("the ablation 'constraint' is left out: no rule joins these rows",)


def test_presets_share_steps_and_contexts() -> None:
    base = AnnealSettings(iterations=7, max_demos=9, initial=3)
    plan = plan_ablations(job_of(), base, only=["preset"])
    of = {variant.name: variant.settings for variant in plan.variants}
    assert of["paper"] == base
    assert of["official"] == OfficialSettings(iterations=7, max_demos=9, layout="tree")
    assert of["fast"] == SweepSettings()


def test_golden_and_all_wrong_starts_are_the_same_rows_with_opposite_labels() -> None:
    job = job_of()
    golden, wrong = (made_start(kind, job, 3, 6) for kind in ("golden", "all-wrong"))
    assert golden.keys() == wrong.keys()
    assert len(golden) == 6
    gold = job.dataset.gold or ()
    assert all(golden[place] == gold[place] != wrong[place] for place in golden)
    assert made_start("golden", job, 4, 6).keys() != golden.keys()


def test_random_labels_are_for_every_row_and_drawn_without_gold() -> None:
    with_gold, without = (
        made_start("random-labels", job_of(gold=gold), 0, 6) for gold in (True, False)
    )
    assert with_gold == without
    assert sorted(with_gold) == list(range(20))
    assert set(with_gold.values()) == set(WORDS)


async def test_every_run_is_one_line_and_is_not_run_again(tmp_path: Path) -> None:
    job = job_of()
    plan = plan_ablations(job, SHORT, only=["alpha", "init"])
    told: list[Ended] = []
    again: list[Ended] = []
    first = await ran(job, plan, tmp_path / "out", seeds=2, told=told)
    path = tmp_path / "out" / "results.jsonl"
    lines = path.read_bytes().splitlines()
    assert len(lines) == plan.distinct * 2
    assert [run.number for run in told] == list(range(1, len(plan.variants) * 2 + 1))
    assert sum(not run.kept for run in told) == len(lines)

    silent = endpoint_for(job)
    second = await ran(job, plan, tmp_path / "out", seeds=2, endpoint=silent, told=again)
    assert second == first
    assert silent.usage.requests == 0
    assert all(run.kept for run in again)
    assert path.read_bytes().splitlines() == lines


async def test_a_torn_last_line_is_one_run_to_do_again(tmp_path: Path) -> None:
    job = job_of()
    plan = plan_ablations(job, SHORT, only=["alpha"])
    told: list[Ended] = []
    first = await ran(job, plan, tmp_path / "out")
    path = tmp_path / "out" / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    second = await ran(job, plan, tmp_path / "out", told=told)
    assert [run.kept for run in told] == [True] * (len(told) - 1) + [False]
    assert [o.coherence for o in second.values()] == [o.coherence for o in first.values()]


async def test_other_settings_are_other_runs_in_the_same_folder(tmp_path: Path) -> None:
    job = job_of()
    told: list[Ended] = []
    for settings in (SHORT, replace(SHORT, iterations=5)):
        plan = plan_ablations(job, settings, only=["preset"])
        await ran(job, plan, tmp_path / "out", told=told)
    again = told[len(told) // 2 :]
    # The others have no steps, so nothing has changed for them.
    assert [run.variant.name for run in again if not run.kept] == ["paper", "official"]


class FallsOver(PlantedConcept):
    """Refuses the reads of one run."""

    after = 0

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        if self.usage.requests >= self.after:
            raise EndpointFault("the server fell over")
        return await super().read(reads, lane=lane)


async def test_a_run_that_fails_is_noted_and_tried_the_next_time(tmp_path: Path) -> None:
    job = job_of()
    plan = plan_ablations(job, SHORT, only=["preset"])
    planted = {prompt: n * 7 % 5 % 2 for n, prompt in enumerate(job.prompts)}
    failing = FallsOver(planted, job.label_texts)
    first = await ran(job, plan, tmp_path / "out", endpoint=failing)
    assert [outcome.error for outcome in first.values()] == ["the server fell over"] * 7
    written = (tmp_path / "out" / "results.jsonl").read_bytes()
    lines = [orjson.loads(line) for line in written.splitlines()]
    assert [line["error"] for line in lines] == ["the server fell over"] * 7
    second = await ran(job, plan, tmp_path / "out")
    assert all(outcome.error is None for outcome in second.values())


async def test_a_store_that_cannot_be_written_ends_all(tmp_path: Path) -> None:
    job = job_of()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        await run_ablations(
            job,
            plan_ablations(job, SHORT, only=["preset"]),
            seeds=1,
            endpoint=endpoint_for(job),
            folder=tmp_path / "out",
            store=tmp_path / "file" / "scores.sqlite3",
        )


async def test_results_of_another_kind_are_refused(tmp_path: Path) -> None:
    job = job_of()
    (tmp_path / "results.jsonl").write_text('{"at":"","event":"ran","run":"x","seed":0}\n')
    with pytest.raises(RunError, match="lacks figures"):
        await run_ablations(
            job,
            plan_ablations(job, SHORT, only=["preset"]),
            seeds=1,
            endpoint=endpoint_for(job),
            folder=tmp_path,
        )


async def test_figures_are_those_of_the_run_itself(tmp_path: Path) -> None:
    job = job_of()
    plan = Plan((Variant("init", "golden", SHORT, made="golden"),), ())
    (outcome,) = (await ran(job, plan, tmp_path / "out")).values()
    (start,) = (tmp_path / "out" / "starts").iterdir()
    assert not isinstance(read_start(start, job), str)
    found = await label(
        job.dataset,
        task=TASK,
        endpoint=endpoint_for(job),
        settings=SHORT,
        start=start,
        store=tmp_path / "b.sqlite3",
    )
    assert outcome.accuracy == found.accuracy
    assert outcome.coherence == found.coherence
    assert outcome.reads == found.cost.from_server + found.cost.from_store
    assert outcome.steps == 4


def made_up(ablation: MadeStart | str, name: str, *outcomes: Outcome) -> Compared:
    return Compared(Variant(ablation, name, SHORT), outcomes)  # type: ignore[arg-type]


COMPARED = (
    made_up(
        "alpha",
        "10",
        Outcome(0, 0.5, 0.25, ("one-label",), steps=4, accepted=1, reads=10, computed_tokens=7),
        Outcome(1, 0.75, 0.75, ("one-label",), steps=4, accepted=4, reads=21, computed_tokens=5),
        Outcome(2, error="gone"),
    ),
    made_up("alpha", "20", Outcome(0, error="gone")),
    made_up("init", "random", Outcome(0, None, -0.1)),
)


def test_the_table_has_mean_and_spread_and_no_number_where_nothing_ended() -> None:
    first, second, third = table(COMPARED)
    assert csv_text(COMPARED).splitlines()[0] == (
        "ablation,variant,runs,failed,accuracy_mean,accuracy_least,accuracy_most,coherence_mean,"
        "coherence_least,coherence_most,steps_mean,accepted_mean,reads_mean,computed_tokens_sum,"
        "seconds_sum,findings"
    )
    assert (first["runs"], first["failed"]) == (2, 1)
    means = [first[f"accuracy_{of}"] for of in ("mean", "least", "most")]
    assert means == [0.625, 0.5, 0.75]
    assert [first[f"coherence_{of}"] for of in ("mean", "least", "most")] == [0.5, 0.25, 0.75]
    assert (first["accepted_mean"], first["reads_mean"]) == (2.5, 15.5)
    assert first["computed_tokens_sum"] == 12
    assert first["findings"] == "one-label (2)"
    assert (second["runs"], second["failed"], second["accuracy_mean"]) == (0, 1, None)
    assert (third["accuracy_mean"], third["coherence_mean"]) == (None, -0.1)
    assert csv_text(COMPARED).splitlines()[2].startswith("alpha,20,0,1,,,,,,,,,,0,")


def test_seeds_stand_in_their_order() -> None:
    variant = Variant("alpha", "10", SHORT)
    outcomes = {(variant, 1): Outcome(1), (variant, 0): Outcome(0)}
    (one,) = compare(Plan((variant,), ()), outcomes)
    assert [outcome.seed for outcome in one.outcomes] == [0, 1]


def test_the_picture_shows_every_variant_and_is_the_same_for_the_same_figures(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / "a.svg", tmp_path / "a.png"]
    draw_ablations(COMPARED, paths, "reviews: 20 rows")
    drawn = paths[0].read_text()
    for said in ("reviews: 20 rows", ">10<", ">20<", "random", "accuracy", "coherence", "failed"):
        assert said in drawn
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    before = [path.read_bytes() for path in paths]
    draw_ablations(COMPARED, paths, "reviews: 20 rows")
    assert [path.read_bytes() for path in paths] == before


def test_without_gold_coherence_stands_alone(tmp_path: Path) -> None:
    draw_ablations(COMPARED[2:], [tmp_path / "a.svg"], "rows")
    drawn = (tmp_path / "a.svg").read_text()
    assert "coherence" in drawn
    assert "accuracy" not in drawn


def test_ablations_are_named_for_options() -> None:
    assert ABLATIONS == ("constraint", "initial", "alpha", "init", "preset")


@pytest.mark.slow
@pytest.mark.parametrize("base", [SHORT, OfficialSettings(iterations=4), SweepSettings()])
@pytest.mark.parametrize("job", [job_of(), paired()], ids=["rows", "groups"])
async def test_every_variant_of_every_preset_runs(job: Job, base: Settings, tmp_path: Path) -> None:
    plan = plan_ablations(job, base)
    outcomes = await ran(job, plan, tmp_path / "out")
    assert len(outcomes) == len(plan.variants)
    assert {outcome.error for outcome in outcomes.values()} == {None}
