"""Where the bytes of rows come from: files here or elsewhere, one or several, packed or not.

What can be read only once is copied to a temporary file first: standard input, a pipe, and what
lies behind a URL. So memory does not grow with it, and it can be read twice.
"""

import glob
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import BufferedReader, FileIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO, Final, cast
from urllib.parse import urlsplit, urlunsplit

import orjson

from icm_client.data.formats import DAMAGED, unpacked
from icm_client.data.messages import listed
from icm_client.data.values import read_json
from icm_client.errors import InputError, RowError, SetupError

STANDARD_INPUT: Final = "-"
STDIN: Final = "<stdin>"
"""What messages and a run's record call standard input."""

_SHEET: Final = re.compile(r"(.+\.xlsx)#(.+)", re.IGNORECASE | re.DOTALL)
_COPIED_AT_ONCE: Final = 2**20
_NOT_ALLOWED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@dataclass(frozen=True, slots=True)
class File:
    """A file of rows.

    Attributes:
        name: as the user named it, for messages, and for its format.
        path: where its bytes lie.
        sheet: which sheet of a workbook; None is the first.
    """

    name: str
    path: Path
    sheet: str | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """Files whose rows follow one another, as `found_files` gives them.

    Attributes:
        name: what the user called them all together.
        files: at least one.
    """

    name: str
    files: tuple[File, ...]

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Return whether a path leads to one of them."""
        return os.path.realpath(path) in {os.path.realpath(file.path) for file in self.files}


Named = str | os.PathLike[str] | Files
"""A path, a pattern, a URL or `-`, or the files that were found there."""


def named(data: Named | Sequence[str | os.PathLike[str]]) -> str:
    """Return what the user called the data, as messages and a run's record have it."""
    match data:
        case Files():
            return data.name
        case str() | os.PathLike():
            name = os.fspath(data)
            return STDIN if name == STANDARD_INPUT else _plain_url(name) if _is_url(name) else name
        case _:
            return ", ".join(map(named, data))


@contextmanager
def found_files(data: Named | Sequence[str | os.PathLike[str]]) -> Iterator[Files]:
    """Find the files that a name stands for, and copy what can be read only once.

    A name is a path; a pattern with `*`, whose files are taken in the order of their names; `-`,
    standard input; a URL that fsspec knows (https, s3, gs, hf, memory); a folder that `datasets`
    has saved; or a workbook's sheet, `book.xlsx#Sheet 2`. Copies are there within the block.

    Raises:
        RowError: there is no such file, it cannot be read, or it is a folder of another kind.
        InputError: standard input is a terminal.
        SetupError: a URL whose package is not installed.
    """
    if isinstance(data, Files):
        yield data
        return
    names = [data] if isinstance(data, str | os.PathLike) else data
    with ExitStack() as kept:
        found = [file for name in names for file in _found(os.fspath(name), kept)]
        if not found:
            raise InputError("no files are named: at least one is needed")
        yield Files(named(data), tuple(found))


@contextmanager
def opened(file: File) -> Iterator[BufferedReader]:
    """Open a file, and unpack it where its first bytes say that it is compressed.

    Raises:
        RowError: it cannot be read, then or within the block, or its compression is damaged.
    """
    with explained(file.name), ExitStack() as kept:
        stream = kept.enter_context(file.path.open("rb"))
        while (inner := unpacked(stream)) is not None:
            stream = kept.enter_context(inner)
        yield stream


