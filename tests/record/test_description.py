"""What a run's name follows from, and what of its command is recorded."""

from dataclasses import replace
from pathlib import Path

import pytest
from planted_reviews import COLOURS, TASK, reviews
from run_folders import SERVER, SETTINGS, described

from icm_client import Task, rows_from
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.record.description import RunDescription, without_secrets
from icm_client.record.folder import RunFolder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_the_same_job_has_the_same_name_and_any_change_another() -> None:
    names = [
        described().name,
        described(9).name,
        described(task=COLOURS).name,
        described(task=Task(**{**TASK.model_dump(), "separator": "\n"})).name,
        described(server=replace(SERVER, fingerprint="0" * 32)).name,
        described(server=replace(SERVER, model="other")).name,
        described(seed=1).name,
        described(demos=32).name,
        described(restarts=2).name,
    ]
    assert names[0] == described().name
    assert len(set(names)) == len(names)
    assert described(task=Task(**{**TASK.model_dump(), "name": "for people"})).name == names[0]


def test_gold_labels_have_no_part_in_the_name() -> None:
    rows = reviews(8)
    wrong = [{**row, "label": "positive"} for row in rows]
    jobs = [Job.prepare(rows_from(each, gold="label"), TASK) for each in (rows, wrong)]
    assert len({RunDescription.of(job, SETTINGS, 0, SERVER).name for job in jobs}) == 1


def test_what_the_constraint_reads_has() -> None:
    rows: list[dict[str, JsonValue]] = [
        {"text": f"row {n}", "question": n // 2, "other": 0} for n in range(8)
    ]
    task = Task(
        **{**TASK.model_dump(), "constraint": {"kind": "exactly-one", "group": ["question"]}}
    )

    def name(changed: str | None) -> str:
        own = [{**row, changed: 0} if changed else row for row in rows]
        return RunDescription.of(Job.prepare(own, task), SETTINGS, 0, SERVER).name

    assert name(None) == name("other") != name("question")


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("reviews.jsonl.gz", "reviews"),
        ("/deep/../My Data (1).csv", "My_Data_1"),
        ("..", "rows"),
        ("--yes.csv", "yes"),
        ("Ünïcode.csv", "n_code"),
        ("x" * 300, "x" * 40),
    ],
)
def test_a_name_is_one_that_every_file_system_takes(file: str, stem: str) -> None:
    assert replace(described(), data=file).name.rpartition("-")[0] == stem


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["label", "-o", "out", "--api-key", "CANARY", "d"], ["label", "-o", "out", "d"]),
        (["--api-key=CANARY", "--seed=1"], ["--seed=1"]),
        (["--embedding-token", "CANARY", "--max-prompt-tokens", "9"], ["--max-prompt-tokens", "9"]),
        (["-e", "https://u:CANARY@host:1/v1?a=b"], ["-e", "https://host:1/v1?a=b"]),
        (["--endpoint=http://host/?api_key=CANARY&a=b"], ["--endpoint=http://host/?a=b"]),
        (["s3.host://b/x.csv?X-Amz-Signature=CANARY&a=b"], ["s3.host://b/x.csv?a=b"]),
        (["https://b/x.csv?sv=1&sig=CANARY"], ["https://b/x.csv?sv=1"]),
        (["--template", "See http://x?key=1 {text}"], ["--template", "See http://x?key=1 {text}"]),
        (["--group-key", "question"], ["--group-key", "question"]),
    ],
)
def test_no_key_is_kept(base: Path, given: list[str], kept: list[str]) -> None:
    assert list(without_secrets(given).arguments) == kept
    with RunFolder.open(described(), base=base, command=given):
        pass
    for path in base.rglob("*"):
        if path.is_file():
            assert b"CANARY" not in path.read_bytes()
