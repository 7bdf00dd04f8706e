"""How well a probe's score foretells a run: `scripts/bench salience`.

Planted concepts, from too weak to plain, are probed and run in this process. Real tasks are probed
and run with gemma-3-270m on the embedded server; `--store` keeps every score, so that what was run
once is printed again in seconds. A run beats chance where its accuracy is 75% or more, names
exchanged where that is better.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
import click
import numpy as np
from bench_salience_tasks import RealTask, real_tasks
from rich.console import Console
from rich.table import Table

from icm_client import EmbeddedEndpoint, SweepSettings, label
from icm_client.coherence.fast import search
from icm_client.coherence.problem import FloatArray, Problem, Query
from icm_client.experiments.salience import FEWEST, Salience, judge, read_salience, salience
from icm_client.testing import PlantedConcept

BEATS_CHANCE = 0.75
ROWS = 64
STRENGTH, NOISE, MEANING, WAVER = 2.5, (0.1, 2.0), 2.0, 2.0
"""Of planted concepts: the most, nats; half of them have words without a meaning."""

EMPTY = 0.25
"""The share of planted tasks that hold no concept at all."""

SHRUNK = 1.0
"""Of the fit: the ridge on standardised features."""


class Tried(NamedTuple):
    """A task that was probed and run.

    Attributes:
        name: of the task; draws of the same rows differ after a comma.
        found: by the probe.
        accuracy: of the run, names exchanged where that is better.
        coherence: of the run.
        share: the probe's tokens as a share of a usual run's; real ones only.
        again: the score of another sample's probe; planted ones only.
        silent: whether the labels' words say nothing; planted ones only.
    """

    name: str
    found: Salience
    accuracy: float
    coherence: float
    share: float | None = None
    again: float | None = None
    silent: bool = False

    @property
    def beats_chance(self) -> bool:
        """Whether the run found the concept."""
        return self.accuracy >= BEATS_CHANCE


class WaveringScore:
    """A planted concept whose log-odds also waver from context to context, as a model's do."""

    def __init__(self, seed: int) -> None:
        chance = np.random.default_rng((77, seed))
        strength = float(chance.uniform(0, STRENGTH))
        meaning = float(chance.uniform(0, MEANING)) if chance.random() < 0.5 else 0.0  # noqa: PLR2004
        if chance.random() < EMPTY:
            strength = meaning = 0.0
        self.silent = meaning == 0
        noise = float(chance.uniform(*NOISE))
        self.classes = chance.permutation(np.arange(ROWS) % 2)
        self._waver = float(chance.uniform(0, WAVER))
        self._prompts = [f"row {number}" for number in range(ROWS)]
        self._concept = PlantedConcept(
            dict(zip(self._prompts, self.classes.tolist(), strict=True)),
            (" a", " b"),
            strength=strength,
            meaning=meaning,
            bias=(0.0, float(chance.normal())),
            noise=noise,
            seed=seed,
        )

    async def __call__(self, queries: Sequence[Query]) -> FloatArray:
        """As `Score`."""
        return np.array([self._answer(query) for query in queries])

    def _answer(self, query: Query) -> FloatArray:
        demos = [(self._prompts[item], label) for item, label in query.context]
        answer = np.array(self._concept.label_log_probs(demos, self._prompts[query.target]))
        told = np.random.default_rng([*np.ravel(query.context).astype(int), query.target, 1])
        answer[0] += self._waver * told.normal() * bool(demos)
        shifted: FloatArray = answer - np.logaddexp(*answer)
        return shifted


@click.command(name="salience")
@click.option("--planted", "count", default=200, show_default=True, type=click.IntRange(0))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A folder as examples/make_samples.py takes it, for more tasks.",
)
@click.option("--only", multiple=True, help="A real task's name.  [default: all]")
@click.option("--draws", default=1, show_default=True, help="Draws of each real task's rows.")
@click.option("--store", type=click.Path(path_type=Path), help="[default: a temporary file]")
@click.option("--fit", "fits", is_flag=True, help="Print the weights that these tasks would give.")
def salience_bench(
    *,
    count: int,
    data: Path | None,
    only: tuple[str, ...],
    draws: int,
    store: Path | None,
    fits: bool,
) -> None:
    """Score and outcome of planted and real tasks, and the AUC of the one for the other."""
    tasks = [task for task in real_tasks(data) if not only or task.name in only]
    with tempfile.TemporaryDirectory() as folder:
        real = anyio.run(_real, tasks, draws, store or Path(folder) / "scores.sqlite3")
    planted = anyio.run(_planted, count)
    console = Console(width=120)
    if real:
        console.print(_table(real))
    _print_aucs(console, planted, real)
    if fits:
        weights = fit(planted, real)
        console.print(f"intercept and weights: {np.round(weights, 3).tolist()}")


async def _planted(count: int) -> list[Tried]:
    tried = []
    for seed in range(count):
        score = WaveringScore(seed)
        result = await search(
            Problem(ROWS, 2), score, rng=np.random.default_rng(seed), settings=SweepSettings()
        )
        right = float((result.labels == score.classes).mean())
        found, other = [await _probed(score, number, seed) for number in range(2)]
        tried.append(
            Tried(
                f"planted {seed}",
                found,
                max(right, 1 - right),
                result.coherence,
                again=other.score,
                silent=score.silent,
            )
        )
    return tried


async def _probed(score: WaveringScore, number: int, seed: int) -> Salience:
    """Judge by a sample of its own; the second one shares no row with the first."""
    places = np.random.default_rng((3, seed)).permutation(ROWS)[number * FEWEST :][:FEWEST]

    async def of_sample(queries: Sequence[Query]) -> FloatArray:
        return await score(
            [
                Query(
                    tuple(demo._replace(item=int(places[demo.item])) for demo in query.context),
                    int(places[query.target]),
                )
                for query in queries
            ]
        )

    return judge(await read_salience(FEWEST, of_sample, rng=np.random.default_rng(seed)))


