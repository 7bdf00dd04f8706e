"""The server of the live view: its routes, and what each takes and gives.

Pages, rendered here; a page's script listens to `/events` and replaces the sections that changed.

    GET  /                              all runs
    GET  /runs/NAME                     one run: how it goes, and its report once it has labels
    GET  /compare?run=A&run=B           two runs or more
    GET  /new                           the form for a new run
    GET  /assets/FILE                   style sheets and scripts

Data and sections of pages. An error is `{"error": WORDS}` with a status of 400 and above.

    GET  /events                        server-sent events: `run` (a `RunLine`), `gone` ({"name"}),
                                        `checks` ({"run", "id", "label", "by", "at"}),
                                        `child` (a `Child`); first `all` ({"names"}) and every run
                                        as it is
    GET  /runs.json                     {"runs": [RunLine], "notes": [WORDS], "read_only": BOOL}
    GET  /runs/NAME/part/SECTION        HTML of `run_SECTION.html.j2`: one of `pages.SECTIONS`
    GET  /runs/NAME/rows.json           rows, as `icm_client.report.report_data.page_rows`
    GET  /runs/NAME/checks.json         {"checks": [{"id", "label", "by", "at"}], "accuracy":
                                        [{"checked", "agreed", "labels", "people"}]}
    POST /runs/NAME/checks              {"id", "label": WORD or null, "by"} -> the check
    GET  /runs/NAME/ask?budget=20       {"asked": [{"id", "prompt", "found", "confidence",
                                        "reason"}]}: rows to check first (`icm_client.runs.ask`)
    POST /runs/NAME/again               {} -> the `Child` that runs its command with the checks
    POST /new                           a form (`form.label_arguments`) -> the `Child`
    POST /new/preview                   a form, and "forecast": BOOL -> `label --dry-run --json`, or
                                        `label --forecast --json`
    GET  /children.json                 {"children": [Child]}
    POST /children/ID/stop              {} -> {}
"""

import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from icm_client.errors import IcmError, InputError
from icm_client.record.archive import read_folder
from icm_client.record.checks import Checks
from icm_client.report.report import asset
from icm_client.report.report_data import page_id
from icm_client.runs.ask import Asked, choose_rows
from icm_client.view.children import Child, Children
from icm_client.view.form import files_to_label, label_arguments, preview
from icm_client.view.live import INTERVAL_S, Event, LiveRuns, RunLine, run_folder
from icm_client.view.pages import (
    SECTIONS,
    RunReader,
    checks_document,
    compare_values,
    rendered,
    run_values,
)

P = ParamSpec("P")
T = TypeVar("T")

_LOG: Final = logging.getLogger("icm_client")

_MOST_BYTES: Final = 64 * 1024
"""Of what is posted: a check, or a form."""

_MOST_NAME: Final = 100
"""Characters of the name of who checks."""

_BUDGET: Final = 20
_MOST_ASKED: Final = 1_000
"""Rows that are asked about: unless the page says otherwise, and at most."""

_NUMBER: Final = re.compile("[0-9]{1,9}")

_SIGN_OF_LIFE_S: Final = 15.0
"""After so long without an event something is sent, so that proxies keep the connection."""

_REPORT_ASSETS: Final = frozenset({"page.css", "page.js", "checks.js", "deck.js", "rows.js"})
_VIEW_ASSETS: Final = Path(__file__).with_name("page")
_ASSET_KINDS: Final = {
    ".css": "text/css",
    ".js": "text/javascript",  # a system's own table may have another, which browsers do not run
    ".svg": "image/svg+xml",
}


