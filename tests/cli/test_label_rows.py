"""`icm-client label`: rows that cannot be used, rows that are cut, and a run for each value."""

from pathlib import Path

import orjson
import pytest
from test_cli_label import ASKED, TASK, concept, own_endpoint
from whole_program import Run, whole_program

from icm_client import Task, read_rows
from icm_client.testing import PlantedConcept


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return whole_program(monkeypatch, capsys)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """40 rows, of which three are long."""
    path = tmp_path / "rows.jsonl"
    lines = [
        {
            "id": f"r{i}",
            "text": f"words of row {i}" + " and more" * {4: 20, 9: 30, 30: 15}.get(i, 0),
            "gold": TASK.labels[i * 7 % 5 % 2],
        }
        for i in range(40)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n")
    return path


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, rows: Path) -> PlantedConcept:
    return own_endpoint(monkeypatch, concept(rows))


BAD = b"""\
{"id": "e", "text": " "}
{"id": "g", "txt": "no text"}
{"id": "r1", "text": "an id that is taken"}
{"id": "n", "text": NaN}
{"id": "b", "text": "cut off
"""
TAKEN = "the id 'r1' is already that of rows.jsonl:2; ids must be unique"


def test_a_dry_run_names_bad_rows_of_every_kind_at_once(
    run: Run, rows: Path, endpoint: PlantedConcept
) -> None:
    rows.write_bytes(rows.read_bytes() + BAD)
    ended = run("label", rows.name, *ASKED, "--dry-run", "--max-row-tokens", "30")
    assert (ended.code, ended.out) == (2, "")
    first, same, *others, count, advice = ended.err.splitlines()
    assert first == (
        "Error: rows.jsonl:5: its prompt takes 47 tokens, more than the 30 of --max-row-tokens: "
        "shorten the text, or have such rows cut (--truncate) (id 'r4')"
    )
    assert same == "  the same in lines 10 (id 'r9', 67 tokens) and 31 (id 'r30', 37 tokens)"
    assert [line.partition(": ")[0] for line in others] == [
        f"rows.jsonl:{line}" for line in range(41, 46)
    ]
    assert TAKEN in others[2]
    assert count == "8 rows cannot be used"
    assert advice == "--skip-bad-rows goes on with the other rows."
    assert endpoint.usage.requests == 0


@pytest.mark.usefixtures("endpoint")
def test_a_dry_run_tells_programs_of_all_rows(run: Run, rows: Path) -> None:
    rows.write_bytes(rows.read_bytes() + BAD)
    options = ("--max-row-tokens", "40", "--skip-bad-rows", "--json")
    ended = run("label", rows.name, *ASKED, "--dry-run", *options)
    assert ended.code == 0, ended.err
    shown = orjson.loads(ended.out)
    assert [row["line"] for row in shown["failed"]] == [5, 10, *range(41, 46)]
    lengths = shown["lengths"]
    assert (lengths["least"], lengths["most"], lengths["unit"]) == (7, 37, "tokens")
    assert shown["lengths_not_checked"] is None
    ended = run("label", rows.name, *ASKED, "--dry-run", *options, "-e", "http://127.0.0.1:9")
    shown = orjson.loads(ended.out)
    assert shown["lengths"] is None
    assert "http://127.0.0.1:9" in shown["lengths_not_checked"]
    assert [row["line"] for row in shown["failed"]] == list(range(41, 46))


