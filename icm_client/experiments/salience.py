r"""Does the model hold a concept that a run could find? A probe of a few rows, without gold labels.

A run succeeds where labels in context move other rows' labels along one axis. So the probe shows
labels, and then the same labels exchanged, and measures what that changes. Items are split into two
halves, and each is read in context, given the other:

    L_0 <- the items' calibrated zero-shot log-odds, split at the median of each half
    for t = 0, 1:
        s(i), e(i) <- calibrated log-odds of i given the other half's L_t, and given L_t exchanged
        r_t(i) <- (s(i) - e(i)) / 2, the effect of the labels, minus the mean of the half
        a_t <- mean_i r_t(i) L_t(i), in each half: do the labels of one half predict the other's?
        L_{t+1} <- r_t, split at the median of each half

That is power iteration on how far each item's label moves each other item's: it turns to the axis
along which labels move labels most, if there is one, whatever the label words mean. `a_0` is what
the words' meaning gives, `a_1` what the search could find without it. What rows say by themselves
cancels out of `r`, however strong it is.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, NamedTuple

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.contexts import score_folds
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query, Score
from icm_client.coherence.settings import SweepSettings
from icm_client.data import Task
from icm_client.data.job import Job, Rows
from icm_client.endpoints import Endpoint, TextEndpoint
from icm_client.errors import InputError, TaskError
from icm_client.experiments.comparison import Meter
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import Pieces, Scorer, ScoreStore, open_store, tokenize_pieces

Verdict = Literal["likely", "unclear", "unlikely"]

LIKELY: Final = 0.7
UNLIKELY: Final = 0.3
"""Scores from which on a run is likely to beat chance, and up to which it is unlikely to."""

FEWEST: Final = 24
"""The fewest rows of a sample: fewer tell nothing, whatever share of a run they cost."""

MOST: Final = 64
"""The most rows of a sample: more change the score by less than which rows are drawn does."""

SHARE: Final = 0.05
"""The share of a usual run's tokens that a sample of more than `FEWEST` rows may cost."""

STEPS: Final = 2
"""How often all items are labelled and read: once from the words, once from the first effect."""

LEAST: Final = 0.05
"""Nats added to a pull before its logarithm is taken."""

NOISE: Final = 0.02
"""Nats added to the spread under shuffled labels: a server's answers differ by that much."""

INTERCEPT: Final = 2.24
WEIGHTS: Final = (0.68, 0.55, 0.61)
"""Of the score: the logarithms of both pulls, and the words (docs/experiments/salience.md)."""

RESAMPLES: Final = 200
"""Bootstrap samples of the items, from which the score's interval is taken."""

WIDTH: Final = 3.0
"""Half the interval's width, in standard deviations over the bootstrap samples: with it the score
of another sample lies in the interval nine times in ten (docs/experiments/salience.md)."""

LETTERS_A_TOKEN: Final = 4.0
"""Assumed for servers that take text and do not say how it is tokenized."""

_SENTENCES: Final[dict[Verdict, str]] = {
    "likely": "a run will probably do much better than chance, if what it finds is what you mean",
    "unclear": "this sample does not tell whether a run will do much better than chance",
    "unlikely": "a run will probably do no better than chance",
}


async def salience(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    endpoint: Endpoint | Server | str | None = None,
    seed: int = 0,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    step: Callable[[str], None] | None = None,
) -> "SalienceReport":
    """Estimate from a small sample whether a run on these rows would beat chance.

    Gold labels are not read.

    Args:
        rows: as for `icm_client.label`.
        task: as for `icm_client.label`, with two labels. A constraint is ignored: the labels shown
            are not a run's.
        endpoint: as for `icm_client.label`.
        seed: of the sample and of the halves.
        store: the score store's file, or an open store; None stands for the user's own. The same
            call again reads at most 8 log-probs.
        step: called with what is about to be done, and what it will cost.

    Raises:
        InputError: rows or task cannot be used, or there are too few rows; nothing has been sent.
        EndpointError, ScoreError, StoreError: as `icm_client.label`.
    """
    step = step or (lambda _: None)
    job = Job.prepare(rows, task)
    if len(job.labels) != 2:  # noqa: PLR2004
        raise TaskError(
            f"a probe exchanges two labels, and the task has {len(job.labels)}: make a task file "
            "with the two that matter most"
        )
    items = job.row_items
    chosen = sample(items, sample_size(len(items), len(job.items)), seed)
    with open_store(store) as kept:
        async with open_endpoint(endpoint) as server:
            meter = Meter(server)
            kept.record_server(server.identity)
            pieces = await tokenize_pieces(
                [job.prompts[item] for item in chosen],
                job.label_texts,
                job.task.separator,
                server,
                kept,
            )
            least = _run_tokens(pieces, server, len(job.items))
            pieces = _affordable(pieces, server, least)
            size = len(pieces.prompts)
            planned = _probe_tokens(pieces, server)
            few = f" (more than {SHARE:.0%}, because fewer than {FEWEST} rows tell nothing)"
            step(
                f"Sample: {size} of {len(items):,} rows, about {planned:,} tokens, "
                f"{planned / least:.1%} of what a usual run costs"
                f"{few if planned > SHARE * least else ''}"
            )
            score = Scorer(server, kept, pieces)
            readings = await read_salience(size, score, rng=np.random.default_rng(seed), step=step)
            spent = meter.spent(score.stats)
            return SalienceReport(
                found=judge(readings),
                sampled=size,
                rows=len(items),
                planned_tokens=planned,
                run_tokens=least,
                computed_tokens=spent.computed_tokens,
                requests=spent.requests,
                model=server.identity.model,
                notices=(*job.warnings, *job.notices, *kept.notices),
            )


