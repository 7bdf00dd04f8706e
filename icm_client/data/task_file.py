"""A task written as a TOML file: with what is set, and comments on what else may be."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from icm_client.data.messages import shown
from icm_client.data.task import Task
from icm_client.data.whole_files import replace_file
from icm_client.errors import InputError

_HEAD = """\
# A task of icm-client: a prompt, and the labels that may follow it. Lines behind # are comments.
# `icm-client tasks show FILE` says how it is read.
"""
_SETTINGS: Mapping[str, tuple[str, str]] = {
    "name": ("What the task is called in reports.", 'name = "reviews"'),
    "description": ("A sentence on it, for people.", 'description = "For or against?"'),
    "template": ("The prompt: {field} is a row's field, \\n a newline.", ""),
    "labels": ("The words that may follow the prompt; the best name the classes.", ""),
    "separator": ("Between a row with its label and the next.", 'separator = "\\n\\n"'),
    "gold": (
        "The field with known labels, where there are any: for the accuracy alone, never shown.",
        'gold = "label"',
    ),
    "prior": ("Labels' shares of the rows, where known.", "prior = {{ {label} = 0.2 }}"),
    "exchange": (
        "Two fields to exchange: each pair is shown in both orders.",
        'exchange = ["response_1", "response_2"]',
    ),
    "loader": ("What reads a public file in its own format (icm-client tasks).", ""),
}
"""Setting -> what it is, and how it would be set; with no example it is written where it is set."""

_RULE = """\
# Which labels of related rows may stand together.
# [constraint]
# kind = "mutual-exclusion"   # or same-answer, at-most-one, exactly-one, implication, ...
# group = "question"          # the field that related rows share
# answer = "answer"           # the field in which rows of a group differ
"""


def task_text(task: Task, fields: Sequence[str] = ()) -> str:
    """Return the task as the text of a file, of which `Task.from_toml` makes the same one."""
    parts = [_HEAD]
    defaults = {name: field.default for name, field in Task.model_fields.items()}
    for setting, (about, example) in _SETTINGS.items():
        value = getattr(task, setting)
        if value != defaults[setting]:
            line = f"{setting} = {toml_value(value)}"
        elif example:
            line = f"# {example.format(label=_key(task.labels[0]))}"
        else:
            continue
        if setting == "template" and fields:
            parts.append(f"# {about} The rows have {', '.join(fields)}.\n{line}\n")
        else:
            parts.append(f"# {about}\n{line}\n")
    if task.constraint is None:
        parts.append(_RULE)
    else:
        several = not hasattr(task.constraint, "kind")
        for rule in task.rules:
            settings = rule.model_dump(exclude_defaults=True)
            lines = [f"{name} = {toml_value(value)}" for name, value in settings.items()]
            parts.append("\n".join(["[[constraint]]" if several else "[constraint]", *lines, ""]))
    return "\n".join(parts)


def write_task(task: Task, path: str | os.PathLike[str], fields: Sequence[str] = ()) -> None:
    """Write the task into a file; one that is there stays as it is if it says the same."""
    write_new(path, task_text(task, fields), "task")


def write_new(path: str | os.PathLike[str], text: str, what: str) -> None:
    """Write a text file, never over another one.

    Args:
        path: where to.
        text: its content.
        what: the file is, for the message.

    Raises:
        InputError: there is a file of another content, or it cannot be written.
    """
    file = Path(path)
    try:
        if file.exists():
            if file.read_bytes() == text.encode():
                return
            raise InputError(
                f"{file}: there is a file already, and it is not overwritten: name another one for "
                f"the {what}, or remove it"
            )
        replace_file(file, text.encode())
    except OSError as error:
        raise InputError(f"{file}: the {what} cannot be written: {error.strerror}") from None


def toml_value(value: object) -> str:
    """Return a text, number, truth value, list, or object of these as TOML has it.

    Raises:
        TypeError: it is none of these.
    """
    match value:
        case str():
            # JSON's escapes are TOML's too, which also wants DEL escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case Mapping():
            pairs = (f"{_key(str(name))} = {toml_value(one)}" for name, one in value.items())
            return f"{{ {', '.join(pairs)} }}"
        case _:
            raise TypeError(f"TOML has no {type(value).__name__}: {shown(value)}")


def _key(name: str) -> str:
    """The key of a pair: bare where TOML allows it."""
    plain = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if plain else toml_value(name)
