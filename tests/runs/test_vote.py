"""Runs that vote: a deceiver is outvoted and named, and what cannot be voted on is refused."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from planted_reviews import COLOURS, TASK
from several_runs import ROWS, gold, mistaken, model, rows, run_of

from icm_client import Task, label, rows_from
from icm_client.errors import InputError
from icm_client.record.archive import Run, read_folder
from icm_client.runs.vote import VOTE, vote
from icm_client.testing import PlantedConcept


def other_axis(seed: int, n: int = ROWS) -> list[int]:
    """Classes that are as common as gold's, and have nothing to do with them."""
    return np.random.default_rng(seed).permutation(gold(n)).tolist()  # type: ignore[no-any-return]


def knowing(data: list[dict[str, Any]]) -> PlantedConcept:
    """A model that knows the gold labels of these rows."""
    prompts = TASK.render_all(rows_from(data, gold="label"))
    classes = [TASK.labels.index(row["label"]) for row in data]
    return PlantedConcept(dict(zip(prompts, classes, strict=True)), TASK.label_texts)


async def honest(folder: Path, seed: int = 0, n: int = ROWS) -> list[Run]:
    """Two runs whose models are wrong about 10 and 15% of the rows."""
    shares = {"a": 0.1, "b": 0.15}
    return [
        await run_of(folder, model(mistaken(share, 10 * seed + k, n)), name=name, n=n)
        for k, (name, share) in enumerate(shares.items())
    ]


@pytest.mark.parametrize("seed", range(10))
async def test_a_deceiver_is_outvoted_and_named(seed: int, tmp_path: Path) -> None:
    """Its labels follow another axis, or are wrong for half the rows; they are coherent in it."""
    one, other = await honest(tmp_path, seed)
    lies = {"another axis": other_axis(seed + 50), "half wrong": mistaken(0.5, 10 * seed + 5)}
    for name, classes in lies.items():
        deceiver = await run_of(tmp_path, model(classes, noise=0.0), name=name)
        assert deceiver.result is not None
        assert deceiver.result["verdict"] == "trust"
        found = vote([one, deceiver, other])
        assert [voter.counts for voter in found.voters] == [True, False, True]
        (warning,) = [one for one in found.warnings if "contradicts the others" in one]
        assert deceiver.name in warning
        first, lying, last = (voter.accuracy or 0 for voter in found.voters)
        assert found.accuracy is not None
        assert found.accuracy >= min(first, last) - 0.05  # which of two is right, nothing shows
        assert found.accuracy > lying + 0.2
        assert found.voters[1].estimated < 0.65


@pytest.mark.parametrize("seed", range(3))
async def test_many_rows_and_three_honest_runs_are_better_together(
    seed: int, tmp_path: Path
) -> None:
    n = 128
    runs = await honest(tmp_path, seed, n)
    runs.append(await run_of(tmp_path, model(mistaken(0.12, 99 + seed, n)), name="c", n=n))
    found = vote(runs)
    assert found.method == "dawid-skene"
    assert found.warnings == ()
    accuracies = [voter.accuracy or 0 for voter in found.voters]
    assert found.accuracy is not None
    assert found.accuracy > max(accuracies) + 0.03
    for voter, accuracy in zip(found.voters, accuracies, strict=True):
        assert voter.weight is None
        assert voter.estimated == pytest.approx(accuracy, abs=0.05)


async def test_four_runs_and_a_deceiver_among_them(tmp_path: Path) -> None:
    runs = await honest(tmp_path, 1, 128)
    runs.append(await run_of(tmp_path, model(other_axis(7, 128)), name="c", n=128))
    runs.append(await run_of(tmp_path, model(mistaken(0.1, 3, 128)), name="d", n=128))
    found = vote(runs)
    assert [voter.counts for voter in found.voters] == [True, True, False, True]
    assert found.method == "dawid-skene"
    assert found.accuracy is not None
    assert found.accuracy > 0.95


async def test_a_complement_of_gold_is_said_to_be_exchanged_names(tmp_path: Path) -> None:
    runs = await honest(tmp_path)
    turned = await run_of(tmp_path, model([1 - one for one in gold()]), name="c")
    found = vote([*runs, turned])
    last = found.voters[2]
    assert last.standing is not None
    assert last.standing.exchanged
    assert not last.standing.contradicted
    assert not last.counts
    (warning,) = found.warnings
    assert f"the run {turned.name} has the others' classes under exchanged names" in warning
    assert "negative as positive" in warning
    assert found.summary()["runs"][2]["standing"]["names"] == {
        "positive": "negative",
        "negative": "positive",
    }
    # It is not mended: with two runs alone nobody knows whose names are right.
    alone = vote([runs[0], turned])
    assert "the two runs have the same classes under exchanged names" in alone.warnings[0]
    assert all(voter.counts for voter in alone.voters)


