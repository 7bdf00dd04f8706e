"""What is read from a file of these bytes, and what is said where it is refused."""

from pathlib import Path

import pytest

from icm_client.data import Dataset, read_rows
from icm_client.errors import RowError


def read(path: Path, content: bytes, *, gold: str | None = None) -> Dataset:
    path.write_bytes(content)
    return read_rows(path, gold=gold)


def refused(path: Path, content: bytes, *, gold: str | None = None) -> str:
    """Return what is said after the file's name."""
    path.write_bytes(content)
    with pytest.raises(RowError) as caught:
        read_rows(path, gold=gold)
    assert caught.value.path == str(path)
    message = str(caught.value)
    assert all(line.isprintable() for line in message.splitlines())
    assert len(message) < len(str(path)) * 3 + 400
    return message.removeprefix(str(path))
