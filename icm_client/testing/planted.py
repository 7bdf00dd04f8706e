"""An endpoint without a model: it knows one concept, and a formula gives its log-probs."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import anyio.lowlevel

from icm_client.endpoints.parsing import fingerprint
from icm_client.endpoints.protocol import (
    Answer,
    Exactness,
    Read,
    ServerIdentity,
    TokenIds,
    Usage,
    common_prefix,
)
from icm_client.errors import PromptTooLong

_BOS = 1
_ELSEWHERE = math.log(1e-9)  # of a token that no label continues with
_TOKEN = re.compile(r" ?\S+|\s")


@dataclass(frozen=True, slots=True)
class Axis:
    """A way to split the prompts that demos can teach.

    Attributes:
        planted: prompt -> its class.
        strength: how far a context in which all demos agree on it moves the log-odds, nats.
        meaning: what the label words say of it without demos, nats.
    """

    planted: Mapping[str, int]
    strength: float = 3.0
    meaning: float = 0.0


class PlantedConcept:
    """An `Endpoint` that knows one concept, and follows the labels in its context.

    The score of label `k` for a target of class `c` given `n` demos `(c_j, l_j)` is, in nats,

        bias[k] + strength / 2 * mean_j a_j(k, c) + meaning * [k = c] + noise * e(target, k)

    where `a_j(k, c)` is 1 if demo `j` is evidence that class `c` is named `k` (both `c_j = c` and
    `l_j = k`, or neither), and -1 if it is evidence against that (one of the two). `e` is uniform
    in -1..1, a hash of target, label and seed. A softmax over the labels gives the log-probs. For
    two labels the log-odds towards the planted class, without bias and noise, are `meaning` plus
    `strength` times the demos' agreement with the planted classes, from -1 (all names exchanged)
    to 1.

    With a `second` axis, such as a salient feature that nobody asked for, the two middle terms are
    there twice: once with each axis's own classes, strength and meaning. Demos whose labels follow
    one axis teach the other as far as the classes of the two agree, which is up to the caller.

    A token is a word with the space before it, or other white space; its id is a hash, the same in
    every process. The prefix that a prompt shares with the last one on its lane counts as cached.

    Args:
        planted: prompt (the template filled in, as `Task.render_all` gives it) -> class.
        labels: label texts as they follow a prompt, shape `[K]` (`Task.label_texts`); label `k`
            names class `k`.
        strength: how far a context in which all demos agree moves the log-odds, nats.
        meaning: the zero-shot effect of the label words, nats; 0 for words without a meaning such
            as ` A` and ` B`, which are equally coherent when exchanged.
        bias: label bias, one number a label, nats; None stands for none.
        noise: the largest deviation of an item, nats.
        second: another axis, with a class for each prompt of the first; None for none.
        seed: of the deviations.
        lanes: prefix caches, at least 1.
        context_length: the most tokens of a prompt.

    Raises:
        ValueError: a class has no label, a prompt no class on the second axis, `bias` has another
            length, or there is no lane.
    """

    def __init__(
        self,
        planted: Mapping[str, int],
        labels: Sequence[str],
        *,
        strength: float = 3.0,
        meaning: float = 1.0,
        bias: Sequence[float] | None = None,
        noise: float = 0.5,
        second: Axis | None = None,
        seed: int = 0,
        lanes: int = 1,
        context_length: int = 8192,
    ) -> None:
        bias = [0.0] * len(labels) if bias is None else list(bias)
        self._planted = dict(planted)
        self._axes = [Axis(self._planted, strength, meaning)]
        if second is not None:
            self._axes.append(Axis(dict(second.planted), second.strength, second.meaning))
        for axis in self._axes:
            if not all(0 <= its_class < len(labels) for its_class in axis.planted.values()):
                raise ValueError(f"planted classes must be 0 to {len(labels) - 1}")
            if axis.planted.keys() != self._planted.keys():
                raise ValueError("the second axis needs a class for each prompt, and no others")
        if len(bias) != len(labels) or lanes < 1:
            raise ValueError("one bias a label and at least one lane are needed")
        self._prompts = {_ids(prompt): prompt for prompt in planted}
        self._lengths: dict[TokenIds, dict[int, None]] = {}  # of prompts that begin so, descending
        for ids in sorted(self._prompts, key=len, reverse=True):
            self._lengths.setdefault(ids[:1], {})[len(ids)] = None
        self._labels = [_ids(label) for label in labels]
        self._bias, self._noise, self._seed = bias, noise, seed
        # The last prompt up to its target, and the demos in it.
        self._context: tuple[TokenIds, list[tuple[str, int]]] = ((), [])
        self._sent: list[TokenIds] = [()] * lanes  # the last prompt of each lane
        self._usage = Usage()
        described = repr((self._planted, list(labels), strength, meaning, bias, noise, seed))
        described += "".join(map(repr, self._axes[1:]))
        self._identity = ServerIdentity(
            "planted",
            "planted-concept",
            context_length,
            fingerprint({"told": described}),
            of_weights=True,
        )

    @property
    def identity(self) -> ServerIdentity:
        """The fingerprint covers everything that the formula depends on."""
        return self._identity

    @property
    def lanes(self) -> int:
        """Prefix caches."""
        return len(self._sent)

    @property
    def usage(self) -> Usage:
        """Running totals."""
        return self._usage

    def label_log_probs(self, demos: Sequence[tuple[str, int]], target: str) -> list[float]:
        """Return `log P(label | demos, target)` in nats, shape `[K]`; demos are (prompt, label)."""
        scores = []
        for k, bias in enumerate(self._bias):
            score = bias
            for axis in self._axes:
                asked = axis.planted[target]
                votes = sum(
                    1 if (axis.planted[prompt] == asked) == (label == k) else -1
                    for prompt, label in demos
                )
                score += axis.strength / 2 * votes / max(len(demos), 1)
                score += axis.meaning * (k == asked)
            scores.append(score + self._noise * uniform(target, k, self._seed))
        return log_softmax(scores)

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """As `Endpoint.tokenize`; one id a word."""
        await anyio.lowlevel.checkpoint()
        return (_BOS, *_ids(text)) if add_special else _ids(text)

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """As `Endpoint.read`; raises `ValueError` if a prompt does not end in a planted one."""
        await anyio.lowlevel.checkpoint()
        for read in reads:
            self._count(read.prompt, lane or 0)
        return [self._answer(read) for read in reads]

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """As `Endpoint.warm`."""
        await anyio.lowlevel.checkpoint()
        self._count(prefix, lane or 0)

    async def aclose(self) -> None:
        """Nothing to close."""

    def _answer(self, read: Read) -> Answer:
        demos, target, begun = self._parse(read.prompt)
        log_probs = self.label_log_probs(demos, target)
        before = self._beginning_with(begun, log_probs)
        after = [self._beginning_with((*begun, token), log_probs) for token in read.wanted]
        return Answer(tuple(min(one - before, 0.0) for one in after), Exactness.EXACT)

    def _beginning_with(self, begun: TokenIds, log_probs: Sequence[float]) -> float:
        """Log-prob of all labels that begin so; never -inf, which no server answers."""
        pairs = zip(self._labels, log_probs, strict=True)
        found = [log_prob for ids, log_prob in pairs if ids[: len(begun)] == begun]
        return _log_sum_exp(found) if found else _ELSEWHERE

    def _parse(self, ids: TokenIds) -> tuple[list[tuple[str, int]], str, TokenIds]:
        """Return the demos, the target, and the beginning of a label after it."""
        begins, before = self._context
        demos, position = (before.copy(), len(begins)) if _begins_with(ids, begins) else ([], 0)
        while position < len(ids):
            lengths = self._lengths.get(ids[position : position + 1], {})
            slices = (ids[position : position + length] for length in lengths)
            prompt = next((some for some in slices if some in self._prompts), None)
            if prompt is None:  # BOS, or part of the separator
                position += 1
                continue
            position += len(prompt)
            for k, label in enumerate(self._labels):
                if ids[position : position + len(label)] == label:
                    demos.append((self._prompts[prompt], k))
                    position += len(label)
                    break
            else:
                # A fold's targets come one after the other, given the same demos.
                self._context = (ids[: position - len(prompt)], demos.copy())
                return demos, self._prompts[prompt], ids[position:]
        raise ValueError("the prompt does not end in a planted one")

    def _count(self, prompt: TokenIds, lane: int) -> None:
        if len(prompt) >= self._identity.context_length:
            raise PromptTooLong(f"{len(prompt)} of {self._identity.context_length} tokens")
        before, self._sent[lane] = self._sent[lane], prompt
        # The last token is computed in any case.
        cached = min(common_prefix(before, prompt), max(len(prompt) - 1, 0))
        self._usage.requests += 1
        self._usage.cached_tokens += cached
        self._usage.computed_tokens += len(prompt) - cached


def uniform(*what: object) -> float:
    """A number in -1..1 that is a hash of its arguments."""
    digest = blake2b(repr(what).encode(), digest_size=6).digest()
    return 2 * int.from_bytes(digest) / 2**48 - 1


def log_softmax(scores: Sequence[float]) -> list[float]:
    """Log-probs in proportion to `exp(scores)`, none above 0."""
    total = _log_sum_exp(scores)
    return [min(score - total, 0.0) for score in scores]


def _ids(text: str) -> TokenIds:
    """One positive int32 a word, never BOS."""
    words = (blake2b(word.encode(), digest_size=4) for word in _TOKEN.findall(text))
    return tuple(max(int.from_bytes(word.digest()) >> 1, _BOS + 1) for word in words)


def _begins_with(ids: TokenIds, begins: TokenIds) -> bool:
    return ids[: len(begins)] == begins


def _log_sum_exp(scores: Sequence[float]) -> float:
    largest = max(scores)
    return largest + math.log(sum(math.exp(score - largest) for score in scores))
