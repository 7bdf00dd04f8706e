"""`icm-client export --to prompt`, and the example that labels rows with what it writes."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import openai
import orjson
import pytest
from anyio import to_thread
from click.testing import CliRunner, Result
from planted_reviews import TASK
from predictions import RUN, concept, labelled, new_rows, run_in
from text_server import TextServer

import icm_client.runs.server
from icm_client import EmbeddedEndpoint, SweepSettings, label, read_rows
from icm_client.cli.main import cli
from icm_client.errors import InputError
from icm_client.training.frozen_prompt import prompt_document

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "exported_prompt.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported_prompt", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def export(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["export", "rows", "--to", "prompt", *arguments])


def test_the_example_gives_the_labels_of_predict(tmp_path: Path) -> None:
    async def found() -> dict[object, tuple[str, float | None]]:
        predictor = (await run_in(tmp_path)).predictor()
        rows = await labelled(predictor, new_rows(), concept(), tmp_path / "store", contexts=2)
        return {row.row.id: (row.label, row.confidence) for row in rows}

    expected = anyio.run(found)
    done = export("-o", "prompt.json", "--runs", "runs")  # asks no server
    assert done.exit_code == 0, done.output
    assert "Wrote the prompt to prompt.json." in done.output
    prompt = json.loads(Path("prompt.json").read_bytes())
    assert len(prompt["contexts"]) == 2

    async def run_example() -> bytes:
        async with TextServer(concept(), TASK.label_texts) as server:
            lines = b"".join(orjson.dumps(row) + b"\n" for row in new_rows()[:10])
            command = [sys.executable, str(EXAMPLE), "prompt.json", f"{server.url}/v1"]
            return (await anyio.run_process(command, input=lines)).stdout

    said = [json.loads(line) for line in anyio.run(run_example).splitlines()]
    assert len(said) == 10
    for row in said:
        word, confidence = expected[row["id"]]
        assert row["label"] == word
        assert row["confidence"] == pytest.approx(confidence)


def test_a_run_that_nothing_was_predicted_from_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anyio.run(run_in, tmp_path)
    other = concept(seed=9)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: other)
    refused = export("-o", "prompt.json", "--runs", "runs", "--store", "store")
    assert isinstance(refused.exception, InputError)
    assert "--endpoint" in str(refused.exception)
    assert not Path("prompt.json").exists()
    model = concept()
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: model)
    done = export("-o", "prompt.json", "--runs", "runs", "--store", "store", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verdict"] == "trust"
    assert model.usage.requests == RUN // 2
    (folder,) = Path("runs").iterdir()
    assert (folder / "predictor.json").exists()
    prompt = json.loads(Path("prompt.json").read_bytes())
    assert prompt["label_texts"] == [" negative", " positive"]
    assert prompt["contexts"][0]["text"].endswith("tive\n\n")
    assert [len(ids) for ids in prompt["label_token_ids"]] == [1, 1]
    assert "gold" not in Path("prompt.json").read_text("utf-8")


def test_what_a_prompt_has_no_place_for_is_refused(tmp_path: Path) -> None:
    anyio.run(run_in, tmp_path)
    done = export("-o", "prompt.json", "--runs", "runs", "--min-confidence", "0.9")
    assert done.exit_code == 2
    assert "writes no rows" in done.output
    done = export("-o", "no/prompt.json", "--runs", "runs")
    assert done.exit_code != 0


@pytest.mark.usefixtures("embedded_model")
async def test_the_example_on_the_embedded_server(tmp_path: Path) -> None:
    file = ROOT / "examples" / "movie_reviews" / "movie_reviews.jsonl"
    data = read_rows(file, gold="label")
    async with EmbeddedEndpoint() as server:
        rows: list[dict[str, Any]] = [dict(row.fields) for row in data.rows[:32]]
        found = await label(
            rows[:24],
            task="sentiment",
            endpoint=server,
            store=tmp_path / "store",
            settings=SweepSettings(min_sweeps=2, max_sweeps=2, restarts=1),
        )
        predictor = found.predictor()
        expected = [
            row
            async for row in predictor.label(rows[24:], endpoint=server, store=tmp_path / "store")
        ]
        frozen = predictor.kept()
        assert frozen is not None
        prompt = json.loads(orjson.dumps(prompt_document(frozen)))
        inner = (await server._started(instead_of=None)).endpoint
        headers = inner._transport._exchange._client.headers
        key = headers["Authorization"].removeprefix("Bearer ")
        client = openai.OpenAI(base_url=f"{inner._transport.url}/v1", api_key=key)
        said = [await to_thread.run_sync(example().label, row, prompt, client) for row in rows[24:]]
    assert [word for word, _ in said] == [row.label for row in expected]
