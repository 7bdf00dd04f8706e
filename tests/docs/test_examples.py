"""The examples and the snippets of the Python page run as they stand."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import anyio
import orjson
import pandas as pd
import pytest

import icm_client
from icm_client.data.job import named_task
from icm_client.testing import PlantedConcept, PlantedServer

ROOT = Path(__file__).parents[2]
ENDED = re.compile(r"(\d+) positive, (\d+) negative; (\d+)% as the raters; \d+ s")


@pytest.mark.usefixtures("embedded_model")
def test_three_data_sets_are_labelled_at_once_on_the_embedded_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    spec = importlib.util.spec_from_file_location("async_jobs", ROOT / "examples" / "async_jobs.py")
    assert spec is not None
    assert spec.loader is not None
    async_jobs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(async_jobs)
    anyio.run(async_jobs.main)
    lines = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip()
    )
    assert list(lines) == list(async_jobs.NAMES)
    for name in ("movie_reviews", "product_reviews"):
        found = ENDED.match(lines[name])
        assert found is not None, lines[name]
        positive, negative, accuracy = map(int, found.groups())
        assert positive + negative == async_jobs.ROWS
        assert accuracy >= 75
    assert re.search(r"\d+ terrible, .* \d+ great; \d+% as the raters", lines["movie_stars"])


async def test_the_snippets_of_the_python_page_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = named_task("sentiment")
    planted: dict[str, int] = {}
    for name in ("reviews", "films", "phones"):
        rows = [{"text": f"{name} number {n}"} for n in range(32)]
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
        prompts = task.render_all(icm_client.rows_from(rows))
        planted |= {prompt: n * 7 % 5 % 2 for n, prompt in enumerate(prompts)}
    table = "".join(f"r{n},reviews number {n}\n" for n in range(32))
    (tmp_path / "reviews.csv").write_text(f"review,text\n{table}", "utf-8")
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    snippets = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 3
    concept = PlantedConcept(planted, task.label_texts, meaning=2.0)
    there = {"icm_client": icm_client, "pandas": pd}
    async with PlantedServer(concept, model="gemma-3-27b") as server:
        monkeypatch.setenv("ICM_ENDPOINT", server.url)
        for snippet in snippets:
            compiled = compile(
                snippet.replace("http://localhost:8000", server.url),
                "snippet",
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            )
            running = eval(compiled, there)  # noqa: S307 - our own page
            assert inspect.isawaitable(running)
            await running
    assert len(icm_client.read_rows(tmp_path / "labels.jsonl").rows) == 32
    frame = there["frame"]
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["text", "label", "confidence"]
    assert frame["label"].notna().all()
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("reviews")
    lines = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r"films \d+ of 32 in this sweep", line) for line in lines)
    assert [line.split()[0] for line in lines[-2:]] == ["films", "phones"]
    counts = [ast.literal_eval(line.split(maxsplit=1)[1]) for line in lines[-2:]]
    assert all(sum(one.values()) == 32 and min(one.values()) > 8 for one in counts)
