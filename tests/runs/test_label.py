"""`label` from rows to labels, over a planted concept and a real score store."""

import pickle
import threading
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import orjson
import pytest
from planted_reviews import COLOURS, TASK, Dawdling, Failing, data, planted, reviews

import icm_client.runs.server
from icm_client import (
    Labels,
    Progress,
    SweepRecord,
    SweepSettings,
    Task,
    label,
    label_sync,
    read_rows,
)
from icm_client.coherence.result import Step
from icm_client.endpoints import EmbeddedEndpoint, Endpoint, RetryPolicy, TransportSettings
from icm_client.errors import (
    EndpointFault,
    InputError,
    PromptTooLong,
    RowError,
    RunStopped,
    TaskError,
    TooManyFailed,
)
from icm_client.runs.presets import fit
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import Pieces, ScoreStore
from icm_client.settings import Environment
from icm_client.testing import PlantedServer, after, status


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "scores.sqlite3"


def columns(found: Labels, folder: Path) -> bytes:
    """What is written, without the gold column and the rows' own fields."""
    path = folder / "columns.jsonl"
    found.write(path)
    kept = ("id", "confidence", *(f"log_prob_{word}" for word in found.labels))
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return b"\n".join(
        orjson.dumps([found.rows[n].label, *(line[name] for name in kept)])
        for n, line in enumerate(lines)
    )


@pytest.mark.parametrize("task", [TASK, COLOURS])
async def test_a_run_finds_the_planted_labels_and_tells_about_it(task: Task, store: Path) -> None:
    endpoint = planted(48, task)
    found = await label(reviews(48, task), task=task, endpoint=endpoint, gold="label", store=store)
    assert found.accuracy is not None
    assert found.accuracy > 0.95
    assert found.rows_with_gold == len(found.rows) == 48
    assert found.labels == task.labels
    assert list(found.counts) == list(task.labels)
    assert sum(found.counts.values()) == 48
    assert found.server == endpoint.identity
    assert found.seed == 0
    assert found.utility > 0.2
    assert not any(finding.fatal for finding in found.findings)
    assert [row.row.id for row in found.rows] == list(range(1, 49))
    for row in found.rows:
        assert "label" not in row.row.fields
        assert tuple(row.log_probs) == task.labels
        assert row.label == max(row.log_probs, key=lambda word: row.log_probs[word])
        assert row.confidence is not None
        assert np.exp(row.log_probs[row.label]) - 1e-9 <= row.confidence <= 1
        assert sum(np.exp(list(row.log_probs.values()))) == pytest.approx(1)
    summary = orjson.loads(orjson.dumps(found.summary()))
    assert summary["rows"] == 48
    assert summary["counts"] == found.counts
    assert summary["accuracy"] == found.accuracy
    assert len(summary["sweeps"]) == len(found.history)
    assert found.cost.seconds > 0
    assert found.cost.computed_tokens == endpoint.usage.computed_tokens


@pytest.mark.parametrize(
    "task",
    [TASK, COLOURS],
)
async def test_every_read_is_counted(task: Task, store: Path) -> None:
    endpoint = planted(task=task)
    found = await label(reviews(32, task), task=task, endpoint=endpoint, store=store)
    assert found.cost.from_store == 0
    assert found.cost.from_server == endpoint.usage.requests == found.cost.requests


async def test_the_same_call_again_asks_nothing_and_finds_the_same(
    store: Path, tmp_path: Path
) -> None:
    first = await label(reviews(32), task=TASK, endpoint=planted(), store=store)
    endpoint = planted()
    again = await label(reviews(32), task=TASK, endpoint=endpoint, store=store)
    assert endpoint.usage.requests == again.cost.requests == again.cost.from_server == 0
    assert again.cost.from_store == first.cost.from_server
    assert again.rows == first.rows
    assert again.history == first.history
    assert columns(again, tmp_path) == columns(first, tmp_path)


