"""Runs that are started from the page: they keep what was checked, and outlive page and server."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import orjson
import pytest
from planted_reviews import TASK, planted, reviews
from view_server import Served, served

from icm_client.data.whole_files import locked
from icm_client.errors import RunError
from icm_client.record.archive import read_folder
from icm_client.record.checks import Checks
from icm_client.record.comparison import label_records
from icm_client.testing import PlantedServer
from icm_client.view.children import FOLDER, Children
from icm_client.view.form import label_arguments

pytestmark = pytest.mark.slow  # each starts several processes

ROWS = [{"id": f"r{n}", "text": row["text"]} for n, row in enumerate(reviews(32))]
FORM = {
    "data": "rows.jsonl",
    "template": TASK.template,
    "labels": ",".join(TASK.labels),
    "seed": 3,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ROWS))
    return tmp_path


def until(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `found` returns once it is something; it is asked again and again."""
    ends = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.1)
    return value


def line_of(server: Served, process: int, state: str) -> Callable[[], Any]:
    def find() -> Any:
        lines = server.client.get("/runs.json").json()["runs"]
        return [one for one in lines if (one["process"], one["state"]) == (process, state)]

    return find


def child_of(server: Served, child_id: str) -> dict[str, Any]:
    children = server.client.get("/children.json").json()["children"]
    (found,) = [one for one in children if one["id"] == child_id]
    return dict(found)


async def test_a_new_run_is_previewed_started_corrected_and_run_again(folder: Path) -> None:
    def page(url: str) -> None:
        form = {**FORM, "endpoint": url}
        with served(folder / "runs", folder=folder) as server:
            assert "rows.jsonl" in server.client.get("/new").text
            shown = server.post("/new/preview", form).json()
            assert shown["first_prompt"].startswith("Review: words of row 0")
            assert sorted(shown["labels"]) == [" negative", " positive"]
            wrong = server.post("/new/preview", {**form, "template": "{nothing}"})
            assert wrong.status_code == 400
            assert "nothing" in wrong.json()["error"]
            child = server.post("/new", form).json()
            assert child["running"]
            (first,) = until(line_of(server, child["process"], "done"))
            assert (first["rows"], first["seed"], first["labelled"]) == (32, 3, True)
            assert first["cost"]["requests"] > 0

            run = read_folder(folder / "runs" / first["name"])
            rows = label_records(run)
            other = {"positive": "negative", "negative": "positive"}
            for row in rows[:2]:
                said = {"id": row["id"], "label": other[row["label"]], "by": "Ada"}
                assert server.post(f"/runs/{run.name}/checks", said).status_code == 200
            again = server.post(f"/runs/{run.name}/again", {}).json()
            (second,) = until(line_of(server, again["process"], "done"))
            assert second["name"] != run.name
            kept = label_records(read_folder(folder / "runs" / second["name"]))
            for before, after in zip(rows[:2], kept[:2], strict=True):
                assert after["label"] == other[before["label"]]
                assert after["pinned"] is True

            # A third run keeps what was checked in the first one, too.
            said = {"id": kept[2]["id"], "label": other[kept[2]["label"]]}
            server.post(f"/runs/{second['name']}/checks", said)
            third = server.post(f"/runs/{second['name']}/again", {}).json()
            (line,) = until(line_of(server, third["process"], "done"))
            last = label_records(read_folder(folder / "runs" / line["name"]))
            pinned = [row for row in last if row["pinned"]]
            assert [row["id"] for row in pinned] == [row["id"] for row in rows[:3]]
        assert sorted(path.name for path in folder.iterdir() if path.name != "cache") == [
            "rows.jsonl",
            "runs",
        ], "nothing is written elsewhere"

    async with PlantedServer(planted(32)) as server:
        await anyio.to_thread.run_sync(page, server.url)


