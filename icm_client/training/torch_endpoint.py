"""A model in this process as an endpoint: exact log-probs from transformers and torch.

It reads what was just trained here: a whole model, or an adapter on its base. A server (vLLM,
llama.cpp) is faster where there is one.
"""

import copy
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import anyio
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging

from icm_client.endpoints.parsing import fingerprint, log_prob
from icm_client.endpoints.protocol import (
    Answer,
    Exactness,
    Read,
    ServerIdentity,
    TokenIds,
    Usage,
)
from icm_client.errors import EndpointFault
from icm_client.training.base_model import BaseModel, digest_of
from icm_client.training.label_loss import beginning

T = TypeVar("T")

KIND: Final = "torch"

FEWEST_SHARED: Final = 32
"""A prefix that reads share is kept, with its keys and values, from this many tokens on."""

_KEPT_PREFIXES: Final = 4
_LARGEST_BATCH: Final = 16
_ADAPTER: Final = "adapter_config.json"

_logging: Any = logging  # without types


def load(kind: Any, base: BaseModel, trained: Path | None = None, **more: Any) -> Any:
    """Return the model on its device: float32 on a CPU, bfloat16 on a GPU.

    On a CPU an adapter is merged into the weights; in bfloat16, merging would round it.
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
    """Return the base model's tokenizer."""
    return AutoTokenizer.from_pretrained(base.folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bar, and no warning about weights that an adapter is about to bring."""
    shown, verbosity = _logging.is_progress_bar_enabled(), _logging.get_verbosity()
    _logging.disable_progress_bar()
    _logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # peft 0.21 uses a name that transformers 5.2x has deprecated.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        _logging.set_verbosity(verbosity)
        if shown:
            _logging.enable_progress_bar()


class TorchEndpoint:
    """One model of this process; made with `TorchEndpoint.open`."""

    def __init__(self, model: Any, tokenizer: Any, identity: ServerIdentity) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._identity = identity
        self._usage = Usage()
        self._begins = beginning(tokenizer)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # of peft's
        takes = inspect.signature(inner.forward).parameters
        # transformers renamed the parameter; older versions have only the second name.
        self._cache = "cache" if "cache" in takes else "past_key_values"
        # Logits at every position would take most of the time and memory.
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._prefixes: OrderedDict[TokenIds, Any] = OrderedDict()
        # One forward pass at a time: two would only share the same cores, or the same GPU.
        self._turn = anyio.CapacityLimiter(1)

    @classmethod
    async def open(cls, base: BaseModel, trained: Path | None = None) -> Self:
        """Load the base, or what was trained from it: an adapter's folder or a whole model's."""
        return await anyio.to_thread.run_sync(cls._opened, base, trained)

    @classmethod
    def _opened(cls, base: BaseModel, trained: Path | None) -> Self:
        model = load(AutoModelForCausalLM, base, trained)
        facts = {
            "kind": KIND,
            "base": base.digest,
            "trained": None if trained is None else digest_of(trained),
            "dtype": str(model.dtype),
            "torch": str(torch.__version__),
        }
        identity = ServerIdentity(
            kind=KIND,
            model=base.name if trained is None else trained.name,
            context_length=int(model.config.get_text_config().max_position_embeddings),
            fingerprint=fingerprint(facts),
            of_weights=True,
        )
        return cls(model, tokenizer_of(base), identity)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._identity.model!r})"

    @property
    def identity(self) -> ServerIdentity:
        """The model; its fingerprint is over base and trained weights."""
        return self._identity

    @property
    def lanes(self) -> int:
        """None: reads come in batches, and the prefixes that they share are kept."""
        return 0

    @property
    def usage(self) -> Usage:
        """Running totals."""
        return self._usage

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """As `Endpoint.tokenize`."""
        ids = tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
        return self._begins + ids if add_special else ids

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`: exact, from the softmax over the whole vocabulary in float32.

        Raises:
            EndpointFault: torch could not compute it, most often for lack of memory.
            ScoreNotFinite: a log-prob is not finite.
        """
        del lane
        self._usage.requests += 1
        found = await self._in_turn(lambda: self._read(reads))
        return [
            Answer(
                tuple(
                    log_prob(value, token=token)
                    for value, token in zip(values, read.wanted, strict=True)
                ),
                Exactness.EXACT,
            )
            for read, values in zip(reads, found, strict=True)
        ]

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`; prefixes of fewer than `FEWEST_SHARED` tokens are not kept."""
        del lane
        if len(prefix) >= FEWEST_SHARED:
            self._usage.requests += 1
            await self._in_turn(lambda: self._state(prefix))

    async def aclose(self) -> None:
        """Free the model."""
        self._prefixes.clear()
        self._model = None

    async def _in_turn(self, work: Callable[[], T]) -> T:
        def computed() -> T:
            with torch.inference_mode():
                return work()

        try:
            return await anyio.to_thread.run_sync(computed, limiter=self._turn)
        except RuntimeError as error:  # torch's errors, OutOfMemoryError among them
            words = " ".join(str(error).split())[:200]
            raise EndpointFault(f"{self._identity.model} could not be computed: {words}") from error

    def _read(self, reads: Sequence[Read]) -> list[list[float]]:
        prefix = self._known_prefix(reads)
        found: dict[int, list[float]] = {}
        state = self._state(prefix) if prefix else None
        # After a kept prefix, only tails of equal length are read together: padding between prefix
        # and tail would push the prefix out of a sliding window too early.
        key = (lambda n: len(reads[n].prompt)) if prefix else (lambda _: 0)
        for _, same in groupby(sorted(range(len(reads)), key=key), key=key):
            group = list(same)
            for start in range(0, len(group), _LARGEST_BATCH):
                batch = group[start : start + _LARGEST_BATCH]
                tails = [reads[n].prompt[len(prefix) :] for n in batch]
                log_probs = self._last_log_probs(tails, len(prefix), state)  # [B, V]
                for n, row in zip(batch, log_probs, strict=True):
                    found[n] = row[list(reads[n].wanted)].tolist()
        return [found[n] for n in range(len(reads))]

    def _known_prefix(self, reads: Sequence[Read]) -> TokenIds:
        """The tokens of a kept prefix, or of one that is worth keeping; () if there is none."""
        # The last token is left out of each: its log-probs must be computed in any case.
        ends = [read.prompt[:-1] for read in reads]
        same = takewhile(lambda two: two[0] == two[1], zip(min(ends), max(ends), strict=False))
        shared = tuple(token for token, _ in same)
        kept = [known for known in self._prefixes if shared[: len(known)] == known]
        if kept:
            return max(kept, key=len)
        return shared if len(shared) >= FEWEST_SHARED and len(reads) > 1 else ()

    def _state(self, prefix: TokenIds) -> Any:
        """The keys and values of `prefix`; they must be copied before they are used."""
        if prefix in self._prefixes:
            self._prefixes.move_to_end(prefix)
            return self._prefixes[prefix]
        ids = torch.tensor([prefix], device=self._model.device)
        state = DynamicCache(config=self._model.config)
        self._model(input_ids=ids, use_cache=True, **{self._cache: state}, **self._last_only)
        self._usage.computed_tokens += len(prefix)
        self._prefixes[prefix] = state
        while len(self._prefixes) > _KEPT_PREFIXES:
            self._prefixes.popitem(last=False)
        return state

    def _last_log_probs(self, tails: Sequence[TokenIds], known: int, state: Any) -> torch.Tensor:
        """The next token's log-probs after each tail, float32, shape `[B, V]`."""
        longest = max(map(len, tails))
        ids = torch.zeros(len(tails), longest, dtype=torch.long)
        mask = torch.zeros(len(tails), known + longest, dtype=torch.long)
        mask[:, :known] = 1
        for row, tail in enumerate(tails):
            ids[row, longest - len(tail) :] = torch.tensor(tail)
            mask[row, known + longest - len(tail) :] = 1
        device = self._model.device
        cached: dict[str, Any] = {"use_cache": False}
        if state is not None:
            copied = copy.deepcopy(state)
            copied.batch_repeat_interleave(len(tails))
            cached = {self._cache: copied, "use_cache": True}
        output = self._model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)[:, known:].to(device),
            **cached,
            **self._last_only,
        )
        self._usage.computed_tokens += sum(map(len, tails))
        self._usage.cached_tokens += known * len(tails)
        logits: torch.Tensor = output.logits[:, -1]
        return logits.float().log_softmax(dim=-1)
