"""`icm-client eval` as a user meets it."""

from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

import icm_client.runs.server
from icm_client import Task
from icm_client.cli.eval import eval_command
from icm_client.endpoints import Answer, Read
from icm_client.errors import EndpointFault, IcmError, InputError, RunError, TaskError
from icm_client.testing import PlantedConcept

WORDS = ("negative", "positive")
TASK = Task(template="Review: {text}\nSentiment:", labels=WORDS)
FILES = ["out/eval.json", "out/eval.csv", "out/eval.svg", "out/eval.png"]


def label_of(number: int) -> int:
    return number * 7 % 5 % 2


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """40 rows with gold and ratings, and a task beside them whose first label is positive."""
    lines = [
        {
            "text": f"words of row {i}",
            "gold": WORDS[label_of(i)],
            "ratings": [2, 1] if label_of(i) else [-1],
        }
        for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    (tmp_path / "task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n'
        'gold = "gold"\n',
        encoding="utf-8",
    )
    return tmp_path / "rows.jsonl"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> PlantedConcept:
    planted = {TASK.template.replace("{text}", f"words of row {i}"): label_of(i) for i in range(40)}
    concept = PlantedConcept(planted, TASK.label_texts, strength=4.0, noise=0.2)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: concept)
    return concept


@pytest.fixture
def nothing_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail("sent"))


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(eval_command, [*map(str, arguments)])


@pytest.mark.usefixtures("nothing_sent")
def test_a_dry_run_says_what_would_be_read_and_sends_nothing(rows: Path) -> None:
    ended = evaluate(rows, "--dry-run", "--human", "ratings", "--seeds", "0,1", "--preset", "paper")
    assert ended.exit_code == 0, ended.exception
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert lines[0] == ["majority", "0", "reads"]
    assert ["golden", "200", "reads"] in lines
    assert ["icm-paper", "unknown", "reads"] in lines
    assert ended.stdout.endswith("2 seeds, 20 rows to train on and 20 held out\n")
    assert "zero-shot-chat is left out: give the text" in ended.stderr
    told = orjson.loads(evaluate(rows, "--dry-run", "--json", "--rows", "30").stdout)
    assert told["train"] == told["test"] == [15, 15, 15]
    assert told["reads"]["zero-shot"] == [45, 45]


@pytest.mark.usefixtures("endpoint")
def test_table_and_pictures_are_written_and_each_method_is_told(rows: Path) -> None:
    Path("kind.txt").write_text("You are kind.\n")
    ended = evaluate(
        *(rows, "--out", "out", "--seeds", "0,1", "--human", "ratings"),
        *("--chat-prompt", "kind.txt", "--preset", "fast", "--preset", "paper", "--steps", "2"),
    )
    assert ended.exit_code == 0, ended.exception
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("Note: ")]
    assert len(lines) == 26
    assert lines[0].startswith("1/26 majority, seed 0: accuracy ")
    assert any("from 20 labels, 100.0% right" in line for line in lines)
    assert "agrees with gold in 100.0% of the rows" in ended.stderr
    written = orjson.loads(Path("out/eval.json").read_bytes())
    assert written["server"] == {"kind": "planted", "model": "planted-concept"}
    accuracy = {method["method"]: method["accuracy"] for method in written["methods"]}
    assert list(accuracy) == [
        *("majority", "zero-shot", "zero-shot-calibrated", "zero-shot-chat", "random"),
        *("bootstrap", "pseudo-labels", "icm-fast", "icm-paper", "same-accuracy-fast"),
        *("same-accuracy-paper", "human", "golden"),
    ]
    assert accuracy["golden"] == accuracy["human"] == accuracy["icm-fast"] == 1.0
    assert accuracy["zero-shot"] == 1.0  # so that there is no gap
    assert {method["gap"] for method in written["methods"]} == {"none"}
    assert {method["gap_recovered"] for method in written["methods"]} == {None}
    table = Path("out/eval.csv").read_text().splitlines()
    assert table[0].startswith("method,seeds,failed,accuracy,accuracy_low")
    assert len(table) == 14
    assert all(Path(file).exists() for file in FILES)
    for said in ("icm-fast", "95%", "gap recovered", "no gap", "tokens computed", "Written: out"):
        assert said in ended.stdout


