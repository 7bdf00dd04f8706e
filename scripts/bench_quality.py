"""Accuracy of the default search at natural and at given shares: `scripts/bench quality`.

Rows are drawn anew for each seed from those that chose none of the search's settings (the half that
`examples/make_samples.py` draws from), so that shares are what they are in the data, or what is
asked for. With --store every score is kept: a second run prints the same accuracies in seconds, and
the tokens of the second run. With --paired each run stands beside one on the same rows that makes
all sweeps, and tokens are those of runs that begin with nothing, whatever the store holds.
"""

import importlib.util
import math
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import click
import numpy as np
from rich.console import Console
from rich.table import Table

import icm_client
from icm_client import EmbeddedEndpoint, SweepSettings
from icm_client.coherence.calibration import pointwise_mutual_information
from icm_client.coherence.contexts import ScoredFold, fold_contexts, score_folds
from icm_client.coherence.fast import search
from icm_client.coherence.label_prior import estimate_prior
from icm_client.coherence.problem import BoolArray, FloatArray, IntArray, Problem, Query
from icm_client.data.job import Job
from icm_client.endpoints import Answer, Endpoint, Read, ServerIdentity, TokenIds, Usage
from icm_client.endpoints.protocol import common_prefix
from icm_client.runs.presets import fit
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.testing import PlantedConcept

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
THRESHOLDS = ROOT / "tests" / "coherence" / "thresholds"
REVIEWS = {"movies": "movie_reviews", "products": "product_reviews"}
SAMPLES = (*REVIEWS, "tickets")
ALL_SWEEPS = replace(SweepSettings(), clear=math.inf)
SHARES = (0.05, 0.1, 0.2, 0.36, 0.5, 0.64, 0.8, 0.9, 0.95)


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with vader_reviews/{movies,products}.jsonl.",
)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--sample", "samples", multiple=True, default=SAMPLES, show_default=True)
@click.option(
    "--share",
    "shares",
    multiple=True,
    default=("natural",),
    show_default=True,
    help="Of positive reviews: natural, or a number as 0.2.",
)
@click.option("--rows", default=128, show_default=True, type=click.IntRange(8))
@click.option("--golden", is_flag=True, help="Read the rows given golden demos too.")
@click.option("--paired", is_flag=True, help="Beside each run, one that makes all sweeps.")
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
def quality(
    *,
    data: Path,
    seeds: str,
    samples: tuple[str, ...],
    shares: tuple[str, ...],
    rows: int,
    golden: bool,
    paired: bool,
    store: Path | None,
) -> None:
    """Accuracy, verdict and cost of the fast preset, rows drawn at natural shares."""
    with tempfile.TemporaryDirectory() as folder:
        kept = store or Path(folder) / "scores.sqlite3"
        numbers = [int(seed) for seed in seeds.split(",")]
        drawn_from = [
            (sample, share)
            for sample in samples
            for share in (shares if sample in REVIEWS else ("natural",))
        ]
        if paired:
            draws = [(*one, rows, seed) for one in drawn_from for seed in numbers]
            anyio.run(partial(_paired, data=data, draws=draws, store=kept))
        else:
            for sample, share in drawn_from:
                anyio.run(
                    partial(
                        _quality,
                        data=data,
                        sample=sample,
                        share=share,
                        seeds=numbers,
                        rows=rows,
                        golden=golden,
                        store=kept,
                    )
                )


async def _quality(
    *,
    data: Path,
    sample: str,
    share: str,
    seeds: list[int],
    rows: int,
    golden: bool,
    store: Path,
) -> None:
    table = Table(title=f"{sample}, {share} shares, gemma-3-270m embedded")
    for column in (
        *("seed", "rows", "positive", "accuracy", "best threshold", "golden demos", "share, 90%"),
        *("estimated right", "coherence", "verdict", "computed", "says"),
    ):
        table.add_column(column)
    accuracies, lost = [], []
    for seed in seeds:
        job = drawn(data, sample, share, rows, seed)
        async with EmbeddedEndpoint() as server:
            found = await icm_client.label(
                job.dataset, task=job.task, endpoint=server, seed=seed, store=store
            )
            given = f"{await golden_accuracy(job, server, store, seed):.1%}" if golden else "-"
        accuracy = found.accuracy or 0.0
        accuracies.append(accuracy)
        best = _best_threshold(found) if len(job.labels) == 2 else None  # noqa: PLR2004
        lost += [] if best is None else [100 * (best - accuracy)]
        sure = [row.confidence for row in found.rows if row.confidence is not None]
        gold = job.dataset.gold or ()
        table.add_row(
            str(seed),
            str(len(found.rows)),
            f"{gold.count('positive') / len(gold):.0%}" if best is not None else "-",
            f"{accuracy:.1%}",
            "-" if best is None else f"{best:.1%}",
            given,
            _interval(found),
            f"{statistics.mean(sure):.0%}" if sure else "-",
            f"{found.coherence:.0%}",
            found.verdict,
            f"{found.cost.computed_tokens:,}",
            ", ".join(finding.code for finding in found.findings) or "-",
        )
    table.add_section()
    table.add_row("mean", "", "", f"{statistics.mean(accuracies):.1%}")
    console = Console(width=180)
    console.print(table)
    if lost:
        console.print(
            f"{sample}, {share}: {statistics.mean(lost):.1f} points under the best threshold, "
            f"{max(lost):.1f} at most\n"
        )


