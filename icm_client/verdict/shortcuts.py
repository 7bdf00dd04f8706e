"""Do shortcut features, such as length or a single word, explain the labels?

A model can agree with itself on "the longer one" as well as on what was meant. So a small model
predicts the labels found from cheap features of the rows' texts, on rows that it was not fitted to.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from icm_client.coherence.problem import BoolArray, FloatArray, IntArray
from icm_client.verdict.findings import Finding

EXPLAINS = 0.95
"""`surface-feature` is found from this balanced accuracy of one feature on."""

TOGETHER = 0.85
"""`surface-features` is found from this balanced accuracy of all features together on. It is only a
note, for words such as "good" and "bad" rightly tell a part of many concepts."""

ROWS_READ = 1000
"""Of more rows a seeded sample is read."""

_FEWEST = 10  # rows of a label: something or other explains fewer
_KEYWORDS = 50
_FOLDS = 5
_SHUFFLES = 20
_RIDGE = 1.0
_NEWTON_STEPS = 8
_LARGEST_LOGIT = 30.0  # exp does not overflow, and no probability is 0 or 1
_WORD = re.compile(r"\w+(?:'\w+)?")

_SHALLOW: dict[str, Callable[[str], float]] = {
    "length": len,
    "number of words": lambda text: len(text.split()),
    "number of digits": lambda text: sum(map(str.isdigit, text)),
    "punctuation": lambda text: len(re.findall(r"[^\w\s]", text)),
    "share of capitals": lambda text: sum(map(str.isupper, text)) / max(len(text), 1),
    "number of lines": lambda text: text.count("\n"),
}


@dataclass(frozen=True, slots=True)
class Explained:
    """How well cheap features predict one label on rows that they were not fitted to.

    Attributes:
        label: against all others.
        feature: the best single one.
        alone: its balanced accuracy.
        alone_by_chance: the best balanced accuracy of any single one for shuffled labels.
        together: balanced accuracy of all features, by a ridge-regularised logistic model.
        together_by_chance: the best of it for shuffled labels.
    """

    label: int
    feature: str
    alone: float
    alone_by_chance: float
    together: float
    together_by_chance: float


def shortcut_findings(
    texts: Sequence[tuple[str, ...]], held: IntArray, labels: Sequence[str]
) -> list[Finding]:
    """Do shortcut features explain a label? One finding at most.

    Args:
        texts: a row's text, or the two of a pair; shape `[rows]`.
        held: the labels found, shape `[rows]`, no row without one.
        labels: the label words, shape `[K]`.
    """
    found = explained(texts, held, len(labels))
    if not found:
        return []
    best = max(found, key=lambda one: one.alone)
    if best.alone >= EXPLAINS and best.alone > best.alone_by_chance:
        message = (
            f"One shortcut feature, {best.feature}, tells {labels[best.label]!r} from the rest: it "
            "may be all that was found."
        )
        advice = (
            "Look at rows where the feature and the label you would give differ. If it is not what "
            "you mean, balance the rows over it, or use label words that say what is meant."
        )
        figures = (
            f"Balanced accuracy {best.alone:.0%} on unseen rows; with shuffled labels at most "
            f"{best.alone_by_chance:.0%}"
        )
        return [Finding("surface-feature", message, advice, "check", figures)]
    best = max(found, key=lambda one: one.together)
    if best.together >= TOGETHER and best.together > best.together_by_chance:
        message = (
            f"Length, punctuation and frequent words together tell {labels[best.label]!r} from the "
            "rest."
        )
        advice = "Nothing needs to be done if such words are a part of what is meant."
        figures = (
            f"Balanced accuracy {best.together:.0%} on unseen rows; with shuffled labels at most "
            f"{best.together_by_chance:.0%}; the best alone, {best.feature}: {best.alone:.0%}"
        )
        return [Finding("surface-features", message, advice, "note", figures)]
    return []


def explained(
    texts: Sequence[tuple[str, ...]], held: IntArray, n_labels: int
) -> tuple[Explained, ...]:
    """Return how well features explain each label; labels of too few rows are left out.

    Shuffled labels are only tried where there is something to explain away.
    """
    rng = np.random.default_rng(0)
    if len(held) > ROWS_READ:
        drawn = np.sort(rng.choice(len(held), ROWS_READ, replace=False))
        texts, held = [texts[row] for row in drawn], held[drawn]
    counts = np.bincount(held, minlength=n_labels)
    asked = [1] if n_labels == 2 else range(n_labels)  # noqa: PLR2004 - the other one mirrors it
    asked = [label for label in asked if _FEWEST <= counts[label] <= len(held) - _FEWEST]
    if not asked:
        return ()
    values, names = features(texts)
    if not names:
        return ()
    found = []
    for label in asked:
        is_label: BoolArray = held == label
        alone, together = _alone(values, is_label, rng), _together(values, is_label, rng)
        by_chance = together_by_chance = 0.0
        if alone.max() >= EXPLAINS or together >= TOGETHER:
            for _ in range(_SHUFFLES):
                shuffled = rng.permutation(is_label)
                by_chance = max(by_chance, float(_alone(values, shuffled, rng).max()))
                together_by_chance = max(together_by_chance, _together(values, shuffled, rng))
        best = int(alone.argmax())
        found.append(
            Explained(
                label, names[best], float(alone[best]), by_chance, together, together_by_chance
            )
        )
    return tuple(found)


def features(texts: Sequence[tuple[str, ...]]) -> tuple[FloatArray, list[str]]:
    """Return cheap features, `[rows, p]`, and their names, without those alike in all rows.

    The features of a pair are the first text's less the second's.
    """
    pair = len(texts[0]) == 2  # noqa: PLR2004
    words = [[frozenset(_WORD.findall(text.casefold())) for text in row] for row in texts]
    common = Counter(word for row in words for word in frozenset().union(*row))
    # Words of a few rows, or of nearly all, can explain no label of many.
    telling = sorted(common, key=lambda word: (-min(common[word], len(texts) - common[word]), word))
    columns: dict[str, list[float]] = {}
    for name, measure in _SHALLOW.items():
        title = f"which of the two has the greater {name}" if pair else name
        columns[title] = [_first_less_second([measure(text) for text in row]) for row in texts]
    for word in telling[:_KEYWORDS]:
        title = f"which of the two has the word {word!r}" if pair else f"the word {word!r}"
        columns[title] = [_first_less_second([float(word in own) for own in row]) for row in words]
    kept = {name: column for name, column in columns.items() if len(set(column)) > 1}
    return np.array(list(kept.values()), dtype=np.float64).T, list(kept)


def _first_less_second(values: Sequence[float]) -> float:
    return values[0] - values[1] if len(values) == 2 else values[0]  # noqa: PLR2004


def _folds(is_label: BoolArray, rng: np.random.Generator) -> IntArray:
    """The fold that each row is held out in, `[n]`; each has its share of the label."""
    fold = np.empty(len(is_label), dtype=np.int64)
    for side in (True, False):
        rows = rng.permutation(np.flatnonzero(is_label == side))
        fold[rows] = np.arange(len(rows)) % _FOLDS
    return fold


def _balanced_accuracy(said: BoolArray, is_label: BoolArray) -> FloatArray:
    """Mean of the shares that are right on either side, over rows (first axis)."""
    right: FloatArray = (said[is_label].mean(axis=0) + (~said[~is_label]).mean(axis=0)) / 2
    return right


def _alone(values: FloatArray, is_label: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Balanced accuracy of each feature with a threshold of its own, on held-out rows, `[p]`."""
    fold = _folds(is_label, rng)
    said = np.empty(values.shape, dtype=np.bool_)
    for held_out in range(_FOLDS):
        seen = fold != held_out
        threshold, above = _thresholds(values[seen], is_label[seen])
        said[~seen] = (values[~seen] > threshold) == above
    return _balanced_accuracy(said, is_label)


