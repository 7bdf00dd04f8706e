"""The same questions asked again: kept apart, counted, and free the second time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from planted_reviews import TASK, planted, reviews

from icm_client import label
from icm_client.coherence.contexts import REPEATED
from icm_client.coherence.problem import Query
from icm_client.endpoints import Answer, Read
from icm_client.runs.repeat_reads import read_again
from icm_client.scoring import ScorerStats, ScoreStore, tokenize_pieces
from icm_client.scoring.drift import DriftCheck
from icm_client.testing import PlantedConcept

PROMPTS = [f"Review: {row['text']}\nSentiment:" for row in reviews(32)]


class Wavering(PlantedConcept):
    """Answers a question that it has had before a little differently: the model's noise."""

    by = 0.0

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        answers = await super().read(reads, lane=lane)
        asked = self.__dict__.setdefault("asked", set())
        moved = [
            answer._replace(log_probs=(answer.log_probs[0] - self.by, *answer.log_probs[1:]))
            if read in asked
            else answer
            for read, answer in zip(reads, answers, strict=True)
        ]
        asked.update(reads)
        return moved


def wavering(by: float) -> Wavering:
    classes = {prompt: i * 7 % 5 % 2 for i, prompt in enumerate(PROMPTS)}
    concept = Wavering(classes, TASK.label_texts)
    concept.by = by
    return concept


async def test_differences_are_those_of_the_second_answers(tmp_path: Path) -> None:
    server = wavering(0.25)
    stats = ScorerStats()
    with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
        pieces = await tokenize_pieces(PROMPTS, TASK.label_texts, TASK.separator, server, store)
        queries = [Query((), item) for item in range(4)]

        async def again() -> object:
            return await read_again(
                queries,
                server,
                store,
                pieces,
                drift=DriftCheck(server),
                stats=stats,
                on_progress=lambda _: None,
                stopping=lambda: False,
            )

        first = np.asarray(await again())
        assert first.shape == (4, 2)
        assert np.abs(first).max() == pytest.approx(0.25)
        counted = stats.asked
        assert counted >= len(queries)
        requests = server.usage.requests
        np.testing.assert_array_equal(np.asarray(await again()), first)
        assert server.usage.requests == requests
        assert stats.asked == counted


async def test_a_run_asks_a_few_again_and_a_replay_asks_nothing(tmp_path: Path) -> None:
    store = tmp_path / "scores.sqlite3"
    server = planted()
    first = await label(reviews(32), task=TASK, endpoint=server, store=store)
    assert first.cost.from_server == server.usage.requests
    reads = sum(record.sweep >= 0 for record in first.history) * 32
    assert first.cost.from_server > reads - 32  # what is asked again comes on top
    replayed = planted()
    again = await label(reviews(32), task=TASK, endpoint=replayed, store=store)
    assert replayed.usage.requests == 0
    assert again.findings == first.findings
    assert again.verdict == first.verdict == "trust"
    assert again.cost.from_store == first.cost.from_server
    assert REPEATED <= 8


async def test_a_server_that_wavers_by_more_than_the_margins_is_told(tmp_path: Path) -> None:
    noisy = await label(
        reviews(32), task=TASK, endpoint=wavering(9.0), store=tmp_path / "noisy.sqlite3"
    )
    assert "server-noise" in {finding.code for finding in noisy.findings}
    calm = await label(
        reviews(32), task=TASK, endpoint=wavering(0.0), store=tmp_path / "calm.sqlite3"
    )
    assert "server-noise" not in {finding.code for finding in calm.findings}
