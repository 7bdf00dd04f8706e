r"""A run file: the options of `icm-client label` in TOML, for --config and --save-config.

    data = "reviews.jsonl"
    template = "Review: {text}\nSentiment:"
    labels = ["positive", "negative"]
    output = "labels.jsonl"
    endpoint = "http://localhost:8000"

A key is an option's long name, and `data` is DATA. The command line wins over the file. Paths are
relative to the file. No secret is written into one.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from icm_client.cli.sections import SectionedCommand, section
from icm_client.data.messages import did_you_mean, shown
from icm_client.data.task import unescape
from icm_client.data.task_file import toml_value, write_new
from icm_client.errors import InputError
from icm_client.record.description import without_secrets

_CONFIG, _SAVE_CONFIG = "config", "save-config"

_OF_ONE_TIME: Final = {
    _CONFIG,
    _SAVE_CONFIG,
    "save-task",
    "dry-run",
    "forecast",
    "fresh",
    "json",
    "quiet",
    "verbose",
    "help",
}
"""Options that say what a command does this time, not what a run is."""

_LABELS: Final = "labels"
"""One text with commas on the command line; in a file it may be a list, as in a task file."""

_MAYBE_PATHS: Final = {"task", "init", "train-from", "serve"}
"""Options whose text may name a file, or something else."""

_HEAD: Final = """\
# A run of icm-client: `icm-client label --config THIS_FILE` starts it. Paths are relative to this
# file, and options of the command line win over it.

"""


def _key(parameter: click.Parameter) -> str:
    """What the parameter is called in a file: an option's long name, an argument's own."""
    if isinstance(parameter, click.Argument):
        return parameter.name or ""
    return max(parameter.opts, key=len).lstrip("-")


def _read(context: click.Context, _parameter: click.Parameter, path: str | None) -> str | None:
    """Make the file's values the command's defaults."""
    if path is None or context.resilient_parsing:
        return path
    try:
        given = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise InputError(f"{path}: the run file cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise InputError(f"{path}: not UTF-8 at byte {problem.start + 1}") from None
    except tomllib.TOMLDecodeError as problem:
        raise InputError(f"{path}: not TOML: {problem}") from None
    parameters = {_key(one): one for one in context.command.params}
    known = parameters.keys() - {_CONFIG, _SAVE_CONFIG}
    defaults: dict[str, Any] = dict(context.default_map or {})
    for key, value in given.items():
        if key not in known:
            raise InputError(
                f"{path}: label has no option {shown(key)}.{did_you_mean(key, sorted(known))}"
            )
        parameter = parameters[key]
        try:
            plain = _as_typed(parameter, value)
        except ValueError as problem:
            raise InputError(f"{path}: `{key}` {problem}, not {shown(value)}") from None
        defaults[parameter.name or ""] = _from_folder(parameter, plain, Path(path).parent)
    context.default_map = defaults
    return path


def _as_typed(parameter: click.Parameter, value: object) -> object:
    """The value as the command line would give it, so that it is checked the same way.

    Raises:
        ValueError: it is no value that the option can have; says what it should be.
    """
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(value, bool):
            raise ValueError("is a switch: it should be true or false")
        return value
    several = parameter.multiple if isinstance(parameter, click.Option) else parameter.nargs == -1
    values = value if isinstance(value, list) else [value]
    if any(isinstance(one, bool | list | Mapping) or one is None for one in values):
        raise ValueError("should be a text or a number")
    words = [str(one) for one in values]
    if several:
        return words
    if isinstance(value, list):
        if _key(parameter) != _LABELS:
            raise ValueError("takes one value")
        return ",".join(words)
    return words[0]


def _from_folder(parameter: click.Parameter, value: object, folder: Path) -> object:
    """The value with its paths taken from the run file's folder."""
    if isinstance(value, list):
        return [_from_folder(parameter, one, folder) for one in value]
    if not isinstance(value, str) or not _names_file(parameter, value, folder):
        return value
    return value if folder == Path() else str(folder / value)


def _names_file(parameter: click.Parameter, value: str, folder: Path) -> bool:
    if value == "-" or "://" in value:
        return False
    if isinstance(parameter.type, click.Path):
        return True
    return _key(parameter) in _MAYBE_PATHS and (folder / value).exists()


