"""How many threads are started where others use the CPU too."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icm_client.cores import busy_cores, physical_cores, threads_beside

needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="there is no /proc/stat")


@pytest.mark.parametrize(
    ("there", "busy", "threads"),
    [(2, 0.0, 2), (2, 0.2, 2), (2, 0.5, 1), (2, 5.0, 1), (1, 1.0, 1), (16, 0.9, 15), (16, 4.0, 12)],
)
def test_every_thread_has_a_core_of_its_own(there: int, busy: float, threads: int) -> None:
    assert threads_beside(there, busy) == threads


def stat(*ticks: tuple[int, int]) -> str:
    """/proc/stat with each CPU's busy and idle ticks; what guests had is in the first already."""
    lines = [f"cpu{n} {busy} 0 0 {idle} 0 0 0 0 {busy} 0" for n, (busy, idle) in enumerate(ticks)]
    return "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 5"])


def test_what_others_use_is_measured_now_and_on_our_own_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stat"
    file.write_text(stat((1000, 0), (50, 950), (0, 1000)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    after = stat((1000, 100), (125, 975), (100, 1000))
    monkeypatch.setattr(time, "sleep", lambda _: file.write_text(after))
    assert busy_cores(file) == 0.75


def test_without_proc_stat_the_load_average_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0), raising=False)
    assert busy_cores(tmp_path / "none") == 1.5
    (tmp_path / "odd").write_text("cpu0 words\n")
    assert busy_cores(tmp_path / "odd") == 1.5


@needs_proc
def test_a_program_that_computes_is_seen() -> None:
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        assert 0.3 < busy_cores() <= (os.cpu_count() or 1)
    finally:
        spin.kill()
        spin.wait()


@pytest.mark.parametrize(
    ("quota", "cores_of_it"), [("150000", 2), ("100000", 1), ("-1", None), ("nonsense", None)]
)
def test_a_containers_share_by_the_first_version_of_control_groups(
    tmp_path: Path, quota: str, cores_of_it: int | None
) -> None:
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    everything = physical_cores(tmp_path / "none" / "cpu.max")
    assert physical_cores(tmp_path / "cpu.max") == min(cores_of_it or everything, everything)