@contextmanager
def seekable(stream: BufferedReader) -> Iterator[BinaryIO]:
    """Give the stream, or where it is unpacked as it is read, a temporary file with all of it."""
    if isinstance(stream.raw, FileIO):
        yield stream
        return
    with NamedTemporaryFile(prefix="icm-client-") as copy:
        shutil.copyfileobj(stream, copy, _COPIED_AT_ONCE)
        copy.seek(0)
        yield cast("BinaryIO", copy)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Within the block, an error of the file system or of a compression becomes a `RowError`."""
    try:
        yield
    except FileNotFoundError:
        raise RowError("no such file: check the path", path=name) from None
    except IsADirectoryError:
        raise RowError("this is a folder: name one file in it", path=name) from None
    except PermissionError:
        raise RowError("the file may not be read: check its permissions", path=name) from None
    except DAMAGED as problem:
        raise RowError(
            f"the file is compressed, and damaged or cut off ({problem}): copy it again", path=name
        ) from None
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise RowError(f"the file cannot be read: {reason}", path=name) from None


def _found(name: str, kept: ExitStack) -> list[File]:
    """Return the files of one name; what is copied is removed when `kept` is closed."""
    if name == STANDARD_INPUT:
        return [_standard_input(kept)]
    return _remote(name, kept) if _is_url(name) else _here(name, kept)


def _here(name: str, kept: ExitStack) -> list[File]:
    path = Path(name)
    if path.is_dir():
        return _saved_dataset(path)
    if path.exists():
        if stat.S_ISREG(path.stat().st_mode):
            return [File(name, path)]
        with explained(name), path.open("rb") as pipe:
            return [File(name, _copied(pipe, kept))]
    if sheet := _SHEET.fullmatch(name):
        return [File(name, Path(sheet[1]), sheet[2])]
    if not glob.has_magic(name):
        return [File(name, path)]  # whoever opens it says that it is not there
    paths = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - the same text as was given
    if not paths:
        raise _no_match(name)
    return [file for one in paths for file in _here(one, kept)]


def _standard_input(kept: ExitStack) -> File:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            "standard input is a terminal, and - reads the rows from it: pipe them into the "
            "command, for example zcat rows.jsonl.gz | icm-client label - --format jsonl"
        )
    with explained(STDIN):
        return File(STDIN, _copied(sys.stdin.buffer, kept))


def _saved_dataset(folder: Path) -> list[File]:
    """Return the Arrow files of a folder that `Dataset.save_to_disk` has written."""
    name = str(folder)
    if (folder / "dataset_dict.json").is_file():
        splits = _document(folder / "dataset_dict.json").get("splits") or ["train"]
        raise RowError(
            f"the folder has several splits ({listed(splits)}): name one of them, for example "
            f"{folder / splits[0]}",
            path=name,
        )
    if not (folder / "state.json").is_file():
        raise RowError(
            f"this is a folder: name one file in it, or several by a pattern such as "
            f"{folder / '*.jsonl'}",
            path=name,
        )
    files = [one["filename"] for one in _document(folder / "state.json")["_data_files"]]
    if len(files) == 1:
        return [File(name, folder / files[0])]
    return [File(str(folder / file), folder / file) for file in files]


def _document(path: Path) -> dict[str, Any]:
    try:
        with explained(str(path)):
            document: dict[str, Any] = read_json(path.read_bytes())
    except orjson.JSONDecodeError:
        raise RowError(
            "not what datasets writes: save the data set again", path=str(path)
        ) from None
    return document


def _is_url(name: str) -> bool:
    return "://" in name


def _plain_url(url: str) -> str:
    """Return the URL without what may be a secret: a signed link's query, a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _remote(url: str, kept: ExitStack) -> list[File]:
    """Copy what the URL names, through fsspec."""
    name = _plain_url(url)
    try:
        import fsspec  # noqa: PLC0415 - an optional extra, and slow to load
    except ImportError:
        raise SetupError(
            f"{name}: files elsewhere need fsspec: pip install 'icm-client[remote]'"
        ) from None
    try:
        system, path = fsspec.url_to_fs(url)
        if "http" in system.protocol:  # where a `?` is no pattern, and there are no folders
            return [File(name, _fetched(system, path, kept))]
        if not glob.has_magic(path):
            _refuse_remote_folder(system, path, name)
            return [File(name, _fetched(system, path, kept))]
        paths = sorted(one for one in system.glob(path) if not system.isdir(one))
        files = [File(system.unstrip_protocol(one), _fetched(system, one, kept)) for one in paths]
    except RowError:
        raise
    except (ImportError, ValueError) as problem:  # of a protocol, with what to install for it
        raise SetupError(f"{name}: {problem}") from None
    except Exception as problem:  # noqa: BLE001 - every file system has errors of its own
        raise RowError(_not_fetched(problem), path=name) from None
    if not files:
        raise _no_match(name)
    return files


def _not_fetched(problem: Exception) -> str:
    answer = getattr(problem, "response", problem)  # of the hub, and of aiohttp
    status = getattr(answer, "status_code", getattr(answer, "status", None))
    if isinstance(problem, FileNotFoundError) or status == HTTPStatus.NOT_FOUND:
        return "no such file: check the address, and that you may read it"
    if isinstance(problem, PermissionError) or status in _NOT_ALLOWED:
        return (
            "the file may not be read: it is not there, or needs a login (for hf:// hf auth login, "
            "or a token in HF_TOKEN)"
        )
    lines = str(problem).splitlines() or [type(problem).__name__]
    return f"the file cannot be fetched: {lines[0]}"


def _refuse_remote_folder(system: Any, path: str, name: str) -> None:
    if not system.isdir(path):
        return
    inside = [one.removeprefix(f"{path}/") for one in sorted(system.find(path))]
    raise RowError(
        f"this is a folder, with {listed(inside)}: name one of its files, or several by a pattern "
        f"such as {name.rstrip('/')}/*.parquet",
        path=name,
    )


def _no_match(name: str) -> RowError:
    return RowError("no file matches this pattern: check the path", path=name)


def _fetched(system: Any, path: str, kept: ExitStack) -> Path:
    copy = _temporary(kept)
    system.get_file(path, str(copy))
    return copy


def _copied(stream: BinaryIO, kept: ExitStack) -> Path:
    copy = _temporary(kept)
    with copy.open("wb") as file:
        shutil.copyfileobj(stream, file, _COPIED_AT_ONCE)
    return copy


def _temporary(kept: ExitStack) -> Path:
    """Return an empty file of our own, which is removed when `kept` is closed."""
    with NamedTemporaryFile(prefix="icm-client-", delete=False) as file:
        path = Path(file.name)
    kept.callback(path.unlink, missing_ok=True)
    return path
