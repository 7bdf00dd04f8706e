"""The launcher, as a process of its own, with a server that forks."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("forking_server.py")
ROLES = ("main", "worker", "grandchild")

LAUNCHER = """
import os, sys
from pathlib import Path
from icm_client.serving.launch import Launch, ServerFailed
port, log, timeout, *words = sys.argv[1:]
launch = Launch(
    [sys.executable, *words], os.environ, url=f"http://127.0.0.1:{port}",
    log=Path(log), start_timeout_s=float(timeout), grace_s=1.0,
)
try:
    sys.exit(launch.run(["it is ready"]))
except ServerFailed as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(error.status)
"""


BLOCK = """
import os, sys, time
from pathlib import Path
from icm_client.serving.launch import Launch, ServerFailed, StartInterrupted
port, log, timeout, *words = sys.argv[1:]
launch = Launch(
    [sys.executable, *words], os.environ, url=f"http://127.0.0.1:{port}",
    log=Path(log), start_timeout_s=float(timeout), grace_s=1.0,
)
try:
    with launch.serving() as has_ended:
        print("it is ready", flush=True)
        while not has_ended() and not Path(words[2], "go on").exists():
            time.sleep(0.05)
        if has_ended():
            raise ConnectionError("nobody answers")
    print("after it", flush=True)
except StartInterrupted as came:
    sys.exit(128 + came.number)
except ServerFailed as error:
    print(f"Error: {error} (from {error.__cause__!r})", file=sys.stderr)
    sys.exit(error.status)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Launched:
    def __init__(
        self, folder: Path, *words: str, timeout_s: float = 30.0, script: str = LAUNCHER
    ) -> None:
        self.folder = folder
        port = free_port()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                script,
                str(port),
                str(folder / "server.log"),
                str(timeout_s),
                str(SERVER),
                str(port),
                str(folder),
                *words,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "it is ready\n"

    def pids(self) -> dict[str, int]:
        """Role -> its process, once all of them have written theirs."""
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError, ValueError):
                return {role: int((self.folder / role).read_text("ascii")) for role in ROLES}
            assert time.monotonic() < deadline, "not all processes of the server started"
            time.sleep(0.05)

    def end(self, timeout_s: float = 20.0) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, errors


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return False


def assert_all_gone(pids: dict[str, int], within_s: float = 0.0) -> None:
    deadline = time.monotonic() + within_s
    while (left := {role for role, pid in pids.items() if alive(pid)}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not left


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[list[Launched]]:
    """Whatever a test fails over, none of its processes stays."""
    started: list[Launched] = []
    yield started
    for launched in started:
        if launched.process.poll() is None:
            launched.process.kill()
            launched.process.communicate()
        for role in ROLES:
            with suppress(OSError, ValueError):
                os.kill(int((tmp_path / role).read_text("ascii")), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on_and_nothing_is_left(
    number: signal.Signals, launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path))
    launched.wait_until_ready()
    pids = launched.pids()
    assert all(map(alive, pids.values()))
    launched.process.send_signal(number)
    status, errors = launched.end()
    assert status == 3, "the server's own exit status"
    assert (tmp_path / "signal").read_text("ascii") == str(int(number))
    assert "Ending the server" in errors
    assert_all_gone(pids)


def test_what_an_orderly_server_forgets_is_ended_too(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, "--orphan"))
    launched.wait_until_ready()
    pids = launched.pids()
    launched.process.send_signal(signal.SIGINT)
    assert launched.end()[0] == 3
    assert_all_gone(pids)


def test_a_deaf_server_is_killed_after_its_grace(launch: list[Launched], tmp_path: Path) -> None:
    launch.append(launched := Launched(tmp_path, "--deaf"))
    launched.wait_until_ready()
    pids = launched.pids()
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end()[0] == 128 + signal.SIGKILL
    assert_all_gone(pids)


def test_a_second_ctrl_c_does_not_wait(launch: list[Launched], tmp_path: Path) -> None:
    launch.append(launched := Launched(tmp_path, "--deaf"))
    launched.wait_until_ready()
    pids = launched.pids()
    launched.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    launched.process.send_signal(signal.SIGINT)
    assert launched.end()[0] == 128 + signal.SIGKILL
    assert_all_gone(pids)


def test_ctrl_c_while_it_loads_leaves_nothing(launch: list[Launched], tmp_path: Path) -> None:
    launch.append(launched := Launched(tmp_path, "--late", "60"))
    pids = launched.pids()
    launched.process.send_signal(signal.SIGINT)
    status, errors = launched.end()
    assert (status, "Error" in errors) == (3, False)
    assert_all_gone(pids)


