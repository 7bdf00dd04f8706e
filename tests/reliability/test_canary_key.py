"""A key that is looked for in everything that a run writes and says."""

import os
import sys
from pathlib import Path

import anyio
import pytest

from icm_client import Task, rows_from
from icm_client.testing import Fault, PlantedConcept, PlantedServer, after, redirect, status

pytestmark = pytest.mark.slow

KEY = "sk-canary-2718281828459045"
SHORT_KEY = "k3y-2bz"
TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
TEXTS = [f"words of row {i}" for i in range(8)]
CALL = "from icm_client.cli.main import main; main()"


def everything_in(folder: Path) -> bytes:
    """Names and contents of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return b"\n".join(part for path in files for part in (os.fsencode(path), path.read_bytes()))


@pytest.mark.parametrize(
    ("fault", "user", "code", "key"),
    [
        (None, "", 0, KEY),
        (status(401, f'{{"error": {{"message": "Bad API key: {KEY}."}}}}'), "", 1, KEY),
        (status(400, f"Authorization: Bearer {KEY} is not known"), "", 1, KEY),
        (redirect(f"http://elsewhere.example/?key={KEY}"), "", 1, KEY),
        (None, f"ann:{KEY}@", 1, KEY),  # a password in the URL goes in the key's place
        (status(400, f"'Bearer {SHORT_KEY}', key={SHORT_KEY}."), "", 1, SHORT_KEY),
    ],
    ids=["done", "refused", "echoed", "redirected", "in-the-url", "short"],
)
async def test_the_key_is_in_nothing_that_the_program_writes_or_says(
    tmp_path: Path, fault: Fault | None, user: str, code: int, key: str
) -> None:
    prompts = TASK.render_all(rows_from(TEXTS))
    concept = PlantedConcept({p: i * 7 % 5 % 2 for i, p in enumerate(prompts)}, TASK.label_texts)
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    script = after(5, fault) if fault else ()
    async with PlantedServer(concept, api_key=key, faults=script) as server:
        done = await anyio.run_process(
            [
                sys.executable,
                "-X",
                "dev",
                "-c",
                CALL,
                "label",
                "rows.jsonl",
                "--template",
                TASK.template,
                "--labels",
                "positive,negative",
                "--endpoint",
                server.url.replace("//", f"//{user}"),
                "-o",
                "labels.jsonl",
                "-v",
            ],
            check=False,
            cwd=tmp_path,
            env={
                **os.environ,
                "ICM_API_KEY": key,
                "ICM_CACHE_DIR": str(tmp_path / "cache"),
                "HOME": str(tmp_path),
                "OPENAI_LOG": "debug",
            },
        )
        asked_for = [one for one in server.received if one.path.startswith("/v1")]
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    assert asked_for
    written = everything_in(tmp_path)
    assert (b"journal.jsonl" in written) == (user == "")
    assert b"scores.sqlite3" in written
    assert key.encode() not in told + written
