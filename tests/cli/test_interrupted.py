"""A run that Ctrl-C or TERM ends says what it has: labels, verdict, counts and cost."""

import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import anyio
import orjson
import pytest
from aiohttp import web
from anyio.abc import Process

from icm_client import Task, rows_from
from icm_client.record.archive import list_runs
from icm_client.record.journal import read
from icm_client.scoring import ScoreStore, default_path
from icm_client.testing import PlantedConcept, PlantedServer
from icm_client.testing.server import COMPLETIONS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no signals in an event loop"),
]

N = 32
TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
ROWS = [{"text": f"words of row {i}", "label": TASK.labels[i * 7 % 5 % 2]} for i in range(N)]


def served(latency_s: float = 0.0) -> PlantedServer:
    prompts = TASK.render_all(rows_from(ROWS))
    concept = PlantedConcept(
        {prompt: i * 7 % 5 % 2 for i, prompt in enumerate(prompts)}, TASK.label_texts
    )
    return PlantedServer(concept, latency_s=latency_s)


LABEL = (
    *("label", "rows.jsonl", "-o", "out.jsonl", "--gold", "label"),
    *("--template", r"Review: {text}\nSentiment:", "--labels", "positive,negative"),
)
TASK_FILE = 'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n'
GOES_ON = "Interrupted. Every score so far is kept: the same command again goes on from here.\n"


class Ended(NamedTuple):
    status: int
    out: str
    err: str


@asynccontextmanager
async def started(
    folder: Path,
    server: PlantedServer | SimpleNamespace,
    *options: str,
    command: Sequence[str] = LABEL,
) -> AsyncIterator[Process]:
    await anyio.Path(folder).mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, ROWS)))
    (folder / "task.toml").write_text(TASK_FILE)
    command = [
        *(sys.executable, "-c", "from icm_client.cli.main import main; main()"),
        *(*command, "-e", server.url, *options),
    ]
    environment = {**os.environ, "ICM_CACHE_DIR": str(folder / "cache")}
    async with await anyio.open_process(command, cwd=folder, env=environment) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def ended(process: Process) -> Ended:
    said = {"out": b"", "err": b""}

    async def hear(name: str, stream: Any) -> None:
        said[name] = b"".join([part async for part in stream])

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear, "out", process.stdout)
            tasks.start_soon(hear, "err", process.stderr)
        status = await process.wait()
    return Ended(status, said["out"].decode(), said["err"].decode())


async def events(folder: Path, kind: str, least: int) -> None:
    """Wait until the run's journal holds so many events of a kind."""
    with anyio.fail_after(120):
        while True:
            journals = list((folder / "runs").glob("*/journal.jsonl"))
            if journals and sum(e["event"] == kind for e in read(journals[0])) >= least:
                return
            await anyio.sleep(0.02)


