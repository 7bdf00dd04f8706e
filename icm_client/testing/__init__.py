r"""For tests of your own: a served model without a model, whose answers are a written-down formula.

task = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
data = rows_from(["great", "awful", "lovely", "dull"])
planted = dict(zip(task.render_all(data), [0, 1, 0, 1], strict=True))
concept = PlantedConcept(planted, task.label_texts)
found = await label(data, task=task, endpoint=concept)

With HTTP between, and a server that fails as its script says (`icm_client.testing.faults`):

async with PlantedServer(concept, faults=[status(503), None, reset()]) as server:
    found = await label(data, task=task, endpoint=server.url)
"""

from icm_client.testing.faults import (
    Asked,
    Fault,
    Script,
    after,
    answering,
    changed,
    drip,
    error_200,
    hang,
    redirect,
    reset,
    scripted,
    short_body,
    sometimes,
    status,
    truncating,
    with_log_prob,
    without_label,
)
from icm_client.testing.finetuning import FineTuningServer
from icm_client.testing.planted import PlantedConcept
from icm_client.testing.server import PlantedServer, RateLimit, Received
from icm_client.testing.trainer import PlantedTrainer
from icm_client.testing.tuning_jobs import Fate

__all__ = [
    "Asked",
    "Fate",
    "Fault",
    "FineTuningServer",
    "PlantedConcept",
    "PlantedServer",
    "PlantedTrainer",
    "RateLimit",
    "Received",
    "Script",
    "after",
    "answering",
    "changed",
    "drip",
    "error_200",
    "hang",
    "redirect",
    "reset",
    "scripted",
    "short_body",
    "sometimes",
    "status",
    "truncating",
    "with_log_prob",
    "without_label",
]
