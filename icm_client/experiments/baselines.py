"""What ICM's labels are compared with: other labels of train rows, other predictions of test rows.

Gold labels are an argument of `majority` and `with_errors` alone. Human labels come from a field of
the rows that is not the gold field; no prompt may show it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from icm_client.coherence.calibration import log_softmax, pointwise_mutual_information
from icm_client.coherence.constraints import Asymmetry
from icm_client.coherence.contexts import draw_demos, score_folds
from icm_client.coherence.label_prior import offsets_for_prior
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray, Query, Score
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.rows import check_field, path_of
from icm_client.data.values import Unusable, kind_of
from icm_client.errors import InputError, RowError
from icm_client.runs.labels_file import put

CONFIDENT: Final = 0.5
"""The share of each label's rows, the most confident ones, that become pseudo-labels."""

HumanLabels = tuple[tuple[int, ...], ...]
"""For each row the label number that each of its annotators gave; empty where none did."""

_TWO = 2


def random_labels(n_rows: int, n_labels: int, rng: np.random.Generator) -> IntArray:
    """Labels drawn uniformly, shape `[n_rows]`."""
    return rng.integers(n_labels, size=n_rows)


def with_errors(gold: IntArray, wrong: int, n_labels: int, rng: np.random.Generator) -> IntArray:
    """Gold labels with `wrong` random ones replaced by another label.

    The paper's random labels of the same accuracy as ICM's.

    Args:
        gold: shape `[n]`.
        wrong: how many labels to replace.
        n_labels: `K`.
        rng: draws the rows and their new labels.
    """
    labels = gold.copy()
    rows = rng.permutation(len(gold))[:wrong]
    labels[rows] = (gold[rows] + rng.integers(1, n_labels, size=len(rows))) % n_labels
    return labels


def confident_labels(scores: FloatArray, share: float = CONFIDENT) -> IntArray:
    """Each row's best label where the model is confident, `UNLABELLED` elsewhere: pseudo-labels.

    Args:
        scores: calibrated, shape `[n, K]`, nats.
        share: of the rows of each label, how many stay labelled: those of the highest probability.
    """
    best = best_labels(scores)
    confidence = log_softmax(scores).max(axis=1)
    labels = np.full(len(scores), UNLABELLED, dtype=np.int64)
    for label in range(scores.shape[1]):
        rows = np.flatnonzero(best == label)
        kept = rows[np.argsort(-confidence[rows], kind="stable")][: int(np.ceil(share * len(rows)))]
        labels[kept] = label
    return labels


def majority(gold: IntArray, n_labels: int) -> int:
    """The most frequent label of the train rows; the first of several."""
    return int(np.bincount(gold, minlength=n_labels).argmax())


def longer_wins(job: Job, rows: Sequence[int], rng: np.random.Generator) -> IntArray | None:
    """Predict of each pair that its longer text is better; None where the rows are not pairs.

    The constraint's true label is taken to mean that the text named first in the template is
    better. Texts of equal length are decided at random.

    Args:
        job: its task must show pairs in both orders, under an asymmetry constraint.
        rows: the rows to predict.
        rng: decides between texts of equal length.
    """
    if job.task.exchange is None or not isinstance(job.constraint, Asymmetry):
        return None
    first, second = sorted(job.task.exchange, key=job.task.template_fields.index)
    labels = []
    for row in rows:
        fields = job.dataset.rows[row].fields
        longer = len(str(fields[first])) - len(str(fields[second])) or int(rng.choice((-1, 1)))
        labels.append(job.constraint.true if longer > 0 else job.constraint.false)
    return np.array(labels, dtype=np.int64)


def item_labels(job: Job, labels: IntArray) -> IntArray:
    """Labels of items from labels of rows: a pair's other order gets the label that agrees.

    Args:
        job: rows and items.
        labels: shape `[rows]`, `UNLABELLED` where a row has none.

    Returns:
        Shape `[items]`; a pair's other order stays `UNLABELLED` where no rule decides its label.
    """
    of_items = np.full(len(job.items), UNLABELLED, dtype=np.int64)
    for item, label in zip(job.row_items.tolist(), labels.tolist(), strict=True):
        if label != UNLABELLED:
            put(item, label, of_items, job)
    return of_items


def best_labels(scores: FloatArray) -> IntArray:
    """The label with the highest score, the first of several; shape `[n]`."""
    best: IntArray = scores.argmax(axis=1)
    return best


async def zero_shot(targets: IntArray, score: Score) -> FloatArray:
    """Log-probs without demos, shape `[n, K]`, nats."""
    return await score([Query((), int(item)) for item in targets])


def calibrated(log_probs: FloatArray, prior: FloatArray | None) -> FloatArray:
    """The same with the label bias removed: each label's mean probability over these targets.

    Args:
        log_probs: shape `[n, K]`, nats, all in one context.
        prior: shape `[K]`, the labels' shares where the user knows them.
    """
    return _with_prior(pointwise_mutual_information(log_probs), prior)