async def test_another_seed_goes_another_way(store: Path) -> None:
    first = await label(reviews(32), task=TASK, endpoint=planted(), store=store)
    other = await label(reviews(32), task=TASK, endpoint=planted(), store=store, seed=5)
    assert other.seed == 5
    assert other.history != first.history


async def test_the_order_of_answers_changes_nothing(tmp_path: Path) -> None:
    one = await label(reviews(32), task=TASK, endpoint=planted(), store=tmp_path / "one")
    dawdling = Dawdling()
    other = await label(reviews(32), task=TASK, endpoint=dawdling, store=tmp_path / "other")
    assert dawdling.usage.requests == one.cost.from_server
    assert other.rows == one.rows
    assert other.history == one.history


async def test_the_order_in_which_labels_are_listed_changes_nothing(store: Path) -> None:
    turned = Task(template=TASK.template, labels=TASK.labels[::-1])
    first = await label(reviews(32), task=TASK, endpoint=planted(), store=store)
    endpoint = planted()
    other = await label(reviews(32), task=turned, endpoint=endpoint, store=store)
    assert endpoint.usage.requests == 0
    assert [row.label for row in other.rows] == [row.label for row in first.rows]
    assert [dict(row.log_probs) for row in other.rows] == [
        dict(row.log_probs) for row in first.rows
    ]
    assert list(other.counts) == list(turned.labels)


async def test_gold_labels_are_for_nothing_but_the_accuracy(store: Path, tmp_path: Path) -> None:
    flip = dict(zip(TASK.labels, TASK.labels[::-1], strict=True))
    poisoned = [{**row, "label": flip[row["label"]]} for row in reviews(32)]
    unknown = [{"text": row["text"]} for row in reviews(32)]
    true = await label(reviews(32), task=TASK, endpoint=planted(), gold="label", store=store)
    endpoint = planted()
    false = await label(poisoned, task=TASK, endpoint=endpoint, gold="label", store=store)
    none = await label(unknown, task=TASK, endpoint=endpoint, store=store)
    assert endpoint.usage.requests == 0  # identical reads, all answered already
    assert true.cost.from_server == false.cost.from_store == none.cost.from_store
    assert columns(true, tmp_path) == columns(false, tmp_path) == columns(none, tmp_path)
    assert true.history == false.history == none.history
    assert true.accuracy == pytest.approx(1 - (false.accuracy or 0))
    assert none.accuracy is None
    assert none.rows_with_gold == 0


async def test_rows_may_be_mappings_texts_a_file_or_a_data_set(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    texts = [row["text"] for row in reviews(32)]
    file.write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in texts))
    first = await label(texts, task=TASK, endpoint=planted(), store=store)
    assert [row.row.fields["text"] for row in first.rows] == texts
    for rows in ([{"text": text} for text in texts], iter(texts), file, str(file), read_rows(file)):
        endpoint = planted()
        found = await label(rows, task=TASK, endpoint=endpoint, store=store)
        assert endpoint.usage.requests == 0
        assert [row.label for row in found.rows] == [row.label for row in first.rows]
    with pytest.raises(InputError, match="read without the gold field 'label'"):
        await label(read_rows(file), task=TASK, gold="label", endpoint=planted(), store=store)


async def test_a_given_prior_is_kept(store: Path) -> None:
    prior = {"positive": 0.25}
    found = await label(
        reviews(32), task=TASK, endpoint=planted(meaning=3.0), prior=prior, store=store
    )
    assert found.prior_source == "given"
    mean = np.mean([np.exp(row.log_probs["positive"]) for row in found.rows])
    assert mean == pytest.approx(0.25, abs=1e-3)


