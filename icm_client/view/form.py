"""The form for a new run: what it can choose from, what it stands for, and what it would ask."""

import json
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import anyio

from icm_client.data import builtin_names
from icm_client.data.formats import format_of
from icm_client.errors import InputError, RunError
from icm_client.view.children import program

_WORDS: Final = ("template", "labels", "gold", "model")
_NUMBERS: Final = ("seed", "limit")

_MOST_FILES: Final = 500
_MOST_FOLDERS: Final = 2_000
"""That a form offers, and that are looked through for them: the folder may be a whole home."""

_PREVIEW_S: Final = 60.0
_TASK_FILE: Final = ".toml"


async def preview(form: Mapping[str, object], folder: Path, *, forecast: bool) -> dict[str, Any]:
    """Return what `label --dry-run --json` says of a form, or `--forecast`: a prompt, the labels.

    Raises:
        InputError: it says that something is wrong.
        RunError: it says nothing for a minute.
    """
    arguments = [*label_arguments(form, folder), "--forecast" if forecast else "--dry-run"]
    try:
        with anyio.fail_after(_PREVIEW_S):
            ended = await anyio.run_process(
                program([*arguments, "--json"]), check=False, cwd=folder, start_new_session=True
            )
    except TimeoutError:
        raise RunError(f"a preview takes more than {_PREVIEW_S:.0f} seconds here") from None
    try:
        said: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        words = ended.stderr.decode("utf-8", "replace").strip()
        raise RunError(words or "the preview was ended") from None
    if "error" in said:
        raise InputError(str(said["error"]))
    return said


def label_arguments(form: Mapping[str, object], folder: Path) -> list[str]:
    """Return the arguments of `icm-client` that a form stands for.

    Each value is joined to its option, and a file begins with its folder, so that no value can be
    read as an option.

    Args:
        form: `data` (a file in `folder` or below it), `task` (a built-in one, or such a file) or
            `template` and `labels`, and where they are given `gold`, `endpoint` (an http or https
            URL), `model`, `seed` and `limit`.
        folder: in which the command is started.

    Raises:
        InputError: a value is not of its kind, or names a file elsewhere.
    """
    unknown = form.keys() - {*_WORDS, *_NUMBERS, "data", "task", "endpoint"}
    if unknown:
        raise InputError(f"a new run has no {min(unknown)!r}")
    words = {
        name: text for name in (*_WORDS, "data", "task", "endpoint") if (text := _text(form, name))
    }
    if "data" not in words:
        raise InputError("choose the file of the rows")
    arguments = ["label", f"./{_within(words['data'], folder)}"]
    if task := words.get("task"):
        known = task in builtin_names()
        arguments.append(f"--task={task if known else f'./{_within(task, folder)}'}")
    if endpoint := words.get("endpoint"):
        if not endpoint.startswith(("http://", "https://")):
            raise InputError("a server is named by a URL that begins with http:// or https://")
        arguments.append(f"--endpoint={endpoint}")
    arguments += [f"--{name}={words[name]}" for name in _WORDS if name in words]
    for name in _NUMBERS:
        number = form.get(name)
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int):
            raise InputError(f"{name} must be a whole number")
        arguments.append(f"--{name}={number}")
    return arguments


def files_to_label(folder: Path, base: Path) -> dict[str, list[str]]:
    """Return what a form can choose from: `data` and `task` files within `folder`, not in `base`.

    Folders whose name begins with a dot are left out, and so is what comes after very many.
    """
    found: dict[str, list[str]] = {"data": [], "task": list(builtin_names())}
    for at, folders, names in islice(os.walk(folder), _MOST_FOLDERS):
        here = Path(at)
        folders[:] = sorted(
            one
            for one in folders
            if not one.startswith(".") and (here / one).resolve() != base.resolve()
        )
        for name in sorted(names):
            kind = "task" if name.endswith(_TASK_FILE) else "data"
            if kind == "task" or _is_data(name):
                found[kind].append(str((here / name).relative_to(folder)))
        if len(found["data"]) >= _MOST_FILES:
            break
    return found


def _is_data(name: str) -> bool:
    try:
        return bool(format_of(name, None))
    except InputError:
        return False


def _text(form: Mapping[str, object], name: str) -> str:
    value = form.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise InputError(f"{name} must be a text")
    return value


def _within(name: str, folder: Path) -> str:
    """The path of a file from the folder that it is in, or below."""
    root = folder.resolve()
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(root) and path.is_file()
    except (OSError, RuntimeError):
        inside = False
    if not inside:
        raise InputError(
            "choose a file in the folder in which the view was started, or below it: there is no "
            f"{name} there"
        )
    return os.path.relpath(path, root)