class Step(NamedTuple):
    """One reading of all items given the other half's labels; log-odds of label 0, in nats.

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
        zero_shot: shape `[n]`, calibrated zero-shot log-odds.
        steps: in order.
    """

    halves: tuple[IntArray, IntArray]
    zero_shot: FloatArray
    steps: tuple[Step, ...]


async def read_salience(
    n_items: int,
    score: Score,
    *,
    rng: np.random.Generator,
    step: Callable[[str], None] = lambda _: None,
) -> Readings:
    """Read the items as the module's docstring says.

    Args:
        n_items: at least 4.
        score: reads log-probs of items `0..n_items-1`, for two labels.
        rng: draws the halves, and the order of demos.
        step: called with what is being read.

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
        step(f"Reading the rows given labels, and given these exchanged, {number + 1} of {STEPS}")
        steps.append(await _read(_split(axis, halves), halves, score, rng))
        axis = steps[-1].moved
    return Readings(halves, zero_shot, tuple(steps))


def _split(axis: FloatArray, halves: tuple[IntArray, IntArray]) -> FloatArray:
    """Label 0 for the upper half of each half."""
    labels = np.ones(len(axis))
    for half in halves:
        labels[half[np.argsort(-axis[half], kind="stable")[(len(half) + 1) // 2 :]]] = -1
    return labels


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


def _demos(items: IntArray, labels: FloatArray) -> Context:
    return tuple(Demo(int(item), int(labels[item] < 0)) for item in items)


def _log_odds(scores: FloatArray) -> FloatArray:
    odds: FloatArray = scores[:, 0] - scores[:, 1]
    return odds


@dataclass(frozen=True, slots=True)
class Features:
    """What a probe's readings come to.

    Attributes:
        first: `a_0` of the half where it is smaller, 0 where the halves differ in sign, in nats:
            how far the labels that the words suggest move other rows along these labels.
        second: `a_1`, likewise, in nats: the same of the labels that the first ones suggest.
        words: `a_0` over its standard deviation with the labels shuffled among the rows; above 0
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
        score: 0 to 1, the estimated probability of an accuracy of at least 75%, with the label
            names exchanged where that is better.
        interval: where nine in ten other samples of the same rows would score.
        features: what the score is computed from.
    """

    score: float
    interval: tuple[float, float]
    features: Features

    @property
    def verdict(self) -> Verdict:
        """What to expect, in a word."""
        if self.score >= LIKELY:
            return "likely"
        return "unlikely" if self.score <= UNLIKELY else "unclear"

    def sentence(self) -> str:
        """Say what is expected of a run, with score and interval."""
        low, high = self.interval
        return f"{_SENTENCES[self.verdict]} (score {self.score:.2f}, {low:.2f} to {high:.2f})."

    def summary(self) -> dict[str, object]:
        """The same for JSON."""
        return {
            "verdict": self.verdict,
            "score": self.score,
            "interval": list(self.interval),
            "features": asdict(self.features),
        }


def judge(readings: Readings) -> Salience:
    """Compute score and interval; the same readings give the same."""
    everyone = [np.arange(len(half)) for half in readings.halves]
    found = _features(readings, everyone)
    rng = np.random.default_rng(0)
    resampled = [
        _features(readings, [rng.choice(own, len(own)) for own in everyone])
        for _ in range(RESAMPLES)
    ]
    spread = WIDTH * float(np.std([log_odds_of(one) for one in resampled]))
    middle = log_odds_of(found)
    score, low, high = (_logistic(at) for at in (middle, middle - spread, middle + spread))
    return Salience(score, (low, high), found)


def log_odds_of(found: Features) -> float:
    """The score before the logistic function."""
    return INTERCEPT + float(found.vector() @ np.array(WEIGHTS))


def _logistic(at: float) -> float:
    """`1 / (1 + exp(-at))`, without overflow."""
    return 1 / (1 + math.exp(-at)) if at >= 0 else math.exp(at) / (1 + math.exp(at))


def _features(readings: Readings, members: Sequence[IntArray]) -> Features:
    """The features of a sample of each half, given as places in it that may repeat."""
    halves = [half[some] for half, some in zip(readings.halves, members, strict=True)]
    agreement, second = (_agreement(step, halves) for step in readings.steps)
    # Shuffled, the mean of centred `r` times labels has the variance of r over n (n - 1 for n).
    moved = readings.steps[0].moved
    variance = sum(moved[half].var() / max(len(half) - 1, 1) for half in halves)
    spread = math.sqrt(variance) / len(halves)
    return Features(_pull(agreement), _pull(second), float(agreement.mean() / (spread + NOISE)))


def _agreement(step: Step, halves: Sequence[IntArray]) -> FloatArray:
    """`a_t` of each half, nats, shape `[2]`."""
    towards = step.moved * step.labels
    return np.array([towards[half].mean() for half in halves])


def _pull(agreement: FloatArray) -> float:
    """The smaller size of the halves' `a_t`, 0 where they differ in sign.

    Where both are negative, the halves name the same axis the other way round.
    """
    return float(max(agreement.min(), (-agreement).min(), 0.0))


@dataclass(frozen=True, slots=True)
class SalienceReport:
    """What a probe found, and what it cost.

    Attributes:
        found: score, interval and features.
        sampled: rows of the sample.
        rows: rows given.
        planned_tokens: prompt tokens that the probe was expected to cost.
        run_tokens: the least prompt tokens that a run over all rows costs.
        computed_tokens: prompt tokens that the server computed; fewer where the store had answers.
        requests: that were sent.
        model: the model that answered.
        notices: for the user.
    """

    found: Salience
    sampled: int
    rows: int
    planned_tokens: int
    run_tokens: int
    computed_tokens: int
    requests: int
    model: str
    notices: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The planned tokens as a share of a usual run's."""
        return self.planned_tokens / self.run_tokens

    def cost_sentence(self) -> str:
        """Say what it cost."""
        return (
            f"This probe: {self.sampled} of {self.rows:,} rows, {self.requests:,} requests, "
            f"{self.computed_tokens:,} tokens computed; without stored answers about "
            f"{self.planned_tokens:,}, {self.share:.1%} of what a usual run costs."
        )

    def summary(self) -> dict[str, object]:
        """What `--json` prints."""
        figures = asdict(self)
        del figures["found"]
        return {**self.found.summary(), **figures, "share": self.share}


