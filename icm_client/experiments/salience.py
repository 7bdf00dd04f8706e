r"""Whether a model holds a concept that a run could find: a probe of a few rows, without gold.

A run succeeds where labels in context move other rows' labels along one axis. So the probe shows
labels, and then the same labels exchanged, and looks at what that changes. Items are split into
halves that are read behind one another:

    L_0 <- the items' calibrated log-odds behind no demos, split at the median of each half
    for t = 0, 1:
        s(i), e(i) <- calibrated log-odds of i behind the other half's L_t, and behind L_t exchanged
        r_t(i) <- (s(i) - e(i)) / 2, what the labels did, less the mean of the half
        a_t <- mean_i r_t(i) L_t(i), of each half: do the labels of one half predict the other's?
        L_{t+1} <- r_t, split at the median of each half

That is power iteration on how far each item's label moves each other item's: it turns to the axis
along which labels move labels most, if there is one, whatever the words say. `a_0` is what the
words' own meaning gives, `a_1` what the search could find without them. Nothing that the rows say
by themselves enters `r`, however strongly they say it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.contexts import score_folds
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query, Score

Verdict = Literal["likely", "unclear", "unlikely"]

LIKELY, UNLIKELY = 0.7, 0.3
"""Scores from which on, and up to which, a verdict is given."""

STEPS = 2
"""Times that all items are labelled and read: once as the words say, once as the labels say."""

LEAST = 0.05
"""Nats added to a pull before its logarithm is taken."""

NOISE = 0.02
"""Nats added to the spread that shuffled labels have: a server's answers differ by that much."""

INTERCEPT, WEIGHTS = 2.24, (0.68, 0.55, 0.61)
"""Of the score: the logarithms of both pulls, and the words."""

_SENTENCES: dict[Verdict, str] = {
    "likely": "a run will probably do much better than chance, if what it finds is what you mean",
    "unclear": "this sample does not tell whether a run will do much better than chance",
    "unlikely": "a run will probably do no better than chance",
}

RESAMPLES = 200
"""Samples of the items, drawn with replacement, that the score's interval is taken from."""

WIDTH = 3.0
"""Standard deviations over resampled items that the interval reaches to either side: as many as
bring the score of another sample into it nine times in ten (docs/salience.md)."""


class Step(NamedTuple):
    """One reading of all items behind the other half's labels; log-odds of label 0, in nats.

    Attributes:
        labels: shape `[n]`, +1 for label 0 and -1 for label 1.
        moved: shape `[n]`, `r_t`, centred in each half.
    """

    labels: FloatArray
    moved: FloatArray


class Readings(NamedTuple):
    """What a probe has read.

    Attributes:
        halves: the items of either half.
        zero_shot: shape `[n]`, calibrated log-odds behind no demos.
        steps: in order.
    """

    halves: tuple[IntArray, IntArray]
    zero_shot: FloatArray
    steps: tuple[Step, ...]


def rows_read(n_items: int) -> int:
    """Rows' worth of prompts in a probe: alone, and in each step twice as demo and as target."""
    return n_items * (1 + 4 * STEPS)


