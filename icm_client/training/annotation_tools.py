"""A run's labels as predictions in Label Studio and Argilla, where people check them.

Label Studio: https://labelstud.io/guide/predictions; its labeling interface:
https://labelstud.io/tags/choices. Argilla: the folder that `rg.Dataset.from_disk` reads,
https://docs.argilla.io/latest/how_to_guides/import_export. `--pin` reads what people said there
(`icm_client.runs.annotations`).
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from icm_client.data import Task
from icm_client.record.run_labels import RunLabels
from icm_client.runs.annotations import PROMPT, QUESTION, ROW_ID

_AGENT = "icm-client"
_GUIDELINES = (
    "Each record is what a model was asked. Choose the label that goes on from its end. Suggested "
    "is the label that was found without any human label, with its confidence."
)


def label_studio_tasks(
    found: RunLabels, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, object]]:
    """Return a task for each row: its prompt, its fields, and its label as a prediction."""
    prompts = found.task.render_all(found.dataset)
    return [
        {
            "data": {ROW_ID: row.id, PROMPT: prompt, **fields},
            "predictions": [
                {
                    "model_version": f"{_AGENT} {found.name}",
                    **({} if confidence is None else {"score": confidence}),
                    "result": [
                        {
                            "id": QUESTION,
                            "from_name": QUESTION,
                            "to_name": "prompt",
                            "type": "choices",
                            "value": {"choices": [label]},
                        }
                    ],
                }
            ],
        }
        for row, prompt, label, confidence, fields in zip(
            found.dataset.rows, prompts, found.labels, _confidences(found), rows, strict=True
        )
    ]


def label_studio_interface(task: Task) -> str:
    """Return the labeling interface in which the tasks are shown, as XML."""
    choices = "\n".join(f'    <Choice value="{escape(label)}"/>' for label in task.labels)
    return (
        "<View>\n"
        f'  <Text name="prompt" value="${PROMPT}"/>\n'
        f'  <Choices name="{QUESTION}" toName="prompt" choice="single" required="true">\n'
        f"{choices}\n"
        "  </Choices>\n"
        "</View>\n"
    )


def argilla_files(found: RunLabels) -> dict[str, object]:
    """Return the files of a dataset folder of Argilla, as JSON values by their paths in it.

    A record has the row's prompt, and in its metadata the fields that the prompt shows.
    """
    task = found.task
    records = [
        {
            "id": str(row.id),
            "fields": {"prompt": prompt},
            "metadata": {name: str(row.fields[name]) for name in task.template_fields},
            "suggestions": {QUESTION: {"value": label, "score": confidence, "agent": _AGENT}},
            "responses": {},
            "vectors": {},
            "status": "pending",
        }
        for row, prompt, label, confidence in zip(
            found.dataset.rows,
            task.render_all(found.dataset),
            found.labels,
            _confidences(found),
            strict=True,
        )
    ]
    options = [{"value": label, "text": label} for label in task.labels]
    asked = {
        "name": QUESTION,
        "title": "Which label goes on from here?",
        "required": True,
        "settings": {"type": "label_selection", "options": options},
    }
    text = {"type": "text", "use_markdown": False}
    shared = {"guidelines": _GUIDELINES, "allow_extra_metadata": True}
    return {
        "records.json": records,
        ".argilla/settings.json": {
            **shared,
            "questions": [asked],
            "fields": [{"name": "prompt", "title": "Prompt", "required": True, "settings": text}],
            "vectors": [],
            "metadata": [],
            "distribution": {"strategy": "overlap", "min_submitted": 1},
            "mapping": None,
        },
        ".argilla/dataset.json": {**shared, "name": found.name, "status": "draft"},
    }


def _confidences(found: RunLabels) -> list[float | None]:
    return [record["confidence"] for record in found.records]
