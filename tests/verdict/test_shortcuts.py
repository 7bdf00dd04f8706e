"""Length, a word, or nothing so shallow."""

import random

import numpy as np
import pytest

from icm_client.coherence.problem import IntArray
from icm_client.verdict.shortcuts import EXPLAINS, ROWS_READ, explained, features, shortcut_findings

WORDS = ("no", "yes")
VOCABULARY = "tree road blue old cup of and stone light rain dog night".split()  # noqa: SIM905


def notes(n: int, seed: int = 0) -> list[tuple[str, ...]]:
    chance = random.Random(seed)
    return [(" ".join(chance.choices(VOCABULARY, k=chance.randint(4, 20))),) for _ in range(n)]


def classes(n: int, seed: int = 1) -> IntArray:
    return np.random.default_rng(seed).permutation(np.arange(n) % 2)


def test_length_that_explains_the_labels_is_told_with_its_figures() -> None:
    texts = notes(120)
    lengths = np.array([len(text) for (text,) in texts])
    (finding,) = shortcut_findings(texts, (lengths > np.median(lengths)).astype(np.int64), WORDS)
    assert finding.code == "surface-feature"
    assert finding.severity == "check"
    assert "One shortcut feature, length," in finding.message
    assert "with shuffled labels at most" in finding.figures


def test_a_keyword_is_told() -> None:
    texts = notes(120)
    held = np.array(["blue" in text.split() for (text,) in texts], dtype=np.int64)
    (finding,) = shortcut_findings(texts, held, WORDS)
    assert "the word 'blue'" in finding.message


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n", [24, 60, 200])
def test_chance_is_not_blamed(n: int, seed: int) -> None:
    assert shortcut_findings(notes(n, seed), classes(n, seed + 50), WORDS) == []


def test_words_that_tell_a_part_are_no_finding_and_many_together_a_note() -> None:
    chance = random.Random(0)
    texts, held = [], []
    for _ in range(300):
        kind = chance.randrange(2)
        telling = ["bad", "dull"] if kind == 0 else ["good", "fine"]
        drawn = [chance.choice(telling)] if chance.random() < 0.5 else []
        texts.append((" ".join(chance.choices(VOCABULARY, k=8) + drawn),))
        held.append(kind)
    assert shortcut_findings(texts, np.array(held), WORDS) == []
    for row, kind in enumerate(held):
        telling = ["bad", "dull", "poor"] if kind == 0 else ["good", "fine", "great"]
        texts[row] = (f"{texts[row][0]} {chance.choice(telling)}",)
    (finding,) = shortcut_findings(texts, np.array(held), WORDS)
    assert (finding.code, finding.severity) == ("surface-features", "note")


def test_of_a_pair_the_longer_one_is_seen() -> None:
    texts = [(one, other) for (one,), (other,) in zip(notes(100), notes(100, 9), strict=True)]
    held = np.array([len(one) > len(other) for one, other in texts], dtype=np.int64)
    (finding,) = shortcut_findings(texts, held, WORDS)
    assert "which of the two has the greater length" in finding.message


def test_of_three_labels_the_explained_one_is_named() -> None:
    texts = notes(240)
    held = classes(240, 3)
    for row, (text,) in enumerate(texts):
        if text.startswith(("tree", "road", "blue")):
            texts[row] = (text + " 1234567",)
            held[row] = 2
    (finding,) = shortcut_findings(texts, held, ("red", "green", "dark"))
    assert "tells 'dark' from the rest" in finding.message
    assert "digits" in finding.message or "1234567" in finding.message


def test_rare_labels_and_rows_alike_are_left_out() -> None:
    few = np.zeros(60, dtype=np.int64)
    few[:9] = 1
    assert explained(notes(60), few, 2) == ()
    assert explained([("same",)] * 60, classes(60), 2) == ()


def test_many_rows_are_sampled_the_same_way_each_time() -> None:
    texts = notes(ROWS_READ + 500)
    lengths = np.array([len(text) for (text,) in texts])
    held = (lengths > np.median(lengths)).astype(np.int64)
    first, again = explained(texts, held, 2), explained(texts, held, 2)
    assert first == again
    assert first[0].alone >= EXPLAINS


def test_features_say_what_they_are() -> None:
    values, names = features([("Two WORDS!",), ("a\nlonger one, 12",)])
    table = dict(zip(names, values.T.tolist(), strict=True))
    assert table["number of digits"] == [0, 2]
    assert table["number of words"] == [2, 4]
    assert table["number of lines"] == [0, 1]
    assert table["the word 'longer'"] == [0, 1]
