"""A run for each value of a field: one output, one budget, and how far the values agree."""

import csv
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from icm_client import Budget, Task, rows_from
from icm_client.errors import InputError, RowError, RunStopped
from icm_client.record.archive import list_runs
from icm_client.runs.by_field import GroupLabels, label_groups, prepare_groups
from icm_client.runs.request import LabelRequest
from icm_client.scoring import open_store
from icm_client.testing import PlantedConcept

TASK = Task(
    template="A {persona} is asked: {question}\nAnswer:",
    labels=("yes", "no"),
    gold="said",
)
PERSONAS = ("farmer", "teacher", "sailor")
N = 40


def said(persona: str, number: int) -> str:
    """The farmer and the teacher say the same of four questions in five, the sailor of half."""
    first = number * 7 % 5 % 2
    differs = {"farmer": False, "teacher": number % 5 == 0, "sailor": number % 2 == 0}
    return TASK.labels[first ^ differs[persona]]


def rows(personas: tuple[str, ...] = PERSONAS) -> list[dict[str, str]]:
    """Question by question, so that a persona's rows do not stand together."""
    return [
        {
            "id": f"{persona}{number}",
            "persona": persona,
            "question": f"question {number}",
            "said": said(persona, number),
        }
        for number in range(N)
        for persona in personas
    ]


def concept() -> PlantedConcept:
    made = rows()
    prompts = TASK.render_all(rows_from(made, gold="said"))
    classes = [TASK.labels.index(row["said"]) for row in made]
    return PlantedConcept(dict(zip(prompts, classes, strict=True)), TASK.label_texts, noise=0.1)


async def labelled(tmp_path: Path, request: LabelRequest, **options: object) -> GroupLabels:
    prepared = prepare_groups(
        replace(request, runs=tmp_path / "runs"),
        "persona",
        match=options.pop("match", ()),  # type: ignore[arg-type]
    )
    with open_store(tmp_path / "s") as store:
        return await label_groups(
            prepared,
            endpoint=concept(),
            store=store,
            **options,  # type: ignore[arg-type]
        )


async def test_each_value_has_a_run_and_all_rows_one_output_in_order(tmp_path: Path) -> None:
    begun: list[tuple[str, int]] = []
    found = await labelled(
        tmp_path, LabelRequest(rows(), TASK), began=lambda *value: begun.append(value)
    )
    assert begun == [(persona, N) for persona in PERSONAS]
    assert found.failed == ()
    assert [row.row.id for row in found.rows] == [row["id"] for row in rows()]
    assert all(labels.accuracy == 1.0 for labels in found.runs.values())
    names = [run.name for run in list_runs(tmp_path / "runs").runs]
    assert sorted(name.rpartition("-")[0] for name in names) == sorted(
        f"rows-{persona}" for persona in PERSONAS
    )
    found.write(tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["persona"] for row in written[:4]] == ["farmer", "teacher", "sailor", "farmer"]
    assert [row["label"] for row in written] == [row["said"] for row in rows()]
    assert [row["said"] for row in written] == [row["said"] for row in rows()]
    again = await labelled(tmp_path, LabelRequest(rows(), TASK))
    assert again.rows == found.rows
    assert sum(labels.cost.from_server for labels in again.runs.values()) == 0


async def test_the_same_questions_are_matched_and_compared(tmp_path: Path) -> None:
    found = await labelled(tmp_path, LabelRequest(rows(), TASK))
    assert found.prepared.matched_by == ("question",)
    shares = {pair: (one.rows, one.share) for pair, one in found.agreements.items()}
    assert shares == {
        ("farmer", "teacher"): (N, 0.8),
        ("farmer", "sailor"): (N, 0.5),
        ("teacher", "sailor"): (N, 0.5),
    }
    (first, *_) = found.summary()["agreement"]
    assert (first["first"], first["second"], first["rows"]) == ("farmer", "teacher", N)
    assert first["kappa"] == pytest.approx(0.615, abs=0.001)
    orjson.dumps(found.summary())


