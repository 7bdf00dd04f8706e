"""`icm-client eval --finetune` with real trainings: a tiny model, trained on this machine."""

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from tiny_model import make_tiny_model, tiny_examples

import icm_client.runs.server
from icm_client.cli.main import cli
from icm_client.testing import PlantedConcept

pytestmark = pytest.mark.slow

LABELS = ("negative", "positive")


def test_real_models_are_trained_tested_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = tiny_examples()
    texts = [one.prompt.removeprefix("Review: ").removesuffix("\nSentiment:") for one in examples]
    rows = [
        {"text": text, "gold": one.label.strip()} for text, one in zip(texts, examples, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    (tmp_path / "task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n', "utf-8"
    )
    planted = {one.prompt: LABELS.index(one.label.strip()) for one in examples}
    concept = PlantedConcept(planted, tuple(f" {word}" for word in LABELS), meaning=2.0)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    model = make_tiny_model(tmp_path / "tiny")
    command = [
        *("eval", str(tmp_path / "rows.jsonl"), "--gold", "gold", "--seeds", "0", "--test", "12"),
        *("--finetune", "--train-from", str(model), "--epochs", "15", "--json"),
        *("--methods", "finetuned-random,finetuned-icm,finetuned-golden"),
    ]
    ended = CliRunner().invoke(cli, command)
    assert ended.exit_code == 0, ended.exception
    printed = orjson.loads(ended.stdout)
    accuracy = {one["method"]: one["accuracy"] for one in printed["methods"]}
    assert accuracy["finetuned-golden"] > 0.9
    assert accuracy["finetuned-icm-fast"] > 0.9
    assert accuracy["finetuned-random"] < 0.8
    for one in printed["methods"]:
        assert one["training_seconds"] > 0
        assert Path(one["by_seed"][0]["model"]).is_dir()
    again = orjson.loads(CliRunner().invoke(cli, command).stdout)
    for before, after in zip(printed["methods"], again["methods"], strict=True):
        assert after["by_seed"] == before["by_seed"]
        assert after["requests"] == 0
