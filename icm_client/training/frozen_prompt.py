"""A run's frozen contexts as one JSON file that any client of the model can label rows with."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from icm_client.data import check_output
from icm_client.data.outputs import explained
from icm_client.data.values import write_json
from icm_client.data.whole_files import replace_file
from icm_client.runs.frozen import Frozen
from icm_client.verdict.findings import Verdict, verdict_of

FORMAT: Final = 1
"""The version of the file."""

_HOW: Final = (
    "The prompt is a context's text, then the template with the row's fields in it.",
    "The model's next token is asked for, with log-probs: log_prob[k] is that of label_texts[k].",
    "A label of several tokens is asked token by token; its log-probs add up.",
    "score[k] = mean over the contexts of (log_prob[k] - bias[k])",
    "probability[k] = exp(slope * score[k] + offsets[k]), divided by the sum of these over k",
    "The row's label is the k with the highest probability.",
)
_BOTH_ORDERS: Final = (
    "This task compares the fields of `exchange`. Ask both orders: the label is the k with the "
    "highest sum of log probability[k] and, with the two fields exchanged, log probability[1 - k]."
)
_LIMIT: Final = (
    "Rows whose prompt, without the context, takes more tokens than `max_row_tokens` had no label; "
    "where `truncate` is true, their texts were cut from the end to one length instead."
)
_RULE: Final = (
    "The task has a rule for rows of one group (`constraint`), which icm-client predict keeps and "
    "a prompt cannot."
)


@dataclass(frozen=True, slots=True)
class PromptExport:
    """What was written.

    Attributes:
        path: the file.
        contexts: how many prompts a row is asked with.
        verdict: on the run's labels.
        warnings: sentences that the user must see.
    """

    path: Path
    contexts: int
    verdict: Verdict
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return {
            "path": str(self.path),
            "format": "prompt",
            "contexts": self.contexts,
            "verdict": self.verdict,
            "warnings": list(self.warnings),
        }


def export_prompt(frozen: Frozen, path: str | os.PathLike[str]) -> PromptExport:
    """Write contexts, label tokens and thresholds; an existing file is replaced at once."""
    name = os.fspath(path)
    check_output(name, "jsonl")
    with explained(name):
        replace_file(Path(name), write_json(prompt_document(frozen), orjson.OPT_INDENT_2))
    verdict = verdict_of(frozen.findings)
    warnings = [f"{one.message} {one.advice}".strip() for one in frozen.findings if one.fatal]
    if frozen.label_ids is not None and any(len(ids) > 1 for ids in frozen.label_ids):
        warnings.append("a label has several tokens: each is to be asked for in turn")
    return PromptExport(Path(name), len(frozen.contexts), verdict, tuple(warnings))


def prompt_document(frozen: Frozen) -> dict[str, Any]:
    """Return the file's content as JSON values."""
    task, calibration = frozen.task, frozen.calibration
    how = list(_HOW)
    how += [_BOTH_ORDERS] if task.exchange is not None else []
    how += [_LIMIT] if frozen.row_limit.tokens is not None else []
    how += [_RULE] if any(rule.kind not in ("none", "asymmetry") for rule in task.rules) else []
    return {
        "icm_client_prompt": FORMAT,
        "run": frozen.run,
        "verdict": verdict_of(frozen.findings),
        "model": frozen.server.model,
        "fingerprint": frozen.server.fingerprint,
        "how": how,
        "contexts": [
            {"text": text, "bias": bias.tolist()}
            for text, bias in zip(frozen.context_texts, calibration.bias, strict=True)
        ],
        "template": task.template,
        "exchange": task.exchange,
        "constraint": task.model_dump(mode="json")["constraint"],
        "labels": frozen.labels,
        "label_texts": frozen.label_texts,
        "label_token_ids": frozen.label_ids,
        "slope": calibration.slope,
        "offsets": calibration.offsets.tolist(),
        **frozen.row_limit.settings,
    }
