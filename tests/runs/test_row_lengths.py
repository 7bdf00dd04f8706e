"""Rows of too many tokens: refused all at once, skipped, or cut, by `label` and by `predict`."""

import csv
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_reviews import TASK

from icm_client import Labels, Task, label, rows_from
from icm_client.data.job import Job
from icm_client.endpoints.protocol import TokenIds
from icm_client.errors import InputError, RowError
from icm_client.runs.predict_file import predict_file
from icm_client.runs.predictor import Predictor
from icm_client.runs.row_lengths import NO_LIMIT, RowLimit, prompts_of, within_limit
from icm_client.scoring import open_store
from icm_client.testing import PlantedConcept
from icm_client.training.frozen_prompt import prompt_document

N = 32
LONG = {3: 40, 8: 300, 17: 90}
"""Row -> further words."""


def rows(n: int = N) -> list[dict[str, str]]:
    made = []
    for i in range(n):
        word = TASK.labels[i * 7 % 5 % 2]
        text = f"{word} words of row {i}" + "".join(f" and{k}" for k in range(LONG.get(i, 0)))
        made.append({"id": f"r{i}", "text": text, "label": word})
    return made


class Knowing(PlantedConcept):
    """Knows each row by its first word, however long it is."""

    def __init__(self, task: Task = TASK) -> None:
        planted = {}
        for row in rows(80):
            words = row["text"].split()
            for kept in range(5, len(words) + 1):
                prompt = task.render_all(rows_from([{"text": " ".join(words[:kept])}] * 2))[0]
                planted[prompt] = task.labels.index(row["label"])
        super().__init__(planted, task.label_texts, noise=0.1)
        self.asked: list[str] = []

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        self.asked.append(text)
        return await super().tokenize(text, add_special=add_special)


async def labelled(tmp_path: Path, **options: object) -> Labels:
    return await label(
        rows(),
        task=TASK,
        gold="label",
        endpoint=Knowing(),
        store=tmp_path / "s",
        runs=tmp_path / "runs",
        **options,  # type: ignore[arg-type]
    )


async def test_every_row_over_the_limit_is_named_with_its_length(tmp_path: Path) -> None:
    with pytest.raises(RowError) as caught:
        await labelled(tmp_path, max_row_tokens=30)
    assert str(caught.value) == (
        "rows:4: its prompt takes 48 tokens, more than the 30 of --max-row-tokens: shorten the "
        "text, or have such rows cut (--truncate) (id 'r3')\n"
        "  the same in lines 9 (id 'r8', 308 tokens) and 18 (id 'r17', 98 tokens)\n"
        "3 rows cannot be used"
    )
    assert caught.value.skippable


async def test_rows_over_the_limit_are_left_without_a_label(tmp_path: Path) -> None:
    found = await labelled(tmp_path, max_row_tokens=30, skip_bad_rows=True)
    assert [(row.id, row.line) for row in found.failed] == [("r3", 4), ("r8", 9), ("r17", 18)]
    assert found.accuracy == 1.0
    assert found.cut == 0
    assert all(row.cut_tokens is None for row in found.rows)
    assert found.run is not None
    settings = orjson.loads((found.run / "run.json").read_bytes())["settings"]
    assert (settings["max_row_tokens"], settings["truncate"]) == (30, False)


async def test_rows_are_cut_and_the_labels_say_which(tmp_path: Path) -> None:
    found = await labelled(tmp_path, max_row_tokens=30, truncate=True)
    assert found.failed == ()
    assert found.accuracy == 1.0
    cut = {row.row.id: row.cut_tokens for row in found.rows if row.cut_tokens}
    assert list(cut) == ["r3", "r8", "r17"]
    assert 308 - 30 <= cut["r8"] <= 308 - 29
    assert found.cut == found.summary()["cut"] == 3
    assert any("3 rows were cut to 30 tokens" in notice for notice in found.notices)
    assert found.rows[8].row.fields["text"] == rows()[8]["text"], "the row itself stays whole"
    found.write(tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open() as file:
        written = {row["id"]: row["cut_tokens"] for row in csv.DictReader(file)}
    assert written["r8"] == str(cut["r8"])
    assert written["r0"] == "0"


async def test_another_limit_is_another_run_and_none_is_the_run_as_before(tmp_path: Path) -> None:
    runs = {
        (await labelled(tmp_path, **options)).run
        for options in (
            {},
            {"max_row_tokens": 500},
            {"max_row_tokens": 30, "truncate": True},
            {"max_row_tokens": 40, "truncate": True},
        )
    }
    assert len(runs) == 4


async def test_new_rows_are_treated_as_those_of_the_run_were(tmp_path: Path) -> None:
    found = await labelled(tmp_path, max_row_tokens=30, truncate=True)
    assert found.run is not None
    new = tmp_path / "new.jsonl"
    new.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows(80)))
    predictor = Predictor.load(found.run)
    assert predictor.found.row_limit == RowLimit(30, truncate=True)
    with open_store(tmp_path / "s") as store:
        predicted = await predict_file(
            predictor, new, tmp_path / "out.jsonl", endpoint=Knowing(), store=store, gold="label"
        )
    assert predicted.accuracy == 1.0
    assert predicted.totals.cut == 3
    assert any("3 rows were cut to 30 tokens" in notice for notice in predicted.notices)
    lines = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    was = {row.row.id: row.cut_tokens for row in found.rows}
    assert {row["id"]: row["cut_tokens"] for row in lines[:N]} == was
    kept = predictor.kept()
    assert kept is not None
    assert kept.row_limit == predictor.found.row_limit
    assert max(len(prompt.split()) for prompt in kept.prompts) <= 30
    document = prompt_document(kept)
    assert (document["max_row_tokens"], document["truncate"]) == (30, True)
    assert any("max_row_tokens" in sentence for sentence in document["how"])


