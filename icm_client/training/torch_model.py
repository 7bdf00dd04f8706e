"""Loads what was trained here, in this process: a whole model, or an adapter on its base."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoTokenizer
from transformers.utils import logging

from icm_client.training.base_model import BaseModel

_logging: Any = logging  # without types

_ADAPTER: Final = "adapter_config.json"


def load(kind: Any, base: BaseModel, trained: Path | None = None, **more: Any) -> Any:
    """Return the model on its device: float32 on a CPU, bfloat16 on a GPU.

    On a CPU an adapter is merged into the weights; in bfloat16 that would round it.

    Args:
        kind: one of transformers' AutoModel classes.
        base: what was trained from.
        trained: an adapter's folder or a whole model's; None for the base itself.
        more: settings of the model's configuration.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    adapted = trained is not None and (trained / _ADAPTER).is_file()
    source = base.folder if trained is None or adapted else trained
    with _quiet():
        model = kind.from_pretrained(source, dtype=dtype, **more)
        if adapted:
            from peft import PeftModel  # noqa: PLC0415 - an adapter is not always there

            model = PeftModel.from_pretrained(model, str(trained))
            if dtype is torch.float32:
                model = model.merge_and_unload()
    return model.to(device).eval()


def tokenizer_of(base: BaseModel) -> Any:
    """Return the base's tokenizer."""
    return AutoTokenizer.from_pretrained(base.folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar, and no report on weights that an adapter is about to bring."""
    shown, verbosity = _logging.is_progress_bar_enabled(), _logging.get_verbosity()
    _logging.disable_progress_bar()
    _logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks for it by the name that transformers 5.2x has for older programs.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        _logging.set_verbosity(verbosity)
        if shown:
            _logging.enable_progress_bar()
