"""The Python code of the pages on exports and on services runs."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from exported_runs import reviews_run
from tuned_reviews import EXAMPLES, QUICK, service

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


async def run(code: str, **names: Any) -> None:
    running = eval(compile(code, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # noqa: S307 - our own page
    if inspect.isawaitable(running):
        await running


async def test_the_page_on_services_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("finetuning-served.md")[0]
    assert "ServedSettings(epochs=3)" in code
    async with service(base="base-model") as server:
        code = code.replace("https://api.example.com/v1", server.url)
        code = code.replace("epochs=3", f"epochs=3, first_poll_s={QUICK.first_poll_s}")
        await run(code, examples=EXAMPLES)
        assert len(server.jobs) == 1
    assert "TrainingProgress(name='reviews', step=1, steps=2" in capsys.readouterr().out


def test_the_page_on_exports_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reviews_run(tmp_path)
    (code,) = blocks("exports.md")
    exec(compile(code.replace("reviews-3f2a", found.name), "page", "exec"), {})  # noqa: S102 - our own page
    assert (tmp_path / "train.jsonl").exists()
    assert capsys.readouterr().out.split()[1] in ("trust", "check", "do")
