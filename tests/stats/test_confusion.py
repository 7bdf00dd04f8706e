"""Precision, recall and F1 by label, counted by hand."""

import pytest

from icm_client.stats.confusion import Confusion, confusion

LABELS = ("cat", "dog", "bird")


def test_counts_and_figures_are_those_counted_by_hand() -> None:
    pairs = [
        *[("cat", "cat")] * 5,
        *[("cat", "dog")] * 3,
        ("dog", "dog"),
        ("bird", "dog"),
        ("bird", "bird"),
        (None, "bird"),  # no gold: it counts nowhere
    ]
    found = confusion(pairs, LABELS)
    assert found is not None
    assert found.counts == ((5, 3, 0), (0, 1, 0), (0, 1, 1))
    cat, dog, bird = found.by_label
    assert (cat.gold, cat.found, cat.right) == (8, 5, 5)
    assert (cat.precision, cat.recall) == (1.0, 5 / 8)
    assert cat.f1 == pytest.approx(2 * 1.0 * (5 / 8) / (1 + 5 / 8))
    assert (dog.precision, dog.recall) == (1 / 5, 1.0)
    assert dog.f1 == pytest.approx(1 / 3)
    assert (bird.precision, bird.recall) == (1.0, 0.5)


def test_what_cannot_be_known_is_none_and_not_0() -> None:
    found = confusion([("cat", "dog"), ("cat", "dog")], LABELS)
    assert found is not None
    cat, dog, bird = found.by_label
    assert (cat.precision, cat.recall, cat.f1) == (None, 0.0, 0.0)
    assert (dog.precision, dog.recall, dog.f1) == (0.0, None, 0.0)
    assert (bird.precision, bird.recall, bird.f1) == (None, None, None)


def test_without_gold_there_is_nothing_to_confuse() -> None:
    assert confusion([(None, "cat")], LABELS) is None
    assert confusion([], LABELS) is None


def test_the_summary_is_json_with_a_line_for_each_gold_label() -> None:
    told = Confusion(("yes", "no"), ((3, 1), (0, 4))).summary()
    assert told["labels"] == ["yes", "no"]
    assert told["counts"] == [[3, 1], [0, 4]]
    assert told["by_label"]["no"] == {
        "precision": 4 / 5,
        "recall": 1.0,
        "f1": 8 / 9,
        "gold": 4,
        "found": 5,
        "right": 4,
    }