async def _paired(*, data: Path, draws: Sequence[tuple[str, str, int, int]], store: Path) -> None:
    """Print a run of each draw beside one that makes all sweeps, on the same rows."""
    console = Console(width=150, highlight=False)
    console.print("sample    share    rows seed  sweeps  right          computed          verdict")
    pairs = []
    for sample, share, rows, seed in draws:
        job = drawn(data, sample, share, rows, seed)
        async with EmbeddedEndpoint() as server:
            now, before = [
                await _from_nothing(job, server, store, settings, seed)
                for settings in (SweepSettings(), ALL_SWEEPS)
            ]
        pairs.append((now, before))
        console.print(
            f"{sample:9} {share:8} {len(now.rows):4} {seed:4} "
            f"{len(before.history):3} {len(now.history):3} "
            f"{before.accuracy or 0:6.1%} {now.accuracy or 0:6.1%} "
            f"{before.cost.computed_tokens:7,} {now.cost.computed_tokens:7,} "
            f"{_fewer(now, before):4.0%}  {before.verdict}, {now.verdict}",
            soft_wrap=True,
        )
    fewer = statistics.mean(_fewer(*pair) for pair in pairs)
    gained = [100 * ((now.accuracy or 0) - (before.accuracy or 0)) for now, before in pairs]
    changed = sum(now.verdict != before.verdict for now, before in pairs)
    console.print(
        f"{len(pairs)} draws: {fewer:.1%} fewer tokens, accuracy {statistics.mean(gained):+.2f} "
        f"points ({min(gained):+.1f} to {max(gained):+.1f}), {changed} verdicts changed"
    )


def _fewer(now: icm_client.Labels, before: icm_client.Labels) -> float:
    return 1 - now.cost.computed_tokens / before.cost.computed_tokens


async def _from_nothing(
    job: Job, server: Endpoint, store: Path, settings: SweepSettings, seed: int
) -> icm_client.Labels:
    """A run that finds none of its answers in its store, and so counts all of its tokens."""
    with tempfile.TemporaryDirectory() as folder, ScoreStore.open(store) as kept:
        return await icm_client.label(
            job.dataset,
            task=job.task,
            endpoint=_Remembered(server, kept),
            settings=settings,
            seed=seed,
            store=Path(folder) / "scores.sqlite3",
        )


@dataclass(slots=True)
class _Remembered:
    """A server with one lane that never computes an answer twice, and counts as if it did.

    It would prefill what a prompt does not share with the one before it. An answer asked for again
    is the one remembered, which the embedded server would give too.
    """

    server: Endpoint
    kept: ScoreStore
    usage: Usage = field(default_factory=Usage)
    before: TokenIds = ()

    @property
    def identity(self) -> ServerIdentity:
        return self.server.identity

    @property
    def lanes(self) -> int:
        return 1

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        name = self.identity.fingerprint
        (found,) = self.kept.get_tokens(name, [text], add_special=add_special)
        if found is None:
            found = await self.server.tokenize(text, add_special=add_special)
            self.kept.put_tokens(name, [text], [found], add_special=add_special)
        return found

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        name = self.identity.fingerprint
        answers = []
        for read in reads:
            (found,) = self.kept.get_many(name, [read])
            if found is None:
                (answer,) = await self.server.read([read], lane=lane)
                (found,) = self.kept.put_many(name, [read], [answer])
            answers.append(found)
            cached = min(common_prefix(self.before, read.prompt), len(read.prompt) - 1)
            self.before = read.prompt
            self.usage.requests += 1
            self.usage.cached_tokens += cached
            self.usage.computed_tokens += len(read.prompt) - cached
        return answers

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        raise NotImplementedError  # a server with lanes is sent no prefix by itself

    async def aclose(self) -> None:
        """Leave the server to whoever opened it."""