async def test_equal_camps_are_said_and_nobody_is_left_out(tmp_path: Path) -> None:
    runs = await honest(tmp_path)
    runs += [
        await run_of(tmp_path, model([1 - one for one in mistaken(0.1, seed)]), name=f"c{seed}")
        for seed in (7, 8)
    ]
    found = vote(runs)
    assert all(voter.counts for voter in found.voters)
    assert "camps of equal size" in found.warnings[0]


async def test_runs_that_follow_nothing_in_common(tmp_path: Path) -> None:
    runs = [await run_of(tmp_path, model(other_axis(seed)), name=str(seed)) for seed in (1, 2, 5)]
    found = vote(runs)
    assert any("hardly agree with each other" in one for one in found.warnings)
    assert not any("contradicts" in one for one in found.warnings)


async def test_two_runs_are_weighed_by_coherence_and_confidence(tmp_path: Path) -> None:
    sure = await run_of(tmp_path, model(mistaken(0.05, 1)), name="a")
    unsure = await run_of(tmp_path, model(mistaken(0.15, 2), strength=1.2), name="b")
    found = vote([unsure, sure])
    assert found.voters[0].weight is not None
    assert found.voters[1].weight is not None
    assert found.voters[0].weight < found.voters[1].weight
    assert found.voters[1].agrees > 0.95
    assert any(f"({sure.name} is the more coherent one)" in one for one in found.notices)
    contested = found.contested
    assert 0 < len(contested) < ROWS / 2
    assert [found.rows[n].confidence for n in contested] == sorted(
        found.rows[n].confidence or 0 for n in contested
    )


async def test_runs_are_compared_by_gold_or_by_the_others(tmp_path: Path) -> None:
    models = [model(mistaken(share, seed)) for share, seed in ((0.02, 1), (0.25, 2), (0.1, 3))]
    blind = [{key: row[key] for key in ("id", "text")} for row in rows()]
    runs = [
        await run_of(tmp_path, one, name=str(number), rows=blind, gold=None)
        for number, one in enumerate(models)
    ]
    found = vote(runs)
    assert found.gold is None
    assert found.accuracy is None
    assert found.judged_by == "others"
    first = found.comparisons[0]
    assert (first.first, first.second) == (runs[0].name, runs[1].name)
    assert first.test.first > first.test.second  # by the third run
    assert first.test.p < 0.05
    assert (vote(runs[:2]).judged_by, vote(runs[:2]).comparisons) == (None, ())
    with_gold = vote([await run_of(tmp_path, models[0], name="gold"), *runs[1:]])
    assert with_gold.judged_by == "gold"
    by = {(one.first, one.second): one.test for one in with_gold.comparisons}
    assert len(by) == 6
    test = by[VOTE, runs[1].name]
    accuracies = with_gold.accuracy, with_gold.voters[1].accuracy
    assert (test.first - test.second) / ROWS == pytest.approx(accuracies[0] - accuracies[1])  # type: ignore[operator]


async def test_the_voted_file_is_a_labels_file(tmp_path: Path) -> None:
    """It begins a run, pins one, and holds what each run said."""
    runs = await honest(tmp_path)
    path = tmp_path / "voted.jsonl"
    found = vote(runs)
    found.write(path)
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["id"] for line in lines] == [f"r{n}" for n in range(ROWS)]
    assert [line["label"] for line in lines] == [row.label for row in found.rows]
    assert lines[0][f"label_{runs[1].name}"] == found.votes[0][1]
    assert lines[0]["row_label"] == rows()[0]["label"]
    assert math.exp(lines[0][f"log_prob_{lines[0]['label']}"]) == pytest.approx(
        lines[0]["confidence"]
    )
    pinned = await label(
        rows(),
        task=TASK,
        gold="label",
        endpoint=model(gold()),
        store=tmp_path / "store",
        pins=path,
        preset="zero-shot",
    )
    assert [row.label for row in pinned.rows] == [row.label for row in found.rows]
    begun = await label(
        rows(),
        task=TASK,
        gold="label",
        endpoint=model(gold()),
        store=tmp_path / "store",
        start=path,
        preset="bootstrap",
    )
    assert begun.accuracy == 1


