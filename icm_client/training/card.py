"""The card beside exported labels: how they were made, and whether to believe them.

The head of a dataset card is YAML: https://huggingface.co/docs/hub/datasets-cards.
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

_SAYS: Final[dict[Verdict, str]] = {
    "trust": "Nothing was found that speaks against these labels.",
    "check": "Something was found that a person should look at before these labels are used.",
    "do not trust": "**DO NOT TRUST THESE LABELS.** What is trained on them learns what is wrong "
    "with them.",
}
_FORMATS: Final = {
    "sft": "JSON Lines: `prompt`, and the `completion` that follows it (trl's prompt-completion)",
    "chat": "JSON Lines: `messages`, a user's and the assistant's (OpenAI, axolotl, trl)",
    "dpo": "JSON Lines: `prompt`, `chosen`, `rejected` (trl's preference)",
    "reward": "JSON Lines: `prompt`, `chosen`, `rejected` (trl's preference, for reward models)",
    "csv": "CSV, a line a row",
    "parquet": "Parquet, a line a row",
    "hf": "a dataset folder: `datasets.load_dataset(FOLDER)`",
}
_LICENCE: Final = (
    "The rows' licence is that of the data they came from; labels that a model made may fall under "
    "the model's licence. Look at both before you publish this or what is trained on it."
)
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_LARGE: Final = "100K<n<1M"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells.

    Attributes:
        run: whose labels they are.
        to: the format.
        task: the run's.
        found: label -> rows, of the run.
        exported: label -> rows, of the export.
        records: lines or table rows.
        left_out: why rows of the run are missing, and how many.
        min_confidence: what was asked for.
        with_gold: whether gold labels are in it.
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
        """What the worst findings say."""
        findings = self.result.get("findings", ())
        worst = [one for one in findings if recorded_severity(one) == "fatal"]
        return tuple(str(one["message"]) for one in worst or findings)


def export_card(facts: CardFacts) -> str:
    """Return the card of an exported file."""
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
        "method": "Internal Coherence Maximization (arXiv 2506.10139), which asks no person",
        "begun from": _begun(record["settings"].get("start")),
        "preset": preset,
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()),
        "seed": record["seed"],
        "model": f"{server.get('model')} ({server.get('kind')})",
        "server's fingerprint": server.get("fingerprint"),
        "coherence": _share(result.get("coherence")),
        "utility, nats a row": _number(result.get("utility")),
        "log-probs, rows": ", ".join(f"{k} {v}" for k, v in result.get("exactness", {}).items()),
        "ended early by": result.get("stopped"),
    }
    if facts.with_gold:
        made["accuracy against gold"] = _share(result.get("accuracy"))
    parts = [
        f"# Labels of {_plain(PurePath(str(record['data'])).name)}",
        _verdict(facts),
        "## What is in it",
        _contents(facts),
        _counts(facts),
        "## How the labels were made",
        _table(("", ""), [(key, value) for key, value in made.items() if value not in (None, "")]),
        "The prompt of a row, a row's fields in braces:",
        _fenced(task.template),
        "What follows it: "
        + ", ".join(f"`{_plain(repr(text))}`" for text in task.label_texts)
        + ".",
        *_notices(result),
        "## Versions",
        _table(("", ""), versions),
        "## Licence",
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


def _begun(start: object) -> str:
    """What the search began with: labels of a kind, or some that the user gave (a digest)."""
    kinds = get_args(Start)
    return f"{start} labels" if start in kinds else "labels that were given" if start else ""


def _verdict(facts: CardFacts) -> str:
    lines = [f"**Verdict: {facts.verdict}.** {_SAYS[facts.verdict]}"]
    for finding in facts.result.get("findings", ()):
        message, advice = _plain(str(finding["message"])), _plain(str(finding.get("advice", "")))
        lines.append(f"- {recorded_severity(finding)}: {message} {advice}".rstrip())
    return "\n".join(f"> {line}" if facts.verdict != "trust" else line for line in lines)


def _contents(facts: CardFacts) -> str:
    said = [f"{facts.records:,} records: {_FORMATS[facts.to]}."]
    if facts.task.exchange and facts.to in ("sft", "chat"):
        said.append("Each pair is there in both orders, with opposite labels.")
    if facts.to == "dpo" and not facts.task.exchange:
        said.append(
            "`chosen` is the text of the row's label, `rejected` that of another label: a record "
            "for each other label."
        )
    if facts.task.exchange and facts.to in ("dpo", "reward"):
        said.append(
            "`chosen` is the response that the label prefers. `prompt` is the template's other "
            "fields, a line each."
        )
    if facts.min_confidence is not None:
        said.append(
            f"Only rows whose label has a confidence of at least {facts.min_confidence:g}: the "
            "easy ones are over-represented."
        )
    said.extend(f"Left out, {reason}: {count} rows." for reason, count in facts.left_out.items())
    if failed := len(facts.result.get("failed", ())):
        said.append(f"{failed} rows of the data have no label, since they could not be scored.")
    said.append(
        "Gold labels are in it." if facts.with_gold else "Gold labels, were there any, are not."
    )
    return " ".join(said)


def _counts(facts: CardFacts) -> str:
    total = sum(facts.exported.values())
    rows = [
        (label, facts.found.get(label, 0), facts.exported.get(label, 0), _share(share))
        for label in facts.task.labels
        for share in [facts.exported.get(label, 0) / max(total, 1)]
    ]
    return _table(("label", "rows found", "rows here", "share here"), rows)


def _notices(result: Mapping[str, Any]) -> list[str]:
    notices = [f"- {_plain(str(notice))}" for notice in result.get("notices", ())]
    return ["\n".join(["The run's notices:", "", *notices])] if notices else []


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_plain(str(cell)) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """On one line, and no end of a table's cell."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _share(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, float) else ""


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ""
