"""Run folders: the same job finds its own, and what is in them after runs, kills and accidents."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import orjson
import pytest
from planted_reviews import COLOURS, TASK, data, reviews

from icm_client import Task, rows_from
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.data.outputs import LabelledRow, write_labels
from icm_client.endpoints import ServerIdentity
from icm_client.errors import EndpointFault, InputError, RunError, RunStopped
from icm_client.record.archive import Run, diff_runs, list_runs, read_run, remove_run
from icm_client.record.description import RunDescription, without_secrets
from icm_client.record.folder import RunFolder
from icm_client.record.journal import read

SERVER = ServerIdentity("vllm", "model", 4096, "f" * 32)
SETTINGS: Mapping[str, JsonValue] = {"preset": "fast", "demos": 64}


def described(
    rows: int = 8, task: Task = TASK, server: ServerIdentity = SERVER, seed: int = 0, **own: int
) -> RunDescription:
    job = Job.prepare(data(reviews(rows, task)), task)
    return RunDescription.of(job, {**SETTINGS, **own}, seed, server)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def finished(base: Path, description: RunDescription, labels: str = "positive") -> str:
    def write(path: Path) -> None:
        path.write_bytes(
            b"".join(
                orjson.dumps({**row, "id": n, "label": labels}, option=orjson.OPT_APPEND_NEWLINE)
                for n, row in enumerate(reviews(8), start=1)
            )
        )

    with RunFolder.open(description, base=base) as folder:
        folder.finish({"coherence": 0.5}, write)
    return folder.name


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


def test_what_a_run_is_stands_in_its_folder(base: Path) -> None:
    with RunFolder.open(described(), base=base, command=["label", "rows.jsonl"]) as folder:
        assert not folder.resumed
        run = read_run(folder.name, base)
        assert run.state == "running"
        folder.journal.append("sweep", U=0.25)
    record = orjson.loads((folder.path / "run.json").read_bytes())
    assert record["name"] == folder.name == folder.path.name
    assert record["rows"] == 8
    assert record["settings"] == SETTINGS
    assert record["server"]["fingerprint"] == SERVER.fingerprint
    assert record["task"]["template"] == TASK.template
    assert record["versions"]["icm-client"]
    assert record["versions"]["python"] == sys.version.split()[0]
    assert record["command"] == ["label", "rows.jsonl"]
    assert record["folder"] == str(Path.cwd())
    assert [event["event"] for event in read(folder.path / "journal.jsonl")] == ["started", "sweep"]


def test_the_same_job_goes_on_in_its_folder_and_fresh_starts_over(base: Path) -> None:
    with RunFolder.open(described(), base=base) as first:
        first.stop("out of budget")
    with RunFolder.open(described(), base=base, command=["label"]) as second:
        assert second.resumed
        assert second.path == first.path
    journal = first.path / "journal.jsonl"
    events = [event["event"] for event in read(journal)]
    assert events == ["started", "stopped", "resumed"]
    with RunFolder.open(described(), base=base):
        pass
    assert read_run(first.name, base).record["command"] == ["label"], "Python's has no command"
    with RunFolder.open(described(), base=base, fresh=True) as third:
        assert not third.resumed
    assert [event["event"] for event in read(journal)] == ["started"]


def test_what_a_killed_process_left_half_written_is_gone(base: Path) -> None:
    name = finished(base, described())
    torn = base / name / ".result.json.0123abcd.tmp"
    torn.write_bytes(b'{"coher')
    with RunFolder.open(described(), base=base):
        assert not torn.exists()


def test_how_a_run_ended(base: Path) -> None:
    def state(seed: int) -> tuple[str, str | None]:
        run = read_run(described(seed=seed).name, base)
        return run.state, run.reason

    finished(base, described(seed=0))
    assert state(0) == ("done", None)
    with pytest.raises(EndpointFault), RunFolder.open(described(seed=1), base=base):
        raise EndpointFault("500 from the server")
    assert state(1) == ("failed", "500 from the server")
    with pytest.raises(KeyboardInterrupt), RunFolder.open(described(seed=2), base=base):
        raise KeyboardInterrupt
    assert state(2) == ("stopped", "interrupted")
    with RunFolder.open(described(seed=3), base=base) as folder:
        folder.stop("20 requests were allowed")
    assert state(3) == ("stopped", "20 requests were allowed")
    with pytest.raises(RunStopped), RunFolder.open(described(seed=4), base=base):
        raise RunStopped("stopped on request")
    assert state(4) == ("stopped", "interrupted")


async def test_a_cancelled_run_is_stopped(base: Path) -> None:
    with anyio.move_on_after(0.01), RunFolder.open(described(), base=base) as folder:
        await anyio.sleep(10)
    assert read_run(folder.name, base).state == "stopped"


def test_labels_are_there_before_the_run_is_done(base: Path) -> None:
    def unwritable(path: Path) -> None:
        raise InputError(str(path))

    with pytest.raises(InputError), RunFolder.open(described(), base=base) as folder:
        folder.finish({}, unwritable)
    assert read_run(folder.name, base).state == "failed"
    assert not (folder.path / "result.json").exists()


HOLDS = """
import sys, time
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_folder import described
from icm_client.record.folder import RunFolder
folder = RunFolder.open(described(), base=Path(sys.argv[1]))
folder.journal.append("sweep")
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_is_not_running(base: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(base), *sys.path],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        name = described().name
        assert read_run(name, base).state == "running"
        with pytest.raises(RunError, match="another process works on the run"):
            RunFolder.open(described(), base=base)
        with pytest.raises(RunError, match="end it first"):
            remove_run(read_run(name, base))
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    run = read_run(name, base)
    assert (run.state, run.reason) == ("stopped", None)
    with RunFolder.open(described(), base=base) as folder:
        assert folder.resumed
    events = [event["event"] for event in read(folder.path / "journal.jsonl")]
    assert events == ["started", "sweep", "resumed"]


