"""The rows of a run that a person is asked about, and what becomes of the answers."""

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from planted_reviews import TASK, Failing, data, planted, reviews

from icm_client import Labels, Task, label, rows_from
from icm_client.data.sources import STDIN
from icm_client.errors import IcmError, InputError
from icm_client.record.archive import Run, find_run, list_runs, read_folder
from icm_client.record.checks import Checks
from icm_client.runs.ask import choose_rows, missing_from_command, pin_command
from icm_client.testing import PlantedConcept

NOTHING_SAID = Task(template="Note: {text}\nKind:", labels=("A", "B"))


def found(seed: int = 0, **options: object) -> tuple[Labels, Run]:
    """Label planted reviews for real."""
    rows = data(reviews(32))
    labelled = partial(label, rows, task=TASK, endpoint=planted(), seed=seed, store="store")
    labels: Labels = anyio.run(partial(labelled, runs="runs", **options))
    assert labels.run is not None
    return labels, read_folder(labels.run)


def test_each_row_says_what_it_is_and_why_it_is_asked_about() -> None:
    labels, run = found()
    asked = choose_rows(run, 8)
    assert [row.label for row in asked[:2]] == ["positive", "negative"]
    assert all("tells names" in row.reason for row in asked[:2])
    assert [row.reason for row in asked[2:]] == ["near the threshold"] * 6
    for row in asked:
        assert row.prompt.startswith("Review: words of row ")
        assert labels.by_id[str(row.id)] == row.label
    unsure = sorted(
        abs(row.log_probs["positive"] - row.log_probs["negative"]) for row in labels.rows
    )
    by_id = {row.row.id: row.log_probs for row in labels.rows}
    near = [by_id[row.id] for row in asked[2:]]
    assert [abs(one["positive"] - one["negative"]) for one in near] == unsure[:6]
    assert asked[0].summary().keys() == {"id", "prompt", "found", "confidence", "reason"}, (
        "not `label`: a file of these must not be taken for a person's answers"
    )


def test_rows_that_somebody_has_said_something_of_are_left_out() -> None:
    _, run = found()
    first = choose_rows(run, 5)
    for row in first:
        Checks(run.path).add(row.id, row.label)
    Checks(run.path).add(first[0].id, None)
    again = choose_rows(run, 32)
    assert len(again) == 28
    assert {row.id for row in first} & {row.id for row in again} == {first[0].id}


def test_pinned_rows_are_left_out_and_are_no_answers_of_people() -> None:
    _, run = found(pins={1: "positive", 2: "negative"})
    assert not {1, 2} & {row.id for row in choose_rows(run, 32)}
    assert Checks(run.path).read() == ()


def test_of_three_labels_no_reason_tells_which_one_the_run_has() -> None:
    words = ("C", "A", "B")
    task = Task(template="Note: {text}\nKind:", labels=words)
    rows = rows_from([{"text": f"number {n}"} for n in range(36)])
    classes = [n * 7 % 5 % 3 for n in range(36)]
    concept = PlantedConcept(
        dict(zip(task.render_all(rows), classes, strict=True)), task.label_texts
    )
    labels = anyio.run(
        partial(label, rows, task=task, endpoint=concept, store="store", runs="runs")
    )
    assert labels.run is not None
    asked = [row for row in choose_rows(read_folder(labels.run), 36) if "between" in row.reason]
    told = {f"between {one!r} and {other!r}" for one, other in ("CA", "CB", "AB")}
    assert {row.reason.partition(";")[0] for row in asked} <= told
    assert any(f"and {row.label!r}" in row.reason for row in asked)


def test_a_run_without_labels_says_how_to_get_some() -> None:
    with pytest.raises(IcmError):
        anyio.run(
            partial(
                label,
                data(reviews(32)),
                task=TASK,
                endpoint=Failing(40),
                store="store",
                runs="runs",
                fail_on_error=1,
            )
        )
    (run,) = list_runs(Path("runs")).runs
    with pytest.raises(InputError, match="no labels yet"):
        choose_rows(run, 5)
    with pytest.raises(InputError, match="at least 1 row"):
        choose_rows(run, 0)


