"""Tab completes commands, tasks and runs, and imports nothing that takes long for these."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = "{'openai', 'aiohttp', 'numpy', 'pydantic', 'rich'}"
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write(repr(sorted({SLOW} & set(sys.modules)))))
from icm_client.cli.main import main
main()
"""


def completed(*words: str) -> tuple[list[str], str]:
    """What bash would offer for the last word, and the slow imports that took."""
    asked = {
        "_ICM_CLIENT_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("icm-client", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    return [line.partition(",")[2] for line in done.stdout.split()], done.stderr


@pytest.fixture(autouse=True)
def runs(tmp_path: Path) -> None:
    for age, name in enumerate(("reviews-1", "reviews-2", "claims-3")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").touch()
        os.utime(tmp_path / "runs" / name, (10**9 - age, 10**9 - age))
    (tmp_path / "runs" / "no-run").mkdir()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("la",), ["label"]),
        (("runs", "sh"), ["show"]),
        (("label", "rows.csv", "--task", "senti"), ["sentiment"]),
        (("check", "-t", "truthfulqa-"), ["truthfulqa-preference"]),
        (("tasks", "show", "gsm"), ["gsm8k-verification"]),
        (("predict", ""), ["reviews-1", "reviews-2", "claims-3", "latest"]),
        (("runs", "show", "rev"), ["reviews-1", "reviews-2"]),
        (("report", "no"), []),
    ],
)
def test_names_are_offered_at_once(words: tuple[str, ...], offered: list[str]) -> None:
    found, slow = completed(*words)
    assert found == offered
    assert slow in ("[]", "['rich']")  # whose tables `runs` imports


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("icm-client label rows.csv -t senti", "sentiment"),
        ("icm-client label rows.csv -t ./mine", "./mine.toml"),
        ("icm-client report reviews-", "reviews-1 reviews-2"),
    ],
)
def test_bash_offers_them(typed: str, offered: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").touch()
    *_, before, word = words = typed.split()
    script = (
        f'eval "$(_ICM_CLIENT_COMPLETE=bash_source icm-client)"; COMP_WORDS=({typed}); '
        f"COMP_CWORD={len(words) - 1}; _icm_client_completion icm-client {word} {before}; "
        'compopt() { :; }; [ "${#COMPREPLY[@]}" = 0 ] && COMPREPLY=($(compgen -f -- '
        f'{word})); echo "${{COMPREPLY[@]}}"'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        env=os.environ | {"PATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == offered.split(), done.stderr


def test_options_are_offered() -> None:
    assert completed("label", "--save-")[0] == ["--save-task", "--save-config"]
    assert completed("predict", "--accept")[0] == ["--accept-other-model"]
    assert "--runs" in completed("report", "reviews-1", "--")[0]


def test_runs_of_another_folder_are_offered(tmp_path: Path) -> None:
    (tmp_path / "runs").rename(tmp_path / "mine")
    assert completed("runs", "show", "--runs", "mine", "cl")[0] == ["claims-3"]
    assert completed("predict", "")[0] == []