async def test_wrong_input_is_told_before_anything_is_sent(store: Path) -> None:
    endpoint = planted()
    with pytest.raises(RowError):
        await label([{"txt": "a"}, {"txt": "b"}], task=TASK, endpoint=endpoint, store=store)
    with pytest.raises(TaskError):
        await label(reviews(4), task=TASK, endpoint=endpoint, prior={"fine": 0.1}, store=store)
    with pytest.raises(TaskError, match="sentiment"):
        await label(reviews(4), task="sentimet", endpoint=endpoint, store=store)
    assert endpoint.usage.requests == 0
    assert not store.exists()  # noqa: ASYNC240 - nothing else runs in this loop


async def test_an_endpoint_that_was_given_stays_open(store: Path) -> None:
    class Closing(Dawdling):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    endpoint = Closing()
    await label(reviews(32), task=TASK, endpoint=endpoint, store=store)
    assert not endpoint.closed


async def test_progress_tells_sensible_things(store: Path) -> None:
    seen: list[Progress] = []
    endpoint = planted()
    found = await label(
        reviews(32), task=TASK, endpoint=endpoint, store=store, progress=seen.append
    )
    ended: list[SweepRecord | Step] = []
    for before, now in zip([None, *seen], seen, strict=False):
        assert now.labels == tuple(sorted(TASK.labels))
        assert 0 <= now.done <= now.total <= 32
        assert now.left_s is None or now.left_s >= 0
        if now.last is not None and now.last not in ended:
            ended.append(now.last)
        if before is not None:
            assert now.cost.seconds >= before.cost.seconds
            assert now.cost.from_server >= before.cost.from_server
            assert now.cost.computed_tokens >= before.cost.computed_tokens
    assert tuple(ended) == found.history
    assert seen[-1].cost.from_server == found.cost.from_server == endpoint.usage.requests
    assert any(moment.left_s for moment in seen)


async def test_progress_never_goes_back_with_three_labels(store: Path) -> None:
    seen: list[int] = []
    await label(
        reviews(32, COLOURS),
        task=COLOURS,
        endpoint=planted(task=COLOURS),
        store=store,
        progress=lambda moment: seen.append(moment.cost.from_server),
    )
    assert seen == sorted(seen)


@pytest.mark.parametrize("allowed", [0, 1, 50, 100])
async def test_a_run_that_failed_goes_on_where_it_was(
    allowed: int, tmp_path: Path, store: Path
) -> None:
    undisturbed = await label(reviews(32), task=TASK, endpoint=planted(), store=tmp_path / "whole")
    assert undisturbed.cost.from_server > 100
    broken = Failing(allowed)
    with pytest.raises((EndpointFault, TooManyFailed)):
        await label(reviews(32), task=TASK, endpoint=broken, store=store)
    endpoint = planted()
    resumed = await label(reviews(32), task=TASK, endpoint=endpoint, store=store)
    assert resumed.rows == undisturbed.rows
    assert resumed.history == undisturbed.history
    assert broken.usage.requests == allowed
    assert allowed + endpoint.usage.requests == undisturbed.cost.from_server
    assert resumed.cost.from_store == allowed


def own_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    """Have `endpoint` stand where the embedded server would."""
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: endpoint)