def written(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize(
    ("number", "status", "options"),
    [
        (signal.SIGINT, 130, ("--json",)),
        (signal.SIGTERM, 143, ("--json", "--preset", "fast", "--init", "zero-shot")),
    ],
)
async def test_an_interrupted_run_has_the_labels_of_its_last_whole_sweep_and_goes_on(
    tmp_path: Path, number: signal.Signals, status: int, options: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    async with served(0.15) as server, started(folder, server, *options) as process:
        await events(folder, "sweep", 3)
        process.send_signal(number)
        done = await ended(process)
        asked = len(server.received)
    assert done.status == status, done.err
    found = orjson.loads(done.out)
    assert found["stopped"] == "an interruption"
    assert found["rows"] == len(written(folder)) == N
    assert found["verdict"] == "check"
    assert found["findings"][0]["code"] == "interrupted"
    assert "right names" in found["findings"][0]["message"]
    assert found["cost"]["from_server"] > 2 * N
    assert len(found["sweeps"]) >= 3
    assert found["accuracy"] > 0.9
    assert "Interrupted." in done.err
    (run,) = list_runs(folder / "runs").runs
    assert (run.state, run.reason) == ("stopped", "an interruption")
    assert run.result is not None
    assert run.result["verdict"] == "check"
    assert (run.path / "report.html").exists()
    sweeps = [event for event in read(run.path / "journal.jsonl") if event["event"] == "sweep"]
    assert len(sweeps) == len(found["sweeps"]), "none is written twice"

    async with served() as server, started(folder, server, *options) as process:
        whole = await ended(process)
        again = len(server.received)
    assert whole.status == 0, whole.err
    (run,) = list_runs(folder / "runs").runs
    assert run.state == "done"
    alone = tmp_path / "alone"
    async with served() as server, started(alone, server, *options) as process:
        undisturbed = await ended(process)
        assert again < len(server.received)
    assert undisturbed.status == 0
    assert (alone / "out.jsonl").read_bytes() == (folder / "out.jsonl").read_bytes()
    assert orjson.loads(whole.out)["counts"] == orjson.loads(undisturbed.out)["counts"]
    assert asked > 0


async def test_the_verdict_counts_and_cost_of_what_it_has_are_printed(tmp_path: Path) -> None:
    async with served(0.15) as server, started(tmp_path, server) as process:
        await events(tmp_path, "sweep", 3)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert done.status == 130, done.err
    for word in ("verdict", "check", "positive", "tokens", "scores"):
        assert word in done.out
    assert "ended early by an interruption" in done.err
    assert "Not checked: whether the labels have the right names" in " ".join(done.err.split())


async def test_a_closed_terminal_interrupts_a_run_that_keeps_what_it_has(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    try:
        async with served(0.15) as server, started(tmp_path, server, "--json") as process:
            await events(tmp_path, "sweep", 3)
            process.send_signal(signal.SIGHUP)
            await anyio.sleep(0.05)
            process.send_signal(signal.SIGHUP)  # of the shell, after the terminal's
            done = await ended(process)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.status == 129, done.err
    assert orjson.loads(done.out)["stopped"] == "an interruption"
    assert len(written(tmp_path)) == N


async def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with served(0.05) as server, started(tmp_path, server, "--json") as process:
            await events(tmp_path, "sweep", 2)
            process.send_signal(signal.SIGHUP)
            done = await ended(process)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.status == 0, done.err
    assert orjson.loads(done.out)["stopped"] is None


async def test_before_there_are_labels_an_interrupted_run_writes_none(tmp_path: Path) -> None:
    async with served(0.3) as server, started(tmp_path, server, "--json") as process:
        await events(tmp_path, "search", 1)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    told = orjson.loads(done.out)
    assert (done.status, told["status"], told["type"]) == (130, 130, "Interrupted")
    assert "Interrupted." in done.err
    assert not (tmp_path / "out.jsonl").exists()
    (run,) = list_runs(tmp_path / "runs").runs
    assert (run.state, run.result) == ("stopped", None)


async def test_algorithm_1_has_the_items_that_it_has_labelled(tmp_path: Path) -> None:
    options = ("--json", "--preset", "paper", "--steps", "400")
    async with served(0.02) as server, started(tmp_path, server, *options) as process:
        await events(tmp_path, "step", 30)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert done.status == 130, done.err
    found = orjson.loads(done.out)
    assert found["stopped"] == "an interruption"
    assert found["steps"] >= 30
    assert found["verdict"] != "trust"
    assert 0 < found["rows"] <= N
    assert found["rows"] + len(found["failed"]) == N


@pytest.mark.parametrize("busy", ["models", "scores"])
async def test_a_run_that_is_stopped_before_its_first_score_has_kept_nothing(
    tmp_path: Path, busy: str
) -> None:
    """Neither while it is found out who answers, nor while the first score is waited for."""
    asked = anyio.Event()

    async def refuse(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/models" and busy == "scores":
            models = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]}
            return web.json_response(models)
        if request.path == "/version":
            return web.json_response({"version": "0.32.0"})
        asked.set()
        return web.Response(status=503, headers={"Retry-After": "30"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = SimpleNamespace(url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    async with started(tmp_path / "run", server, "--no-record") as process:
        with anyio.fail_after(60):
            await asked.wait()
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    await runner.cleanup()
    assert done.status == 130, done.err
    assert done.err.endswith("\nInterrupted.\n")


async def test_labels_whose_folder_went_are_printed_and_kept_in_the_record(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    options = ("-o", "there/out.jsonl")
    async with served(0.1) as server, started(tmp_path, server, *options) as process:
        await events(tmp_path, "sweep", 2)
        (tmp_path / "there").rmdir()
        done = await ended(process)
    assert done.status == 1
    (run,) = list_runs(tmp_path / "runs").runs
    labels = Path("runs") / run.path.name / "labels.jsonl"
    assert len((tmp_path / labels).read_bytes().splitlines()) == N
    assert "trust" in done.out
    assert f"The labels are in {labels}" in done.err
    assert "the same command again goes on from here" in done.err


async def test_a_record_that_went_takes_no_labels_with_it(tmp_path: Path) -> None:
    async with served(0.1) as server, started(tmp_path, server) as process:
        await events(tmp_path, "sweep", 2)
        shutil.rmtree(tmp_path / "runs")
        done = await ended(process)
    assert done.status == 0, done.err
    assert len(written(tmp_path)) == N
    assert "trust" in done.out
    assert "record in" not in done.out
    assert "Warning: the run has no record" in done.err


def stored(folder: Path) -> int:
    path = folder / "cache" / default_path().name
    if not path.exists():
        return 0
    with ScoreStore.open(path) as store:
        (count,) = store._db.execute("SELECT count(*) FROM scores").fetchone()
    return int(count)


NOT_DRAINED = [
    ("salience", "rows.jsonl"),
    ("ablate", "rows.jsonl", "--out", "results", "--only", "preset", "--seeds", "1"),
]


@pytest.mark.parametrize("command", NOT_DRAINED, ids=["salience", "ablate"])
async def test_a_command_that_is_not_drained_goes_on_where_scores_were_kept(
    tmp_path: Path, command: Sequence[str]
) -> None:
    async with served(0.3) as server, started(tmp_path, server, command=command) as process:
        with anyio.fail_after(60):
            while not stored(tmp_path):  # noqa: ASYNC110 - another process makes it true
                await anyio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert done.status == 130, done.err
    assert done.err.endswith(GOES_ON)


@pytest.mark.parametrize(
    "command",
    [*NOT_DRAINED, (*LABEL, "--forecast"), ("watch",)],
    ids=["salience", "ablate", "forecast", "watch"],
)
async def test_a_command_that_is_not_drained_promises_nothing_where_no_score_was_kept(
    tmp_path: Path, command: Sequence[str]
) -> None:
    async with served(60.0) as server, started(tmp_path, server, command=command) as process:
        with anyio.fail_after(60):
            while not server.received:  # noqa: ASYNC110 - another process makes it true
                await anyio.sleep(0.01)
        await anyio.sleep(0.2)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert done.status == 130, done.err
    assert done.err.endswith("\nInterrupted.\n")


async def test_a_second_ctrl_c_before_the_first_score_promises_nothing(tmp_path: Path) -> None:
    async with served(60.0) as server, started(tmp_path, server) as process:
        with anyio.fail_after(60):
            while not any(one.path == COMPLETIONS for one in server.received):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        await anyio.sleep(0.5)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert done.status == 130, done.err
    assert done.err.endswith("\nInterrupted.\n")
