"""`icm-client label --config` and `--save-config`: a run's options in a file."""

from pathlib import Path

import orjson
import pytest
from whole_program import Run, whole_program, without_server

import icm_client.runs.server
from icm_client import Task, read_rows
from icm_client.record.archive import list_runs
from icm_client.testing import PlantedConcept

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
FILE = """\
data = "rows.jsonl"
template = "Review: {text}\\nSentiment:"
labels = ["positive", "negative"]
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return whole_program(monkeypatch, capsys)


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    without_server(monkeypatch)


@pytest.fixture(autouse=True)
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"text": f"words of row {i}", "gold": TASK.labels[i * 7 % 5 % 2]} for i in range(40)]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    (tmp_path / "run.toml").write_text(FILE, "utf-8")
    return path


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, rows: Path) -> PlantedConcept:
    dataset = read_rows(rows, gold="gold")
    classes = [TASK.labels.index(gold or "") for gold in dataset.gold or ()]
    planted = dict(zip(TASK.render_all(dataset), classes, strict=True))
    concept = PlantedConcept(planted, TASK.label_texts, strength=3.0)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda *_: concept)
    return concept


def test_the_files_options_are_the_commands(run: Run) -> None:
    ended = run("label", "--config", "run.toml", "--dry-run", "--json")
    told = orjson.loads(ended.out)
    assert (told["rows"], told["first_prompt"]) == (40, "Review: words of row 0\nSentiment:")


def test_the_command_line_wins(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(FILE + "limit = 10\n", "utf-8")
    ended = run("label", "--config", "run.toml", "--limit", "20", "--dry-run", "--json")
    assert orjson.loads(ended.out)["rows"] == 20


def test_a_task_on_the_command_line_takes_the_place_of_the_files_template(run: Run) -> None:
    ended = run("label", "--config", "run.toml", "--task", "author-gender", "--dry-run", "--json")
    assert orjson.loads(ended.out)["labels"] == [" female", " male"]


@pytest.mark.usefixtures("endpoint")
def test_what_the_command_line_puts_out_is_neither_saved_nor_recorded(
    run: Run, tmp_path: Path
) -> None:
    """Else the saved file, or the run's own command, would contradict itself."""
    (tmp_path / "mine.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n', "utf-8"
    )
    (tmp_path / "run.toml").write_text(FILE + 'endpoint = "http://127.0.0.1:9"\n', "utf-8")
    given = ("--config", "run.toml", "--task", "mine.toml", "--save-config", "new.toml")
    assert run("label", *given, "--gguf", "m.gguf", "--dry-run").code == 0
    saved = (tmp_path / "new.toml").read_text("utf-8")
    assert 'task = "mine.toml"' in saved
    for absent in ("template", "labels", "endpoint"):
        assert f"{absent} =" not in saved
    (tmp_path / "run.toml").write_text(FILE, "utf-8")
    assert run("label", *given[:4], "-o", "out.jsonl", "-q").code == 0
    (kept,) = list_runs(tmp_path / "runs").runs
    assert kept.record["command"] == ["label", *given[2:4], "-o", "out.jsonl", "-q", "rows.jsonl"]


def test_a_template_on_the_command_line_takes_the_place_of_the_files_task(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text('data = "rows.jsonl"\ntask = "sentiment"\n', "utf-8")
    asked = ("--template", "{text} is", "--labels", "a,b")
    ended = run("label", "--config", "run.toml", *asked, "--dry-run", "--json")
    assert orjson.loads(ended.out)["labels"] == [" a", " b"]


def test_a_server_file_and_an_endpoint_exclude_each_other_but_across_the_two(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(FILE + 'endpoint = "http://127.0.0.1:9"\n', "utf-8")
    ended = run("label", "--config", "run.toml", "--gguf", "m.gguf", "--dry-run")
    assert ended.code == 0
    (tmp_path / "run.toml").write_text(FILE + 'gguf = "m.gguf"\n', "utf-8")
    ended = run("label", "--config", "run.toml", "-e", "http://127.0.0.1:9", "--dry-run")
    assert ended.code == 0


def test_paths_are_relative_to_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "task.toml").write_text(
        'template = "{text} is"\nlabels = ["a", "b"]\n', "utf-8"
    )
    (tmp_path / "sub" / "run.toml").write_text(
        'data = ["../rows.jsonl"]\ntask = "task.toml"\n', "utf-8"
    )
    ended = run("label", "--config", "sub/run.toml", "--dry-run", "--json")
    assert orjson.loads(ended.out)["labels"] == [" a", " b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('templat = "x"', "run.toml: label has no option 'templat'. Did you mean 'template'?"),
        ('config = "x"', "run.toml: label has no option 'config'"),
        ("[label]\nseed = 1", "run.toml: label has no option 'label'"),
        ("fresh = 1", "run.toml: `fresh` is a switch: it should be true or false, not 1"),
        ("seed = true", "run.toml: `seed` should be a text or a number, not True"),
        ("prior = { positive = 0.2 }", "run.toml: `prior` should be a text or a number"),
        ("seed = [1, 2]", "run.toml: `seed` takes one value, not [1, 2]"),
        ("seed = 1.5", "Invalid value for '--seed'"),
        ("seed = ", "run.toml: not TOML: "),
    ],
)
def test_what_is_wrong_in_it_is_said(run: Run, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.toml").write_text(content, "utf-8")
    ended = run("label", "rows.jsonl", "--config", "run.toml", "--dry-run")
    assert ended.code == 2
    assert message in ended.err


def test_no_such_file(run: Run) -> None:
    ended = run("label", "rows.jsonl", "--config", "nowhere.toml", "--dry-run")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "Error: nowhere.toml: the run file cannot be read: No such file or directory\n"
    )