async def test_new_rows_over_the_limit_of_a_run_that_cuts_none_are_refused(tmp_path: Path) -> None:
    found = await labelled(tmp_path, max_row_tokens=30, skip_bad_rows=True)
    new = [row for row in rows(80) if row["id"] != "r3"]
    predictor = found.predictor()
    with pytest.raises(RowError, match="takes 308 tokens, more than the 30"):
        [one async for one in predictor.label(new, endpoint=Knowing(), store=tmp_path / "s")]
    left = [
        one.row.id
        async for one in predictor.label(
            new, endpoint=Knowing(), store=tmp_path / "s", skip_bad_rows=True
        )
    ]
    assert len(left) == 77


async def test_rows_that_are_not_searched_are_cut_and_named_too(tmp_path: Path) -> None:
    found = await labelled(tmp_path, max_row_tokens=30, truncate=True, search_rows=20)
    assert found.predicted == 12
    assert [row.row.id for row in found.rows if row.cut_tokens] == ["r3", "r8", "r17"]
    endpoint = Knowing()
    with pytest.raises(RowError, match="3 rows cannot be used"):
        await label(
            rows(),
            task=TASK,
            gold="label",
            endpoint=endpoint,
            store=tmp_path / "s",
            max_row_tokens=30,
            search_rows=20,
        )
    assert endpoint.usage.requests == 0, "nothing is scored before all rows are known to fit"


PAIRS = Task(
    template="First: {a}\nSecond: {b}\nBetter:",
    labels=("first", "second"),
    exchange=("a", "b"),
)


async def cut_prompts(job: Job, most: int, tmp_path: Path) -> list[str]:
    endpoint = PlantedConcept({"x": 0}, (" y",))
    with open_store(tmp_path / "s") as store:
        within = await within_limit(job, RowLimit(most, truncate=True), endpoint, store)
    assert within.too_long == {}
    read = [within.as_read.get(n, row) for n, row in enumerate(job.dataset.rows)]
    prompts = list(within.job.prompts)
    assert [one for both in prompts_of(read, job) for one in both] == prompts
    return prompts


async def test_both_orders_of_a_pair_show_the_same_texts(tmp_path: Path) -> None:
    long = " ".join(f"w{n}" for n in range(60))
    job = Job.prepare([{"a": long, "b": "short one"}, {"a": long, "b": f"x{long}"}], PAIRS)
    one, other, both, exchanged = await cut_prompts(job, 24, tmp_path)
    assert one.startswith("First: w0 w1")
    assert one.endswith("\nSecond: short one\nBetter:")
    text = one.removeprefix("First: ").partition("\n")[0]
    assert other == f"First: short one\nSecond: {text}\nBetter:"
    assert text.split() == long.split()[: len(text.split())], "no word is cut in two"
    assert 10 < len(text.split()) < 20
    first, second = both.removeprefix("First: ").removesuffix("\nBetter:").split("\nSecond: ")
    assert abs(len(first) - len(second)) < 8, "of two long texts neither is favoured"
    assert exchanged == f"First: {second}\nSecond: {first}\nBetter:"


async def test_a_template_that_is_too_long_itself_is_no_fault_of_the_text(tmp_path: Path) -> None:
    job = Job.prepare(["one two three four five", "six"], TASK)
    endpoint = PlantedConcept({"x": 0}, (" y",))
    with open_store(tmp_path / "s") as store:
        within = await within_limit(job, RowLimit(2, truncate=True), endpoint, store)
        assert sorted(within.too_long) == [0, 1]
        assert "without most of its texts still more than the 2" in within.too_long[0]
        whole = await within_limit(job, NO_LIMIT, endpoint, store)
    assert whole.job is job


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(8, 60))
async def test_a_cut_row_is_within_the_limit_and_wastes_little_of_it(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], most: int
) -> None:
    text = " ".join("x" * length for length in lengths)
    job = Job.prepare([text, "another"], TASK)
    endpoint = PlantedConcept({"x": 0}, (" y",))
    with open_store(tmp_path_factory.mktemp("s") / "s") as store:
        within = await within_limit(job, RowLimit(most, truncate=True), endpoint, store)
    ids = await endpoint.tokenize(within.job.prompts[0], add_special=False)
    whole = await endpoint.tokenize(job.prompts[0], add_special=False)
    assert len(ids) <= most
    assert len(ids) >= min(len(whole), most - 2)
    assert within.cut == {0: len(whole) - len(ids), 1: 0}
    assert within.job.prompts[1] == job.prompts[1]


def test_a_limit_that_says_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="give that as well"):
        RowLimit(truncate=True)
    with pytest.raises(InputError, match="0 allows none"):
        RowLimit(0)
