"""What an evaluation compares: methods, seeds, and which rows are held out.

The paper's Figures 1 and 3 on a user's own rows: what a model predicts of held-out rows in context,
given train rows with ICM's labels, with simpler methods' ones, with gold, human or random ones, and
zero-shot; and what models predict that were fine-tuned on these labels. `evaluation_run` runs it,
`evaluation_results` has the figures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from icm_client.coherence.contexts import REPEATED
from icm_client.coherence.problem import IntArray
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.simple import FewShotSettings
from icm_client.data.items import connected
from icm_client.data.job import Job
from icm_client.data.rows import only
from icm_client.errors import InputError
from icm_client.experiments.baselines import (
    HumanLabels,
    annotator_agreement,
    longer_wins,
    read_human_labels,
)
from icm_client.runs.presets import Settings, preset_of

Kind = Literal[
    "majority",
    "longer",
    "zero-shot",
    "zero-shot-calibrated",
    "zero-shot-chat",
    "random",
    "bootstrap",
    "pseudo-labels",
    "icm",
    "same-accuracy",
    "human",
    "golden",
    "finetuned-random",
    "finetuned-bootstrap",
    "finetuned-icm",
    "finetuned-same-accuracy",
    "finetuned-human",
    "finetuned-golden",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

TAUGHT_BY: Final[Mapping[Kind, Kind]] = {
    "finetuned-random": "random",
    "finetuned-bootstrap": "bootstrap",
    "finetuned-icm": "icm",
    "finetuned-same-accuracy": "same-accuracy",
    "finetuned-human": "human",
    "finetuned-golden": "golden",
}
"""Methods that train a model, and the method whose labels it is trained on."""

UNTRAINED: Final[tuple[Kind, ...]] = tuple(kind for kind in KINDS if kind not in TAUGHT_BY)
"""Methods that ask the base model only."""

LABEL_SETS: Final[tuple[Kind, ...]] = UNTRAINED[UNTRAINED.index("random") :]
"""Methods that label train rows, and predict test rows in context, given these labels."""

FIGURE_1: Final[tuple[Kind, ...]] = tuple(kind for kind in KINDS if kind not in LABEL_SETS)
"""The paper's Figure 1: the base model zero-shot, and models fine-tuned on labels."""

_SEARCHED: Final = ("icm", "same-accuracy", "finetuned-icm", "finetuned-same-accuracy")
"""Methods that use ICM's labels or their accuracy: one for each search wanted."""

FEWEST_ROWS: Final = 8
"""The fewest train rows, and the fewest test rows, that are of any use."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to predict test rows.

    Attributes:
        kind: which one.
        search: settings of the search whose labels, or whose labels' accuracy, the method uses.
    """

    kind: Kind
    search: Settings | None = None

    @property
    def name(self) -> str:
        """Its name in tables and pictures; unique within an evaluation."""
        if self.search is None or self.kind not in _SEARCHED:
            return self.kind
        return f"{self.kind}-{preset_of(self.search)}"


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A seed's rows, as ascending row numbers; related rows are on the same side.

    Attributes:
        train: rows that get labels.
        test: rows that are predicted.
    """

    train: IntArray
    test: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A plan: what is to be run.

    Attributes:
        job: the rows, all with gold, and the task.
        methods: in the order in which they are run and shown.
        seeds: each has its own split, and draws its own labels and contexts.
        splits: one a seed.
        units: shape `[rows]`; rows with the same number are related.
        human: human labels, where they are compared.
        chat_prompt: the text before a row for `zero-shot-chat`.
        demos: the most in a context before a test row.
        contexts: how many each test row is scored in; the scores are averaged.
        notices: what was left out, and why.
    """

    job: Job
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    splits: tuple[Split, ...]
    units: IntArray
    human: HumanLabels | None
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
    """Decide what is run; no request is sent.

    Args:
        job: rows with gold, and the task.
        kinds: the methods wanted.
        searches: ICM's settings, one for each preset wanted.
        seeds: at least one, all different.
        test: rows to hold out: a number of them, or a share if under 1.
        human: the field with human labels (`baselines.read_human_labels`).
        human_positive: the label that ratings above 0 stand for; None stands for the task's first.
        chat_prompt: the text before a row for `zero-shot-chat`; None leaves that method out.
        demos: the most in a context before a test row.
        contexts: how many are averaged.

    Raises:
        InputError: no row has gold, a side has too few rows, the human labels cannot be read, or
            no method is left.
    """
    kept = [row for row, word in enumerate(job.dataset.gold or ()) if word is not None]
    if not kept:
        raise InputError(
            "no row has a gold label to compare predictions with: name the field that holds them "
            "with --gold"
        )
    if len(kept) < len(job.dataset.rows):
        job = Job.prepare(only(job.dataset, kept), job.task)
    annotated = None if human is None else read_human_labels(job, human, human_positive)
    wanted = set(kinds)
    methods, notices = [], [*job.warnings, *job.notices]
    for kind in KINDS:
        missing = _missing(kind, job, annotated, chat_prompt)
        if kind in wanted and missing is not None:
            notices.append(f"{kind} is left out: {missing}")
        elif kind in wanted and kind in _SEARCHED:
            methods += [Method(kind, search) for search in searches]
        elif kind in wanted:
            bootstraps = TAUGHT_BY.get(kind, kind) == "bootstrap"
            methods.append(Method(kind, FewShotSettings(demos=demos) if bootstraps else None))
    if not methods:
        raise InputError(f"nothing to compare: {'; '.join(notices)}")
    if annotated is not None:
        notices.append(_agreement_notice(job, annotated))
    units = units_of(job)
    return Evaluation(
        job,
        tuple(methods),
        tuple(seeds),
        tuple(split_rows(units, test, seed) for seed in seeds),
        units,
        annotated,
        chat_prompt,
        demos,
        contexts,
        tuple(notices),
    )


