r"""For your own tests: an endpoint without a model, whose log-probs a formula gives.

    task = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
    data = rows_from(["great", "awful", "lovely", "dull"])
    planted = dict(zip(task.render_all(data), [0, 1, 0, 1], strict=True))
    concept = PlantedConcept(planted, task.label_texts)
    found = await label(data, task=task, endpoint=concept)

The same over HTTP, with faults by script (`icm_client.testing.faults`):

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
from icm_client.testing.finetuning import Fate, FineTuningServer
from icm_client.testing.planted import Axis, PlantedConcept
from icm_client.testing.server import PlantedServer, RateLimit, Received
from icm_client.testing.trainer import PlantedTrainer

__all__ = [
    "Asked",
    "Axis",
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