def rows_read(n_items: int) -> int:
    """Rows' worth of prompts in a probe: alone, and in each step twice as demo and as target."""
    return n_items * (1 + 4 * STEPS)


def sample_size(n_rows: int, n_items: int) -> int:
    """How many rows to read: as many as `SHARE` of a usual run pays for, within the limits.

    Args:
        n_rows: to draw from.
        n_items: that a run labels; twice as many where pairs are shown in both orders.

    Raises:
        InputError: there are fewer than `FEWEST` rows.
    """
    if n_rows < FEWEST:
        raise InputError(
            f"{n_rows} rows are too few for a probe, which reads {FEWEST}: label them, which costs "
            "little more, and see whether the labels are coherent"
        )
    usual = SweepSettings()
    sweep = usual.folds * min(usual.demos, n_items) + n_items
    affordable = int(SHARE * (usual.averaged + 1 / usual.folds) * sweep / rows_read(1))
    return min(max(affordable, FEWEST), MOST, n_rows) // 2 * 2


def sample(items: IntArray, size: int, seed: int) -> list[int]:
    """Draw `size` of the items."""
    drawn: list[int] = np.random.default_rng((3, seed)).permutation(items)[:size].tolist()
    return drawn


def _affordable(pieces: Pieces, server: Endpoint, least: int) -> Pieces:
    """Leave out the last rows where, as they are tokenized, they cost more than `SHARE`."""
    a_row = _probe_tokens(pieces, server) / len(pieces.prompts)
    size = min(max(int(SHARE * least / a_row), FEWEST), len(pieces.prompts)) // 2 * 2
    return replace(pieces, prompts=pieces.prompts[:size])


def _probe_tokens(pieces: Pieces, server: Endpoint) -> int:
    """About how many prompt tokens a probe of these rows costs on a server with a prefix cache."""
    target, demo = _lengths(pieces, server)
    n_rows = len(pieces.prompts)
    demos = (rows_read(n_rows) - n_rows) // 2
    return round((rows_read(n_rows) - demos) * target + demos * demo)


def _run_tokens(pieces: Pieces, server: Endpoint, n_items: int) -> int:
    """About how many prompt tokens a usual run costs: one of as many sweeps as are averaged."""
    target, demo = _lengths(pieces, server)
    usual = SweepSettings()
    room = int((server.identity.context_length - target) / demo)
    demos = max(min(usual.demos, room, n_items), 1)
    sweep = usual.folds * demos * demo + n_items * target
    return round((usual.averaged + 1 / usual.folds) * sweep)


def _lengths(pieces: Pieces, server: Endpoint) -> tuple[float, float]:
    """Mean tokens of a target, and of a demo; letters are counted where a server takes text."""
    scale = LETTERS_A_TOKEN if isinstance(server, TextEndpoint) else 1.0
    target = sum(map(len, pieces.prompts)) / len(pieces.prompts)
    label = sum(map(len, pieces.labels)) / len(pieces.labels)
    return target / scale, (target + label + len(pieces.separator)) / scale
