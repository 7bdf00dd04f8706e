"""What the documentation shows is what happens."""

import ast
import gzip
import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
import xlsxwriter
from click.testing import CliRunner

import icm_client
from icm_client.cli.main import cli, main
from icm_client.cli.predict import predict_command
from icm_client.data.formats import zstd
from icm_client.data.job import named_task
from icm_client.testing import PlantedConcept

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(page: Path) -> list[str]:
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(("icm-client label", "icm-client tasks"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the documentation's commands name."""
    (tmp_path / "reviews.csv").write_text("text\ngood\nbad\n", "utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "new.csv.zst").write_bytes(zstd.compress(b"text\nfine\ndull\n"))
    (tmp_path / "reviews-1.jsonl.gz").write_bytes(
        gzip.compress(b'{"text": "fine"}\n{"text": "dull"}\n')
    )
    with xlsxwriter.Workbook(tmp_path / "more.xlsx") as book:
        book.add_worksheet().write_column(0, 0, ["text", "superb"])
    (tmp_path / "broken.jsonl").write_text(
        '{"text": "good"}\n{"text": "bad"}\n{"txt": "odd"}\n', "utf-8"
    )
    (tmp_path / "TruthfulQA.csv").write_text(
        "Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers\n"
        "Is ice cold?,Yes,No,Yes; It is,No; Never\n",
        "utf-8",
    )
    answer = {"annotation_id": 1, "annotator": 1, "icm_id": 1, "text": "good", "label": "positive"}
    (tmp_path / "answers.json").write_text(json.dumps([answer]), "utf-8")
    toml = "".join(blocks(ROOT / "docs" / "rows.md", "toml"))
    (tmp_path / "sentiment.toml").write_text(toml, "utf-8")
    (run_file,) = blocks(ROOT / "docs" / "commands.md", "toml")
    (tmp_path / "run.toml").write_text(run_file, "utf-8")
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [line for page in PAGES for line in commands(page)])
def test_commands_run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICM_ENDPOINT", "http://127.0.0.1:9")  # no lengths: no model is started
    words = shlex.split(command)[1:]
    label = words[0] == "label"
    done = CliRunner().invoke(cli, [*words, "--dry-run"] if label else words)
    assert done.exit_code == 0, done.output
    if label:
        assert re.search("Sentiment:|I think this claim is", done.output)


@pytest.mark.usefixtures("folder")
def test_the_run_file_shown_is_read() -> None:
    done = CliRunner().invoke(cli, ["label", "--config", "run.toml", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "Review: good\nSentiment:" in done.output


def predictions(page: Path) -> list[str]:
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line[at:] for line in lines if (at := line.find("icm-client predict")) >= 0]


@pytest.mark.parametrize("command", [line for page in PAGES for line in predictions(page)])
def test_predictions_have_options_that_exist(command: str) -> None:
    words = shlex.split(command)[2:]
    with predict_command.make_context("predict", words) as context:
        assert context.params["run_name"]


@pytest.mark.usefixtures("folder")
def test_the_error_shown_is_the_error_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((console,),) = [blocks(ROOT / "docs" / "rows.md", "console")]
    command, expected = console.removeprefix("$ ").split("\n", 1)
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_fill_in_and_no_link_is_dead(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.findall(r"^[A-Z]{5,}$", text, re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cli", "api"])
def test_a_written_page_is_what_its_script_prints(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    script = [sys.executable, str(ROOT / "scripts" / f"{name}_page.py")]
    # A process of its own: click keeps the help option that a command was first invoked with.
    printed = subprocess.run(script, check=True, capture_output=True, encoding="utf-8").stdout
    assert page == printed, "run scripts/docs"


def test_the_readme_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    data = "examples/movie_reviews/movie_reviews.jsonl"
    dataset = icm_client.read_rows(ROOT / data, gold="label")
    task = named_task(ROOT / "examples" / "movie_reviews" / "task.toml")
    prompts = task.render_all(dataset)
    gold = [task.labels.index(word) for word in dataset.gold or () if word]

    async def connect(url: str, **_: object) -> PlantedConcept:
        assert url == "http://localhost:8000"
        return PlantedConcept(
            dict(zip(prompts, gold, strict=True)), task.label_texts, strength=3.0, meaning=2.0
        )

    monkeypatch.setattr("icm_client.runs.server.connect", connect)
    run(code.replace('"examples/', f'"{ROOT}/examples/'))
    assert len(icm_client.read_rows(tmp_path / "labels.parquet").rows) == len(prompts)


@pytest.mark.usefixtures("folder")
def test_the_tasks_page_reads_a_public_file(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "docs" / "tasks.md", "python")
    run(code)
    assert capsys.readouterr().out.endswith("4 claims, 2 true\n")


def test_the_scale_page_calculates_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "scale.md"
    (code,), (shown, *_) = blocks(page, "python"), blocks(page, "text")
    run(code)
    assert capsys.readouterr().out == shown


@pytest.mark.usefixtures("embedded_model")
def test_the_python_page_runs_on_the_embedded_server(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "docs" / "python.md", "python")
    run(code)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:8]] == ["positive", "negative"] * 4


def run(code: str) -> None:
    """Run a block that awaits at its top level, as a notebook would."""
    names: dict[str, object] = {}
    compiled = compile(code, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def block() -> None:
        running = eval(compiled, names)  # noqa: S307 - our own documentation
        if inspect.isawaitable(running):
            await running

    anyio.run(block)
