"""What people say in Label Studio and Argilla of a run's export is read back as pins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from exported_runs import REVIEWS, review_rows, reviews_run

from icm_client.coherence.problem import UNLABELLED
from icm_client.data.job import Job
from icm_client.errors import InputError, RowError
from icm_client.record.archive import Run
from icm_client.runs.labels_file import read_pins
from icm_client.training.exports import export_run

Said = dict[str, list[str]]
"""Row id -> what each of several people said."""

SAID: Said = {"r0": ["positive"], "r1": ["negative", "negative"], "r4": ["positive", "positive"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reviews_run(tmp_path_factory.mktemp("reviews"))


@pytest.fixture
def job() -> Job:
    return Job.prepare(review_rows(), REVIEWS, gold="gold")


def tasks(run: Run, folder: Path) -> list[dict[str, Any]]:
    """What `--to label-studio` writes."""
    path = export_run(run, "label-studio", folder / "tasks.json").path
    found: list[dict[str, Any]] = orjson.loads(path.read_bytes())
    return found


def annotation(word: str, person: int, **more: Any) -> dict[str, Any]:
    result = {
        "id": "Dx1",
        "from_name": "label",
        "to_name": "prompt",
        "type": "choices",
        "origin": "manual",
        "value": {"choices": [word]},
    }
    return {
        "id": person,
        "completed_by": person,
        "result": [result],
        "was_cancelled": False,
        "ground_truth": False,
        "lead_time": 3.2,
        **more,
    }


def label_studio(run: Run, folder: Path, said: Said) -> list[dict[str, Any]]:
    """Label Studio's JSON, in which tasks have numbers of its own."""
    return [
        {
            "id": 900 + number,
            "data": task["data"],
            "annotations": [
                annotation(word, person)
                for person, word in enumerate(said.get(task["data"]["icm_id"], []))
            ],
            "predictions": task["predictions"],
        }
        for number, task in enumerate(tasks(run, folder))
    ]


def label_studio_min(run: Run, folder: Path, said: Said) -> list[dict[str, Any]]:
    """Its JSON-MIN: a record an annotation."""
    return [
        {
            **task["data"],
            "id": task["id"],
            "label": one["result"][0]["value"]["choices"][0],
            "annotator": one["completed_by"],
            "annotation_id": one["id"],
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "lead_time": one["lead_time"],
        }
        for task in label_studio(run, folder, said)
        for one in task["annotations"]
    ]


def argilla(run: Run, folder: Path, said: Said) -> list[dict[str, Any]]:
    """What `records.to_json` writes."""
    path = export_run(run, "argilla", folder / "argilla").path / "records.json"
    records: list[dict[str, Any]] = orjson.loads(path.read_bytes())
    for record in records:
        words = said.get(record["id"], [])
        answers = [{"value": word, "user_id": f"u{n}"} for n, word in enumerate(words)]
        record |= {"responses": {"label": answers} if answers else {}, "_server_id": "5f"}
        record["status"] = "completed" if answers else "pending"
    return records


def argilla_flat(run: Run, folder: Path, said: Said) -> list[dict[str, Any]]:
    """What `records.to_list(flatten=True)` returns."""
    found = []
    for record in argilla(run, folder, said):
        words = said.get(record["id"])
        found.append(
            {
                "id": record["id"],
                "status": record["status"],
                **record["fields"],
                **record["metadata"],
                "label.responses": words,
                "label.responses.users": words and [f"u{n}" for n, _ in enumerate(words)],
                "label.responses.status": words and ["submitted"] * len(words),
                "label.suggestion": record["suggestions"]["label"]["value"],
            }
        )
    return found


Export = Callable[[Run, Path, Said], list[dict[str, Any]]]
EXPORTS: list[Export] = [label_studio, label_studio_min, argilla, argilla_flat]


def pinned(job: Job, records: list[dict[str, Any]], folder: Path) -> dict[object, str]:
    path = folder / "annotated.json"
    path.write_bytes(orjson.dumps(records))
    found = read_pins(path, job)
    assert found is not None
    return {
        job.dataset.rows[job.items[item].row].id: job.labels[found[item]]
        for item in np.flatnonzero(found != UNLABELLED)
    }