def _interval(found: icm_client.Labels) -> str:
    ends = found.share_intervals.get("positive")
    return "-" if ends is None else f"{ends[0]:.0%} to {ends[1]:.0%}"


def drawn(data: Path, sample: str, share: str, rows: int, seed: int) -> Job:
    """Rows of this draw with their task."""
    chance = random.Random(seed)  # noqa: S311 - a sample that can be drawn again
    if sample not in REVIEWS:
        folder = EXAMPLES / "support_tickets"
        return Job.prepare(folder / "support_tickets.csv", folder / "task.toml")
    pool = reviews(data / "vader_reviews" / f"{sample}.jsonl")
    if share == "natural":
        taken = chance.sample(pool, rows)
    else:
        positive = round(float(share) * rows)
        counts = {"positive": positive, "negative": rows - positive}
        taken = [
            row
            for word, count in counts.items()
            for row in chance.sample([row for row in pool if row["label"] == word], count)
        ]
        chance.shuffle(taken)
    return Job.prepare(taken, EXAMPLES / REVIEWS[sample] / "task.toml", gold="label")


def reviews(path: Path) -> list[dict[str, Any]]:
    """Clear reviews of 40 to 140 characters of the half that examples are drawn from."""
    return [
        {
            "id": row["id"],
            "text": row["text"],
            "label": "positive" if row["mean"] > 0 else "negative",
        }
        for row in _make_samples().short_reviews(path)
        if abs(row["mean"]) >= 1
    ]