class View:
    """What the routes do.

    Args:
        base: the folder of the runs.
        read_only: whether the pages offer to change nothing; `Guard` sees that they cannot.
    """

    def __init__(self, base: Path, *, read_only: bool = False) -> None:
        self._base = base
        self._read_only = read_only
        self._live = LiveRuns(base)
        self._reader = RunReader()
        self._folder = Path.cwd()
        self._children = Children(base)
        self._previewing = anyio.Lock()

    def app(self) -> Starlette:
        """Return the application, unguarded."""
        return Starlette(
            routes=[
                Route("/", self.list_page),
                Route("/runs.json", self.runs),
                Route("/events", self.events),
                Route("/compare", self.compare_page),
                Route("/assets/{file}", self.assets),
                Route("/runs/{name}", self.run_page),
                Route("/runs/{name}/part/{section}", self.part),
                Route("/runs/{name}/rows.json", self.rows),
                Route("/runs/{name}/checks.json", self.checks),
                Route("/runs/{name}/checks", self.check, methods=["POST"]),
                Route("/runs/{name}/ask", self.ask),
                Route("/runs/{name}/again", self.again, methods=["POST"]),
                Route("/new", self.new_page),
                Route("/new", self.new, methods=["POST"]),
                Route("/new/preview", self.preview, methods=["POST"]),
                Route("/children.json", self.children),
                Route("/children/{child}/stop", self.stop, methods=["POST"]),
            ],
            exception_handlers={IcmError: self._told, HTTPException: self._told},
            lifespan=self._lifespan,
        )

    def close(self) -> None:
        """End the answers that would go on for ever."""
        self._live.close()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._live.watch)
            tasks.start_soon(self._watch_children)
            yield
            tasks.cancel_scope.cancel()

    async def _watch_children(self) -> None:
        while True:
            await anyio.sleep(INTERVAL_S)
            try:
                ended = await _threaded(self._children.ended)
            except IcmError as error:  # the next look may succeed
                _LOG.warning("runs that have ended could not be read: %s", error)
                continue
            for child in ended:
                self._live.tell(Event("child", child.document()))

    async def list_page(self, _: Request) -> Response:
        """All runs."""
        lines, notes = await self._live.lines()
        return self._page("list.html.j2", lines=lines, notes=notes)

    async def runs(self, _: Request) -> Response:
        """All runs as JSON."""
        lines, notes = await self._live.lines()
        runs = [line.document() for line in lines]
        return _json({"runs": runs, "notes": notes, "read_only": self._read_only})

    async def events(self, _: Request) -> Response:
        """What happens, from now on."""
        return StreamingResponse(self._told_events(), media_type="text/event-stream")

    async def _told_events(self) -> AsyncIterator[bytes]:
        with self._live.listening() as events:
            lines, _ = await self._live.lines()
            yield _sent(Event("all", {"names": [line.name for line in lines]}))
            for line in lines:
                yield _sent(Event("run", line.document()))
            while True:
                sent = b": nothing new\n\n"
                with anyio.move_on_after(_SIGN_OF_LIFE_S):
                    try:
                        sent = _sent(await events.receive())
                    except anyio.EndOfStream:  # it was too slow, or the server ends
                        return
                yield sent

    async def run_page(self, request: Request) -> Response:
        """One run."""
        folder, line = await self._run(request)
        values = await _threaded(run_values, self._reader, folder, line)
        return self._page("run.html.j2", **values)

    async def part(self, request: Request) -> Response:
        """A section of a run's page."""
        folder, line = await self._run(request)
        section = request.path_params["section"]
        if section not in SECTIONS:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"a run's page has no section {section}")
        values = await _threaded(run_values, self._reader, folder, line)
        return self._page(f"run_{section}.html.j2", **values)

    async def rows(self, request: Request) -> Response:
        """The rows of a run that has labels."""
        folder, _ = await self._run(request)
        found = await _threaded(self._reader.rows, folder)
        return Response(found, media_type="application/json")

    async def checks(self, request: Request) -> Response:
        """What people have said of a run's labels."""
        folder, _ = await self._run(request)
        report = await _threaded(self._reader.report, folder)
        return _json(await _threaded(checks_document, folder, report))

    async def check(self, request: Request) -> Response:
        """Keep what somebody says of a row, and tell all pages."""
        folder, line = await self._run(request)
        said = await _posted(request)
        row_id, label, by = said.get("id"), said.get("label"), said.get("by", "")
        if isinstance(row_id, bool) or not isinstance(row_id, int | str):
            raise InputError("a check names the row it is of in 'id'")
        if label is not None and label not in line.labels:
            raise InputError("a check has one of the task's labels in 'label', or null")
        if not isinstance(by, str) or len(by) > _MOST_NAME:
            raise InputError(f"a check says in at most {_MOST_NAME} characters who gave it: 'by'")
        report = await _threaded(self._reader.report, folder)
        known = await _threaded(_own_id, report.table.ids, row_id)
        written = await _threaded(Checks(folder).add, known, label, by)
        answer = {"run": line.name, **asdict(written), "id": page_id(known)}
        self._live.tell(Event("checks", answer))
        return _json(answer)

    async def ask(self, request: Request) -> Response:
        """The rows to ask people about."""
        folder, _ = await self._run(request)
        budget = request.query_params.get("budget", str(_BUDGET))
        if not _NUMBER.fullmatch(budget) or int(budget) > _MOST_ASKED:
            raise InputError(f"budget is a number of rows, at most {_MOST_ASKED:,}")
        chosen = await _threaded(_chosen, folder, int(budget))
        asked = [{**row.summary(), "id": page_id(row.id)} for row in chosen]
        return _json({"asked": asked})

    async def compare_page(self, request: Request) -> Response:
        """How runs differ."""
        lines = [await self._line(name) for name in request.query_params.getlist("run")]
        runs = [await _threaded(read_folder, self._base / line.name) for line in lines]
        values = await _threaded(compare_values, runs, lines)
        return self._page("compare.html.j2", **values)

    async def new_page(self, _: Request) -> Response:
        """The form for a new run."""
        files = await _threaded(files_to_label, self._folder, self._base)
        return self._page("new.html.j2", files=files, folder=str(self._folder))

    async def new(self, request: Request) -> Response:
        """Start a run."""
        form = await _posted(request)
        arguments = await _threaded(label_arguments, form, self._folder)
        return self._started(await _threaded(self._children.label, arguments, self._folder))

    async def preview(self, request: Request) -> Response:
        """Show what a run would ask, or what it would take."""
        form = await _posted(request)
        forecast = form.pop("forecast", False) is True
        async with self._previewing:  # each is a process: a hasty reader gets them one by one
            if await request.is_disconnected():  # the form is another one by now
                return _json({})
            return _json(await preview(form, self._folder, forecast=forecast))

    async def again(self, request: Request) -> Response:
        """Start a run's command once more, with what people have checked."""
        folder, _ = await self._run(request)
        await _posted(request)
        run = await _threaded(read_folder, folder)
        return self._started(await _threaded(self._children.again, run))

    def _started(self, child: Child) -> Response:
        self._live.tell(Event("child", child.document()))
        return _json(child.document())

    async def children(self, _: Request) -> Response:
        """The runs that were started from pages."""
        children = await _threaded(self._children.all)
        return _json({"children": [child.document() for child in children]})

    async def stop(self, request: Request) -> Response:
        """Ask a run that was started from a page to stop."""
        await _posted(request)
        await _threaded(self._children.stop, request.path_params["child"])
        return _json({})

    async def assets(self, request: Request) -> Response:
        """A style sheet or a script."""
        name = request.path_params["file"]
        path = _VIEW_ASSETS / name
        kind = _ASSET_KINDS.get(path.suffix)
        if name in _REPORT_ASSETS:
            return Response(asset(name), media_type=kind)
        if kind is None or path.parent != _VIEW_ASSETS or not path.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such file")
        return Response(path.read_bytes(), media_type=kind)

    async def _told(self, request: Request, error: Exception) -> Response:
        """An error, as a page to who reads pages and as JSON to all else."""
        if isinstance(error, HTTPException):
            status, words = error.status_code, error.detail
        else:
            status = HTTPStatus.BAD_REQUEST if isinstance(error, InputError) else 500
            words = str(error)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            answer = self._page("error.html.j2", status=status, words=words)
            answer.status_code = status
            return answer
        return _json({"error": words}, status)

    def _page(self, template: str, **values: object) -> Response:
        return HTMLResponse(rendered(template, read_only=self._read_only, **values))

    async def _run(self, request: Request) -> tuple[Path, RunLine]:
        line = await self._line(request.path_params["name"])
        return self._base / line.name, line

    async def _line(self, name: str) -> RunLine:
        line = await self._live.line(name) if run_folder(self._base, name) else None
        if line is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "there is no run of this name here")
        return line


async def _threaded(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))


def _chosen(folder: Path, budget: int) -> Sequence[Asked]:
    return choose_rows(read_folder(folder), budget)


def _own_id(ids: tuple[str | int, ...], asked: str | int) -> str | int:
    """The id as the run has it, which a browser may have made text of."""
    for one in ids:
        if str(one) == str(asked):
            return one
    raise InputError("the run has no row of this id")


async def _posted(request: Request) -> dict[str, Any]:
    """The JSON object that was posted."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "only JSON is taken")
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST_BYTES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {_MOST_BYTES:,} bytes"
            )
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise InputError("what is posted must be a JSON object")
    return said


def _json(value: object, status: int = HTTPStatus.OK) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _sent(event: Event) -> bytes:
    return b"event: " + event.kind.encode() + b"\ndata: " + orjson.dumps(event.data) + b"\n\n"
