"""Rows with a planted concept, and a fine-tuning service whose models learn it from examples."""

from pathlib import Path
from typing import Any

from icm_client import Task, rows_from
from icm_client.endpoints import RetryPolicy, TransportSettings
from icm_client.runs.trainer import Example
from icm_client.testing import PlantedConcept
from icm_client.testing.finetuning import FineTuningServer
from icm_client.training.served import ServedTrainer
from icm_client.training.served_job import ServedSettings

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
PROMPTS = TASK.render_all(rows_from([f"words of row {n}" for n in range(40)]))
CLASSES = [n * 7 % 5 % 2 for n in range(40)]
TAUGHT = 24
"""The first rows are trained on, the others held out."""

EXAMPLES = [
    Example(prompt, TASK.label_texts[label])
    for prompt, label in zip(PROMPTS[:TAUGHT], CLASSES[:TAUGHT], strict=True)
]

QUICK = ServedSettings(first_poll_s=0.01, longest_poll_s=0.02, deadline_s=30, served_within_s=10)


def concept(meaning: float) -> PlantedConcept:
    planted = dict(zip(PROMPTS, CLASSES, strict=True))
    return PlantedConcept(planted, TASK.label_texts, strength=0, meaning=meaning, noise=0.5)


def learnt(examples: tuple[Example, ...]) -> PlantedConcept:
    """As sure as its examples were right."""
    right = dict(zip(PROMPTS, CLASSES, strict=True))
    hits = sum(TASK.label_texts[right[one.prompt]] == one.label for one in examples)
    return concept(6 * (2 * hits / len(examples) - 1))


def service(**options: Any) -> FineTuningServer:
    return FineTuningServer(concept(0), learnt, **options)


def quick(**retry: Any) -> TransportSettings:
    """No back-off to speak of."""
    given = {"initial_wait_s": 0.01, "maximum_wait_s": 0.02, "retry_after_cap_s": 0.05} | retry
    return TransportSettings(retry=RetryPolicy(**given))


def trainer(url: str, folder: Path, **options: Any) -> ServedTrainer:
    given: dict[str, Any] = {"settings": QUICK, "transport": quick()} | options
    return ServedTrainer(url, "planted", folder=folder, **given)
