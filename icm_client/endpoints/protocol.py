"""All that the rest of the program knows of a server: one-token reads of label tokens.

A *read* asks for the log-probs of a few tokens right after a prompt. Reads that share a prefix
are cheap on a server with a prefix cache, if they arrive in the right order. The planner decides
on that order (`icm_client.scoring.planner`), and `Endpoint.lanes` is all it needs for that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from operator import add, sub
from typing import Final, NamedTuple, Protocol, runtime_checkable

TokenIds = tuple[int, ...]


class Exactness(StrEnum):
    """How much a log-prob can be relied on; the best first."""

    EXACT = "exact"
    """From the softmax over the whole vocabulary, for the label as it is written."""

    TOP_K = "top-k"
    """Found among the most probable tokens by its text, which may be only the label's beginning."""

    FLOOR = "floor"
    """An upper bound: the label's token was not among the most probable ones."""


def worst(kinds: Iterable[Exactness]) -> Exactness:
    """The least reliable of `kinds`; `EXACT` where there are none."""
    return max(kinds, key=_RANKS.__getitem__, default=Exactness.EXACT)


_RANKS = {kind: rank for rank, kind in enumerate(Exactness)}


class Read(NamedTuple):
    """A question: the log-probs of `wanted` as the token that follows `prompt`."""

    prompt: TokenIds
    wanted: TokenIds


class Answer(NamedTuple):
    """Natural-log probabilities (nats), aligned with `Read.wanted`; all finite and <= 0."""

    log_probs: tuple[float, ...]
    exactness: Exactness


@dataclass(slots=True)
class Usage:
    """Running totals of one endpoint, for progress and cost.

    Attributes:
        requests: HTTP requests that asked for log-probs or warmed a prefix (retries included).
        computed_tokens: prompt tokens the server prefilled.
        cached_tokens: prompt tokens the server read from its prefix cache.
        retries: attempts beyond the first.
        sent_bytes: uploaded bodies of those requests.
    """

    requests: int = 0
    computed_tokens: int = 0
    cached_tokens: int = 0
    retries: int = 0
    sent_bytes: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*map(add, astuple(self), astuple(other)))

    def __sub__(self, before: "Usage") -> "Usage":
        return Usage(*map(sub, astuple(self), astuple(before)))


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Which server and model answer.

    Attributes:
        kind: "vllm", "llama.cpp", "sglang" or another of `connect.KINDS`.
        model: the model's name as the server gives it.
        context_length: the most ids of a prompt and the one read after it, together: tokens, or
            characters where the server takes only text (`TextEndpoint`).
        fingerprint: a hex digest over everything the server says of itself that can change a
            log-prob: part of every key in the score store.
        of_weights: whether the fingerprint covers the weights themselves (a digest of them). What
            a server says of itself does not change when its weights do. So without this, stored
            answers are compared with new ones before they are used.
    """

    kind: str
    model: str
    context_length: int
    fingerprint: str
    of_weights: bool = False


class Endpoint(Protocol):
    """One served base model."""

    @property
    def identity(self) -> ServerIdentity:
        """Who answers."""
        ...

    @property
    def lanes(self) -> int:
        """Independent prefix caches that serve one request at a time in the order sent.

        They are llama.cpp's slots; 0 where the server schedules concurrent requests over one shared
        prefix cache itself, as vLLM does.
        """
        ...

    @property
    def usage(self) -> Usage:
        """Running totals."""
        ...

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        """Token ids of `text`; with `add_special`, after the model's own BOS where it has one."""
        ...

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        """Answer `reads` (all with the same `wanted`), aligned with them.

        Args:
            reads: at least one; on a server with lanes they are sent one by one in this order.
            lane: which lane serves them, where `lanes > 0`.

        Raises:
            EndpointError: the server did not answer, after all retries.
            ScoreError: it answered, and the answer holds no usable score.
        """
        ...

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        """Have the server prefill `prefix` into its cache. Raises as `read`."""
        ...

    async def aclose(self) -> None:
        """Close connections; stop the server where this endpoint started it."""
        ...


