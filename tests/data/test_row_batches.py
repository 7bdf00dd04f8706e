import json
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.data import Dataset, Task, read_rows, rows_from, take_own_gold
from icm_client.data import row_batches as batches_module
from icm_client.data.job import Job, Rows
from icm_client.data.row_batches import row_batches
from icm_client.data.sources import found_files
from icm_client.errors import InputError, RowError

TASK = Task(template="{text}:", labels=("yes", "no"))
FORMATS = [".jsonl", ".json", ".csv", ".tsv", ".parquet"]


def grouped(*rules: Mapping[str, object]) -> Task:
    return Task.model_validate(
        {"template": "{text}:", "labels": ["yes", "no"], "constraint": list(rules)}
    )


QUESTIONS = grouped({"kind": "exactly-one", "group": "q"})


def written(path: Path, records: Sequence[Mapping[str, object]]) -> Path:
    frame = pd.DataFrame(list(records))
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        case ".json":
            path.write_text(json.dumps(list(records), indent=1))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(list(records)), path, row_group_size=3)
        case suffix:
            frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


def texts(n: int) -> list[dict[str, object]]:
    return [{"text": f"text {number}", "label": "yes"} for number in range(n)]


def sizes(rows: Rows, size: int, task: Task = TASK) -> list[int]:
    return [len(batch.rows) for batch in row_batches(rows, size=size, task=task)]


