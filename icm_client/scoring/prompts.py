"""Prompts in two pieces, so that those behind one context hold it once.

A sweep asks about every item behind one of a few contexts of thousands of tokens. Written out, the
prompts of 100,000 items take gigabytes; as a shared head and a tail of one's own they take no more
than the rows. A prompt is written out while it is being sent.

Keys of the score store: digests over everything that can change what they name.
"""

import struct
from collections.abc import Sequence
from hashlib import blake2b
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


PROTOCOL_VERSION = 1
"""Raised when a read comes to mean something else, so that older answers are left alone."""

DIGEST_BYTES = 16


def score_keys(fingerprint: str, reads: Sequence[Asked]) -> list[bytes]:
    """Return the key of each read's answer, 16 bytes: version, server, wanted ids, prompt ids.

    A context that prompts share is digested once; the keys are those of prompts written out.
    """
    start = blake2b(_header(fingerprint), digest_size=DIGEST_BYTES, person=b"icm scores")
    begun: dict[TokenIds, blake2b] = {}
    behind: dict[tuple[int, TokenIds], blake2b] = {}  # heads by identity: `reads` keeps them alive
    keys = []
    for read in reads:
        prompt, wanted = read.prompt, read.wanted
        digest = begun.get(wanted)
        if digest is None:
            digest = begun[wanted] = start.copy()
            # The count of wanted ids says where they end and the prompt begins.
            digest.update(struct.pack(f"<{len(wanted) + 1}i", len(wanted), *wanted))
        if isinstance(prompt, Prompt):
            place = id(prompt.head), wanted
            if place not in behind:
                behind[place] = digest.copy()
                behind[place].update(pack_ids(prompt.head))
            digest = behind[place]
            prompt = prompt.tail
        digest = digest.copy()
        digest.update(pack_ids(prompt))
        keys.append(digest.digest())
    return keys


def token_keys(fingerprint: str, texts: Sequence[str], *, add_special: bool) -> list[bytes]:
    """Return the key of each text's token ids, 16 bytes: version, server, `add_special`, text."""
    person = b"icm tokens +bos" if add_special else b"icm tokens"
    start = blake2b(_header(fingerprint), digest_size=DIGEST_BYTES, person=person)
    keys = []
    for text in texts:
        digest = start.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys


def pack_ids(ids: TokenIds) -> bytes:
    """Return `ids` as int32, little endian."""
    # Twice as fast as array("i", ids) and numpy.array(ids) for tuples of a few thousand.
    return struct.pack(f"<{len(ids)}i", *ids)


def unpack_ids(packed: bytes) -> TokenIds:
    """Return what `pack_ids` packed."""
    return struct.unpack(f"<{len(packed) // 4}i", packed)


def _header(fingerprint: str) -> bytes:
    name = fingerprint.encode()
    return struct.pack("<ii", PROTOCOL_VERSION, len(name)) + name
