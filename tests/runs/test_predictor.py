"""New rows are labelled with what a run has found, each on its own."""

import random
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from planted_reviews import COLOURS, TASK, reviews
from predictions import NEW, RUN, concept, labelled, new_rows, predicted, run_in, write
from test_fold_runs import trainer
from text_film_server import text_film_server

from icm_client import Labels, SweepSettings, Task, label, read_rows, rows_from
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.anneal_official import OfficialSettings
from icm_client.coherence.folds import FoldSettings
from icm_client.data import LabelledRow
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.items import items_of, render_items
from icm_client.endpoints import Answer, Read
from icm_client.errors import (
    EndpointFault,
    InputError,
    ModelChanged,
    RequestRefused,
    RowError,
    RunStopped,
    TooManyFailed,
)
from icm_client.runs.predict_file import PredictProgress
from icm_client.runs.predictor import Predictor
from icm_client.runs.presets import Settings
from icm_client.scoring import optimal_tokens
from icm_client.testing import PlantedConcept, PlantedServer

Said = dict[object, tuple[str, dict[str, float], float | None]]


def said(rows: Sequence[LabelledRow]) -> Said:
    return {row.row.id: (row.label, dict(row.log_probs), row.confidence) for row in rows}


def beside(output: Path) -> list[Path]:
    return [path for path in output.parent.iterdir() if path.name.startswith(f"{output.name}.")]


def accuracy(rows: Sequence[LabelledRow], gold: Sequence[dict[str, Any]]) -> float:
    words = {row["id"]: row["label"] for row in gold}
    assert len(rows) == len(gold)
    right = [row.label == words[row.row.id] for row in rows]
    return right.count(True) / len(right)


async def test_a_row_gets_the_same_whatever_rows_come_with_it(tmp_path: Path) -> None:
    """Labels, log-probs and confidence, to the last bit; scores are asked anew each time."""
    labels = await run_in(tmp_path)
    rows = new_rows()
    alone = said(await labelled(labels.predictor(), rows, concept(), tmp_path / "alone"))
    assert len(alone) == NEW
    orders = [rows, rows[::-1], random.Random(3).sample(rows, NEW), rows[5:9], rows[:1]]
    for number, some in enumerate(orders):
        for batch in (1, 7, 1000):
            store = tmp_path / f"{number}-{batch}"
            found = await labelled(labels.predictor(), some, concept(), store, batch=batch)
            assert [row.row.id for row in found] == [row["id"] for row in some]
            assert said(found) == {row["id"]: alone[row["id"]] for row in some}, (number, batch)


