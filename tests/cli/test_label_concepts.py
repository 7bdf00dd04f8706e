"""`icm-client label --concepts, --unlike, --easy`: which of two planted concepts is found."""

from pathlib import Path

import orjson
import pytest
from test_cli_label import own_endpoint
from whole_program import Run, whole_program

from icm_client import label
from icm_client.record.archive import list_runs
from icm_client.report.report import write_report
from icm_client.testing import Axis, PlantedConcept

N = 96
TEMPLATE = "Text: {text}\nGroup:"
TASK = ("--template", TEMPLATE, "--labels", "A,B")
SHAPE = [n * 7 % 5 % 2 for n in range(N + 8)]
COLOUR = [n * 11 % 7 % 2 for n in range(N + 8)]


def text(number: int) -> str:
    return f"thing {number}"


def two_concepts(*, both: bool = True) -> PlantedConcept:
    """Shape and colour split the rows, the words say nothing of either."""
    prompts = [TEMPLATE.format(text=text(number)) for number in range(N + 8)]
    second = Axis(dict(zip(prompts, COLOUR, strict=True)), 4.0) if both else None
    shape = dict(zip(prompts, SHAPE, strict=True))
    return PlantedConcept(shape, (" A", " B"), strength=4.0, meaning=0.0, second=second)


def follows(labels: dict[str, str], axis: list[int]) -> float:
    """The share of the rows that is split as the axis splits them, whatever the names."""
    same = sum((word == "A") == (axis[int(row)] == 0) for row, word in labels.items())
    return max(same, len(labels) - same) / len(labels)


def read(path: str) -> dict[str, str]:
    lines = [orjson.loads(line) for line in Path(path).read_bytes().splitlines()]
    return {line["id"]: line["label"] for line in lines}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return whole_program(monkeypatch, capsys)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"id": str(number), "text": text(number)} for number in range(N)]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    own_endpoint(monkeypatch, two_concepts())
    return path


@pytest.mark.usefixtures("rows")
def test_both_concepts_are_found_shown_and_picked(run: Run) -> None:
    asked = ("label", "rows.jsonl", *TASK, "--concepts", "3")
    first = run(*asked, "-o", "first.jsonl")
    assert first.code == 0, first.err
    assert "concept 1  " in first.out
    assert "concept 2  " in first.out
    assert "Concepts 1 and 2 agree on" in first.out
    assert "No further concept was found" in first.out
    assert "labels of concept 1 in first.jsonl (--pick takes another)" in first.out
    assert "thing " in first.out
    second = run(*asked, "--pick", "2", "-o", "second.jsonl", "--json")
    document = orjson.loads(second.out)
    assert document["picked"] == 2
    assert [set(one["clearest"]) for one in document["concepts"]] == [{"A", "B"}] * 2
    assert document["agreement"][0]["exchanged_kappa"] < 0.2
    assert document["no_further_concept"]["verdict"] == "do not trust"
    assert all(one["cost"]["from_server"] == 0 for one in document["concepts"])
    found = [read("first.jsonl"), read("second.jsonl")]
    axes = sorted((SHAPE, COLOUR), key=lambda axis: -follows(found[0], axis))
    assert follows(found[0], axes[0]) >= 0.95
    assert follows(found[1], axes[1]) >= 0.95
    assert len(list_runs(Path("runs")).runs) == 3


@pytest.mark.usefixtures("rows")
def test_words_that_do_not_choose_are_said_to_leave_several_concepts(run: Run) -> None:
    ended = run("label", "rows.jsonl", *TASK, "-o", "out.jsonl")
    assert "several-concepts" in run("runs", "show", "latest", "--json").out
    assert "See the others with --concepts 3" in ended.err


