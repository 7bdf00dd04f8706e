"""The whole program on the real embedded server: run, replay, kill -9, resume. About a minute."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icm_client import EmbeddedEndpoint, SweepSettings, Task, label
from icm_client.scoring import ScoreStore, tokenize_pieces

EXAMPLE = Path(__file__).parents[2] / "examples" / "movie_reviews"
SHORT = SweepSettings(max_sweeps=3, restarts=1)

PROGRAM = """
import sys
from pathlib import Path
from test_embedded_runs import EXAMPLE, SHORT
from icm_client import label_sync
found = label_sync(sys.argv[1], task=EXAMPLE / "task.toml", settings=SHORT)
found.write(sys.argv[2])
print(found.cost.from_server, found.cost.from_store)
"""


def child(rows: Path, output: Path, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(rows), str(output)],
        env={**os.environ, "ICM_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
    )


def reads_of(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Reads answered by the server and by the store, once it has ended well."""
    with process:
        printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    from_server, from_store = map(int, printed.split())
    return from_server, from_store


def stored_scores(cache: Path) -> int:
    with contextlib.suppress(sqlite3.Error):
        uri = f"{(cache / 'scores.sqlite3').as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as store:
            return int(store.execute("SELECT count(*) FROM scores").fetchone()[0])
    return 0


def new_cache(folder: Path, model: Path) -> Path:
    """A cache folder of its own that spares joining the model again."""
    (folder / "models").mkdir(parents=True)
    (folder / "models" / model.name).symlink_to(model)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = (EXAMPLE / "movie_reviews.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:24]))
    return path


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, users_model: Path, rows: Path
) -> tuple[Path, bytes, int]:
    """A run from start to end: its cache folder, what it wrote, the reads it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    cache = new_cache(folder / "cache", users_model)
    output = folder / "labels.jsonl"
    from_server, from_store = reads_of(child(rows, output, cache))
    assert from_server > 60
    assert from_store == 0
    return cache, output.read_bytes(), from_server


async def test_a_replay_writes_the_same_and_starts_no_server(
    undisturbed: tuple[Path, bytes, int],
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, written, reads = undisturbed
    monkeypatch.setenv("ICM_CACHE_DIR", str(cache))
    task = Task.from_toml(EXAMPLE / "task.toml")
    async with EmbeddedEndpoint() as endpoint:
        found = await label(rows, task=task, endpoint=endpoint, settings=SHORT)
        assert endpoint._running is None
        assert endpoint.usage.requests == 0
    assert (found.cost.from_server, found.cost.from_store) == (0, reads)
    assert found.rows_with_gold == len(found.rows) == 24
    assert len(found.history) == 3
    assert set(found.counts) == {"positive", "negative"}
    found.write(tmp_path / "replayed.jsonl")
    assert (tmp_path / "replayed.jsonl").read_bytes() == written


def test_kill_9_in_mid_run_loses_nothing(
    undisturbed: tuple[Path, bytes, int], users_model: Path, rows: Path, tmp_path: Path
) -> None:
    _, written, reads = undisturbed
    cache = new_cache(tmp_path / "cache", users_model)
    output = tmp_path / "labels.jsonl"
    with child(rows, output, cache) as process:
        deadline = time.monotonic() + 120
        while stored_scores(cache) <= 20:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "no scores"
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    kept = stored_scores(cache)
    assert 20 < kept < reads
    assert not output.exists()
    assert reads_of(child(rows, output, cache)) == (reads - kept, kept)
    assert output.read_bytes() == written


@pytest.mark.usefixtures("embedded_model")
async def test_labels_follow_every_prompt_as_in_the_whole_text_or_the_row_is_named(
    tmp_path: Path,
) -> None:
    words = ("river", "stone  ", "cloud.", "music\t", "5", "table\n", "lemon\r\n ", "\U0001f621")
    prompts = [f"Is this about a {word}" for word in words]
    labels = [" yes", " no"]
    merged: dict[int, str] = {}
    async with EmbeddedEndpoint() as server:
        with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
            pieces = await tokenize_pieces(prompts, labels, "\n\n", server, store, merged=merged)
        for item, prompt in enumerate(prompts):
            wholes = [await server.tokenize(prompt + one, add_special=False) for one in labels]
            joined = [pieces.prompts[item] + one for one in pieces.labels]
            assert (wholes == joined) == (item not in merged)
    assert {1, 6} <= set(merged)
