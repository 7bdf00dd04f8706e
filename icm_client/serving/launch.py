"""Start a server, wait until it answers, and stay with it until it ends: `Launch.run`.

`Launch.serving` does so for as long as a block of code uses it.

The server runs in a session of its own, so that Ctrl-C reaches it once, through this process.
Whatever happens, none of its processes is left: not after a signal, a crash, or a SIGKILL of this
process.
"""

import http.client
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
"""Time for the server to shut down after a signal; it does not finish the requests under way."""
LEFTOVER_GRACE_S: Final = 3.0
"""Time for processes that the server left behind to end, after each of SIGTERM and SIGKILL."""

_LOOK_S: Final = 0.2
_HEALTH_TIMEOUT_S: Final = 2.0
_LINE_EVERY_S: Final = 15.0
_TAIL: Final = 200_000
"""Bytes at the log's end that are searched for the reason."""
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerFailed(IcmError):
    """The server did not start, or ended though nobody asked it to.

    The message says why, as far as that is known, and where its log is. `status` is what the server
    exited with (128 + N after signal N), or 1 where that is 0.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status or 1


class StartInterrupted(Exception):
    """A signal came while the server started; it has been ended.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Launch:
    """One server from start to end; call `run`, or use `serving`.

    It must be used in the main thread of a process of its own: signals are handled, and every
    descendant of this process is ended.

    Args:
        command: the words that start the server.
        environment: of its process.
        url: where it answers `/health` with 200 once it is ready.
        log: the file for its output; None leaves the output on this process's own.
        start_timeout_s: the time within which it must be ready, in seconds.
        grace_s: the time that it has to end after a signal, in seconds.
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
        self._came: list[int] = []
        """Signals; a handler may do no more than note them."""
        self._forwarded = 0
        self._ends_by: float | None = None

    def run(self, ready: Sequence[str]) -> int:
        """Start it, print `ready` when it answers, wait for its end; return its exit status.

        The status is 128 + N where signal N ended it. Raises as `serving`.
        """
        adopt_orphans()
        with self._output() as output, self._handled():
            process = self._started(output)
            try:
                self._wait_until_ready(process, ready)
                while self._is_running(process):
                    time.sleep(_LOOK_S)
                self._check_asked_to_end(process, "ended")
            finally:
                self._end(process)
        return _status(process)

    @contextmanager
    def serving(self) -> Iterator[Callable[[], bool]]:
        """Start it, wait until it answers, let the block use it, and end it.

        Signals that come in the block are the block's: the server is in another session, and does
        not see Ctrl-C. One that comes while the server is being ended kills it at once.

        Yields:
            What says whether it has ended, though nobody asked it to.

        Raises:
            SetupError: the log cannot be written, or the program cannot be started.
            ServerFailed: it did not answer in time, or it failed, was killed or ended by itself, at
                its start or in the block; then from the block's own error, if that has one.
            StartInterrupted: a signal came before it was ready.
        """
        adopt_orphans()
        with self._output() as output:
            with self._handled():
                process = self._started(output)
                try:
                    self._wait_until_ready(process, ())
                except BaseException:
                    self._end(process)
                    raise
                if self._came:
                    self._end(process)
                    raise StartInterrupted(self._came[0])
            try:
                yield lambda: process.poll() is not None
            except Exception as error:
                self._check_not_ended(process, error)
                raise
            else:
                self._check_not_ended(process, None)
            finally:
                with self._handled():
                    self._came.append(signal.SIGTERM)  # so that the next one does not wait
                    self._forwarded = len(self._came)
                    if process.poll() is None:
                        process.terminate()
                        self._ends_by = time.monotonic() + self._grace_s
                    while self._is_running(process):
                        time.sleep(_LOOK_S)
                    self._end(process)

    def _check_not_ended(self, process: subprocess.Popen[bytes], error: Exception | None) -> None:
        """Raise `ServerFailed` from the block's error if the server has ended by then."""
        if process.poll() is None:
            return
        try:
            self._check_asked_to_end(process, "ended")
        except ServerFailed as failed:
            failed.goes_on = isinstance(error, IcmError) and error.goes_on
            raise failed from error

    def _started(self, output: IO[bytes] | None) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                # No other thread of this process is in Python code, nor does one allocate memory.
                preexec_fn=dying_with_parent,  # noqa: PLW1509
            )
        except OSError as error:
            raise SetupError(f"cannot start {self._command[0]}: {error.strerror}") from error

    def _wait_until_ready(self, process: subprocess.Popen[bytes], ready: Sequence[str]) -> None:
        begun = time.monotonic()
        progress = _ProgressLine(self._log)
        while self._is_running(process):
            elapsed_s = time.monotonic() - begun
            if not self._came and _is_healthy(self._url):
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
        self._check_asked_to_end(process, "did not start")

    def _check_asked_to_end(self, process: subprocess.Popen[bytes], what: str) -> None:
        """Raise `ServerFailed` if no signal came; `what` it did is "ended" or "did not start"."""
        if self._came:
            return
        status, log = _status(process), _end_of(self._log, _TAIL)
        reason = reason_in(log)
        if number := signal_of(status) or signal_in(log):
            words = f"{what}: {_killed_by(number)}{f' ({reason})' if reason else ''}"
        elif what == "ended" and status == 0:
            words = "ended by itself, with exit status 0 though nobody asked it to"
        else:
            words = f"{what}: {reason or f'exit status {status}'}"
        raise ServerFailed(f"the server {words}{self._where()}", status=status)

    def _is_running(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it still runs; passes on the signals that came, and kills it when it is late."""
        while self._forwarded < len(self._came):
            number = self._came[self._forwarded]
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
        """End the main process first, so that its own status is known, then all that it left."""
        if process.poll() is None:
            process.terminate() if self._ends_by is None else process.kill()
            try:
                process.wait(self._grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end_all(process.pid, grace_s=LEFTOVER_GRACE_S)

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
                "can be written, or use --show-log"
            ) from error
        with file:
            yield file

    @contextmanager
    def _handled(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, lambda came, _: self._came.append(came))
            for number in _FORWARDED
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _ProgressLine:
    """The seconds so far and the log's last line: redrawn on a terminal, else printed at times."""

    def __init__(self, log: Path | None) -> None:
        self._log = log
        self._terminal = log is not None and sys.stderr.isatty()
        self._shown_s = 0.0

    def show(self, elapsed_s: float) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns
            click.echo(f"\r\033[K{self._line(elapsed_s)[: width - 1]}", nl=False, err=True)
        elif self._log is not None and elapsed_s - self._shown_s >= _LINE_EVERY_S:
            self._shown_s = elapsed_s
            click.echo(self._line(elapsed_s), err=True)

    def end(self) -> None:
        if self._terminal:
            click.echo("\r\033[K", nl=False, err=True)

    def _line(self, elapsed_s: float) -> str:
        return f"Starting, {elapsed_s:.0f} s: {self._last_words()}"

    def _last_words(self) -> str:
        lines = _end_of(self._log, 2000).split("\n")
        words = [without_prefix(line.split("\r")[-1]).strip() for line in lines]
        return next((line for line in reversed(words) if line), "...")[:120]


def _end_of(log: Path | None, size: int) -> str:
    """The last `size` bytes of the log as text, "" where there is none."""
    if log is None:
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode("utf-8", "replace")


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
    names = {one.value: one.name for one in signal.Signals}
    hint = " (out of memory? see `dmesg`)" if number == signal.SIGKILL else ""
    return f"it was killed by {names.get(number, f'signal {number}')}{hint}"


def _status(process: subprocess.Popen[bytes]) -> int:
    """The exit status of an ended process as a shell reports it: 128 + N after signal N."""
    return process.returncode if process.returncode >= 0 else 128 - process.returncode
