import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_client.data import LabelledRow, Row, write_labels
from icm_client.data.label_sink import LabelSink
from icm_client.data.values import JsonValue
from icm_client.errors import InputError, RunError

PLAIN = [".jsonl", ".json", ".csv", ".tsv"]
FORMATS = [*PLAIN, ".parquet", ".arrow", ".jsonl.gz", ".csv.zst", ".json.bz2", ".tsv.xz"]
HERE = Path(__file__).parent


def labelled(rows: Sequence[Mapping[str, JsonValue]], *, pinned: int = -1) -> list[LabelledRow]:
    return [
        LabelledRow(
            Row(number + 1, fields, number + 1),
            "yes",
            0.75,
            {"yes": -0.1 * number, "no": -0.00012345678901234567},
            "exact",
            pinned=number == pinned,
        )
        for number, fields in enumerate(rows)
    ]


def written(
    path: Path, items: Sequence[LabelledRow], size: int, golds: Sequence[str | None] | None = None
) -> bytes:
    """Return what a sink writes that is opened anew for every `size` rows."""
    for start in range(0, len(items), size):
        with LabelSink.open(path, identity="rows") as sink:
            assert sink.rows_done == start
            part = slice(start, start + size)
            sink.append(
                items[part],
                rows_read=len(items[part]),
                gold=None if golds is None else golds[part],
                gold_field=None if golds is None else "truth",
            )
    with LabelSink.open(path, identity="rows") as sink:
        sink.finish()
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return path.read_bytes()


def in_one_piece(
    path: Path, items: Sequence[LabelledRow], golds: Sequence[str | None] | None = None
) -> bytes:
    gold_field = None if golds is None else "truth"
    write_labels(path, items, gold=golds, gold_field=gold_field)
    content = path.read_bytes()
    path.unlink()
    return content


# the bytes of write_labels

ODD_ROWS: dict[str, list[Mapping[str, JsonValue]]] = {
    "plain": [{"id": n, "text": f"text {n}"} for n in range(5)],
    "columns that come later": [{"a": "1"}, {}, {"b": None, "a": "2"}, {"c": [1, 2]}],
    "kinds that change": [{"a": 1, "b": 1}, {"a": 2.5, "b": 2}, {"a": 3, "b": "x"}, {"b": [1]}],
    "names of ours": [{"label": "x"}, {"row_label": "y", "pinned": "z"}, {"label": "w"}],
    "a name of ours": [{"label": "x", "text": "y"}, {"id": 7, "confidence": 0.5}],
    "after row_": [{"row_label": "y", "row_text": "z", "row_id": 1}],
    "quotes in TSV": [{"a": "1"}, {"a": "2"}, {"a": 'a "quoted" word'}],
    "large numbers": [{"a": 2**53}, {"a": 2**70, "b": 2**63}, {"a": 0.5, "b": 1}],
    "truth and numbers": [{"a": 2.5, "b": True}, {"a": True, "b": False}],
    "nested": [{"a": {"b": [1]}}, {"a": [[1], [2]]}, {"a": None}],
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("case", ODD_ROWS)
@pytest.mark.parametrize("has_gold", [False, True])
def test_the_bytes_are_those_of_one_piece(
    tmp_path: Path, suffix: str, case: str, *, has_gold: bool
) -> None:
    items = labelled(ODD_ROWS[case])
    golds = [None, "yes", "no", None, "no"][: len(items)] if has_gold else None
    path = tmp_path / "out" / f"labels{suffix}"
    path.parent.mkdir()
    whole = in_one_piece(path, items, golds)
    for size in (1, 2, 9):
        assert written(path, items, size, golds) == whole
        path.unlink()


@pytest.mark.parametrize("suffix", FORMATS)
def test_pinned_rows(tmp_path: Path, suffix: str) -> None:
    items = labelled([{"text": "a"}, {"pinned": "b"}, {"text": "c"}], pinned=1)
    path = tmp_path / "out" / f"labels{suffix}"
    path.parent.mkdir()
    whole = in_one_piece(path, items)
    assert written(path, items, 1) == whole


def test_truth_stays_truth_among_numbers(tmp_path: Path) -> None:
    """Whether numbers or truth come first, a column of both is text: Arrow made 1.0 of True."""
    for name, values in (("one", [2.5, True]), ("other", [True, 2.5])):
        path = tmp_path / f"{name}.parquet"
        write_labels(path, labelled([{"a": value} for value in values]))
        assert pq.read_table(path)["a"].to_pylist() == [str(value) for value in values]


def test_row_groups_do_not_depend_on_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icm_client.data.record_files._RECORDS_AT_ONCE", 4)
    monkeypatch.setattr("icm_client.data.record_files._ROW_GROUP", 8)
    path = tmp_path / "out" / "labels.parquet"
    path.parent.mkdir()
    items = labelled([{"text": f"text {n}"} for n in range(21)])
    whole = in_one_piece(path, items)
    assert written(path, items, 5) == whole
    assert pq.ParquetFile(path).num_row_groups == 3
    assert pq.read_table(path)["text"].to_pylist() == [f"text {n}" for n in range(21)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=3,
)  # fmt: skip
NAMES = ["text", "label", "row_label", "row_row_label", "pinned", "id_", "exactness"]


@settings(max_examples=50)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES), min_size=1, max_size=6),
    size=st.integers(1, 6),
    suffix=st.sampled_from(FORMATS),
    pinned=st.integers(-1, 6),
)
def test_any_rows_give_the_bytes_of_one_piece(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, JsonValue]],
    size: int,
    suffix: str,
    pinned: int,
) -> None:
    items = labelled(rows, pinned=pinned)
    path = tmp_path_factory.mktemp("out") / f"labels{suffix}"
    whole = in_one_piece(path, items)
    assert written(path, items, size) == whole


