"""`icm-client serve`: start a vLLM server that suits many short requests.

`served` starts one for as long as another command needs it (`--serve MODEL`).
"""

import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from icm_client.cache import cache_folder
from icm_client.cli.sections import SectionedCommand, section
from icm_client.cli.signals import Interrupted
from icm_client.runs.server import Server
from icm_client.serving.hardware import DEVICES, Device, detect
from icm_client.serving.launch import Launch, ServerFailed, StartInterrupted
from icm_client.serving.plan import KEY_VARIABLE, LORA_RANKS, Plan, ServeOptions, plan_server
from icm_client.settings import Environment

_DEFAULTS: Final = ServeOptions()
_START_TIMEOUT_S: Final = 1800.0

serve_option = section(
    "Server",
    click.option(
        "--serve",
        "serve",
        metavar="MODEL",
        help="Serve MODEL with vLLM on this machine while the command runs, as icm-client serve "
        "does: a folder, a GGUF file, a hub's OWNER/NAME, or gemma-3-270m.",
    ),
)


@click.command(
    "serve", cls=SectionedCommand, short_help="Start a vLLM server that suits many short requests."
)
@click.argument("model")
@click.argument("extra", nargs=-1, type=click.UNPROCESSED)
@section(
    "Clients",
    click.option(
        "--host",
        default=_DEFAULTS.host,
        show_default=True,
        help="The address to listen on; other than loopback it needs a key.",
    ),
    click.option(
        "--port", default=_DEFAULTS.port, show_default=True, type=click.IntRange(1, 65535)
    ),
    click.option("--name", help="What clients call the model. [default: MODEL's own name]"),
)
@section(
    "Model",
    click.option(
        "--context",
        type=click.IntRange(16),
        help="The context length, in tokens. [default: MODEL's]",
    ),
    click.option(
        "--device",
        type=click.Choice(DEVICES),
        help="What to run on. [default: the GPUs, where there are any]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        help="The weights' type. [default: MODEL's own; on a CPU bfloat16 with AMX, else float32]",
    ),
    click.option(
        "--block-size",
        type=click.IntRange(1),
        help="Tokens in a KV cache block. [default: 16 on a CPU; else the kernels' own]",
    ),
)
@section(
    "Hardware",
    click.option("--tensor-parallel", type=click.IntRange(1), help="GPUs of each replica."),
    click.option(
        "--data-parallel",
        type=click.IntRange(1),
        help="Replicas of the model, each on its own GPUs.",
    ),
    click.option(
        "--queue",
        default=_DEFAULTS.queue,
        show_default=True,
        type=click.IntRange(1),
        help="How many prompts may be inside the server; above that it answers 503.",
    ),
    click.option(
        "--kv-cache-gib",
        default=_DEFAULTS.kv_cache_gib,
        show_default=True,
        type=click.FloatRange(0.1),
        help="The size of the KV cache on a CPU, in GiB.",
    ),
)
@section(
    "Adapters",
    click.option("--lora", is_flag=True, help="Let clients load adapters while the server runs."),
    click.option(
        "--lora-rank",
        default=64,
        show_default=True,
        type=click.Choice(LORA_RANKS),
        help="The largest rank of an adapter.",
    ),
)
@click.option(
    "--start-timeout",
    default=_START_TIMEOUT_S,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds to wait until the server answers.",
)
@click.option(
    "--show-log", is_flag=True, help="Print the server's output here. [default: to a file]"
)
@click.option(
    "--print", "print_only", is_flag=True, help="Print the command and its reasons, and stop."
)
def serve_command(
    *,
    model: str,
    extra: tuple[str, ...],
    host: str,
    port: int,
    name: str | None,
    context: int | None,
    device: Device | None,
    dtype: str | None,
    block_size: int | None,
    tensor_parallel: int | None,
    data_parallel: int | None,
    queue: int,
    kv_cache_gib: float,
    lora: bool,
    lora_rank: int,
    start_timeout: float,
    show_log: bool,
    print_only: bool,
) -> None:
    """Serve MODEL with vLLM, on this machine's GPUs or its CPU, until Ctrl-C.

    MODEL is a folder, a GGUF file, a hub's OWNER/NAME, or gemma-3-270m for the model of the
    `local` extra. vLLM's own flags go after `--`, and override those chosen here.

    Clients must send the key in VLLM_API_KEY, else ICM_API_KEY, of this environment.
    """
    options = ServeOptions(
        host=host,
        port=port,
        name=name,
        context=context,
        dtype=dtype,
        block=block_size,
        queue=queue,
        kv_cache_gib=kv_cache_gib,
        lora_rank=lora_rank if lora else None,
        extra=extra,
    )
    plan = plan_server(
        model,
        options,
        detect(),
        lambda words: click.echo(words, err=True),
        device=device,
        tensor=tensor_parallel,
        data=data_parallel,
        dry=print_only,
    )
    if print_only:
        _print(plan)
        return
    log = None if show_log else _log(port)
    try:
        status = _launch(plan, plan.environment(), log, start_timeout).run(_ready(plan))
    except ServerFailed as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.status)
    sys.exit(status)


