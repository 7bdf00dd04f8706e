"""What `MODEL` refers to: a folder, a GGUF file, the bundled gemma, or a name on a hub.

vLLM does not read a quantized GGUF file. transformers turns it, once, into a folder of float32
weights with exactly the values that the quantized ones represent
(https://huggingface.co/docs/transformers/gguf).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from filelock import FileLock

from icm_client.cache import cache_folder, share_like
from icm_client.endpoints import gemma
from icm_client.endpoints.gguf import sha256_of
from icm_client.errors import InputError, SetupError

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


NEEDED: Final = ("torch", "transformers", "gguf", "accelerate")
GROWTH: Final = 8
"""Bytes of float32 for each byte of the file, at most: a weight of 4 bits becomes one of 32."""

_ORIGIN: Final = "icm-client.json"
_LAST_WORDS: Final = 300


def dequantized(gguf: Path, say: Callable[[str], None]) -> Path:
    """The folder with the weights of `gguf`, which is made if it does not exist.

    Any number of processes may call it at once. The folder gets its name only once it is complete.

    Args:
        gguf: the file.
        say: called with a line before the conversion, which takes long.

    Raises:
        SetupError: a package is missing, the disk is full or read-only, or transformers does not
            know the file's architecture.
    """
    folder = folder_for(gguf)
    if (folder / _ORIGIN).is_file():
        return folder
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SetupError(
            f"{gguf.name} must be dequantized for vLLM, and {', '.join(missing)} is not installed "
            f"for {sys.executable}; run: pip install {' '.join(missing)}"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not (folder / _ORIGIN).is_file():
                _check_room(gguf, folder.parent)
                say(f"Dequantizing {gguf.name} into {folder}, once (under a minute a GB) ...")
                _make(gguf, folder)
    except OSError as error:
        raise SetupError(
            f"cannot write {folder} ({error.strerror}); set ICM_CACHE_DIR to a folder that can be "
            "written"
        ) from error
    return folder


def folder_for(gguf: Path) -> Path:
    """The folder for the dequantized weights of `gguf`; its name contains the file's digest."""
    return cache_folder() / "dequantized" / f"{gguf.stem}-{sha256_of(gguf)[:16]}"


def _check_room(gguf: Path, folder: Path) -> None:
    needed, free = gguf.stat().st_size * GROWTH, shutil.disk_usage(folder).free
    if free < needed:
        raise SetupError(
            f"there is too little room to dequantize {gguf.name}: free some in {folder}, or set "
            f"ICM_CACHE_DIR to a folder on another disk. ({needed / 1e9:.1f} GB may be needed, and "
            f"{free / 1e9:.1f} GB are free.)"
        )


def _make(gguf: Path, folder: Path) -> None:
    # In a child process, so that torch and two copies of the weights leave memory with it.
    unfinished = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "icm_client.serving.model", str(gguf), unfinished],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # the file holds everything that is needed
        )
        if done.returncode:
            words = done.stdout.strip()[-_LAST_WORDS:].splitlines() or ["it gave no reason"]
            raise SetupError(f"{gguf.name} could not be dequantized: {words[-1]}")
        origin = {"file": gguf.name, "sha256": sha256_of(gguf)}
        (unfinished / _ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
        share_like(unfinished / _ORIGIN)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer of `gguf` to `folder`, as float32 safetensors."""
    transformers = import_module("transformers")  # slow to import, and only the child needs it
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # Versions that can keep weights quantized must be asked to dequantize them.
    settings = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": settings(dequantize=True)} if settings else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, **dense, dtype="float32")
    if (reader := getattr(model, "hf_quantizer", None)) is not None:
        # Weights read from GGUF still count as quantized, and quantized ones are not written.
        reader.remove_quantization_config(model)
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    if (begins := _begins_with_bos(gguf)) is not None:
        # transformers does not read it from the file, and without the BOS that it was trained with
        # the model answers differently.
        tokenizer.add_bos_token = begins
    tokenizer.save_pretrained(folder)


def _begins_with_bos(gguf: Path) -> bool | None:
    """Whether the file says that prompts begin with BOS; None where it does not say."""
    field = import_module("gguf").GGUFReader(gguf).get_field("tokenizer.ggml.add_bos_token")
    return None if field is None else bool(field.contents())


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
