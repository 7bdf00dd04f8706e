"""What must hold of every preset, through `label` and a planted concept."""

import random
from pathlib import Path

import orjson
import pytest
from planted_reviews import COLOURS, TASK, Failing, planted, reviews

from icm_client import FewShotSettings, SweepSettings, Task, ZeroShotSettings, label, rows_from
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.items import items_of, render_items
from icm_client.errors import EndpointFault, InputError, TooManyFailed
from icm_client.record.journal import read
from icm_client.runs.presets import Settings, preset_of
from icm_client.testing import PlantedConcept

PRESETS: list[Settings] = [
    SweepSettings(),
    AnnealSettings(iterations=60),
    OfficialSettings(iterations=60),
    ZeroShotSettings(),
    ZeroShotSettings(calibrated=True),
    FewShotSettings(rounds=0),
    FewShotSettings(),
]
EVERY_PRESET = pytest.mark.parametrize("settings", PRESETS, ids=preset_of)
CLAIMS = Task(
    template="Question: {question}\nClaim: {claim}\nI think this claim is",
    labels=("True", "False"),
    gold="label",
    constraint=ConstraintSpec(kind="mutual-exclusion", group=("question",), answer="claim"),
)
PAIRS = Task(
    template="1: {one}\n2: {two}\nClaim: 1 is better.\nI think this claim is",
    labels=("True", "False"),
    exchange=("one", "two"),
    gold="label",
)


@EVERY_PRESET
@pytest.mark.parametrize("poison", ["shuffled", "one label"])
async def test_labels_are_the_same_bytes_whatever_gold_says(
    settings: Settings, poison: str, tmp_path: Path
) -> None:
    rows = reviews(24)
    words = [row["label"] for row in rows]
    if poison == "shuffled":
        random.Random(1).shuffle(words)
    else:
        words = ["negative"] * len(rows)
    poisoned = [{**row, "label": word} for row, word in zip(rows, words, strict=True)]
    written = []
    for number, data in enumerate((rows, poisoned)):
        found = await label(
            data,
            task=TASK,
            endpoint=planted(24),
            gold="label",
            settings=settings,
            store=tmp_path / f"{number}.sqlite3",
        )
        path = tmp_path / f"{number}.jsonl"
        found.write(path)
        lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        for line in lines:
            del line["row_label"]  # the gold column
        written.append(orjson.dumps(lines))
    assert written[0] == written[1]


@pytest.mark.slow
@EVERY_PRESET
async def test_no_question_ends_with_two_different_true_answers(
    settings: Settings, tmp_path: Path
) -> None:
    rows = [
        {"question": f"what is {q}", "claim": f"it is {q + a}", "label": str(a == 0)}
        for q in range(8)
        for a in range(3)
    ]
    data = rows_from(rows, gold="label")
    # A model that would call everything true.
    prompts = dict.fromkeys(CLAIMS.render_all(data), 0)
    endpoint = PlantedConcept(prompts, CLAIMS.label_texts, meaning=2.0)
    found = await label(
        data, task=CLAIMS, endpoint=endpoint, settings=settings, store=tmp_path / "store"
    )
    true = [row.row.fields["question"] for row in found.rows if row.label == "True"]
    assert len(true) == len(set(true))


@EVERY_PRESET
async def test_pairs_are_shown_in_both_orders_and_agree(settings: Settings, tmp_path: Path) -> None:
    rows = [
        {"one": f"text {n}", "two": f"word {n}", "label": str(n * 7 % 5 % 2 == 0)}
        for n in range(16)
    ]
    data = rows_from(rows, gold="label")
    items = items_of(PAIRS, data)
    prompts = render_items(PAIRS, data, items)
    classes = [int((data.gold or ())[item.row] != "True") ^ item.exchanged for item in items]
    endpoint = PlantedConcept(
        dict(zip(prompts, classes, strict=True)), PAIRS.label_texts, meaning=2.0
    )
    first = await label(
        data, task=PAIRS, endpoint=endpoint, settings=settings, seed=1, store=tmp_path / "one"
    )
    assert len(first.rows) == 16
    assert first.accuracy is not None
    assert first.accuracy >= 0.9
    # Every prompt has been a target: each row's, and each with its two texts exchanged.
    assert first.cost.from_server >= len(prompts) == 2 * len(rows)


