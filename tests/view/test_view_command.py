"""`icm-client view` before and after it serves: what is missing, wrong, or said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_runs import reviews, write_run
from run_folders import described
from view_server import served

from icm_client.errors import InputError
from icm_client.record.archive import read_folder
from icm_client.record.checks import Checks
from icm_client.record.folder import RunFolder
from icm_client.view.children import Children


def run_view(
    *options: str | Path, without: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """The command's end, where it ends by itself; `without` a package."""
    hide = f"import sys; sys.modules[{without!r}] = None; " if without else ""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"{hide}from icm_client.cli.main import main; main()",
            "view",
            *map(str, options),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(package: str, tmp_path: Path) -> None:
    ended = run_view(tmp_path, "--no-open", without=package)
    assert ended.returncode == 2
    assert "pip install 'icm-client[view]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_and_options_that_do_not_go_together_are_refused(
    tmp_path: Path,
) -> None:
    with served(tmp_path) as server:
        port = server.origin.rpartition(":")[2]
        ended = run_view(tmp_path, "--no-open", "--port", port)
    assert ended.returncode == 2
    assert f"port {port}" in ended.stderr
    ended = run_view(tmp_path, "--run", "a")
    assert ended.returncode == 2
    assert "--bundle" in ended.stderr


def test_the_same_folder_has_the_same_port_unless_it_is_taken(tmp_path: Path) -> None:
    with served(tmp_path) as server, served(tmp_path) as other:
        first = server.origin
        assert other.origin != first
    with served(tmp_path) as server:
        assert server.origin == first, "what the browser keeps for the page is there again"


def test_it_warns_where_other_machines_can_reach_it_and_answers_to_its_address(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path / "runs", "--host", "0.0.0.0") as server:  # noqa: S104 - what is tested
        assert "other machines" in capfd.readouterr().err
        for host, status in (("192.0.2.7:1", 200), ("evil.example", 421)):
            assert server.client.get("/", headers={"host": host}).status_code == status


def test_a_bundle_of_one_run(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "runs", reviews(8), seed=seed) for seed in (0, 1)]
    pages = tmp_path / "pages"
    ended = run_view(tmp_path / "runs", "--bundle", pages, "--run", runs[0].name)
    assert ended.returncode == 0
    assert str(pages / "index.html") in ended.stdout
    assert ended.stdout.startswith("1 run: open ")
    assert {path.name for path in pages.iterdir()} == {"index.html", f"{runs[0].name}.html"}


def test_a_bundle_of_all_runs_says_which_folders_are_none(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", reviews(8))
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    ended = run_view(tmp_path / "runs", "--bundle", tmp_path / "pages")
    assert ended.returncode == 0
    assert "not JSON" in ended.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (None, "from Python"),
        (["eval", "movies"], "icm-client eval"),
        (["label", "-", "-o", "labels.jsonl"], "standard input"),
    ],
)
def test_what_cannot_be_run_again_says_why(
    tmp_path: Path, command: list[str] | None, words: str
) -> None:
    base = tmp_path / "runs"
    with RunFolder.open(described(), base=base, command=command) as folder:
        folder.stop("done")
    run = read_folder(folder.path)
    Checks(run.path).add("r1", "positive")
    with pytest.raises(InputError, match=words):
        Children(base).again(run)
    assert not (base / ".view").exists()


def test_without_a_check_there_is_nothing_to_run_again_with(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(8))
    with pytest.raises(InputError, match=r"no row of the run .* is checked"):
        Children(tmp_path).again(run)
