"""`icm-client`: the group of commands, and the exit status of each error.

Exit status: 0 done, 1 failed (the same command goes on where it stopped), 2 wrong input, 3 ended by
a limit that the user set, 130, 143 and 129 interrupted by Ctrl-C, TERM and HUP.

Commands are known by name and imported when they are called, so that help and completion are quick.
"""

import sys
from importlib import import_module
from typing import NoReturn

import click

import icm_client
from icm_client.cli.signals import Interrupted
from icm_client.cli.streams import output_error, prepare_streams
from icm_client.errors import IcmError, InputError

COMMANDS = {
    "ablate": ("ablate.ablate_command", "Change one thing at a time, and compare."),
    "check": ("check.check_command", "Find out whether a server can label, and what it costs."),
    "eval": ("eval.eval_command", "Compare ICM labels with gold, human and random labels."),
    "export": ("export.export_command", "Write a run's labels for training."),
    "figures": ("report.figures_command", "Draw a run's figures as PNG and SVG."),
    "finetune": ("finetune.finetune_command", "Train a model on a run's labels."),
    "label": ("label.label_command", "Label the rows of a file."),
    "predict": ("predict.predict_command", "Label new rows with what a run has found."),
    "report": ("report.report_command", "Write a run's report, an HTML page."),
    "reward": ("reward.reward_command", "Train a reward model on pairs, in three steps."),
    "runs": ("runs.runs_group", "List, resume, compare and remove runs."),
    "salience": (
        "salience.salience_command",
        "Estimate, before a run, whether it would beat chance.",
    ),
    "serve": ("serve.serve_command", "Start a vLLM server that suits many short requests."),
    "store": ("store.store_group", "Look after the score store."),
    "tasks": ("tasks.tasks_command", "Show the built-in tasks."),
    "watch": ("watch.watch_command", "Show how busy a vLLM server is."),
}
"""Name -> the file and attribute of this folder, and the line in the list of commands."""


class Commands(click.Group):
    """A group of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands' names, in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a command; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        file, _, attribute = COMMANDS[cmd_name][0].partition(".")
        command: click.Command = getattr(import_module(f"icm_client.cli.{file}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(COMMANDS.items())])


GO_ON = "Every score so far is kept: the same command again goes on from here."


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(icm_client.__version__, prog_name="icm-client")
def cli() -> None:
    """Find labels for unlabelled rows: those that a base model finds most coherent."""


def main(command: click.Command = cli) -> NoReturn:
    """Run a command on this process's arguments, and end the process with its status."""
    prepare_streams()
    try:
        arguments = _decoded(sys.argv[1:])
        status = command(arguments, standalone_mode=False, obj=tuple(arguments))
        if (error := output_error()) is not None:
            click.echo(f"Error: standard output cannot be written: {error}", err=True)
            status = status or 1
        sys.exit(status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except Interrupted as stopped:
        click.echo(f"\nInterrupted.{f' {GO_ON}' if stopped.goes_on else ''}", err=True)
        sys.exit(stopped.status)
    except IcmError as error:
        click.echo(f"Error: {error}", err=True)
        if error.goes_on:
            click.echo(GO_ON, err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        sys.exit(130)


def _decoded(arguments: list[str]) -> list[str]:
    """The arguments, as text that can be sent and recorded.

    Raises:
        UsageError: one has bytes that are no text in this terminal's encoding.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.UsageError(
                f"{argument!r} has bytes that are no text in {sys.getfilesystemencoding()}: set "
                "LC_ALL=C.UTF-8, or rename the file"
            ) from None
    return arguments