def test_rows_are_matched_by_a_field_that_is_named() -> None:
    made = [{**row, "item": row["question"].split()[1]} for row in rows()]
    for row in made:
        row["question"] = f"{row['question']} "
    with pytest.raises(InputError, match=r"no row has the field 'itm'.* Did you mean 'item'\?"):
        prepare_groups(LabelRequest(made, TASK), "persona", match=["itm"])
    prepared = prepare_groups(LabelRequest(made, TASK), "persona", match=["item"])
    assert prepared.matched_by == ("item",)


async def test_where_no_rows_are_the_same_there_are_no_agreements(tmp_path: Path) -> None:
    numbers = {"farmer": range(13), "teacher": range(13, 26), "sailor": range(26, 40)}
    made = [row for row in rows() if int(row["question"].split()[1]) in numbers[row["persona"]]]
    found = await labelled(tmp_path, LabelRequest(made, TASK))
    assert found.agreements == {}
    assert len(found.rows) == len(made)
    assert "farmer (13 rows)" in found.prepared.warnings[-1]


def test_values_of_too_few_rows_are_named_before_anything_is_spent() -> None:
    made = [*rows(), {"id": "k1", "persona": "king", "question": "war?", "said": "yes"}]
    made += [{"id": "e1", "persona": "farmer", "question": " ", "said": "yes"}]
    with pytest.raises(RowError) as caught:
        prepare_groups(LabelRequest(made, TASK), "persona")
    assert "rows:121: no other row has 'king' in the field 'persona'" in str(caught.value)
    assert "rows:122: the field 'question' is empty" in str(caught.value)
    assert str(caught.value).endswith("2 rows cannot be used")
    assert caught.value.skippable
    prepared = prepare_groups(LabelRequest(made, TASK, skip_bad_rows=True), "persona")
    assert [row.id for row in prepared.skipped] == ["k1", "e1"]
    assert list(prepared.runs) == list(PERSONAS)
    blind = Task(template="{question}:", labels=("yes", "no"))
    with pytest.raises(RowError, match=r"rows:121: the field 'persona', .* holds nothing"):
        prepare_groups(
            LabelRequest([*rows(), {**made[0], "id": "x", "persona": None}], blind), "persona"
        )


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("prsona", r"no row has the field 'prsona'.* Did you mean 'persona'\?"),
        ("said", "is the gold field"),
    ],
)
def test_a_field_that_parts_nothing_is_refused(field: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepare_groups(LabelRequest(rows(), TASK), field)


def test_one_value_is_nothing_to_compare() -> None:
    with pytest.raises(InputError, match="all rows have one value in the field 'persona'"):
        prepare_groups(LabelRequest(rows(("farmer",)), TASK), "persona")


async def test_the_budget_is_that_of_all_runs_together(tmp_path: Path) -> None:
    free = await labelled(tmp_path / "free", LabelRequest(rows(), TASK))
    first = free.runs["farmer"].cost.requests
    budget = Budget(max_requests=first + 5)
    found = await labelled(tmp_path, LabelRequest(rows(), TASK, budget=budget))
    assert list(found.runs) == ["farmer", "teacher"]
    assert found.stopped is not None
    assert "in the rows of 'teacher'" in found.stopped
    spent = sum(labels.cost.requests for labels in found.runs.values())
    assert spent < 2 * first
    missing = {row.id for row in found.failed}
    assert {f"sailor{n}" for n in range(N)} <= missing
    assert found.failed[-1].reason.startswith("its run was not begun: a limit was reached")


async def test_pins_are_of_the_run_that_has_the_row(tmp_path: Path) -> None:
    pins = {"farmer3": said("farmer", 3), "sailor4": said("sailor", 4)}
    found = await labelled(tmp_path, LabelRequest(rows(), TASK, pins=pins))
    assert {value: labels.pinned for value, labels in found.runs.items()} == {
        "farmer": 1,
        "teacher": 0,
        "sailor": 1,
    }


async def test_a_caller_that_stops_goes_on_with_the_same_call(tmp_path: Path) -> None:
    begun: list[str] = []
    with pytest.raises(RunStopped) as caught:
        await labelled(
            tmp_path,
            LabelRequest(rows(), TASK),
            began=lambda value, _: begun.append(value),
            stopping=lambda: len(begun) > 1,
        )
    assert caught.value.labels is None
    found = await labelled(tmp_path, LabelRequest(rows(), TASK))
    assert found.runs["farmer"].cost.from_server == 0
