"""How far two runs agree, over seeds, models and endpoints.

Labels that another seed or model finds too come from the rows; labels that one run alone finds may
come from that run. Agreement is counted over the rows that two runs both labelled, and Cohen's
kappa ("A coefficient of agreement for nominal scales", 1960) corrects it for chance:

    kappa = (p_o - p_e) / (1 - p_e),   p_e = sum_k share_A(k) * share_B(k)

1 means the same labels, 0 what two runs with these balances would share by chance. Where label
words have no meaning, two runs can find the same classes under other names: the exchange of names
under which they agree most, of all exchanges, is reported too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from icm_client.coherence.matching import best_permutation
from icm_client.errors import InputError

Labelling = Mapping[str, str]
"""A row's key (its id, or a key of `labels_by_row`) -> label."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two labellings agree.

    Attributes:
        rows: how many rows both labelled.
        share: of these rows the share with the same label, 0 to 1.
        kappa: Cohen's; None where both gave all rows the same one label: chance explains that.
        names: the exchange of the second one's names that agrees best, its label -> the first
            one's; empty where no exchange agrees better than the names as they are.
        exchanged_share: `share` under that exchange, or without one where `names` is empty.
        exchanged_kappa: `kappa` likewise.
    """

    rows: int
    share: float
    kappa: float | None
    names: Mapping[str, str]
    exchanged_share: float
    exchanged_kappa: float | None


def agreement(first: Labelling, second: Labelling) -> Agreement:
    """Return how far two labellings agree over the rows of both.

    Raises:
        InputError: they have no row in common.
    """
    pairs = Counter((first[row], second[row]) for row in first if row in second)
    if not pairs:
        raise InputError("the runs have no row in common: compare runs over the same data")
    share, kappa = _agreement(pairs, {})
    names = _best_names(pairs)
    return Agreement(pairs.total(), share, kappa, names, *_agreement(pairs, names))


def agreements(labellings: Sequence[Labelling]) -> dict[tuple[int, int], Agreement]:
    """Return the agreement of every two labellings, by their places, the lower one first.

    Raises:
        InputError: fewer than two, or two without a row in common.
    """
    if len(labellings) < 2:  # noqa: PLR2004 - to compare takes two
        raise InputError("name at least two runs")
    return {
        (one, other): agreement(labellings[one], labellings[other])
        for one, other in combinations(range(len(labellings)), 2)
    }


def _agreement(
    pairs: Mapping[tuple[str, str], int], names: Mapping[str, str]
) -> tuple[float, float | None]:
    """Share and kappa, the second one's labels renamed."""
    total = sum(pairs.values())
    same = 0
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    for (one, other), count in pairs.items():
        renamed = names.get(other, other)
        same += count * (one == renamed)
        ours[one] += count
        theirs[renamed] += count
    share = same / total
    chance = sum(count * theirs[word] for word, count in ours.items()) / total**2
    return share, None if chance == 1 else (share - chance) / (1 - chance)


def _best_names(pairs: Mapping[tuple[str, str], int]) -> dict[str, str]:
    """The exchange of names that agrees most: their name -> ours, where the two differ."""
    words = sorted({word for pair in pairs for word in pair})
    place = {word: number for number, word in enumerate(words)}
    alike = np.zeros((len(words), len(words)))
    for (ours, theirs), count in pairs.items():
        alike[place[theirs], place[ours]] = count
    named = zip(words, (words[number] for number in best_permutation(alike)), strict=True)
    return {theirs: ours for theirs, ours in named if theirs != ours}
