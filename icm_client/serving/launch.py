"""Start a server, wait until it answers, and stay with it until it ends.

The server runs in a session of its own, so that Ctrl-C reaches it once and through here. Whatever
happens, no process of it is left: not after a signal, a crash, or a kill -9 of this process.
"""

import http.client
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

import click

from icm_client.errors import IcmError, SetupError
from icm_client.serving.processes import (
    adopt_orphans,
    dying_with_parent,
    end_all,
    reason_in,
    signal_in,
    signal_of,
    without_prefix,
)

GRACE_S: Final = 30.0
"""For the server to end in order after a signal; requests under way are not waited for."""
LEFTOVER_GRACE_S: Final = 3.0
"""For each of SIGTERM and SIGKILL, to what the server left behind."""

_LOOK_S: Final = 0.2
_HEALTH_TIMEOUT_S: Final = 2.0
_LINE_EVERY_S: Final = 15.0
_TAIL: Final = 200_000
"""Bytes of the log's end in which the reason is looked for."""
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerFailed(IcmError):
    """The server did not start, or ended though nobody asked it to.

    The message says why, as far as that is known, and where its log is.
    """

    def __init__(self, message: str, *, status: int) -> None:
        """Keep what the server exited with (128 + N after signal N), or 1 where that is 0."""
        super().__init__(message)
        self.status = status or 1


@dataclass(slots=True)
class _Signals:
    """Those that came; a handler may do no more than note them."""

    came: list[int] = field(default_factory=list)

    def note(self, number: int, _: object) -> None:
        self.came.append(number)