def _make_samples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_samples", EXAMPLES / "make_samples.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(EXAMPLES / "make_samples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _best_threshold(found: icm_client.Labels) -> float:
    """Accuracy at the threshold on the log-odds that suits gold best."""
    log_odds = np.array([r.log_probs["positive"] - r.log_probs["negative"] for r in found.rows])
    return best_accuracy(log_odds, np.array(found.dataset.gold) == "positive")


def best_accuracy(log_odds: FloatArray, positive: BoolArray) -> float:
    """The share that is right at the best of all thresholds."""
    return max(
        float(((log_odds > threshold) == positive).mean())
        for threshold in (-np.inf, *log_odds.tolist())
    )


async def golden_accuracy(job: Job, server: Endpoint, store: Path, seed: int) -> float:
    """Accuracy where demos have gold labels: contexts drawn and averaged as the search does."""
    gold = np.array([job.labels.index(word) for word in job.dataset.gold or () if word])
    rng = np.random.default_rng(seed)
    unsure = np.zeros((len(gold), len(job.labels)))
    with ScoreStore.open(store) as kept:
        pieces = await tokenize_pieces(
            job.prompts, job.label_texts, job.task.separator, server, kept
        )
        settings, _ = fit(SweepSettings(), pieces, server)
        if not isinstance(settings, SweepSettings):
            raise TypeError(settings)
        total = np.zeros_like(unsure)
        for _ in range(settings.averaged):
            contexts = fold_contexts(2, gold, unsure, job.problem(), settings=settings, rng=rng)
            folds: list[ScoredFold] = await score_folds(contexts, Scorer(server, kept, pieces))
            for fold in folds:
                total[fold.targets] += fold.calibrated / settings.averaged
    decided = total + estimate_prior(total, None).offsets
    return float((decided.argmax(axis=1) == gold).mean())


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--rows", default=128, show_default=True, type=click.IntRange(8))
@click.option("--draws", default=40, show_default=True, type=click.IntRange(1))
def thresholds(files: tuple[Path, ...], rows: int, draws: int) -> None:
    """Points lost against the best threshold, on kept scores; no model is needed.

    FILES hold `lp`, raw log-probs [contexts, rows, (negative, positive)], and `gold`. Rows are
    drawn from them at each share of positives.
    """
    rng = np.random.default_rng(0)
    console = Console(width=140)
    table = Table(title=f"Points under the best threshold, {rows} rows, {draws} draws")
    for column in ("scores", "contexts", *(f"{share:.0%}" for share in SHARES), "mean", "worst"):
        table.add_column(column, justify="right")
    for path in files or sorted(THRESHOLDS.glob("*.npz")):
        kept = np.load(path)
        for contexts in (1, len(kept["lp"])):
            lost = threshold_losses(kept["lp"][:contexts], kept["gold"], rows, draws, rng)
            table.add_row(
                path.stem,
                str(contexts),
                *(f"{points:.1f}" for points in lost),
                f"{np.mean(lost):.2f}",
                f"{max(lost):.1f}",
            )
    console.print(table)


def threshold_losses(
    log_probs: FloatArray, gold: IntArray, rows: int, draws: int, rng: np.random.Generator
) -> list[float]:
    """Mean points lost at each of `SHARES`, over draws of rows.

    Args:
        log_probs: shape `[contexts, N, 2]`, nats.
        gold: shape `[N]`, 1 for positive.
        rows: in a draw.
        draws: at each share.
        rng: draws the rows.
    """
    of_each = [np.flatnonzero(gold == label) for label in (0, 1)]
    means = []
    for share in SHARES:
        positive = max(2, round(share * rows))
        lost = []
        for _ in range(draws):
            taken = np.concatenate(
                [
                    rng.choice(pool, count, replace=False)
                    for pool, count in zip(of_each, (rows - positive, positive), strict=True)
                ]
            )
            scores = np.mean(
                [pointwise_mutual_information(one[taken]) for one in log_probs], axis=0
            )
            labelled = (scores + estimate_prior(scores, None).offsets).argmax(axis=1)
            best = best_accuracy(scores[:, 1] - scores[:, 0], gold[taken] == 1)
            lost.append(100 * (best - (labelled == gold[taken]).mean()))
        means.append(float(np.mean(lost)))
    return means


SEVERAL = ("0.6,0.3,0.1", "0.7,0.2,0.1", "0.1,0.2,0.7", "0.4,0.3,0.15,0.15", "1,1,1", "1,1,1,1,1")


@click.command()
@click.option("--share", "shares", multiple=True, default=SEVERAL, show_default=True)
@click.option("--noise", "noises", multiple=True, type=float, default=(1.0, 1.5), show_default=True)
@click.option("--rows", default=96, show_default=True, type=click.IntRange(8))
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1))
def several(*, shares: tuple[str, ...], noises: tuple[float, ...], rows: int, seeds: int) -> None:
    """Planted labels of uneven shares, right with even thresholds and with estimated shares.

    Words say 1 nat and demos 3, a row deviates by up to --noise nats a label, and the model prefers
    labels by up to half a nat. Five sweeps are what two labels make at least.
    """
    table = Table(title=f"{rows} planted rows, {seeds} seeds: right with even thresholds, now")
    for column in ("shares", "noise", "five sweeps", "better, worse", "now", "better, worse"):
        table.add_column(column, justify="right")
    for share in shares:
        weights = np.array([float(part) for part in share.split(",")])
        for noise in noises:
            cells = []
            for settings in (SweepSettings(several=0), SweepSettings()):
                runs = [
                    anyio.run(partial(_planted, weights, noise, rows, settings, seed))
                    for seed in range(seeds)
                ]
                even, found = (100 * np.array(one) for one in zip(*runs, strict=True))
                cells += [
                    f"{even.mean():.1f} {found.mean():.1f}",
                    f"{(found > even).sum()} {(found < even).sum()}",
                ]
            table.add_row(share, f"{noise:g}", *cells)
    Console(width=120).print(table)


async def _planted(
    weights: FloatArray, noise: float, rows: int, settings: SweepSettings, seed: int
) -> tuple[float, float]:
    """The share of the labels that is right, with thresholds for even shares and as they are."""
    rng = np.random.default_rng(seed)
    ends = np.round(np.cumsum(weights) / weights.sum() * rows).astype(int)
    classes = rng.permutation(np.searchsorted(ends, np.arange(rows), side="right"))
    prompts = [f"item {item}:" for item in range(rows)]
    concept = PlantedConcept(
        dict(zip(prompts, classes.tolist(), strict=True)),
        [f" {label}" for label in range(len(weights))],
        noise=noise,
        bias=rng.uniform(-0.5, 0.5, len(weights)).tolist(),
        seed=seed,
    )

    async def score(queries: Sequence[Query]) -> FloatArray:
        return np.array(
            [
                concept.label_log_probs(
                    [(prompts[demo.item], demo.label) for demo in query.context],
                    prompts[query.target],
                )
                for query in queries
            ]
        )

    result = await search(Problem(rows, len(weights)), score, settings=settings, rng=rng)
    even = (result.log_probs - result.prior.offsets).argmax(axis=1)
    return float((even == classes).mean()), float((result.labels == classes).mean())