async def _real(tasks: Sequence[RealTask], draws: int, store: Path) -> list[Tried]:
    tried = []
    for task in tasks:
        for seed in range(draws):
            rows = task.drawn(ROWS, seed)
            hidden = [{key: row[key] for key in row if key != "label"} for row in rows]
            async with EmbeddedEndpoint() as server:
                probe = await salience(
                    hidden, task=task.task, endpoint=server, seed=seed, store=store
                )
                found = await label(
                    rows, task=task.task, endpoint=server, gold="label", seed=seed, store=store
                )
            right = found.accuracy or 0.0
            tried.append(
                Tried(
                    f"{task.name}, {len(rows)} rows",
                    probe.found,
                    max(right, 1 - right),
                    found.coherence,
                    probe.share,
                )
            )
    return tried


def _table(real: Sequence[Tried]) -> Table:
    table = Table(title="real tasks, gemma-3-270m embedded")
    for column in (
        *("task", "score", "90%", "verdict", "first", "second", "words"),
        *("accuracy", "coherence", "share"),
    ):
        table.add_column(column)
    for one in sorted(real, key=lambda one: -one.found.score):
        low, high = one.found.interval
        features = one.found.features
        table.add_row(
            one.name,
            f"{one.found.score:.2f}",
            f"{low:.2f}-{high:.2f}",
            one.found.verdict,
            f"{features.first:.2f}",
            f"{features.second:.2f}",
            f"{features.words:+.1f}",
            f"{one.accuracy:.1%}",
            f"{one.coherence:.0%}",
            f"{one.share:.0%}",
        )
    return table


def _print_aucs(console: Console, planted: Sequence[Tried], real: Sequence[Tried]) -> None:
    kinds = {"planted": planted, "real": real}
    for name, tried in ((name, tried) for name, tried in kinds.items() if tried):
        beat = [one for one in tried if one.beats_chance]
        if not 0 < len(beat) < len(tried):
            console.print(f"{name}: {len(beat)} of {len(tried)} beat chance: no AUC")
            continue
        scores = [one.found.score for one in tried]
        console.print(
            f"{name}: {len(beat)} of {len(tried)} beat chance, AUC {auc(scores, tried):.3f}, "
            f"fitted without each one {auc(left_out(planted, real, name), tried):.3f}, "
            f"by the coherence of the run itself {auc([one.coherence for one in tried], tried):.3f}"
        )
        for verdict in ("likely", "unclear", "unlikely"):
            said = [one for one in tried if one.found.verdict == verdict]
            right = sum(one.beats_chance for one in said)
            console.print(f"  {verdict}: {len(said)}, of which {right} beat chance")
    for words, silent in (("have a meaning", False), ("say nothing", True)):
        some = [one for one in planted if one.silent is silent]
        number = sum(one.beats_chance for one in some)
        if 0 < number < len(some):
            area = auc([one.found.score for one in some], some)
            console.print(f"planted, words {words}: {number} of {len(some)}, AUC {area:.3f}")
    twice = [one for one in planted if one.again is not None]
    inside = [one.found.interval[0] <= (one.again or 0) <= one.found.interval[1] for one in twice]
    if twice:
        console.print(f"planted: another sample's score is in the interval {np.mean(inside):.0%}")


def auc(scores: Sequence[float], tried: Sequence[Tried]) -> float:
    """How often a task that beats chance has the higher score, of all pairs with one that not."""
    beats = np.array([one.beats_chance for one in tried])
    values = np.array(scores)
    higher, lower = values[beats][:, np.newaxis], values[~beats]
    return float((higher > lower).mean() + (higher == lower).mean() / 2)


def left_out(planted: Sequence[Tried], real: Sequence[Tried], name: str) -> list[float]:
    """Each one's log-odds by weights fitted to all others (real: to all other tasks)."""
    tried = real if name == "real" else planted
    scores = []
    for one in tried:
        others = [other for other in tried if _task_of(other) != _task_of(one)]
        weights = fit(*((planted, others) if name == "real" else (others, real)))
        scores.append(float(weights[0] + one.found.features.vector() @ weights[1:]))
    return scores


def _task_of(one: Tried) -> str:
    return one.name.partition(",")[0]


def fit(planted: Sequence[Tried], real: Sequence[Tried]) -> FloatArray:
    """Intercept and weights of a ridge logistic regression; planted and real weigh the same."""
    tried = [*planted, *real]
    shares = [len(tried) / (2 * max(len(kind), 1)) for kind in (planted, real) for _ in kind]
    weights = np.array(shares)
    values = np.array([one.found.features.vector() for one in tried])
    beats = np.array([float(one.beats_chance) for one in tried])
    mean, spread = values.mean(axis=0), values.std(axis=0)
    design = np.column_stack([np.ones(len(tried)), (values - mean) / spread])
    ridge = SHRUNK * np.diag([0.0, *np.ones(len(spread))])
    found = np.zeros(design.shape[1])
    for _ in range(30):  # Newton's method; the ridge keeps it from running away
        expected = 1 / (1 + np.exp(-design @ found))
        slope = design.T @ (weights * (beats - expected)) - ridge @ found
        curve = (design * (weights * expected * (1 - expected))[:, np.newaxis]).T @ design + ridge
        found = found + np.linalg.solve(curve, slope)
    plain: FloatArray = np.array([found[0] - found[1:] @ (mean / spread), *(found[1:] / spread)])
    return plain
