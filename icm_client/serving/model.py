"""What `MODEL` refers to: a folder, a GGUF file, the bundled gemma, or a name on a hub."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from icm_client.endpoints import gemma
from icm_client.errors import InputError

BUNDLED: Final = "gemma-3-270m"
"""Stands for the GGUF file of the `local` extra."""

_HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Model:
    """A model to serve.

    Attributes:
        source: what vLLM is given; for a GGUF file, the dequantized folder takes its place.
        name: what clients call the model.
        gguf: the file that must be dequantized first, or None.
        weights: bytes of the weights as stored here; None where they are not on this machine yet.
    """

    source: str
    name: str
    gguf: Path | None
    weights: int | None


def find(model: str) -> Model:
    """Find `model` without loading it.

    Raises:
        InputError: the path does not exist, or the folder holds no model.
        SetupError: the bundled model is not installed.
    """
    if model == BUNDLED and not Path(model).exists():
        path = gemma.model_path()
        return Model(str(path), BUNDLED, path, None)
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise InputError(
                f"{model}: a file that is not GGUF; name the folder that holds config.json and the "
                "safetensors files"
            )
        return Model(str(path), path.stem, path, None)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{model}: no config.json in this folder; name a folder with a model")
        weights = _weights_of(path)
        if not weights:
            raise InputError(f"{model}: no *.safetensors or *.bin file in this folder")
        return Model(str(path), path.resolve().name, None, weights)
    is_path = model.startswith((".", "/", "~")) or model.lower().endswith(".gguf")
    if is_path or not _HUB_NAME.fullmatch(model):
        raise InputError(f"{model}: no such file or folder (a hub's model is named OWNER/NAME)")
    return Model(model, model, None, _weights_of(_hub_snapshot(model)))


def _weights_of(folder: Path | None) -> int | None:
    if folder is None:
        return None
    for pattern in ("*.safetensors", "*.bin"):
        if sizes := [file.stat().st_size for file in folder.glob(pattern)]:
            return sum(sizes)
    return None


def _hub_snapshot(name: str) -> Path | None:
    """The folder of a hub's model that was downloaded earlier, or None."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = hub / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
