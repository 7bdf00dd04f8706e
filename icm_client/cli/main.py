"""`icm-client`: the group of commands, and the exit status of each error.

Exit status: 0 done, 1 failed (the same command goes on where it stopped), 2 wrong input, 3 ended by
a limit that the user set, 130, 143 and 129 interrupted by Ctrl-C, TERM and HUP.

Commands are known by name and imported when they are called, so that help and completion are quick.
"""

import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem

import icm_client
from icm_client.cli.completion import quick_command
from icm_client.cli.documents import print_error, printed
from icm_client.cli.signals import Interrupted
from icm_client.cli.streams import output_error, prepare_streams
from icm_client.errors import IcmError, InputError, RowError

PROGRAM = "icm-client"

COMMANDS = {
    "ablate": ("ablate.ablate_command", "Change one thing at a time, and compare."),
    "ask": ("ask.ask_command", "Ask a person about the rows that tell a run most."),
    "audit": ("audit.audit_command", "Find wrong labels among those that rows have."),
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
    "stress": (
        "stress.stress_command",
        "Find out where labelling breaks on your rows, and whether the verdict sees it.",
    ),
    "tasks": ("tasks.tasks_command", "Show the built-in tasks, and write your own."),
    "view": ("view.view_command", "Look at runs in the browser, live; check rows there."),
    "watch": ("watch.watch_command", "Show how busy a vLLM server is."),
    "why": ("why.why_command", "Show what carries a row's label."),
}
"""Name -> the file and attribute of this folder, and the line in the list of commands."""


class Commands(click.Group):
    """A group of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands' names, in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        if ctx.resilient_parsing and (quick := quick_command(cmd_name, ctx.args)) is not None:
            return quick
        file, _, attribute = COMMANDS[cmd_name][0].partition(".")
        command: click.Command = getattr(import_module(f"icm_client.cli.{file}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called; the names near a wrong one are in the error."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; where it fails under --json, print the error as JSON too."""
        before = printed()
        try:
            return super().invoke(ctx)
        except (click.ClickException, *_ENDS) as error:
            if isinstance(error, RowError) and error.skippable and self._skips_bad_rows(ctx):
                error.add_note("--skip-bad-rows goes on with the other rows.")
            if "--json" in (ctx.obj or ()) and printed() == before:
                end = _end(error)
                print_error(
                    self._called(ctx),
                    end.words,
                    kind=type(error).__name__,
                    status=end.status,
                    goes_on=end.goes_on,
                )
            raise

    def _skips_bad_rows(self, ctx: click.Context) -> bool:
        """Whether the command that was called has that option."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        parameters = () if command is None else command.params
        return any(parameter.name == "skip_bad_rows" for parameter in parameters)

    def _called(self, ctx: click.Context) -> str:
        """The name of the command that was called, and that of its own where it is a group."""
        name = ctx.invoked_subcommand or ""
        command = self.get_command(ctx, name)
        own = command.list_commands(ctx) if isinstance(command, click.Group) else ()
        return " ".join([name, *[word for word in ctx.obj if word in own][:1]])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands without importing any, and the program's own options."""
        found = [
            CompletionItem(name, help=line)
            for name, (_, line) in sorted(COMMANDS.items())
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(COMMANDS.items())])


GO_ON = "Every score so far is kept: the same command again goes on from here."


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(icm_client.__version__, prog_name=PROGRAM)
def cli() -> None:
    """Find labels for unlabelled rows: those that a base model finds most coherent."""


def main(command: click.Command = cli) -> NoReturn:
    """Run a command on this process's arguments, and end the process with its status."""
    prepare_streams()
    try:
        arguments = _decoded(sys.argv[1:])
        status = command(arguments, prog_name=PROGRAM, standalone_mode=False, obj=tuple(arguments))
        if (error := output_error()) is not None:
            click.echo(f"Error: standard output cannot be written: {error}", err=True)
            status = status or 1
        sys.exit(status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except _ENDS as error:
        end = _end(error)
        go_on = GO_ON if end.goes_on else ""
        if isinstance(error, IcmError):
            click.echo(f"Error: {end.words}", err=True)
            if go_on:
                click.echo(go_on, err=True)
        else:
            click.echo(f"\n{end.words} {go_on}".rstrip(" "), err=True)
        sys.exit(end.status)


_ENDS = (IcmError, Interrupted, click.Abort, KeyboardInterrupt)


class _End(NamedTuple):
    """How a command ends with an error: what is said, the exit status, and whether it goes on."""

    words: str
    status: int
    goes_on: bool = False


def _end(error: BaseException) -> _End:
    match error:
        case click.ClickException():
            return _End(error.format_message(), error.exit_code)
        case InputError():
            return _End("\n".join([str(error), *getattr(error, "__notes__", ())]), 2)
        case IcmError():
            return _End(str(error), 1, error.goes_on)
        case Interrupted():
            return _End("Interrupted.", error.status, error.goes_on)
        case _:
            return _End("Interrupted.", 130)


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
