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
    TWO_AXES,
    WORDLESS,
    HeldTo,
    Judged,
    Second,
    Setting,
    judge_all,
    settings,
    several,
    two_axes,
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


DRAWN_AWAY = Setting(
    TWO_AXES,
    0.5,
    1.0,
    1.0,
    0.0,
    0.5,
    seed=6,
    second=Second(agreement=0.75, strength=3.0, meaning=0),
)


async def test_labels_that_a_salient_feature_drew_away_are_not_trusted() -> None:
    """Three of four rows have the same class on both axes, so the words look right on average."""
    faint = replace(DRAWN_AWAY, second=Second(agreement=0.75, strength=0.5, meaning=0))
    wrong, sound = await judge_all([DRAWN_AWAY, faint])
    assert (wrong.outcome, sound.outcome) == ("wrong axis", "sound")
    assert [finding.code for finding in wrong.found.findings] == ["other-split"]
    assert (wrong.found.verdict, sound.found.verdict) == ("check", "trust")


async def test_either_axis_may_be_followed() -> None:
    runs = await judge_all(two_axes(12))
    assert {run.setting.group for run in runs} == {TWO_AXES}
    assert {"sound", "wrong axis"} <= {run.outcome for run in runs}


async def test_the_bench_fails_where_a_promise_is_not_kept() -> None:
    """Runs whose outcome is said to be another one stand for verdicts that are wrong."""
    plain = Setting(GRADED, 0.5, 3.0, 1.0, 0.0, 0.5, seed=3)
    trusted, condemned = await judge_all([plain, replace(plain, group=WORDLESS, meaning=0.0)])
    assert (trusted.found.verdict, condemned.found.verdict) == ("trust", "do not trust")
    assert HeldTo.of([trusted, condemned]).broken() == ""
    alarm = replace(condemned, setting=plain, outcome="sound")
    assert "sound labels" in HeldTo.of([alarm]).broken()
    assert HeldTo.of([alarm, *[trusted] * 49]).broken() == ""
    elsewhere, doubted = (replace(run, outcome="wrong axis") for run in (trusted, condemned))
    assert "on a wrong axis are trusted" in HeldTo.of([elsewhere, *[doubted] * 18]).broken()
    assert HeldTo.of([elsewhere, *[doubted] * 19]).broken() == ""
    missed = replace(trusted, outcome="inverted")
    assert "wrong labels are flagged" in HeldTo.of([missed]).broken()
    assert HeldTo.of([missed, alarm, elsewhere]).misjudged() == [missed, alarm, elsewhere]
