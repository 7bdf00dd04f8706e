"""What an evaluation compares: methods, seeds, and which rows are held out.

The paper's Figures 1 and 3 on a user's own rows: what a model predicts for held-out rows behind
train rows with ICM's labels, with gold ones, with people's, with random ones, and behind none; and
what models predict that were fine-tuned on these labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from icm_client.coherence.problem import IntArray
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.data.rows import only
from icm_client.errors import InputError
from icm_client.experiments.baselines import Raters, longer_wins, rater_agreement, read_raters
from icm_client.runs.presets import Settings, preset_of

Kind = Literal[
    "majority",
    "longer",
    "zero-shot",
    "zero-shot-calibrated",
    "zero-shot-chat",
    "random",
    "pseudo-labels",
    "icm",
    "same-accuracy",
    "human",
    "golden",
    "finetuned-random",
    "finetuned-icm",
    "finetuned-same-accuracy",
    "finetuned-human",
    "finetuned-golden",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

TAUGHT_BY: Final[Mapping[Kind, Kind]] = {
    "finetuned-random": "random",
    "finetuned-icm": "icm",
    "finetuned-same-accuracy": "same-accuracy",
    "finetuned-human": "human",
    "finetuned-golden": "golden",
}
"""Those that train a model on train rows, and whose labels these bear."""

UNTRAINED: Final[tuple[Kind, ...]] = tuple(kind for kind in KINDS if kind not in TAUGHT_BY)
"""Those that ask the base model only."""

LABEL_SETS: Final[tuple[Kind, ...]] = UNTRAINED[UNTRAINED.index("random") :]
"""Those that label train rows first, and predict test rows behind these labels."""

FIGURE_1: Final[tuple[Kind, ...]] = tuple(kind for kind in KINDS if kind not in LABEL_SETS)
"""The paper's Figure 1: the base model by itself, and models fine-tuned on labels."""

_SEARCHED: Final = ("icm", "same-accuracy", "finetuned-icm", "finetuned-same-accuracy")

FEWEST_ROWS: Final = 8
"""Train rows, and test rows: fewer say nothing."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to predict test rows.

    Attributes:
        kind: which.
        search: ICM's settings, for its labels and for random ones of their accuracy.
    """

    kind: Kind
    search: Settings | None = None

    @property
    def name(self) -> str:
        """What tables and pictures call it; unique within an evaluation."""
        return self.kind if self.search is None else f"{self.kind}-{preset_of(self.search)}"


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A seed's rows, by their numbers; what belongs together stands on one side.

    Attributes:
        train: rows that get labels, rising.
        test: rows that are predicted, rising.
    """

    train: IntArray
    test: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What is to be run.

    Attributes:
        job: the rows, all with gold, and the task.
        methods: in the order in which they are run and shown.
        seeds: of all that is random; each has its own split.
        splits: one a seed.
        units: shape `[rows]`; rows of one number belong together.
        raters: people's labels, where they were asked for.
        chat_prompt: what stands in front of a row for `zero-shot-chat`.
        demos: in a context in front of a test row, at most.
        contexts: that a test row is scored behind, and averaged over.
        notices: what was left out, and why.
    """

    job: Job
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    splits: tuple[Split, ...]
    units: IntArray
    raters: Raters | None
    chat_prompt: str | None
    demos: int
    contexts: int
    notices: tuple[str, ...]

    @property
    def gold(self) -> IntArray:
        """Gold labels, shape `[rows]`."""
        return np.array(
            [self.job.labels.index(word) for word in self.job.dataset.gold or () if word]
        )


def plan_evaluation(
    job: Job,
    *,
    kinds: Iterable[Kind] = UNTRAINED,
    searches: Sequence[Settings] = (SweepSettings(),),
    seeds: Sequence[int] = (0,),
    test: float = 0.5,
    human: str | None = None,
    human_positive: str | None = None,
    chat_prompt: str | None = None,
    demos: int = SweepSettings().demos,
    contexts: int = SweepSettings().averaged,
) -> Evaluation:
    """Decide what is run; nothing is sent.

    Args:
        job: rows with gold, and the task.
        kinds: the methods wanted.
        searches: ICM's settings, one of each preset wanted.
        seeds: at least one, all different.
        test: rows that are held out: a number of them, or under 1 a share.
        human: the field with people's labels (`raters.read_raters`).
        human_positive: the label that ratings above 0 stand for; None takes the task's first one.
        chat_prompt: what stands in front of a row for `zero-shot-chat`; None leaves that out.
        demos: in a context in front of a test row, at most.
        contexts: that are averaged.

    Raises:
        InputError: no row has gold, too few rows on a side, people's labels that cannot be read,
            or no method is left.
    """
    kept = [row for row, word in enumerate(job.dataset.gold or ()) if word is not None]
    if not kept:
        raise InputError(
            "no row has a gold label to compare predictions with: name the field that holds them "
            "with --gold"
        )
    if len(kept) < len(job.dataset.rows):
        job = Job.prepare(only(job.dataset, kept), job.task)
    raters = None if human is None else read_raters(job, human, human_positive)
    wanted = set(kinds)
    methods, notices = [], list(job.notices)
    for kind in KINDS:
        missing = _missing(kind, job, raters, chat_prompt)
        if kind in wanted and missing is not None:
            notices.append(f"no {kind}: {missing}")
        elif kind in wanted:
            searched = searches if kind in _SEARCHED else [None]
            methods += [Method(kind, search) for search in searched]
    if not methods:
        raise InputError(f"nothing to compare: {'; '.join(notices)}")
    if raters is not None:
        notices.append(_raters_notice(job, raters))
    units = units_of(job)
    return Evaluation(
        job,
        tuple(methods),
        tuple(seeds),
        tuple(split_rows(units, test, seed) for seed in seeds),
        units,
        raters,
        chat_prompt,
        demos,
        contexts,
        tuple(notices),
    )


