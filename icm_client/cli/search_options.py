"""The options that say how labels are searched for, shared by the commands that search."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TypeVar, get_args

import click

from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.iterate import IterateSettings
from icm_client.coherence.leave_one_out import Layout
from icm_client.coherence.settings import SweepSettings
from icm_client.data.constraint_spec import KINDS, Rules, rules_of
from icm_client.runs.first_labels import KINDS as STARTS
from icm_client.runs.presets import Preset, Settings, TrainedSettings, preset_settings

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
