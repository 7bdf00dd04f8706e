"""Questions to a server, with their prompts in two pieces, and their keys in the score store.

A sweep asks about every item in a few contexts of thousands of tokens each. Written out, the
prompts of 100,000 items take gigabytes; as a shared head and a tail of their own they take no more
than the rows. A prompt is written out only while it is being sent.

`LabelTrie` makes the questions of labels: `log P(label | prompt)` is the sum of its tokens'
log-probs, each after the prompt and the tokens before it. Labels that begin alike share reads. For
labels of one token each, the usual case, one read is enough.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

from icm_client.endpoints.protocol import Answer, Exactness, Read, TokenIds, worst
from icm_client.errors import TaskError


@dataclass(slots=True, eq=False)
class Question:
    """A read before it is sent: the log-probs of `wanted` right after the prompt `head + tail`.

    Its length is its prompt's, in tokens; questions sort by their prompts.

    Attributes:
        head: what many prompts begin with: one object for all of them.
        tail: what this one goes on with.
        wanted: the tokens whose log-probs are asked for.
        keyed: the server and the key of its answer, once it has been hashed.
    """

    head: TokenIds
    tail: TokenIds
    wanted: TokenIds
    keyed: tuple[str, bytes] | None = None

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    def __lt__(self, other: "Question") -> bool:
        if self.head is other.head:
            return self.tail < other.tail
        both = min(len(self.head), len(other.head))
        if self.head[:both] != other.head[:both]:
            return self.head < other.head
        return self.head + self.tail < other.head + other.tail

    def read(self) -> Read:
        """Return the question as an endpoint takes it, its prompt written out."""
        return Read(self.head + self.tail, self.wanted)


Asked = Read | Question
"""What the score store takes."""


PROTOCOL_VERSION = 1
"""A new number where a read comes to mean something else leaves older answers alone."""

DIGEST_BYTES = 16


def score_keys(fingerprint: str, reads: Sequence[Asked]) -> list[bytes]:
    """Return the key of each read's answer, 16 bytes: version, server, wanted ids, prompt ids.

    A head that prompts share is digested once; the keys are those of prompts written out.
    """
    start = _started(fingerprint, b"icm scores")
    begun: dict[tuple[int, TokenIds], blake2b] = {}  # heads by identity: `reads` keeps them alive
    no_head: TokenIds = ()
    keys = []
    for read in reads:
        if isinstance(read, Question):
            if read.keyed is not None and read.keyed[0] == fingerprint:
                keys.append(read.keyed[1])
                continue
            head, tail = read.head, read.tail
        else:
            head, tail = no_head, read.prompt
        wanted = read.wanted
        digest = begun.get((id(head), wanted))
        if digest is None:
            digest = begun[id(head), wanted] = start.copy()
            # The count of wanted ids says where they end and the prompt begins.
            digest.update(struct.pack(f"<{len(wanted) + 1}i", len(wanted), *wanted))
            digest.update(pack_ids(head))
        digest = digest.copy()
        digest.update(pack_ids(tail))
        keys.append(digest.digest())
        if isinstance(read, Question):
            read.keyed = fingerprint, keys[-1]
    return keys


def token_keys(fingerprint: str, texts: Sequence[str], *, add_special: bool) -> list[bytes]:
    """Return the key of each text's token ids, 16 bytes: version, server, `add_special`, text."""
    start = _started(fingerprint, b"icm tokens +bos" if add_special else b"icm tokens")
    keys = []
    for text in texts:
        digest = start.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys


def pack_ids(ids: TokenIds) -> bytes:
    """Return `ids` as int32, little endian."""
    # This is twice as fast as array("i", ids) and numpy.array(ids) for tuples of a few thousand.
    return struct.pack(f"<{len(ids)}i", *ids)


def unpack_ids(packed: bytes) -> TokenIds:
    """Return what `pack_ids` packed."""
    return struct.unpack(f"<{len(packed) // 4}i", packed)


def _started(fingerprint: str, person: bytes) -> blake2b:
    name = fingerprint.encode()
    header = struct.pack("<ii", PROTOCOL_VERSION, len(name)) + name
    return blake2b(header, digest_size=DIGEST_BYTES, person=person)


class LabelTokens(NamedTuple):
    """How a tokenizer writes a label."""

    label: str
    ids: TokenIds


class LabelTrie:
    """The reads that score `K` labels, and what their answers add up to.

    Args:
        labels: token ids of each label, K >= 1.
        names: what each is called in messages and in `describe()`; by default its number.

    Raises:
        TaskError: a label is empty, or is the beginning of another (or the same): the shorter one's
            tokens do not show which of the two is meant.
    """

    def __init__(self, labels: Sequence[TokenIds], names: Sequence[str] = ()) -> None:
        texts = names or [f"label {number}" for number in range(len(labels))]
        self._labels = tuple(map(LabelTokens, texts, labels))
        _refuse_ambiguous(self._labels)
        children: dict[TokenIds, set[int]] = {(): set()}
        for ids in labels:
            for depth, token in enumerate(ids):
                children.setdefault(ids[:depth], set()).add(token)
        self._nodes = {
            node: tuple(sorted(tokens))
            for node, tokens in sorted(children.items(), key=lambda item: (len(item[0]), item[0]))
        }
        position = {node: number for number, node in enumerate(self._nodes)}
        # label -> (which read, which of its wanted) for each of its tokens
        self._steps = tuple(
            tuple(
                (position[ids[:depth]], self._nodes[ids[:depth]].index(token))
                for depth, token in enumerate(ids)
            )
            for ids in labels
        )

    def reads(self, prompt: TokenIds) -> tuple[Read, ...]:
        """Return the reads after `prompt`, one for each inner node, the root's first."""
        return tuple(question.read() for question in self.questions((), prompt))

    def questions(self, head: TokenIds, tail: TokenIds) -> tuple[Question, ...]:
        """Return the same reads after `head + tail`, before they are written out."""
        return tuple(Question(head, tail + node, wanted) for node, wanted in self._nodes.items())

    def log_probs(self, answers: Sequence[Answer]) -> list[float]:
        """Return `log P(label | prompt)` in nats, one per label, from the answers to `reads`."""
        return [
            sum(answers[read].log_probs[child] for read, child in steps) for steps in self._steps
        ]

    def exactness(self, answers: Sequence[Answer]) -> Exactness:
        """Return how far the log-probs from the answers to `reads` can be relied on."""
        return worst(answer.exactness for answer in answers)

    def describe(self) -> tuple[LabelTokens, ...]:
        """Return how the tokenizer writes each label, so that a user can check it."""
        return self._labels


def _refuse_ambiguous(labels: Sequence[LabelTokens]) -> None:
    # In sorted order a label stands right before those that it begins.
    ordered = sorted(labels, key=lambda label: label.ids)
    for label in ordered:
        if not label.ids:
            raise TaskError(f"the label {label.label!r} has no tokens: give it a word.")
    for shorter, longer in pairwise(ordered):
        if longer.ids[: len(shorter.ids)] == shorter.ids:
            raise TaskError(
                f"the labels {shorter.label!r} and {longer.label!r} cannot be told apart: the "
                f"tokens of the first ({_written(shorter.ids)}) begin those of the second "
                f"({_written(longer.ids)}). Choose words of which none begins another."
            )


def _written(ids: TokenIds) -> str:
    return " ".join(map(str, ids))
