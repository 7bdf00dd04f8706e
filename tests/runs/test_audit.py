"""Given labels of planted rows, some of them exchanged, audited through the library."""

from pathlib import Path

import numpy as np
import pytest
from planted_reviews import COLOURS, TASK, planted, reviews

from icm_client import Task
from icm_client.errors import InputError, RowError
from icm_client.runs.audit import audit, prepare_audit, related_items
from icm_client.runs.audit_result import Audit
from icm_client.testing import PlantedConcept

N = 120


def flipped(
    n: int, wrong: int, task: Task = TASK, *, seed: int = 5
) -> tuple[list[dict[str, str]], set[int]]:
    """Rows whose field `given` is wrong in `wrong` of them; their ids count from 1."""
    rows = [{"text": row["text"], "given": row["label"]} for row in reviews(n, task)]
    which = np.random.default_rng(seed).permutation(n)[:wrong].tolist()
    words = task.labels
    for number in which:
        at = words.index(rows[number]["given"])
        rows[number]["given"] = words[(at + 1) % len(words)]
    return rows, {number + 1 for number in which}


async def audited(
    rows: list[dict[str, str]], server: PlantedConcept, store: Path, task: Task = TASK
) -> Audit:
    return await audit(rows, task=task, given="given", endpoint=server, store=store)


@pytest.mark.parametrize("seed", [5, 6, 7])
@pytest.mark.parametrize("task", [TASK, COLOURS], ids=["two labels", "three"])
async def test_wrong_labels_come_first_and_are_counted(
    task: Task, seed: int, tmp_path: Path
) -> None:
    rows, wrong = flipped(N, 12, task, seed=seed)
    found = await audited(rows, planted(N, task), tmp_path / "s.sqlite3", task)
    assert found.noise is not None
    assert {one.row.id for one in found.suspects[:12]} == wrong
    assert found.noise.share == pytest.approx(0.1, abs=0.03)
    assert found.probably_wrong == 12
    assert all(one.read_as != one.given for one in found.suspects[:12])
    given, probabilities = found.pred_probs()
    assert probabilities.shape == (N, len(task.labels))
    assert [sorted(task.labels)[k] for k in given] == [row["given"] for row in rows]


async def test_of_right_labels_none_is_suspected(tmp_path: Path) -> None:
    rows, _ = flipped(N, 0)
    found = await audited(rows, planted(N), tmp_path / "s.sqlite3")
    assert found.noise is not None
    assert found.noise.share < 0.02
    assert found.probably_wrong == 0


async def test_labels_that_the_model_does_not_see_are_beyond_audit(tmp_path: Path) -> None:
    """Nor are they called wrong: a model that knows nothing of them cannot say."""
    rows, _ = flipped(N, 0)
    words = np.random.default_rng(0).permutation([row["given"] for row in rows])
    rows = [{**row, "given": str(word)} for row, word in zip(rows, words, strict=True)]
    found = await audited(rows, planted(N, meaning=2.0), tmp_path / "s.sqlite3")
    assert found.noise is None
    assert not found.rows
    assert found.sentence().startswith("Beyond audit: read in the context of each other")
    assert found.summary()["share_wrong"] is None
    with pytest.raises(InputError, match="nothing to write"):
        found.write(tmp_path / "out.jsonl")


async def test_reads_without_groups_are_beyond_audit(tmp_path: Path) -> None:
    """Misread rows would be called wrong labels: none of these is."""
    rows, _ = flipped(N, 0, COLOURS)
    server = planted(N, COLOURS, noise=2.5, strength=1.5, meaning=0.5)
    found = await audited(rows, server, tmp_path / "s.sqlite3", COLOURS)
    assert found.noise is None
    assert "do not fall into a group" in found.sentence()


async def test_the_same_audit_again_asks_nothing(tmp_path: Path) -> None:
    rows, _ = flipped(N, 12)
    server = planted(N)
    one = await audited(rows, server, tmp_path / "s.sqlite3")
    again = await audited(rows, server, tmp_path / "s.sqlite3")
    assert one.cost.from_server == N
    assert again.cost.from_server == 0
    assert again.summary() | {"cost": None} == one.summary() | {"cost": None}


async def test_rows_without_a_given_label_are_left_out_and_listed(tmp_path: Path) -> None:
    rows, _ = flipped(N, 12)
    rows[3]["given"] = ""
    del rows[8]["given"]
    found = await audited(rows, planted(N), tmp_path / "s.sqlite3")
    assert found.unlabelled == (4, 9)
    assert found.read == N - 2 == found.cost.from_server
    assert not found.failed


def test_a_label_that_the_task_does_not_have_is_named_with_its_row() -> None:
    rows, _ = flipped(N, 0)
    rows[6]["given"] = "postive"
    with pytest.raises(RowError, match=r"given labels 'given' holds 'postive'.*'positive'"):
        prepare_audit(rows, task=TASK, given="given")
    prepared = prepare_audit(rows, task=TASK, given="given", skip_bad_rows=True)
    assert [row.id for row in prepared.job.dataset.skipped] == [7]
    assert sum(prepared.counts.values()) == N - 1


def test_what_cannot_be_audited_is_refused() -> None:
    rows, _ = flipped(N, 0)
    with pytest.raises(InputError, match="--given FIELD"):
        prepare_audit(rows, task=TASK)
    with pytest.raises(InputError, match=r"no row has the field 'giben'.*'given'"):
        prepare_audit(rows, task=TASK, given="giben")
    with pytest.raises(InputError, match="the task reads it"):
        prepare_audit(rows, task=TASK, given="text")
    with pytest.raises(InputError, match="an audit needs 24"):
        prepare_audit(rows[:10], task=TASK, given="given")
    with pytest.raises(InputError, match="fewer than two rows"):
        prepare_audit([{**row, "given": "positive"} for row in rows], task=TASK, given="given")


def test_the_tasks_own_field_is_audited_where_none_is_named() -> None:
    task = Task(**{**TASK.model_dump(), "gold": "label"})
    prepared = prepare_audit(reviews(N), task=task)
    assert prepared.field == "label"
    assert prepared.job.dataset.gold is None


def test_rows_with_the_same_text_are_not_read_given_each_other() -> None:
    rows, _ = flipped(N, 0)
    rows[10]["text"] = rows[4]["text"]
    prepared = prepare_audit(rows, task=TASK, given="given")
    assert related_items(prepared.job) == ((4, 10),)
