"""`icm-client ablate` as a user meets it."""

import builtins
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import orjson
import pytest
from click.testing import CliRunner, Result

import icm_client.runs.server
from icm_client import Task
from icm_client.cli.ablate import ablate_command
from icm_client.endpoints import Answer, Read
from icm_client.errors import EndpointFault, IcmError, InputError, TaskError
from icm_client.runs.presets import InContextPreset
from icm_client.testing import PlantedConcept

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
PRESETS = list(get_args(InContextPreset))
CHEAP = ("--steps", "3", "--initial", "4", "--seeds", "2")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """20 rows with gold, and a task beside them."""
    lines = [{"text": f"words of row {i}", "gold": WORDS[i * 7 % 5 % 2]} for i in range(20)]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    (tmp_path / "task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n'
        'gold = "gold"\n',
        encoding="utf-8",
    )
    return tmp_path / "rows.jsonl"


@pytest.fixture
def planted() -> dict[str, int]:
    return {TASK.template.replace("{text}", f"words of row {i}"): i * 7 % 5 % 2 for i in range(20)}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, planted: dict[str, int]) -> PlantedConcept:
    concept = PlantedConcept(planted, TASK.label_texts)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    return concept


def ablate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ablate_command, [*map(str, arguments)])


def test_a_dry_run_counts_the_runs_and_sends_nothing(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail("sent"))
    ended = ablate(rows, "--dry-run")
    assert ended.exit_code == 0
    lines = ended.stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["initial", "0, 2, 8, 20"]
    assert lines[-1] == "20 variants (3 of 23 variants share the runs of another), 3 seeds: 60 runs"
    assert (
        ended.stderr == "Note: the ablation 'constraint' is left out: no rule joins these rows.\n"
    )
    told = orjson.loads(ablate(rows, "--dry-run", "--json", "--only", "preset").stdout)
    assert told["runs"] == 3 * len(PRESETS)
    assert [variant["variant"] for variant in told["variants"]] == PRESETS


def test_rows_steps_and_seeds_keep_it_affordable(rows: Path) -> None:
    ended = ablate(rows, "--dry-run", "--json", "--rows", "10", "--only", "initial", *CHEAP)
    told = orjson.loads(ended.stdout)
    assert [variant["variant"] for variant in told["variants"]] == ["0", "2", "4", "8", "10"]
    assert {variant["settings"]["iterations"] for variant in told["variants"]} == {3}
    assert told["runs"] == 10


@pytest.mark.slow
@pytest.mark.usefixtures("endpoint")
def test_table_and_picture_are_written_and_each_run_is_told(rows: Path) -> None:
    ended = ablate(rows, "--out", "out", "--only", "preset,init", *CHEAP)
    assert ended.exit_code == 0, ended.exception
    lines = ended.stderr.splitlines()
    assert lines[0].startswith("1/26 init random, seed 0: accuracy ")
    assert len(lines) == 26
    assert any(": kept" in line or ", kept" in line for line in lines)  # paper is init random
    table = Path("out/results.csv").read_text().splitlines()
    assert table[0].startswith("ablation,variant,runs,failed,accuracy_mean")
    assert [line.split(",")[1] for line in table[1:]] == [
        *("random", "balanced", "zero-shot", "golden", "all-wrong", "random-labels"),
        *PRESETS,
    ]
    assert Path("out/ablation.svg").exists()
    assert Path("out/ablation.png").exists()
    for said in ("golden", "official", "accuracy", "coherence", "out/results.csv"):
        assert said in ended.stdout


@pytest.mark.slow
def test_the_same_command_again_asks_nothing(rows: Path, endpoint: PlantedConcept) -> None:
    first = ablate(rows, "--out", "out", "--only", "preset", "--json", *CHEAP)
    asked = endpoint.usage.requests
    assert asked > 0
    again = ablate(rows, "--out", "out", "--only", "preset", "--json", *CHEAP)
    assert endpoint.usage.requests == asked
    assert again.stdout == first.stdout
    told = orjson.loads(again.stdout)
    assert [row["variant"] for row in told["rows"]] == PRESETS
    assert told["files"] == ["out/results.csv", "out/ablation.svg", "out/ablation.png"]


@pytest.mark.usefixtures("endpoint")
def test_without_matplotlib_the_table_stands_and_a_line_says_how(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - as the built-in has it
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> object:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, globals, locals, fromlist or (), level)

    monkeypatch.setattr(builtins, "__import__", without)
    ended = ablate(rows, "--out", "out", "--only", "preset", *CHEAP)
    assert ended.exit_code == 0
    assert Path("out/results.csv").exists()
    assert not Path("out/ablation.svg").exists()
    assert ended.stderr.splitlines()[-1].endswith("pip install 'icm-client[report]'")


def test_failed_runs_are_in_the_table_and_end_with_an_error(
    rows: Path, endpoint: PlantedConcept, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = endpoint.read

    async def read(reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        if endpoint.usage.requests >= 300:
            raise EndpointFault("the server fell over")
        return await answer(reads, lane=lane)

    monkeypatch.setattr(endpoint, "read", read)
    ended = ablate(rows, "--out", "out", "--only", "preset", *CHEAP)
    assert isinstance(ended.exception, IcmError)
    assert "of 14 runs failed" in str(ended.exception)
    lines = ended.stderr.splitlines()
    assert "accuracy" in lines[0]
    assert any("failed: " in line and "the server fell over" in line for line in lines)
    assert "failed)" in ended.stdout
    assert Path("out/results.csv").exists()


def test_what_cannot_be_used_is_told_before_anything_is_sent(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail("sent"))
    ended = ablate(rows, "--dry-run", "--only", "alpa")
    assert ended.exit_code == 2
    assert "Did you mean 'alpha'?" in ended.stderr
    assert "Missing option '--out'" in ablate(rows).stderr
    nothing = ablate(rows, "--dry-run", "--only", "constraint").exception
    assert isinstance(nothing, InputError)
    assert "no rule joins these rows" in str(nothing)
    assert isinstance(ablate(rows, "--dry-run", "--init", "none.jsonl").exception, InputError)
    Path("task.toml").unlink()
    assert isinstance(ablate(rows, "--dry-run").exception, TaskError)
