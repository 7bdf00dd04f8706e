"""`icm-client eval --finetune` as a user meets it: planted models, and a planted service."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner, Result

import icm_client.cli.eval
import icm_client.cli.trainer_options
import icm_client.runs.server
from icm_client import Task
from icm_client.cli.eval import eval_command
from icm_client.errors import SetupError
from icm_client.runs.trainer import Example
from icm_client.testing import PlantedConcept, PlantedTrainer
from icm_client.testing.finetuning import FineTuningServer
from icm_client.training.served_job import ServedSettings

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
ROWS = 60
PLANTED = {TASK.template.replace("{text}", f"words of row {i}"): i * 7 % 5 % 2 for i in range(ROWS)}
FINETUNE = ("--finetune", "--human", "ratings", "--seeds", "0")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = [
        {"text": f"words of row {i}", "gold": WORDS[label], "ratings": [1] if label else [-1]}
        for i, label in enumerate(PLANTED.values())
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    (tmp_path / "task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n'
        'gold = "gold"\n',
        encoding="utf-8",
    )
    return tmp_path / "rows.jsonl"


def concept() -> PlantedConcept:
    return PlantedConcept(PLANTED, TASK.label_texts, strength=4.0, noise=0.2)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> PlantedConcept:
    planted = concept()
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: planted)
    return planted


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[PlantedTrainer]:
    """The trainers that commands have made; what one trained the next one finds."""
    made: list[PlantedTrainer] = []

    def make(*_: object) -> PlantedTrainer:
        models = tmp_path / "cache" / "models"
        made.append(PlantedTrainer(PLANTED, TASK.label_texts, strength=8.0, folder=models))
        return made[-1]

    monkeypatch.setattr(icm_client.cli.trainer_options, "local_trainer", make)
    monkeypatch.setattr(icm_client.cli.eval, "require_training", lambda: None)
    return made


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(eval_command, [*map(str, arguments)])


@pytest.mark.usefixtures("endpoint")
def test_the_papers_figure_1_is_drawn_and_the_cost_stands_beside(
    rows: Path, trainers: list[PlantedTrainer]
) -> None:
    ended = evaluate(rows, *FINETUNE, "--out", "out")
    assert ended.exit_code == 0, ended.exception
    assert "9/9 finetuned-golden, seed 0: accuracy 93.3% from 30 labels" in ended.stderr
    assert " s (training 3 s)" in ended.stderr
    written = orjson.loads(Path("out/eval.json").read_bytes())
    methods = {one["method"]: one for one in written["methods"]}
    assert list(methods) == [
        *("majority", "zero-shot", "zero-shot-calibrated", "finetuned-random"),
        *(
            "finetuned-bootstrap",
            "finetuned-icm-fast",
            "finetuned-same-accuracy-fast",
            "finetuned-human",
        ),
        "finetuned-golden",
    ]
    assert methods["finetuned-icm-fast"]["accuracy"] > 0.8
    assert methods["finetuned-random"]["accuracy"] < 0.8
    assert methods["finetuned-icm-fast"]["training_seconds"] == 3.0
    assert methods["finetuned-icm-fast"]["by_seed"][0]["model"].startswith("finetuned-icm-fast-")
    assert written["trainer"] == dict(trainers[0].described)
    header, *lines = Path("out/eval.csv").read_text().splitlines()
    place = header.split(",").index("training_seconds")
    assert [line.split(",")[place] for line in lines] == [*["0.0"] * 3, *["3.0"] * 6]
    assert "of training" in ended.stdout
    assert "finetuned-golden" in Path("out/eval.svg").read_text()


def test_the_same_command_again_trains_and_asks_nothing(
    rows: Path, trainers: list[PlantedTrainer], endpoint: PlantedConcept
) -> None:
    first = orjson.loads(evaluate(rows, *FINETUNE, "--json").stdout)
    asked = endpoint.usage.requests
    again = orjson.loads(evaluate(rows, *FINETUNE, "--json").stdout)
    assert (len(trainers[0].trained), trainers[1].trained) == (6, [])
    assert endpoint.usage.requests == asked
    for before, after in zip(first["methods"], again["methods"], strict=True):
        assert before["accuracy"] == after["accuracy"]
        assert after["requests"] == 0


@pytest.mark.usefixtures("trainers")
def test_a_dry_run_says_how_much_would_be_trained(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail("sent"))
    ended = evaluate(rows, *FINETUNE, "--dry-run", "--seeds", "0,1,2")
    assert ended.exit_code == 0, ended.exception
    assert ["finetuned-golden", "90", "reads"] in [
        line.split() for line in ended.stdout.splitlines()
    ]
    assert ended.stdout.endswith("18 trainings\n")
    told = orjson.loads(evaluate(rows, *FINETUNE, "--dry-run", "--json").stdout)
    assert told["trainings"] == 6
    assert orjson.loads(evaluate(rows, "--dry-run", "--json").stdout)["trainings"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--methods", "finetuned-icm"),
            "Add --finetune, which trains models, for 'finetuned-icm'",
        ),
        (("--finetune", "--methods", "golden"), "--methods names none of them"),
        (("--epochs", "2"), "--epochs is for --finetune"),
        (("--trainer", "served"), "--trainer is for --finetune"),
        (("--methods", "finetuned-gold", "--finetune"), "Did you mean 'finetuned-golden'?"),
    ],
)
def test_wrong_options_are_told_before_anything_is_sent(
    rows: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = evaluate(rows, *arguments)
    assert ended.exit_code == 2
    assert message in " ".join(ended.stderr.split())


def test_what_training_needs_is_looked_for_before_anything_is_sent(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise SetupError("training on this machine needs torch")

    monkeypatch.setattr(icm_client.cli.eval, "require_training", missing)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail("sent"))
    ended = evaluate(rows, *FINETUNE)
    assert isinstance(ended.exception, SetupError)


def learnt(examples: tuple[Example, ...]) -> PlantedConcept:
    """As sure as its examples were right."""
    right = sum(TASK.label_texts[PLANTED[one.prompt]] == one.label for one in examples)
    meaning = 8 * (2 * right / len(examples) - 1)
    return PlantedConcept(PLANTED, TASK.label_texts, strength=0, meaning=meaning, noise=3.0)


@dataclass(frozen=True)
class Quick(ServedSettings):
    first_poll_s: float = 0.01
    longest_poll_s: float = 0.02


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FineTuningServer]:
    """A fine-tuning API whose jobs are asked after without a wait."""
    monkeypatch.setattr("icm_client.training.served_job.ServedSettings", Quick)
    server = FineTuningServer(concept(), learnt)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server):
        yield server


@pytest.mark.slow
def test_a_service_trains_what_it_serves(rows: Path, service: FineTuningServer) -> None:
    command = (rows, *FINETUNE, "--trainer", "served", "-e", service.url, "-m", service.base)
    ended = evaluate(*command, "--json")
    assert ended.exit_code == 0, ended.exception
    told = orjson.loads(ended.stdout)
    accuracy = {one["method"]: one["accuracy"] for one in told["methods"]}
    assert accuracy["finetuned-golden"] == accuracy["finetuned-icm-fast"] == 1.0
    assert accuracy["finetuned-random"] < 0.9
    assert told["trainer"]["base"] == service.base
    assert len(service.jobs) == 6
    again = orjson.loads(evaluate(*command, "--json").stdout)
    assert len(service.jobs) == 6
    assert [one["accuracy"] for one in again["methods"]] == list(accuracy.values())