class Launch:
    """One server from start to end. `run` is all there is to do.

    Must be called from the main thread of a process of its own: signals are handled, and every
    descendant of this process is ended at the end.

    Args:
        command: the words that start the server.
        environment: of its process.
        url: where it answers `/health` with 200 once it is ready.
        log: its output goes there; None leaves it on this process's own.
        start_timeout_s: it must be ready by then, in seconds.
        grace_s: it has this long to end after a signal, in seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        url: str,
        log: Path | None,
        start_timeout_s: float,
        grace_s: float = GRACE_S,
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._url = url
        self._log = log
        self._start_timeout_s = start_timeout_s
        self._grace_s = grace_s
        self._signals = _Signals()
        self._forwarded = 0
        self._ends_by: float | None = None

    def run(self, ready: Sequence[str]) -> int:
        """Start, print `ready` when it answers, wait for the end; return the exit status.

        128 + N where signal N ended it.

        Raises:
            SetupError: the log cannot be written, or the program cannot be started.
            ServerFailed: it did not answer in time, or failed, was killed or ended by itself, then
                or later.
        """
        adopt_orphans()
        with self._output() as output, self._handled():
            process = self._started(output)
            try:
                self._wait_until_ready(process, ready)
                while self._is_running(process):
                    time.sleep(_LOOK_S)
                self._check_asked_to_end(process)
            finally:
                self._end(process)
        return _status(process.returncode)

    def _started(self, output: IO[bytes] | None) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                # This process has one thread, so that nothing can be locked at the fork.
                preexec_fn=dying_with_parent,  # noqa: PLW1509
            )
        except OSError as error:
            raise SetupError(f"cannot start {self._command[0]}: {error.strerror}") from error

    def _wait_until_ready(self, process: subprocess.Popen[bytes], ready: Sequence[str]) -> None:
        begun = time.monotonic()
        progress = _ProgressLine(self._log)
        while self._is_running(process):
            elapsed_s = time.monotonic() - begun
            if not self._signals.came and _is_healthy(self._url):
                progress.end()
                click.echo(f"Ready after {elapsed_s:.0f} s.", err=True)
                for line in ready:
                    click.echo(line)
                return
            if elapsed_s > self._start_timeout_s:
                progress.end()
                self._end(process)
                raise ServerFailed(
                    f"the server did not answer {self._url}/health in {self._start_timeout_s:g} s "
                    f"(--start-timeout){self._where()}",
                    status=1,
                )
            progress.show(elapsed_s)
            time.sleep(_LOOK_S)
        progress.end()
        if not self._signals.came:
            status = _status(process.returncode)
            raise ServerFailed(
                f"{self._reason(status, 'did not start')}{self._where()}", status=status
            )

    def _check_asked_to_end(self, process: subprocess.Popen[bytes]) -> None:
        if self._signals.came:
            return
        status = _status(process.returncode)
        reason = (
            self._reason(status, "ended")
            if status
            else "the server ended by itself, with exit status 0 though nobody asked it to"
        )
        raise ServerFailed(f"{reason}{self._where()}", status=status)

    def _is_running(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it runs still; hands on the signals that came, and kills it when it is late."""
        while self._forwarded < len(self._signals.came):
            number = self._signals.came[self._forwarded]
            self._forwarded += 1
            if self._forwarded == 1:
                click.echo("\nEnding the server (again: at once) ...", err=True)
                self._ends_by = time.monotonic() + self._grace_s
                process.send_signal(number)
            else:
                self._ends_by = time.monotonic()
        if self._ends_by is not None and time.monotonic() >= self._ends_by:
            self._end(process)
        return process.poll() is None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """The leader first, so that its own status is known; then whatever it left."""
        if process.poll() is None:
            process.terminate() if self._ends_by is None else process.kill()
            try:
                process.wait(self._grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end_all(process.pid, grace_s=LEFTOVER_GRACE_S)

    def _reason(self, status: int, what: str) -> str:
        """What became of a server that `what`, in words."""
        log = ""
        if self._log is not None:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _TAIL))
                log = file.read().decode("utf-8", "replace")
        reason = reason_in(log)
        number = signal_of(status) or signal_in(log)
        if number is not None:
            return f"the server {what}: {_killed_by(number)}{f' ({reason})' if reason else ''}"
        return f"the server {what}: {reason or f'exit status {status}'}"

    def _where(self) -> str:
        return f"; its log: {self._log}" if self._log is not None else ""

    @contextmanager
    def _output(self) -> Iterator[IO[bytes] | None]:
        if self._log is None:
            yield None
            return
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            file = self._log.open("wb")
        except OSError as error:
            raise SetupError(
                f"cannot write {self._log} ({error.strerror}); set ICM_CACHE_DIR to a folder that "
                "can be written, or take --show-log"
            ) from error
        with file:
            yield file

    @contextmanager
    def _handled(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._signals.note) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _ProgressLine:
    """Seconds so far and the log's last words: one line on a terminal, else now and then one."""

    def __init__(self, log: Path | None) -> None:
        self._log = log
        self._terminal = log is not None and sys.stderr.isatty()
        self._told_s = 0.0

    def show(self, elapsed_s: float) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns
            click.echo(f"\r\033[K{self._line(elapsed_s)[: width - 1]}", nl=False, err=True)
        elif self._log is not None and elapsed_s - self._told_s >= _LINE_EVERY_S:
            self._told_s = elapsed_s
            click.echo(self._line(elapsed_s), err=True)

    def end(self) -> None:
        if self._terminal:
            click.echo("\r\033[K", nl=False, err=True)

    def _line(self, elapsed_s: float) -> str:
        return f"Starting, {elapsed_s:.0f} s: {self._last_words()}"

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 2000))
            lines = file.read().decode("utf-8", "replace").split("\n")
        words = [without_prefix(line.split("\r")[-1]).strip() for line in lines]
        return next((line for line in reversed(words) if line), "...")[:120]


def _is_healthy(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=_HEALTH_TIMEOUT_S
    )
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _killed_by(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return f"it was killed by {name}: out of memory? (`dmesg` tells)"
    return f"it was killed by {name}"


def _status(returncode: int | None) -> int:
    """As a shell gives it."""
    if returncode is None:
        raise AssertionError
    return returncode if returncode >= 0 else 128 - returncode
