"""`icm-client reward`: pairs without labels to a reward model, with a real one, if a tiny one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from tiny_model import make_tiny_model, tiny_pairs

import icm_client.cli.reward
import icm_client.runs.server
from icm_client.cli.main import cli
from icm_client.data import JsonValue, Task
from icm_client.data.job import Job
from icm_client.errors import InputError, SetupError, TaskError
from icm_client.testing import PlantedConcept
from icm_client.training.reward import plan_reward

TASK = Task(
    template="{thing}\n{one}\n{two}\nThe first is better:",
    labels=("True", "False"),
    exchange=("one", "two"),
)
TASK_FILE = """
template = "{thing}\\n{one}\\n{two}\\nThe first is better:"
labels = ["True", "False"]
exchange = ["one", "two"]
"""
TRAINED = 27


def rows() -> list[dict[str, JsonValue]]:
    """27 pairs to train on and 9 others; every other one has the better response first."""
    return [
        {"thing": prompt, "one": one, "two": two, "better": "True" if n % 2 else "False"}
        for n, (prompt, good, bad) in enumerate(tiny_pairs())
        for one, two in [(good, bad) if n % 2 else (bad, good)]
    ]


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    written = {"pairs": [dict(list(row.items())[:3]) for row in rows()[:TRAINED]]}
    written["test"] = rows()[TRAINED:]
    for name, lines in written.items():
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    (tmp_path / "task.toml").write_text(TASK_FILE, encoding="utf-8")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> PlantedConcept:
    """A base model to which the better response is salient."""
    job = Job.prepare(rows(), TASK)
    true, false = job.labels.index("True"), job.labels.index("False")
    planted = {
        prompt: true if (item.row % 2 == 1) != item.exchanged else false
        for prompt, item in zip(job.prompts, job.items, strict=True)
    }
    concept = PlantedConcept(planted, job.label_texts, meaning=1.0, noise=0.5)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    return concept


@pytest.fixture
def nothing_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail("sent"))


def reward(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["reward", "pairs.jsonl", *map(str, arguments)])


@pytest.mark.slow
def test_pairs_become_a_reward_model_and_the_same_command_finds_it(
    endpoint: PlantedConcept, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    options = ("--train-from", model, "--lr", "0.01", "--epochs", "5", "--first", "18")
    command = (*options, "--test", "test.jsonl", "--gold", "better", "--out", "out")
    ended = reward(*command)
    assert ended.exit_code == 0, ended.exception
    for said in ("ICM's labels", "18 pairs", "27 pairs", "the longer one wins", "of 9 pairs"):
        assert said in ended.stdout
    for said in (
        "sweep 1:",
        "Training the first reward model: step ",
        "Labelling pairs with the first reward model: 27 of 27 pairs",
        "Training the final reward model: step ",
        "Testing: 9 of 9 pairs",
    ):
        assert said in ended.stderr
    printed = orjson.loads(Path("out/reward.json").read_bytes())
    assert printed["plan"] == {
        "pairs": 27,
        "first": 18,
        "many": 27,
        "test": 9,
        "seed": 0,
        "notices": ["each of 27 pairs is shown in both orders: 54 prompts"],
    }
    assert (printed["first"]["pairs"], printed["final"]["pairs"]) == (18, 27)
    assert printed["first"]["label_accuracy"] is None, "the pairs have no gold"
    assert printed["verdict"] in ("trust", "check", "do not trust")
    assert printed["test"]["final"] > 0.8
    assert printed["test"]["pairs"] == 9
    assert Path(printed["final"]["model"]).parent.resolve() == (tmp_path / "out/models").resolve()
    lines = [orjson.loads(line) for line in Path("out/labels.jsonl").read_bytes().splitlines()]
    assert [line["id"] for line in lines] == list(range(1, 28))
    assert sum(line["icm_label"] is not None for line in lines) == 18
    right = [line["label"] == row["better"] for line, row in zip(lines, rows(), strict=False)]
    assert sum(right) > 0.8 * 27
    (run,) = Path("out/runs").iterdir()
    assert (run / "labels.jsonl").exists(), "a run like any other: report, export, runs show"

    asked, before = endpoint.usage.requests, printed
    again = orjson.loads(reward(*command, "--json").stdout)
    assert endpoint.usage.requests == asked
    assert again["files"] == ["out/reward.json", "out/labels.jsonl"]
    assert {key: again[key] for key in before} == before


@pytest.mark.usefixtures("nothing_sent")
def test_a_dry_run_says_what_would_be_done_and_sends_nothing(tmp_path: Path) -> None:
    ended = reward("--first", "10", "--test", "test.jsonl", "--gold", "better", "--dry-run")
    assert ended.exit_code == 0, ended.exception
    assert ended.stdout == (
        "1. ICM labels 10 pairs; a reward model is trained on them, 3 epochs\n"
        "2. That model scores 27 pairs\n"
        "3. The final reward model is trained on those, 3 epochs\n"
        "Both are tested on 9 pairs\n"
    )
    printed = orjson.loads(reward("--first", "10", "--many", "20", "--dry-run", "--json").stdout)
    assert (printed["first"], printed["many"], printed["test"]) == (10, 20, 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("nothing_sent")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "Missing option '--out'"),
        (
            ("--trainer", "served", "--out", "out"),
            2,
            "a fine-tuning API cannot train reward models",
        ),
        (("--preset", "folds", "--out", "out"), 2, "'folds' is not one of"),
        (("--out", "out"), 1, "would have 27 pairs to label, and ICM labels 256"),
        (("--out", "out", "--first", "5"), 1, "at least 8 pairs"),
        (("--out", "out", "--first", "8", "--test", "test.jsonl"), 1, "no pair has a gold label"),
        (("--out", "out", "--first", "8", "--test", "pairs.jsonl", "--gold", "x"), 1, "'x'"),
        (("--out", "out", "-t", "sentiment"), 1, "text"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_sent(
    arguments: tuple[str, ...], status: int, message: str
) -> None:
    ended = reward(*arguments)
    said = f"{' '.join(ended.stderr.split())} {ended.exception}"
    assert message in said
    assert (ended.exit_code, isinstance(ended.exception, InputError)) == (status, status == 1)
    assert not Path("out").exists()


@pytest.mark.usefixtures("nothing_sent")
def test_a_task_and_what_training_needs_are_looked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise SetupError("training on this machine needs torch")

    monkeypatch.setattr(icm_client.cli.reward, "require_training", missing)
    ended = reward("--first", "10", "--out", "out")
    assert isinstance(ended.exception, SetupError)
    ended = CliRunner().invoke(
        cli, ["reward", "pairs.jsonl", "-e", "http://127.0.0.1:9", "--first", "10", "--out", "out"]
    )
    assert isinstance(ended.exception, InputError)
    assert "--train-from" in str(ended.exception)
    (tmp_path / "task.toml").unlink()
    ended = reward("--dry-run")
    assert isinstance(ended.exception, TaskError)
    assert "pairwise-preference" in str(ended.exception)


@pytest.mark.usefixtures("nothing_sent")
def test_gold_among_the_pairs_is_kept_from_the_prompts(tmp_path: Path) -> None:
    lines = rows()[:TRAINED]
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    seen: list[Job] = []
    plan = plan_reward

    def planned(job: Job, **options: Any) -> object:
        seen.append(job)
        return plan(job, **options)

    remember: Callable[..., object] = planned
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(icm_client.cli.reward, "plan_reward", remember)
        ended = reward("--first", "10", "--gold", "better", "--dry-run")
    assert ended.exit_code == 0, ended.exception
    (job,) = seen
    assert job.dataset.gold == tuple(str(row["better"]) for row in lines)
    assert all("better" not in row.fields for row in job.dataset.rows)