@EVERY_PRESET
async def test_three_labels_are_found(settings: Settings, tmp_path: Path) -> None:
    found = await label(
        reviews(30, COLOURS),
        task=COLOURS,
        endpoint=planted(30, COLOURS, meaning=2.0),
        gold="label",
        settings=settings,
        store=tmp_path / "store",
    )
    assert found.accuracy is not None
    assert found.accuracy > 0.8


@EVERY_PRESET
async def test_the_journal_tells_every_move_once_however_often_the_run_goes_on(
    settings: Settings, tmp_path: Path
) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    for allowed in (30, 30):
        with pytest.raises((EndpointFault, TooManyFailed)):
            await label(
                reviews(32),
                task=TASK,
                endpoint=Failing(allowed),
                settings=settings,
                store=store,
                runs=runs,
            )
    found = await label(
        reviews(32), task=TASK, endpoint=planted(32), settings=settings, store=store, runs=runs
    )
    assert found.run is not None
    events = read(found.run / "journal.jsonl")
    assert [event["event"] for event in events].count("failed") == 2
    if found.steps:
        told = [event for event in events if event["event"] == "step"]
        assert [event["n"] for event in told] == [step.n for step in found.steps]
        assert [event["U"] for event in told] == [step.U for step in found.steps]
        for name in ("T", "item", "proposal", "fix", "Delta", "accepted", "alpha"):
            assert name in told[0]
        assert told[0]["proposal"] in TASK.labels
    else:
        told = [event for event in events if event["event"] == "sweep"]
        assert [(event["restart"], event["sweep"]) for event in told] == [
            (record.restart, record.sweep) for record in found.history
        ]


@pytest.mark.parametrize("start", ["random", "balanced", "zero-shot"])
@pytest.mark.parametrize(
    "settings",
    [one for one in PRESETS if not isinstance(one, ZeroShotSettings)],
    ids=preset_of,
)
async def test_a_kind_of_start_is_another_run_with_labels_as_good(
    settings: Settings, start: str, tmp_path: Path
) -> None:
    found = await label(
        reviews(32),
        task=TASK,
        endpoint=planted(32, meaning=2.0),
        gold="label",
        settings=settings,
        start=start,
        store=tmp_path / "store",
        runs=tmp_path / "runs",
    )
    assert found.accuracy is not None
    assert found.accuracy > 0.9
    assert len(list((tmp_path / "runs").iterdir())) == 1


async def test_zero_shot_has_no_first_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="zero-shot reads each row by itself: first labels"):
        await label(
            reviews(32),
            task=TASK,
            endpoint=planted(32),
            preset="zero-shot",
            start="random",
            store=tmp_path / "store",
        )


async def test_a_file_of_first_labels_is_where_the_search_starts(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(32))]
    wrong = {"positive": "negative", "negative": "positive"}
    start = tmp_path / "wrong.jsonl"
    start.write_bytes(
        b"\n".join(orjson.dumps({"id": r["id"], "label": wrong[r["label"]]}) for r in rows)
    )
    settings = AnnealSettings(iterations=0)
    found = await label(
        rows,
        task=TASK,
        endpoint=planted(32, meaning=0.0),
        gold="label",
        settings=settings,
        start=start,
        store=tmp_path / "store",
    )
    assert found.accuracy == 0  # no step was made, and all labels were given


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "r1", "label": "fine"}\n{"id": "r2", "label": "positive"}', "none of the labels"),
        ('{"id": "q", "label": "positive"}\n{"id": "r2", "label": "positive"}', "no row of"),
    ],
)
async def test_first_labels_of_other_rows_are_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    start = tmp_path / "start.jsonl"
    start.write_text(content, "utf-8")
    rows = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(8))]
    with pytest.raises(InputError, match=message):
        await label(rows, task=TASK, endpoint=planted(8), gold="label", start=start)


async def test_an_unknown_start_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'balanced'"):
        await label(reviews(8), task=TASK, endpoint=planted(8), start="balancd", store=tmp_path)


async def test_contexts_that_cannot_hold_all_demos_are_sampled_and_it_is_said(
    tmp_path: Path,
) -> None:
    settings = AnnealSettings(iterations=20, initial=32)
    found = await label(
        reviews(32),
        task=TASK,
        endpoint=planted(32, context_length=80),
        settings=settings,
        store=tmp_path / "store",
        runs=tmp_path / "runs",
    )
    (notice,) = found.notices
    assert "seeded sample balanced over the labels" in notice
    assert found.run is not None
    (search,) = (e for e in read(found.run / "journal.jsonl") if e["event"] == "search")
    assert search["notice"] == notice
    assert search["settings"]["max_demos"] < 31