def test_an_asked_for_format(tmp_path: Path) -> None:
    items = labelled([{"text": "a"}, {"text": "b"}])
    path, other = tmp_path / "labels.json", tmp_path / "other.json"
    write_labels(other, items, format="jsonl")
    with LabelSink.open(path, format="jsonl", identity="rows") as sink:
        sink.append(items, rows_read=2)
        sink.finish()
    assert path.read_bytes() == other.read_bytes()


# kills


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_killed_at_any_commit_it_ends_as_if_undisturbed(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": f"text {n}", "q": n // 3, "truth": "yes"} for n in range(6)]
    rows += [{"text": ""}, {"text": "last"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = subprocess.run(
        [sys.executable, HERE / "sink_commits.py", tmp_path, suffix],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    *killed, undisturbed = map(json.loads, said.stdout.splitlines())
    assert len(killed) > 30
    assert list(undisturbed["found"]) == [f"labels{suffix}"]
    whole = undisturbed["before"]
    for run in killed:
        assert run["found"] == undisturbed["found"]
        assert run["before"] in (whole, b"of an earlier run".hex())
    content = bytes.fromhex(whole).decode()
    assert len(content.splitlines()) == (7 if suffix == ".jsonl" else 8)
    assert '"text":"last"' in content or "last" in content.splitlines()[-1]


def test_what_was_not_committed_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    items = labelled([{"text": "a"}, {"text": "b"}])
    with LabelSink.open(path, identity="rows") as sink:
        sink.append(items[:1], rows_read=3, state={"asked": 3})
    partial = tmp_path / "labels.jsonl.partial"
    with partial.open("ab") as file:
        file.write(b'{"id":2,"la')
    with LabelSink.open(path, identity="rows") as sink:
        assert (sink.rows_done, sink.rows_labelled, sink.state) == (3, 1, {"asked": 3})
        sink.append(items[1:], rows_read=1)
        assert sink.state == {"asked": 3}
        assert not path.exists()
        sink.finish()
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = labelled([{"text": "a"}, {"text": "b"}])
    path = tmp_path / "labels.jsonl"

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with LabelSink.open(path, identity="rows") as sink:
        sink.append(items[:1], rows_read=1)
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", full)
            with pytest.raises(InputError, match="No space left"):
                sink.append(items[1:], rows_read=1)
            assert sink.rows_done == 1
        sink.append(items[1:], rows_read=1)
        sink.finish()
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["a", "b"]


# another's partial output


def test_labels_of_another_identity_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    items = labelled([{"text": "a"}])
    with LabelSink.open(path, identity="one") as sink:
        sink.append(items, rows_read=1)
    with pytest.raises(InputError) as caught:
        LabelSink.open(path, identity="other")
    assert "holds 1 labels of another run" in str(caught.value)
    assert "--fresh" in str(caught.value)
    with LabelSink.open(path, identity="other", fresh=True) as sink:
        assert (sink.rows_done, sink.state) == (0, {})
        sink.append(items, rows_read=1)
        sink.finish()
    assert [one.name for one in tmp_path.iterdir()] == ["labels.csv"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda partial, _: partial.write_bytes(b"{"), "has 1 of the "),
        (lambda partial, _: partial.unlink(), "has 0 of the "),
        (lambda _, committed: committed.unlink(), "but none that says what it is of"),
        (lambda _, committed: committed.write_text("{}"), "not what icm-client wrote"),
        (lambda _, committed: committed.write_text("{"), "not what icm-client wrote"),
    ],
)
def test_a_damaged_partial_output_is_refused(tmp_path: Path, damage: object, said: str) -> None:
    assert callable(damage)
    path = tmp_path / "labels.jsonl"
    with LabelSink.open(path, identity="rows") as sink:
        sink.append(labelled([{"text": "a"}]), rows_read=1)
    damage(tmp_path / "labels.jsonl.partial", tmp_path / "labels.jsonl.partial.json")
    with pytest.raises(InputError, match=said):
        LabelSink.open(path, identity="rows")
    LabelSink.open(path, identity="rows", fresh=True).close()


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    with LabelSink.open(path, identity="rows") as sink:
        with pytest.raises(RunError, match="another process writes it"):
            LabelSink.open(path, identity="rows", fresh=True)
        sink.append(labelled([{"text": "a"}]), rows_read=1)
        sink.finish()
    LabelSink.open(path, identity="other").close()


@pytest.mark.parametrize("name", [".", "none/labels.jsonl", "labels.docx"])
def test_outputs_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        LabelSink.open(tmp_path / name, identity="rows")
    assert not list(tmp_path.iterdir())


def test_the_file_that_a_link_leads_to_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "far" / "labels.jsonl", tmp_path / "labels.jsonl"
    target.parent.mkdir()
    target.write_bytes(b"")
    target.chmod(0o640)
    link.symlink_to(target)
    with LabelSink.open(link, identity="rows") as sink:
        sink.append(labelled([{"text": "a"}]), rows_read=1)
        sink.finish()
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert b'"text":"a"' in target.read_bytes()


# what the caller must not do


def test_rows_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    items = labelled([{"text": "a"}, {"text": "b"}])
    other = LabelledRow(items[0].row, "maybe", 0.5, {"maybe": -0.1}, "exact")
    endless = LabelledRow(items[0].row, "yes", 0.5, {"yes": float("nan"), "no": -1.0}, "exact")
    with LabelSink.open(path, identity="rows") as sink:
        with pytest.raises(ValueError, match="no rows to write"):
            sink.finish()
        sink.append((), rows_read=2)
        sink.append(items, rows_read=2, gold=["yes", None], gold_field="truth")
        for bad, options, said in (
            (items, {"rows_read": 1}, "2 rows to write, but only 1 read"),
            ([other], {"rows_read": 1}, "other labels than the first"),
            ([endless], {"rows_read": 1}, "not finite"),
            (items, {"rows_read": 2, "gold": ["yes"], "gold_field": "truth"}, "gold needs"),
            (items, {"rows_read": 2, "gold": ["yes", "no"]}, "gold needs"),
            (items, {"rows_read": 2, "gold": ["yes"] * 2, "gold_field": "g"}, "gold field was"),
        ):
            with pytest.raises(ValueError, match=said):
                sink.append(bad, **options)
        assert (sink.rows_done, sink.rows_labelled) == (4, 2)
        sink.finish()
        with pytest.raises(ValueError, match="whole already"):
            sink.append(items, rows_read=2)
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("suffix", [*PLAIN, ".jsonl.gz", ".csv.zst"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    items = labelled([{"text": "x" * 200}] * 1000)

    def peak(times: int) -> int:
        tracemalloc.start()
        try:
            with LabelSink.open(tmp_path / f"labels{suffix}", identity="rows") as sink:
                for _ in range(times):
                    sink.append(items, rows_read=1000)
                sink.finish()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(20) < 1.1 * peak(4)
