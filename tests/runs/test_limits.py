"""Rows that fail, limits, and models that change: the command over a server on a real socket."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from aiohttp import web
from planted_reviews import planted, reviews

from icm_client.record.archive import list_runs
from icm_client.testing import Asked, PlantedServer, reset, status, truncating

pytestmark = pytest.mark.slow

N = 40
COMMAND = ("--template", r"Review: {text}\nSentiment:", "--labels", "positive,negative", "--json")


@pytest.fixture
async def server() -> AsyncIterator[PlantedServer]:
    async with PlantedServer(planted(N)) as started:
        yield started


async def command(folder: Path, server: PlantedServer, *options: str) -> tuple[int, Any, str]:
    """Exit status, what `--json` printed, and standard error."""
    (folder / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, reviews(N))))
    done = await anyio.run_process(
        [
            *(sys.executable, "-c", "from icm_client.cli.main import main; main()"),
            *("label", "rows.jsonl", *COMMAND),
            *("--gold", "label", "-o", "out.jsonl", "-e", server.url, *options),
        ],
        cwd=folder,
        env={**os.environ, "ICM_CACHE_DIR": str(folder / "cache")},
        check=False,
    )
    printed = orjson.loads(done.stdout) if done.stdout else None
    if printed is not None and "error" in printed:  # which standard error has, too
        printed = None
    return done.returncode, printed, done.stderr.decode()


async def refusing(*rows: int) -> Any:
    """A fault of every request that shows one of the rows, as target or demo."""
    tokenize = planted(N).tokenize
    shown = [list(await tokenize(f"words of row {row}\n", add_special=False))[1:-1] for row in rows]

    async def fault(asked: Asked) -> Any:
        prompts = asked.body["prompt"]
        if any(
            ids == prompt[at : at + len(ids)]
            for prompt in prompts
            for ids in shown
            for at in range(len(prompt))
        ):
            return await status(400, '{"error": {"message": "content policy"}}')(asked)
        return web.json_response(await asked.honest(asked.body))

    return lambda _: fault


async def test_a_refused_row_is_listed_and_the_others_are_labelled(
    tmp_path: Path, server: PlantedServer
) -> None:
    server.script = await refusing(7)
    code, found, said = await command(tmp_path, server)
    assert code == 1, said
    assert [row["id"] for row in found["failed"]] == [8]
    assert "content policy" in found["failed"][0]["reason"]
    assert "row 8 (line 8) has no label" in said
    assert found["rows"] == N - 1
    assert found["accuracy"] > 0.95
    written = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["id"] for row in written] == [n for n in range(1, N + 1) if n != 8]


async def test_too_many_refused_rows_end_the_run(tmp_path: Path, server: PlantedServer) -> None:
    server.script = await refusing(7, 9, 20)
    code, found, said = await command(tmp_path, server, "--fail-on-error", "2")
    assert (code, found) == (1, None)
    assert "--fail-on-error" in said
    assert not (tmp_path / "out.jsonl").exists()


async def test_a_server_that_cuts_prompts_ends_the_run_and_not_a_few_rows(
    tmp_path: Path, server: PlantedServer
) -> None:
    server.script = lambda _: truncating(60)
    code, found, said = await command(tmp_path, server, "--fail-on-error", "0.9")
    assert (code, found) == (1, None)
    assert "it cuts prompts without saying so" in said
    assert "--fail-on-error" not in said
    assert "goes on from here" not in said


async def test_a_limit_ends_it_with_labels_and_the_same_command_goes_on(
    tmp_path: Path, server: PlantedServer
) -> None:
    code, part, said = await command(tmp_path, server, "--max-requests", "12")
    assert code == 3, said
    assert part["stopped"] == "the limit of 12 requests"
    assert part["rows"] == N
    assert "best labels so far" in said
    first = part["cost"]["from_server"]
    (run,) = list_runs(tmp_path / "runs").runs
    assert (run.state, run.reason) == ("stopped", "the limit of 12 requests")
    code, whole, said = await command(tmp_path, server)
    assert code == 0, said
    assert whole["cost"]["from_store"] >= first - N  # the names exchanged early are of no more use
    (run,) = list_runs(tmp_path / "runs").runs
    assert run.state == "done"
    other = tmp_path / "undisturbed"
    other.mkdir()
    await command(other, server)
    assert (other / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize("accepts", [False, True])
async def test_a_model_that_changes_ends_the_run_unless_that_is_accepted(
    tmp_path: Path, server: PlantedServer, *, accepts: bool
) -> None:
    async def swapped(asked: Asked) -> Any:
        server.swap(planted(N, seed=5))
        return await reset()(asked)

    server.script = lambda number: swapped if number == 4 else None
    options = ("--accept-drift",) if accepts else ()
    code, found, said = await command(tmp_path, server, *options)
    if accepts:
        assert code == 0, said
        assert found["accuracy"] > 0.95
        assert len(list_runs(tmp_path / "runs").runs) == 2  # each model's own
    else:
        assert (code, found) == (1, None)
        assert "another model" in said or "changed" in said


async def test_two_servers_of_one_model_share_a_run(tmp_path: Path) -> None:
    async with PlantedServer(planted(N)) as one, PlantedServer(planted(N)) as other:
        code, alone, said = await command(tmp_path, one)
        assert code == 0, said
        both = tmp_path / "both"
        both.mkdir()
        asked = len(one.received)
        code, found, said = await command(both, one, "-e", other.url)
        assert code == 0, said
        assert len(one.received) > asked
        assert sum(request.path == "/v1/completions" for request in other.received) > 1
        assert found["counts"] == alone["counts"]
        assert (both / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


async def test_stored_scores_of_other_weights_end_the_run_unless_that_is_accepted(
    tmp_path: Path,
) -> None:
    """Its path names the latest weights, whichever they are."""
    async with PlantedServer(planted(N), root="models/latest") as server:
        code, first, said = await command(tmp_path, server)
        assert code == 0, said
        labels = (tmp_path / "out.jsonl").read_bytes()
        sent = len(server.received)
        code, again, said = await command(tmp_path, server)
        assert code == 0, said
        asked = [one for one in server.received[sent:] if one.path == "/v1/completions"]
        assert again["cost"]["from_server"] == 0
        assert 3 <= len(asked) == again["cost"]["requests"] == again["cost"]["checked"] <= 8
        assert again["cost"]["from_store"] == first["cost"]["from_server"]
        assert (tmp_path / "out.jsonl").read_bytes() == labels

        server.swap(planted(N, seed=5))
        code, found, said = await command(tmp_path, server)
        assert (code, found) == (1, None)
        assert "the stored scores are not of the weights" in said
        assert "--accept-drift" in said
        assert "goes on from here" not in said
        assert (tmp_path / "out.jsonl").read_bytes() == labels

        server.swap(planted(N))  # nothing was lost
        code, found, said = await command(tmp_path, server)
        assert (code, found["cost"]["from_server"]) == (0, 0), said

        server.swap(planted(N, seed=5))
        code, found, said = await command(tmp_path, server, "--accept-drift")
        assert code == 0, said
        assert found["cost"]["from_store"] < found["cost"]["from_server"]
        other = tmp_path / "other"
        other.mkdir()
        await command(other, server)
        assert (other / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
        code, found, said = await command(tmp_path, server)
        assert (code, found["cost"]["from_server"]) == (0, 0), said


@pytest.mark.parametrize("accepts", [False, True])
async def test_weights_that_change_in_mid_run_without_a_word(
    tmp_path: Path, *, accepts: bool
) -> None:
    async with PlantedServer(planted(N), root="models/latest") as server:

        async def swapped(asked: Asked) -> Any:
            server.swap(planted(N, seed=5))
            return await reset()(asked)

        server.script = lambda number: swapped if number == 4 else None
        options = ("--accept-drift",) if accepts else ()
        code, found, said = await command(tmp_path, server, *options)
        if not accepts:
            assert (code, found) == (1, None)
            assert "weights have changed in mid-run" in said
            return
        assert code == 0, said
        other = tmp_path / "other"
        other.mkdir()
        await command(other, server)
        assert (other / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "another"), "'another' is not served"),
        (("--store", "rows.jsonl/scores"), "cannot open the score store"),
        (("--kind", "openai", "--model", "planted"), "leaves log-probs out"),
        ((), "401"),
    ],
)
async def test_where_the_same_command_would_not_go_on_it_is_not_said(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    async with PlantedServer(planted(N), api_key=None if options else "a-key-of-its-own") as server:
        code, _, said = await command(tmp_path, server, *options)
        assert code == 1
        assert says in said
        assert "goes on from here" not in said
