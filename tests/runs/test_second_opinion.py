"""What another model says of a run's labels, row by row."""

import math
from pathlib import Path

import orjson
import pytest
from planted_reviews import COLOURS, TASK
from several_runs import ROWS, gold, mistaken, model, rows, run_of
from test_failed_rows import Poisoned

from icm_client.errors import InputError, TooManyFailed
from icm_client.runs.second_opinion import SecondOpinion, second_opinion
from icm_client.testing import PlantedConcept


async def opinion(folder: Path, run: Path, endpoint: PlantedConcept) -> SecondOpinion:
    return await second_opinion(run, endpoint=endpoint, store=folder / "store")


async def test_labels_that_another_model_sees_too_are_coherent_for_it(tmp_path: Path) -> None:
    """It disputes the rows that the first model mistook, and reads each row once."""
    run = await run_of(tmp_path, model(mistaken(0.1, 1)), name="a")
    other = model(gold())
    found = await opinion(tmp_path, run.path, other)
    assert other.usage.requests == ROWS
    assert found.finds == "coherent"
    wrong = {f"r{n}" for n, one in enumerate(gold()) if _label(found, n) != TASK.labels[one]}
    assert {row.row.id for row in found.disputed} == wrong
    assert len(wrong) == 6
    assert [row.log_odds for row in found.rows] == sorted(row.log_odds for row in found.rows)
    assert found.rows[0].probability == pytest.approx(1 / (1 + math.exp(-found.rows[0].log_odds)))
    assert run.result is not None
    assert found.own["coherence"] == run.result["coherence"]
    # Labels that it disputes cost it what it is sure of: 10% of them most of the coherence.
    assert 0 < found.coherence < 0.5 < run.result["coherence"]
    assert found.agreement.share == pytest.approx(58 / 64)
    assert 0.1 < found.standard_error < 0.3
    assert found.sentence() == (
        "planted-concept finds these labels coherent, and disputes 6 of 64 labels, kappa 0.81"
    )
    again = await opinion(tmp_path, run.path, other)
    assert other.usage.requests == ROWS  # all is stored
    assert again.summary()["rows"] == found.summary()["rows"]


def _label(found: SecondOpinion, number: int) -> str:
    return next(row.label for row in found.rows if row.row.id == f"r{number}")


@pytest.mark.parametrize("seed", range(3))
async def test_a_deceiver_s_labels_are_incoherent_for_an_honest_model(
    seed: int, tmp_path: Path
) -> None:
    run = await run_of(tmp_path, model(mistaken(0.5, seed)), name="a")
    assert run.result is not None
    assert run.result["coherence"] > 0.9
    found = await opinion(tmp_path, run.path, model(gold()))
    assert found.finds == "incoherent"
    assert "follow nothing that it sees" in found.sentence()


async def test_exchanged_names_are_said_where_the_words_outweigh_the_demos(tmp_path: Path) -> None:
    run = await run_of(tmp_path, model([1 - one for one in gold()]), name="a")
    found = await opinion(tmp_path, run.path, model(gold(), strength=0.5, meaning=3.0))
    assert "has these classes under exchanged names" in found.sentence()


async def test_more_labels_and_uneven_shares(tmp_path: Path) -> None:
    run = await run_of(tmp_path, model(gold(task=COLOURS), COLOURS), name="a", task=COLOURS)
    found = await opinion(tmp_path, run.path, model(mistaken(0.1, 3, task=COLOURS), COLOURS))
    assert found.finds == "coherent"
    assert len(found.disputed) == 6
    assert all(row.other != row.label for row in found.rows)


async def test_a_row_that_the_server_refuses_is_named_and_is_no_demo(tmp_path: Path) -> None:
    """In the context it would spoil the scores of half the rows."""
    some = rows(40)
    run = await run_of(tmp_path, model(gold(40)), name="a", n=40, rows=some)
    found = await opinion(tmp_path, run.path, Poisoned(3))
    assert found.unread == ("r3",)
    assert len(found.rows) == 39
    assert found.finds == "coherent"
    with pytest.raises(TooManyFailed, match="could not score 5 of the 40 rows"):
        await second_opinion(run.path, endpoint=Poisoned(3, 4, 5, 6, 7), store=tmp_path / "other")


async def test_the_file_has_disputed_rows_first(tmp_path: Path) -> None:
    run = await run_of(tmp_path, model(mistaken(0.1, 1)), name="a")
    found = await opinion(tmp_path, run.path, model(gold()))
    found.write(tmp_path / "opinion.jsonl")
    lines = [orjson.loads(line) for line in (tmp_path / "opinion.jsonl").read_bytes().splitlines()]
    assert len(lines) == ROWS
    assert list(lines[0])[:7] == [
        "id",
        "label",
        "agrees",
        "log_odds",
        "probability",
        "other",
        "text",
    ]
    assert [line["agrees"] for line in lines] == [False] * 6 + [True] * (ROWS - 6)
    with pytest.raises(InputError, match="there is no folder"):
        found.write(tmp_path / "nowhere" / "opinion.csv")


async def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    one_label = await run_of(
        tmp_path,
        model(gold()),
        name="a",
        pins={row["id"]: "positive" for row in rows()},
        preset="zero-shot",
    )
    with pytest.raises(InputError, match="gives all rows one label"):
        await opinion(tmp_path, one_label.path, model(gold()))
    (one_label.path / "labels.jsonl").unlink()
    with pytest.raises(InputError, match="this run has no labels yet"):
        await opinion(tmp_path, one_label.path, model(gold()))
    with pytest.raises(InputError, match="no run in"):
        await second_opinion("nothing", runs=tmp_path / "a")
