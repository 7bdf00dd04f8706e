"""Rows that cannot be used: all are named before anything is asked, or left without a label."""

from pathlib import Path

import orjson
import pytest
from planted_reviews import TASK, planted, reviews

from icm_client import SweepSettings, Task, label, rows_from
from icm_client.coherence.anneal import AnnealSettings
from icm_client.data.job import Job
from icm_client.endpoints.protocol import TokenIds
from icm_client.errors import InputError, RowError, RowsTooLong, TaskError
from icm_client.runs.presets import Settings
from icm_client.runs.run_cost import forecast_job
from icm_client.testing import PlantedConcept

FAST = SweepSettings(demos=8, second_demos=4)
PAPER = AnnealSettings(iterations=30)
LONG = (3, 17)
NAMES = [str(99 + number) for number in range(24)]


def rows(*, long: tuple[int, ...] = LONG) -> list[dict[str, str]]:
    made = reviews(24)
    for number in long:
        made[number]["text"] += " and so on" * 60
    return [{"id": name, **row} for name, row in zip(NAMES, made, strict=True)]


def concept(made: list[dict[str, str]], context_length: int = 180) -> PlantedConcept:
    classes = [TASK.labels.index(row["label"]) for row in made]
    prompts = TASK.render_all(rows_from(made, gold="label"))
    return PlantedConcept(
        dict(zip(prompts, classes, strict=True)),
        TASK.label_texts,
        noise=0.1,
        context_length=context_length,
    )


async def test_rows_too_long_are_named_by_line_and_id_and_nothing_is_asked(tmp_path: Path) -> None:
    made = rows()
    endpoint = concept(made)
    with pytest.raises(RowError) as caught:
        await label(made, task=TASK, gold="label", endpoint=endpoint, store=tmp_path / "s")
    assert str(caught.value) == (
        "rows:4: its prompt takes 187 tokens, and the server's context of 180 has no room for it "
        "and one demo of each label: shorten the text, or start the server with a larger context "
        "(id '102')\n  the same in line 18 (id '116')\n2 rows cannot be used"
    )
    assert caught.value.skippable
    assert endpoint.usage.requests == 0


@pytest.mark.parametrize("start", [None, "zero-shot"])
@pytest.mark.parametrize("settings", [FAST, PAPER])
async def test_rows_too_long_are_left_without_a_label(
    settings: Settings, start: str | None, tmp_path: Path
) -> None:
    made = rows()
    found = await label(
        made,
        task=TASK,
        gold="label",
        endpoint=concept(made),
        settings=settings,
        start=start,
        skip_bad_rows=True,
        store=tmp_path / "s",
        runs=tmp_path / "runs",
    )
    assert [(row.id, row.line) for row in found.failed] == [("102", 4), ("116", 18)]
    assert found.failed[0].reason.startswith("its prompt takes 187 tokens, and the server's")
    assert [row.row.id for row in found.rows] == [n for n in NAMES if n not in ("102", "116")]
    assert found.accuracy is not None
    if settings is FAST:
        assert found.accuracy > 0.9
    assert found.run is not None
    kept = orjson.loads((found.run / "result.json").read_bytes())["failed"]
    assert [one["id"] for one in kept] == ["102", "116"]


async def test_a_context_that_is_too_short_for_all_rows_is_no_fault_of_some(
    tmp_path: Path,
) -> None:
    made = rows(long=())
    for skip in (False, True):
        with pytest.raises(RowsTooLong, match="no room for one demo of each label"):
            await label(
                made,
                task=TASK,
                gold="label",
                endpoint=concept(made, context_length=20),
                skip_bad_rows=skip,
                store=tmp_path / "s",
            )


class Merging(PlantedConcept):
    """Writes a text that ends in "~" and the label after it as one token."""

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        return await super().tokenize(text.replace("~ ", "~_"), add_special=add_special)


ENDS = Task(template="{text}", labels=TASK.labels)


def merging(*odd: int, n: int = 24) -> tuple[list[dict[str, str]], Merging]:
    made = [{"text": f"words about {row['text']}"} for row in reviews(n)]
    for number in odd:
        made[number]["text"] += "~"
    classes = [TASK.labels.index(row["label"]) for row in reviews(n)]
    prompts = ENDS.render_all(rows_from(made))
    return made, Merging(dict(zip(prompts, classes, strict=True)), ENDS.label_texts, noise=0.1)


async def test_every_ending_is_checked_and_the_row_is_named(tmp_path: Path) -> None:
    made, endpoint = merging(20, 22)
    with pytest.raises(RowError) as caught:
        await label(made, task=ENDS, endpoint=endpoint, store=tmp_path / "s")
    first, second, count = str(caught.value).splitlines()
    assert first.startswith(
        "rows:21: the model's tokenizer merges the label ' negative' with this prompt's end ("
    )
    assert second.startswith("rows:23: the model's tokenizer merges the label")
    assert count == "2 rows cannot be used"
    assert endpoint.usage.requests == 0
    found = await label(
        made, task=ENDS, endpoint=endpoint, skip_bad_rows=True, store=tmp_path / "s"
    )
    assert [row.id for row in found.failed] == [21, 23]
    assert len(found.rows) == 22