def test_label_sync_is_label(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    own_endpoint(monkeypatch, planted())
    found = label_sync(data(reviews(32)), task=TASK, store=store, seed=3)
    assert found.seed == 3
    assert found.accuracy is not None
    assert found.accuracy > 0.95


async def test_label_sync_works_inside_a_running_loop(
    monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    own_endpoint(monkeypatch, planted())
    threads: set[str] = set()
    found = label_sync(
        reviews(32),
        task=TASK,
        store=store,
        progress=lambda _: threads.add(threading.current_thread().name),
    )
    assert len(found.rows) == 32
    assert threads
    assert threading.current_thread().name not in threads


def test_label_sync_raises_what_label_raises(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    own_endpoint(monkeypatch, Failing(10))
    with pytest.raises((EndpointFault, TooManyFailed)):
        label_sync(reviews(32), task=TASK, store=store)


def pieces(*lengths: int, n_labels: int = 2) -> Pieces:
    prompts = tuple(tuple(range(length)) for length in lengths)
    return Pieces((1,), prompts, tuple((k,) for k in range(n_labels)), (3, 3))


def small(context_length: int) -> Endpoint:
    return planted(2, context_length=context_length)


def test_demos_are_left_alone_where_they_fit() -> None:
    settings = SweepSettings(demos=20, second_demos=10, initial=8)
    assert fit(settings, pieces(*[10] * 30), small(4096)) == (settings, None)


def test_demos_are_lowered_to_what_fits_whichever_are_drawn() -> None:
    settings = SweepSettings(demos=20, second_demos=10, initial=8)
    # BOS 1, the longest target 20 and a label 1 leave 100 - 22 = 78 tokens. Demos take 3 more
    # than their prompt: 23 + 13 + 13 + 13 + 13 = 75 fit, another 13 do not.
    for context, demos in ((100, 5), (97, 5), (96, 4)):
        fitted, _ = fit(settings, pieces(20, *[10] * 30), small(context))
        assert isinstance(fitted, SweepSettings)
        assert (fitted.demos, fitted.second_demos, fitted.initial) == (demos, demos, demos)


def test_a_context_without_room_for_a_demo_of_each_label_is_refused() -> None:
    with pytest.raises(PromptTooLong, match="40 tokens of a context of 100"):
        fit(SweepSettings(), pieces(*[40] * 30), small(100))


def test_fewer_demos_than_labels_are_no_fault_of_the_context() -> None:
    settings = SweepSettings(demos=2, second_demos=2, initial=2)
    with pytest.raises(InputError, match="2 demos in a context cannot show 3 labels"):
        fit(settings, pieces(*[10] * 30, n_labels=3), small(4096))


async def test_a_small_context_is_kept_to(store: Path) -> None:
    found = await label(
        reviews(32), task=TASK, endpoint=planted(context_length=80), gold="label", store=store
    )
    assert found.accuracy is not None
    assert found.accuracy > 0.9
    with pytest.raises(PromptTooLong):
        await label(reviews(32), task=TASK, endpoint=planted(context_length=20), store=store)


async def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, str | None, str | None]] = []

    async def connect(url: str, *, model: str | None, api_key: object, **_: object) -> Endpoint:
        opened.append((url, model, getattr(api_key, "get_secret_value", lambda: None)()))
        return planted()

    monkeypatch.setattr(icm_client.runs.server, "connect", connect)
    monkeypatch.setenv("ICM_ENDPOINT", "http://from-environment")
    monkeypatch.setenv("ICM_MODEL", "base")
    monkeypatch.setenv("ICM_API_KEY", "sk-secret")
    async with open_endpoint(None):
        pass
    async with open_endpoint(Server("http://argument", model="other")):
        pass
    assert opened == [
        ("http://from-environment", "base", "sk-secret"),
        ("http://argument", "other", "sk-secret"),
    ]


async def test_without_any_server_the_embedded_one_is_opened() -> None:
    async with open_endpoint(None) as endpoint:
        assert isinstance(endpoint, EmbeddedEndpoint)
        assert endpoint._running is None  # until it is asked


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICM_API_KEY", "sk-secret")
    monkeypatch.setenv("ICM_ENDPOINT", "http://localhost:1")
    environment = Environment()
    assert environment.endpoint == "http://localhost:1"
    assert environment.api_key is not None
    assert environment.api_key.get_secret_value() == "sk-secret"
    for shown in (repr(environment), str(environment), environment.model_dump_json()):
        assert "sk-secret" not in shown


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICM_ENDPOINT", "")
    assert Environment().endpoint is None


async def test_a_tasks_own_gold_is_not_demanded_of_rows_without_it(store: Path) -> None:
    task = Task(template=TASK.template, labels=TASK.labels, gold="label")
    unlabelled = [{"text": row["text"]} for row in reviews(32)]
    found = await label(unlabelled, task=task, endpoint=planted(), store=store)
    assert found.accuracy is None
    labelled = await label(reviews(32), task=task, endpoint=planted(), store=store)
    assert labelled.accuracy is not None
    assert [row.label for row in labelled.rows] == [row.label for row in found.rows]


async def test_a_model_without_a_server_is_refused(store: Path) -> None:
    with pytest.raises(InputError, match="is named, but no server"):
        await label(
            reviews(4), task=TASK, endpoint=Server(model="meta-llama/Llama-3.1-8B"), store=store
        )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"preset": "fasst"}, "no preset 'fasst'"),
        ({"settings": {"demos": 3}}, "an object such as"),
        ({"preset": "paper", "settings": SweepSettings()}, "of the preset fast"),
        ({"seed": -1}, "0 or more"),
        ({"seed": "1"}, "whole number"),
        ({"endpoint": 8000}, "an endpoint must be a URL"),
    ],
)
async def test_what_is_no_argument_is_told_as_one(
    given: dict[str, object], says: str, store: Path
) -> None:
    given = {"task": TASK, "endpoint": planted(), "store": store, **given}
    with pytest.raises(InputError, match=says):
        await label(reviews(32), **given)  # type: ignore[arg-type]


