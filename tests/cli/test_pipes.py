"""Rows from standard input, labels to standard output, and rows in every form, through a shell."""

import gzip
import io
import json
import os
import pty
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter
from shells import shell
from whole_program import whole_program

import icm_client.runs.server
from icm_client import Task, read_rows
from icm_client.data.formats import zstd
from icm_client.testing import PlantedConcept, PlantedServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX"),
]

N, MORE = 24, 8
TASK = Task(template="Ticket: {text}\nSentiment:", labels=("positive", "negative"))
LABEL = "icm label --template 'Ticket: {{text}}\\nSentiment:' --labels positive,negative -e {url}"
ROWS = [
    {"id": str(n), "text": f'Ticket {n}, "urgent"; ünïcode {n * 7 % 5}'} for n in range(N + MORE)
]


def concept() -> PlantedConcept:
    prompts = {TASK.template.format(**row): n * 7 % 5 % 2 for n, row in enumerate(ROWS)}
    return PlantedConcept(prompts, TASK.label_texts)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with PlantedServer(concept()) as server:
        yield server.url


def there() -> set[str]:
    return {path.name for path in Path().iterdir()}


def jsonl(rows: Sequence[Mapping[str, str]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


@pytest.fixture(autouse=True)
def rows() -> None:
    Path("rows.jsonl").write_bytes(jsonl(ROWS[:N]))
    Path("rows.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS[:N])))
    Path("new.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS[N:])))


def expected(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return [TASK.labels[int(row["id"]) * 7 % 5 % 2] for row in rows]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
async def test_rows_from_zcat_and_labels_to_jq(url: str, tmp_path: Path) -> None:
    line = f"zcat rows.jsonl.gz | {LABEL} - --format jsonl -o - | jq -r .label".format(url=url)
    done = await shell(tmp_path, line)
    assert done.status == 0, done.err
    assert done.out.splitlines() == expected(ROWS[:N])
    assert "labels in" in done.err  # the result, which else goes to standard output
    quiet = await shell(tmp_path, line.replace("-o -", "-o - -q"))
    assert (quiet.out, quiet.err) == (done.out, "")


async def test_nothing_else_is_on_standard_output_with_a_preview_either(
    url: str, tmp_path: Path
) -> None:
    line = f"(cat rows.jsonl; echo []) | {LABEL} - --skip-bad-rows -v -o -".format(url=url)
    done = await shell(tmp_path, line)
    assert done.status == 1
    assert [json.loads(line)["label"] for line in done.out.splitlines()] == expected(ROWS[:N])
    assert "The first prompt" in done.err
    assert "(line 25) has no label" in done.err


async def test_a_run_from_standard_input_goes_on_when_the_rows_come_again(
    url: str, tmp_path: Path
) -> None:
    piped = f"zcat rows.jsonl.gz | {LABEL} - -o labels.jsonl --json".format(url=url)
    first = json.loads((await shell(tmp_path, piped)).out)
    assert first["data"] == "<stdin>"
    assert Path(first["run"]).name.startswith("stdin-")
    again = json.loads((await shell(tmp_path, piped)).out)
    assert (again["run"], again["cost"]["from_server"]) == (first["run"], 0)
    resumed = await shell(tmp_path, "zcat rows.jsonl.gz | icm runs resume latest --json")
    assert json.loads(resumed.out)["run"] == first["run"]
    nothing = await shell(tmp_path, "icm runs resume latest < /dev/null")
    assert nothing.status == 2
    assert "<stdin>: nothing came: pipe the rows into the command" in nothing.err


async def test_a_run_from_standard_input_is_not_resumed_from_a_terminal(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await shell(tmp_path, f"{LABEL} - -o labels.jsonl < rows.jsonl".format(url=url))
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        ended = whole_program(monkeypatch, capsys)("runs", "resume", "latest")
        asked = whole_program(monkeypatch, capsys)("label", "-", "-t", "sentiment", "-o", "o.csv")
    os.close(ours)
    assert (ended.code, asked.code) == (2, 2)
    assert "pipe the same rows into it, for example zcat rows.jsonl.gz | icm-client " in ended.err
    assert "standard input is a terminal" in asked.err


async def test_a_reader_that_goes_away_costs_no_labels(url: str, tmp_path: Path) -> None:
    done = await shell(tmp_path, f"{LABEL} rows.jsonl -o - | head -c 1".format(url=url))
    assert (done.status, done.out) == (0, "{")
    assert "Traceback" not in done.err


async def test_json_and_labels_do_not_both_go_to_standard_output(tmp_path: Path) -> None:
    line = f"{LABEL} rows.jsonl -o - --json".format(url="http://127.0.0.1:9")
    done = await shell(tmp_path, line)
    assert done.status == 2
    assert "--json prints the result where -o - prints the labels" in json.loads(done.out)["error"]


async def test_a_table_goes_to_a_pipe(url: str, tmp_path: Path) -> None:
    line = f"{LABEL} rows.jsonl -o - --output-format parquet".format(url=url)
    done = await shell(tmp_path, line)
    labels = pq.read_table(io.BytesIO(done.out.encode("latin-1"))).column("label")
    assert labels.to_pylist() == expected(ROWS[:N])


async def test_predict_from_standard_input_to_standard_output(url: str, tmp_path: Path) -> None:
    await shell(tmp_path, f"{LABEL} rows.jsonl -o labels.jsonl".format(url=url))
    before = there()
    done = await shell(tmp_path, f"zcat new.jsonl.gz | icm predict latest - -o - -e {url}")
    assert done.status == 0, done.err
    assert [json.loads(line)["label"] for line in done.out.splitlines()] == expected(ROWS[N:])
    assert "labels in" in done.err
    assert there() == before
    whole = await shell(
        tmp_path, f"icm predict latest new.jsonl.gz rows.jsonl -o both.csv.zst -e {url}"
    )
    assert whole.status == 0, whole.err
    labels = [row.fields["label"] for row in read_rows("both.csv.zst").rows]
    assert labels == expected(ROWS[N:] + ROWS[:N])


async def test_the_labels_do_not_overwrite_one_of_the_files(url: str, tmp_path: Path) -> None:
    line = f"{LABEL} rows.jsonl.gz rows.jsonl -o ./rows.jsonl --format jsonl".format(url=url)
    done = await shell(tmp_path, line)
    assert done.status == 2
    assert "./rows.jsonl: the labels would overwrite the rows" in done.err


def written_in_every_form() -> list[str]:
    """Files with the same tickets, the first of them a plain CSV."""
    cells = [list(ROWS[0]), *(list(row.values()) for row in ROWS[:N])]

    def csv(delimiter: str) -> str:
        return "".join(
            delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) + "\r\n"
            for line in cells
        )

    table = pa.Table.from_pylist(ROWS[:N])
    files = {
        "plain.csv": csv(",").encode(),
        "semicolons.csv": b"\xef\xbb\xbf" + csv(";").encode(),
        "utf16.csv": csv("\t").encode("utf-16"),
        "tickets.csv.zst": zstd.compress(csv(",").encode()),
        "tickets.jsonl": jsonl(ROWS[:N]),
        "tickets.jsonl.gz": gzip.compress(jsonl(ROWS[:N])),
        "tickets.json": orjson.dumps(ROWS[:N]),
    }
    for name, content in files.items():
        Path(name).write_bytes(content)
    pq.write_table(table, "tickets.parquet")
    with pa.ipc.new_file("tickets.arrow", table.schema) as arrow:
        arrow.write_table(table)
    with xlsxwriter.Workbook("tickets.xlsx", {"strings_to_numbers": True}) as book:
        sheet = book.add_worksheet()
        for number, line in enumerate(cells):
            sheet.write_row(number, 0, line)
    return [*files, "tickets.parquet", "tickets.arrow", "tickets.xlsx"]


def test_every_form_gives_the_labels_of_the_plain_csv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", concept)
    run = whole_program(monkeypatch, capsys)
    asked = ("--template", TASK.template, "--labels", ",".join(TASK.labels), "--no-record", "-q")
    found = {}
    for name in written_in_every_form():
        ended = run("label", name, *asked, "-o", "-", "--store", f"{name}.store")
        assert (ended.code, ended.err) == (0, ""), name
        labels = [json.loads(one) for one in ended.out.splitlines()]
        found[name] = [(str(one["id"]), one["label"], one["confidence"]) for one in labels]
    plain = found.pop("plain.csv")
    assert [label for _, label, _ in plain] == expected(ROWS[:N])
    assert found == dict.fromkeys(found, plain)
