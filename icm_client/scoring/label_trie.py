"""Labels as chains of one-token reads.

`log P(label | prompt)` is the sum of its tokens' log-probs, each after the prompt and the tokens
before it. Labels that begin alike share reads: the labels are a trie, and each inner node is one
read of its children. Labels of one token each, the usual case, need one read for all of them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from icm_client.endpoints.protocol import Answer, Exactness, Read, TokenIds, worst
from icm_client.errors import TaskError
from icm_client.scoring.prompts import Question


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
