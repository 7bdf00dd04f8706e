"""One call of a scorer: its reads, and what becomes of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from icm_client.endpoints.protocol import Answer
from icm_client.errors import MalformedAnswer, ScoreNotFinite
from icm_client.scoring.blame import Failure
from icm_client.scoring.keys import score_keys
from icm_client.scoring.prompts import Asked, Question


@dataclass(slots=True)
class Call:
    """Different reads, and what has become of them.

    Attributes:
        reads: what is asked.
        known: their answers, by index.
        failed: those that failed alone, by index.
        from_store: how many the store had.
        heard: whether the server answered any.
        aside: whether it is asked to find out what failed, and no progress.
    """

    reads: list[Question]
    known: dict[int, Answer]
    from_store: int
    failed: dict[int, Failure] = field(default_factory=dict)
    heard: bool = False
    aside: bool = False

    @property
    def missing(self) -> frozenset[int]:
        """Those that are still to be asked."""
        return frozenset(range(len(self.reads))) - self.known.keys() - self.failed.keys()


def different(
    asked: Sequence[Sequence[Question]], fingerprint: str
) -> tuple[list[Question], list[list[int]]]:
    """Return the reads without repetitions, and which of them each of `asked` needs.

    They are told apart by their keys in the store of the server `fingerprint`: a key takes a
    context once, the hash of a prompt takes it for every prompt.
    """
    keys = iter(score_keys(fingerprint, [read for reads in asked for read in reads]))
    position: dict[bytes, int] = {}
    found: list[Question] = []
    needed = []
    for reads in asked:
        own = []
        for read in reads:
            place = position.setdefault(next(keys), len(found))
            if place == len(found):
                found.append(read)
            own.append(place)
        needed.append(own)
    return found, needed


def check_answers(reads: Sequence[Asked], answers: Sequence[Answer]) -> None:
    """Refuse what must not enter the store, whichever endpoint it came from.

    Raises:
        MalformedAnswer: not as many answers as reads, or log-probs as tokens.
        ScoreNotFinite: a log-prob that is none.
    """
    if len(answers) != len(reads):
        raise MalformedAnswer(f"{len(answers)} answers to {len(reads)} reads")
    for read, answer in zip(reads, answers, strict=True):
        if len(answer.log_probs) != len(read.wanted):
            raise MalformedAnswer(
                f"{len(answer.log_probs)} log-probs for {len(read.wanted)} tokens"
            )
        if not all(-math.inf < log_prob <= 0 for log_prob in answer.log_probs):
            raise ScoreNotFinite(f"{answer.log_probs} as log-probs of tokens {read.wanted}")
