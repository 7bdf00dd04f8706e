"""Options that several commands have: for task and rows, the server, the search, the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import click

from icm_client.cli.completion import complete_tasks
from icm_client.cli.sections import Decorator, made_of, section
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.coherence.leave_one_out import Layout
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.simple import FewShotSettings
from icm_client.data import FileFormat, FileOptions, Task, check_output, unescape
from icm_client.data.constraint_spec import KINDS, Rules, rules_of
from icm_client.data.formats import Quote
from icm_client.data.messages import did_you_mean, listed, one_after_another
from icm_client.data.outputs import STANDARD_OUTPUT
from icm_client.data.sources import Files
from icm_client.endpoints import KINDS as SERVER_KINDS
from icm_client.endpoints import GoodNeighbour, Kind, RetryPolicy, TransportSettings
from icm_client.endpoints.settings import Connections
from icm_client.errors import InputError
from icm_client.runs.labels_file import KINDS as STARTS
from icm_client.runs.presets import Preset, Settings, TrainedSettings, preset_settings
from icm_client.runs.server import Server

_TASK_OPTIONS = (
    click.option(
        "-t",
        "--task",
        "task_name",
        shell_complete=complete_tasks,
        help="A task file, or a built-in task (icm-client tasks lists them). "
        "[default: NAME.task.toml or task.toml beside DATA]",
    ),
    click.option("--template", help=r"The prompt: {field} is a row's field, \n a newline."),
    click.option("--labels", help="The label words, separated by commas."),
)


def _task(task_name: str | None, template: str | None, labels: str | None) -> Task | str | None:
    if template is None and labels is None:
        return task_name
    if template is None or labels is None:
        raise click.UsageError("--template and --labels go together.")
    if task_name is not None:
        raise click.UsageError("--task and --template exclude each other.")
    words = tuple(word.strip() for word in labels.split(","))
    return Task(template=unescape(template), labels=words)


task_options = section("Task", *_TASK_OPTIONS, made_of("task", _task))
"""--task, --template and --labels: the command receives one `task`.

It is a `Task` where the options write one down, the name or file that --task gives, or None;
`icm_client.data.job.task_for` makes a task of each.
"""


_FORMATS = click.Choice(get_args(FileFormat))
_FILE = FileOptions()

_FILE_OPTIONS = (
    click.option("--format", type=_FORMATS, help="The data's format. [default: by its name]"),
    click.option(
        "--encoding",
        metavar="NAME",
        help="The encoding of the data's text, such as latin-1. [default: UTF-8]",
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        help=r"Between the columns of CSV; \t is a tab. [default: by the data's name and header]",
    ),
    click.option(
        "--quote",
        type=click.Choice(get_args(Quote)),
        default=_FILE.quote,
        show_default=True,
        help="Double quotes in CSV and TSV: text (none), around fields (standard), or whichever "
        "the file's separator and lines suggest.",
    ),
)


def _file(
    format: FileFormat | None,  # noqa: A002 - the option's name
    encoding: str | None,
    delimiter: str | None,
    quote: Quote,
) -> FileOptions:
    return FileOptions(
        format=format,
        encoding=encoding,
        delimiter=None if delimiter is None else unescape(delimiter),
        quote=quote,
    )


file_options = section("Data", *_FILE_OPTIONS, made_of("file", _file))
"""How DATA is read: the command receives one `file`."""


def limit_option_of(default: str) -> Decorator:
    """The option --limit, where a command that is not given it takes `default` rows."""
    return section(
        "Data",
        click.option(
            "--limit",
            type=click.IntRange(2),
            metavar="N",
            help="A sample of N rows, the same ones each time; a rule's groups stay whole. "
            f"[default: {default}]",
        ),
    )


limit_option = limit_option_of("all")

rows_alias = click.option("--rows", "limit", type=click.IntRange(2), hidden=True)
"""What --limit was called in `eval` and `ablate`."""

gold_option = section(
    "Task", click.option("--gold", help="Field with known labels. [default: the task's]")
)

output_format_option = section(
    "Output",
    click.option(
        "--output-format",
        type=click.Choice([kind for kind in get_args(FileFormat) if kind != "xlsx"]),
        help="The output's format. [default: by its name]",
    ),
)


def check_output_option(output: str, output_format: FileFormat | None, *, as_json: bool) -> None:
    """Return if the labels can be written there, and nothing else is printed where they go.

    Raises:
        UsageError: labels and result would both be printed on standard output.
        InputError, SetupError: as `check_output`.
    """
    check_output(output, output_format)
    if as_json and output == STANDARD_OUTPUT:
        raise click.UsageError(
            "--json prints the result where -o - prints the labels: write the labels to a file, or "
            "leave --json out (icm-client runs show --json has the result of a run)."
        )


def refuse_overwriting(output: str | None, files: Files) -> None:
    """Refuse to write labels over the rows that they are of."""
    if output is not None and output != STANDARD_OUTPUT and files.holds(output):
        raise InputError(f"{output}: the labels would overwrite the rows; name another file")


seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="The random seed."
)

store_option = click.option(
    "--store", type=click.Path(), help="The score store. [default: in the user's cache]"
)


class Names(click.ParamType[tuple[str, ...]]):
    """Some of the known names, separated by commas; a tuple in the order of the known ones."""

    name = "names"

    def __init__(self, known: Sequence[str]) -> None:
        self.known = known

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Refuse unknown names."""
        names = value if isinstance(value, tuple) else [name.strip() for name in value.split(",")]
        for name in names:
            if name not in self.known:
                meant = did_you_mean(name, self.known)
                self.fail(
                    f"there is no {name!r}: there are {listed(self.known)}.{meant}", param, ctx
                )
        return tuple(name for name in self.known if name in names)


