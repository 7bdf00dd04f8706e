"""The card beside exported labels: how they were made, and whether to trust them.

A dataset card begins with YAML: https://huggingface.co/docs/hub/datasets-cards.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, get_args

import orjson

from icm_client.coherence.initial_labels import Start
from icm_client.data import Task
from icm_client.record.archive import Run
from icm_client.verdict.findings import Verdict, recorded_severity

_MEANINGS: Final[dict[Verdict, str]] = {
    "trust": "Nothing was found that speaks against these labels.",
    "check": "Look at the findings before you use these labels.",
    "do not trust": "**DO NOT TRUST THESE LABELS.** A model that is trained on them learns their "
    "errors.",
}
_FORMATS: Final = {
    "sft": "JSON Lines: `prompt`, and the `completion` that follows it (trl's prompt-completion)",
    "chat": "JSON Lines: `messages`, a user's and the assistant's (OpenAI, axolotl, trl)",
    "dpo": "JSON Lines: `prompt`, `chosen`, `rejected` (trl's preference)",
    "reward": "JSON Lines: `prompt`, `chosen`, `rejected` (trl's preference, for reward models)",
    "csv": "CSV, one line for each row",
    "parquet": "Parquet",
    "hf": "a dataset folder: `datasets.load_dataset(FOLDER)`",
    "label-studio": "tasks of Label Studio, the labels as predictions unless people are to answer "
    "without seeing them; the labeling interface is the `.xml` file beside them",
    "argilla": "a dataset folder of Argilla, the labels as suggestions: "
    "`argilla.Dataset.from_disk(FOLDER)`",
}
_LICENCE: Final = (
    "The rows have the licence of the data that they came from. Labels that a model made may fall "
    "under the model's licence. Check both before you publish this file or a model that is trained "
    "on it."
)
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_LARGE: Final = "100K<n<1M"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says.

    Attributes:
        run: the run that found the labels.
        to: the format.
        task: the run's.
        found: label -> number of rows in the run.
        exported: label -> number of rows in the export.
        records: number of lines or table rows.
        left_out: why rows of the run are missing, and how many.
        min_confidence: as requested.
        with_gold: whether gold labels are in the export.
        verdict: on the labels.
    """

    run: Run
    to: str
    task: Task
    found: Mapping[str, int]
    exported: Mapping[str, int]
    records: int
    left_out: Mapping[str, int]
    min_confidence: float | None
    with_gold: bool
    verdict: Verdict

    @property
    def result(self) -> Mapping[str, Any]:
        """The run's summary."""
        return self.run.result or {}

    @property
    def reasons(self) -> tuple[str, ...]:
        """The messages of the worst findings."""
        findings = self.result.get("findings", ())
        worst = [one for one in findings if recorded_severity(one) == "fatal"]
        return tuple(str(one["message"]) for one in worst or findings)