def _missing(kind: Kind, job: Job, human: HumanLabels | None, chat: str | None) -> str | None:
    """Why a method cannot be run, or None."""
    if TAUGHT_BY.get(kind, kind) == "human" and human is None:
        return "name the field with human labels (--human)"
    if kind == "zero-shot-chat" and chat is None:
        return "give the text that stands before each row (--chat-prompt)"
    if kind == "longer" and longer_wins(job, (), np.random.default_rng()) is None:
        return "the rows are not pairs shown in both orders"
    return None


def _agreement_notice(job: Job, human: HumanLabels) -> str:
    agreement = annotator_agreement(job, human)
    notice = f"a single annotator agrees with gold in {agreement:.1%} of the rows"
    if agreement < 1 / len(job.labels):
        notice += (
            ", less than chance. If the labels are ratings, say with --human-positive which label "
            "those above 0 stand for"
        )
    return notice


def units_of(job: Job) -> IntArray:
    """Number the rows so that related ones share a number, shape `[rows]`.

    Members of a rule's group give each other's labels away, and so do rows with the same prompt:
    they must be on the same side of a split.
    """
    same: dict[str, list[int]] = {}
    for prompt, item in zip(job.prompts, job.items, strict=True):
        same.setdefault(prompt, []).append(item.row)
    grouped = [[job.items[item].row for item in group] for group in job.constraint.groups]
    return connected(len(job.dataset.rows), [*same.values(), *grouped])


def split_rows(units: IntArray, test: float, seed: int) -> Split:
    """Hold out random rows, related ones together; gold labels play no part.

    Args:
        units: shape `[rows]`.
        test: at most so many rows, or a share of them if under 1.
        seed: of the draw.

    Raises:
        InputError: a side has fewer than `FEWEST_ROWS` rows.
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
            f"at least {FEWEST_ROWS} rows are needed on each side of the split: change --test, or "
            f"take more rows ({n_rows} rows with gold: {len(train)} to train on, {len(held_out)} "
            "held out; related rows stay together)"
        )
    return Split(np.array(sorted(train)), np.array(sorted(held_out)))


def fewest_and_most_reads(evaluation: Evaluation, method: Method) -> tuple[int, int] | None:
    """Log-probs that a method reads over all seeds if nothing is stored; None where unknown.

    Labels of several tokens take more. Methods that share reads are counted as if each were run
    alone, except that methods with the same search share it.
    """
    if method.kind in ("majority", "longer"):
        return 0, 0
    first = next(one for one in evaluation.methods if one.search == method.search)
    search = method.search if method == first else None
    passes: tuple[int, int]
    match search:
        case None:
            passes = 0, 0
        case SweepSettings():
            passes = search.min_sweeps, search.max_sweeps * search.restarts
        case FewShotSettings():
            # At the end rows are read again with the labels' names exchanged, in up to K ways.
            n_labels = len(evaluation.job.labels)
            ways = n_labels if n_labels > 2 else 1  # noqa: PLR2004
            passes = search.rounds + 1, search.rounds + 1 + ways
        case _:
            return None
    orders = len(evaluation.job.items) // len(evaluation.job.dataset.rows)
    fewest = most = 0
    for split in evaluation.splits:
        reads = len(split.test) * (evaluation.contexts if method.kind in LABEL_SETS else 1)
        if method.kind == "pseudo-labels":
            reads += len(split.train)
        sweep = len(split.train) * orders
        fewest += reads + sweep * passes[0]
        most += reads + sweep * passes[1] + (REPEATED if search else 0)
    return fewest, most