_RETRY = RetryPolicy()
_TRANSPORT = TransportSettings()

_SERVER_OPTIONS = (
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
        metavar="KIND",
        help=f"The server's kind: {', '.join(SERVER_KINDS)}. [default: it is asked what it is]",
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
        help="How long the server's context is, where it does not report it.",
    ),
    click.option(
        "--transport",
        type=click.Choice(get_args(Connections)),
        help="Whose connections requests go over: aiohttp, or httpx2, slower, for SOCKS proxies, "
        "HTTP/2, and machines without aiohttp. [default: aiohttp where it is installed]",
    ),
)

_WIRE_OPTIONS = (
    click.option(
        "--max-in-flight",
        type=click.IntRange(1),
        default=_TRANSPORT.max_in_flight,
        show_default=True,
        help="The most requests at a time. Fewer are sent where the server slows down or refuses.",
    ),
    click.option(
        "--good-neighbour",
        type=click.IntRange(0),
        metavar="QUEUE",
        help="Let at most this many requests wait in the server, those of others included, and ask "
        "vLLM to serve others first.",
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
        help="Deadline of a request with all its retries.",
    ),
)


def _server(
    *,
    urls: tuple[str, ...],
    model: str | None,
    gguf: Path | None,
    kind: Kind | None,
    allow_floor: bool,
    context_length: int | None,
    transport: Connections | None = None,
    max_in_flight: int = _TRANSPORT.max_in_flight,
    good_neighbour: int | None = None,
    attempt_timeout: float = _RETRY.attempt_timeout_s,
    item_timeout: float = _RETRY.item_timeout_s,
) -> Server:
    settings = TransportSettings(
        transport=transport,
        retry=RetryPolicy(attempt_timeout_s=attempt_timeout, item_timeout_s=item_timeout),
        max_in_flight=max_in_flight,
        good_neighbour=None if good_neighbour is None else GoodNeighbour(queue=good_neighbour),
    )
    return Server(
        url=urls or None,
        model=model,
        kind=kind,
        allow_floor=allow_floor,
        context_length=context_length,
        gguf=gguf,
        transport=settings,
    )


def server_options(*, wire: bool = False) -> Decorator:
    """Return a decorator that adds the options to a command, which receives one `server`.

    Args:
        wire: deadlines and requests in flight as well.
    """
    options = (*_SERVER_OPTIONS, *(_WIRE_OPTIONS if wire else ()))
    return section("Server", *options, made_of("server", _server))


_FAST, _PAPER, _FOLDS = SweepSettings(), AnnealSettings(), FoldSettings()
_OF_SWEEPS = ("initial", "demos", "restarts", "max_sweeps")
_SWEEPING: Final = ("fast", "folds", "iterate")
_ANNEALED: Final = ("paper", "official")
_TAKEN_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "demos": get_args(Preset),
    "initial": (*_SWEEPING, *_ANNEALED),
    "restarts": _SWEEPING,
    "max_sweeps": _SWEEPING,
    "rounds": ("bootstrap",),
    "iterations": _ANNEALED,
    "alpha": _ANNEALED,
    "layout": _ANNEALED,
    "batch": _ANNEALED,
    "folds": ("folds",),
    "passes": ("folds",),
    "iterate": ("iterate",),
}
"""The numbers of a search, as settings name them -> the presets that have them."""

