"""Runs that are started from the page: processes that outlive the page and the server.

Each is the program's own `label` command in a session of its own. What it prints goes into a log
in `.view/` beside the runs, and with it stands which process it is, so that a server that is
started later knows it too. A process is known by its id and by when it began: the id alone may be
another's by then, and no signal is sent to that.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from icm_client.child_process import last_words
from icm_client.data.values import write_json
from icm_client.data.whole_files import locked
from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run
from icm_client.record.checks import Checks
from icm_client.record.journal import Journal, read
from icm_client.runs.ask import with_options

FOLDER: Final = ".view"
"""In the folder of the runs; its name says that it is no run."""

_CHILDREN: Final = "children.jsonl"
_CHILD: Final = "child"
_WRITTEN: Final = frozenset({"id", "process", "born", "arguments"})
"""What a line of the list has, beside its time."""

_LOCK: Final = "children.lock"
_LOCK_TIMEOUT_S: Final = 10.0  # it is held for as long as it takes to start one process

_MOST: Final = 100
"""Children that are listed, the latest: the log of each is read."""


@dataclass(frozen=True, slots=True)
class Child:
    """A run that was started from a page.

    Attributes:
        id: names it, and its log.
        process: the id of its process; the `RunLine` of its run has it too.
        arguments: of `icm-client`.
        at: when it was started, UTC, ISO 8601.
        running: whether its process lives.
        said: the end of what it has printed: an error, where it failed before its run began.
    """

    id: str
    process: int
    arguments: tuple[str, ...]
    at: str
    running: bool
    said: str

    def document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


class Children:
    """The runs that were started from pages over the runs in `base`."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._folder = base / FOLDER
        self._ours: dict[int, subprocess.Popen[bytes]] = {}

    def all(self) -> list[Child]:
        """Return the last hundred, the latest last.

        Raises:
            RunError: the list of them cannot be read.
        """
        return [
            Child(
                id=event["id"],
                process=event["process"],
                arguments=tuple(event["arguments"]),
                at=event["at"],
                running=self._lives(event),
                said=last_words(self._folder / f"{event['id']}.log"),
            )
            for event in self._listed()[-_MOST:]
        ]

    def ended(self) -> list[Child]:
        """Return those that this server has started and that have ended since the last call."""
        gone = [number for number, one in list(self._ours.items()) if one.poll() is not None]
        for number in gone:
            del self._ours[number]
        return [one for one in self.all() if one.process in gone] if gone else []

    def again(self, run: Run) -> Child:
        """Start the command of a run again, with what people have checked pinned, too.

        The checks are written down as they are now: what is checked later makes another run.

        Raises:
            InputError: nothing is checked, or the run's command cannot be given again.
            RunError: something cannot be read, written or started.
        """
        command, folder = _command_of(run)
        checks = Checks(run.path).read()
        if not checks:
            raise InputError(f"no row of the run {run.name} is checked: check some first")
        name = secrets.token_hex(4)
        path = self._file(f"{name}.pins.jsonl")
        try:
            path.write_bytes(
                b"".join(write_json({"id": one.id, "label": one.label}) + b"\n" for one in checks)
            )
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from error
        # What the first run wrote is not written over: the last --output and --runs count.
        arguments = with_options(command, f"--pin={path}", *self._places(name))
        return self._start(name, arguments, folder)

    def label(self, arguments: Sequence[str], folder: Path) -> Child:
        """Start `icm-client` with the arguments of a `label` in a folder; errors as `again`."""
        name = secrets.token_hex(4)
        return self._start(name, [*arguments, *self._places(name)], folder)

    def stop(self, child_id: str) -> None:
        """Ask a child to stop, as Ctrl-C does: its run keeps what it has, and can go on.

        Raises:
            InputError: there is no such child, or it has ended.
        """
        for event in self._listed():
            if event["id"] == child_id and self._lives(event):
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(event["process"], signal.SIGINT)
                return
        raise InputError("nothing of that name was started here and still runs")

    def _places(self, name: str) -> list[str]:
        return [f"--output={self._file(f'{name}.labels.jsonl')}", f"--runs={self._base.resolve()}"]

    def _file(self, name: str) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self._folder}: cannot be made: {error.strerror}") from error
        if self._folder.is_symlink():
            raise RunError(f"{self._folder} leads elsewhere: remove it, and try again")
        return self._folder.resolve() / name

    def _start(self, name: str, arguments: Sequence[str], folder: Path) -> Child:
        log = self._file(f"{name}.log")
        with self._writing() as journal:  # before the start: what cannot be listed is not started
            try:
                with log.open("wb") as file:
                    process = subprocess.Popen(
                        program(arguments),
                        cwd=folder,
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=file,
                        start_new_session=True,
                    )
            except (OSError, ValueError) as error:  # ValueError: a zero byte in an argument
                raise RunError(f"the run cannot be started: {error}") from error
            self._ours[process.pid] = process
            written = journal.append(
                _CHILD,
                id=name,
                process=process.pid,
                born=_born(process.pid),
                arguments=list(arguments),
            )
        return Child(name, process.pid, tuple(arguments), written["at"], running=True, said="")

    def _listed(self) -> list[dict[str, Any]]:
        return [one for one in read(self._folder / _CHILDREN) if one.keys() >= _WRITTEN]

    @contextmanager
    def _writing(self) -> Iterator[Journal]:
        """The list, to be added to by one server at a time."""
        path = self._file(_CHILDREN)
        busy = RunError(f"{path}: another process has been writing it for long: try again")
        try:
            lock = locked(self._file(_LOCK), busy, timeout_s=_LOCK_TIMEOUT_S)
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            with Journal.open(path) as journal:
                yield journal
        finally:
            lock.release()

    def _lives(self, event: Mapping[str, Any]) -> bool:
        """Whether the process that was started then still is the one of this id."""
        return event["born"] is not None and _born(event["process"]) == event["born"]


def _command_of(run: Run) -> tuple[list[str], Path]:
    """The command of a run and the folder in which it was started."""
    command = [str(word) for word in run.record.get("command") or ()]
    folder = Path(str(run.record.get("folder")))
    why = None
    if not command:
        why = "it was started from Python: make the same call with pins"
    elif command[0] != "label":
        why = f"it was started by icm-client {command[0]}, which takes no pins"
    elif run.record.get("part") is not None:
        why = "it is one of several runs of a command: label its rows alone"
    elif "-" in command:
        why = "its rows came from standard input, and are not kept"
    elif not folder.is_dir():
        why = f"the folder {folder}, in which it was started, is gone"
    if why is not None:
        raise InputError(f"the run {run.name} cannot be started again from here: {why}")
    return command, folder


def program(arguments: Iterable[str]) -> list[str]:
    """Return the command that runs `icm-client` with these arguments."""
    # -P: the user's working folder may hold a json.py.
    return [sys.executable, "-P", "-m", "icm_client", *arguments]


def _born(process: int) -> str | None:
    """When the process of this id began, in the system's own words; None where none lives."""
    boot = ""
    with suppress(OSError):  # some sandboxes have none
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    try:
        about = Path(f"/proc/{process}/stat").read_text("utf-8", errors="replace")
    except OSError:
        if Path("/proc/self").exists() or (ps := shutil.which("ps")) is None:
            return None
        asked = [ps, "-o", "lstart=", "-p", str(process)]
        return (
            subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
            or None
        )
    # After the name, which is in brackets and may hold anything: proc(5) counts from 3 there.
    fields = about.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"