def test_a_launcher_that_is_killed_takes_the_server_with_it(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path))
    launched.wait_until_ready()
    pids = launched.pids()
    launched.process.kill()
    launched.process.communicate()
    # Nobody is left to end what a server forgets: those that it knows of are gone.
    assert_all_gone({role: pids[role] for role in ("main", "worker")}, within_s=10)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "it was killed by SIGKILL (out of memory? see `dmesg`)"),
        (signal.SIGSEGV, "it was killed by SIGSEGV"),
        (signal.SIGTERM, "exit status 3"),  # which it handles
    ],
)
def test_a_server_that_dies_ends_the_launcher_with_its_status_and_a_word(
    launch: list[Launched], tmp_path: Path, number: signal.Signals, words: str
) -> None:
    launch.append(launched := Launched(tmp_path))
    launched.wait_until_ready()
    pids = launched.pids()
    os.kill(pids["main"], number)
    status, errors = launched.end()
    assert status == (3 if number == signal.SIGTERM else 128 + number)
    assert errors.endswith(f"Error: the server ended: {words}; its log: {tmp_path}/server.log\n")
    assert_all_gone(pids)


def test_a_server_that_ends_by_itself_in_order_is_reported_too(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, "--stops"))
    launched.wait_until_ready()
    status, errors = launched.end()
    assert status == 1
    assert errors.endswith(
        "Error: the server ended by itself, with exit status 0 though nobody asked it to; its log: "
        f"{tmp_path}/server.log\n"
    )
    assert_all_gone(launched.pids())


def test_a_server_that_ends_in_order_after_a_signal_is_no_failure(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, "--in-order"))
    launched.wait_until_ready()
    launched.process.send_signal(signal.SIGTERM)
    status, errors = launched.end()
    assert (status, "Error" in errors) == (0, False)
    assert_all_gone(launched.pids())


def test_a_server_that_is_killed_as_it_starts_is_reported_with_the_signal(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, "--killed", "9"))
    status, errors = launched.end()
    assert status == 128 + signal.SIGKILL
    assert errors == (
        "Error: the server did not start: it was killed by SIGKILL (out of memory? see `dmesg`); "
        f"its log: {tmp_path}/server.log\n"
    )


def test_a_server_that_does_not_start_is_reported_in_one_line(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, "--exit", "5"))
    status, errors = launched.end()
    assert status == 5
    assert errors == (
        "Error: the server did not start: ValueError: no such thing as a model; its log: "
        f"{tmp_path}/server.log\n"
    )


def test_a_server_that_is_never_ready_is_given_up(launch: list[Launched], tmp_path: Path) -> None:
    launch.append(launched := Launched(tmp_path, "--late", "60", timeout_s=1.0))
    status, errors = launched.end()
    assert status == 1
    assert "in 1 s (--start-timeout)" in errors
    assert_all_gone(launched.pids())


def test_a_block_has_a_server_that_is_gone_when_it_ends(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, "--orphan", script=BLOCK))
    launched.wait_until_ready()
    pids = launched.pids()
    assert all(map(alive, pids.values()))
    (tmp_path / "go on").touch()
    output, errors = launched.process.communicate(timeout=20)
    assert (launched.process.returncode, output) == (0, "after it\n")
    assert errors.startswith("Ready after ")
    assert (tmp_path / "signal").read_text("ascii") == str(int(signal.SIGTERM))
    assert_all_gone(pids)


def test_a_block_whose_server_dies_says_why_it_did(launch: list[Launched], tmp_path: Path) -> None:
    launch.append(launched := Launched(tmp_path, script=BLOCK))
    launched.wait_until_ready()
    pids = launched.pids()
    os.kill(pids["main"], signal.SIGKILL)
    status, errors = launched.end()
    assert status == 128 + signal.SIGKILL
    assert "Error: the server ended: it was killed by SIGKILL" in errors
    assert "(from ConnectionError('nobody answers'))" in errors
    assert_all_gone(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_server_of_a_block_loads_leaves_nothing(
    number: signal.Signals, launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, "--late", "60", script=BLOCK))
    pids = launched.pids()
    launched.process.send_signal(number)
    assert launched.end()[0] == 128 + number
    assert_all_gone(pids)


def test_ctrl_c_in_a_block_and_one_more_end_a_deaf_server_at_once(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, "--deaf", script=BLOCK))
    launched.wait_until_ready()
    pids = launched.pids()
    launched.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    launched.process.send_signal(signal.SIGINT)
    _, errors = launched.end(timeout_s=5.0)
    assert "KeyboardInterrupt" in errors
    assert_all_gone(pids)


def test_a_block_that_is_killed_takes_its_server_with_it(
    launch: list[Launched], tmp_path: Path
) -> None:
    launch.append(launched := Launched(tmp_path, script=BLOCK))
    launched.wait_until_ready()
    pids = launched.pids()
    launched.process.kill()
    launched.process.communicate()
    assert_all_gone({role: pids[role] for role in ("main", "worker")}, within_s=10)
