"""How many labels were right after each sweep, where gold is there; the search knew nothing of it.

A sweep's labels have the names that its start used. When a search ends, it may exchange names, and
then the sweeps of the start that it kept were wrong by name only. So their names are those of the
end: as they were, or exchanged as a search can exchange them, whichever of these agrees best with
the labels that the run ended with. Gold has no part in that.
"""

from collections.abc import Sequence

import numpy as np

from icm_client.coherence.contexts import UNLABELLED
from icm_client.coherence.matching import best_permutation
from icm_client.coherence.problem import IntArray
from icm_client.coherence.renaming import pair_counts
from icm_client.record.archive import Run
from icm_client.record.sweep_labels import labels_by_sweep
from icm_client.report.label_table import LabelTable


def sweep_accuracy(run: Run, table: LabelTable) -> tuple[list[float | None], bool]:
    """Return for each sweep of the result the share of the rows with gold whose label was right.

    Rows that had no label then are not counted: the first sweep scores no row that it starts from.
    Other starts than the one whose labels these are keep the names that they had.

    Returns:
        One share a sweep, None where nothing is known: no gold, or a record without the labels.
        And whether names were exchanged for it.

    Raises:
        RunError: the journal cannot be read.
    """
    result = run.result or {}
    sweeps = result["sweeps"]
    if not table.judged.any():
        return [None] * len(sweeps), False
    words = sorted(table.words)  # as the search numbers them
    numbers = np.array([words.index(word) for word in table.words])
    told = labels_by_sweep(run.path / "journal.jsonl", sweeps, words)
    restart = result.get("restart", 0)
    passes = [place for place, sweep in enumerate(sweeps) if "trained_on" in sweep]
    kept = [
        place
        for place, sweep in enumerate(sweeps)
        if "trained_on" not in sweep and sweep["restart"] == restart
    ]
    ended = _with_all_rows(numbers[table.held], [told[place] for place in (*kept, *passes)])
    if ended is None:
        return [None] * len(sweeps), False
    renamed = False
    for places in ([place for place in kept if not sweeps[place].get("renamed")], passes):
        own = [labels for place in places if (labels := told[place]) is not None]
        names = np.array(names_of_the_end(own[-1], ended, len(words)) if own else range(len(words)))
        renamed = renamed or names.tolist() != list(range(len(words)))
        for place in places:
            if (labels := told[place]) is not None:
                told[place] = np.where(labels == UNLABELLED, UNLABELLED, names[labels])
    gold = np.full(len(ended), UNLABELLED)
    gold[ended != UNLABELLED] = np.where(table.judged, numbers[table.gold], UNLABELLED)
    return [None if labels is None else _share(labels, gold) for labels in told], renamed


def names_of_the_end(labels: IntArray, ended: IntArray, n_labels: int) -> tuple[int, ...]:
    """Return the names by which a start's last labels agree best with those of the run.

    Args:
        labels: shape `[N]`, the start's, `UNLABELLED` where a row has none.
        ended: shape `[N]`, the run's, as `labels`.
        n_labels: `K`.

    Returns:
        Label `k` is to be called `names[k]`; unchanged where an exchange agrees no better.
    """
    known = labels != UNLABELLED
    return best_permutation(pair_counts(labels[known], ended[known], n_labels))


def _with_all_rows(held: IntArray, told: Sequence[IntArray | None]) -> IntArray | None:
    """The run's labels over all rows of the data, `UNLABELLED` where a row has none.

    Rows that the server refused stand in no labels file; the last sweep has no label for them
    either. None where no sweep tells labels, or the last one tells of other rows than the file.
    """
    known = [labels for labels in told if labels is not None]
    if not known:
        return None
    last = known[-1]
    there = np.ones(len(last), bool) if len(last) == len(held) else last != UNLABELLED
    if there.sum() != len(held):
        return None
    ended = np.full(len(last), UNLABELLED)
    ended[there] = held
    return ended


def _share(labels: IntArray, gold: IntArray) -> float | None:
    judged = (gold != UNLABELLED) & (labels != UNLABELLED)
    return float((labels == gold)[judged].mean()) if judged.any() else None
