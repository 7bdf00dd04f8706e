"""A slice of `scripts/bench diagnosis`: verdicts against what was planted."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from bench_diagnosis import (
    COLLAPSE,
    GRADED,
    SEVERAL,
    WORDLESS,
    Judged,
    Setting,
    judge_all,
    settings,
    several,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def judged() -> list[Judged]:
    """Twenty runs: fourteen graded, four with words that say nothing, two that collapse."""
    return await judge_all(settings(20))


async def test_inverted_and_degenerate_labels_are_not_trusted(judged: list[Judged]) -> None:
    wrong = [run for run in judged if run.outcome in {"inverted", "degenerate"}]
    assert {run.outcome for run in wrong} == {"inverted", "degenerate"}
    assert {run.found.verdict for run in wrong} == {"do not trust"}


async def test_sound_labels_are_trusted(judged: list[Judged]) -> None:
    sound = [run for run in judged if run.outcome == "sound" and run.setting.group == GRADED]
    assert len(sound) >= 5
    assert "do not trust" not in {run.found.verdict for run in sound}


async def test_each_part_of_the_design_is_there(judged: list[Judged]) -> None:
    assert {run.setting.group for run in judged} == {GRADED, WORDLESS, COLLAPSE}


async def test_of_several_labels_misnamed_ones_are_not_trusted_and_sound_ones_are() -> None:
    runs = await judge_all(several(30))
    assert {run.setting.group for run in runs} == {SEVERAL}
    misnamed = [run for run in runs if run.outcome == "misnamed"]
    assert misnamed
    assert {run.found.verdict for run in misnamed} == {"do not trust"}
    clear = [run for run in runs if run.setting.meaning >= 0.3 * run.setting.strength]
    sound = [run for run in clear if run.outcome == "sound"]
    assert len(sound) >= 8
    assert "do not trust" not in {run.found.verdict for run in sound}


async def test_words_that_mean_the_opposite_cannot_be_told_from_words_that_fit() -> None:
    """A model to which `left` means right answers as one to which it fits, classes exchanged."""
    fits = Setting(GRADED, 0.5, 3.0, 1.0, 0.0, 0.5, seed=3)
    right, reversed_words = await judge_all([fits, replace(fits, meaning=-1.0)])
    assert right.outcome == "sound"
    assert reversed_words.outcome == "inverted"
    assert reversed_words.found.verdict == right.found.verdict == "trust"
