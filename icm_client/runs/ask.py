"""Which rows of a run a person is best asked about, and how to go on with the answers.

`icm_client.coherence.asking` chooses by the run's log-probs, first the rows that show whether names
are right; here it is given what rows say, as words. Answers are kept beside the run
(`icm_client.record.checks`).
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from icm_client.coherence.asking import Choice, order_to_ask
from icm_client.coherence.problem import UNLABELLED, FloatArray, IntArray
from icm_client.data.sources import STDIN
from icm_client.errors import InputError
from icm_client.record.archive import Run
from icm_client.record.checks import Checks
from icm_client.record.run_labels import RunLabels, read_labels

_WORDS = 512
"""Numbers that stand for a row: each word adds to one of them."""

_WORD = re.compile(r"[^\W\d_]+")
"""Without digits: numbers are what tells rows of one wording apart."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A row that a person is to be asked about.

    Attributes:
        id: of the row.
        prompt: what the model was asked.
        label: that the run has found.
        confidence: of the label; None where the run has none.
        reason: why this row is asked about, in words.
    """

    id: str | int
    prompt: str
    label: str
    confidence: float | None
    reason: str

    def summary(self) -> dict[str, object]:
        """Return everything as JSON values; the label as `found`: it is no person's answer."""
        fields = asdict(self)
        return {("found" if name == "label" else name): fields[name] for name in fields}


def choose_rows(run: Run, budget: int) -> Sequence[Asked]:
    """Return the rows to ask about, in the order in which to ask.

    Rows that are pinned, or that somebody has checked already, are left out.

    Args:
        run: from `icm_client.record.archive.find_run`.
        budget: how many rows; fewer are returned where the run has fewer.

    Raises:
        InputError: the run has no labels yet, or the budget is not at least 1.
        RunError: its files are damaged.
    """
    if budget < 1:
        raise InputError(f"at least 1 row is asked about, not {budget}")
    found = read_labels(run.path)
    words = found.task.labels
    numbers = {word: number for number, word in enumerate(words)}
    checked = {str(check.id): check.label for check in Checks(run.path).read()}
    labels = np.array([numbers[label] for label in found.labels])
    rows = found.labelled
    said = [checked.get(str(row.row.id), row.label if row.pinned else None) for row in rows]
    # A word that is none of the task's, in a file that was edited: asked again, it is put right.
    answers = np.array([numbers.get(one or "", UNLABELLED) for one in said])
    log_probs = np.array([[row.log_probs[word] for word in words] for row in rows])
    chosen = order_to_ask(
        log_probs, labels, answers, budget, lambda items: _vectors(_prompts(found, items))
    )
    return [
        Asked(
            found.dataset.rows[one.item].id,
            prompt,
            found.labels[one.item],
            found.records[one.item]["confidence"],
            _reason(one, found),
        )
        for one, prompt in zip(
            chosen, _prompts(found, np.array([one.item for one in chosen])), strict=True
        )
    ]


def _prompts(found: RunLabels, items: IntArray) -> Sequence[str]:
    some = found.only(items.tolist())
    return some.task.render_all(some.dataset)


def _reason(choice: Choice, found: RunLabels) -> str:
    words = found.task.labels
    if choice.why == "names":
        reason = "among the surest of its label: tells names"
    elif len(words) == 2:  # noqa: PLR2004
        reason = "near the threshold"
    else:
        # In the task's order: the run's own label is not to be told.
        two = sorted((found.labels[choice.item], words[choice.rival]), key=words.index)
        reason = f"between {two[0]!r} and {two[1]!r}"
    return f"{reason}; stands for {choice.alike:,} rows like it" if choice.alike else reason


def _vectors(texts: Sequence[str]) -> FloatArray:
    """Texts by their words, shape `[n, 512]`: a word weighs less the more of the texts have it."""
    vectors = np.zeros((len(texts), _WORDS))
    for number, text in enumerate(texts):
        for word in _WORD.findall(text.casefold()):
            vectors[number, crc32(word.encode("utf-8", "surrogatepass")) % _WORDS] += 1
    having = (vectors > 0).sum(axis=0)
    vectors *= np.log(len(texts) / np.maximum(having, 1))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, 1.0)
    return vectors


def pin_command(run: Run) -> str | None:
    """Return the command that labels the run's rows again with what people said of them pinned.

    What the run had pinned stays so, but where somebody has said otherwise since.

    None where the run was not started by `icm-client label`: there the file is the last of
    `label(..., pins=[..., PATH])`.
    """
    command = run.record.get("command")
    if not command or command[0] != "label":
        return None
    started = Path(str(run.record.get("folder")))
    path = Checks(run.path).path.resolve()
    if path.is_relative_to(started.resolve()):
        path = path.relative_to(started.resolve())
    line = shlex.join(["icm-client", *with_options(command, "--pin", str(path))])
    return line if started.resolve() == Path.cwd() else f"cd {shlex.quote(str(started))} && {line}"


def missing_from_command(run: Run) -> list[str]:
    """Return sentences on what a run's command needs besides, as it is never kept."""
    missing = [
        f"It lacks what is not kept, so give it again: {option}"
        for option in run.record.get("left_out", ())
    ]
    if STDIN in str(run.record.get("data")):
        missing.append("It reads the rows from standard input: pipe the same rows into it.")
    return missing


def with_options(command: Sequence[str], *options: str) -> list[str]:
    """Return a command's words with more options, the last ones, before a `--` that ends them."""
    words = list(map(str, command))
    place = words.index("--") if "--" in words else len(words)
    return [*words[:place], *options, *words[place:]]
