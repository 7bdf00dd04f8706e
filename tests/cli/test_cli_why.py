"""`icm-client why` as a user meets it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from click.testing import CliRunner, Result
from planted_reviews import TASK
from several_runs import gold, mistaken, model, run_of
from test_cli_label import own_endpoint
from test_label_concepts import TEMPLATE, two_concepts

from icm_client import Labels, Task, label
from icm_client.cli.main import cli
from icm_client.cli.why import _print_explanation, _print_teaching, _show
from icm_client.errors import InputError
from icm_client.record.archive import Run
from icm_client.runs.why import explain, plan_why
from icm_client.runs.why_result import Teaching, TeachingRow
from icm_client.testing import PlantedConcept


def wordless(texts: Sequence[str], classes: Sequence[int]) -> dict[str, int]:
    """The class of each text, and of what is left of it without any of its words."""
    known = {}
    for text, one in zip(texts, classes, strict=True):
        words = text.split()
        for left in [words, *(words[:n] + words[n + 1 :] for n in range(len(words)))]:
            known[" ".join(left)] = one
    return known


def known_rows() -> PlantedConcept:
    texts = wordless([f"words of row {n}" for n in range(len(gold()))], gold())
    prompts = {f"Review: {text}\nSentiment:": one for text, one in texts.items()}
    return PlantedConcept(prompts, TASK.label_texts, strength=4.0, meaning=1.5, noise=1.0)


def why(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["why", *map(str, arguments)])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in the folder that the command looks into, and its model for the embedded one."""
    endpoint = own_endpoint(monkeypatch, known_rows())

    async def made() -> Run:
        return await run_of(tmp_path, endpoint, name="runs")

    return anyio.run(made)


def test_an_explanation_in_the_terminal_and_in_the_report(run: Run) -> None:
    done = why(run.name, "r5")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("r5 is labelled ")
    assert lines[2].split() == ["demo", "label", "left", "out", "relabelled"]
    assert any(line.split()[:1] == ["words"] for line in lines)
    assert lines[-1].endswith(" more from the store")
    assert not done.stderr
    CliRunner().invoke(cli, ["report", run.name])
    assert "Why these labels" in (run.path / "report.html").read_text("utf-8")


def test_few_reads_and_another_run_beside(run: Run, tmp_path: Path) -> None:
    async def made() -> Run:
        return await run_of(tmp_path, model(mistaken(0.2, 1)), name="others")

    other = anyio.run(made)
    done = why(run.name, "r5", "--reads", "200", "--beside", other.path)
    assert "demos were not tried one by one (" in done.stdout
    assert " nats a block at most): --reads tries more" in done.stdout
    assert any(line.startswith(other.name) for line in done.stdout.splitlines())
    before = why(run.name, "r5", "--dry-run", "--beside", other.path).stdout
    assert before.splitlines()[-1].startswith(other.name)
    fewest = why(run.name, "r5", "--reads", "36")
    assert "(not all of them in a block)" in fewest.stdout


def test_an_explanation_as_json_and_a_dry_run(run: Run) -> None:
    planned = orjson.loads(why(run.name, "r5", "--dry-run", "--json").stdout)
    assert (planned["row"], planned["reads"], planned["beside"]) == ("r5", 640, [])
    assert not (run.path / "why.jsonl").exists()
    shown = why(run.name, "r5", "--dry-run").stdout.splitlines()
    assert shown == [
        f"r5, labelled {planned['label']}: words of row 5",
        "At most 640 reads.",
    ]
    found = orjson.loads(why(run.name, "r5", "--json").stdout)
    assert found["command"] == "why"
    assert (found["row"], found["label"]) == ("r5", planned["label"])
    assert found["stats"]["asked"] > 0
    assert {"row", "label", "left_out", "relabelled", "text"} == found["demos"][0].keys()
    assert {"field", "start", "end", "text", "effect"} == found["spans"][0].keys()