@pytest.mark.parametrize("contexts", [1, 3])
async def test_a_row_costs_one_read_a_context(tmp_path: Path, contexts: int) -> None:
    asked: list[tuple[int, ...]] = []

    class Noting(PlantedConcept):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            asked.extend(tuple(read.prompt) for read in reads)
            return await super().read(reads, lane=lane)

    labels = await run_in(tmp_path)
    file = write(tmp_path / "rows.jsonl", new_rows())
    first = await predicted(tmp_path, file, concept(), contexts=contexts)
    # Half of the run's rows, and with more contexts others of them, are read in each context.
    assert first.cost.from_server == (NEW + RUN // 2) * contexts
    model = Noting(concept()._planted, TASK.label_texts, strength=4.0, meaning=1.5)
    assert labels.server == model.identity
    again = await predicted(tmp_path, file, model, contexts=contexts, store="another")
    assert again.cost.from_server == NEW * contexts
    assert len(asked) == len(set(asked)) == NEW * contexts
    assert model.usage.computed_tokens <= 1.05 * optimal_tokens(asked)
    assert again.accuracy == 1


async def test_a_server_computes_each_row_once(tmp_path: Path) -> None:
    """Over HTTP, where many requests are in flight at once and end in any order."""
    file = write(tmp_path / "rows.jsonl", new_rows())
    model = concept()
    async with PlantedServer(model) as server:
        await run_in(tmp_path, server.url)
        await predicted(tmp_path, file, server.url)
        before = model.usage.computed_tokens
        server.received.clear()
        await predicted(tmp_path, file, server.url, store="another")
        prompts = [
            tuple(prompt)
            for one in server.received
            if one.path == "/v1/completions" and one.body.get("logprob_token_ids")
            for prompt in one.body["prompt"]
        ]
    assert len(prompts) == NEW
    assert model.usage.computed_tokens - before <= 1.05 * optimal_tokens(prompts)


async def test_the_same_call_again_asks_for_no_score(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", new_rows())
    async with PlantedServer(concept()) as server:
        await run_in(tmp_path, server.url)
        await predicted(tmp_path, file, server.url)
        written = (tmp_path / "out.jsonl").read_bytes()
        server.received.clear()
        again = await predicted(tmp_path, file, server.url)
        reads = [one for one in server.received if one.path == "/v1/completions"]
    assert again.cost.from_server == 0
    assert again.cost.checked == len(reads) <= 3  # whether the server has the same model still
    assert (tmp_path / "out.jsonl").read_bytes() == written
    assert not beside(tmp_path / "out.jsonl")


async def test_a_file_has_the_labels_of_the_same_rows_from_python(tmp_path: Path) -> None:
    rows = new_rows()
    labels = await run_in(tmp_path)
    found = await labelled(labels.predictor(), rows, concept(), tmp_path / "another")
    for name in ("out.csv", "out.parquet", "out.jsonl"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        file = write(tmp_path / "rows.jsonl", rows)
        result = await predicted(tmp_path, file, concept(), output=name, batch=9)
        written = read_rows(tmp_path / name).rows
        assert [row.fields["label"] for row in written] == [row.label for row in found]
        assert [row.id for row in written] == [row["id"] for row in rows]
        assert result.accuracy == accuracy(found, rows)
        assert result.confidence == pytest.approx(
            sum(row.confidence or 0 for row in found) / len(found)
        )


SETTINGS: list[Settings] = [
    SweepSettings(),
    AnnealSettings(iterations=120),
    OfficialSettings(iterations=120),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: type(one).__name__)
async def test_new_rows_are_labelled_from_every_preset(settings: Settings, tmp_path: Path) -> None:
    labels = await run_in(tmp_path, settings=settings)
    found = await labelled(labels.predictor(), new_rows(), concept(), tmp_path / "store")
    assert accuracy(found, new_rows()) >= 0.95
    loaded = Predictor.load(labels.run or "")
    again = await labelled(loaded, new_rows(), concept(), tmp_path / "another")
    assert said(again) == said(found)


async def test_no_context_reads_rows_zero_shot_by_thresholds_of_the_run_s_rows(
    tmp_path: Path,
) -> None:
    """As a model is asked that was trained on the labels; its label bias is undone."""
    labels = await run_in(tmp_path)
    tuned, again = (concept(meaning=2.0, bias=[3.0, 0.0], seed=1) for _ in range(2))
    options = {"contexts": 0, "accept_other_model": True}
    found = await labelled(labels.predictor(), new_rows(), tuned, tmp_path / "store", **options)
    assert accuracy(found, new_rows()) > 0.95
    assert tuned.usage.requests == RUN + NEW
    assert tuned.usage.computed_tokens + tuned.usage.cached_tokens < 20 * (RUN + NEW)  # no demos
    same = await labelled(labels.predictor(), new_rows(), again, tmp_path / "store", **options)
    assert (same, again.usage.requests) == (found, 0)


async def test_labels_of_a_trained_model_are_predicted_in_the_base_model_s_contexts(
    tmp_path: Path,
) -> None:
    labels = await run_in(
        tmp_path, settings=FoldSettings(passes=2), trainer=trainer(tmp_path / "trained", n=RUN)
    )
    found = await labelled(labels.predictor(), new_rows(), concept(), tmp_path / "store")
    assert accuracy(found, new_rows()) >= 0.95


async def test_more_than_two_labels(tmp_path: Path) -> None:
    model = concept(COLOURS, meaning=2.5)
    labels = await run_in(tmp_path, model, task=COLOURS)
    found = await labelled(labels.predictor(), new_rows(COLOURS), model, tmp_path / "store")
    assert accuracy(found, new_rows(COLOURS)) >= 0.95
    assert {tuple(row.log_probs) for row in found} == {COLOURS.labels}
    assert labels.confidence is not None
    assert all(0 < (row.confidence or 0) < 1 for row in found)


async def test_pinned_rows_name_the_labels_of_new_ones(tmp_path: Path) -> None:
    """The words say nothing here: only the pins tell which class is which."""
    rows = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(RUN))]
    pins = {row["id"]: row["label"] for row in rows[:6]}
    model = concept(meaning=0.0)
    labels = await run_in(tmp_path, model, rows=rows, pins=pins)
    assert labels.pinned == 6
    found = await labelled(labels.predictor(), new_rows(), model, tmp_path / "store")
    assert accuracy(found, new_rows()) >= 0.95
    assert not any(row.pinned for row in found)


async def test_rows_of_a_run_that_is_not_trusted_get_no_confidence(tmp_path: Path) -> None:
    model = concept(COLOURS, strength=3.0, meaning=0.0, noise=1.0)
    labels = await run_in(tmp_path, model, task=COLOURS)
    assert labels.verdict == "do not trust"
    file = write(tmp_path / "rows.jsonl", new_rows(COLOURS))
    result = await predicted(tmp_path, file, model)
    assert result.verdict == "do not trust"
    assert result.confidence is None
    assert {row.fields["confidence"] for row in read_rows(tmp_path / "out.jsonl").rows} == {None}


# Rules


CLAIMS = Task(
    template="Question: {q}\nClaim: {text}\nI think this claim is",
    labels=("True", "False"),
    constraint=ConstraintSpec(kind="at-most-one", group=("q",)),
)
SIDES = Task(
    template="Claim: {text}\nI think this claim is",
    labels=("True", "False"),
    constraint=ConstraintSpec(kind="asymmetry", group=("pair",)),
)
PAIRS = Task(
    template="1: {one}\n2: {two}\nClaim: 1 is better.\nI think this claim is",
    labels=("True", "False"),
    exchange=("one", "two"),
)


def claims(questions: range) -> list[dict[str, Any]]:
    """Three claims a question; the model finds the second one true, and often another too."""
    return [
        {"id": f"{q}/{a}", "q": f"q{q}", "text": f"claim {a} on {q}", "label": str(a == q % 3)}
        for q in questions
        for a in range(3)
    ]


def claims_concept() -> PlantedConcept:
    rows = claims(range(40))
    prompts = CLAIMS.render_all(rows_from(rows, gold="label"))
    # Of every fifth question the model finds all claims true.
    classes = [0 if row["label"] == "True" or n // 3 % 5 == 0 else 1 for n, row in enumerate(rows)]
    return PlantedConcept(
        dict(zip(prompts, classes, strict=True)), CLAIMS.label_texts, strength=4.0, meaning=1.5
    )


async def test_at_most_one_row_of_a_new_group_holds_wherever_batches_end(tmp_path: Path) -> None:
    labels = await run_in(tmp_path, claims_concept(), rows=claims(range(20)), task=CLAIMS)
    rows = claims(range(20, 40))
    whole = await labelled(labels.predictor(), rows, claims_concept(), tmp_path / "whole")
    true = [row.row.fields["q"] for row in whole if row.label == "True"]
    assert len(true) == len(set(true)) >= 15
    alone = [max(row.log_probs, key=lambda word: row.log_probs[word]) for row in whole]
    assert alone.count("True") > len(true), "the rule has decided nothing"
    for batch in (1, 4, 7):
        store = tmp_path / f"{batch}"
        found = await labelled(labels.predictor(), rows, claims_concept(), store, batch=batch)
        assert said(found) == said(whole)
    apart = [*rows[:1], *rows[3:], *rows[1:3]]
    with pytest.raises(RowError, match="sort the file by 'q'"):
        await labelled(labels.predictor(), apart, claims_concept(), tmp_path / "apart", batch=4)
    whole = await labelled(labels.predictor(), apart, claims_concept(), tmp_path / "whole")
    assert len(whole) == len(rows)  # in one batch they may lie anywhere


async def test_one_of_two_sides_of_a_new_pair_holds(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"{n}{side}", "pair": n, "text": f"{side} of {n}", "label": str(side == "left")}
        for n in range(40)
        for side in ("left", "right")
    ]
    prompts = SIDES.render_all(rows_from(rows, gold="label"))
    # Of every fourth pair the model would take both sides.
    classes = [0 if row["label"] == "True" or row["pair"] % 4 == 0 else 1 for row in rows]
    planted = dict(zip(prompts, classes, strict=True))

    def model() -> PlantedConcept:
        return PlantedConcept(planted, SIDES.label_texts, strength=4.0, meaning=1.5)

    labels = await run_in(tmp_path, model(), rows=rows[:40], task=SIDES)
    for batch in (1, 1000):
        found = await labelled(
            labels.predictor(), rows[40:], model(), tmp_path / f"{batch}", batch=batch
        )
        assert len(found) == 40
        for one, other in zip(found[::2], found[1::2], strict=True):
            assert one.label != other.label


async def test_new_pairs_are_shown_in_both_orders_and_agree(tmp_path: Path) -> None:
    rows = [
        {"id": n, "one": f"text {n}", "two": f"word {n}", "label": str(n * 7 % 5 % 2 == 0)}
        for n in range(60)
    ]
    data = rows_from(rows, gold="label")
    items = items_of(PAIRS, data)
    classes = [int((data.gold or ())[item.row] != "True") ^ item.exchanged for item in items]
    prompts = dict(zip(render_items(PAIRS, data, items), classes, strict=True))

    def model() -> PlantedConcept:
        return PlantedConcept(prompts, PAIRS.label_texts, meaning=2.0)

    labels = await run_in(tmp_path, model(), rows=rows[:40], task=PAIRS)
    file = write(tmp_path / "rows.jsonl", rows[40:])
    result = await predicted(tmp_path, file, model(), store="another")
    assert result.accuracy == 1
    assert result.labelled == 20
    measured = Predictor.load(labels.run or "")
    endpoint = model()
    found = await labelled(measured, rows[40:], endpoint, tmp_path / "third")
    assert len(found) == 20
    exchanged = [
        {**row, "one": row["two"], "two": row["one"], "label": str(row["label"] != "True")}
        for row in rows[40:]
    ]
    others = await labelled(measured, exchanged, endpoint, tmp_path / "third")
    assert [one.label == "True" for one in found] == [one.label == "False" for one in others]


# Other models, other rows


async def test_another_model_is_refused_unless_accepted(tmp_path: Path) -> None:
    labels = await run_in(tmp_path)
    file = write(tmp_path / "rows.jsonl", new_rows())
    await predicted(tmp_path, file, concept())
    kept = (labels.run or tmp_path) / "predictor.json"
    before = kept.read_bytes()
    other = concept(seed=7, bias=[2.5, 0.0])
    with pytest.raises(ModelChanged, match="--accept-other-model"):
        await predicted(tmp_path, file, other, output="other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()
    result = await predicted(tmp_path, file, other, output="other.jsonl", accept_other_model=True)
    assert result.accuracy == 1  # its bias is measured, not the first model's
    assert [finding.code for finding in result.findings] == ["other-model"]
    assert result.verdict == "check"
    assert kept.read_bytes() == before
    again = await predicted(tmp_path, file, concept())
    assert again.findings == ()


def of(rows: Sequence[dict[str, Any]], **formula: Any) -> PlantedConcept:
    prompts = TASK.render_all(rows_from([{"text": row["text"]} for row in rows]))
    classes = [TASK.labels.index(row["label"]) for row in rows]
    return PlantedConcept(
        dict(zip(prompts, classes, strict=True)),
        TASK.label_texts,
        **{"strength": 4.0, "meaning": 1.5, "noise": 1.5, **formula},
    )


SEARCHED = reviews(128)
ALIKE = [{**row, "id": n} for n, row in enumerate(reviews(1128)[128:])]
SHIFTED = {
    "shares": [
        {"id": n, "text": f"words of row {n}", "label": "positive"} for n in range(2000, 2300)
    ],
    "length": [
        {**row, "text": f"{row['text']} and so on and on", "id": n}
        for n, row in enumerate(reviews(300))
    ],
}


@pytest.mark.parametrize("kind", SHIFTED)
async def test_rows_of_another_kind_are_told(kind: str, tmp_path: Path) -> None:
    model = of([*SEARCHED, *SHIFTED[kind]])
    await run_in(tmp_path, model, rows=SEARCHED)
    file = write(tmp_path / "rows.jsonl", SHIFTED[kind])
    result = await predicted(tmp_path, file, model, batch=50)
    (finding,) = [one for one in result.findings if one.code == "shifted-rows"]
    assert ("how long" in finding.message) == (kind == "length")
    assert ("prefers a label" in finding.message) == (kind == "shares")
    assert "Kolmogorov-Smirnov" in (finding.figures or "")
    assert result.verdict == "check"


@pytest.mark.parametrize("seed", range(4))
async def test_rows_of_the_same_kind_are_not(seed: int, tmp_path: Path) -> None:
    model = of([*SEARCHED, *ALIKE], seed=seed)
    await run_in(tmp_path, model, rows=SEARCHED, seed=seed)
    some = random.Random(seed).sample(ALIKE, 400)
    result = await predicted(tmp_path, write(tmp_path / "rows.jsonl", some), model, batch=50)
    assert "shifted-rows" not in {one.code for one in result.findings}


# Rows without a score


class Poisoned(PlantedConcept):
    """Refuses rows whose text is among some."""

    refused: frozenset[str] = frozenset()

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        for read in reads:
            _, target, _ = self._parse(read.prompt)
            if any(f"{text}\n" in target for text in self.refused):
                raise RequestRefused("400: content policy")
        return await super().read(reads, lane=lane)


def poisoned(*rows: dict[str, Any]) -> Poisoned:
    model = Poisoned(concept()._planted, TASK.label_texts, strength=4.0, meaning=1.5)
    model.refused = frozenset(row["text"] for row in rows)
    return model


async def test_rows_that_the_server_refuses_have_no_label(tmp_path: Path) -> None:
    rows = new_rows()
    await run_in(tmp_path, poisoned())
    file = write(tmp_path / "rows.jsonl", rows)
    result = await predicted(tmp_path, file, poisoned(rows[3]), batch=10)
    assert result.totals.without_label == result.totals.without_score == 1
    assert [row.id for row in result.totals.failed] == ["n3"]
    assert "content policy" in result.totals.failed[0].reason
    assert (result.totals.rows, result.labelled, result.accuracy) == (NEW, NEW - 1, 1)
    ids = [row.id for row in read_rows(tmp_path / "out.jsonl").rows]
    assert ids == [row["id"] for row in rows if row["id"] != "n3"]


async def test_too_many_rows_without_a_score_end_it_and_it_goes_on_once_more_are_allowed(
    tmp_path: Path,
) -> None:
    rows = new_rows()
    await run_in(tmp_path, poisoned())
    file = write(tmp_path / "rows.jsonl", rows)
    bad = poisoned(*rows[15:18])
    with pytest.raises(TooManyFailed, match="3 of the first 20"):
        await predicted(tmp_path, file, bad, batch=10)
    assert not (tmp_path / "out.jsonl").exists()
    result = await predicted(tmp_path, file, bad, batch=10, fail_on_error=4)
    assert result.labelled == NEW - 3
    assert result.totals.rows == NEW


async def test_a_row_that_is_too_long_is_named_and_skipped_where_the_call_says_so(
    tmp_path: Path,
) -> None:
    """It is met after a batch has been written: that batch is not asked again."""
    long = {"id": "long", "text": "on and on " * 400, "label": "positive"}
    rows = [*new_rows(), long]
    model = of([*reviews(RUN), *rows], context_length=1000)
    await run_in(tmp_path, model)
    file = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(RowError, match="has room for") as error:
        await predicted(tmp_path, file, model, batch=10)
    assert error.value.line == NEW + 1
    result = await predicted(tmp_path, file, model, batch=10, skip_bad_rows=True)
    assert result.cost.from_server == 0
    assert [row.id for row in result.totals.failed] == ["long"]
    assert result.totals.without_score == 0
    assert result.labelled == NEW


async def test_rows_that_cannot_be_used_are_named_before_anything_is_asked(tmp_path: Path) -> None:
    await run_in(tmp_path)
    rows = new_rows()
    rows[30]["text"] = ""
    file = write(tmp_path / "rows.jsonl", rows)
    model = concept()
    with pytest.raises(RowError, match="is empty"):
        await predicted(tmp_path, file, model, batch=10)
    assert model.usage.requests == 0
    result = await predicted(tmp_path, file, model, batch=10, skip_bad_rows=True)
    assert [(row.id, row.line) for row in result.totals.failed] == [("n30", 31)]


async def test_a_call_that_an_error_ended_goes_on(tmp_path: Path) -> None:
    class Dying(PlantedConcept):
        left = 25

        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            self.left -= len(reads)
            if self.left < 0:
                raise EndpointFault("500")
            return await super().read(reads, lane=lane)

    await run_in(tmp_path)
    file = write(tmp_path / "rows.jsonl", new_rows())
    alone = await predicted(tmp_path, file, concept(), output="alone.jsonl", store="another")
    dying = Dying(concept()._planted, TASK.label_texts, strength=4.0, meaning=1.5)
    with pytest.raises(EndpointFault):
        await predicted(tmp_path, file, dying, batch=10)
    again = await predicted(tmp_path, file, concept(), batch=10)
    assert again.totals == alone.totals
    assert again.cost.from_store == 5  # of the batch that was under way; two are in the output
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


async def test_a_partial_output_of_other_rows_is_not_gone_on_with(tmp_path: Path) -> None:
    await run_in(tmp_path)
    file = write(tmp_path / "rows.jsonl", new_rows())
    written = 0

    def progress(at: PredictProgress) -> None:
        nonlocal written
        written = at.rows

    async def until(rows: int) -> None:
        with pytest.raises(RunStopped) as stopped:
            await predicted(
                tmp_path,
                file,
                concept(),
                batch=10,
                progress=progress,
                stopping=lambda: written >= rows,
            )
        assert stopped.value.goes_on == (rows > 0)

    await until(0)
    write(file, new_rows()[1:])
    await until(10)  # nothing had been written yet: nobody loses anything by other rows
    write(file, new_rows()[::-1])
    with pytest.raises(InputError, match="--fresh"):
        await predicted(tmp_path, file, concept(), batch=10)
    result = await predicted(tmp_path, file, concept(), batch=10, fresh=True)
    assert result.labelled == NEW


# From Python


async def test_a_loop_may_end_early_and_read_an_endless_source(tmp_path: Path) -> None:
    labels = await run_in(tmp_path)
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            row = new_rows()[taken % NEW]
            taken += 1
            yield {**row, "id": taken}

    seen = []
    async for row in labels.predictor().label(
        endless(), endpoint=concept(), store=tmp_path / "store", batch=8
    ):
        seen.append(row)
        if len(seen) == 12:
            break
    assert len(seen) == 12
    assert taken <= 17


async def test_label_sync_runs_in_a_running_loop_and_may_end_early(tmp_path: Path) -> None:
    labels = await run_in(tmp_path)
    predictor, rows = labels.predictor(), new_rows()
    assert repr(predictor) == f"<Predictor of {RUN} rows of {labels.run.name}>"  # type: ignore[union-attr]
    found = list(predictor.label_sync(rows, endpoint=concept(), store=tmp_path / "one", batch=7))
    assert accuracy(found, rows) == 1
    for row in predictor.label_sync(rows, endpoint=concept(), store=tmp_path / "one", batch=7):
        assert row == found[0]
        break
    with pytest.raises(RowError, match="no field 'text'"):
        next(predictor.label_sync([{"t": 1}], endpoint=concept(), store=tmp_path / "one"))


async def test_a_run_without_a_record_has_a_predictor_too(tmp_path: Path) -> None:
    labels: Labels = await label(
        reviews(RUN), task=TASK, endpoint=concept(), gold="label", store=tmp_path / "store"
    )
    assert labels.run is None
    found = await labelled(labels.predictor(), new_rows(), concept(), tmp_path / "store")
    assert accuracy(found, new_rows()) == 1


@pytest.fixture
async def text_url() -> AsyncIterator[str]:
    """A server that takes text alone; great songs are positive, some more clearly than others."""

    def sure(prompt: str) -> float:
        return -0.1 - zlib.crc32(prompt.encode()) % 100 / 1000

    async with text_film_server("m", sure) as url:
        yield url


async def test_a_server_that_takes_only_text(text_url: str, tmp_path: Path) -> None:
    rows = [{"text": f"{('great', 'awful')[n % 2]} song {n}"} for n in range(34)]
    labels = await run_in(tmp_path, text_url, rows=[{**row, "label": None} for row in rows[:24]])
    predictor = Predictor.load(labels.run or "")
    found = predictor.label(rows[24:], endpoint=text_url, store=tmp_path / "store")
    assert [row.label async for row in found] == ["positive", "negative"] * 5