async def test_other_words_and_more_labels(tmp_path: Path) -> None:
    n = 150
    runs = [
        await run_of(
            tmp_path,
            model(mistaken(0.15, seed, n, COLOURS), COLOURS),
            name=str(seed),
            n=n,
            task=COLOURS,
        )
        for seed in (1, 2, 3)
    ]
    found = vote(runs)
    assert found.method == "dawid-skene"
    assert found.accuracy is not None
    assert found.accuracy > max(voter.accuracy or 0 for voter in found.voters) + 0.03


async def test_pinned_rows_keep_their_labels(tmp_path: Path) -> None:
    """What a person has said is no opinion among others."""
    wrong = {"r3": TASK.labels[1 - gold()[3]]}
    a = await run_of(tmp_path, model(gold(), noise=0.0), name="a", pins=wrong)
    b = await run_of(tmp_path, model(gold(), noise=0.0), name="b")
    c = await run_of(tmp_path, model(mistaken(0.1, 2)), name="c")
    found = vote([b, c, a])
    assert found.rows[3].label == wrong["r3"]
    assert [row.pinned for row in found.rows].count(True) == 1
    other = await run_of(
        tmp_path, model(gold(), noise=0.0), name="d", pins={"r3": TASK.labels[gold()[3]]}
    )
    with pytest.raises(
        InputError, match=r"the row 'r3' is pinned to 'negative', 'positive' in these runs"
    ):
        vote([a, other])


async def test_the_rule_of_the_task_holds(tmp_path: Path) -> None:
    """One of each pair of rows is positive: a vote row by row would break it in places."""
    ruled = Task(
        **{
            **TASK.model_dump(),
            "constraint": {"kind": "exactly-one", "group": "pair", "true": "positive"},
        }
    )
    data = [{**row, "pair": n // 2} for n, row in enumerate(rows())]
    runs = []
    for seed in (1, 2):
        chance = np.random.default_rng(seed)
        classes = [one for _ in range(ROWS // 2) for one in chance.permutation(2).tolist()]
        runs.append(
            await run_of(tmp_path, model(classes), name=str(seed), task=ruled, rows=data, gold=None)
        )
    found = vote(runs)
    pairs = Counter(row.row.fields["pair"] for row in found.rows if row.label == "positive")
    assert set(pairs.values()) == {1}
    assert len(pairs) == ROWS // 2


async def test_rows_that_a_run_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    first, _ = await honest(tmp_path)
    part = [*rows()[::2], {"id": "x", "text": "more", "label": "positive"}]
    second = await run_of(tmp_path, knowing(part), name="part", rows=part)
    found = vote([first, second])
    assert len(found.rows) == ROWS // 2
    assert found.left_out == ROWS // 2 + 1
    assert "33 rows have no label in some of the runs, and are left out" in found.notices


async def test_what_cannot_be_voted_on_is_refused(tmp_path: Path) -> None:
    a, b = await honest(tmp_path)
    for runs in ([], [a], [a, a], [a, b, read_folder(a.path)]):
        with pytest.raises(InputError, match="a vote takes two runs or more, each named once"):
            vote(runs)
    words = Task(template=TASK.template, labels=("good", "bad"))
    other = await run_of(
        tmp_path,
        model(gold(), words),
        name="words",
        task=words,
        rows=[{"id": row["id"], "text": row["text"]} for row in rows()],
        gold=None,
    )
    with pytest.raises(
        InputError, match=r"have other labels .*'good'.*: a vote takes runs with the"
    ):
        vote([a, other])
    more = [{"text": f"other words {n}", "label": TASK.labels[n % 2]} for n in range(8)]
    elsewhere = await run_of(tmp_path, knowing(more), name="else", rows=more)
    with pytest.raises(InputError, match="are over different data"):
        vote([a, elsewhere])
    (b.path / "labels.jsonl").unlink()
    with pytest.raises(InputError, match="this run has no labels yet"):
        vote([a, b])


async def test_seeds_of_one_model_are_said_to_share_its_mistakes(tmp_path: Path) -> None:
    endpoint = model(mistaken(0.1, 1))
    runs = [await run_of(tmp_path, endpoint, name="a", seed=seed) for seed in (0, 1)]
    (notice,) = [one for one in vote(runs).notices if "asked the same model" in one]
    assert runs[0].name in notice