@contextmanager
def served(model: str | None, server: Server) -> Iterator[tuple[Server, Callable[[], bool]]]:
    """Serve a model within the block, and end the server after it; None leaves all as it is.

    The server listens on a free port of this machine only, and its key is the client's. Its log is
    removed with it, unless something fails.

    Args:
        model: as `icm-client serve` takes it.
        server: the other options of the command.

    Yields:
        The server to ask, and what says whether it has ended before its time.

    Raises:
        click.UsageError: another server is named too.
        InputError, SetupError: the model cannot be served here; nothing has been started.
        ServerFailed: it did not start, or ended before the block did.
        Interrupted: a signal came before it was ready.
    """
    if model is None:
        yield server, lambda: False
        return
    if server.url is not None or server.gguf is not None or server.model is not None:
        raise click.UsageError("--serve starts a server: leave out --endpoint, --model and --gguf.")
    with socket.socket() as free:
        free.bind((_DEFAULTS.host, 0))
        port = free.getsockname()[1]
    plan = plan_server(
        model, replace(_DEFAULTS, port=port), detect(), lambda words: click.echo(words, err=True)
    )
    environment = plan.environment()
    key = Environment().api_key
    environment.pop(KEY_VARIABLE, None)
    if key is not None:
        environment[KEY_VARIABLE] = key.get_secret_value()
    log = _log(port)
    try:
        with _launch(plan, environment, log, _START_TIMEOUT_S).serving() as has_ended:
            yield replace(server, url=plan.url, model=plan.name), has_ended
    except StartInterrupted as came:
        raise Interrupted(came.number, goes_on=False) from None
    log.unlink(missing_ok=True)


def _print(plan: Plan) -> None:
    click.echo(plan.shown())
    click.echo()
    for setting, reason in plan.explained():
        click.echo(f"{setting}\n    {reason}")
    if plan.parallel is not None:
        click.echo(f"\nGPUs: {plan.parallel.reason}.")
    if plan.engine.device == "cpu":
        click.echo(f"\nOn the CPU {plan.threads}.")
    click.echo(f"\nKey: {'from the environment' if plan.key else 'none; loopback only'}.")


def _log(port: int) -> Path:
    return cache_folder() / "logs" / f"vllm-{port}.log"


def _launch(
    plan: Plan, environment: Mapping[str, str], log: Path | None, timeout_s: float
) -> Launch:
    """Say what is started."""
    written = f"; log: {log}" if log is not None else ""
    what = f"vLLM {plan.engine.version} with {plan.name} on {_layout(plan)}"
    click.echo(f"Starting {what}{written}", err=True)
    return Launch(plan.command, environment, url=plan.url, log=log, start_timeout_s=timeout_s)


def _layout(plan: Plan) -> str:
    if plan.engine.device == "cpu":
        return f"the CPU ({plan.threads})"
    if plan.parallel is None:
        return "GPUs as its own flags say"
    return f"{plan.parallel.data} replica(s) of {plan.parallel.tensor} GPU(s)"


def _ready(plan: Plan) -> list[str]:
    """What those who label with this server need to know."""
    lines = [f"Serving {plan.name} at {plan.url}. Ctrl-C ends it."]
    if plan.open_at is not None:
        lines.append(f"From other machines: {plan.open_at}")
    if plan.key:
        lines.append("Clients need its key in ICM_API_KEY.")
    lines.append(f"icm-client label ROWS -o labels.jsonl --endpoint {plan.url}")
    return lines
