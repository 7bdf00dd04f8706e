"""`icm-client tasks`: the built-in tasks, one in full, and the rows that its loader makes."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click
import orjson
from rich.table import Table
from rich.text import Text

from icm_client.cli.options import file_options
from icm_client.cli.result_display import print_notices
from icm_client.cli.sections import SectionedCommand
from icm_client.cli.terminal import output_console, print_json
from icm_client.data import FileOptions, Task, builtin_names, check_output, read_rows
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.items import items_of, render_items
from icm_client.data.job import named_task
from icm_client.data.loaders import loader_named
from icm_client.data.messages import listed
from icm_client.data.rows import Dataset
from icm_client.data.task import example_row
from icm_client.data.values import write_json
from icm_client.errors import InputError

_SENTENCE_END = re.compile(r"(?<=[.?!])\s")
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
    "tasks", invoke_without_command=True, short_help="Show the built-in tasks, and write your own."
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def tasks_command(context: click.Context, *, as_json: bool) -> None:
    """List the built-in tasks; `show` prints one in full, `convert` reads a public file."""
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
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("task", "labels", "constraint", ""):
        table.add_column(column, header_style="bold", no_wrap=column != "")
    for name, task in tasks.items():
        table.add_row(
            Text(name),
            Text(", ".join(task.labels)),
            Text(" + ".join(rule.kind for rule in task.rules)),
            Text(_SENTENCE_END.split(task.description or "")[0]),
        )
    output_console().print(table)


@tasks_command.command("show", short_help="Show a task's prompt, labels and constraint.")
@click.argument("name")
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
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
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
@click.argument("name")
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
