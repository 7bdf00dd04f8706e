"""Training by a service: what it is sent, what comes back, and how every job ends."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import orjson
import pytest
from tuned_reviews import (
    CLASSES,
    EXAMPLES,
    PROMPTS,
    QUICK,
    TASK,
    TAUGHT,
    learnt,
    quick,
    service,
    trainer,
)

from icm_client.coherence.problem import Query
from icm_client.errors import (
    AuthenticationRefused,
    EndpointFault,
    InputError,
    ModelNotFound,
    TrainingError,
)
from icm_client.runs.trainer import Example, Trained, TrainingProgress
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.testing import Fault, after, reset, sometimes, status
from icm_client.testing.finetuning import Fate, FineTuningServer, Job
from icm_client.training.served import ServedTrainer
from icm_client.training.served_job import METADATA_KEY, ServedSettings


async def train(by: ServedTrainer, name: str = "reviews", **options: Any) -> Trained:
    with anyio.fail_after(30):
        return await by.train(EXAMPLES, name=name, seed=0, **options)


def sent(server: FineTuningServer, path: str = "/v1/fine_tuning/jobs") -> list[dict[str, Any]]:
    """Bodies of what was posted there."""
    return [one.body for one in server.received if one.path == path and one.body]


def state_in(folder: Path) -> Path:
    (path,) = folder.glob("*.json")
    return path


async def test_the_scorer_reads_a_trained_model(tmp_path: Path) -> None:
    async with service(fates=[Fate(serving_looks=2)]) as server:
        by = trainer(server.url, tmp_path / "state")
        trained = await train(by)
        assert (trained.base, trained.examples, trained.seconds) == ("planted", TAUGHT, 60.0)
        assert trained.loss == pytest.approx(1 / 3)
        held_out = [Query((), item) for item in range(TAUGHT, len(PROMPTS))]
        with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
            async with by.open(trained) as endpoint:
                assert endpoint.identity.model == trained.model
                pieces = await tokenize_pieces(PROMPTS, TASK.label_texts, "\n\n", endpoint, store)
                scores = await Scorer(endpoint, store, pieces)(held_out)
                fingerprint = endpoint.identity.fingerprint
            base = Trained("base", "planted", "planted", 0, None, 0.0)
            async with by.open(base) as endpoint:
                assert endpoint.identity.fingerprint != fingerprint
    # What a model that was asked directly says: nothing was lost between.
    direct = learnt(tuple(EXAMPLES))
    right = [direct.label_log_probs([], PROMPTS[query.target]) for query in held_out]
    np.testing.assert_allclose(scores, right, atol=1e-9)
    assert [int(row.argmax()) for row in scores] == CLASSES[TAUGHT:]


@pytest.mark.parametrize("form", ["completion", "chat"])
async def test_the_service_gets_the_examples_and_settings_as_openai_documents_them(
    tmp_path: Path, form: Any
) -> None:
    settings = replace(QUICK, format=form, epochs=5, batch_size=8, learning_rate_multiplier=0.5)
    async with service() as server:
        await train(trainer(server.url, tmp_path, settings=settings))
        (content,) = server.files.values()
        (body,) = sent(server)
        (job,) = server.jobs
    lines = [orjson.loads(line) for line in content.splitlines()]
    if form == "chat":
        assert all(list(line) == ["messages"] for line in lines)
        assert all([m["role"] for m in line["messages"]] == ["user", "assistant"] for line in lines)
        written = [tuple(message["content"] for message in line["messages"]) for line in lines]
    else:
        assert all(list(line) == ["prompt", "completion"] for line in lines)
        written = [(line["prompt"], line["completion"]) for line in lines]
    assert sorted(written) == sorted(map(tuple, EXAMPLES)), "prompt and label, its space included"
    assert written != list(map(tuple, EXAMPLES)), "in an order of its own"
    assert body["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 5,
        "batch_size": 8,
        "learning_rate_multiplier": 0.5,
    }
    assert (body["model"], body["training_file"], body["seed"]) == ("planted", "file-1", 0)
    digest = body["metadata"][METADATA_KEY]
    assert body["suffix"] == f"icm-{digest[:12]}"
    assert len(body["suffix"]) <= 18
    assert job["status"] == "succeeded"


async def test_progress_is_reported_while_the_job_runs(tmp_path: Path) -> None:
    reported: list[TrainingProgress] = []
    async with service(fates=[Fate(looks=3)]) as server:
        await train(trainer(server.url, tmp_path), progress=reported.append)
    assert [(one.name, one.step, one.steps) for one in reported] == [
        ("reviews", step, 3) for step in (1, 2, 3)
    ]
    assert [one.loss for one in reported] == [1 / 2, 1 / 3, 1 / 4]


async def test_a_service_without_events_trains_all_the_same(tmp_path: Path) -> None:
    reported: list[TrainingProgress] = []
    async with service() as server:
        server.refuse("/v1/fine_tuning/jobs/ftjob-1/events")
        trained = await train(trainer(server.url, tmp_path), progress=reported.append)
    assert trained.loss is None
    assert {(one.step, one.steps, one.loss) for one in reported} == {(0, None, None)}


async def test_the_same_call_again_sends_the_service_nothing(tmp_path: Path) -> None:
    async with service() as server:
        first = await train(trainer(server.url, tmp_path))
        asked = len(server.received)
        assert await train(trainer(f"{server.url}/v1", tmp_path)) == first
        assert len(server.received) == asked


@pytest.mark.parametrize("keeps_metadata", [True, False])
async def test_submitted_twice_is_one_job_even_without_the_state_file(
    tmp_path: Path, keeps_metadata: bool
) -> None:
    async with service(keeps_metadata=keeps_metadata) as server:
        first = await train(trainer(server.url, tmp_path / "one"))
        second = await train(trainer(server.url, tmp_path / "other"))
        assert second.model == first.model
        assert (len(server.jobs), len(server.files)) == (1, 1)


@pytest.mark.parametrize("change", ["name", "seed", "examples", "epochs"])
async def test_another_training_is_another_job(tmp_path: Path, change: str) -> None:
    swapped = [Example(EXAMPLES[0].prompt, EXAMPLES[-1].label), *EXAMPLES[1:]]
    assert swapped != EXAMPLES
    examples = swapped if change == "examples" else EXAMPLES
    settings = replace(QUICK, epochs=1) if change == "epochs" else QUICK
    name, seed = ("b" if change == "name" else "a"), (1 if change == "seed" else 0)
    async with service() as server:
        one = await trainer(server.url, tmp_path).train(EXAMPLES, name="a", seed=0)
        by = trainer(server.url, tmp_path, settings=settings)
        other = await by.train(examples, name=name, seed=seed)
        assert one.model != other.model
        assert (len(server.jobs), len(server.files)) == (2, 2)


async def test_more_jobs_than_a_page_are_all_looked_through(tmp_path: Path) -> None:
    async with service() as server:
        first = await train(trainer(server.url, tmp_path / "one"))
        body = sent(server)[0] | {"metadata": None, "suffix": "somebody", "training_file": "their"}
        for number in range(1, 250):
            others = Job.submitted(body, server.files["file-1"], number, Fate(), 10)
            server._jobs[f"ftjob-{number + 1}"] = others
        asked = len(server.received)
        again = await train(trainer(server.url, tmp_path / "two"))
        assert again.model == first.model
        assert len(server.jobs) == 250
        lists = [one for one in server.received[asked:] if one.path.endswith("/jobs")]
        assert len(lists) == 3


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        (Fate("failed", error="the GPU burnt"), "ftjob-1 failed: the GPU burnt"),
        (Fate("cancelled"), "ftjob-1 was cancelled"),
        (Fate("vanished"), "ftjob-1 has vanished"),
    ],
)
async def test_a_failed_job_is_an_error_and_the_next_call_submits_another(
    tmp_path: Path, fate: Fate, words: str
) -> None:
    async with service(fates=[fate]) as server:
        with pytest.raises(TrainingError, match=words) as raised:
            await train(trainer(server.url, tmp_path))
        assert "the same call submits it anew" in str(raised.value)
        trained = await train(trainer(server.url, tmp_path))
        assert [job["id"] for job in server.jobs] == ["ftjob-1", "ftjob-2"]
        assert trained.model == server.jobs[1]["fine_tuned_model"]
        assert len(server.files) == 1


async def test_a_job_that_vanishes_is_replaced_by_another_of_the_same_training(
    tmp_path: Path,
) -> None:
    async with service(fates=[Fate("vanished", looks=4)]) as server:
        async with anyio.create_task_group() as tasks:

            async def again() -> None:
                while not server.jobs:  # noqa: ASYNC110 - the server tells nobody
                    await anyio.sleep(0.005)
                # As a second submission looks whose first look at the list was too early.
                body = sent(server)[0]
                other = Job.submitted(body, server.files["file-1"], 1, Fate(), 10)
                server._jobs["ftjob-2"] = other

            tasks.start_soon(again)
            trained = await train(trainer(server.url, tmp_path))
        assert trained.model == server.jobs[1]["fine_tuned_model"]
        assert len(sent(server)) == 1


async def test_too_few_examples_for_the_service_is_its_error(tmp_path: Path) -> None:
    async with service(fewest=50) as server:
        with pytest.raises(TrainingError, match="24 example"):
            await train(trainer(server.url, tmp_path))


TROUBLES: dict[str, Fault] = {
    "500": status(500),
    "503": status(503, headers={"Retry-After": "1"}),
    "an answer lost": reset(after_bytes=1),
    "a connection reset": reset(),
}


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("seed", range(3))
async def test_a_service_in_trouble_for_a_while_ends_with_one_job(
    tmp_path: Path, trouble: str, seed: int
) -> None:
    script = sometimes(0.4, TROUBLES[trouble], random.Random(seed))
    async with service(faults=script) as server:
        trained = await train(trainer(server.url, tmp_path, transport=quick(bad_answers=20)))
        (job,) = server.jobs
        assert trained.model == job["fine_tuned_model"]
        assert len(server.files) == 1


async def test_500_for_a_while_is_waited_out_wherever_it_begins(tmp_path: Path) -> None:
    for begins in range(9):
        spell = range(begins, begins + 5)
        async with service(faults=lambda n, s=spell: status(500) if n in s else None) as server:
            await train(trainer(server.url, tmp_path / str(begins)))
            assert (len(server.jobs), len(server.files)) == (1, 1)


async def test_a_service_that_keeps_answering_500_is_given_up_and_a_later_call_continues(
    tmp_path: Path,
) -> None:
    async with service(faults=after(4, status(500))) as server:
        by = trainer(server.url, tmp_path, transport=quick(attempts=3))
        with pytest.raises(EndpointFault, match="gave up after 3 attempts"):
            await train(by)
        server.tuning_script = lambda _: None
        trained = await train(by)
        (job,) = server.jobs
        assert trained.model == job["fine_tuned_model"]


async def test_the_next_call_waits_for_a_job_that_takes_too_long(
    tmp_path: Path,
) -> None:
    async with service(fates=[Fate(looks=30)]) as server:
        hasty = replace(QUICK, deadline_s=0.05)
        with pytest.raises(TrainingError, match="the job ftjob-1 goes on"):
            await train(trainer(server.url, tmp_path, settings=hasty))
        await train(trainer(server.url, tmp_path))
        assert len(server.jobs) == 1


async def test_a_cancelled_wait_leaves_the_job_to_the_next_call(tmp_path: Path) -> None:
    async with service(fates=[Fate(looks=20)]) as server:
        with anyio.move_on_after(0.15):
            await trainer(server.url, tmp_path).train(EXAMPLES, name="reviews", seed=0)
        await train(trainer(server.url, tmp_path))
        assert len(server.jobs) == 1


async def test_the_same_training_twice_at_a_time_is_refused(tmp_path: Path) -> None:
    async with service(fates=[Fate(looks=10)]) as server:
        by = trainer(server.url, tmp_path)
        with pytest.RaisesGroup(TrainingError):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(train, by)
                tasks.start_soon(train, by)


async def test_several_trainings_run_side_by_side(tmp_path: Path) -> None:
    async with service() as server:
        by = trainer(server.url, tmp_path)
        async with anyio.create_task_group() as tasks:
            for fold in range(4):
                tasks.start_soon(train, by, f"fold-{fold}")
        assert len({job["fine_tuned_model"] for job in server.jobs}) == 4


async def test_the_error_of_a_model_that_is_never_served_lists_the_served_ones(
    tmp_path: Path,
) -> None:
    async with service(fates=[Fate(serving_looks=10**6)]) as server:
        by = trainer(server.url, tmp_path, settings=replace(QUICK, served_within_s=0.1))
        trained = await train(by)
        with pytest.raises(ModelNotFound, match="the server has: planted"):
            async with by.open(trained):
                pass


async def test_a_wrong_key_is_an_error_at_once_and_shown_nowhere(tmp_path: Path) -> None:
    async with service(api_key="right") as server:
        with pytest.raises(AuthenticationRefused) as raised:
            await train(trainer(server.url, tmp_path, api_key="wrong-key"))
        assert "wrong-key" not in f"{raised.value!r} {raised.value}"
        assert len(server.received) == 1
        trained = await train(trainer(server.url, tmp_path, api_key="right"))
        assert trained.model
    assert b"right" not in state_in(tmp_path).read_bytes()


async def test_a_server_without_the_api_is_an_error_of_its_own(tmp_path: Path) -> None:
    async with service() as server:
        server.refuse("/v1/files")
        with pytest.raises(TrainingError, match="needs OpenAI's fine-tuning API"):
            await train(trainer(server.url, tmp_path))


async def test_a_base_that_may_not_be_trained_is_the_services_error(tmp_path: Path) -> None:
    async with service(base="another") as server:
        with pytest.raises(TrainingError, match="planted is not available for fine-tuning"):
            await train(trainer(server.url, tmp_path))
        assert not server.jobs


async def test_equal_labels_are_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    async with service() as server:
        by = trainer(server.url, tmp_path)
        for examples in ([], [one for one in EXAMPLES if one.label == " positive"]):
            with pytest.raises(TrainingError, match="fewer than two different labels"):
                await by.train(examples, name="one label", seed=0)
        assert not server.received


async def test_a_damaged_state_is_an_error_and_can_be_deleted(tmp_path: Path) -> None:
    async with service() as server:
        first = await train(trainer(server.url, tmp_path))
        path = state_in(tmp_path)
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(TrainingError, match="Delete the file"):
            await train(trainer(server.url, tmp_path))
        path.unlink()
        assert (await train(trainer(server.url, tmp_path))).model == first.model
        assert len(server.jobs) == 1


@pytest.mark.parametrize("wrong", ["epochs", "deadline_s", "first_poll_s", "parallel"])
def test_impossible_settings_are_refused(wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        ServedSettings(**{wrong: 0})  # type: ignore[arg-type]


def test_credentials_in_the_url_are_in_no_repr(tmp_path: Path) -> None:
    shown = repr(trainer("http://user:secret@localhost:1/v1", tmp_path))
    assert shown == "ServedTrainer('http://localhost:1/v1', 'planted')"
