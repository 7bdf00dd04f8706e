"""`label(..., pins=...)`: rows that a person has checked, from file to result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from planted_reviews import TASK, planted, reviews
from test_fold_runs import trainer

from icm_client import Client, Labels, Task, label, read_rows
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.errors import InputError, RunStopped
from icm_client.runs.labels_file import Pins, read_pins, read_start
from icm_client.runs.presets import Preset, Settings

N = 40
ROWS = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(N))]
WORDS = {row["id"]: row["label"] for row in ROWS}
# Two rows of each label, which say what the words do not.
NAMED = {name: WORDS[name] for name in ("r0", "r1", "r3", "r5")}
PAIRS = Task(
    template="Bigger? {a} or {b}:",
    labels=("first", "second"),
    exchange=("a", "b"),
)


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    path = tmp_path / "checked.jsonl"
    path.write_bytes(
        b"".join(orjson.dumps({"id": i, "label": w}) + b"\n" for i, w in NAMED.items())
    )
    return path


async def labelled(
    folder: Path, pins: Pins | None, *, preset: Preset = "fast", meaning: float = 0.0, seed: int = 0
) -> Labels:
    settings: dict[str, Settings] = {
        "fast": SweepSettings(),
        "folds": FoldSettings(passes=2),
        "iterate": IterateSettings(batch=20),
    }
    trains = preset in ("folds", "iterate")
    return await label(
        ROWS,
        task=TASK,
        endpoint=planted(N, meaning=meaning),
        gold="label",
        settings=settings[preset],
        trainer=trainer(n=N) if trains else None,
        pins=pins,
        seed=seed,
        store=folder / "store",
        runs=folder / "runs",
    )


def held(found: Labels, pins: Mapping[str, str]) -> bool:
    labels = {str(row.row.id): row.label for row in found.rows}
    return all(labels[name] == word for name, word in pins.items())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("preset", ["fast", "folds", "iterate"])
async def test_words_that_say_nothing_get_the_names_that_four_rows_have(
    preset: Preset, seed: int, checked: Path, tmp_path: Path
) -> None:
    found = await labelled(tmp_path, checked, preset=preset, seed=seed)
    assert found.accuracy is not None
    assert found.accuracy > 0.95
    assert held(found, NAMED)
    assert found.pinned == found.summary()["pinned"] == 4
    assert not any(finding.fatal for finding in found.findings)  # the pins name the classes
    assert "names-by-pins" in {finding.code for finding in found.findings}


async def test_a_single_row_may_be_pinned_and_its_confidence_is_the_models(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    word = "negative" if WORDS["r7"] == "positive" else "positive"
    path.write_text(f'{{"id": "r7", "label": "{word}"}}\n', "utf-8")
    found = await labelled(tmp_path, path, meaning=3.0)
    row = found.rows[7]
    assert row.label == word
    assert row.confidence is not None
    assert row.confidence < 0.2
    assert row.label == min(row.log_probs, key=lambda one: row.log_probs[one])
    assert [one.row.id for one in found.rows if one.pinned] == ["r7"]
    found.write(tmp_path / "labels.csv")
    written = read_rows(tmp_path / "labels.csv").rows
    assert [one.id for one in written if one.fields["pinned"] == "True"] == ["r7"]
    assert found.accuracy == 39 / 40  # the pinned row counts, and gold says otherwise
    start = read_start(path, Job.prepare(ROWS, TASK, gold="label"))
    assert not isinstance(start, str)
    assert (start >= 0).sum() == 1


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "parquet"])
async def test_other_files_are_read_as_well(suffix: str, tmp_path: Path, checked: Path) -> None:
    job = Job.prepare(ROWS, TASK, gold="label")
    path = tmp_path / f"pins.{suffix}"
    rows = [{"id": "r7", "label": WORDS["r7"]}]
    match suffix:
        case "parquet":
            pa = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)
        case "json":
            path.write_bytes(orjson.dumps(rows))
        case _:
            comma = "," if suffix == "csv" else "\t"
            path.write_text(f"id{comma}label\nr7{comma}{WORDS['r7']}\n", "utf-8")
    pinned = read_pins(path, job)
    assert pinned is not None
    assert [(i, job.labels[k]) for i, k in enumerate(pinned) if k >= 0] == [(7, WORDS["r7"])]
    from_file, mapped = read_pins(checked, job), read_pins(NAMED, job)
    assert from_file is not None
    assert mapped is not None
    assert from_file.tolist() == mapped.tolist()
    assert read_pins({}, job) is None


async def test_pins_make_another_run_that_resumes_and_shares_scores(
    tmp_path: Path, checked: Path
) -> None:
    free = await labelled(tmp_path, None)
    nothing = await labelled(tmp_path, {})
    first = await labelled(tmp_path, checked)
    again = await labelled(tmp_path, dict(NAMED))
    other = await labelled(tmp_path, {**NAMED, "r8": WORDS["r8"]})
    assert nothing.run == free.run != first.run == again.run != other.run
    assert nothing.rows == free.rows
    assert (nothing.pinned, free.pinned, first.pinned, other.pinned) == (0, 0, 4, 5)
    assert again.rows == first.rows
    assert again.history == first.history
    assert (nothing.cost.from_server, again.cost.from_server) == (0, 0)
    assert first.run is not None
    assert free.run is not None
    settings = [orjson.loads((run / "run.json").read_bytes()) for run in (first.run, free.run)]
    assert "pinned" in repr(settings[0])
    assert "pinned" not in repr(settings[1])


async def test_of_several_files_the_last_that_names_a_row_counts(
    tmp_path: Path, checked: Path
) -> None:
    later = tmp_path / "later.csv"
    other = "negative" if WORDS["r1"] == "positive" else "positive"
    later.write_text(f"id,label\nr1,{other}\nr7,{WORDS['r7']}\n", "utf-8")
    both = await labelled(tmp_path, [checked, later])
    one = await labelled(tmp_path, {**NAMED, "r1": other, "r7": WORDS["r7"]})
    assert (both.run, both.rows, both.pinned) == (one.run, one.rows, 5)
    assert (await labelled(tmp_path, [later, checked])).run != both.run
    alone, free = await labelled(tmp_path, checked), await labelled(tmp_path, None)
    assert (await labelled(tmp_path, (checked,))).run == alone.run
    assert (await labelled(tmp_path, ())).run == free.run
    with pytest.raises(InputError, match=r"'7'\]: the row is pinned twice, first by pins\[7\]"):
        read_pins([{7: "positive", "7": "positive"}], Job.prepare(reviews(N), TASK))  # type: ignore[list-item]


async def test_a_run_that_was_stopped_goes_on_with_its_pins(tmp_path: Path, checked: Path) -> None:
    whole = await labelled(tmp_path / "whole", checked)
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 90

    with pytest.raises(RunStopped):
        await label(
            ROWS,
            task=TASK,
            endpoint=planted(N, meaning=0.0),
            gold="label",
            pins=checked,
            store=tmp_path / "store",
            runs=tmp_path / "runs",
            stopping=stopping,
        )
    resumed = await labelled(tmp_path, checked)
    assert resumed.rows == whole.rows
    assert resumed.cost.from_store > 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


async def test_a_client_s_jobs_take_pins_too(tmp_path: Path) -> None:
    async with Client(planted(N, meaning=0.0), store=tmp_path / "store") as client:
        found = await client.start(ROWS, task=TASK, gold="label", pins=NAMED).result()
    assert found.accuracy is not None
    assert found.accuracy > 0.95


def test_of_a_pair_shown_both_ways_the_other_order_is_pinned_to_what_agrees() -> None:
    rows = [{"id": f"p{n}", "a": f"{n}", "b": f"{9 - n}"} for n in range(4)]
    job = Job.prepare(rows, PAIRS)
    assert [item.exchanged for item in job.items] == [False, True] * 4
    pinned = read_pins({"p2": "first"}, job)
    assert pinned is not None
    first, second = job.labels.index("first"), job.labels.index("second")
    assert pinned.tolist() == [-1, -1, -1, -1, first, second, -1, -1]


def test_without_a_rule_nothing_follows_for_the_other_order() -> None:
    rows = [{"id": f"p{n}", "a": f"{n}", "b": f"{9 - n}"} for n in range(4)]
    job = Job.prepare(rows, PAIRS, constraint=ConstraintSpec(kind="none"))
    pinned = read_pins({"p2": "first"}, job)
    assert pinned is not None
    assert pinned.tolist() == [-1] * 4 + [job.labels.index("first")] + [-1] * 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "r1", "label": "fine"}', r"pins\.jsonl:1: 'fine' is none of the labels 'neg"),
        ('{"id": "r1"}', r"pins\.jsonl:1: None is none of the labels"),
        (
            '{"id": "r1", "label": "positive"}\n{"id": "x", "label": "positive"}',
            r"pins\.jsonl:2: no row of rows has the id 'x'",
        ),
        ('{"label": "positive"}', r"pins\.jsonl:1: no 'id': say which row"),
        (
            '{"id": "r1", "label": "positive"}\n{"id": "r1", "label": "negative"}',
            r"pins\.jsonl:2: the id 'r1' is already that of .*pins\.jsonl:1",
        ),
        ('{"id": "r1", "label": }', r"pins\.jsonl:1: broken JSON"),
        ("\n", r"pins\.jsonl: no rows"),
        ("", r"pins\.jsonl: the file is empty"),
        (None, r"pins\.jsonl: no such file"),
    ],
)
async def test_pins_that_make_no_sense_are_refused_and_nothing_is_sent(
    lines: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "pins.jsonl"
    if lines is not None:
        path.write_text(lines, "utf-8")
    endpoint = planted(N)
    with pytest.raises(InputError, match=message):
        await label(
            ROWS, task=TASK, endpoint=endpoint, gold="label", pins=path, store=tmp_path / "store"
        )
    assert endpoint.usage.requests == 0
    assert not (tmp_path / "store").exists()


def test_labels_of_other_data_are_refused_though_their_ids_fit(tmp_path: Path) -> None:
    """Both files number their rows from 1: row 2 of the one is not row 2 of the other."""
    rows = reviews(N)
    job = Job.prepare(rows, TASK, gold="label")
    path = tmp_path / "labels.jsonl"

    def written(row: Mapping[str, Any]) -> None:
        first = {"id": 1, "label": "positive", "confidence": 0.9, **rows[0], "row_label": "x"}
        path.write_bytes(b"\n".join(map(orjson.dumps, (first | {"label": "positive"}, row))))

    written({"id": 2, "label": "positive", "text": f" {rows[1]['text']}\n"})
    assert read_pins(path, job) is not None
    assert not isinstance(read_start(path, job), str)
    written({"id": 2, "label": "positive", "text": rows[2]["text"]})
    with pytest.raises(InputError, match=r"labels\.jsonl:2: the row 2 of rows holds another"):
        read_pins(path, job)
    with pytest.raises(InputError, match="leave only the columns id and label"):
        read_start(path, job)
    written({"id": 2, "label": "positive"})
    assert read_pins(path, job) is not None


def test_a_mapping_s_errors_name_its_key() -> None:
    job = Job.prepare(ROWS, TASK, gold="label")
    with pytest.raises(InputError, match=r"pins\['r1'\]: 'fine' is none of the labels"):
        read_pins({"r1": "fine"}, job)
    twice: dict[Any, str] = {"7": "positive", 7: "positive"}
    numbered = Job.prepare(reviews(N), TASK, gold="label")
    with pytest.raises(InputError, match=r"pins\[7\]: .* twice, first by pins\['7'\]"):
        read_pins(twice, numbered)
    with pytest.raises(InputError, match=r"pins\[41\]: no row of rows has the id"):
        read_pins({41: "positive"}, job)


def test_pins_that_contradict_each_other_by_the_rule_are_told_with_their_lines(
    tmp_path: Path,
) -> None:
    rows = [{"id": f"c{n}", "text": f"claim {n}", "about": f"{n // 3}"} for n in range(9)]
    task = Task(template="{text}:", labels=("false", "true"))
    path = tmp_path / "pins.jsonl"

    def pin(kind: str, **words: str) -> None:
        job = Job.prepare(
            rows, task, constraint=ConstraintSpec(kind=kind, group=("about",), true="true")
        )
        lines = [orjson.dumps({"id": name, "label": word}) for name, word in words.items()]
        path.write_bytes(b"\n".join(lines))
        read_pins(path, job)

    for kind in ("at-most-one", "exactly-one"):
        pin(kind, c0="true", c1="false", c3="true")
        with pytest.raises(InputError, match=r"pins\.jsonl:3: .*not allow the label.*jsonl:1"):
            pin(kind, c0="true", c4="true", c2="true")
    pin("at-most-one", c0="false", c1="false", c2="false")
    # No two of these contradict each other, and yet one of the three must be true.
    with pytest.raises(InputError, match=r"jsonl:2, .*jsonl:3, .*jsonl:4: the constraint of the"):
        pin("exactly-one", c8="true", c0="false", c1="false", c2="false")