def export_card(facts: CardFacts, heading: str = "#") -> str:
    """Return the card of an exported file, whose title is a heading of this level."""
    record, result, task = facts.run.record, facts.result, facts.task
    server = record["server"]
    preset = result.get("preset") or record["settings"].get("preset")
    apart = ("preset", "start")
    settings = {name: value for name, value in record["settings"].items() if name not in apart}
    versions = sorted((k, v) for k, v in record["versions"].items() if k != "platform")
    made = {
        "by": f"icm-client {record['versions'].get('icm-client', '')}, run `{facts.run.name}`",
        "when": facts.run.created,
        "data": f"{PurePath(str(record['data'])).name}, {record['rows']} rows",
        "method": "Internal Coherence Maximization (arXiv 2506.10139), which needs no human labels",
        "initial labels": _initial(record["settings"].get("start")),
        "preset": preset,
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()),
        "seed": record["seed"],
        "model": f"{server.get('model')} ({server.get('kind')})",
        "server's fingerprint": server.get("fingerprint"),
        "coherence": _share(result.get("coherence")),
        "utility, nats a row": _number(result.get("utility")),
        "rows by kind of log-prob": ", ".join(
            f"{k} {v}" for k, v in result.get("exactness", {}).items()
        ),
        "ended early by": result.get("stopped"),
    }
    if facts.with_gold:
        made["accuracy against gold"] = _share(result.get("accuracy"))
    parts = [
        f"{heading} Labels of {_plain(PurePath(str(record['data'])).name)}",
        _verdict(facts),
        f"{heading}# What is in it",
        _contents(facts),
        _counts(facts),
        f"{heading}# How the labels were made",
        table(("", ""), [(key, value) for key, value in made.items() if value not in (None, "")]),
        "The prompt template, with the row's fields in braces:",
        _fenced(task.template),
        "One of these follows it: "
        + ", ".join(f"`{_plain(repr(text))}`" for text in task.label_texts)
        + ".",
        *_notices(result),
        f"{heading}# Versions",
        table(("", ""), versions),
        f"{heading}# Licence",
        _LICENCE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def dataset_card(facts: CardFacts, data_file: str) -> str:
    """Return the README.md of a dataset folder whose rows are in `data_file`."""
    name = PurePath(str(facts.run.record["data"])).stem
    size = next((size for most, size in _SIZES if facts.records < most), _LARGE)
    head = [
        "---",
        # A JSON string is a YAML one.
        f"pretty_name: {orjson.dumps(f'{name}, labelled by icm-client').decode()}",
        "license: unknown",
        "task_categories:",
        "- text-classification",
        "tags:",
        "- unsupervised-elicitation",
        "- icm-client",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {data_file}",
        "---",
    ]
    return "\n".join(head) + "\n\n" + export_card(facts)


def _initial(start: object) -> str:
    """The search's initial labels: of a named kind, or the user's own (recorded as a digest)."""
    kinds = get_args(Start)
    return str(start) if start in kinds else "given by the user" if start else ""


def _verdict(facts: CardFacts) -> str:
    lines = [f"**Verdict: {facts.verdict}.** {_MEANINGS[facts.verdict]}"]
    for finding in facts.result.get("findings", ()):
        message, advice = _plain(str(finding["message"])), _plain(str(finding.get("advice", "")))
        lines.append(f"- {recorded_severity(finding)}: {message} {advice}".rstrip())
    return "\n".join(f"> {line}" if facts.verdict != "trust" else line for line in lines)


def _contents(facts: CardFacts) -> str:
    sentences = [f"{facts.records:,} records: {_FORMATS[facts.to]}."]
    if facts.task.exchange and facts.to in ("sft", "chat"):
        sentences.append("Each pair is there in both orders, with opposite labels.")
    if facts.to == "dpo" and not facts.task.exchange:
        sentences.append(
            "`chosen` is the text of the row's label, and `rejected` that of another label; there "
            "is a record for each other label."
        )
    if facts.task.exchange and facts.to in ("dpo", "reward"):
        sentences.append(
            "`chosen` is the response that the label prefers. `prompt` holds the template's other "
            "fields, one on each line."
        )
    if facts.min_confidence is not None:
        sentences.append(
            f"Only rows whose label has a confidence of at least {facts.min_confidence:g} are in "
            "it, so easy rows are over-represented."
        )
    sentences += [f"Left out, {reason}: {count} rows." for reason, count in facts.left_out.items()]
    if failed := len(facts.result.get("failed", ())):
        sentences.append(f"{failed} rows of the data could not be scored and have no label.")
    holds = "gold labels" if facts.with_gold else "no field that was named as gold"
    sentences.append(f"It holds {holds}.")
    return " ".join(sentences)


def _counts(facts: CardFacts) -> str:
    total = sum(facts.exported.values())
    rows = [
        (label, facts.found.get(label, 0), here, _share(here / max(total, 1)))
        for label in facts.task.labels
        for here in [facts.exported.get(label, 0)]
    ]
    return table(("label", "rows found", "rows here", "share here"), rows)


def _notices(result: Mapping[str, Any]) -> list[str]:
    notices = [f"- {_plain(str(notice))}" for notice in _said(result)]
    return ["\n".join(["The run's notices:", "", *notices])] if notices else []


def _said(result: Mapping[str, Any]) -> list[object]:
    """What the run said about its data, what should be mended first."""
    return [*result.get("warnings", ()), *result.get("notices", ())]


def table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """Return a table in Markdown; what a cell holds stands on one line."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_plain(str(cell)) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """The text on one line, with `|` escaped for a table's cell."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _share(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, float) else ""


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ""