def _missing(kind: Kind, job: Job, raters: Raters | None, chat_prompt: str | None) -> str | None:
    """Why a method cannot be run, or None."""
    if TAUGHT_BY.get(kind, kind) == "human" and raters is None:
        return "no field with people's labels is named (--human)"
    if kind == "zero-shot-chat" and chat_prompt is None:
        return "no text to put in front of the rows is given (--chat-prompt)"
    if kind == "longer" and longer_wins(job, (), np.random.default_rng()) is None:
        return "the rows are no pairs shown in both orders"
    return None


def _raters_notice(job: Job, raters: Raters) -> str:
    agreement = rater_agreement(job, raters)
    said = f"a single person's label agrees with gold in {agreement:.1%} of the rows"
    if agreement < 1 / len(job.labels):
        said += (
            ": less than chance. If they are ratings, say which label those above 0 stand for "
            "with --human-positive"
        )
    return said


def units_of(job: Job) -> IntArray:
    """For each row a number that rows share which must not stand on both sides of a split.

    A rule's groups give their members' labels away, and so do rows that say the same.
    """
    unit = list(range(len(job.dataset.rows)))

    def first(row: int) -> int:
        while unit[row] != row:
            unit[row] = unit[unit[row]]
            row = unit[row]
        return row

    same: dict[str, list[int]] = {}
    for prompt, item in zip(job.prompts, job.items, strict=True):
        same.setdefault(prompt, []).append(item.row)
    related = [[job.items[item].row for item in group] for group in job.constraint.groups]
    for rows in (*same.values(), *related):
        for row in rows[1:]:
            low, high = sorted((first(rows[0]), first(row)))
            unit[high] = low
    return np.array([first(row) for row in range(len(unit))], dtype=np.int64)


def split_rows(units: IntArray, test: float, seed: int) -> Split:
    """Hold out rows at random, units whole; gold has no part in it.

    Args:
        units: shape `[rows]`.
        test: how many rows at most, or under 1 their share.
        seed: decides which.

    Raises:
        InputError: fewer than `FEWEST_ROWS` on a side.
    """
    n_rows = len(units)
    wanted = round(test * n_rows) if test < 1 else int(test)
    members: dict[int, list[int]] = {}
    for row, unit in enumerate(units.tolist()):
        members.setdefault(unit, []).append(row)
    numbers = np.random.default_rng((seed, 10)).permutation(list(members))
    held_out: list[int] = []
    for unit in numbers.tolist():
        if len(held_out) + len(members[unit]) <= wanted:
            held_out += members[unit]
    train = set(range(n_rows)) - set(held_out)
    if min(len(held_out), len(train)) < FEWEST_ROWS:
        raise InputError(
            f"of {n_rows} rows with gold, {len(train)} to train on and {len(held_out)} held out "
            f"(related rows stay together): at least {FEWEST_ROWS} are needed on each side. "
            "Change --test, or take more rows"
        )
    return Split(np.array(sorted(train)), np.array(sorted(held_out)))


def fewest_and_most_reads(evaluation: Evaluation, method: Method) -> tuple[int, int] | None:
    """Reads that a method takes in all seeds if nothing is stored; None where nobody knows before.

    Labels of several tokens take more. The two zero-shot methods ask the same, so the second one
    finds it read; and ICM searches once, also where random labels of its accuracy are compared.
    """
    first = next(one for one in evaluation.methods if one.search == method.search)
    fewest = most = 0
    pairs = len(evaluation.job.items) // len(evaluation.job.dataset.rows)
    for split in evaluation.splits:
        behind = len(split.test) * evaluation.contexts
        if method.kind in ("majority", "longer"):
            continue
        if method.kind not in LABEL_SETS:
            behind = len(split.test)
        low = high = 0
        if method.kind == "pseudo-labels":
            low = high = len(split.train)
        elif method.search is not None and method == first:
            if not isinstance(method.search, SweepSettings):
                return None
            items = len(split.train) * pairs
            low = items * method.search.min_sweeps
            high = items * method.search.max_sweeps * method.search.restarts
        fewest, most = fewest + behind + low, most + behind + high
    return fewest, most