def test_a_base_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written: Not a directory.*--runs"):
        RunFolder.open(described(), base=tmp_path / "file" / "runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_base_folder_says_what_to_do(base: Path) -> None:
    base.mkdir(mode=0o500)
    with pytest.raises(RunError, match="Permission denied"):
        RunFolder.open(described(), base=base)


def test_a_foreign_folder_under_the_runs_name_is_left_alone(base: Path) -> None:
    path = base / described().name
    path.mkdir(parents=True)
    (path / "run.json").write_text('{"mine": 1}')
    with pytest.raises(RunError, match="describes no run"):
        RunFolder.open(described(), base=base)
    assert (path / "run.json").read_text() == '{"mine": 1}'
    with RunFolder.open(described(), base=base, fresh=True):  # the lock was let go
        pass


def test_what_is_no_run_is_left_out_of_the_list_with_a_note(base: Path) -> None:
    assert list_runs(base).runs == ()
    names = [finished(base, described(seed=seed)) for seed in range(2)]
    (base / "notes.txt").touch()
    (base / "foreign").mkdir()
    (base / "cut-off").mkdir()
    (base / "cut-off" / "run.json").write_text('{"icm_client_run": 1')
    (base / "copy").mkdir()
    (base / "copy" / "run.json").write_bytes((base / names[0] / "run.json").read_bytes())
    found = list_runs(base)
    assert sorted(run.name for run in found.runs) == sorted(names)
    assert len(found.notes) == 3
    for word in ("foreign", "cut-off", "copy"):
        assert any(word in note for note in found.notes)


def test_a_run_is_named_by_its_beginning_where_that_is_enough(base: Path) -> None:
    names = [finished(base, described(seed=seed)) for seed in range(2)]
    assert read_run(names[0][:-2], base).name == names[0]
    for unclear in ("rows-", "", "../runs", "elsewhere"):
        with pytest.raises(InputError, match="is called"):
            read_run(unclear, base)


def test_runs_differ_in_settings_and_labels(base: Path) -> None:
    one = read_run(finished(base, described()), base)
    other = read_run(finished(base, described(seed=1, demos=32), "negative"), base)
    found = diff_runs(one, other)
    assert found.settings == {"seed": (0, 1), "settings.demos": (64, 32)}
    assert found.compared == len(found.labels) == 8
    assert found.labels[0] == (1, "positive", "negative", 1)
    assert (found.only_in_first, found.only_in_second) == ((), ())
    assert diff_runs(one, one).settings == {}
    (other.path / "labels.jsonl").write_text('{"id": 1, "label": "positive"}\n{"id": ')
    with pytest.raises(RunError, match="damaged"):
        diff_runs(one, other)


def over(
    base: Path,
    rows: Sequence[Mapping[str, object] | str],
    labels: Sequence[str],
    *,
    task: Task = TASK,
    seed: int = 0,
) -> Run:
    """A run that found these labels of these rows, its files as a run writes them."""
    job = Job.prepare(rows_from(rows), task)
    labelled = [
        LabelledRow(row, label, 0.9, dict.fromkeys(task.labels, -1.0), "exact")
        for row, label in zip(job.dataset.rows, labels, strict=True)
    ]
    with RunFolder.open(RunDescription.of(job, SETTINGS, seed, SERVER), base=base) as folder:
        folder.finish({"coherence": 0.5}, lambda path: write_labels(path, labelled))
    return read_run(folder.name, base)


WORDS = ("good", "bad", "fine", "poor")
GOOD_OR_BAD = ("positive", "negative", "positive", "negative")


def test_rows_in_another_order_are_matched_by_what_they_hold(base: Path) -> None:
    one = over(base, WORDS, GOOD_OR_BAD)
    turned = over(base, WORDS[::-1], GOOD_OR_BAD[::-1])
    found = diff_runs(one, turned)
    assert (found.compared, found.labels) == (4, ())
    other = over(base, WORDS[1:], ["positive", "positive", "negative"], seed=1)
    found = diff_runs(one, other)
    assert found.labels == ((2, "negative", "positive", 1),)
    assert (found.compared, found.only_in_first, found.only_in_second) == (3, (1,), ())


def test_the_same_ids_of_other_data_are_no_rows_in_common(base: Path) -> None:
    one = over(base, WORDS, GOOD_OR_BAD)
    other = over(base, ["loud", "soft", "long", "short"], GOOD_OR_BAD, seed=1)
    with pytest.raises(InputError, match=f"{one.name} and {other.name} are over different data"):
        diff_runs(one, other)
    # Rows whose text was changed are other rows, whatever their id.
    changed = over(base, ["good", "bad", "fine", "excellent"], ["positive"] * 4, seed=2)
    found = diff_runs(one, changed)
    assert found.labels == ((2, "negative", "positive", 2),)
    assert (found.only_in_first, found.only_in_second) == ((4,), (4,))


def test_rows_are_matched_by_the_fields_that_the_tasks_read(base: Path) -> None:
    """Neither by a column that was added, nor by how a file types numbers, nor without `id`."""
    by_size = Task(template="{text} of {size}:", labels=TASK.labels)
    plain = [{"text": word, "size": n} for n, word in enumerate(WORDS)]
    one = over(base, plain, GOOD_OR_BAD, task=by_size)
    read_from_csv = [{"id": f"r{n}", "size": f"{n}", "text": w, "note": "x"} for n, w in
                     enumerate(WORDS)]  # fmt: skip
    other = over(base, read_from_csv, GOOD_OR_BAD, task=by_size, seed=1)
    assert diff_runs(one, other).compared == 4
    # A task that reads less, over rows that have less: what it was shown is in both.
    by_text = over(base, WORDS, GOOD_OR_BAD)
    assert diff_runs(one, by_text).compared == 4
    # Sizes alone are not what either model was shown.
    by_colour = Task(template="{colour} of {size}:", labels=TASK.labels)
    red = over(base, [{"colour": "red", "size": n} for n in range(4)], GOOD_OR_BAD, task=by_colour)
    with pytest.raises(InputError, match="different data"):
        diff_runs(one, red)


def test_fields_with_the_names_of_columns_of_ours_are_read_as_the_rows_own(base: Path) -> None:
    task = Task(template="{label}, {row_label}:", labels=TASK.labels)
    rows = [{"label": word, "row_label": n} for n, word in enumerate(WORDS)]
    one = over(base, rows, GOOD_OR_BAD, task=task)
    other = over(base, rows[::-1], GOOD_OR_BAD[::-1], task=task)
    assert diff_runs(one, other).labels == ()


def test_rows_that_hold_the_same_are_told_apart_by_their_ids(base: Path) -> None:
    same = [{"id": name, "text": "good"} for name in ("a", "b", "c")]
    one = over(base, same, ["positive", "negative", "negative"])
    other = over(base, same[::-1], ["positive", "negative", "positive"], seed=1)
    assert diff_runs(one, other).labels == (("c", "negative", "positive", "c"),)


def test_a_run_without_labels_is_compared_in_its_settings(base: Path) -> None:
    one = over(base, WORDS, GOOD_OR_BAD)
    with RunFolder.open(described(seed=1), base=base) as folder:
        pass
    found = diff_runs(one, read_run(folder.name, base))
    assert found.settings["seed"] == (0, 1)
    assert (found.compared, len(found.only_in_first)) == (0, 4)


def test_a_removed_run_is_gone(base: Path) -> None:
    run = read_run(finished(base, described()), base)
    remove_run(run)
    assert list(base.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["label", "-o", "out", "--api-key", "CANARY", "d"], ["label", "-o", "out", "d"]),
        (["--api-key=CANARY", "--seed=1"], ["--seed=1"]),
        (["--embedding-token", "CANARY", "--max-prompt-tokens", "9"], ["--max-prompt-tokens", "9"]),
        (["-e", "https://u:CANARY@host:1/v1?a=b"], ["-e", "https://host:1/v1?a=b"]),
        (["--endpoint=http://host/?api_key=CANARY&a=b"], ["--endpoint=http://host/?a=b"]),
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