def test_the_same_command_again_asks_nothing(rows: Path, endpoint: PlantedConcept) -> None:
    command = (rows, "--json", "--seeds", "0", "--human", "ratings", "--out", "out")
    first = orjson.loads(evaluate(*command).stdout)
    asked = endpoint.usage.requests
    assert asked > 0
    again = orjson.loads(evaluate(*command).stdout)
    assert endpoint.usage.requests == asked
    assert again["files"] == FILES
    for before, after in zip(first["methods"], again["methods"], strict=True):
        assert before["accuracy"] == after["accuracy"]
        assert before["reads"] == after["reads"]
        assert after["requests"] == after["computed_tokens"] == 0


@pytest.mark.usefixtures("endpoint")
def test_without_a_folder_the_table_is_all(rows: Path, tmp_path: Path) -> None:
    ended = evaluate(rows, "--methods", "golden,majority", "--seeds", "0", "-q")
    assert ended.exit_code == 0
    assert ended.stderr == ""
    assert "Written" not in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "task.toml", "cache"}


def test_failed_methods_are_in_the_table_and_end_with_an_error(
    rows: Path, endpoint: PlantedConcept, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = endpoint.read

    async def read(reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        if endpoint.usage.requests >= 30:
            raise EndpointFault("the server fell over")
        return await answer(reads, lane=lane)

    monkeypatch.setattr(endpoint, "read", read)
    ended = evaluate(rows, "--out", "out", "--methods", "majority,zero-shot,golden", "--seeds", "0")
    assert isinstance(ended.exception, IcmError)
    assert "1 of 3 predictions failed" in str(ended.exception)
    assert "golden, seed 0: failed: the server fell over" in ended.stderr
    assert "1 failed" in ended.stdout
    assert "no gap" not in ended.stdout  # that would say that golden labels were tried
    assert Path("out/eval.png").exists()


@pytest.mark.usefixtures("nothing_sent")
def test_a_folder_that_cannot_be_made_is_told_before_anything_is_sent(rows: Path) -> None:
    Path("out").touch()
    ended = evaluate(rows, "--out", "out", "--methods", "majority")
    assert isinstance(ended.exception, RunError)
    assert "no folder can be made there: File exists" in str(ended.exception)


@pytest.mark.usefixtures("nothing_sent")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "gold"), "Did you mean 'golden'?"),
        (("--seeds", "0;1"), "such as 0,1,2"),
        (("--test", "8.5"), "neither a share under 1 nor a number of rows"),
        (("--steps", "5"), "--steps is for --preset paper and official"),
        (("--human-positive", "positive"), "goes with --human"),
        (("--chat-prompt", " "), "it is empty"),
        (("--preset", "folds"), "'folds' is not one of"),
    ],
)
def test_wrong_options_are_told_before_anything_is_sent(
    rows: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = evaluate(rows, *arguments)
    assert ended.exit_code == 2
    assert message in " ".join(ended.stderr.split())


@pytest.mark.usefixtures("nothing_sent")
def test_rows_that_cannot_be_used_are_told_before_anything_is_sent(rows: Path) -> None:
    for arguments, message in (
        (("--test", "39"), "1 to train on, 39 held out"),
        (("--rows", "10"), "at least 8 rows are needed"),
        (("--human", "rating"), "Did you mean 'ratings'?"),
        (("--human", "text"), "the model would read the human labels"),
        (("--human", "ratings", "--human-positive", "good"), "none of the labels"),
        (("--gold", "golden"), "no gold field 'golden'"),
    ):
        failed = evaluate(rows, *arguments).exception
        assert isinstance(failed, InputError), arguments
        assert message in str(failed)
    Path("task.toml").unlink()
    assert isinstance(evaluate(rows).exception, TaskError)


@pytest.mark.usefixtures("nothing_sent")
def test_rows_without_gold_are_refused(rows: Path) -> None:
    lines = [{"text": f"words of row {i}"} for i in range(40)]
    rows.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    failed = evaluate(rows, "--dry-run").exception
    assert isinstance(failed, InputError)
    assert "name the field that holds them with --gold" in str(failed)
