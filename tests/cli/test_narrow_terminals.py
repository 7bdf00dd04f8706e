"""A display leaves nothing behind, however narrow the terminal."""

import sys
from functools import partial
from pathlib import Path

import anyio.to_thread
import orjson
import pytest
from terminals import PROGRAM, in_terminal, screen

from icm_client import Task, rows_from
from icm_client.cli.signals import DRAINED
from icm_client.testing import PlantedConcept, PlantedServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals"),
]

N = 32
TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
ASKED = ("--template", r"Review: {text}\nSentiment:", "--labels", "positive,negative")
OF_A_DISPLAY = ("Starting ...", "Scoring", "\u2501", "requests   ", "Measuring", "Step ")


def served(latency_s: float) -> PlantedServer:
    classes = [i * 7 % 5 % 2 for i in range(N)]
    rows = [
        {"text": f"words of row {i}", "gold": TASK.labels[one]} for i, one in enumerate(classes)
    ]
    Path("rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    planted = dict(zip(TASK.render_all(rows_from(rows)), classes, strict=True))
    return PlantedServer(PlantedConcept(planted, TASK.label_texts), latency_s=latency_s)


async def shown(
    columns: int, latency_s: float, *options: str, interrupt_at: bytes | None = None
) -> list[str]:
    """The lines of a terminal in which `label` has run."""
    async with served(latency_s) as server:
        command = [*PROGRAM, "label", "rows.jsonl", *ASKED, "-e", server.url, *options]
        run = partial(in_terminal, command, columns, interrupt_at=interrupt_at)
        written = await anyio.to_thread.run_sync(run)
    lines = screen(written, columns)
    assert max(map(len, lines)) <= columns
    assert "\u2501" in written or "Measuring" in written, "there was a display"
    left = [line for line in lines if any(part in line for part in OF_A_DISPLAY)]
    assert left == [], "\n".join(lines)
    return lines


@pytest.mark.parametrize("columns", [40, 60, 80])
async def test_a_run_leaves_its_lines_and_its_result(columns: int) -> None:
    lines = await shown(columns, 0.05, "-o", "out.jsonl")
    assert lines[0].startswith("Labels: negative")
    assert sum(line.startswith("sweep ") for line in lines) >= 2
    result = next(number for number, line in enumerate(lines) if line.startswith("verdict"))
    assert any(line.startswith("labels in") for line in lines[result:])


@pytest.mark.parametrize("columns", [40, 80])
async def test_steps_leave_a_line_for_each_tenth(columns: int) -> None:
    options = ("--preset", "paper", "--steps", "20", "-o", "out.jsonl")
    lines = await shown(columns, 0.02, *options)
    assert sum(line.startswith("step ") for line in lines) == 10


@pytest.mark.parametrize("columns", [40, 60, 80])
async def test_ctrl_c_is_answered_on_a_line_of_its_own(columns: int) -> None:
    options = ("--max-in-flight", "1", "-o", "out.jsonl")
    lines = await shown(columns, 0.1, *options, interrupt_at=b"sweep 2")
    answered = [line for line in lines if "Stopping" in line]
    assert answered == [DRAINED[: len(answered[0])]]
    verdict = next(line for line in lines if line.startswith("verdict"))
    assert verdict.split()[1].startswith("check")


@pytest.mark.parametrize("columns", [40, 80])
async def test_a_forecast_leaves_its_cost_and_its_sentence(columns: int) -> None:
    lines = await shown(columns, 0.02, "--forecast")
    assert lines[0].startswith("The forecast sends at most 82 requests")
    assert any(line.startswith("A run over 32 rows") for line in lines)


@pytest.mark.parametrize(
    ("columns", "headings"),
    [
        (40, "method accuracy"),
        (60, "method accuracy gap recovered"),
        (80, "method accuracy gap recovered gap 95% tokens computed seconds"),
        (100, "method accuracy gap recovered gap 95% tokens computed seconds verdict"),
    ],
)
async def test_an_evaluation_shows_what_it_has_room_for(columns: int, headings: str) -> None:
    async with served(0) as server:
        command = [*PROGRAM, "eval", "rows.jsonl", *ASKED, "--gold", "gold", "-e", server.url]
        run = partial(in_terminal, [*command, "--seeds", "0", "-q"], columns)
        lines = screen(await anyio.to_thread.run_sync(run), columns)
    at = next(number for number, line in enumerate(lines) if line.startswith("method"))
    assert " ".join(lines[at].split()) == headings
    table = lines[at:-1]
    assert [line.split()[0] for line in table[1:]][-2:] == ["same-accuracy-fast", "golden"]
    assert max(map(len, lines)) <= columns
    assert not any("\u2026" in line for line in table)
