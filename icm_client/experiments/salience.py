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
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.fold_scores import score_folds
from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query, Score
from icm_client.coherence.settings import SweepSettings
from icm_client.data import Task
from icm_client.data.job import Job, Rows
from icm_client.endpoints import Endpoint, TextEndpoint
from icm_client.errors import InputError, TaskError
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import Pieces, Scorer, ScoreStore, open_store, tokenize_pieces

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


FEWEST = 24
"""Rows in a sample at least: fewer tell nothing, whatever share of a run they take."""

MOST = 64
"""Rows in a sample at most: more change the score by less than which rows they are."""

SHARE = 0.05
"""Of the tokens of the shortest run, what a sample over `FEWEST` may take."""

LETTERS_A_TOKEN = 4.0
"""Where a server takes text, and nobody tells how it is tokenized."""


@dataclass(frozen=True, slots=True)
class SalienceReport:
    """What a probe found, and what it took.

    Attributes:
        found: score, interval and features.
        sampled: rows of the sample.
        rows: rows at hand.
        planned_tokens: prompt tokens that the probe was expected to have computed.
        run_tokens: those of a run over all rows, at least.
        computed_tokens: that the server computed for this probe; fewer where the store had answers.
        requests: that were sent.
        model: who answered.
        notices: sentences that the user should see.
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
        """The planned tokens as a share of the shortest run's."""
        return self.planned_tokens / self.run_tokens

    def cost_sentence(self) -> str:
        """Say what it took."""
        return (
            f"This probe: {self.sampled} of {self.rows:,} rows, {self.requests:,} requests, "
            f"{self.computed_tokens:,} tokens computed; without stored answers about "
            f"{self.planned_tokens:,}, {self.share:.1%} of the least that a run takes."
        )

    def summary(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {
            **self.found.summary(),
            "sampled": self.sampled,
            "rows": self.rows,
            "planned_tokens": self.planned_tokens,
            "run_tokens": self.run_tokens,
            "share": self.share,
            "computed_tokens": self.computed_tokens,
            "requests": self.requests,
            "model": self.model,
            "notices": list(self.notices),
        }


async def salience(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    endpoint: Endpoint | Server | str | None = None,
    seed: int = 0,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    step: Callable[[str], None] | None = None,
) -> SalienceReport:
    """Judge from a small sample whether a run on these rows would beat chance; gold is not read.

    Args:
        rows: as for `icm_client.label`.
        task: as for `icm_client.label`; two labels. A rule is not looked at: labels are random.
        endpoint: as for `icm_client.label`.
        seed: of the sample and the labels in it.
        store: the score store's file; None takes the user's own. The same call again asks 8 reads
            at most.
        step: told what is about to be done, and what it will take.

    Raises:
        InputError: rows or task cannot be used, or there are too few; nothing has been sent.
        EndpointError, ScoreError, StoreError: as `icm_client.label`.
    """
    tell = step or (lambda _: None)
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
            before = replace(server.usage)
            kept.record_server(server.identity)
            pieces = await tokenize_pieces(
                [job.prompts[item] for item in chosen],
                job.label_texts,
                job.task.separator,
                server,
                kept,
            )
            least = run_tokens(pieces, server, len(job.items))
            pieces = _affordable(pieces, server, least)
            planned = probe_tokens(pieces, server)
            size = len(pieces.prompts)
            tell(
                f"Sample: {size} of {len(items):,} rows, about {planned:,} tokens, "
                f"{planned / least:.1%} of the least that a run takes{_why(planned, least)}"
            )
            readings = await read_salience(
                size,
                Scorer(server, kept, pieces),
                rng=np.random.default_rng(seed),
                step=tell,
            )
            return SalienceReport(
                found=judge(readings),
                sampled=size,
                rows=len(items),
                planned_tokens=planned,
                run_tokens=least,
                computed_tokens=server.usage.computed_tokens - before.computed_tokens,
                requests=server.usage.requests - before.requests,
                model=server.identity.model,
                notices=(*job.notices, *kept.notices),
            )


def _affordable(pieces: Pieces, server: Endpoint, least: int) -> Pieces:
    """Leave out the last rows where, as they are tokenized, they take more than `SHARE`."""
    a_row = probe_tokens(pieces, server) / len(pieces.prompts)
    size = min(max(int(SHARE * least / a_row), FEWEST), len(pieces.prompts)) // 2 * 2
    return replace(pieces, prompts=pieces.prompts[:size])


def _why(planned: int, least: int) -> str:
    """Say why it is more than `SHARE`, where it is."""
    if planned <= SHARE * least:
        return ""
    return f" (more than {SHARE:.0%}: fewer than {FEWEST} rows tell nothing)"


def sample_size(n_rows: int, n_items: int) -> int:
    """Rows to read: as many as `SHARE` of the shortest run pays for, within the limits.

    Args:
        n_rows: to draw from.
        n_items: that a run labels; twice as many where pairs are shown in both orders.

    Raises:
        InputError: there are fewer rows than the fewest that tell anything.
    """
    if n_rows < FEWEST:
        raise InputError(
            f"{n_rows} rows are too few for a probe, which takes {FEWEST}: label them, which costs "
            "little more, and see whether the labels are coherent"
        )
    usual = SweepSettings()
    sweep = usual.folds * min(usual.demos, n_items) + n_items
    affordable = int(SHARE * (usual.min_sweeps + 1 / usual.folds) * sweep / rows_read(1))
    return min(max(affordable, FEWEST), MOST, n_rows) // 2 * 2


def sample(items: IntArray, size: int, seed: int) -> list[int]:
    """Draw so many of the items."""
    drawn: list[int] = np.random.default_rng((3, seed)).permutation(items)[:size].tolist()
    return drawn


def probe_tokens(pieces: Pieces, server: Endpoint) -> int:
    """Prompt tokens that a probe over these rows takes on a server with a prefix cache, about."""
    target, demo = _lengths(pieces, server)
    n_rows = len(pieces.prompts)
    demos = (rows_read(n_rows) - n_rows) // 2
    return round((rows_read(n_rows) - demos) * target + demos * demo)


def run_tokens(pieces: Pieces, server: Endpoint, n_items: int) -> int:
    """Prompt tokens that the shortest run over `n_items` rows like these takes, about."""
    target, demo = _lengths(pieces, server)
    usual = SweepSettings()
    room = int((server.identity.context_length - target) / demo)
    demos = max(min(usual.demos, room, n_items), 1)
    sweep = usual.folds * demos * demo + n_items * target
    return round((usual.min_sweeps + 1 / usual.folds) * sweep)


def _lengths(pieces: Pieces, server: Endpoint) -> tuple[float, float]:
    """Mean tokens of a target, and of a demo; letters are counted where a server takes text."""
    scale = LETTERS_A_TOKEN if isinstance(server, TextEndpoint) else 1.0
    target = sum(map(len, pieces.prompts)) / len(pieces.prompts)
    label = sum(map(len, pieces.labels)) / len(pieces.labels)
    return target / scale, (target + label + len(pieces.separator)) / scale
