"""What a run leaves behind for new rows, in its folder: predictor.json."""

import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
from planted_reviews import TASK, planted, reviews
from predictions import RUN, concept, labelled, new_rows, predicted, run_in, write

from icm_client import SweepSettings, label
from icm_client.errors import InputError, RunError
from icm_client.runs.frozen import PREDICTOR, Frozen
from icm_client.runs.predictor import Predictor
from icm_client.runs.progress import Budget
from icm_client.scoring import open_store

BEFORE = Path(__file__).with_name("written_before")
FOUND_BEFORE = "rows-3515888aa7"


async def frozen_in(folder: Path, predictor: Predictor, contexts: int = 1) -> Frozen:
    with open_store(folder / "store") as store:
        return await predictor.frozen(concept(), store, contexts=contexts)


async def test_contexts_are_read_from_the_run_s_folder_as_they_were_measured(
    tmp_path: Path,
) -> None:
    labels = await run_in(tmp_path)
    assert labels.run is not None
    measured = await frozen_in(tmp_path, labels.predictor(), contexts=2)
    kept = Frozen.load(labels.run / PREDICTOR)
    for name in ("run", "found", "task", "server", "prompts", "contexts", "findings"):
        assert getattr(kept, name) == getattr(measured, name), name
    for name in ("bias", "slope", "offsets"):
        assert np.array_equal(
            getattr(kept.calibration, name), getattr(measured.calibration, name)
        ), name
    assert set(kept.usual) == {"log-odds", "label-mass", "length"}
    assert all(np.array_equal(kept.usual[name], measured.usual[name]) for name in kept.usual)
    assert not any(row["text"] in prompt for prompt in kept.prompts for row in new_rows())
    before = (labels.run / PREDICTOR).read_bytes()
    again = await frozen_in(tmp_path, Predictor.load(labels.run), contexts=2)
    assert again.contexts == measured.contexts
    assert (labels.run / PREDICTOR).read_bytes() == before


async def test_another_number_of_contexts_is_measured_anew(tmp_path: Path) -> None:
    labels = await run_in(tmp_path)
    one = await frozen_in(tmp_path, labels.predictor())
    three = await frozen_in(tmp_path, labels.predictor(), contexts=3)
    assert (len(one.contexts), len(three.contexts)) == (1, 3)
    assert len(set(three.contexts)) == 3
    back = await frozen_in(tmp_path, labels.predictor())
    assert back.contexts == one.contexts


async def test_a_run_that_went_on_has_other_contexts(tmp_path: Path) -> None:
    """The folder is that of the run that was stopped: what it kept then is of its labels then."""
    early = await run_in(tmp_path, budget=Budget(max_requests=150))
    assert early.stopped
    await frozen_in(tmp_path, early.predictor())
    late = await run_in(tmp_path)
    assert late.run == early.run
    assert late.rows != early.rows
    frozen = await frozen_in(tmp_path, Predictor.load(late.run or ""))
    assert frozen.found == late.predictor().found.digest != early.predictor().found.digest


async def test_a_predictor_from_memory_is_that_of_the_folder(tmp_path: Path) -> None:
    labels = await run_in(tmp_path)
    loaded = Predictor.load(labels.run or "")
    assert loaded.found.digest == labels.predictor().found.digest
    by_name = Predictor.load("rows", runs=tmp_path / "runs")
    assert by_name.found.digest == loaded.found.digest


async def test_a_run_of_an_older_version_has_a_predictor(tmp_path: Path) -> None:
    shutil.copytree(BEFORE, tmp_path / "before")
    predictor = Predictor.load(FOUND_BEFORE, runs=tmp_path / "before" / "runs")
    endpoint = planted(32)  # as it was then
    assert predictor.found.server.fingerprint == endpoint.identity.fingerprint
    store = tmp_path / "before" / "scores.sqlite3"
    found = await labelled(predictor, reviews(32), endpoint, store)
    assert [row.label for row in found] == [row.label for row in predictor.found.rows]


async def test_a_run_without_labels_is_refused(tmp_path: Path) -> None:
    labels = await run_in(tmp_path)
    assert labels.run is not None
    (labels.run / "labels.jsonl").unlink()
    with pytest.raises(InputError, match="no labels yet"):
        Predictor.load(labels.run)
    with pytest.raises(InputError, match="no run in"):
        Predictor.load("another", runs=tmp_path / "runs")


async def test_labels_that_are_all_one_are_refused(tmp_path: Path) -> None:
    pins = {f"r{n}": "positive" for n in range(8)}
    rows = [{"id": f"r{n}", **row} for n, row in enumerate(reviews(8))]
    labels = await label(
        rows,
        task=TASK,
        endpoint=concept(),
        gold="label",
        pins=pins,
        store=tmp_path / "store",
        settings=SweepSettings(min_sweeps=2, max_sweeps=2, restarts=1),
    )
    assert set(labels.counts.values()) == {0, 8}
    with pytest.raises(InputError, match="one label"):
        await frozen_in(tmp_path, labels.predictor())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"icm_client_predictor": 99}, "newer icm-client"),
        ({"contexts": None}, "describes no predictor"),
        ({"server": {"kind": "vllm"}}, "describes no predictor"),
        ({"task": {"labels": ["a"]}}, "describes no predictor"),
    ],
)
async def test_a_damaged_file_is_told(
    changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    labels = await run_in(tmp_path)
    assert labels.run is not None
    await frozen_in(tmp_path, labels.predictor())
    path = labels.run / PREDICTOR
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **changed}))
    file = write(tmp_path / "rows.jsonl", new_rows())
    with pytest.raises(RunError, match=message):
        await predicted(tmp_path, file, concept())
    path.write_bytes(b"{")
    with pytest.raises(RunError, match="delete the file"):
        Frozen.load(path)
    path.unlink()
    result = await predicted(tmp_path, file, concept())
    assert result.labelled == len(new_rows())
    assert result.cost.from_store == RUN // 2
