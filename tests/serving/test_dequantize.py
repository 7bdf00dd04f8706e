"""When a GGUF file is turned into a folder, and what is said where it cannot be."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from icm_client.errors import SetupError
from icm_client.serving import model
from icm_client.serving.model import dequantized, folder_for


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF and so on")
    return path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "find_spec", lambda _: object())


def child(monkeypatch: pytest.MonkeyPatch, *, status: int, words: str = "") -> list[Path]:
    """Let the child write a file, say `words` and end with `status`; return what it was given."""
    folders: list[Path] = []

    def run(command: list[str | Path], **_: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[-1])
        folder.mkdir()
        (folder / "config.json").write_text("{}", "utf-8")
        (folder / "model.safetensors").touch(0o600)  # as safetensors makes it
        folders.append(folder)
        return subprocess.CompletedProcess(command, status, stdout=words)

    monkeypatch.setattr("icm_client.serving.model.subprocess.run", run)
    return folders


@pytest.mark.usefixtures("installed")
def test_it_is_done_once_and_the_folder_appears_whole(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = child(monkeypatch, status=0)
    said: list[str] = []
    folder = dequantized(gguf, said.append)
    assert dequantized(gguf, said.append) == folder == folder_for(gguf)
    assert len(made) == len(said) == 1
    assert made[0] != folder, "it was another folder until it was whole"
    assert not made[0].exists()
    assert json.loads((folder / "icm-client.json").read_text("utf-8"))["file"] == "tiny.gguf"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_whoever_may_read_the_folder_may_read_the_weights(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    child(monkeypatch, status=0)
    before = os.umask(umask)
    try:
        folder = dequantized(gguf, lambda _: None)
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes == dict.fromkeys(
        ("config.json", "model.safetensors", "icm-client.json"), 0o666 & ~umask
    )


@pytest.mark.usefixtures("installed")
def test_another_file_of_the_same_name_is_another_folder(gguf: Path) -> None:
    before = folder_for(gguf)
    gguf.write_bytes(b"GGUF and something else")
    assert folder_for(gguf) != before


@pytest.mark.usefixtures("installed")
def test_what_fails_leaves_nothing_and_says_why(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = [child(monkeypatch, status=1, words="a trace\nValueError: architecture odd\n")]
    with pytest.raises(SetupError, match=r"tiny\.gguf could not be .*: ValueError: architecture"):
        dequantized(gguf, lambda _: None)
    assert not made[0].exists()
    assert not folder_for(gguf).exists()


def test_missing_packages_are_named_with_the_line_that_installs_them(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(SetupError, match=r"gguf is not installed for .*; run: pip install gguf"):
        dequantized(gguf, lambda _: None)


@pytest.mark.usefixtures("installed")
def test_a_disk_that_is_full_is_reported_before_a_minute_of_work(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = child(monkeypatch, status=0)
    monkeypatch.setattr(model, "GROWTH", 10**15)
    with pytest.raises(SetupError, match=r"too little room .*another disk"):
        dequantized(gguf, lambda _: None)
    assert not made
