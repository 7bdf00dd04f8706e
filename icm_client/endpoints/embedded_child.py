"""The child process of `EmbeddedEndpoint`: serves one GGUF file until its stdin closes.

`python -m icm_client.endpoints.embedded_child` reads one JSON line (`Orders`) from stdin, writes
one (`Report`) to stdout once the model is loaded, and logs to stderr. Its stdin is a pipe from the
parent, so that it ends with the parent, even if that one is killed.
"""

import os
import threading
from typing import Protocol

from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer

from icm_client.endpoints.llama_cpp import MICRO_BATCH


class Orders(BaseModel):
    """What to serve, and how."""

    model_config = ConfigDict(frozen=True)

    model_path: str
    model_name: str
    api_key: SecretStr
    context_length: int
    threads: int
    port: int = 0  # any free one

    @field_serializer("api_key", when_used="json")
    def _key_in_clear(self, api_key: SecretStr) -> str:
        return api_key.get_secret_value()


class Server(Protocol):
    """The part of `xllamacpp.Server` that is used here."""

    listening_address: str


class Report(BaseModel):
    """Where the server listens."""

    model_config = ConfigDict(frozen=True)

    url: str


def _exit_with_parent() -> None:
    # What llama.cpp is computing is of no use any more, so no destructors run.
    while os.read(0, 4096):
        pass
    os._exit(0)


def start(orders: Orders) -> Server:
    """Load the model and serve it from threads of this process."""
    import xllamacpp  # noqa: PLC0415 - an optional dependency, and the parent imports this module

    params = xllamacpp.CommonParams()
    params.model.path = orders.model_path
    params.model_alias = {orders.model_name}
    params.api_keys = [orders.api_key.get_secret_value()]
    params.hostnames = ["127.0.0.1"]
    params.port = orders.port
    params.n_ctx = orders.context_length
    params.n_parallel = 1
    params.warmup = False
    # The cache keeps only the last window of a sliding-window model (Gemma 3) without this, and
    # no prefix can be reused.
    params.swa_full = True
    params.cache_ram_mib = 0
    params.n_gpu_layers = 0
    # With `steady`, these two make log-probs bit-identical whatever was cached before, so that a
    # resumed run ends with the labels of an undisturbed one. They cost about a tenth of the speed.
    params.no_extra_bufts = True
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_ubatch = MICRO_BATCH
    params.cpuparams.n_threads = orders.threads
    params.cpuparams_batch.n_threads = orders.threads
    server: Server = xllamacpp.Server(params)
    return server


def main() -> None:
    """Serve until stdin closes."""
    with open(0, "rb", buffering=0, closefd=False) as orders_pipe:
        orders = Orders.model_validate_json(orders_pipe.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    report = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not fill the pipe, which nobody reads any more
    server = start(orders)
    os.write(report, Report(url=server.listening_address).model_dump_json().encode() + b"\n")
    os.close(report)
    threading.Event().wait()


if __name__ == "__main__":
    main()
