"""`icm-client tasks`: the built-in tasks, one in full, a new one, the rows that a loader makes."""

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import orjson
from rich.table import Table
from rich.text import Text

from icm_client.cli.completion import complete_tasks
from icm_client.cli.documents import print_json
from icm_client.cli.options import file_options
from icm_client.cli.result_display import print_notices, print_preview
from icm_client.cli.run_options import json_option
from icm_client.cli.sections import ListingGroup, SectionedCommand, section
from icm_client.cli.terminal import facts_table, output_console
from icm_client.data import (
    FileOptions,
    Task,
    builtin_names,
    check_output,
    find_beside,
    read_rows,
    unescape,
)
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.items import items_of, render_items
from icm_client.data.job import Job, named_task
from icm_client.data.loaders import loader_named
from icm_client.data.messages import did_you_mean, listed
from icm_client.data.rows import Dataset
from icm_client.data.sources import STANDARD_INPUT, found_files
from icm_client.data.task import example_row, parse_template, path_beside
from icm_client.data.task_file import write_task
from icm_client.data.values import write_json
from icm_client.errors import InputError, TaskError

_SENTENCE_END = re.compile(r"(?<=[.?!])\s")
_NEEDED_WIDTH = {"task": 0, "labels": 100, "constraint": 70, "": 0}
"""A column of the list -> the columns of a terminal from which on it is shown."""

_SAYS = {
    "none": "any labels may stand together",
    "asymmetry": "the two orders of a pair have opposite labels",
    "mutual-exclusion": "rows of one {group} with different {answer} are not both {true}",
    "same-answer": "rows of one {group} with the same {answer} have the same label",
    "at-most-one": "at most one row of one {group} is {true}",
    "exactly-one": "exactly one row of one {group} is {true}",
    "implication": "where a row is {true}, so are the rows that its {implies} names",
}


