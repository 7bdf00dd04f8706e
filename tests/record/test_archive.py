"""Runs are listed, found by name, compared row by row, and removed."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from planted_reviews import TASK
from run_folders import SERVER, SETTINGS, described, finished

from icm_client import Task, rows_from
from icm_client.data.job import Job
from icm_client.data.outputs import LabelledRow, write_labels
from icm_client.errors import InputError, RunError
from icm_client.record.archive import (
    Run,
    find_run,
    is_running,
    list_runs,
    read_run,
    remove_run,
    resume_command,
)
from icm_client.record.comparison import diff_runs
from icm_client.record.description import RunDescription
from icm_client.record.folder import RunFolder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "runs"


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
    for unknown in ("", "../runs", "elsewhere"):
        with pytest.raises(InputError, match="is called"):
            read_run(unknown, base)


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


def test_latest_is_the_run_that_was_worked_on_last(base: Path) -> None:
    with pytest.raises(InputError, match="there are no runs there"):
        find_run("latest", base)
    first, second = (finished(base, described(seed=seed)) for seed in range(2))
    assert find_run("latest", base).name == second
    with RunFolder.open(described(seed=0), base=base):
        pass  # the older run goes on
    assert find_run("latest", base).name == first
    assert [run.name for run in list_runs(base).runs] == [first, second]


def test_an_ambiguous_beginning_lists_the_runs_that_it_may_mean(base: Path) -> None:
    names = [finished(base, described(seed=seed)) for seed in range(2)]
    with pytest.raises(InputError, match="2 runs in") as refused:
        find_run("rows-", base)
    assert all(name in str(refused.value) for name in names)


def test_a_name_that_no_run_has_is_answered_with_the_nearest(base: Path) -> None:
    name = finished(base, described())
    stem, _, digest = name.rpartition("-")
    for mistyped in (name[:-1] + "0", f"{stem[:-1]}x-{digest[:3]}", digest, stem.upper()):
        if not name.startswith(mistyped):
            with pytest.raises(InputError, match=f"Did you mean '{name}'"):
                find_run(mistyped, base)
    with pytest.raises(InputError, match=r"called 'zzzzzzzzzz': icm-client runs list shows"):
        find_run("zzzzzzzzzz", base)


def test_a_command_that_is_printed_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = finished(Path("runs"), described())
    assert resume_command(find_run("latest")) == f"icm-client runs resume {name}"
    assert resume_command(find_run(f"runs/{name}")) == f"icm-client runs resume {name}"
    elsewhere = tmp_path / "my runs"
    name = finished(elsewhere, described())
    printed = shlex.split(resume_command(find_run("latest", elsewhere)))
    assert printed == ["icm-client", "runs", "resume", name, "--runs", str(elsewhere)]


def test_a_run_in_a_folder_that_we_cannot_write_is_seen_to_run(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with RunFolder.open(described(), base=base) as folder:
        assert is_running(folder.path)
        folder.stop("")
    assert not is_running(folder.path)


def test_a_list_does_not_read_whole_journals(base: Path) -> None:
    """A journal of steps has megabytes: only its end says how a run ended."""
    name = finished(base, described())
    journal = base / name / "journal.jsonl"
    events = len(journal.read_bytes().splitlines())
    journal.write_bytes(b"no event\n" * 5 + journal.read_bytes() + b'{"torn')
    (run,) = list_runs(base).runs
    assert (run.state, run.events) == ("done", events + 5)
    journal.write_bytes(journal.read_bytes() + b"\n")
    assert "not an event" in list_runs(base).notes[0]