def test_rows_that_read_alike_stand_for_one_another() -> None:
    """Twelve rows of one wording are asked about once, while there are others."""
    texts = [f"the parcel to door {n} was late again" for n in range(12)]
    texts += [" ".join(3 * chr(ord("a") + n) + "xyz"[m] for m in range(3)) for n in range(12)]
    rows = rows_from([{"text": text} for text in texts])
    concept = PlantedConcept(
        dict(zip(TASK.render_all(rows), [0, 1] * 12, strict=True)), TASK.label_texts
    )
    labels = anyio.run(
        partial(label, rows, task=TASK, endpoint=concept, store="store", runs="runs")
    )
    assert labels.run is not None
    asked = choose_rows(read_folder(labels.run), 13)
    late = [row for row in asked if "parcel" in row.prompt]
    assert len(late) == 1
    assert late[0].reason.endswith("; stands for 11 rows like it")


def test_a_few_answers_put_names_right_that_words_do_not_tell() -> None:
    """Words without a meaning name the classes by chance; sure rows say which is which."""
    rows = rows_from(
        [{"text": f"number {n}", "gold": "AB"[n * 7 % 5 % 2]} for n in range(48)], gold="gold"
    )
    classes = ["AB".index(str(word)) for word in rows.gold or ()]
    concept = PlantedConcept(
        dict(zip(NOTHING_SAID.render_all(rows), classes, strict=True)),
        NOTHING_SAID.label_texts,
        meaning=0.0,
    )
    wrong = 0
    for seed in range(6):
        run = partial(label, rows, task=NOTHING_SAID, endpoint=concept, seed=seed, store="store")
        before = anyio.run(partial(run, runs="runs"))
        assert before.run is not None
        wrong += (before.accuracy or 0.0) < 0.5
        gold = dict(zip((row.id for row in rows.rows), rows.gold or (), strict=True))
        pins = {str(row.id): str(gold[row.id]) for row in choose_rows(read_folder(before.run), 4)}
        assert anyio.run(partial(run, pins=pins)).accuracy == 1.0
    assert wrong, "some of these runs had their names exchanged"


def test_the_command_is_the_run_s_own_with_these_pins_as_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("label", "my rows.jsonl", "--pin=old.jsonl", "-o", "out.jsonl", "--pin", "older")
    _, run = found(command=command)
    line = pin_command(run)
    assert line is not None
    assert shlex.split(line) == [
        *("icm-client", *command, "--pin", f"runs/{run.name}/checked.jsonl"),
    ]
    assert missing_from_command(run) == []
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run = find_run(run.name, tmp_path / "runs")
    assert pin_command(run) == f"cd {tmp_path} && {line}"
    monkeypatch.chdir(tmp_path)
    assert pin_command(found(seed=1)[1]) is None, "it was started from Python"


def test_the_pins_stand_before_what_ends_the_options() -> None:
    line = pin_command(found(command=("label", "-o", "out.jsonl", "--", "-rows.jsonl"))[1])
    assert line is not None
    assert line.endswith("checked.jsonl -- -rows.jsonl")


def test_what_the_command_lacks_is_told() -> None:
    rows = replace(data(reviews(32)), name=STDIN)
    command = ("label", "-", "--api-key", "secret", "-o", "out.jsonl")
    labelled = partial(label, rows, task=TASK, endpoint=planted(), store="store")
    labels = anyio.run(partial(labelled, runs="runs", command=command))
    assert labels.run is not None
    run = read_folder(labels.run)
    key, piped = missing_from_command(run)
    assert key.endswith(": --api-key")
    assert "pipe the same rows" in piped
    assert "secret" not in str(pin_command(run))


def test_another_command_takes_no_pins() -> None:
    assert pin_command(found(command=("eval", "movies"))[1]) is None