async def test_a_child_outlives_a_killed_server_and_the_next_one_can_stop_it(folder: Path) -> None:
    def page(url: str) -> None:
        with killed_view(folder) as server:
            child = server.post("/new", {**FORM, "endpoint": url}).json()
            until(line_of(server, child["process"], "running"))
        with served(folder / "runs", folder=folder) as server:
            assert child_of(server, child["id"])["running"]
            assert server.post(f"/children/{child['id']}/stop", {}).status_code == 200
            until(line_of(server, child["process"], "stopped"))
            until(lambda: not child_of(server, child["id"])["running"])
            late = server.post(f"/children/{child['id']}/stop", {})
            assert late.status_code == 400
            assert server.post("/children/nobody/stop", {}).status_code == 400

    async with PlantedServer(planted(32), latency_s=5.0) as server:
        await anyio.to_thread.run_sync(page, server.url)


@contextmanager
def killed_view(folder: Path) -> Iterator[Served]:
    """A server that ends as by `kill -9`."""
    with served(folder / "runs", folder=folder) as server:
        yield server
        server.process.kill()


async def test_a_kill_of_the_view_or_of_the_child_loses_no_check_and_no_run(folder: Path) -> None:
    def page(url: str) -> None:
        with killed_view(folder) as server:
            child = server.post("/new", {**FORM, "endpoint": url}).json()
            (line,) = until(line_of(server, child["process"], "done"))
            for n in range(5):
                said = {"id": f"r{n}", "label": "positive"}
                assert server.post(f"/runs/{line['name']}/checks", said).status_code == 200
        checks = Checks(folder / "runs" / line["name"]).read()
        assert [one.id for one in checks] == [f"r{n}" for n in range(5)]
        with served(folder / "runs", folder=folder) as server:
            again = server.post(f"/runs/{line['name']}/again", {}).json()
            until(line_of(server, again["process"], "running"))
            os.kill(again["process"], signal.SIGKILL)
            (killed,) = until(line_of(server, again["process"], "stopped"))
            assert killed["reason"] is None
            assert not child_of(server, again["id"])["running"]
            once_more = server.post(f"/runs/{line['name']}/again", {}).json()
            (done,) = until(line_of(server, once_more["process"], "done"))
            assert done["name"] == killed["name"], "it goes on where the killed one was"

    async with PlantedServer(planted(32), latency_s=0.3) as server:
        await anyio.to_thread.run_sync(page, server.url)


def test_a_line_of_the_list_that_is_no_child_hides_no_other(folder: Path) -> None:
    base = folder / "runs"
    children = Children(base)
    child = children.label(["--version"], folder)
    listed = base / FOLDER / "children.jsonl"
    listed.write_text(listed.read_text() + '{"at":"2026-12-01T00:00:00Z","event":"child"}\n')
    assert [one.id for one in children.all()] == [child.id]
    (ended,) = until(children.ended)
    assert ended.id == child.id


def test_what_cannot_be_listed_is_not_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icm_client.view.children._LOCK_TIMEOUT_S", 0.0)
    children = Children(folder / "runs")
    (folder / "runs" / FOLDER).mkdir(parents=True)
    with (
        locked(folder / "runs" / FOLDER / "children.lock", RunError("held")),
        pytest.raises(RunError, match="another process"),
    ):
        children.label(["--version"], folder)
    assert not children._ours


def test_no_signal_goes_to_a_process_that_has_the_id_of_an_ended_child(folder: Path) -> None:
    base = folder / "runs"
    children = Children(base)
    child = children.label(
        label_arguments(FORM | {"endpoint": "http://127.0.0.1:9"}, folder), folder
    )
    assert children.all()[0].running
    listed = base / FOLDER / "children.jsonl"
    ours = str(child.process), str(os.getpid())
    listed.write_text(listed.read_text().replace(f'"process":{ours[0]}', f'"process":{ours[1]}'))
    (claimed,) = children.all()
    assert claimed.process == os.getpid()
    assert not claimed.running
    with pytest.raises(Exception, match="still runs"):
        children.stop(child.id)
    os.kill(child.process, signal.SIGKILL)
    until(children._ours[child.process].poll)
