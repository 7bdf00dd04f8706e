from pathlib import Path

import numpy as np
import pytest
from planted_reviews import TASK, data, planted, reviews

from icm_client.coherence.fast import search
from icm_client.coherence.problem import Problem
from icm_client.coherence.settings import SweepSettings
from icm_client.data.job import Job
from icm_client.endpoints import connect
from icm_client.runs.presets import fit
from icm_client.runs.run_cost import SHORT_READS, ProbeCost, forecast
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.testing import PlantedServer


@pytest.mark.parametrize("n", [32, 96])
async def test_a_run_stays_within_its_forecast(tmp_path: Path, n: int) -> None:
    job = Job.prepare(data(reviews(n)), TASK)
    async with PlantedServer(planted(n), latency_s=0.001) as server:
        with ScoreStore.open(tmp_path / "store") as store:
            async with await connect(server.url) as endpoint:
                pieces = await tokenize_pieces(
                    job.prompts, job.label_texts, TASK.separator, endpoint, store
                )
                settings, _ = fit(SweepSettings(), pieces, endpoint)
                assert isinstance(settings, SweepSettings)
                said: list[ProbeCost] = []
                steps: list[str] = []

                def announced(probe: ProbeCost) -> None:
                    assert endpoint.usage.requests == 0, "the cost is said before it is spent"
                    said.append(probe)

                cost = await forecast(
                    pieces,
                    settings,
                    endpoint,
                    rng=np.random.default_rng(1),
                    on_probe=announced,
                    on_step=steps.append,
                )
                probed, before = endpoint.usage.requests, endpoint.usage.computed_tokens
                assert said == [cost.probe]
                assert probed <= said[0].requests == 2 + sum(SHORT_READS.values())
                assert before <= said[0].prompt_tokens
                assert len(steps) == 1 + len(SHORT_READS)
                await search(
                    Problem(n, 2),
                    Scorer(endpoint, store, pieces),
                    rng=np.random.default_rng(0),
                    settings=settings,
                )
                taken = endpoint.usage.requests - probed
                computed = endpoint.usage.computed_tokens - before
    assert cost.rows == n
    assert cost.requests[0] * 0.5 <= taken <= cost.requests[1]
    assert cost.tokens[0] * 0.5 <= computed <= cost.tokens[1]
    assert cost.minutes is not None
    assert 0 < cost.minutes[0] < cost.minutes[1]
