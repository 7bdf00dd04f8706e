"""The options that say how labels are searched for, shared by the commands that search.

The option that says what is asked about the rows of DATA.

The options that say where the model is served, as one `Server`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.fast import SweepSettings
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.coherence.leave_one_out import Layout
from icm_client.data.constraint_spec import KINDS, Rules, rules_of
from icm_client.data.csv_rows import Quote
from icm_client.endpoints import KINDS as SERVER_KINDS
from icm_client.endpoints import GoodNeighbour, Kind, RetryPolicy, TransportSettings
from icm_client.runs.labels_file import KINDS as STARTS
from icm_client.runs.presets import Preset, Settings, TrainedSettings, preset_settings
from icm_client.runs.server import Server

_RETRY = RetryPolicy()
_TRANSPORT = TransportSettings()

_SERVER = (
    click.option(
        "-e",
        "--endpoint",
        "urls",
        metavar="URL",
        multiple=True,
        help="A server's base URL; several times for servers of one model. "
        "[env: ICM_ENDPOINT; default: the embedded server]",
    ),
    click.option(
        "-m", "--model", help="One of the server's models. [env: ICM_MODEL; default: its only one]"
    ),
    click.option(
        "--gguf",
        type=click.Path(path_type=Path),
        help="A base model's file for the embedded server. [default: gemma-3-270m]",
    ),
    click.option(
        "--kind",
        type=click.Choice(SERVER_KINDS),
        help="How the server is read. [default: it is asked what it is]",
    ),
    click.option(
        "--allow-floor",
        is_flag=True,
        help="Take an upper bound for a label outside a server's most probable tokens; "
        "mark its rows.",
    ),
    click.option(
        "--context-length",
        type=click.IntRange(1),
        metavar="TOKENS",
        help="What the server's context holds, where it does not tell.",
    ),
)

_WIRE = (
    click.option(
        "--max-in-flight",
        type=click.IntRange(1),
        default=_TRANSPORT.max_in_flight,
        show_default=True,
        help="The most requests at a time; how many, the server's answers decide.",
    ),
    click.option(
        "--good-neighbour",
        type=click.IntRange(0),
        metavar="QUEUE",
        help="Let at most so many requests wait in the server, others' included, and ask vLLM "
        "to serve others first.",
    ),
    click.option(
        "--attempt-timeout",
        type=click.FloatRange(0, min_open=True),
        default=_RETRY.attempt_timeout_s,
        show_default=True,
        metavar="SECONDS",
        help="Deadline of one request.",
    ),
    click.option(
        "--item-timeout",
        type=click.FloatRange(0, min_open=True),
        default=_RETRY.item_timeout_s,
        show_default=True,
        metavar="SECONDS",
        help="Deadline of a request with its repetitions.",
    ),
)


def server_options(*, wire: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what adds the options to a command, which receives one `server`.

    Args:
        wire: deadlines and requests in flight as well.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_server(
            *args: Any,
            urls: tuple[str, ...],
            model: str | None,
            gguf: Path | None,
            kind: Kind | None,
            allow_floor: bool,
            context_length: int | None,
            max_in_flight: int = _TRANSPORT.max_in_flight,
            good_neighbour: int | None = None,
            attempt_timeout: float = _RETRY.attempt_timeout_s,
            item_timeout: float = _RETRY.item_timeout_s,
            **kwargs: Any,
        ) -> None:
            neighbour = None if good_neighbour is None else GoodNeighbour(queue=good_neighbour)
            transport = TransportSettings(
                retry=RetryPolicy(attempt_timeout_s=attempt_timeout, item_timeout_s=item_timeout),
                max_in_flight=max_in_flight,
                good_neighbour=neighbour,
            )
            server = Server(
                url=urls or None,
                model=model,
                kind=kind,
                allow_floor=allow_floor,
                context_length=context_length,
                gguf=gguf,
                transport=transport,
            )
            command(*args, server=server, **kwargs)

        for option in reversed((*_SERVER, *(_WIRE if wire else ()))):
            with_server = option(with_server)
        return with_server

    return decorate


_Command = TypeVar("_Command", bound=Callable[..., Any])


def quote_option(command: _Command) -> _Command:
    """Add `--quote`."""
    return click.option(
        "--quote",
        type=click.Choice(get_args(Quote)),
        default="auto",
        show_default=True,
        help="Double quotes in CSV and TSV: text (none), around fields (standard), or whichever "
        "the file's separator and lines suggest.",
    )(command)


def task_option(command: _Command) -> _Command:
    """Add `--task`, as `task_name`."""
    return click.option(
        "-t",
        "--task",
        "task_name",
        help="A task file, or a built-in task (icm-client tasks lists them). "
        "Default: NAME.task.toml or task.toml beside DATA.",
    )(command)


F = TypeVar("F", bound=Callable[..., None])

_FAST, _PAPER, _FOLDS = SweepSettings(), AnnealSettings(), FoldSettings()
_OF_FOLDS = ("folds", "passes")
_OF_SWEEPS = ("initial", "demos", "restarts", "max_sweeps")

_OPTIONS = (
    click.option(
        "--preset",
        type=click.Choice(get_args(Preset)),
        default="fast",
        show_default=True,
        help="The search: sweeps; the paper's Algorithms 1 and 2; or its released code's; or, with "
        "models trained on the labels, its Algorithms 3 and 4 (folds), or batch after batch.",
    ),
    click.option(
        "--demos",
        type=click.IntRange(2),
        help=f"The most labelled rows in a context. [default: {_FAST.demos} for fast, else all]",
    ),
    click.option(
        "--initial",
        type=click.IntRange(0),
        metavar="K",
        help=f"Rows that are labelled to start from. [default: {_FAST.initial}]",
    ),
    click.option(
        "--init",
        "start",
        metavar="KIND|FILE",
        help=f"First labels: {', '.join(STARTS)}, or a labels file. [default: the preset's own]",
    ),
    click.option(
        "--restarts",
        type=click.IntRange(1),
        help="fast, folds, iterate: the most starts while no coherent labels are found. "
        f"[default: {_FAST.restarts}]",
    ),
    click.option(
        "--max-sweeps",
        type=click.IntRange(2),
        help=f"fast, folds, iterate: the most sweeps from one start. [default: {_FAST.max_sweeps}]",
    ),
    click.option(
        "--steps",
        "iterations",
        type=click.IntRange(0),
        help=f"paper, official: how many steps. [default: {_PAPER.iterations}]",
    ),
    click.option(
        "--alpha",
        type=click.FloatRange(0, min_open=True),
        help="paper, official: weight of predictability against contradictions. "
        "[default: paper 50, then 30 and 20 where it stalls; official 30]",
    ),
    click.option(
        "--contexts",
        "layout",
        type=click.Choice(get_args(Layout)),
        help="paper, official: how leave-one-out contexts are laid out. "
        "[default: paper tree, which shares the most prefixes; official fixed, as released]",
    ),
    click.option(
        "--batch",
        type=click.IntRange(2),
        metavar="ROWS",
        help="paper, official: anneal so many rows at a time (256 in the paper). [default: all]",
    ),
    click.option(
        "--folds",
        type=click.IntRange(2),
        help="folds: parts of the rows, each labelled by a model trained on the others. "
        f"[default: {_FOLDS.folds}]",
    ),
    click.option(
        "--passes",
        type=click.IntRange(1),
        help=f"folds: the most passes over all parts. [default: {_FOLDS.passes}]",
    ),
    click.option(
        "--iterate",
        type=click.IntRange(2),
        metavar="ROWS",
        help="Label so many rows at a time, each time with a model trained on those before: "
        f"--preset iterate. [default there: {IterateSettings().batch}]",
    ),
    click.option(
        "--constraint",
        "rules",
        multiple=True,
        metavar="KIND",
        help=f"Which labels may stand together: {', '.join(KINDS)}, or your own module:function. "
        "Several times for rules that hold at once; each has those of the fields below that it "
        "takes. [default: the task's]",
    ),
    click.option(
        "--group", multiple=True, metavar="FIELD", help="What related rows share; may be repeated."
    ),
    click.option("--answer", metavar="FIELD", help="The answer that rows of a group differ in."),
    click.option(
        "--implies", metavar="FIELD", help="Ids of the rows that hold where this one does."
    ),
)


def search_options(command: F) -> F:
    """Add the options to a command; it receives them by name."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_of(preset: Preset, given: Mapping[str, object]) -> Settings:
    """The preset's settings with what was given; None means not given.

    Raises:
        click.UsageError: an option that this preset has no use for.
        InputError: numbers that no search can work with.
    """
    if given.get("iterate") is not None:
        if preset not in ("fast", "iterate"):
            raise click.UsageError(f"--iterate is a search of its own, and so is {preset}.")
        preset = "iterate"
    settings = preset_settings(preset)
    if isinstance(settings, TrainedSettings):
        return _of_training(settings, preset, given)
    known = {field.name for field in fields(settings)}
    changed = {}
    for name, value in given.items():
        if value is None:
            continue
        place = "max_demos" if name == "demos" and preset != "fast" else name
        if place not in known or name in _OF_FOLDS:  # a sweep has folds of its own
            raise _misplaced(name, preset)
        changed[place] = value
    return replace(settings, **changed)  # type: ignore[arg-type]  # click has checked the kinds