@click.group(
    "tasks",
    cls=ListingGroup,
    invoke_without_command=True,
    short_help="Show the built-in tasks, and write your own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def tasks_command(context: click.Context, *, as_json: bool) -> None:
    """List the built-in tasks; `show` prints one in full, `init` writes a task of your own."""
    if context.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError(
                "--json goes after the command: icm-client tasks show NAME --json"
            )
        return
    tasks = {name: Task.builtin(name) for name in builtin_names()}
    if as_json:
        print_json({"tasks": [_described(name, task) for name, task in tasks.items()]})
        return
    console = output_console()
    shown = [column for column, width in _NEEDED_WIDTH.items() if console.width >= width]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in shown:
        table.add_column(column, header_style="bold", no_wrap=column != "")
    for name, task in tasks.items():
        cells = {
            "task": name,
            "labels": ", ".join(task.labels),
            "constraint": " + ".join(rule.kind for rule in task.rules),
            "": _SENTENCE_END.split(task.description or "")[0],
        }
        table.add_row(*(Text(cells[column]) for column in shown))
    console.print(table)


@tasks_command.command("show", short_help="Show a task's prompt, labels and constraint.")
@click.argument("name", shell_complete=complete_tasks)
@click.option("--json", "as_json", is_flag=True, help="Print the task as JSON.")
def show_command(*, name: str, as_json: bool) -> None:
    """Show the task NAME, a built-in one or a task file."""
    task = named_task(name)
    about = _described(name, task) | {"example": _example(task)}
    if as_json:
        print_json(about)
        return
    console = output_console()
    console.print(Text(task.name or name, style="bold"), Text(task.description or ""), sep="  ")
    table = facts_table()
    table.add_row("labels", Text(", ".join(map(repr, task.label_texts))))
    for rule in task.rules:
        table.add_row("constraint", Text(f"{rule.kind}: {_says(rule, task)}"))
    if task.exchange is not None:
        table.add_row("shown twice", Text(f"with {' and '.join(task.exchange)} exchanged"))
    table.add_row("gold", Text(task.gold or "none, unless --gold names a field"))
    table.add_row("fields", Text(", ".join(task.read_fields)))
    for layout in _layouts(task):
        table.add_row("reads", Text(layout))
    console.print(table)
    console.print(Text("\nPrompt", style="bold"))
    console.print(Text(task.template.rstrip(" \t")), soft_wrap=True)
    for number, prompt in enumerate(_example_prompts(task)):
        console.print(Text("\nIts exchanged order" if number else "\nAn example", style="bold"))
        console.print(Text(prompt), soft_wrap=True)


@tasks_command.command(
    "convert",
    cls=SectionedCommand,
    short_help="Write the rows that a task makes from a public file.",
)
@click.argument("name", shell_complete=complete_tasks)
@click.argument("data", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Where to write the rows, as JSON Lines. [default: standard output]",
)
@file_options
def convert_command(*, name: str, data: str, output: str | None, file: FileOptions) -> None:
    """Write the rows that the task NAME makes from DATA, a public file in its own format.

    This is for looking at them: `icm-client label` reads such files itself. Known answers, where
    the file has them, are in the gold field of the task.
    """
    task = named_task(name)
    if task.loader is None:
        raise InputError(
            f"{name}: the task has no public file to convert: give rows with "
            f"{listed(task.read_fields)}"
        )
    if output is not None:
        if Path(output).resolve() == Path(data).resolve():
            raise InputError(f"{output}: the rows would overwrite the file; name another")
        check_output(output, "jsonl")
    dataset = read_rows(
        data,
        **asdict(file),
        loader=task.loader,
        template_fields=task.template_fields,
    )
    print_notices(dataset.warnings, ())
    with click.open_file(output or "-", "wb", atomic=output is not None) as written:
        written.writelines(
            write_json(row.fields, orjson.OPT_APPEND_NEWLINE) for row in dataset.rows
        )


_MOST_LABELS = 12
"""More values of a gold field than these are no labels to propose."""


@tasks_command.command("init", cls=SectionedCommand, short_help="Write a task file of your own.")
@click.argument("data", nargs=-1, type=click.Path())
@section(
    "Task",
    click.option(
        "-t",
        "--task",
        "start",
        metavar="NAME",
        shell_complete=complete_tasks,
        help="Begin with this task, a built-in one or a file.",
    ),
    click.option("--template", help=r"The prompt: {field} is a row's field, \n a newline."),
    click.option(
        "--labels", help="The label words, separated by commas. [default: the gold field's]"
    ),
    click.option("--gold", help="Field with known labels, where the rows have one."),
)
@file_options
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Where to write it. [default: NAME.task.toml beside DATA, else task.toml]",
)
@json_option
def init_command(
    *,
    data: tuple[str, ...],
    start: str | None,
    template: str | None,
    labels: str | None,
    gold: str | None,
    file: FileOptions,
    output: str | None,
    as_json: bool,
) -> None:
    """Write a task file for the rows of DATA: prompt, labels, and comments on what else may be set.

    What the options do not say is asked for where a terminal is. Label, check and the other
    commands find the file beside DATA without being told.
    """
    place = Path(output) if output is not None else _place(data)
    if place.exists():
        raise InputError(f"{place}: there is a file already: name another one with -o")
    dataset = _first_look(data, file)
    fields = () if dataset is None else tuple(dataset.rows[0].fields)
    if start is None:
        gold = _asked_gold(gold, fields, answered=None not in (template, labels))
        task = Task(
            labels=_asked_labels(labels, gold, dataset),
            template=_asked_template(template, gold, dataset),
            gold=gold,
        )
    else:
        changes = {
            "template": None if template is None else unescape(template),
            "labels": None if labels is None else _split(labels),
            "gold": gold,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        task = Task(**{**named_task(start).model_dump(), **given})
    job = None
    if data:
        with found_files(data) as files:
            job = Job.prepare(files, task, file=file, skip_bad_rows=True)
    write_task(task, place, fields)
    if as_json:
        print_json({"file": str(place), "task": _described(place.stem, task)})
        return
    click.echo(f"Wrote {place}.")
    if job is not None:
        print_preview(job, output_console())
        print_notices((), job.dataset.skipped)
    found = bool(data) and find_beside(data[0]) == place
    rows = shlex.join(data) if data else "ROWS"
    option = "" if found else f" --task {shlex.quote(str(place))}"
    skips = " --skip-bad-rows" if job is not None and job.dataset.skipped else ""
    click.echo(f"Next: icm-client label {rows}{option} -o labels.jsonl{skips} --forecast")


def _place(data: tuple[str, ...]) -> Path:
    """Where the task of these rows is looked for."""
    if not data or data[0] == STANDARD_INPUT or "://" in data[0]:
        return Path("task.toml")
    beside = path_beside(data[0])
    return beside if len(data) == 1 and Path(data[0]).exists() else beside.with_name("task.toml")


def _first_look(data: tuple[str, ...], file: FileOptions) -> Dataset | None:
    if not data:
        return None
    if STANDARD_INPUT in data:
        raise InputError("standard input can be read once, and questions may be asked: name a file")
    with found_files(data) as files:
        return read_rows(files, **asdict(file), skip_bad_rows=True)


def _split(labels: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in labels.split(","))


def _can_ask() -> bool:
    """Whether a person sits before standard input and reads standard error."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _asked_gold(gold: str | None, fields: Sequence[str], *, answered: bool) -> str | None:
    """The gold field; without a person, and where all else is known, none but the one given."""
    if gold is None and not answered and fields and _can_ask():
        click.echo(f"The rows have {', '.join(fields)}.", err=True)
        while (
            asked := click.prompt(
                "Field with known labels, if there is one", default="", show_default=False, err=True
            )
        ) not in ("", *fields):
            click.echo(f"There is no field {asked!r}.{did_you_mean(asked, fields)}", err=True)
        return asked or None
    if gold is not None and fields and gold not in fields:
        raise InputError(f"the rows have no field {gold!r}.{did_you_mean(gold, fields)}")
    return gold


def _asked_labels(labels: str | None, gold: str | None, dataset: Dataset | None) -> tuple[str, ...]:
    """The labels given; else those of the gold field, after asking where a person is."""
    if labels is not None:
        return _split(labels)
    found: list[str] = []
    if gold is not None and dataset is not None:
        values = {str(row.fields[gold]) for row in dataset.rows if row.fields.get(gold) is not None}
        found = sorted(values) if 1 < len(values) <= _MOST_LABELS else []
    if _can_ask():
        words = click.prompt(
            "Labels, separated by commas",
            default=",".join(found) or None,
            value_proc=_checked(lambda words: Task(template="{row}", labels=_split(words))),
            err=True,
        )
        return _split(str(words))
    if not found:
        raise click.UsageError(
            "Missing option '--labels': the words that may follow the prompt, such as "
            "positive,negative. (With --gold FIELD they are taken from the rows.)"
        )
    return tuple(found)


def _asked_template(template: str | None, gold: str | None, dataset: Dataset | None) -> str:
    if template is not None:
        return unescape(template)
    first = {} if dataset is None else dataset.rows[0].fields
    fields = tuple(first)
    if _can_ask():
        texts = [
            field
            for field, value in first.items()
            if isinstance(value, str) and field not in ("id", gold)
        ]
        lines = [f"{field.capitalize()}: {{{field}}}" for field in texts]
        default = r"\n".join([*lines, "Label:"]) if lines else None
        asked = click.prompt(
            r"Prompt ({field} is a row's field, \n a newline)",
            default=default,
            value_proc=_checked(lambda prompt: _check_fields(unescape(prompt), fields)),
            err=True,
        )
        return unescape(str(asked))
    has = f" The rows have {', '.join(fields)}." if fields else ""
    raise click.UsageError(
        "Missing option '--template': the prompt, with {field} where a row's field belongs, such "
        rf"as 'Review: {{text}}\nSentiment:'.{has}"
    )


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """What reads an answer, and has the question asked again where it cannot be used."""

    def read(answer: str) -> str:
        try:
            check(answer)
        except TaskError as problem:
            raise click.BadParameter(str(problem)) from None
        return answer

    return read


def _check_fields(template: str, fields: Sequence[str]) -> None:
    for field in (piece.field for piece in parse_template(template)):
        if field is not None and fields and field not in fields:
            raise TaskError(f"the rows have no field {field!r}.{did_you_mean(field, fields)}")


def _described(name: str, task: Task) -> dict[str, object]:
    """A task as `--json` prints it."""
    described = [
        {**rule.model_dump(exclude_none=True), "says": _says(rule, task)} for rule in task.rules
    ]
    return {
        "name": task.name or name,
        "description": task.description,
        "template": task.template,
        "fields": task.read_fields,
        "labels": task.labels,
        "label_texts": task.label_texts,
        "constraint": described[0] if len(described) == 1 else described,
        "exchange": task.exchange,
        "gold": task.gold,
        "loader": task.loader,
        "reads": _layouts(task),
    }


def _says(spec: ConstraintSpec, task: Task) -> str:
    if spec.is_own:
        return f"what the function says of two rows of one {' and '.join(spec.group)}"
    true, _ = spec.words(task.labels)
    if spec.kind == "same-answer" and spec.answer is None:
        return f"rows of one {' and '.join(spec.group)} have the same label"
    return _SAYS[spec.kind].format(
        group=" and ".join(spec.group), answer=spec.answer, implies=spec.implies, true=true
    )


def _layouts(task: Task) -> list[str]:
    if task.loader is None:
        return []
    return [layout.about for layout in loader_named(task.loader).layouts]


def _example(task: Task) -> Mapping[str, object] | None:
    row = example_row(task.name or "")
    return None if row is None else {"row": row.fields, "prompts": _example_prompts(task)}


def _example_prompts(task: Task) -> tuple[str, ...]:
    """The prompts of the task's example: none, one, or both orders of a pair."""
    row = example_row(task.name or "")
    if row is None or any(field not in row.fields for field in task.template_fields):
        return ()
    dataset = Dataset("example", (row,), gold=None, gold_field=None, warnings=())
    return render_items(task, dataset, items_of(task, dataset))