def _thresholds(values: FloatArray, is_label: BoolArray) -> tuple[FloatArray, BoolArray]:
    """The best threshold of each feature, `[p]`, and whether the label lies above it."""
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, axis=0)
    here = is_label[order]  # [n, p]
    below = np.cumsum(here, axis=0) / here.sum(axis=0)
    below_other = np.cumsum(~here, axis=0) / (~here).sum(axis=0)
    apart = below_other - below  # > 0 where the label lies above
    apart[:-1][ordered[:-1] == ordered[1:]] = 0.0  # no threshold parts equal values
    best = np.abs(apart[:-1]).argmax(axis=0)
    feature = np.arange(values.shape[1])
    threshold: FloatArray = (ordered[best, feature] + ordered[best + 1, feature]) / 2
    above: BoolArray = apart[best, feature] > 0
    return threshold, above


def _together(values: FloatArray, is_label: BoolArray, rng: np.random.Generator) -> float:
    """Balanced accuracy of a logistic model of all features, on held-out rows."""
    fold = _folds(is_label, rng)
    said = np.empty(len(is_label), dtype=np.bool_)
    for held_out in range(_FOLDS):
        seen = fold != held_out
        mean, spread = values[seen].mean(axis=0), values[seen].std(axis=0)
        scaled = np.column_stack([np.ones(len(values)), (values - mean) / np.maximum(spread, 1e-9)])
        weights = _logistic(scaled[seen], is_label[seen])
        said[~seen] = scaled[~seen] @ weights > 0
    return float(_balanced_accuracy(said, is_label))


def _logistic(x: FloatArray, is_label: BoolArray) -> FloatArray:
    """Ridge-regularised logistic weights, `[1 + p]`, both sides weighing the same (Newton)."""
    weight = np.where(is_label, 0.5 / is_label.mean(), 0.5 / (~is_label).mean())
    ridge = _RIDGE * np.eye(x.shape[1])
    ridge[0, 0] = 1e-9  # the intercept is free
    beta = np.zeros(x.shape[1])
    for _ in range(_NEWTON_STEPS):
        logit = np.clip(x @ beta, -_LARGEST_LOGIT, _LARGEST_LOGIT)
        probability = 1 / (1 + np.exp(-logit))
        gradient = x.T @ (weight * (is_label - probability)) - ridge @ beta
        curvature = (x.T * (weight * probability * (1 - probability))) @ x + ridge
        beta += np.linalg.solve(curvature, gradient)
    return beta
