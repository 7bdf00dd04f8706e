"""Which runs there are and how they go, as their folders say: a line for each, told as it changes.

The folders are looked at a few times a second while somebody listens, and not at all otherwise. A
look is a `stat` of each run's files; of a journal only what is new is read.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from icm_client.record.archive import Run, is_running, read_folder
from icm_client.record.checks import Checks
from icm_client.record.journal import ENDS, PASS, SWEEP, Tail
from icm_client.record.layout import CHECKED, JOURNAL, LABELS, RECORD, RESULT, WHY

INTERVAL_S: Final = 0.3
"""Between two looks: what a run does is seen within a second."""

_MOST_WAITING: Final = 1_000
"""Events that a listener may be behind; a slower one is sent away, and begins anew."""

_AGAIN_S: Final = 5.0
"""After so long a run that could not be read is tried again: the disk or a share may be back."""

_AT_REST: Final[Mapping[str, Any]] = {"done": 0, "total": 0, "left_s": None, "waiting": None}
"""Of a `RunLine` while nothing works on the run."""

_FILES: Final = (RECORD, JOURNAL, LABELS, RESULT, CHECKED, WHY)


class Event(NamedTuple):
    """Something for pages to hear of; `icm_client.view.app` lists the kinds and their JSON."""

    kind: str
    data: Any


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in one line.

    Attributes:
        name: of the run.
        state: "running", "done", "stopped" or "failed".
        reason: why it stopped or failed; None where it did neither, or was killed.
        created: UTC, ISO 8601.
        updated: when the last event happened; None where there is none.
        process: the id of the process that worked on it last.
        data: the name of the rows, as they were given.
        rows: how many there are.
        task: its name, or its template where it has none.
        labels: the task's labels, in its order.
        model: that answers.
        preset: of the search; None until it began.
        seed: of everything random.
        labelled: whether there are labels to look at and to check.
        checked: rows with an answer of a person.
        verdict: on the labels; None without one.
        accuracy: share of the rows with gold that are right; None where there is no gold.
        coherence: `utility` as a share of the labels' entropy.
        utility: `U` after the last sweep (nats an item) or step (the preset's own objective).
        start: the search's start under way, from 1.
        sweep: the last sweep or pass that ended in it, from 1.
        step: the last step of Algorithm 1, from 1.
        counts: label -> items that have it.
        moved: share of the labels that the last sweep changed.
        done: reads answered in the sweep under way.
        total: reads that it needs; 0 between sweeps.
        cost: what the process has used, as `icm_client.runs.progress.Cost`; None while unknown.
        left_s: seconds left at least; None while unknown.
        waiting: why a request is to be sent again; None once an answer has come since.
    """

    name: str
    state: str
    reason: str | None
    created: str
    updated: str | None
    process: int | None
    data: str
    rows: int
    task: str
    labels: tuple[str, ...]
    model: str
    preset: str | None
    seed: int
    labelled: bool
    checked: int
    verdict: str | None
    accuracy: float | None
    coherence: float | None
    utility: float | None
    start: int | None
    sweep: int | None
    step: int | None
    counts: Mapping[str, int]
    moved: float | None
    done: int
    total: int
    cost: Mapping[str, Any] | None
    left_s: float | None
    waiting: str | None

    def document(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What a journal has said so far; the fields are those of `RunLine`."""

    process: int | None = None
    preset: str | None = None
    coherence: float | None = None
    utility: float | None = None
    start: int | None = None
    sweep: int | None = None
    step: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    moved: float | None = None
    done: int = 0
    total: int = 0
    cost: Mapping[str, Any] | None = None
    left_s: float | None = None
    waiting: str | None = None

    def after(self, event: Mapping[str, Any]) -> "_Moment":
        """The moment after an event."""
        now: dict[str, Any] = {}
        match event["event"]:
            case "started" | "resumed":  # the process before may have been killed within a sweep
                now = {"process": event.get("process"), **_AT_REST}
            case "search":
                now = {"preset": event.get("preset")}
            case kind if kind in (SWEEP, PASS):
                counts, moved = event.get("counts") or {}, event.get("moved", 0)
                now = {
                    "coherence": event.get("coherence"),
                    "utility": event.get("utility"),
                    "start": event.get("restart", 0) + 1,
                    "sweep": event.get("sweep", 0) + 1,
                    "counts": counts,
                    # The counts of the first sweep leave its demos out.
                    "moved": moved / max(1, moved, sum(counts.values())),
                    "done": 0,
                    "total": 0,
                    "cost": event.get("cost", self.cost),
                    "waiting": None,
                }
            case "step":
                now = {"utility": event.get("U"), "step": event.get("n"), "waiting": None}
            case "progress":
                now = {name: event.get(name) for name in ("done", "total", "cost", "left_s")}
                now["waiting"] = None
            case "waiting":
                now = {"waiting": event.get("reason")}
            case kind if kind in ENDS:
                now = dict(_AT_REST)
        return replace(self, **now)


class _Followed:
    """A run's folder, of which only what is new is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tail = Tail(path / JOURNAL)
        self._stamps: object = None
        self._again_at = math.inf  # of the monotonic clock
        self._moment = _Moment()
        self.line: RunLine | None = None
        self.note: str | None = None

    def look(self) -> bool:
        """Whether the line is another one than before; there is none of what is no run."""
        stamps = file_stamps(self._path)
        same = stamps == self._stamps and time.monotonic() < self._again_at
        if same and not self._seems_killed():
            return False
        self._stamps, self._again_at, before = stamps, math.inf, self.line
        try:
            if run_folder(self._path.parent, self._path.name) is None:
                self.line = self.note = None
                return before is not None
            known = self._tail.count
            events = self._tail.new()
            if self._tail.count < known + len(events):  # the run was started over
                self._moment = _Moment()
            for event in events:
                self._moment = self._moment.after(event)
            run = read_folder(self._path, (self._tail.count, self._tail.last))
            self.line, self.note = self._line(run), None
        except Exception as error:  # noqa: BLE001 - a folder that cannot be read hides no other
            self.line, self.note = None, f"not listed: {error}"
            # What was read of the journal may not have been taken in: it is read whole then.
            self._again_at = time.monotonic() + _AGAIN_S
            self._tail, self._moment = Tail(self._path / JOURNAL), _Moment()
        return self.line != before

    def _seems_killed(self) -> bool:
        """Whether the process of a run that is shown as running has gone without a word."""
        running = self.line is not None and self.line.state == "running"
        return running and not is_running(self._path)

    def _line(self, run: Run) -> RunLine:
        record, result, moment = run.record, run.result or {}, self._moment
        if run.state != "running":
            moment = replace(moment, **_AT_REST)
        if run.state != "running" and result:
            moment = replace(
                moment,
                preset=result.get("preset", moment.preset),
                coherence=result.get("coherence"),
                utility=result.get("utility", moment.utility),
                counts=result.get("counts", moment.counts),
                cost=result.get("cost", moment.cost),
            )
        task = record["task"]
        return RunLine(
            name=run.name,
            state=run.state,
            reason=run.reason,
            created=run.created,
            updated=run.updated,
            data=str(record["data"]),
            rows=int(record["rows"]),
            task=str(task.get("name") or task["template"]),
            labels=tuple(map(str, task["labels"])),
            model=str(record["server"].get("model")),
            seed=int(record["seed"]),
            labelled=bool(result) and (run.path / LABELS).is_file(),
            checked=len(Checks(run.path).read()),
            verdict=result.get("verdict"),
            accuracy=result.get("accuracy"),
            **{name: getattr(moment, name) for name in _Moment.__slots__},
        )


def file_stamps(
    folder: Path, names: Sequence[str] = _FILES
) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what changes as soon as one of these files of a run does."""
    found: list[tuple[int, int, int] | None] = []
    root = str(folder)
    for name in names:
        try:
            # Many times a second: a path object takes five times as long.
            about = os.stat(f"{root}{os.sep}{name}")  # noqa: PTH116
            found.append((about.st_mtime_ns, about.st_size, about.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


def run_folder(base: Path, name: str) -> Path | None:
    """Return the folder of the run of this name; None where there is none within `base`.

    A name is one part of a path. Neither the folder nor a file in it may be a link to elsewhere.
    """
    if name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        return None
    folder, root = base / name, base.resolve()
    try:
        inside = all(
            not path.is_symlink() or path.resolve().is_relative_to(root)
            for path in (folder, *(folder / file for file in _FILES))
        )
        return folder if inside and (folder / RECORD).is_file() else None
    except (OSError, RuntimeError):  # a name that is too long, a link to itself
        return None


class LiveRuns:
    """The runs of a folder, and those who listen to what becomes of them."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._followed: dict[str, _Followed] = {}
        self._looking = anyio.Lock()
        self._listeners: set[MemoryObjectSendStream[Event]] = set()
        self._listened = anyio.Event()

    async def lines(self) -> tuple[list[RunLine], list[str]]:
        """Return the runs as they are now, the one that was worked on last first, and notes."""
        await self._look()
        every = list(self._followed.values())
        lines = [one.line for one in every if one.line is not None]
        lines.sort(key=lambda line: (line.updated or line.created, line.name), reverse=True)
        return lines, [one.note for one in every if one.note is not None]

    async def line(self, name: str) -> RunLine | None:
        """Return one run's line; None where there is no such run, or it cannot be read."""
        await self._look()
        followed = self._followed.get(name)
        return None if followed is None else followed.line

    def tell(self, event: Event) -> None:
        """Tell all who listen."""
        for listener in list(self._listeners):
            try:
                listener.send_nowait(event)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._listeners.discard(listener)
                listener.close()

    def close(self) -> None:
        """Send all who listen away: the server ends."""
        for listener in list(self._listeners):
            listener.close()
        self._listeners.clear()

    @contextmanager
    def listening(self) -> Iterator[MemoryObjectReceiveStream[Event]]:
        """Give the events from now on; the stream ends where a listener is too slow."""
        send, receive = anyio.create_memory_object_stream[Event](_MOST_WAITING)
        self._listeners.add(send)
        self._listened.set()
        try:
            with receive:
                yield receive
        finally:
            self._listeners.discard(send)
            send.close()

    async def watch(self) -> None:
        """Look again and again while somebody listens; it ends when it is cancelled."""
        while True:
            if not self._listeners:
                self._listened = anyio.Event()
                await self._listened.wait()
            await self._look()
            await anyio.sleep(INTERVAL_S)

    async def _look(self) -> None:
        async with self._looking:
            for event in await anyio.to_thread.run_sync(self._changes):
                self.tell(event)

    def _changes(self) -> list[Event]:
        try:
            names = {one.name for one in os.scandir(self._base) if not one.name.startswith(".")}
        except OSError:
            names = set()
        told = [
            Event("gone", {"name": name})
            for name in self._followed.keys() - names
            if self._followed.pop(name).line is not None
        ]
        for name in sorted(names):
            followed = self._followed.get(name)
            if followed is None:
                followed = self._followed[name] = _Followed(self._base / name)
            if followed.look():
                line = followed.line
                told.append(
                    Event("gone", {"name": name}) if line is None else Event("run", line.document())
                )
        return told