def test_the_rows_that_teach(run: Run) -> None:
    assert why(run.name, "--rows", "16", "--dry-run").stdout.splitlines() == [
        "16 of 64 rows, in two contexts",
        "At most 1,280 reads.",
    ]
    done = why(run.name, "--rows", "16")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["demo", "label", "teaches", "helps"]
    assert "and 28 more; --json has them all" in lines
    assert any("speak for the labels of the 8 rows that each was shown" in one for one in lines)
    found = orjson.loads(why(run.name, "--rows", "16", "--json").stdout)
    assert found["stats"]["asked"] == 0
    assert found["rows"][0]["effect"] >= found["rows"][-1]["effect"]
    fewer = why(run.name, "--rows", "16", "--reads", "300")
    assert "demos were not tried" in fewer.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("r5", "--reads", "35"), "36 reads at least, not 35"),
        (("--rows", "7"), "8 rows at least are read"),
        (("--rows", "16", "--reads", "47"), "too few to show a demo to 8 rows"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    run: Run, arguments: tuple[str, ...], says: str
) -> None:
    for further in ((), ("--dry-run",)):
        refused = why(run.name, *arguments, *further)
        assert isinstance(refused.exception, InputError), refused.output
        assert says in str(refused.exception)


async def test_no_control_character_reaches_the_terminal(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a row's own nor those of its demos, in the text or in the id."""
    hostile, escaped = "a\x1b]0;title\x07 b\x9b31m", "a\\x1b]0;title\\x07 b\\x9b31m"
    planned = plan_why(run.path, "r5")
    found = await explain(planned, reads=200, endpoint=known_rows())
    taught = TeachingRow(hostile, "positive", hostile, 1.0, 1.0)
    teaching = Teaching(
        run.name, (taught,), 8, 1.0, None, 0, found.server, found.notices, found.stats
    )
    demo, span = found.demos[0], found.spans[0]
    _print_explanation(
        replace(
            found,
            row=hostile,
            demos=(replace(demo, row=hostile, text=hostile),),
            spans=(replace(span, text=hostile),),
        )
    )
    _print_teaching(teaching)
    rows = planned.found.rows
    one = replace(rows[0], row=replace(rows[0].row, id=hostile, fields={"text": hostile}))
    shown = planned._replace(number=0, found=replace(planned.found, rows=[one]))
    _show(shown, None, None, as_json=False)
    printed = capsys.readouterr().out
    assert not set(printed) & {"\x1b", "\x07", "\x9b"}
    assert printed.count(escaped) == 8


def test_what_does_not_go_together_is_refused(run: Run) -> None:
    for arguments in ((run.name,), (run.name, "r5", "--rows", "9")):
        refused = why(*arguments)
        assert refused.exit_code == 2
        assert "Name a row's id, or how many rows" in refused.output
    assert "--beside goes with a row" in why(run.name, "--rows", "9", "--beside", "a").output
    refused = why(run.name, "r64")
    assert isinstance(refused.exception, InputError)
    assert "has no row 'r64' with a label" in str(refused.exception)


async def test_other_concepts_of_the_run_are_found_in_its_folder(tmp_path: Path) -> None:
    """Runs that differ from it in what they had to be unlike alone; not one of another seed."""
    data = [{"id": str(n), "text": f"thing {n}"} for n in range(48)]
    task = Task(template=TEMPLATE, labels=("A", "B"))

    async def found(**options: Any) -> Labels:
        return await label(
            data,
            task=task,
            endpoint=two_concepts(),
            store=tmp_path / "store",
            runs=tmp_path / "runs",
            **options,
        )

    one = await found()
    await found(seed=1)
    two = await found(unlike=[one.run])
    (said,) = plan_why(one.run or "", "7").beside
    assert said.run == (two.run or tmp_path).name
    assert said.label == two.by_id["7"]
    assert said.kappa is not None
    assert said.kappa < 0.5
    (back,) = plan_why(two.run or "", "7").beside
    assert back.label == one.by_id["7"]
