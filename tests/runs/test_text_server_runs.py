"""A whole run on a server that takes only text (OpenAI's completions)."""

from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from text_film_server import text_film_server

from icm_client import Server, SweepSettings, Task, label, rows_from
from icm_client.cli.search_display import SearchLines
from icm_client.errors import InputError
from icm_client.runs.progress import Progress

TEXTS = [f"{word} film {number}" for number in range(8) for word in ("great", "awful")]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """It finds great films positive, and says what its list of models calls a wildcard."""
    async with text_film_server("*") as found:
        yield found


async def test_no_token_id_is_shown_that_the_server_does_not_have(url: str, tmp_path: Path) -> None:
    console = Console(file=StringIO())
    lines = SearchLines(console)
    seen: list[Progress] = []

    def progress(now: Progress) -> None:
        seen.append(now)
        lines(now)

    found = await label(
        rows_from(TEXTS),
        task=Task(template="Review: {text}\nSentiment:", labels=("positive", "negative")),
        endpoint=Server(url, model="m"),
        store=tmp_path / "scores.sqlite3",
        settings=SweepSettings(initial=4, demos=4, min_sweeps=2, max_sweeps=2, restarts=1),
        progress=progress,
    )
    assert found.labels
    assert {now.label_tokens for now in seen} == {((), ())}
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.splitlines()[0] == "Labels: negative, positive"


async def test_a_limit_of_tokens_is_refused_where_nobody_counts_them(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--max-row-tokens needs a server that tokenizes"):
        await label(
            rows_from(TEXTS),
            task=Task(template="Review: {text}\nSentiment:", labels=("positive", "negative")),
            endpoint=Server(url, model="m"),
            store=tmp_path / "scores.sqlite3",
            max_row_tokens=100,
        )
