"""A probe of real rows with the real model: film reviews are salient, and the plan is kept."""

from pathlib import Path

import pytest

from icm_client.data import read_rows
from icm_client.endpoints import EmbeddedEndpoint
from icm_client.experiments.salience import salience

MOVIES = Path(__file__).parents[2] / "examples" / "movie_reviews"


@pytest.mark.usefixtures("embedded_model")
async def test_movie_reviews_are_likely_and_asked_once(tmp_path: Path) -> None:
    store = tmp_path / "scores.sqlite3"
    rows = read_rows(MOVIES / "movie_reviews.jsonl")
    async with EmbeddedEndpoint(context_length=2048) as server:
        report = await salience(rows, task=MOVIES / "task.toml", endpoint=server, store=store)
        first = server.usage.requests
        again = await salience(rows, task=MOVIES / "task.toml", endpoint=server, store=store)
        assert server.usage.requests == first
    assert report.found.verdict == "likely"
    assert report.sampled == 24
    assert again.found == report.found
    assert report.computed_tokens == pytest.approx(report.planned_tokens, rel=0.15)
    assert 0.05 < report.share < 0.3