@pytest.mark.parametrize("export", EXPORTS)
def test_what_people_said_is_pinned(export: Export, run: Run, job: Job, tmp_path: Path) -> None:
    found = pinned(job, export(run, tmp_path, SAID), tmp_path)
    assert found == {row_id: words[0] for row_id, words in SAID.items()}


@pytest.mark.parametrize("export", EXPORTS)
def test_rows_that_people_disagree_about_are_refused_and_listed(
    export: Export, run: Run, job: Job, tmp_path: Path
) -> None:
    said = {**SAID, "r2": ["positive", "negative", "positive"], "r3": ["negative", "positive"]}
    with pytest.raises(InputError) as caught:
        pinned(job, export(run, tmp_path, said), tmp_path)
    assert (
        "annotated.json: people disagree about 2 rows: 'r2' (positive 2, negative 1), "
        "'r3' (negative 1, positive 1). Let one answer of each be left" in str(caught.value)
    )


def test_an_answer_that_is_ground_truth_settles_it(run: Run, job: Job, tmp_path: Path) -> None:
    records = label_studio(run, tmp_path, {"r2": ["positive", "positive", "negative"]})
    records[2]["annotations"][2]["ground_truth"] = True
    assert pinned(job, records, tmp_path) == {"r2": "negative"}


def test_answers_that_were_skipped_do_not_count(run: Run, job: Job, tmp_path: Path) -> None:
    records = label_studio(run, tmp_path, {"r0": ["positive", "negative"], "r1": ["negative"]})
    records[0]["annotations"][1]["was_cancelled"] = True
    records[1]["annotations"][0]["result"] = []
    assert pinned(job, records, tmp_path) == {"r0": "positive"}
    flat = argilla_flat(run, tmp_path, {"r0": ["positive", "negative"]})
    flat[0]["label.responses.status"][1] = "discarded"
    assert pinned(job, flat, tmp_path) == {"r0": "positive"}


@pytest.mark.parametrize("export", [label_studio, argilla, argilla_flat])
def test_tasks_that_nobody_has_answered_are_no_pins(
    export: Export, run: Run, job: Job, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="nobody has submitted an answer for any of its 16 rows"):
        pinned(job, export(run, tmp_path, {}), tmp_path)


@pytest.mark.parametrize("export", [label_studio, label_studio_min, argilla])
def test_annotations_of_other_rows_are_refused(export: Export, run: Run, tmp_path: Path) -> None:
    rows = [{**row, "text": f"another text {n}"} for n, row in enumerate(review_rows())]
    other = Job.prepare(rows, REVIEWS, gold="gold")
    with pytest.raises(InputError, match="'r0' of rows holds another 'text'"):
        pinned(other, export(run, tmp_path, SAID), tmp_path)


def test_tasks_from_elsewhere_must_say_which_row_they_are_of(job: Job, tmp_path: Path) -> None:
    text = {"text": review_rows()[0]["text"]}
    answer = annotation("positive", 1)
    answer["result"][0]["from_name"] = "sentiment"  # their own interface
    own = {"id": 4, "data": {**text, "id": "r0"}, "annotations": [answer]}
    assert pinned(job, [own], tmp_path) == {"r0": "positive"}
    with pytest.raises(RowError, match="the task has no 'icm_id', so which row it is of is not"):
        pinned(job, [{**own, "data": text}], tmp_path)


def test_answers_that_are_no_label_are_named(run: Run, job: Job, tmp_path: Path) -> None:
    records = label_studio(run, tmp_path, {"r0": ["Positive"]})
    with pytest.raises(InputError, match="'Positive' is none of the labels"):
        pinned(job, records, tmp_path)
    records[0]["annotations"][0]["result"][0]["value"]["choices"] = ["positive", "negative"]
    with pytest.raises(RowError, match="an answer must be one label, not a list"):
        pinned(job, records, tmp_path)