def test_one_concept_is_not_several(run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_endpoint(monkeypatch, two_concepts(both=False))
    ended = run("label", rows.name, *TASK, "-o", "out.jsonl")
    assert "--concepts" not in ended.err
    found = run("label", rows.name, *TASK, "--concepts", "2", "-o", "out.jsonl", "--json")
    document = orjson.loads(found.out)
    assert len(document["concepts"]) == 1
    assert document["no_further_concept"]["verdict"] == "do not trust"


@pytest.mark.usefixtures("rows")
def test_another_concept_than_that_of_a_run_or_a_file(run: Run) -> None:
    run("label", "rows.jsonl", *TASK, "-o", "first.jsonl")
    other = run("label", "rows.jsonl", *TASK, "-o", "other.jsonl", "--unlike", "latest")
    assert other.code == 0, other.err
    found = [read("first.jsonl"), read("other.jsonl")]
    assert sorted(follows(found[0], axis) >= 0.95 for axis in (SHAPE, COLOUR)) == [False, True]
    assert follows(found[1], SHAPE) + follows(found[0], SHAPE) < 1.7
    # A file of other words for the same rows does as well, and it is another run.
    shapes = [{"id": str(n), "label": ("round", "square")[SHAPE[n]]} for n in range(N)]
    Path("shapes.jsonl").write_bytes(b"\n".join(map(orjson.dumps, shapes)))
    run("label", "rows.jsonl", *TASK, "-o", "colours.jsonl", "--unlike", "shapes.jsonl")
    assert follows(read("colours.jsonl"), COLOUR) >= 0.95


@pytest.mark.parametrize(("axis", "words"), [(SHAPE, "A,B"), (COLOUR, "B,A")])
@pytest.mark.usefixtures("rows")
def test_eight_easy_rows_say_what_is_meant(run: Run, axis: list[int], words: str) -> None:
    named = words.split(",")
    easy = [{"id": str(n - N), "text": text(n), "what": named[axis[n]]} for n in range(N, N + 8)]
    Path("easy.jsonl").write_bytes(b"\n".join(map(orjson.dumps, easy)))
    ended = run("label", "rows.jsonl", *TASK, "-o", "out.jsonl", "--easy", "easy.jsonl:what")
    assert ended.code == 0, ended.err
    labels = read("out.jsonl")
    assert len(labels) == N
    right = sum(word == named[axis[int(row)]] for row, word in labels.items())
    assert right >= 0.95 * N
    (kept,) = list_runs(Path("runs")).runs
    assert len((kept.path / "labels.jsonl").read_bytes().splitlines()) == N
    write_report(kept, Path("report.html"))  # its charts are of the rows alone


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pick", "2"), "--pick 2 takes one of at least --concepts 2."),
        (("--concepts", "2", "--by", "text"), "--by makes a run for each value"),
        (("--unlike", "no-run"), "no run"),
        (("--unlike", "other.jsonl"), "no row of rows.jsonl has the id 'x'"),
        (("--unlike", "same.jsonl"), "all rows have the label 'A', and nothing is unlike it"),
        (("--unlike", "good.jsonl", "--preset", "paper"), "cannot look for another concept"),
        (("--easy", "easy.jsonl"), "does not say which field holds the labels of these rows"),
        (("--easy", "lacking.jsonl:what"), "lacking.jsonl:2: no label in 'what'"),
        (("--easy", "foreign.jsonl:what"), "foreign.jsonl:1"),
    ],
)
def test_what_cannot_be_used(run: Run, options: tuple[str, ...], message: str) -> None:
    files: dict[str, list[dict[str, object]]] = {
        "other.jsonl": [{"id": "x", "label": "A"}],
        "same.jsonl": [{"id": "1", "label": "A"}, {"id": "2", "label": "A"}],
        "good.jsonl": [{"id": "1", "label": "A"}, {"id": "2", "label": "B"}],
        "lacking.jsonl": [{"text": text(N), "what": "A"}, {"text": text(N + 1), "what": None}],
        "foreign.jsonl": [{"text": text(N), "what": "C"}, {"text": text(N + 1), "what": "A"}],
    }
    for name, lines in files.items():
        Path(name).write_bytes(b"\n".join(map(orjson.dumps, lines)))
    ended = run("label", "rows.jsonl", *TASK, "-o", "out.jsonl", *options)
    assert ended.code == 2
    assert message in ended.err


async def test_from_python(tmp_path: Path) -> None:
    data = [{"id": str(number), "text": text(number)} for number in range(N)]
    shapes = tmp_path / "shapes.jsonl"
    lines = [{"id": str(n), "label": str(SHAPE[n])} for n in range(N)]
    shapes.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    found = await label(
        data,
        task=_task(tmp_path),
        endpoint=two_concepts(),
        unlike=[shapes],
        store=tmp_path / "store",
    )
    assert follows({str(row.row.id): row.label for row in found.rows}, COLOUR) >= 0.95


def _task(folder: Path) -> Path:
    path = folder / "groups.toml"
    path.write_text('name = "groups"\ntemplate = "Text: {text}\\nGroup:"\nlabels = ["A", "B"]\n')
    return path