async def test_a_progress_that_nobody_would_await_is_refused(store: Path) -> None:
    async def progress(_: Progress) -> None:
        pytest.fail("called")

    with pytest.raises(InputError, match="a plain function"):
        await label(
            reviews(32),
            task=TASK,
            endpoint=planted(),
            store=store,
            progress=progress,  # type: ignore[arg-type]
        )


def test_a_seed_of_numpy_is_a_seed_and_a_result_is_a_line(store: Path, tmp_path: Path) -> None:
    seed: int = np.int64(3)  # type: ignore[assignment]
    found = label_sync(
        reviews(32), task=TASK, endpoint=planted(), seed=seed, store=store, runs=tmp_path / "runs"
    )
    assert type(found.seed) is int
    assert repr(found).startswith("<Labels of 32 rows (positive: ")
    assert len(repr(found)) < 120


def test_a_server_has_a_kind_that_there_is() -> None:
    with pytest.raises(InputError, match="no kind of server 'vlm'"):
        Server("http://localhost:8000", kind="vlm")  # type: ignore[arg-type]


def test_the_synchronous_twin_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(label_sync)) is label_sync  # noqa: S301 - of our own
    assert label_sync.__name__ == "label_sync"


def test_an_open_store_cannot_follow_into_another_thread(store: Path) -> None:
    with ScoreStore.open(store) as kept, pytest.raises(InputError, match="give the store's path"):
        label_sync(reviews(32), task=TASK, endpoint=planted(), store=kept)


async def test_a_run_that_is_told_to_stop_repeats_nothing_more(tmp_path: Path) -> None:
    told = threading.Event()

    def progress(now: Progress) -> None:
        if now.waiting is not None:
            told.set()

    async with PlantedServer(planted(), faults=after(5, status(500))) as server:
        with anyio.fail_after(10), pytest.raises(RunStopped):
            await label(
                reviews(32),
                task=TASK,
                endpoint=server.url,
                store=tmp_path / "scores.sqlite3",
                progress=progress,
                stopping=told.is_set,
            )


async def test_what_goes_on_is_logged(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "icm_client")
    quick = Server(transport=TransportSettings(retry=RetryPolicy(initial_wait_s=0.01)))
    async with PlantedServer(planted(), faults=[None, status(500)]) as server:
        found = await label(
            reviews(32), task=TASK, endpoint=replace(quick, url=server.url), store=store
        )
    said = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "icm_client"]
    assert any(level == "WARNING" and "500" in words for level, words in said)
    sweeps = [words for level, words in said if level == "INFO"]
    assert len(sweeps) == len(found.history)
    assert sweeps[0].startswith("start 1, sweep 1: U ")
