"""Runs of other processes are seen as they move, for next to nothing while nobody looks."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import orjson
import pytest
from report_runs import reviews, sweep, write_run
from run_folders import described
from view_server import served

from icm_client.record.checks import Checks
from icm_client.record.folder import RunFolder
from icm_client.view import live
from icm_client.view.live import LiveRuns, RunLine

COUNTS = {"negative": 3, "positive": 5}


def swept(restart: int, number: int, utility: float) -> dict[str, Any]:
    return {**sweep(restart, number, utility, (3, 5), 2), "counts": COUNTS}


async def only(runs: LiveRuns) -> RunLine:
    (line,), _ = await runs.lines()
    return line


async def test_a_line_follows_the_journal_to_the_end(tmp_path: Path) -> None:
    runs = LiveRuns(tmp_path)
    assert await runs.lines() == ([], [])
    with RunFolder.open(described(), base=tmp_path) as folder:
        line = await only(runs)
        assert (line.state, line.sweep, line.cost, line.total) == ("running", None, None, 0)
        folder.journal.append("search", preset="fast", settings={}, notice=None)
        folder.journal.append("progress", done=3, total=8, left_s=4.5, cost={"requests": 3})
        line = await only(runs)
        assert (line.preset, line.done, line.total, line.left_s) == ("fast", 3, 8, 4.5)
        folder.journal.append("waiting", seconds=1.0, reason="503", attempt=1)
        assert (await only(runs)).waiting == "503"
        folder.journal.append("sweep", **swept(1, 2, 0.25), cost={"requests": 8})
        line = await only(runs)
        assert (line.start, line.sweep, line.utility, line.total) == (2, 3, 0.25, 0)
        assert (line.moved, line.counts, line.waiting) == (0.25, COUNTS, None)
        assert line.cost == {"requests": 8}
        folder.journal.append("step", n=7, U=-3.0, T=1.0)
        assert (await only(runs)).step == 7
        folder.stop("the limit of 8 requests")
    line = await only(runs)
    assert (line.state, line.reason) == ("stopped", "the limit of 8 requests")
    with RunFolder.open(described(), base=tmp_path, fresh=True):
        line = await only(runs)
        assert (line.state, line.sweep, line.step) == ("running", None, None), "it began anew"


async def test_old_journals_and_damaged_folders_are_told_as_what_they_are(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(8), gold="label")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "notes").mkdir()
    runs = LiveRuns(tmp_path)
    (line,), (note,) = await runs.lines()
    assert (line.name, line.state, line.verdict, line.labelled) == (run.name, "done", "check", True)
    assert "not JSON" in note
    with (run.path / "journal.jsonl").open("a") as journal:
        journal.write("torn")  # it never happened
    assert (await only(runs)).state == "done"
    with (run.path / "journal.jsonl").open("a") as journal:
        journal.write("\n")
    (lines, notes) = await runs.lines()
    assert not lines
    assert any("not an event" in one for one in notes)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no answer"), MemoryError("no answer")])
async def test_a_passing_error_hides_a_run_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write_run(tmp_path, reviews(8))
    runs = LiveRuns(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(live, "_AGAIN_S", 0.05)
        broken.setattr(Checks, "read", raising(error))
        lines, (note,) = await runs.lines()
        assert not lines
        assert "no answer" in note
    await anyio.sleep(0.1)
    assert (await only(runs)).labelled


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


async def test_of_a_killed_run_nothing_is_shown_as_under_way(tmp_path: Path) -> None:
    runs = LiveRuns(tmp_path)
    with RunFolder.open(described(), base=tmp_path) as folder:
        folder.journal.append("progress", done=3, total=8, left_s=4.5, cost=None)
        folder.journal.append("waiting", seconds=1.0, reason="503", attempt=1)
        written = (folder.path / "journal.jsonl").read_bytes()
        assert (await only(runs)).waiting == "503"
        folder.stop("")
    (folder.path / "journal.jsonl").write_bytes(written)  # it got no further
    line = await only(LiveRuns(tmp_path))
    assert (line.state, line.done, line.total) == ("stopped", 0, 0)
    assert (line.left_s, line.waiting) == (None, None)
    with RunFolder.open(described(), base=tmp_path):
        line = await only(runs)
    assert (line.state, line.total, line.waiting) == ("running", 0, None)


async def test_who_listens_is_told_of_changes_alone_and_a_slow_one_is_sent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "INTERVAL_S", 0.02)
    runs = LiveRuns(tmp_path)
    looks = 0
    look = runs._changes

    def counted() -> list[live.Event]:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(runs, "_changes", counted)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runs.watch)
        await anyio.sleep(0.1)
        assert looks == 0, "nobody listens"
        with runs.listening() as events:
            with RunFolder.open(described(), base=tmp_path) as folder, anyio.fail_after(5):
                assert (await events.receive()).data["state"] == "running"
                folder.journal.append("sweep", **swept(0, 0, 0.5))
                assert (await events.receive()).data["utility"] == 0.5
            with anyio.fail_after(5):
                assert (await events.receive()).data["state"] == "stopped"
                Checks(folder.path).add("r1", "positive")
                assert (await events.receive()).data["checked"] == 1
                for path in folder.path.iterdir():
                    path.unlink()
                assert (await events.receive()).kind == "gone"
            with pytest.raises(anyio.WouldBlock):
                events.receive_nowait()
            for number in range(live._MOST_WAITING + 1):
                runs.tell(live.Event("checks", number))
            told = [event async for event in events]
            assert [event.data for event in told] == list(range(live._MOST_WAITING))
        await anyio.sleep(0.1)
        looks = 0
        await anyio.sleep(0.1)
        assert looks == 0
        tasks.cancel_scope.cancel()


@contextmanager
def events_of(client: httpx2.Client, cookies: httpx2.Cookies) -> Iterator[Iterator[Any]]:
    """The server-sent events of a view: their kinds and what they hold."""

    def parsed(lines: Iterator[str]) -> Iterator[Any]:
        kind = ""
        for line in lines:
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield kind, orjson.loads(line.removeprefix("data: "))

    with client.stream("GET", "/events", cookies=cookies) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield parsed(answer.iter_lines())


def test_two_tabs_see_a_run_of_another_process_and_each_other_s_checks(tmp_path: Path) -> None:
    base = tmp_path / "runs"
    done = write_run(base, reviews(8))
    with (
        served(base) as server,
        httpx2.Client(base_url=server.origin, timeout=30) as client,
        events_of(client, server.client.cookies) as first,
        httpx2.Client(base_url=server.origin, timeout=30) as other,
        events_of(other, server.client.cookies) as second,
    ):
        for events in (first, second):
            assert next(events) == ("all", {"names": [done.name]})
            assert next(events)[1]["name"] == done.name, "what is there comes first"
        with RunFolder.open(described(), base=base) as folder:
            for events in (first, second):
                kind, line = next(events)
                assert (kind, line["name"], line["state"]) == ("run", folder.name, "running")
        for events in (first, second):
            assert next(events)[1]["state"] == "stopped"
        server.post(f"/runs/{done.name}/checks", {"id": "r3", "label": "positive", "by": "Ada"})
        for events in (first, second):
            told = dict([next(events), next(events)])
            assert told["checks"]["id"] == "r3"
            assert told["run"]["checked"] == 1
