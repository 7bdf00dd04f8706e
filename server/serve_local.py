"""A llama.cpp server that stays up, for several runs: python server/serve_local.py.

It is the server that `icm-client` embeds, on a fixed port. Ctrl-C ends it.
"""

import os
import secrets
import signal
import sys
from pathlib import Path

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[local]'\n"
    )
    sys.exit(2)

import click
from pydantic import SecretStr

from icm_client.cli.main import main
from icm_client.cores import YIELDING, physical_cores
from icm_client.endpoints import gemma
from icm_client.endpoints.embedded import Orders, start
from icm_client.serving.plan import check_port

_ENDING = {signal.SIGINT, signal.SIGTERM}


@click.command()
@click.option(
    "--gguf", type=click.Path(exists=True, path_type=Path), help="[default: gemma-3-270m]"
)
@click.option("--port", default=8080, show_default=True)
@click.option("--context", default=8192, show_default=True, help="Tokens of the longest prompt.")
def serve(gguf: Path | None, port: int, context: int) -> None:
    """Serve a base model on loopback; the key is ICM_API_KEY, or a new one that is printed."""
    key = os.environ.get("ICM_API_KEY") or secrets.token_urlsafe(32)
    check_port("127.0.0.1", port)
    # The server's threads inherit the mask, so that the signals are left for `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    path = gguf or gemma.model_path()
    server = start(
        Orders(
            model_path=str(path),
            model_name=path.stem,
            api_key=SecretStr(key),
            context_length=context,
            threads=physical_cores(),
            port=port,
        )
    )
    if "ICM_API_KEY" not in os.environ:
        click.echo(f"export ICM_API_KEY={key}")
    click.echo(f"icm-client label ROWS -o labels.jsonl --endpoint {server.listening_address}")
    signal.sigwait(_ENDING)


if __name__ == "__main__":
    os.environ.update(YIELDING | os.environ)  # before the server's library is loaded
    main(serve)
