"""Agreement of runs: kappa by hand, and names that mean nothing."""

from itertools import permutations
from string import ascii_lowercase

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.errors import InputError
from icm_client.stats.agreement import agreement, agreements


def labelling(words: str) -> dict[str, str]:
    return {str(row): word for row, word in enumerate(words)}


def test_kappa_by_hand() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    first = labelling("y" * 25 + "n" * 25)
    second = labelling("y" * 20 + "n" * 5 + "y" * 10 + "n" * 15)
    found = agreement(first, second)
    assert (found.rows, found.share) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.names == {}
    assert (found.exchanged_share, found.exchanged_kappa) == (found.share, found.kappa)


def test_only_common_rows_count() -> None:
    found = agreement({"1": "y", "2": "n", "3": "y"}, {"2": "n", "3": "n", "9": "y"})
    assert (found.rows, found.share) == (2, 0.5)


def test_names_the_other_way_round_are_seen() -> None:
    found = agreement(labelling("aabb"), labelling("bbaa"))
    assert found.share == 0
    assert found.kappa == pytest.approx(-1)
    assert found.names == {"a": "b", "b": "a"}
    assert (found.exchanged_share, found.exchanged_kappa) == (1, 1)


def test_any_exchange_of_several_names_is_found_and_the_rest_keep_theirs() -> None:
    found = agreement(labelling("aabbccdd"), labelling("bbccaadd"))
    assert found.names == {"b": "a", "c": "b", "a": "c"}
    assert found.exchanged_share == 1


@pytest.mark.parametrize("many", [8, 12, 26])
def test_any_exchange_of_many_names_is_found(many: int) -> None:
    """Names in a cycle: exchanging two at a time brings an eighth of 8 labels together, no more."""
    words = ascii_lowercase[:many]
    found = agreement(labelling(words), labelling(words[1:] + words[0]))
    assert found.share == 0
    assert found.exchanged_share == found.exchanged_kappa == 1
    assert found.names == dict(zip(words[1:] + words[0], words, strict=True))


def test_of_many_names_only_those_move_that_are_exchanged() -> None:
    words = ascii_lowercase[:10]
    found = agreement(labelling(words), labelling("ba" + words[2:]))
    assert found.names == {"a": "b", "b": "a"}


@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_of_few_names_the_exchange_is_the_first_of_the_best(
    n_labels: int, rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    one, other = ("".join(rng.choice(list("abcde")[:n_labels], size=rows)) for _ in range(2))
    words = sorted({*one, *other})
    ways = [dict(zip(words, way, strict=True)) for way in permutations(words)]
    best = max(ways, key=lambda way: sum(a == way[b] for a, b in zip(one, other, strict=True)))
    found = agreement(labelling(one), labelling(other))
    assert found.names == {theirs: ours for theirs, ours in best.items() if theirs != ours}


def test_one_label_everywhere_says_nothing_about_agreement() -> None:
    found = agreement(labelling("aaa"), labelling("aaa"))
    assert found.share == 1
    assert found.kappa is None


def test_every_two_are_compared() -> None:
    found = agreements([labelling("ab"), labelling("ab"), labelling("aa")])
    assert {pair: one.share for pair, one in found.items()} == {
        (0, 1): 1.0,
        (0, 2): 0.5,
        (1, 2): 0.5,
    }


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="no row in common"):
        agreement({"1": "a"}, {"2": "a"})
    with pytest.raises(InputError, match="two runs"):
        agreements([labelling("ab")])