# the same rows as in one piece


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("size", [1, 4, 5, 10, 99])
def test_the_batches_are_the_file(tmp_path: Path, suffix: str, size: int) -> None:
    path = written(tmp_path / f"rows{suffix}", texts(10))
    whole = read_rows(path, gold="label")
    batches = list(row_batches(path, size=size, task=TASK, gold="label"))
    assert [len(batch.rows) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert tuple(row for batch in batches for row in batch.rows) == whole.rows
    assert [label for batch in batches for label in batch.gold or ()] == list(whole.gold or ())
    assert {batch.name for batch in batches} == {str(path)}


@pytest.mark.parametrize("suffix", FORMATS)
def test_after_some_rows_the_batches_are_those_of_an_undisturbed_run(
    tmp_path: Path, suffix: str
) -> None:
    path = written(tmp_path / f"rows{suffix}", texts(11))
    every = list(row_batches(path, size=3, task=TASK, gold="label"))
    for done in range(len(every) + 1):
        after = sum(len(batch.rows) for batch in every[:done])
        again = list(row_batches(path, size=3, task=TASK, gold="label", after=after))
        assert again == every[done:]


def test_batches_of_several_files_are_their_rows_one_after_another(tmp_path: Path) -> None:
    one, other = in_groups("a", "a", "b"), in_groups("b", "c", "c")
    paths = [written(tmp_path / "1.csv", one), written(tmp_path / "2.jsonl", other)]
    with found_files(paths) as files:
        whole = read_rows(files)
        batches = list(row_batches(files, size=2, task=QUESTIONS))
        assert [len(batch.rows) for batch in batches] == [2, 2, 2]  # the group goes on
        assert tuple(row for batch in batches for row in batch.rows) == whole.rows
        assert [row.file for row in whole.rows] == [str(paths[0])] * 3 + [str(paths[1])] * 3
        assert list(row_batches(files, size=2, task=QUESTIONS, after=4)) == batches[2:]
    written(paths[1], in_groups("c", "b"))
    with pytest.raises(RowError) as caught, found_files(paths) as files:
        list(row_batches(files, size=1, task=QUESTIONS))
    assert str(caught.value).startswith(f"{paths[1]}:2: 'b' in 'q' comes back after other rows")
    assert f"its group began in {paths[0]}:4." in str(caught.value)


def test_rows_from_python_are_taken_one_by_one() -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        number = 0
        while True:
            taken.append(number)
            yield f"text {number}"
            number += 1

    batches = row_batches(endless(), size=4, task=TASK)
    first, second = next(batches), next(batches)
    assert [row.id for row in (*first.rows, *second.rows)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(taken) == 9


def test_tables_and_datasets_are_cut() -> None:
    frame = pd.DataFrame({"text": list("abcde")}, index=list("vwxyz"))
    assert [[row.id for row in batch.rows] for batch in row_batches(frame, size=2, task=TASK)] == [
        ["v", "w"],
        ["x", "y"],
        ["z"],
    ]
    records = [{"text": text, "known": "no"} for text in "ab"]
    dataset = rows_from([*records, {"text": "c"}, *records], gold="known", skip_bad_rows=True)
    batches = list(row_batches(dataset, size=2, task=TASK))
    assert [len(batch.rows) + len(batch.skipped) for batch in batches] == [2, 2, 1]
    assert tuple(row for batch in batches for row in batch.rows) == dataset.rows
    assert [row.line for row in batches[1].skipped] == [3]
    assert [batch.gold for batch in batches] == [("no", "no"), ("no",), ("no",)]
    again = list(row_batches(dataset, size=2, task=TASK, after=2))
    assert [(batch.rows, batch.gold) for batch in again] == [
        (batch.rows, batch.gold) for batch in batches[1:]
    ]
    with pytest.raises(InputError, match="read without the gold field 'other'"):
        list(row_batches(dataset, size=2, task=TASK, gold="other"))


def test_a_loader_makes_rows_whose_numbers_go_on(tmp_path: Path) -> None:
    record = {
        "Question": "How many?",
        "Best Answer": "four",
        "Correct Answers": "four; 4",
        "Incorrect Answers": "five; six",
    }
    path = written(tmp_path / "TruthfulQA.jsonl", [record, {**record, "Question": "How much?"}])
    task = Task.builtin("truthfulqa").model_copy(update={"constraint": None})
    whole = take_own_gold(read_rows(path, loader="truthfulqa"), "label")
    batches = list(row_batches(path, size=3, task=task))
    assert tuple(row for batch in batches for row in batch.rows) == whole.rows
    assert [Job.prepare(batch, task).dataset.rows for batch in batches] == [
        batch.rows for batch in batches
    ]
    assert list(row_batches(path, size=3, task=task, after=6)) == batches[2:]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def peak(n: int) -> int:
        path.write_text("".join(json.dumps({"id": i, "text": "x" * 100}) + "\n" for i in range(n)))
        tracemalloc.start()
        try:
            for batch in row_batches(path, size=100, task=TASK):
                assert batch.rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    assert peak(20_000) < 1.1 * peak(2_000)


# rows that cannot be used


def test_each_batch_can_be_prepared_however_few_of_its_rows_are_left(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text":"a"}\n{"text":""}\nbroken\n{"text":"b"}\n{"text":"c"}\n')
    batches = list(row_batches(path, size=1, task=TASK, skip_bad_rows=True))
    jobs = [Job.prepare(batch, TASK, skip_bad_rows=True) for batch in batches]
    assert [len(job.dataset.rows) for job in jobs] == [1, 0, 0, 1, 1]
    assert [[row.line for row in job.dataset.skipped] for job in jobs] == [[], [2], [3], [], []]
    assert [row.id for job in jobs for row in job.dataset.rows] == [1, 4, 5]
    assert [job.row_items.tolist() for job in jobs] == [[0], [], [], [0], [0]]


def test_without_skipping_a_bad_row_ends_the_reading_with_its_batch(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text":"a"}\n{"text":"b"}\n7\n')
    batches = row_batches(path, size=2, task=TASK)
    assert len(next(batches).rows) == 2
    with pytest.raises(RowError, match=r"rows\.jsonl:3: a row must be an object") as caught:
        next(batches)
    assert caught.value.skippable
    empty = next(row_batches([{"text": " "}], size=2, task=TASK))
    with pytest.raises(RowError, match="rows:1: the field 'text' is empty") as caught:
        Job.prepare(empty, TASK)
    assert caught.value.skippable


def test_blank_rows_count_for_numbers_and_not_as_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,n\na,1\n,\nb,2\nc,3\n,\n,\nd,4\n,\n")
    batches = list(row_batches(path, size=2, task=TASK))
    assert [[row.id for row in batch.rows] for batch in batches] == [[1, 3], [4, 7]]
    assert list(row_batches(path, size=2, task=TASK, after=2)) == batches[1:]
    assert list(row_batches(path, size=2, task=TASK, after=4)) == []


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".jsonl", "", "the file is empty; at least one row is needed"),
        (".csv", "text\n", "no rows; at least one is needed"),
        (".json", "[]", "no rows; at least one is needed"),
    ],
)
def test_no_rows(tmp_path: Path, suffix: str, content: str, message: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text(content)
    with pytest.raises(RowError, match=message):
        list(row_batches(path, size=2, task=TASK))


def test_a_sentence_on_the_whole_file_comes_with_its_last_batch(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tn\n"a\t1\nb\t2\nc\t3\nd\t4\n')
    first, second = row_batches(path, size=2, task=TASK)
    assert first.warnings == ()
    assert "begins with a double quote" in second.warnings[0]


# gold


def test_gold_that_the_task_names_is_taken_out_where_a_batch_has_it() -> None:
    task = TASK.model_copy(update={"gold": "label"})
    rows: list[dict[str, object]] = [{"text": "a", "label": "YES"}, {"text": "b"}, {"text": "c"}]
    first, second = row_batches(rows, size=2, task=task, skip_bad_rows=True)
    assert first.gold == ("YES",)
    assert first.skipped[0].reason.startswith("no gold field 'label'")
    assert second.gold is None
    assert Job.prepare(first, task, skip_bad_rows=True).dataset.gold == ("yes",)
    assert all("label" not in row.fields for row in first.rows)


def test_a_few_groups_do_not_give_gold_away_by_chance() -> None:
    task = grouped({"kind": "same-answer", "group": "q"})
    rows = [
        {"text": f"{q}{n}", "q": q, "known": known}
        for q, known in (("a", "yes"), ("b", "no"))
        for n in range(2)
    ]
    (batch,) = row_batches(rows, size=4, task=task, gold="known")
    assert Job.prepare(batch, task).constraint.groups == ((0, 1), (2, 3))
    with pytest.raises(InputError, match="gives the gold labels away"):
        Job.prepare(rows, task, gold="known")


# groups


def in_groups(*keys: object) -> list[dict[str, object]]:
    return [{"text": f"text {n}", "q": key} for n, key in enumerate(keys)]


def test_a_batch_grows_until_its_group_ends() -> None:
    rows = in_groups("a", "a", "b", "b", "b", "c", None, None, "d", "d")
    assert sizes(rows, 3, QUESTIONS) == [5, 3, 2]
    assert sizes(rows, 1, QUESTIONS) == [2, 3, 1, 1, 1, 2]


def test_a_batch_ends_where_the_groups_of_every_rule_do() -> None:
    task = grouped(
        {"kind": "exactly-one", "group": "q"},
        {"kind": "same-answer", "group": ["w", "text"]},
    )
    rows = [
        {"text": "t", "q": q, "w": w}
        for q, w in [("a", "1"), ("a", "2"), ("b", "2"), ("b", "3"), ("c", "4"), ("d", "4")]
    ]
    assert sizes(rows, 1, task) == [4, 2]


def test_pairs_of_rows_come_in_one_batch() -> None:
    task = grouped({"kind": "asymmetry", "group": "q"})
    batches = list(row_batches(in_groups(*"aabbccdd"), size=3, task=task))
    assert [len(batch.rows) for batch in batches] == [4, 4]
    assert [len(Job.prepare(batch, task).constraint.groups) for batch in batches] == [2, 2]


def test_a_row_that_cannot_be_used_does_not_end_the_group_around_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text":"1","q":7}\n{"text":"2","q":7}\nbroken\n{"text":"4","q":"7"}\n')
    (batch,) = row_batches(path, size=1, task=QUESTIONS, skip_bad_rows=True)
    assert [row.line for row in batch.rows] == [1, 2, 4]


def test_a_group_that_comes_back_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", in_groups("a", "a", "b", "a"))
    assert sizes(path, 4, QUESTIONS) == [4]
    with pytest.raises(RowError) as caught:
        sizes(path, 2, QUESTIONS)
    assert str(caught.value).startswith(
        f"{path}:5: 'a' in 'q' comes back after other rows: its group began in line 2."
    )
    assert "sort the file by 'q'" in str(caught.value)
    with pytest.raises(RowError, match="began in line 2"):  # as rows passed over are looked at
        list(row_batches(path, size=2, task=QUESTIONS, after=2))


def test_past_the_groups_that_are_remembered_none_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches_module, "MOST_GROUPS", 2)
    assert sizes(in_groups(*"abcc", "d", "c"), 1, QUESTIONS) == [1, 1, 2, 1, 1]
    with pytest.raises(RowError, match="comes back"):
        sizes(in_groups(*"abcca"), 1, QUESTIONS)


def test_a_batch_whose_rows_lack_the_group_field_is_prepared() -> None:
    rows: list[dict[str, object]] = [{"text": "1"}, {"text": "2"}, *in_groups("a", "a")]
    first, second = row_batches(rows, size=2, task=QUESTIONS)
    assert Job.prepare(first, QUESTIONS).constraint.groups == ()
    assert Job.prepare(second, QUESTIONS).constraint.groups == ((0, 1),)


def test_rows_that_name_others_are_one_batch() -> None:
    task = grouped({"kind": "implication", "implies": "then"})
    rows = [{"id": str(n), "text": "t", "then": str((n + 1) % 5)} for n in range(5)]
    assert sizes(rows, 2, task) == [5]
    assert list(row_batches(rows, size=2, task=task, after=5)) == []


@given(
    keys=st.lists(st.sampled_from([None, *"abcdef"]), min_size=1, max_size=30),
    size=st.integers(1, 7),
    done=st.integers(0, 30),
)
def test_no_group_is_cut(keys: list[str | None], size: int, done: int) -> None:
    """However groups lie: batches are as small as may be, and go on as they were."""
    runs = [[*run] for _, run in groupby(enumerate(keys), key=lambda pair: pair[1] or pair)]
    rows = in_groups(*[f"{n}" if key else None for n, run in enumerate(runs) for _, key in run])
    batches: list[Dataset] = list(row_batches(rows, size=size, task=QUESTIONS))
    assert [row.id for batch in batches for row in batch.rows] == list(range(1, len(keys) + 1))
    groups = [{row.fields["q"] for row in batch.rows} - {None} for batch in batches]
    assert sum(map(len, groups)) == len(set().union(*groups))
    for batch in batches[:-1]:
        assert len(batch.rows) >= size
        last = batch.rows[-1].fields["q"]
        before = [row for row in batch.rows if last is None or row.fields["q"] != last]
        assert len(batch.rows) == size or len(before) < size
    done = min(done, len(batches))
    after = sum(len(batch.rows) for batch in batches[:done])
    assert list(row_batches(rows, size=size, task=QUESTIONS, after=after)) == batches[done:]