_SEARCH_OPTIONS = (
    click.option(
        "--preset",
        type=click.Choice(get_args(Preset)),
        metavar="NAME",
        default="fast",
        show_default=True,
        help="The search. fast: sweeps; paper: the paper's Algorithms 1 and 2; official: its "
        "released code; zero-shot, zero-shot-calibrated: no demos; random: demos with random "
        "labels; bootstrap: then with the labels predicted; folds: Algorithms 3 and 4, with models "
        "trained on the labels; iterate: the same, batch after batch.",
    ),
    click.option(
        "--demos",
        type=click.IntRange(2),
        help="The most labelled rows in a context. "
        f"[default: paper, official all; else {_FAST.demos}]",
    ),
    click.option(
        "--initial",
        type=click.IntRange(0),
        metavar="K",
        help=f"Rows that a search labels first. [default: {_FAST.initial}]",
    ),
    click.option(
        "--init",
        "start",
        metavar="KIND|FILE",
        help=f"First labels: {', '.join(STARTS)}, or a labels file. [default: the preset's]",
    ),
    click.option(
        "--restarts",
        type=click.IntRange(1),
        help="fast, folds, iterate: the most restarts, made while no coherent labels are found. "
        f"[default: {_FAST.restarts}]",
    ),
    click.option(
        "--max-sweeps",
        type=click.IntRange(2),
        help=f"fast, folds, iterate: the most sweeps of a restart. [default: {_FAST.max_sweeps}]",
    ),
    click.option(
        "--rounds",
        type=click.IntRange(1),
        help="bootstrap: how often the labels predicted become the next demos. "
        f"[default: {FewShotSettings().rounds}]",
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
        help="paper, official: how many rows to anneal at a time (256 in the paper). "
        "[default: all]",
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
        help="The same as --preset iterate: how many rows to label at a time, each time with a "
        f"model trained on those before. [default there: {IterateSettings().batch}]",
    ),
)

_CONSTRAINT_OPTIONS = (
    click.option(
        "--constraint",
        "rules",
        multiple=True,
        metavar="KIND",
        help=f"Which labels may stand together: {', '.join(KINDS)}, or your own module:function. "
        "Repeat it for rules that hold at once; each takes the fields below that it needs. "
        "[default: the task's]",
    ),
    click.option(
        "--group",
        multiple=True,
        metavar="FIELD",
        help="What related rows share; it may be repeated.",
    ),
    click.option("--answer", metavar="FIELD", help="The answer that rows of a group differ in."),
    click.option(
        "--implies", metavar="FIELD", help="Ids of the rows that hold where this one does."
    ),
)


def _constraint(
    rules: tuple[str, ...], group: tuple[str, ...], answer: str | None, implies: str | None
) -> Rules | None:
    if rules:
        return rules_of(rules, group=group, answer=answer, implies=implies)
    if group or answer or implies:
        raise click.UsageError("--group, --answer and --implies go with --constraint KIND.")
    return None  # the task's own


def settings_of(preset: Preset, **given: object) -> Settings:
    """The preset's settings, changed by the options given; None means not given.

    Raises:
        click.UsageError: an option that this preset has no use for.
        InputError: no search can work with these numbers.
    """
    if given.get("iterate") is not None:
        if preset not in ("fast", "iterate"):
            raise click.UsageError(f"--iterate is a search of its own, and so is {preset}.")
        preset = "iterate"
    own: dict[str, Any] = {}
    of_sweeps: dict[str, Any] = {}  # those that find the first labels of a search that trains
    settings = preset_settings(preset)
    trains = isinstance(settings, TrainedSettings)
    for name, value in given.items():
        if value is None:
            continue
        if preset not in _TAKEN_BY[name]:
            option = {"iterations": "steps", "layout": "contexts"}.get(name, name)
            raise click.UsageError(
                f"--{option.replace('_', '-')} is for --preset "
                f"{one_after_another(_TAKEN_BY[name])}, not for {preset}."
            )
        place = {"iterate": "batch"}.get(name, name)
        if name == "demos" and preset in _ANNEALED:
            place = "max_demos"
        (of_sweeps if trains and name in _OF_SWEEPS else own)[place] = value
    if isinstance(settings, TrainedSettings):
        own["sweeps"] = replace(settings.sweeps, **of_sweeps)
    return replace(settings, **own)


search_options = section(
    "Search",
    *_SEARCH_OPTIONS,
    made_of("settings", settings_of, ("preset", *_TAKEN_BY)),
    section("Constraint", *_CONSTRAINT_OPTIONS, made_of("constraint", _constraint)),
)
"""Preset, numbers and rule of a search: the command receives `settings`, `constraint`, `start`."""
