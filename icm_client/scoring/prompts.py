"""Prompts in two pieces, so that those behind one context hold it once.

A sweep asks about every item behind one of a few contexts of thousands of tokens. Written out, the
prompts of 100,000 items take gigabytes; as a shared head and a tail of one's own they take no more
than the rows. A prompt is written out while it is being sent.
"""

from typing import NamedTuple, Protocol, overload

from icm_client.endpoints.protocol import Read, TokenIds


class Prompt:
    """The ids `head + tail`; compares, sorts and hashes as the tuple would.

    Attributes:
        head: what many prompts begin with: one object for all of them.
        tail: what this one goes on with.
    """

    __slots__ = ("head", "tail")

    def __init__(self, head: TokenIds, tail: TokenIds) -> None:
        self.head = head
        self.tail = tail

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> TokenIds: ...
    def __getitem__(self, place: int | slice) -> int | TokenIds:
        known = len(self.head)
        if isinstance(place, int):
            if place < 0:
                place += len(self)
            return self.head[place] if place < known else self.tail[place - known]
        start, stop, step = place.indices(len(self))
        if step != 1:
            return (self.head + self.tail)[place]
        if stop <= known:
            return self.head[start:stop]
        if start >= known:
            return self.tail[start - known : stop - known]
        return self.head[start:] + self.tail[: stop - known]

    def __add__(self, more: TokenIds) -> "Prompt":
        return Prompt(self.head, self.tail + more)

    def __lt__(self, other: "Prompt") -> bool:
        if self.head is other.head:
            return self.tail < other.tail
        both = min(len(self.head), len(other.head))
        if self.head[:both] != other.head[:both]:
            return self.head < other.head
        return self[:] < other[:]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prompt):
            return NotImplemented
        if self.head is other.head:
            return self.tail == other.tail
        return len(self) == len(other) and self[:] == other[:]

    def __hash__(self) -> int:
        return hash(self[:])

    def __repr__(self) -> str:
        return f"Prompt({self.head!r}, {self.tail!r})"


class Asked(Protocol):
    """A read, its prompt written out (`Read`) or in pieces (`Question`)."""

    @property
    def prompt(self) -> TokenIds | Prompt:
        """What is read behind."""
        ...

    @property
    def wanted(self) -> TokenIds:
        """The tokens whose log-probs are asked for."""
        ...


class Question(NamedTuple):
    """A read whose prompt is in pieces: the log-probs of `wanted` right after `prompt`."""

    prompt: Prompt
    wanted: TokenIds


def written_out(asked: Asked) -> Read:
    """Return the read as an endpoint takes it."""
    return Read(asked.prompt[:], asked.wanted)
