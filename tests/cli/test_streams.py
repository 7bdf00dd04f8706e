"""Terminals that are not UTF-8, pipes that nobody reads, closed streams and full disks."""

import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import orjson
import pytest
from shells import shell

from icm_client import Task
from icm_client.testing import PlantedConcept, PlantedServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX"),
]

N = 24
TASK = Task(template="Review: {text}\nSentiment:", labels=("好", "ärgerlich"))
RUN = "label rows.jsonl -o out.jsonl --task task.toml -e {url}"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PlantedServer]:
    rows = [{"id": f"行{n}", "text": f"words of row {n}"} for n in range(N)]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    (tmp_path / "task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["好", "ärgerlich"]\n', "utf-8"
    )
    prompts = {TASK.template.format(**row): n * 7 % 5 % 2 for n, row in enumerate(rows)}
    async with PlantedServer(PlantedConcept(prompts, TASK.label_texts)) as started:
        yield started


def written(folder: Path) -> int:
    return len((folder / "out.jsonl").read_bytes().splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
async def test_labels_outside_the_terminals_characters_are_printed_with_escapes(
    tmp_path: Path, server: PlantedServer, encoding: str
) -> None:
    done = await shell(
        tmp_path, f"icm {RUN.format(url=server.url)}", LC_ALL="C", PYTHONIOENCODING=encoding
    )
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
    assert "\\u597d" in done.out
    # What the terminal has is printed as it is.
    assert ("\\xe4rgerlich" if encoding == "ascii" else "ärgerlich") in done.out
    assert written(tmp_path) == N


@pytest.mark.parametrize("closed", ["2>&1 | head -1", "2>&1 | true", "2>&1 >/dev/null | head -1"])
async def test_a_reader_who_leaves_does_not_end_a_run(
    tmp_path: Path, server: PlantedServer, closed: str
) -> None:
    done = await shell(tmp_path, f"icm {RUN.format(url=server.url)} {closed}")
    assert done.status == 0
    assert "Traceback" not in done.out + done.err
    assert written(tmp_path) == N


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
async def test_closed_streams_do_not_end_a_run_and_no_file_takes_their_place(
    tmp_path: Path, server: PlantedServer, closed: str
) -> None:
    done = await shell(tmp_path, f"icm {RUN.format(url=server.url)} {closed}")
    assert done.status == 0, done.err
    assert written(tmp_path) == N
    (run,) = (tmp_path / "runs").iterdir()
    for line in (run / "journal.jsonl").read_bytes().splitlines():
        orjson.loads(line)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
async def test_a_full_disk_takes_no_labels_with_it(tmp_path: Path, server: PlantedServer) -> None:
    line = f"icm {RUN.format(url=server.url)}"
    done = await shell(tmp_path, f"{line} >/dev/full")
    assert done.status == 1
    assert done.err.endswith("Error: standard output cannot be written: No space left on device\n")
    assert "Traceback" not in done.err
    assert written(tmp_path) == N
    done = await shell(tmp_path, f"{line} --json >/dev/full")
    assert done.status == 1
    # Progress and warnings are dropped where they cannot be written.
    (tmp_path / "out.jsonl").unlink()
    done = await shell(tmp_path, f"{line} --fresh 2>/dev/full")
    assert done.status == 0
    assert "verdict" in done.out
    assert written(tmp_path) == N


async def test_listings_end_quietly_where_head_has_read_enough(
    tmp_path: Path, server: PlantedServer
) -> None:
    done = await shell(tmp_path, f"icm {RUN.format(url=server.url)}")
    assert done.status == 0, done.err
    for command in ("runs list", "runs list --json", "store info", "-h"):
        done = await shell(tmp_path, f"icm {command} | true")
        assert (done.status, done.err) == (0, ""), command
    done = await shell(tmp_path, "icm runs show nothing | true")
    assert done.status == 2
    assert "no run" in done.err


async def test_a_pipe_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    """As a terminal's programs leave it, or a parent that reads with an event loop."""
    fill = (
        "import os, click; from icm_client.cli.main import main\n"
        "os.set_blocking(1, False)\n"
        "main(click.Command('f', callback=lambda: click.echo('x' * 1_000_000)))"
    )
    done = await shell(tmp_path, f"{sys.executable} -c {shlex.quote(fill)} | (sleep 1; wc -c)")
    assert (done.status, done.out.strip(), done.err) == (0, "1000001", "")


async def test_watch_ends_when_nobody_reads_it(tmp_path: Path, server: PlantedServer) -> None:
    with anyio.fail_after(30):
        done = await shell(tmp_path, f"icm watch -e {server.url} --interval 0.1 | head -2")
    assert done.status == 0, done.err
    assert done.out.count("\n") == 2


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
async def test_arguments_that_are_no_text_are_refused_before_anything_is_asked(
    tmp_path: Path, server: PlantedServer, locale: str
) -> None:
    plain = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": locale}
    options = f"-o out.jsonl -e {server.url} --labels a,b --template"
    for line in (
        f"icm label rows.jsonl {options} $'caf\\xe9: {{text}}'",
        f"cp rows.jsonl $'r\\xff.jsonl'; icm label $'r\\xff.jsonl' {options} 'T: {{text}}' --json",
    ):
        done = await shell(tmp_path, line, **plain)
        assert done.status == 2
        assert "Traceback" not in done.err
        assert "LC_ALL=C.UTF-8" in done.err
    assert not server.received