async def in_context(
    labels: IntArray,
    targets: IntArray,
    score: Score,
    *,
    n_labels: int,
    demos: int,
    contexts: int,
    prior: FloatArray | None,
    rng: np.random.Generator,
) -> FloatArray:
    """Calibrated scores given labelled demos, averaged over contexts: many-shot prediction.

    A context holds equally many demos of each label, in random order.

    Args:
        labels: shape `[items]`; those that are not `UNLABELLED` may be demos.
        targets: the items to score; none of them is labelled.
        score: reads log-probs.
        n_labels: `K`.
        demos: at most so many in a context.
        contexts: how many are averaged.
        prior: shape `[K]`, the labels' shares where the user knows them.
        rng: draws the demos.

    Returns:
        Shape `[targets, K]`, nats.

    Raises:
        ValueError: a target is labelled.
        EndpointError, ScoreError, StoreError: whatever `score` raises.
    """
    pool = np.flatnonzero(labels != UNLABELLED)
    if np.isin(targets, pool).any():
        raise ValueError("a target has a label, which would stand in its own context")
    unsure = np.zeros(len(labels))
    drawn = [
        draw_demos(labels, pool, unsure, size=demos, keep=1.0, n_labels=n_labels, rng=rng)
        for _ in range(contexts)
    ]
    folds = await score_folds([(context, targets) for context in drawn], score)
    return _with_prior(np.mean([fold.calibrated for fold in folds], axis=0), prior)


def _with_prior(scores: FloatArray, prior: FloatArray | None) -> FloatArray:
    return scores if prior is None else scores + offsets_for_prior(scores, prior)


def read_human_labels(job: Job, field: str, positive: str | None = None) -> HumanLabels:
    """Read the labels that annotators gave each row.

    The field holds a label word, a rating, or a list of words or ratings, one an annotator. A
    rating above 0 stands for the label `positive`, below 0 for the other one, and 0 or null for
    neither.

    Args:
        job: rows and labels.
        field: the field's name.
        positive: the label that ratings above 0 stand for; None stands for the task's first one.

    Raises:
        InputError: the field is the gold one, is shown in the prompt, or is in no row; or
            `positive` is not a label.
        RowError: a value is neither a label word nor a rating, or is a rating although there are
            more than two labels.
    """
    _check_field(job, field)
    if positive is not None and positive not in job.labels:
        raise InputError(
            f"{shown(positive)}, which ratings above 0 are to stand for, is none of the labels "
            f"{listed(job.labels)}.{did_you_mean(positive, job.labels)}"
        )
    numbered = {word: number for number, word in enumerate(job.labels)}
    words = {word.casefold(): number for word, number in numbered.items()} | numbered
    above = job.labels.index(positive or job.task.labels[0])
    human = []
    for row in job.dataset.rows:
        try:
            human.append(tuple(_given(row.fields.get(field), job.labels, words, above)))
        except Unusable as problem:
            raise RowError(
                f"the field of human labels, {shown(field)}, holds {problem}",
                path=path_of(job.dataset, row),
                line=row.line,
            ) from None
    if not any(human):
        raise InputError(f"no row has a human label in the field {shown(field)}")
    return tuple(human)


def one_annotator_each(human: HumanLabels, rng: np.random.Generator) -> IntArray:
    """For each row the label of one of its annotators, drawn; `UNLABELLED` where it has none."""
    drawn = [rng.integers(len(given)) if given else 0 for given in human]
    return np.array(
        [given[one] if given else UNLABELLED for given, one in zip(human, drawn, strict=True)],
        dtype=np.int64,
    )


def annotator_agreement(job: Job, human: HumanLabels) -> float:
    """Mean over rows of the share of a row's annotators who gave its gold label."""
    shares = [
        sum(job.labels[one] == word for one in given) / len(given)
        for given, word in zip(human, job.dataset.gold or (), strict=True)
        if given
    ]
    return sum(shares) / len(shares)


def _check_field(job: Job, field: str) -> None:
    if field == job.dataset.gold_field:
        raise InputError(f"{shown(field)} is the gold field: name another one for human labels")
    if field in job.task.template_fields:
        raise InputError(
            f"the template shows {shown(field)}, so the model would read the human labels. Take "
            "it out of the template, or name another field"
        )
    check_field(job.dataset, field, ", which should hold human labels; there are")


def _given(
    value: JsonValue, labels: tuple[str, ...], words: Mapping[str, int], above: int
) -> Iterable[int]:
    """The label numbers that a field's value stands for."""
    for one in value if isinstance(value, list) else [value]:
        if one is None or one == "":
            continue
        if isinstance(one, str):
            label = words.get(one, words.get(one.strip().casefold()))
            if label is None:
                raise Unusable(
                    f"{shown(one)}, which is none of the labels {listed(labels)}."
                    f"{did_you_mean(one, labels)}"
                )
            yield label
        elif isinstance(one, int | float) and not isinstance(one, bool):
            if len(labels) != _TWO:
                raise Unusable(
                    f"the rating {one}: the sign of a rating tells two labels apart, and there are "
                    f"{len(labels)}. Write label words instead"
                )
            if one:
                yield above if one > 0 else 1 - above
        else:
            raise Unusable(
                f"{kind_of(one)} ({shown(one)}): it must be a label word, a rating, or a list of "
                "either"
            )
