"""`icm-client view`: the runs of a folder in the browser, live."""

import threading
import webbrowser
from contextlib import suppress
from pathlib import Path

import click

from icm_client.cli.completion import complete_runs
from icm_client.errors import SetupError
from icm_client.record.archive import RunList, find_run, list_runs
from icm_client.record.layout import DEFAULT_BASE
from icm_client.verdict.findings import many
from icm_client.view.bundle import write_bundle

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command("view", short_help="Look at runs in the browser, live; check rows there.")
@click.argument(
    "base", metavar="[RUNS]", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_BASE
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen at. Another than this one lets other machines in, with the token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The port to listen at. [default: the folder's own, or a free one]",
)
@click.option("--read-only", is_flag=True, help="Let nobody check rows or start runs.")
@click.option("--no-open", is_flag=True, help="Do not open the browser.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write static pages of the runs into DIR instead, for a web server or a supplement.",
)
@click.option(
    "--run",
    "names",
    multiple=True,
    metavar="RUN",
    shell_complete=complete_runs,
    help="With --bundle: only this run; it may be repeated.",
)
def view_command(
    *,
    base: Path,
    host: str,
    port: int,
    read_only: bool,
    no_open: bool,
    bundle: Path | None,
    names: tuple[str, ...],
) -> None:
    """Show the runs in the folder RUNS [default: runs] in the browser, live.

    The page is served by this command until Ctrl-C ends it. Who opens it must know the token in the
    URL that is printed.
    """
    if names and bundle is None:
        raise click.UsageError("--run goes with --bundle DIR.")
    if bundle is not None:
        found = RunList(tuple(find_run(name, base) for name in names), ())
        if not names:
            found = list_runs(base)
        for note in found.notes:
            click.echo(note, err=True)
        written = write_bundle(found.runs, bundle)
        click.echo(f"{many(len(written) - 1, 'run')}: open {written[0]}")
        return
    try:
        from icm_client.view.serve import serve  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise SetupError(
            "icm-client view needs starlette and uvicorn: pip install 'icm-client[view]'"
        ) from None
    if host not in _LOOPBACK:
        click.echo(
            f"Warning: at {host} other machines can reach this page, unencrypted. Who learns the "
            "token can read the runs, and unless --read-only is given, start some.",
            err=True,
        )

    def opened(url: str) -> None:
        click.echo(f"The runs in {base}: {url}")
        click.echo("Ctrl-C ends this.", err=True)
        if not no_open:  # a browser in the terminal stays until it is closed, and wants answers
            threading.Thread(target=_open_browser, args=(url,), daemon=True).start()

    with suppress(KeyboardInterrupt):
        serve(base, host=host, port=port, read_only=read_only, opened=opened)


def _open_browser(url: str) -> None:
    if not webbrowser.open(url):
        click.echo("No browser could be opened: open the URL by hand.", err=True)