async def test_labels_that_merge_with_most_rows_are_the_templates_fault(tmp_path: Path) -> None:
    made, endpoint = merging(*range(20))
    with pytest.raises(TaskError, match=r"merges with the end of the prompt .* Change the end of"):
        await label(made, task=ENDS, endpoint=endpoint, skip_bad_rows=True, store=tmp_path / "s")


async def test_what_is_skipped_is_no_part_of_a_forecast(tmp_path: Path) -> None:
    made = rows()
    job = Job.prepare(rows_from(made, gold="label"), TASK)
    with pytest.raises(RowError, match="id '102'"):
        await forecast_job(job, concept(made), FAST, store=tmp_path / "s")
    cost = await forecast_job(job, concept(made), FAST, store=tmp_path / "s", skip_bad_rows=True)
    assert cost.summary()["rows"] == 22


FILE = """\
{"id": 10, "text": "a", "gold": "positive"}
{"id": 20, "text": " ", "gold": "positive"}
{"id": 30, "text": "b", "gold": "postive"}
{"id": 40, "text": "c"
{"id": 50, "text": "d", "gold": null}
{"id": 10, "text": "e", "gold": "negative"}
{"id": 70, "gold": "negative"}
"""


def test_all_bad_rows_of_a_file_are_named_whatever_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(FILE)
    with pytest.raises(RowError) as caught:
        Job.prepare(path, TASK, gold="gold")
    lines = [line.removeprefix(str(path)) for line in str(caught.value).splitlines()]
    assert [line.partition(" ")[0] for line in lines] == [":2:", ":3:", ":4:", ":6:", ":7:", "5"]
    assert lines[0] == ":2: the field 'text' is empty; the template needs its text (id 20)"
    assert "Did you mean 'positive'? (id 30)" in lines[1]
    assert caught.value.line == 2
    dataset = Job.prepare(path, TASK, gold="gold", skip_bad_rows=True).dataset
    assert [row.id for row in dataset.rows] == [10, 50]
    assert dataset.gold == ("positive", None)
    assert [(row.id, row.line) for row in dataset.skipped] == [
        (20, 2),
        (30, 3),
        (4, 4),
        (10, 6),
        (70, 7),
    ]


@pytest.mark.parametrize(
    ("name", "content", "skipped"),
    [
        (
            "rows.jsonl",
            b'{"text": "a"}\n{"text": "caf\xe9"}\n{"text": "b"}\n{"text": "c\0"}\n',
            [2, 4],
        ),
        ("rows.jsonl", b'{"text": "\xe9"}\n{"text": "a"}\n{"text": "b"}\n', [1]),
        ("rows.csv", b'text\na\ncaf\xe9\n"two\nlines \xe9"\nb\n"c, \0"\n', [3, 4, 7]),
        ("rows.tsv", b"text\tn\na\t1\ncaf\xe9\t2\nb\t3\n", [3]),
    ],
)
def test_lines_that_are_no_text_are_bad_rows_and_no_bad_file(
    tmp_path: Path, name: str, content: bytes, skipped: list[int]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RowError, match=r"not UTF-8|NUL") as caught:
        Job.prepare(path, TASK)
    assert caught.value.skippable
    assert [f"{path}:{line}: " in str(caught.value) for line in skipped] == [True] * len(skipped)
    dataset = Job.prepare(path, TASK, skip_bad_rows=True).dataset
    assert [row.fields["text"] for row in dataset.rows] == ["a", "b"]
    assert [row.line for row in dataset.skipped] == skipped


def test_rows_with_one_fault_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "x\n" * 2 + "y,z\n" * 30)
    with pytest.raises(RowError) as caught:
        Job.prepare(path, TASK)
    first, others, count = str(caught.value).splitlines()
    assert first.startswith(f"{path}:4: columns: 2 here, 1 in the header")
    assert others == ("  the same in lines 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 and 17 more")
    assert count == "30 rows cannot be used"


def test_rows_with_more_faults_than_are_told_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = [b'{"text": "' + b"x" * n + b'\xe9"}' for n in range(12)]
    path.write_bytes(b"\n".join([b'{"text": "a"}', b'{"text": "b"}', *bad]))
    with pytest.raises(RowError, match="for other reasons, lines 13 and 14\n12 rows cannot"):
        Job.prepare(path, TASK)


def test_where_all_rows_are_bad_none_can_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"txt": "a"}\n{"txt": "b"}\n{broken\n')
    with pytest.raises(RowError, match="Did you mean 'txt'") as caught:
        Job.prepare(path, TASK, skip_bad_rows=True)
    assert not caught.value.skippable
    assert f"{path}:3: broken JSON" in str(caught.value)


async def test_pins_of_skipped_rows_are_void_and_those_of_no_row_refused(tmp_path: Path) -> None:
    made = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(32))]
    made[5]["text"] = ""
    pins = {"r5": "positive", "r0": made[0]["label"]}
    found = await label(
        made,
        task=TASK,
        gold="label",
        endpoint=planted(),
        pins=pins,
        skip_bad_rows=True,
        store=tmp_path / "s",
    )
    assert (found.pinned, [row.id for row in found.failed]) == (1, ["r5"])
    with pytest.raises(InputError, match="no row of rows has the id 'r99'"):
        await label(
            made,
            task=TASK,
            endpoint=planted(),
            pins={"r99": "positive"},
            skip_bad_rows=True,
            store=tmp_path / "s",
        )