def test_what_is_saved_is_read_as_the_same_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    given = (
        *("label", "rows.jsonl", "--template", r"Review: {text}\nSentiment:"),
        *("--labels", "positive,negative", "--prior", "positive=0.25", "--limit", "12"),
        *("--group", "text", "--constraint", "same-answer", "--skip-bad-rows", "--seed", "3"),
        *("--item-timeout", "30", "--runs", "mine"),
    )
    ended = run(*given, "--dry-run", "--save-config", "sub/run.toml", "--json")
    assert ended.code == 0, ended.err
    saved = (tmp_path / "sub" / "run.toml").read_text("utf-8")
    assert 'data = "../rows.jsonl"' in saved
    assert r'template = "Review: {text}\nSentiment:"' in saved
    assert 'labels = ["positive", "negative"]' in saved
    assert 'runs = "../mine"' in saved
    assert "skip-bad-rows = true" in saved
    assert "dry-run" not in saved
    again = run("label", "--config", "sub/run.toml", "--dry-run", "--json")
    assert orjson.loads(again.out) == orjson.loads(ended.out)
    (tmp_path / "sub" / "other.toml").unlink(missing_ok=True)
    run("label", "--config", "sub/run.toml", "--dry-run", "--save-config", "sub/other.toml")
    assert (tmp_path / "sub" / "other.toml").read_text("utf-8") == saved


def test_no_secret_is_saved(run: Run, tmp_path: Path) -> None:
    url = "https://me:secret@example.org/v1?api_key=hidden&x=1"
    ended = run("label", "--config", "run.toml", "--dry-run", "-e", url, "--save-config", "b.toml")
    saved = (tmp_path / "b.toml").read_text("utf-8")
    assert 'endpoint = "https://example.org/v1?x=1"' in saved
    assert "secret" not in saved
    assert "hidden" not in saved
    assert "Not written to b.toml: the password in example.org" in ended.err


def test_another_file_is_never_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("# mine\n", "utf-8")
    ended = run("label", "--config", "run.toml", "--dry-run", "--save-config", "b.toml")
    assert ended.code == 2
    assert "b.toml: there is a file already" in ended.err
    assert (tmp_path / "b.toml").read_text("utf-8") == "# mine\n"


@pytest.mark.usefixtures("endpoint")
def test_a_run_is_resumed_without_its_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(FILE + 'output = "labels.jsonl"\nseed = 1\n', "utf-8")
    options = ("--seed", "2", "--save-task", "saved.toml", "-q")
    assert run("label", "--config", "run.toml", *options).code == 0
    (kept,) = list_runs(tmp_path / "runs").runs
    command = kept.record["command"]
    assert command[:4] == ["label", "--seed", "2", "-q"]
    assert sorted(command[4:]) == [
        "--labels=positive,negative",
        "--output=labels.jsonl",
        "--template=Review: {text}\nSentiment:",
        "rows.jsonl",
    ]
    (tmp_path / "run.toml").unlink()
    (tmp_path / "saved.toml").write_text("# changed\n", "utf-8")
    labels = (tmp_path / "labels.jsonl").read_bytes()
    (tmp_path / "labels.jsonl").unlink()
    resumed = run("runs", "resume", "latest")
    assert resumed.code == 0, resumed.err
    assert (tmp_path / "labels.jsonl").read_bytes() == labels


def test_the_task_is_saved_with_the_gold_field(run: Run, tmp_path: Path) -> None:
    ended = run(
        *("label", "--config", "run.toml", "--gold", "gold", "--save-task", "mine.toml"),
        "--dry-run",
    )
    assert ended.code == 0, ended.err
    task = Task.from_toml(tmp_path / "mine.toml")
    assert (task.template, task.labels, task.gold) == (TASK.template, TASK.labels, "gold")
