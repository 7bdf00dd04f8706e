"""`icm-client`: the group of commands, and how errors end.

Exit status: 0 done, 1 failed (the same command goes on where it stopped), 2 wrong input, 3 ended by
a limit of the user's, 130, 143 and 129 interrupted by Ctrl-C, TERM and HUP.
"""

import sys
from typing import NoReturn

import click

import icm_client
from icm_client.cli.commands import Commands
from icm_client.cli.signals import Interrupted
from icm_client.cli.streams import output_error, prepare_streams
from icm_client.errors import IcmError, InputError

GO_ON = "Every score so far is kept: the same command again goes on from here."


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(icm_client.__version__, prog_name="icm-client")
def cli() -> None:
    """Find labels for unlabelled rows: those that a base model finds most coherent."""


def main() -> None:
    """Run the command line; errors of ours end as one message and a status."""
    end_as_a_command(cli)


def end_as_a_command(command: click.Command) -> NoReturn:
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
    """The arguments; bytes that this terminal's encoding lacks could neither be sent nor recorded.

    Raises:
        UsageError: one has such bytes.
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
