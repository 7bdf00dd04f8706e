"""One call of a scorer: its reads, and what becomes of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from icm_client.endpoints.protocol import Answer, Read
from icm_client.errors import MalformedAnswer, ScoreNotFinite
from icm_client.scoring.blame import Failure


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

    reads: list[Read]
    known: dict[int, Answer]
    from_store: int
    failed: dict[int, Failure] = field(default_factory=dict)
    heard: bool = False
    aside: bool = False

    @property
    def missing(self) -> frozenset[int]:
        """Those that are still to be asked."""
        return frozenset(range(len(self.reads))) - self.known.keys() - self.failed.keys()


def check_answers(reads: Sequence[Read], answers: Sequence[Answer]) -> None:
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
