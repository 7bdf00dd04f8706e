"""Confidence of three labels: what the modes say where a run is believed, else their share."""

import csv
from pathlib import Path

import numpy as np
import pytest
from planted_reviews import COLOURS, data, planted, reviews

from icm_client import Labels, label
from icm_client.stats.calibration_curve import reliability
from icm_client.verdict.findings import NO_CONFIDENCE


async def found(meaning: float, seed: int, noise: float = 1.0) -> Labels:
    model = planted(96, COLOURS, strength=3.0, meaning=meaning, noise=noise, seed=seed)
    return await label(data(reviews(96, COLOURS)), task=COLOURS, endpoint=model, seed=seed)


def columns(labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, the labels' share of the probability, and whether they are right."""
    confidence = np.array([row.confidence for row in labels.rows])
    share = np.exp([row.log_probs[row.label] for row in labels.rows])
    gold = labels.dataset.gold or ()
    right = np.array([row.label == one for row, one in zip(labels.rows, gold, strict=True)])
    return confidence, share, right


async def test_labels_that_are_believed_are_about_as_sure_as_they_are_right() -> None:
    before, after = [], []
    for seed in range(4):
        labels = await found(2.0, seed)
        assert labels.verdict != "do not trust"
        confidence, share, right = columns(labels)
        before.append(reliability(share, right).error)
        after.append(reliability(confidence, right).error)
    assert np.mean(after) < np.mean(before) / 2


@pytest.mark.parametrize("seed", range(3))
async def test_labels_that_are_not_to_be_trusted_have_no_confidence(
    seed: int, tmp_path: Path
) -> None:
    labels = await found(0.0, seed)
    assert labels.verdict == "do not trust"
    assert labels.confidence is None
    assert {row.confidence for row in labels.rows} == {None}
    assert labels.summary()["no_confidence"] == NO_CONFIDENCE
    labels.write(tmp_path / "labels.jsonl")
    assert '"confidence":null,' in (tmp_path / "labels.jsonl").read_text().splitlines()[0]
    labels.write(tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="") as file:
        assert {row["confidence"] for row in csv.DictReader(file)} == {""}
    labels.write(tmp_path / "labels.parquet")
    column = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "labels.parquet")
    assert str(column.schema.field("confidence").type) == "double"
    assert column["confidence"].null_count == len(labels.rows)
