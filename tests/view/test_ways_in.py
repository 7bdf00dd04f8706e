"""Ways into the live view, and into what it may not touch: each one is shut."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2
import orjson
import pytest
from report_runs import reviews, write_run
from view_server import Served, served

from icm_client import Task
from icm_client.record.archive import Run
from icm_client.record.checks import Checks

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = '"></script><img src=x onerror=alert(1)>'


class Viewed(NamedTuple):
    """A server, the folder it was started in, and a run that it shows."""

    server: Served
    folder: Path
    run: Run


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewed]:
    folder = tmp_path_factory.mktemp("work")
    run = write_run(folder / "runs", reviews(8), gold="label")
    (folder / "rows.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in reviews(8)))
    with served(folder / "runs", folder=folder) as server:
        yield Viewed(server, folder, run)


def raw(server: Served, request: str) -> bytes:
    """What the server answers to bytes that no client would send."""
    host, _, port = server.origin.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def cookie_of(server: Served) -> str:
    return "; ".join(f"{name}={value}" for name, value in server.client.cookies.items())


def test_a_page_of_another_origin_can_change_nothing_and_hear_nothing(viewed: Viewed) -> None:
    path = f"/runs/{viewed.run.name}/checks"
    said = {"id": "r1", "label": "negative"}
    for origin in ("https://evil.example", "http://localhost:1", "null", None):
        headers = {} if origin is None else {"origin": origin}
        answer = viewed.server.client.post(path, json=said, headers=headers)
        assert answer.status_code == 403, origin
    heard = viewed.server.client.get("/events", headers={"origin": "https://evil.example"})
    assert heard.status_code == 403
    assert "access-control-allow-origin" not in heard.headers
    assert Checks(viewed.run.path).read() == ()


def test_a_foreign_name_that_points_here_gets_nothing(viewed: Viewed) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", ""):
        answer = viewed.server.client.get("/", headers={"host": host})
        assert answer.status_code == 421, host
        assert viewed.run.name not in answer.text
    tunnel = viewed.server.client.get("/", headers={"host": "localhost:9999"})
    assert tunnel.status_code == 200, "the other end of ssh -L has another port"


def test_without_the_token_there_is_nothing(viewed: Viewed) -> None:
    with httpx2.Client(base_url=viewed.server.origin) as stranger:
        for path in ("/", "/runs.json", "/events", f"/runs/{viewed.run.name}", "/assets/page.css"):
            answer = stranger.get(path)
            assert answer.status_code == 403, path
            assert viewed.run.name not in answer.text
        origin = {"origin": viewed.server.origin}
        assert stranger.post("/new", json={}, headers=origin).status_code == 403


def test_a_wrong_token_opens_nothing_and_the_right_one_leaves_the_address(viewed: Viewed) -> None:
    with httpx2.Client(base_url=viewed.server.origin) as stranger:
        for wrong in ("", "x" * len(viewed.server.token), viewed.server.token[:-1], "é"):
            answer = stranger.get("/", params={"token": wrong})
            assert answer.status_code == 403
            assert "set-cookie" not in answer.headers
        answer = stranger.get("/", params={"token": viewed.server.token, "a": "1"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/?a=1")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
    request = f"GET //evil.example/?token={viewed.server.token} HTTP/1.1\nHost: localhost\n"
    redirect = raw(viewed.server, f"{request}Connection: close\n\n")
    assert b"\nlocation: /evil.example/\r\n" in redirect, "it leads nowhere else"


@pytest.mark.parametrize("name", ["..", "../..", ".", ".view", "..\\runs", "a/../.."])
def test_a_name_with_dots_is_no_run(viewed: Viewed, name: str) -> None:
    for rest in ("", "/rows.json", "/checks.json"):
        cookie = cookie_of(viewed.server)
        request = f"GET /runs/{name}{rest} HTTP/1.1\nHost: 127.0.0.1\nCookie: {cookie}\n"
        answer = raw(viewed.server, f"{request}Connection: close\n\n")
        assert answer.startswith(b"HTTP/1.1 404 "), (name, answer[:200])


@pytest.mark.parametrize(
    "name", ["%2e%2e", "%2e%2e%2f%2e%2e", "..%2fruns", "%252e%252e", "..%5cruns", "x%00", "%ff"]
)
def test_an_encoded_name_with_dots_is_no_run(viewed: Viewed, name: str) -> None:
    cookie = cookie_of(viewed.server)
    for path in (f"/runs/{name}", f"/runs/{name}/rows.json", f"/compare?run={name}&run={name}"):
        request = f"GET {path} HTTP/1.1\nHost: 127.0.0.1\nCookie: {cookie}\n"
        answer = raw(viewed.server, f"{request}Connection: close\n\n")
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), (path, answer[:200])
    for asset in ("%2e%2e%2fapp.py", "..%2f..%2fpyproject.toml", "app.py", "run.html.j2"):
        request = f"GET /assets/{asset} HTTP/1.1\nHost: 127.0.0.1\nCookie: {cookie}\n"
        assert raw(viewed.server, f"{request}Connection: close\n\n").startswith(b"HTTP/1.1 404 ")


def test_a_link_out_of_the_folder_is_no_run(viewed: Viewed, tmp_path: Path) -> None:
    base = viewed.folder / "runs"
    away = write_run(tmp_path, reviews(6), seed=7)
    (base / away.name).symlink_to(away.path)
    inside = write_run(base, reviews(6), seed=8)
    secret = tmp_path / "secret"
    secret.write_text('{"id": 1, "label": "secret"}\n')
    (inside.path / "labels.jsonl").unlink()
    (inside.path / "labels.jsonl").symlink_to(secret)
    try:
        for name in (away.name, inside.name):
            assert viewed.server.client.get(f"/runs/{name}").status_code == 404
            assert viewed.server.client.get(f"/runs/{name}/rows.json").status_code == 404
        listed = viewed.server.client.get("/runs.json").text
        assert away.name not in listed
        assert inside.name not in listed
    finally:
        (base / away.name).unlink()
        shutil.rmtree(inside.path)


def test_what_rows_labels_ids_names_and_errors_hold_is_text(tmp_path: Path) -> None:
    base = tmp_path / f"runs{SCRIPT.replace('/', '')}"
    task = Task(
        name=SCRIPT, template=f"{SCRIPT}{{text}}{BREAKOUT}", labels=(f"a{SCRIPT}", f"b{BREAKOUT}")
    )
    rows = [{"id": f"{SCRIPT}{n}", "text": f"{BREAKOUT}{n}"} for n in range(8)]
    run = write_run(base, rows, task=task, result={"warnings": [SCRIPT], "notices": [BREAKOUT]})
    other = write_run(base, rows, task=task, seed=2, labels=[task.labels[0]] * 8)
    with (run.path / "journal.jsonl").open("a") as journal:
        event = {"at": "2026-12-01T00:00:00+00:00", "event": "failed", "error": "E"}
        journal.write(orjson.dumps({**event, "reason": f"{SCRIPT}{BREAKOUT}"}).decode() + "\n")
    broken = base / "<img src=x onerror=alert(1)>"
    broken.mkdir()
    (broken / "run.json").write_text(SCRIPT)
    (tmp_path / f"{SCRIPT.replace('/', '')}.csv").write_text("text\na\n")
    with served(base) as server:
        assert server.post(f"/runs/{run.name}/checks", {"id": f"{SCRIPT}0", "label": None}).json()
        pages = ["/", f"/runs/{run.name}", f"/compare?run={run.name}&run={other.name}", "/new"]
        sections = ("checks", "figures")
        pages += [f"/runs/{run.name}/part/{section}" for section in sections]
        pages += [f"/runs/{SCRIPT.replace('/', '%2f')}", "/runs/<img src=x onerror=alert(1)>"]
        for path in pages:
            answer = server.client.get(path, headers={"accept": "text/html"})
            assert answer.headers["content-type"].startswith("text/html"), path
            assert "<script>alert" not in answer.text, path
            assert "<img" not in answer.text, path
            policy = answer.headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
        rows_json = server.client.get(f"/runs/{run.name}/rows.json")
        assert rows_json.headers["content-type"] == "application/json", "no browser runs that"


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""]
)
def test_a_form_of_another_page_is_not_taken(viewed: Viewed, kind: str) -> None:
    headers = {"origin": viewed.server.origin} | ({"content-type": kind} if kind else {})
    for path in (f"/runs/{viewed.run.name}/checks", "/new", "/new/preview"):
        answer = viewed.server.client.post(
            path, content=b'{"id": "r1", "label": "negative"}', headers=headers
        )
        assert answer.status_code == 415
    assert Checks(viewed.run.path).read() == ()


def test_a_view_that_is_read_only_takes_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", reviews(8))
    with served(tmp_path / "runs", "--read-only") as server:
        for path in (
            f"/runs/{run.name}/checks",
            f"/runs/{run.name}/again",
            "/new",
            "/new/preview",
            "/children/x/stop",
        ):
            answer = server.post(path, {"id": "r1", "label": "negative"})
            assert answer.status_code == 403, path
            assert "read-only" in answer.text
        assert server.client.put("/new", headers={"origin": server.origin}).status_code == 403
        assert server.client.get("/runs.json").json()["read_only"] is True
    assert not (run.path / "checked.jsonl").exists()
    assert not (tmp_path / "runs" / ".view").exists()


def test_too_large_a_body_is_refused_before_it_is_read(viewed: Viewed) -> None:
    path = f"/runs/{viewed.run.name}/checks"
    said = {"id": "r1", "label": "negative", "by": "x" * 100_000}
    assert viewed.server.post(path, said).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    headers = {"origin": viewed.server.origin, "content-type": "application/json"}
    try:
        chunked = viewed.server.client.post(path, content=endless(), headers=headers)
        assert chunked.status_code == 413
    except httpx2.TransportError:
        pass  # the server has hung up on what came after
    assert viewed.server.post(path, [1]).status_code == 400
    assert Checks(viewed.run.path).read() == ()


@pytest.mark.parametrize(
    "path", ["../secret.csv", "/etc/passwd", "link.csv", "runs/../../secret.csv", "https://a/b.csv"]
)
def test_a_new_run_takes_no_file_from_elsewhere(viewed: Viewed, path: str) -> None:
    (viewed.folder.parent / "secret.csv").write_text("text\nsecret\nsecret\n")
    link = viewed.folder / "link.csv"
    if not link.is_symlink():
        link.symlink_to(viewed.folder.parent / "secret.csv")
    form = {"data": path, "template": "{text}", "labels": "a,b"}
    for where in ("/new", "/new/preview"):
        answer = viewed.server.post(where, form)
        assert answer.status_code == 400
        assert "choose a file in the folder" in answer.json()["error"]
    task = {"data": "rows.jsonl", "task": path}
    assert viewed.server.post("/new", task).status_code == 400
    assert not (viewed.folder / "runs" / ".view").exists()


@pytest.mark.parametrize(
    "form",
    [
        {"data": "--config=rows.jsonl"},
        {"data": "rows.jsonl", "task": "--save-task=stolen"},
        {"data": "rows.jsonl", "endpoint": "--output=stolen"},
        {"data": "rows.jsonl", "seed": "--output=stolen"},
        {"data": "rows.jsonl", "limit": True},
        {"data": "rows.jsonl", "labels": ["--output", "stolen"]},
        {"data": "rows.jsonl", "output": "stolen"},
        {"data": "rows.jsonl", "--output": "stolen"},
        {"data": "rows.jsonl", "template": "--save-task=stolen", "labels": "--save-config=stolen"},
        {"data": "rows.jsonl", "template": "{text}", "labels": "a,b", "gold": "--save-task=stolen"},
    ],
)
def test_no_field_of_a_form_is_an_option(viewed: Viewed, form: dict[str, object]) -> None:
    answer = viewed.server.post("/new/preview", form)
    assert answer.status_code in (400, 500), answer.text
    assert "error" in answer.json()
    assert not (viewed.folder / "stolen").exists()
