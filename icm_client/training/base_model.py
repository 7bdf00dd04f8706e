"""The model that a training starts from: a folder of safetensors, a GGUF file, a hub's name."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from icm_client.endpoints.gguf import sha256_of
from icm_client.errors import SetupError
from icm_client.serving.model import BUNDLED, dequantized, find

NEEDED: Final = ("torch", "transformers", "peft", "trl", "accelerate")

FACTS: Final = "icm-client.json"
"""The file in a trained model's folder that says from what, on what and how it was trained."""

_WEIGHTS: Final = (".safetensors", ".bin")
_OTHERS: Final = (".json", ".model", ".txt", ".jinja")
_FETCHED: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model on this machine's disk that transformers can load.

    Attributes:
        name: as the user gave it.
        folder: of config.json, weights and tokenizer.
        digest: hex, over these files.
    """

    name: str
    folder: Path
    digest: str


def require_training() -> None:
    """Do nothing if models can be trained here.

    Raises:
        SetupError: a package is missing.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SetupError(
            f"training on this machine needs {', '.join(missing)}; run: "
            "pip install 'icm-client[train]' (or train on a server)"
        )


def find_base(model: str = BUNDLED, say: Callable[[str], None] = lambda _: None) -> BaseModel:
    """Find the model; fetch or dequantize it the first time.

    Args:
        model: a folder, a GGUF file, a hub's OWNER/NAME, or `gemma-3-270m` for the one of the
            `local` extra.
        say: called with what takes time, before it does.

    Raises:
        InputError: there is no such file or folder, or it holds no model.
        SetupError: a package is missing, or the model cannot be fetched or dequantized.
    """
    require_training()
    found = find(model)
    if found.gguf is not None:
        folder = dequantized(found.gguf, say)
    elif Path(found.source).is_dir():
        folder = Path(found.source)
    else:
        folder = _fetched(found.source, say)
    return BaseModel(found.name, folder, digest_of(folder))


def digest_of(folder: Path) -> str:
    """Return a hex digest over a model's or an adapter's files; those of weights are cached.

    Raises:
        SetupError: a file cannot be read.
    """
    whole = hashlib.sha256()
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != FACTS)
        for path in files:
            if path.suffix in _WEIGHTS:
                digest = sha256_of(path)
            elif path.suffix in _OTHERS:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                continue
            whole.update(f"{path.name} {digest}\n".encode())
    except OSError as error:
        raise SetupError(f"cannot read the model in {folder}: {error.strerror}") from error
    return whole.hexdigest()


def _fetched(name: str, say: Callable[[str], None]) -> Path:
    hub = import_module("huggingface_hub")  # comes with transformers
    say(f"Fetching {name} ...")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(_FETCHED)))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors
        words = " ".join(str(error).split())[:300]
        raise SetupError(
            f"{name} could not be fetched ({type(error).__name__}: {words}). Give a folder or a "
            "GGUF file, or set HF_TOKEN if the model needs one"
        ) from error
