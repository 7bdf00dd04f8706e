"""The page on predict: its commands run one after the other, and its block of Python."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

import icm_client.runs.server
from icm_client import read_rows, rows_from
from icm_client.cli.main import cli
from icm_client.data.job import named_task
from icm_client.testing import PlantedConcept

PAGE = Path(__file__).parents[2] / "docs" / "predict.md"
REVIEWS = [f"{word} film, number {n}" for n in range(20) for word in ("A great", "An awful")]
NEW = [f"{word} song, number {n}" for n in range(4) for word in ("A great", "An awful")]


def blocks(language: str) -> list[str]:
    text = PAGE.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Great films are positive; it stands where the embedded server would."""
    task = named_task("sentiment")
    prompts = task.render_all(rows_from(REVIEWS + NEW))
    planted = {prompt: int("awful" in prompt) for prompt in prompts}
    monkeypatch.setattr(
        icm_client.runs.server,
        "EmbeddedEndpoint",
        lambda: PlantedConcept(planted, task.label_texts, strength=4.0, meaning=2.0),
    )


def test_the_commands_run() -> None:
    for name, texts in (("reviews.csv", REVIEWS), ("new-reviews.csv", NEW)):
        lines = [f'"{text}"' for text in texts]
        Path(name).write_text("\n".join(["text", *lines]), "utf-8")
    commands = "".join(blocks("bash")).replace("\\\n", "").splitlines()
    ours = [
        shlex.split(line)[1:]
        for line in commands
        if line.startswith("icm-client ") and "--endpoint" not in line  # no such server is there
    ]
    assert [words[0] for words in ours] == ["label", "predict", "export"]
    for words in ours:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
    labels = [row.fields["label"] for row in read_rows("new-labels.csv").rows]
    assert labels == ["positive", "negative"] * 4
    assert Path("prompt.json").exists()


def test_the_block_of_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")

    async def run() -> None:
        compiled = compile(code, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(compiled, {})  # noqa: S307 - our own documentation
        assert inspect.isawaitable(running)
        await running

    anyio.run(run)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["positive", "negative"]
