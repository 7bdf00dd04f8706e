"""What a server that takes text does without a word, and how it is found out."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from text_server import TextServer

from icm_client import Task, label, rows_from
from icm_client.endpoints.identity_check import IdentityCheck
from icm_client.errors import IcmError, ModelChanged, PromptTooLong
from icm_client.runs.check import check
from icm_client.runs.server import Server
from icm_client.scoring import ScoreStore
from icm_client.testing import PlantedConcept

N = 24
TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
ROWS = rows_from([f"some words and some more of row {n}" for n in range(N)])


def concept(**formula: Any) -> PlantedConcept:
    planted = {prompt: n * 7 % 5 % 2 for n, prompt in enumerate(TASK.render_all(ROWS))}
    return PlantedConcept(planted, TASK.label_texts, **formula)


def serving(**says: Any) -> TextServer:
    return TextServer(concept(), TASK.label_texts, **says)


async def labelled(server: TextServer, folder: Path, **options: Any) -> Any:
    with anyio.fail_after(60):
        return await label(
            ROWS, task=TASK, endpoint=Server(server.url), store=folder / "store", **options
        )


def n_stored(folder: Path) -> int:
    with ScoreStore.open(folder / "store") as store:
        (count,) = store._db.execute("SELECT count(*) FROM scores").fetchone()
    return int(count)


@pytest.mark.slow
@pytest.mark.parametrize("counts", ["all", "uncached", "sent", "none"])
async def test_a_server_that_reads_whole_prompts_is_not_accused(
    tmp_path: Path, counts: Any
) -> None:
    async with serving(counts=counts) as server:
        found = await labelled(server, tmp_path)
        assert len(found.rows) == N
        assert found.notices == ()
        assert len(server.prompts) < 1.25 * found.cost.from_server + 20


@pytest.mark.slow
@pytest.mark.parametrize("counts", ["all", "sent", "none"])
@pytest.mark.parametrize("keeps", ["first", "last", "both ends"])
async def test_a_text_server_that_cuts_prompts(tmp_path: Path, keeps: Any, counts: Any) -> None:
    """The first prompts fit, those of later sweeps do not: a demo takes 14 tokens."""
    async with serving(holds=100, keeps=keeps, counts=counts) as server:
        with pytest.raises(PromptTooLong, match="cuts prompts without saying so"):
            await labelled(server, tmp_path)
        report = await check(
            task=TASK, rows=ROWS, endpoint=server.url, store=tmp_path / "other", seed=0
        )
        assert any("cuts prompts without saying so" in reason for reason in report.reasons)
        if keeps == "both ends" and counts != "all":
            return  # a few words may have been lost without a sign
        server.holds = None  # no score of a prompt that was cut has been kept
        (fresh := tmp_path / "fresh").mkdir()
        assert (await labelled(server, tmp_path)).rows == (await labelled(server, fresh)).rows


async def test_where_answers_vary_and_nothing_is_counted_it_is_said(tmp_path: Path) -> None:
    async with serving(counts="none", noise=4.0) as server:
        found = await labelled(server, tmp_path)
        assert any("whether it cuts long prompts" in notice for notice in found.notices)


async def test_two_tokens_under_one_key(tmp_path: Path) -> None:
    async with serving() as server:
        assert (await labelled(server, tmp_path)).notices == ()
        server.doubles = True
        found = await labelled(server, tmp_path, seed=1)
        (notice,) = found.notices
        assert "name fewer than the 20 tokens that others do" in notice
        assert "written alike" in notice


async def test_two_tokens_of_one_name_in_a_list(tmp_path: Path) -> None:
    async with serving() as server:
        server.listed = True
        found = await labelled(server, tmp_path)
        (notice,) = found.notices
        assert "are written as the label ' positive' begins" in notice


@pytest.mark.slow
async def test_a_text_server_with_other_weights_in_the_next_run(tmp_path: Path) -> None:
    async with serving() as server:
        first = await labelled(server, tmp_path)
        stored, sent = n_stored(tmp_path), len(server.prompts)
        again = await labelled(server, tmp_path)
        assert again.rows == first.rows
        assert again.cost.from_server == 0
        # One request when it is opened, and what shows that it is the same model still.
        assert len(server.prompts) - sent == 1 + again.cost.checked <= 9
        server.concept = concept(seed=1)
        with pytest.raises(ModelChanged, match="--accept-drift"):
            await labelled(server, tmp_path)
        assert n_stored(tmp_path) == stored
        accepted = await labelled(server, tmp_path, accept_drift=True)
        alone = tmp_path / "alone"
        alone.mkdir()
        assert accepted.rows == (await labelled(server, alone)).rows


@pytest.mark.parametrize("sign", ["time", "silence", "mark"])
async def test_a_text_server_with_other_weights_in_mid_run(
    tmp_path: Path, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says of itself what it said before."""
    server = serving()
    server.mark = "fp_1"
    complete = server._complete

    async def swapping(request: Any) -> Any:
        if len(server.prompts) == 45:  # the first answers, which are compared, are there
            server.concept = concept(seed=1)
            if sign == "mark":
                server.mark = "fp_2"
            elif sign == "time":
                monkeypatch.setattr(IdentityCheck, "_is_due", lambda _: True)
                monkeypatch.setattr(IdentityCheck, "_compares_now", lambda *_: True)
            else:
                monkeypatch.setattr("icm_client.endpoints.identity_check.SILENCE_S", 0.0)
        return await complete(request)

    monkeypatch.setattr(server, "_complete", swapping)
    async with server:
        with pytest.raises(ModelChanged, match="weights have changed in mid-run"):
            await labelled(server, tmp_path)
        assert server.models_asked > 1
        assert len(server.prompts) < 75


async def test_other_weights_within_the_first_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sign comes before any answer is kept that later ones could be compared with."""
    server = serving()
    server.mark = "fp_1"
    complete = server._complete

    async def swapping(request: Any) -> Any:
        if len(server.prompts) == 28:  # the first reads are under way, and some are answered
            server.concept, server.mark = concept(seed=1), "fp_2"
        return await complete(request)

    monkeypatch.setattr(server, "_complete", swapping)
    async with server:
        with pytest.raises(ModelChanged, match="weights have changed in mid-run"):
            await labelled(server, tmp_path)
        assert n_stored(tmp_path) == 0


async def test_a_service_with_several_back_ends_is_one_model(tmp_path: Path) -> None:
    """Its mark changes with every answer; its answers do not."""
    server = serving()
    complete = server._complete

    async def marked(request: Any) -> Any:
        server.mark = f"fp_{len(server.prompts) % 3}"
        return await complete(request)

    server._complete = marked  # type: ignore[method-assign]
    async with server:
        found = await labelled(server, tmp_path)
        assert len(found.rows) == N
        assert server.models_asked < 8


async def test_an_error_that_is_none_of_ours_is_not_kept(tmp_path: Path) -> None:
    async with serving() as server:
        found = await labelled(server, tmp_path)
    with pytest.raises(IcmError) as ended:
        await label(ROWS, task=TASK, endpoint=server.url, store=tmp_path / "store")
    assert not ended.value.goes_on
    assert found.cost.checked == 0