class LabelToken(NamedTuple):
    """How a server that takes only text begins a label.

    Attributes:
        label: the label's text, as it follows a prompt.
        token: the text of the token that is looked for among the most probable ones: the label's
            beginning, mostly all of it. Empty where the endpoint needs none.
    """

    label: str
    token: str


@runtime_checkable
class TextEndpoint(Protocol):
    """An `Endpoint` whose server takes text and gives no token ids.

    The ids of its prompts are Unicode code points, so that prefixes and store keys are over the
    text itself. A label is one id above them all, which `name_label` returns.
    """

    async def find_label_token(self, label: str, *, prompt: str, separator: str) -> LabelToken:
        """Ask the server how it begins `label` after `prompt`.

        Args:
            label: the text that follows a prompt.
            prompt: that of any row, without the label.
            separator: what stands between a label and the next prompt.

        Raises:
            EndpointError: the server did not answer.
            LabelMissing: it does not write the label even where it only has to repeat it.
        """
        ...

    def name_label(self, found: LabelToken) -> int:
        """The id that stands for `found` in prompts and in `Read.wanted`, in every process."""
        ...


@runtime_checkable
class NoticingEndpoint(Protocol):
    """An `Endpoint` that may have something to say to the user about its answers."""

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences for the user."""
        ...


class PrefixCache(NamedTuple):
    """A server's prefix cache, as far as it is known.

    Attributes:
        block: tokens; a prefix is found again up to a multiple of them. 1 where unknown.
        tokens: how many it holds, over all replicas that the server reports; None where unknown.
    """

    block: int = 1
    tokens: int | None = None


@runtime_checkable
class CachingEndpoint(Protocol):
    """An `Endpoint` without lanes whose server describes its prefix cache."""

    async def prefix_cache(self) -> PrefixCache:
        """What the server says; asked once. Never raises for a server that says nothing."""
        ...


@runtime_checkable
class BatchTokenizer(Protocol):
    """An `Endpoint` whose server may tokenize several texts in one request."""

    async def tokenize_many(self, texts: Sequence[str]) -> list[TokenIds] | None:
        """As `Endpoint.tokenize` of each text, without special tokens; None where it cannot.

        Raises as `Endpoint.tokenize`.
        """
        ...


@runtime_checkable
class SampledEndpoint(Protocol):
    """An `Endpoint` that can send sampling settings, to see whether log-probs are raw."""

    async def read_sampled(self, read: Read, sampling: Mapping[str, float]) -> Answer:
        """As `Endpoint.read`, with sampling settings such as `temperature` in the request."""
        ...


SAME_NATS: Final = 0.25
"""Two log-probs further apart are not the same number computed twice: batches and caches move one
by up to about 0.06 nats on a GPU, and 0.2 nats on llama.cpp."""


def distance(one: Answer, other: Answer) -> float:
    """The most that any label's log-prob differs, in nats."""
    pairs = zip(one.log_probs, other.log_probs, strict=True)
    return max(abs(a - b) for a, b in pairs)


_COMPARED_AT_ONCE: Final = 256
"""Ids. Slices are compared in C, which a loop over long prompts is not."""


def common_prefix(one: TokenIds, other: TokenIds) -> int:
    """The number of ids that both begin with."""
    start, end = 0, min(len(one), len(other))
    if one[:end] == other[:end]:
        return end
    step = _COMPARED_AT_ONCE
    while step and start < end:
        if one[start : start + step] == other[start : start + step]:
            start += step
        else:
            step //= 2
    return min(start, end)


def lane_of(endpoint: Endpoint, number: int = 0) -> int | None:
    """The lane that serves the `number`th of several reads; None where there are no lanes."""
    return number % endpoint.lanes if endpoint.lanes else None