_RIVALS: Final[Mapping[str, tuple[str, ...]]] = {
    "task_name": ("template", "labels"),
    "template": ("task_name",),
    "labels": ("task_name",),
    "urls": ("gguf", "serve"),
    "model": ("gguf", "serve"),
    "gguf": ("urls", "serve"),
    "serve": ("urls", "gguf"),
}
"""Parameter -> those that say otherwise: one of them on the command line puts out the file's."""


class ConfiguredCommand(SectionedCommand):
    """A command with --config, whose command line wins over the file in what both speak of."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse them, and put out what the file says and the command line says otherwise."""
        rest = super().parse_args(ctx, args)
        source = ctx.get_parameter_source
        for parameter in self.params:
            name = parameter.name or ""
            if source(name) == ParameterSource.DEFAULT_MAP and any(
                source(rival) == ParameterSource.COMMANDLINE for rival in _RIVALS.get(name, ())
            ):
                ctx.params[name] = () if parameter.multiple else None
                ctx.set_parameter_source(name, ParameterSource.DEFAULT)
        return rest


config_option = section(
    "Run file",
    click.option(
        "--config",
        type=click.Path(),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="Take options from a run file (TOML); those given here win over it.",
    ),
)

save_config_option = section(
    "Run file",
    click.option(
        "--save-config",
        type=click.Path(),
        metavar="FILE",
        help="Write the options given into a run file, too.",
    ),
)


def _given(context: click.Context) -> Iterator[tuple[click.Parameter, object]]:
    """The parameters that were given, on the command line or in a run file, with their values."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in context.params and source not in (None, ParameterSource.DEFAULT):
            yield parameter, context.params[name]


def write_config(context: click.Context, path: str) -> tuple[str, ...]:
    """Write the options that were given into a run file.

    Returns:
        what was left out because it is secret.
    """
    folder = Path(path).parent
    lines: list[str] = []
    left_out: list[str] = []
    for parameter, value in _given(context):
        key = _key(parameter)
        if key in _OF_ONE_TIME or value in (False, None, ()):
            continue
        words = [_to_folder(parameter, word, folder) for word in _words(value)]
        kept = without_secrets(words)
        left_out += kept.left_out
        plain: object = value if isinstance(value, bool | int | float) else list(kept.arguments)
        if isinstance(plain, list) and len(plain) == 1:
            plain = _readable(plain[0]) if key != _LABELS else plain[0].split(",")
        lines.append(f"{key} = {toml_value(plain)}\n")
    write_new(path, _HEAD + "".join(lines), "run file")
    return tuple(left_out)


def _words(value: object) -> list[str]:
    """A value as words of a command line."""
    match value:
        case Mapping():
            return [f"{name}={share}" for name, share in value.items()]
        case list() | tuple():
            return [str(one) for one in value]
        case _:
            return [str(value)]


def _to_folder(parameter: click.Parameter, word: str, folder: Path) -> str:
    """A path as it is named from the run file's folder."""
    if Path(word).is_absolute() or not _names_file(parameter, word, Path()):
        return word
    return os.path.relpath(word, folder)


def _readable(word: str) -> str:
    r"""The word with newlines for `\n`, where it is read as the same text."""
    text = unescape(word)
    return text if unescape(text) == text else word


def whole_command(context: click.Context) -> tuple[str, ...] | None:
    """The command line with the options of the run file in it, as a run's record keeps it.

    So the run can be resumed whatever becomes of the file. None where no program was called.
    """
    given: tuple[str, ...] | None = context.find_root().obj
    if given is None:
        return None
    command, *arguments = _without_files(given)
    if len(arguments) + 1 == len(given):
        return given
    for parameter, value in _given(context):
        if context.get_parameter_source(parameter.name or "") == ParameterSource.DEFAULT_MAP:
            arguments += _as_arguments(parameter, value)
    return (command, *arguments)


def _without_files(given: Sequence[str]) -> list[str]:
    """The words of a command line without the options that read or write a run file or a task."""
    kept: list[str] = []
    words = iter(given)
    for word in words:
        option, equals, _ = word.partition("=")
        if option not in (f"--{_CONFIG}", f"--{_SAVE_CONFIG}", "--save-task"):
            kept.append(word)
        elif not equals:
            next(words, None)
    return kept


def _as_arguments(parameter: click.Parameter, value: object) -> list[str]:
    """A value as the command line gives it."""
    if isinstance(parameter, click.Argument):
        return _words(value)
    if isinstance(value, bool):
        return [f"--{_key(parameter)}"] if value else []
    return [f"--{_key(parameter)}={word}" for word in _words(value)]
