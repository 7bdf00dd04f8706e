"""A reward model's scores of pairs: kept in a file batch by batch, and compared with gold."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import orjson

from icm_client.coherence.problem import FloatArray
from icm_client.errors import RunError, RunStopped, TrainingError
from icm_client.runs.trainer import Trained
from icm_client.stats.bootstrap import Interval, bootstrap_interval, paired_interval
from icm_client.training.examples import Pair

BATCH: Final = 64
"""Pairs that are scored between two writes; a process that is killed loses no more."""

_DIGEST_LENGTH: Final = 12


class Judge(Protocol):
    """A reward model that is open."""

    async def scores(self, responses: Sequence[tuple[str, str]]) -> list[float]:
        """Return the score of each (prompt, response); only differences have a meaning."""
        ...


class Scores(NamedTuple):
    """A reward model's scores of a pair's two responses."""

    chosen: float
    rejected: float


class ScoreFile:
    """The scores of one model for one list of pairs.

    The file is named by a digest over both. Each line holds the two scores of a pair, in order.

    Raises:
        RunError: the file cannot be read, or was written by something else.
    """

    def __init__(self, folder: Path, trained: Trained, pairs: Sequence[Pair]) -> None:
        packed = orjson.dumps([Path(trained.model).name, list(map(list, pairs))])
        self.path = folder / f"scores-{hashlib.sha256(packed).hexdigest()[:_DIGEST_LENGTH]}.jsonl"
        self._pairs, self._model = pairs, trained.model
        self.found = self._read()

    @property
    def complete(self) -> bool:
        """Whether every pair has its scores."""
        return len(self.found) == len(self._pairs)

    async def finish(
        self, judge: Judge, progress: Callable[[int], None], stopping: Callable[[], bool]
    ) -> None:
        """Score the missing pairs, and write each batch at once.

        Raises:
            RunStopped: `stopping` returned true; what was scored is kept.
            TrainingError: a score is NaN or infinite.
            RunError: the file cannot be written.
        """
        while not self.complete:
            if stopping():
                raise RunStopped("stopped on request")
            batch = self._pairs[len(self.found) : len(self.found) + BATCH]
            both = [(pair.prompt, text) for pair in batch for text in (pair.chosen, pair.rejected)]
            scores = await judge.scores(both)
            if not all(map(math.isfinite, scores)):
                raise TrainingError(
                    f"the reward model {self._model} gives scores that are NaN or infinite: train "
                    "it with a lower learning rate"
                )
            found = [Scores(*two) for two in zip(scores[::2], scores[1::2], strict=True)]
            self._append(found)
            self.found += found
            progress(len(self.found))

    def _append(self, found: Sequence[Scores]) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(orjson.dumps(list(two)) + b"\n" for two in found))
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _read(self) -> list[Scores]:
        """The scores of an earlier process; its unfinished last line is cut off."""
        try:
            written = self.path.read_bytes()
            complete = written[: written.rfind(b"\n") + 1]
            if len(complete) < len(written):
                os.truncate(self.path, len(complete))
            found = [Scores(*orjson.loads(line)) for line in complete.splitlines()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{self.path}: not the scores that were left there ({error}); remove it, and the "
                "same command scores again"
            ) from error
        if len(found) > len(self._pairs):
            raise RunError(f"{self.path}: more scores than there are pairs; remove it")
        return found


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of held-out pairs whose better response is preferred; a tie is half right.

    Attributes:
        share: in 0..1.
        interval: 95%, over the pairs.
    """

    share: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class HeldOutPairs:
    """Accuracies on pairs that no model was trained on.

    Attributes:
        pairs: their number.
        first: of the first reward model.
        final: of the final one.
        longer: of "the longer response is better", which a reward model has to beat.
        gained: the final model's share less the first one's, and its 95% interval.
    """

    pairs: int
    first: Accuracy
    final: Accuracy
    longer: Accuracy
    gained: Accuracy

    def summary(self) -> dict[str, Any]:
        """Return JSON values."""
        names = ("first", "final", "longer", "gained")
        accuracies: dict[str, Accuracy] = {name: getattr(self, name) for name in names}
        return {
            "pairs": self.pairs,
            **{name: round(one.share, 4) for name, one in accuracies.items()},
            **{
                f"{name}_interval": [round(end, 4) for end in one.interval]
                for name, one in accuracies.items()
            },
        }


def measured(
    pairs: Sequence[Pair], by_first: Sequence[Scores], by_final: Sequence[Scores]
) -> HeldOutPairs:
    """Return how often each model, and the longer response, is right; a better one is first."""
    first, final = _right(by_first), _right(by_final)
    longer = _right([Scores(len(pair.chosen), len(pair.rejected)) for pair in pairs])
    units = np.arange(len(pairs))

    def accuracy(right: FloatArray) -> Accuracy:
        return Accuracy(float(right.mean()), bootstrap_interval(right, units))

    return HeldOutPairs(
        len(pairs),
        first=accuracy(first),
        final=accuracy(final),
        longer=accuracy(longer),
        gained=Accuracy(float(final.mean() - first.mean()), paired_interval(final, first, units)),
    )


def _right(scores: Sequence[Scores]) -> FloatArray:
    """1 where the chosen response scores higher, one half for a tie; shape `[1, pairs]`."""
    return np.array([[(np.sign(one - other) + 1) / 2 for one, other in scores]])
