"""An evaluation on the real embedded server, over 48 movie reviews. About a minute."""

from pathlib import Path

import pytest

from icm_client import EmbeddedEndpoint, SweepSettings, Task, read_rows
from icm_client.data.job import Job
from icm_client.data.rows import only
from icm_client.experiments.evaluation import plan_evaluation
from icm_client.experiments.evaluation_results import results, table
from icm_client.experiments.evaluation_run import run_evaluation

EXAMPLE = Path(__file__).parents[2] / "examples" / "movie_reviews"


@pytest.fixture
def anyio_backend() -> str:
    """Once is enough."""
    return "asyncio"


@pytest.mark.usefixtures("embedded_model")
async def test_every_method_on_movie_reviews_and_a_replay_without_a_server(tmp_path: Path) -> None:
    rows = only(read_rows(EXAMPLE / "movie_reviews.jsonl", gold="label"), range(48))
    plan = plan_evaluation(
        Job.prepare(rows, Task.from_toml(EXAMPLE / "task.toml")),
        searches=[SweepSettings(max_sweeps=5, restarts=1)],
        human="ratings",
        chat_prompt="A helpful, honest and harmless assistant reads film reviews.",
        demos=16,
        contexts=2,
    )
    store = str(tmp_path / "scores.sqlite3")
    async with EmbeddedEndpoint() as endpoint:
        outcomes, _ = await run_evaluation(plan, endpoint=endpoint, store=store)
        found = {one.method.name: one for one in results(plan, outcomes)}
    assert {outcome.error for outcome in outcomes} == {None}
    assert len(found) == 11
    accuracy = {name: one.accuracy or 0.0 for name, one in found.items()}
    assert accuracy["golden"] >= 0.75
    assert accuracy["icm-fast"] >= 0.75
    assert accuracy["human"] >= 0.75
    assert accuracy["zero-shot-calibrated"] > accuracy["majority"]
    assert found["icm-fast"].spent.computed_tokens > 0

    async with EmbeddedEndpoint() as silent:
        again, _ = await run_evaluation(plan, endpoint=silent, store=store)
        assert silent.usage.requests == 0
        assert silent._running is None
    replayed = table(results(plan, again))
    for before, after in zip(table(tuple(found.values())), replayed, strict=True):
        figures = ("method", "accuracy", "to_golden", "label_accuracy", "reads", "findings")
        assert [before[name] for name in figures] == [after[name] for name in figures]