def test_rows_are_cut_and_told(run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {row.id: str(row.fields["text"]).split() for row in read_rows(rows).rows}
    planted = {}
    for number, words in enumerate(texts.values()):
        for kept in range(4, len(words) + 1):
            prompt = f"Review: {' '.join(words[:kept])}\nSentiment:"
            planted[prompt] = number * 7 % 5 % 2
    own_endpoint(monkeypatch, PlantedConcept(planted, TASK.label_texts, noise=0.1))
    asked = ("label", rows.name, *ASKED, "--gold", "gold", "--max-row-tokens", "30")
    refused = run(*asked, "-o", "out.csv")
    assert refused.code == 2
    assert "3 rows cannot be used\n--skip-bad-rows goes on with the other rows." in refused.err
    dry = run(*asked, "--truncate", "--dry-run")
    assert "Note: 3 rows were cut to 30 tokens" in dry.err
    ended = run(*asked, "--truncate", "-o", "out.csv")
    assert ended.code == 0, ended.err
    assert "Note: 3 rows were cut to 30 tokens (of 40 rows)" in ended.err
    written = read_rows("out.csv").rows
    cut = {row.id: int(str(row.fields["cut_tokens"])) for row in written}
    assert [row for row, tokens in cut.items() if tokens] == ["r4", "r9", "r30"]
    assert str(written[9].fields["text"]).split() == texts["r9"]
    run("label", rows.name, *ASKED, "-o", "o.csv", "--runs", "r2", "--max-row-tokens", "99")
    assert "cut_tokens" not in read_rows("o.csv").rows[0].fields
    alone = run("label", rows.name, *ASKED, "-o", "out.csv", "--truncate")
    assert alone.code == 2
    assert "--truncate cuts rows to --max-row-tokens N" in alone.err


PERSONAS = Task(template="A {who} on {what}:", labels=("yes", "no"))
BY = ("--template", PERSONAS.template, "--labels", "yes,no", "--by", "who")


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 questions, each answered by a cook and a nun, who say the same of two in three."""
    path = tmp_path / "people.csv"
    planted, lines = {}, ["who,what"]
    for number in range(30):
        first = number * 7 % 5 % 2
        for who, said in (("cook", first), ("nun", first ^ (number % 3 == 0))):
            lines.append(f"{who},thing {number}")
            planted[f"A {who} on thing {number}:"] = said
    path.write_text("\n".join(lines) + "\n")
    own_endpoint(monkeypatch, PlantedConcept(planted, PERSONAS.label_texts, noise=0.1))
    return path


@pytest.mark.usefixtures("people")
def test_by_a_field_there_is_one_output_and_a_table_of_agreement(run: Run) -> None:
    ended = run("label", "people.csv", *BY, "-o", "out.jsonl")
    assert ended.code == 0, ended.err
    assert "who = cook, 30 rows" in ended.err
    assert "Agreement of rows that are the same in 'what': share (kappa), rows of both" in ended.out
    assert "67% (0.3" in ended.out
    assert "runs/people-cook-" in ended.out
    lines = [orjson.loads(line) for line in Path("out.jsonl").read_bytes().splitlines()]
    assert [line["who"] for line in lines] == ["cook", "nun"] * 30
    again = run("label", "people.csv", *BY, "-o", "out.jsonl", "--json")
    document = orjson.loads(again.out)
    assert list(document["values"]) == ["cook", "nun"]
    (agreed,) = document["agreement"]
    assert (agreed["rows"], round(agreed["share"], 3)) == (30, 0.667)
    assert sum(one["cost"]["from_server"] for one in document["values"].values()) == 0


@pytest.mark.usefixtures("people")
def test_by_a_field_limits_are_of_all_runs_and_a_dry_run_shows_the_values(run: Run) -> None:
    dry = run("label", "people.csv", *BY, "--dry-run")
    assert "who = cook: 30 rows\nwho = nun: 30 rows\n" in dry.out
    whole = orjson.loads(run("label", "people.csv", *BY, "-o", "o.csv", "--json").out)
    first = whole["values"]["cook"]["cost"]["requests"]
    ended = run(
        *("label", "people.csv", *BY, "-o", "out.csv", "--store", "other"),
        *("--max-requests", first + 3, "--runs", "other-runs"),
    )
    assert ended.code == 3
    assert "in the rows of 'nun'" in ended.err
    few = run("label", "people.csv", *BY[:4], "--by", "what", "-o", "out.csv", "--match", "who")
    assert few.code == 0, "two rows of each value are enough to begin"
    Path("more.csv").write_text("who,what\ncook,a\nnun,b\nnun,c\n")
    refused = run("label", "more.csv", *BY, "-o", "out.csv")
    assert refused.code == 2
    assert "more.csv:2: no other row has 'cook' in the field 'who'" in refused.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--match", "what"), "--match goes with --by FIELD."),
        (("--by", "who", "--forecast"), "--forecast is for one run"),
        (("--by", "whom"), "Did you mean 'who'?"),
        (("--serve", "m", "-e", "http://127.0.0.1:9"), "--serve starts a server: leave out"),
        (("--serve", "no/such/folder/"), "no/such/folder/"),
    ],
)
@pytest.mark.usefixtures("people")
def test_options_that_do_not_fit_are_refused(run: Run, more: tuple[str, ...], words: str) -> None:
    ended = run("label", "people.csv", *BY[:4], "-o", "out.csv", *more)
    assert ended.code == 2
    assert words in ended.err
