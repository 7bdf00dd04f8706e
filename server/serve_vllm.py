"""vLLM for many short requests: python server/serve_vllm.py MODEL (see `--help` and `--print`).

It is the same command as `icm-client serve MODEL`; docs/serving.md explains every flag.
"""

import sys

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "server/install-vllm, then use .venv-vllm/bin/python\n"
    )
    sys.exit(2)

import click

from icm_client.cli.serve import serve_command
from icm_client.cli.streams import prepare_streams
from icm_client.errors import IcmError, InputError


def main() -> None:
    """Run the command; an error becomes one line and an exit status, as in `icm-client`."""
    prepare_streams()
    try:
        sys.exit(serve_command(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except IcmError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


if __name__ == "__main__":
    main()