async def read_salience(
    n_items: int,
    score: Score,
    *,
    rng: np.random.Generator,
    step: Callable[[str], None] = lambda _: None,
) -> Readings:
    """Read the items as the module says; `score` is the only way out.

    Args:
        n_items: at least 4.
        score: answers queries about items `0..n_items-1`, for two labels.
        rng: the only source of chance: the halves, and the order of demos.
        step: told what is being read.

    Raises:
        EndpointError, ScoreError: whatever `score` raises.
    """
    step("Reading the rows without demos")
    alone = await score([Query((), item) for item in range(n_items)])
    zero_shot = _log_odds(pointwise_mutual_information(alone))
    order = rng.permutation(n_items)
    halves = (order[: n_items // 2], order[n_items // 2 :])
    axis = zero_shot
    steps: list[Step] = []
    for number in range(STEPS):
        step(f"Reading behind labels and behind the same exchanged, {number + 1} of {STEPS}")
        steps.append(await _read(_split(axis, halves), halves, score, rng))
        axis = steps[-1].moved
    return Readings(halves, zero_shot, tuple(steps))


@dataclass(frozen=True, slots=True)
class Features:
    """What a probe comes to; nats.

    Attributes:
        first: `a_0`, the lower of the halves' sizes, 0 where one half says otherwise: how far the
            labels that the words suggest move other rows' log-odds along these labels.
        second: `a_1`, likewise: the same of the labels that these in turn suggest.
        words: `a_0` over its standard deviation with the labels shuffled among the rows; over 0
            where labels that agree with the words move rows as the words do.
    """

    first: float
    second: float
    words: float

    def vector(self) -> FloatArray:
        """As the score weighs them, shape `[3]`."""
        pulls = (math.log(self.first + LEAST), math.log(self.second + LEAST))
        return np.array([*pulls, self.words])


@dataclass(frozen=True, slots=True)
class Salience:
    """How far a run is expected to beat chance.

    Attributes:
        score: 0 to 1, the estimated probability of an accuracy of 75% and more, names exchanged
            where that is better.
        interval: where nine in ten other samples of the same rows would score.
        features: what the score is made of.
    """

    score: float
    interval: tuple[float, float]
    features: Features

    @property
    def verdict(self) -> Verdict:
        """What to expect, in a word."""
        if self.score >= LIKELY:
            return "likely"
        if self.score <= UNLIKELY:
            return "unlikely"
        return "unclear"

    def sentence(self) -> str:
        """Say what is expected of a run, with score and interval."""
        low, high = self.interval
        return f"{_SENTENCES[self.verdict]} (score {self.score:.2f}, {low:.2f} to {high:.2f})."

    def summary(self) -> dict[str, object]:
        """Return the same as JSON has it."""
        return {
            "verdict": self.verdict,
            "score": self.score,
            "interval": list(self.interval),
            "features": asdict(self.features),
        }


def judge(readings: Readings) -> Salience:
    """Return score and interval; the same readings give the same."""
    everyone = [np.arange(len(half)) for half in readings.halves]
    found = features(readings, everyone)
    chance = np.random.default_rng(0)
    resampled = [
        features(readings, [chance.choice(own, len(own)) for own in everyone])
        for _ in range(RESAMPLES)
    ]
    spread = WIDTH * float(np.std([log_odds_of(one) for one in resampled]))
    middle = log_odds_of(found)
    score, low, high = (_logistic(at) for at in (middle, middle - spread, middle + spread))
    return Salience(score, (low, high), found)


def log_odds_of(found: Features) -> float:
    """The score of features before the logistic function; fitted as docs/salience.md says."""
    return INTERCEPT + float(found.vector() @ np.array(WEIGHTS))


def _logistic(at: float) -> float:
    """`1 / (1 + exp(-at))`, for large sizes too."""
    return 1 / (1 + math.exp(-at)) if at >= 0 else math.exp(at) / (1 + math.exp(at))


def features(readings: Readings, members: Sequence[IntArray]) -> Features:
    """Return what the readings come to over some members of either half, repeated ones too.

    Args:
        readings: of a probe.
        members: places in either half.
    """
    chosen = tuple(half[some] for half, some in zip(readings.halves, members, strict=True))
    first, second = (_pull(step, chosen) for step in readings.steps)
    return Features(first, second, _against_shuffled(readings.steps[0], chosen))


def _pull(step: Step, halves: Sequence[IntArray]) -> float:
    """The lower size of the halves' `a_t`, 0 where they contradict each other.

    Both may be negative: the halves then name the axis differently, and mean the same.
    """
    ends = _agreement(step, halves)
    return float(max(ends.min(), (-ends).min(), 0.0))


def _against_shuffled(step: Step, halves: Sequence[IntArray]) -> float:
    """`a_t` over its standard deviation where the targets' labels are shuffled in each half."""
    # Shuffled, the mean of centred `r` times labels has the variance of r over n (n - 1 for n).
    variance = sum(step.moved[half].var() / max(len(half) - 1, 1) for half in halves)
    spread = math.sqrt(variance) / len(halves)
    return float(_agreement(step, halves).mean() / (spread + NOISE))


async def _read(
    labels: FloatArray,
    halves: tuple[IntArray, IntArray],
    score: Score,
    rng: np.random.Generator,
) -> Step:
    contexts = []
    for shown, targets in (halves, halves[::-1]):
        items = rng.permutation(shown)
        contexts += [(_demos(items, labels), targets), (_demos(items, -labels), targets)]
    folds = await score_folds(contexts, score)
    moved = np.zeros(len(labels))
    for as_labelled, exchanged in (folds[:2], folds[2:]):
        half = (_log_odds(as_labelled.calibrated) - _log_odds(exchanged.calibrated)) / 2
        moved[as_labelled.targets] = half - half.mean()
    return Step(labels, moved)


def _split(axis: FloatArray, halves: tuple[IntArray, IntArray]) -> FloatArray:
    """Label 0 for the upper half of each half."""
    labels = np.ones(len(axis))
    for half in halves:
        labels[half[np.argsort(-axis[half], kind="stable")[(len(half) + 1) // 2 :]]] = -1
    return labels


def _agreement(step: Step, halves: Sequence[IntArray]) -> FloatArray:
    """`a_t` of each half, nats, shape `[2]`."""
    towards = step.moved * step.labels
    return np.array([towards[half].mean() for half in halves])


def _demos(items: IntArray, labels: FloatArray) -> Context:
    return tuple(Demo(int(item), int(labels[item] < 0)) for item in items)


def _log_odds(scores: FloatArray) -> FloatArray:
    odds: FloatArray = scores[:, 0] - scores[:, 1]
    return odds