def _of_training(
    settings: TrainedSettings, preset: Preset, given: Mapping[str, object]
) -> TrainedSettings:
    """What is a search's own goes there, the rest to the search that finds its first labels."""
    own, of_sweeps = {}, {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "iterate":
            own["batch"] = value
        elif isinstance(settings, FoldSettings) and name in _OF_FOLDS:
            own[name] = value
        elif name in _OF_SWEEPS:
            of_sweeps[name] = value
        else:
            raise _misplaced(name, preset)
    sweeps = replace(settings.sweeps, **of_sweeps)  # type: ignore[arg-type]  # click has checked
    return replace(settings, sweeps=sweeps, **own)  # type: ignore[arg-type]


def _misplaced(name: str, preset: Preset) -> click.UsageError:
    option = {"iterations": "steps", "layout": "contexts"}.get(name, name).replace("_", "-")
    others = "folds" if name in _OF_FOLDS else "paper and official"
    if name in _OF_SWEEPS:
        others = "fast, folds and iterate"
    return click.UsageError(f"--{option} is for --preset {others}, not for {preset}.")


def constraint_of(
    rules: tuple[str, ...], group: tuple[str, ...], answer: str | None, implies: str | None
) -> Rules | None:
    """The constraint that the options describe, or None where the task's own stands.

    Raises:
        click.UsageError: fields without a kind.
        TaskError: a kind is unknown, or lacks a field.
    """
    if not rules:
        if group or answer or implies:
            raise click.UsageError("--group, --answer and --implies go with --constraint KIND.")
        return None
    return rules_of(rules, group=group, answer=answer, implies=implies)
