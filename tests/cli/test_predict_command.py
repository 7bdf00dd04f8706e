"""`icm-client predict` as a user meets it: what is printed where, and how it ends."""

import json
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import orjson
import pytest
from whole_program import Ended, Run, whole_program

import icm_client.runs.server
from icm_client import Task, label_sync, read_rows, rows_from
from icm_client.testing import PlantedConcept, PlantedServer

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
RUN, NEW, MORE = 40, 30, 400
ROWS = [
    {"id": n, "text": f"words of row {n}", "gold": TASK.labels[n * 7 % 5 % 2]}
    for n in range(RUN + NEW + MORE)
]


def concept(*, seed: int = 0) -> PlantedConcept:
    prompts = TASK.render_all(rows_from(ROWS, gold="gold"))
    planted = {
        prompt: TASK.labels.index(str(row["gold"]))
        for prompt, row in zip(prompts, ROWS, strict=True)
    }
    return PlantedConcept(planted, TASK.label_texts, strength=4.0, context_length=1000, seed=seed)


def write(name: str, rows: Sequence[object]) -> Path:
    path = Path(name)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> PlantedConcept:
    """What stands where the embedded server would; its scores are not those of the run's store."""
    model = concept()
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: model)
    return model


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The whole program, its exit status included; there is a run, and a file of new rows."""
    data = write("reviews.jsonl", ROWS[:RUN])
    label_sync(data, task=TASK, endpoint=concept(), gold="gold", store="run.store", runs="runs")
    write("new.jsonl", ROWS[RUN : RUN + NEW])

    return whole_program(monkeypatch, capsys)


@pytest.mark.usefixtures("endpoint")
def test_a_prediction_ends_with_a_table(run: Run) -> None:
    ended = run("predict", "reviews", "new.jsonl", "-o", "out.jsonl", "--gold", "gold")
    assert (ended.code, ended.err) == (0, "")
    table, by_label = ended.out.split("\n\n")
    lines = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in table.splitlines())
    assert lines["verdict"] == "trust"
    assert lines["positive"] == "18 rows (60%)"
    assert lines["accuracy"] == "100.0% of 30 rows with gold"
    assert lines["labels in"] == "out.jsonl"
    assert [line.split() for line in by_label.splitlines()[1:]] == [
        ["positive", "100.0%", "100.0%", "100.0%", "18", "18", "0"],
        ["negative", "100.0%", "100.0%", "100.0%", "12", "0", "12"],
    ]
    assert re.fullmatch(r"9\d\.\d% on average", lines["confidence"])
    rows = read_rows("out.jsonl").rows
    assert [row.id for row in rows] == [row["id"] for row in ROWS[RUN : RUN + NEW]]
    assert [row.fields["label"] for row in rows] == [row["gold"] for row in ROWS[RUN : RUN + NEW]]


@pytest.mark.usefixtures("endpoint")
def test_json_has_everything_and_quiet_nothing(run: Run) -> None:
    ended = run("predict", "reviews", "new.jsonl", "-o", "out.jsonl", "--gold", "gold", "--json")
    told = json.loads(ended.out)
    assert (told["rows"], told["labelled"], told["without_label"]) == (NEW, NEW, 0)
    assert (told["accuracy"], told["verdict"], told["output"]) == (1, "trust", "out.jsonl")
    assert told["confusion"]["counts"] == [[18, 0], [0, 12]]
    assert told["cost"]["from_server"] == NEW + RUN // 2
    quiet = run("predict", "reviews", "new.jsonl", "-o", "out.jsonl", "-q")
    assert quiet == Ended(0, "", "")


@pytest.mark.usefixtures("endpoint")
def test_a_limit_takes_the_first_rows_and_goes_on_as_without_one(run: Run) -> None:
    some = run("predict", "reviews", "new.jsonl", "-o", "some.jsonl", "--limit", "10", "--json")
    assert json.loads(some.out)["rows"] == 10
    run("predict", "reviews", "new.jsonl", "-o", "all.jsonl", "-q")
    lines = Path("all.jsonl").read_bytes().splitlines()
    assert Path("some.jsonl").read_bytes().splitlines() == lines[:10]
    every = run("predict", "reviews", "new.jsonl", "-o", "e.jsonl", "--limit", "99", "--json")
    assert json.loads(every.out)["rows"] == NEW


@pytest.mark.usefixtures("endpoint")
def test_other_formats_and_gold_in_another_field(run: Run) -> None:
    pytest.importorskip("pyarrow")
    lines = [f'{row["id"]},"{row["text"]}",{row["gold"]}' for row in ROWS[RUN : RUN + NEW]]
    Path("new.csv").write_text("\n".join(["id,text,rater", *lines]), "utf-8")
    ended = run("predict", "reviews", "new.csv", "-o", "out.parquet", "--gold", "rater")
    assert ended.code == 0
    assert "100.0% of 30 rows with gold" in ended.out
    rows = read_rows("out.parquet").rows
    assert [row.fields["rater"] for row in rows] == [row["gold"] for row in ROWS[RUN : RUN + NEW]]
    assert list(rows[0].fields)[-1] == "rater"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("another", "new.jsonl", "-o", "o.jsonl"), r"no run in .* is called 'another'"),
        (("reviews", "none.jsonl", "-o", "o.jsonl"), r"none.jsonl: no such file"),
        (("reviews", "new.jsonl", "-o", "new.jsonl"), r"would overwrite the rows"),
        (("reviews", "new.jsonl", "-o", "./new.jsonl"), r"would overwrite the rows"),
        (("reviews", "new.jsonl", "-o", "no/o.jsonl"), r"create it first"),
        (("reviews", "new.jsonl", "-o", "o.txt"), r"does not show its format"),
        (("reviews", "new.jsonl"), r"Missing option '-o'"),
        (("reviews", "new.jsonl", "-o", "o.jsonl", "--gold", "glod"), r"Did you mean 'gold'"),
        (("reviews", "new.jsonl", "-o", "o.jsonl", "--contexts", "-1"), r"--contexts"),
        (("reviews", "empty.jsonl", "-o", "o.jsonl"), r"the file is empty"),
    ],
)
def test_wrong_usage_ends_with_2_and_asks_nothing(
    run: Run, endpoint: PlantedConcept, arguments: Sequence[str], message: str
) -> None:
    Path("empty.jsonl").touch()
    before = Path("new.jsonl").read_bytes()
    ended = run("predict", *arguments)
    assert ended.code == 2
    assert re.search(message, ended.err), ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert endpoint.usage.requests == 0
    assert Path("new.jsonl").read_bytes() == before
    assert not list(Path().glob("o.jsonl*"))


@pytest.mark.usefixtures("endpoint")
def test_rows_that_cannot_be_used(run: Run) -> None:
    rows: list[dict[str, object]] = [dict(row) for row in ROWS[RUN : RUN + NEW]]
    rows[2]["text"], rows[5] = "", {"id": 5, "txt": "no"}
    rows[8]["text"] = "on and on " * 500
    write("bad.jsonl", rows)
    refused = run("predict", "reviews", "bad.jsonl", "-o", "out.jsonl")
    assert refused.code == 2
    assert "bad.jsonl:3: the field 'text' is empty" in refused.err
    assert "2 rows cannot be used" in refused.err
    write("long.jsonl", rows[6:])
    refused = run("predict", "reviews", "long.jsonl", "-o", "out.jsonl")
    assert refused.code == 2
    assert "long.jsonl:3: its prompt takes 1,504 tokens" in refused.err
    skipped = run("predict", "reviews", "bad.jsonl", "-o", "out.jsonl", "--skip-bad-rows")
    assert skipped.code == 1  # some rows have no label
    assert skipped.err.count("has no label") == 3
    assert len(read_rows("out.jsonl").rows) == NEW - 3


def test_another_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other = concept(seed=5)
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: other)
    refused = run("predict", "reviews", "new.jsonl", "-o", "out.jsonl")
    assert refused.code == 1
    assert "--accept-other-model" in refused.err
    assert "--endpoint" in refused.err
    ended = run("predict", "reviews", "new.jsonl", "-o", "out.jsonl", "--accept-other-model")
    assert ended.code == 0
    assert "check" in ended.out
    assert "found with another model" in ended.err


@pytest.mark.usefixtures("endpoint")
def test_a_run_that_has_no_labels_yet(run: Run) -> None:
    (folder,) = Path("runs").iterdir()
    (folder / "labels.jsonl").unlink()
    ended = run("predict", "reviews", "new.jsonl", "-o", "out.jsonl")
    assert ended.code == 2
    assert "has no labels yet. Continue it: icm-client runs resume" in ended.err


@pytest.mark.slow
async def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    """A process of its own: a signal to pytest would end pytest."""
    write("many.jsonl", ROWS[-MORE:])
    data = write("reviews.jsonl", ROWS[:RUN])
    async with PlantedServer(concept(), slots=2, latency_s=0.03) as server:
        command = [sys.executable, "-c", "from icm_client.cli.main import main; main()"]
        options = ["-e", server.url, "--store", "store", "--runs", "runs"]
        asked = ["--template", TASK.template, "--labels", "positive,negative", "--gold", "gold"]
        await anyio.run_process(
            [*command, "label", str(data), *asked, "-o", "labels.jsonl", "-q", *options],
            cwd=tmp_path,
        )
        predict = [*command, "predict", "reviews", "many.jsonl", "-o", "out.csv", *options]
        server.received.clear()

        def reads() -> int:
            return sum(one.path == "/v1/completions" for one in server.received)

        process = await anyio.open_process(predict, cwd=tmp_path)
        async with process:
            with anyio.fail_after(60):
                while reads() < 8:  # noqa: ASYNC110 - the server has no such event
                    await anyio.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            told = b"".join([part async for part in process.stderr]).decode()
            assert await process.wait() == 130
        assert "Interrupted. Every score so far is kept: the same command again goes on" in told
        assert not (tmp_path / "out.csv").exists()
        done = await anyio.run_process([*predict, "--json"], cwd=tmp_path)
        cost = json.loads(done.stdout)["cost"]
        assert cost["from_store"] > 0
        assert len(read_rows(tmp_path / "out.csv").rows) == MORE


def test_a_server_that_goes_away(run: Run) -> None:
    ended = run("predict", "reviews", "new.jsonl", "-o", "out.jsonl", "-e", "http://127.0.0.1:9/v1")
    assert ended.code == 1
    assert "nothing listens there" in ended.err
    assert not list(Path().glob("out.jsonl*"))
