"""Loaders make the fields that a built-in task uses out of the public files' own columns.

A loader is used only for rows that lack those fields. A file's known answers become `label` and
nothing else: neither the order of the rows made, nor their ids, nor which of two answers comes
first depends on them, and columns that would give them away (`Best Answer`, `ground_truth`, ...)
are left out.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from icm_client.data.answer_text import final_answer
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.rows import Dataset, collect, path_of
from icm_client.data.values import Unusable, kind_of
from icm_client.errors import RowError, TaskError

Raw = Mapping[str, object]
Made = dict[str, object]
Where = TypeVar("Where")

_NEWLINES = re.compile(r"[ \t]*[\r\n]+[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Layout:
    """One kind of file that a loader understands.

    Attributes:
        about: what the file is, as messages and `icm-client tasks show` name it.
        columns: the columns that each of its rows has at least.
        rows: makes the rows out of one; called with it and its place in the file, from 1.
    """

    about: str
    columns: tuple[str, ...]
    rows: Callable[[Raw, int], Iterator[Made]]


@dataclass(frozen=True, slots=True)
class Loader:
    """Makes a task's rows from public files.

    Attributes:
        fields: the template's fields that it makes.
        layouts: those it understands; the first whose columns a row has is used.
        added: further fields, which a constraint needs.
    """

    fields: tuple[str, ...]
    layouts: tuple[Layout, ...]
    added: tuple[str, ...] = ()


def loader_named(name: str) -> Loader:
    """Return the loader of this name.

    Raises:
        TaskError: there is none; the message names those there are.
    """
    if name not in LOADERS:
        raise TaskError(
            f"no loader is called {shown(name)}; there are {listed(LOADERS)}."
            f"{did_you_mean(name, LOADERS)}"
        )
    return LOADERS[name]


def load(
    name: str,
    rows: Iterable[tuple[int, object]],
    template_fields: Sequence[str] = (),
    *,
    path: str | None = None,
) -> Iterator[tuple[int, object]]:
    """Return the rows of `(line, row)` pairs with the task's fields, each with its row's line.

    Rows that have the fields already are returned unchanged. So is what is no object at all: the
    code that collects the rows refuses it.

    Args:
        name: one of `LOADERS`.
        rows: raw rows, each with its line or number; read one by one.
        template_fields: what the task's template uses; empty means the loader's own.
        path: the file, for errors.

    Raises:
        TaskError: no loader has that name; at once, before the first row.
        RowError: a row has neither the task's fields nor the columns of a file known here.
    """
    made = made_rows(name, rows, template_fields)

    def usable() -> Iterator[tuple[int, object]]:
        for line, row in made:
            if isinstance(row, Unusable):
                raise RowError(str(row), path=path, line=line)
            yield line, row

    return usable()


def made_rows(
    name: str, rows: Iterable[tuple[Where, object]], template_fields: Sequence[str] = ()
) -> Iterator[tuple[Where, object]]:
    """Return the same, but with an `Unusable` in the place of each row that cannot be used.

    Raises:
        TaskError: no loader has that name; at once, before the first row.
    """
    loader = loader_named(name)
    needed = tuple(template_fields) or loader.fields
    return (
        (line, made)
        for number, (line, raw) in enumerate(rows, start=1)
        for made in _made(loader, raw, number, needed)
    )


def loaded(
    dataset: Dataset,
    name: str,
    template_fields: Sequence[str] = (),
    *,
    gold: str | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Return rows that have been read, as the loader makes them; their gold stays gold.

    Args:
        dataset: the rows.
        name: one of `LOADERS`.
        template_fields: as for `load`.
        gold: the field of the made rows with the known labels; None keeps the dataset's own.
        skip_bad_rows: as for `read_rows`.

    Raises:
        TaskError: no loader has that name.
        RowError: as `collect`, for what the loader makes of the rows.
    """
    loader = loader_named(name)
    ready = (*(tuple(template_fields) or loader.fields), *loader.added)
    if gold in (None, dataset.gold_field) and all(_has(row.fields, ready) for row in dataset.rows):
        return dataset
    golds = dataset.gold or (None,) * len(dataset.rows)
    taken = () if dataset.gold_field is None else (dataset.gold_field,)
    rows = (
        (row.place, {**row.fields, **dict.fromkeys(taken, known)})
        for row, known in zip(dataset.rows, golds, strict=True)
    )
    made = collect(
        made_rows(name, rows, template_fields),
        path=path_of(dataset),
        gold=gold or dataset.gold_field,
        skip_bad_rows=skip_bad_rows,
    )
    return replace(
        made,
        warnings=tuple(dict.fromkeys((*dataset.warnings, *made.warnings))),
        skipped=(*dataset.skipped, *made.skipped),
    )


def _made(loader: Loader, raw: object, number: int, needed: tuple[str, ...]) -> Iterator[object]:
    """Yield what the loader makes of one row."""
    if not isinstance(raw, Mapping) or _has(raw, (*needed, *loader.added)):
        yield raw
        return
    layout = next((layout for layout in loader.layouts if _has(raw, layout.columns)), None)
    if layout is not None:
        try:
            yield from layout.rows(raw, number)
        except Unusable as problem:
            yield problem
    else:
        yield raw if _has(raw, needed) else Unusable(_no_layout(loader, raw, needed))


def _has(raw: Raw, fields: Iterable[str]) -> bool:
    return all(field in raw for field in fields)


def _no_layout(loader: Loader, raw: Raw, needed: tuple[str, ...]) -> str:
    nearest = max(loader.layouts, key=lambda known: sum(name in raw for name in known.columns))
    lacking = listed(name for name in nearest.columns if name not in raw)
    return (
        f"the row has {listed(raw)}: neither the task's fields {listed(needed)} nor those of a "
        f"file that its loader reads (for {nearest.about} it lacks {lacking})"
    )


# The layouts. Each function takes a row of the file and its place in it, from 1, and yields the
# rows that it makes; it raises `Unusable` where a column that it reads is empty or no text.


def _truthfulqa_claims(raw: Raw, number: int) -> Iterator[Made]:
    """TruthfulQA's CSV: one row an answer. One listed as correct and as incorrect is left out."""
    question = _text(raw, "Question")
    correct = _answers(raw, "Correct Answers", "Best Answer")
    incorrect = _answers(raw, "Incorrect Answers", "Best Incorrect Answer")
    claims = _in_blind_order(question, {*correct} ^ {*incorrect})
    for position, claim in enumerate(claims, start=1):
        yield {
            "id": f"q{number}-c{position}",
            "question": question,
            "claim": claim,
            "label": str(claim in correct),
        }


def _truthfulqa_pairs(raw: Raw, number: int) -> Iterator[Made]:
    """TruthfulQA's CSV: its best answer against its best incorrect one.

    The release of 817 questions names no best incorrect answer: one is taken by a hash of its text.
    A question all of whose incorrect answers are listed as correct, too, is `Unusable`.
    """
    question = _text(raw, "Question")
    best = _text(raw, "Best Answer")
    if "Best Incorrect Answer" in raw:
        incorrect = _text(raw, "Best Incorrect Answer")
    else:
        correct = _answers(raw, "Correct Answers", "Best Answer")
        every = _answers(raw, "Incorrect Answers", "Best Incorrect Answer")
        others = [answer for answer in every if answer not in correct]
        if not others:
            raise Unusable("no incorrect answer that is not among the correct ones too")
        incorrect = min(others, key=lambda answer: _digest("chosen", question, answer))
    first, second = _in_blind_order(question, (best, incorrect))
    yield {
        "id": f"q{number}",
        "question": question,
        "answer_1": first,
        "answer_2": second,
        "label": str(first == best),
    }


def _model_solutions(raw: Raw, number: int) -> Iterator[Made]:
    """grade-school-math's example_model_solutions.jsonl: one row a model's solution.

    A solution that is word for word another model's is left out: the label of the one would give
    away that of the other.
    """
    question = _text(raw, "question")
    tries = {
        solver: tried
        for solver, tried in raw.items()
        if isinstance(tried, Mapping) and "solution" in tried
    }
    if not tries:
        raise Unusable("no model's solution, an object with 'solution' and 'is_correct'")
    seen: set[str] = set()
    for solver, tried in tries.items():
        claim = _text(tried, "solution")
        if claim not in seen:
            seen.add(claim)
            yield {
                "id": f"q{number}-{solver}",
                "question": question,
                "claim": claim,
                "answer": final_answer(claim),
                "label": _truth(tried.get("is_correct")),
            }


def _released_claims(raw: Raw, _number: int) -> Iterator[Made]:
    """The released code's JSON: `choice` is the claim, and every other field stays.

    Among those that stay is `consistency_id`. For TruthfulQA that code made it from the gold
    labels, so no task here uses it as a key.
    """
    yield _renamed(raw, {"question": "question", "choice": "claim"})


def _released_solutions(raw: Raw, _number: int) -> Iterator[Made]:
    """The same for solutions of problems, with the final answer that each ends with."""
    made = _renamed(raw, {"question": "question", "choice": "claim"})
    yield {**made, "answer": final_answer(_text(raw, "choice"))}


def _own_solutions(raw: Raw, _number: int) -> Iterator[Made]:
    """Rows with question and claim, and the final answer that each claim ends with."""
    yield {**raw, "answer": final_answer(_text(raw, "claim"))}


def _released_answers(raw: Raw, _number: int) -> Iterator[Made]:
    """The released code's pairs of answers: `choice` and `choice_2`."""
    yield _renamed(raw, {"question": "question", "choice": "answer_1", "choice_2": "answer_2"})


def _released_responses(raw: Raw, _number: int) -> Iterator[Made]:
    """The released code's pairs of responses, each on one line."""
    made = _renamed(raw, {"question": "question"})
    del made["choice"], made["choice_2"]
    yield {
        **made,
        "response_1": _on_one_line(_text(raw, "choice")),
        "response_2": _on_one_line(_text(raw, "choice_2")),
    }


def _alpaca_farm(raw: Raw, _number: int) -> Iterator[Made]:
    """AlpacaFarm's preferences: 1 says that the first output is better, 2 the second.

    Each output is put on one line. A preference that is neither leaves the row without gold.
    """
    made: Made = {
        "question": _text(raw, "instruction"),
        "response_1": _on_one_line(_text(raw, "output_1")),
        "response_2": _on_one_line(_text(raw, "output_2")),
    }
    more = raw.get("input")
    if isinstance(more, str) and more.strip():
        made["question"] = f"{made['question']}\n{more.strip()}"
    if "id" in raw:
        made["id"] = raw["id"]
    if "preference" in raw:
        better = str(raw["preference"]).removesuffix(".0")  # a CSV file has it as text
        made["label"] = {"1": "True", "2": "False"}.get(better)
    yield made


def _renamed(raw: Raw, names: Mapping[str, str]) -> Made:
    made = {names.get(field, field): value for field, value in raw.items()}
    for old, new in names.items():
        made[new] = _text(raw, old)
    if "label" in raw:
        made["label"] = _truth(raw["label"])
    return made


def _text(raw: Raw, field: str) -> str:
    value = raw[field]
    if not isinstance(value, str):
        raise Unusable(f"the field {shown(field)} must be text, not {kind_of(value)}")
    if not value.strip():
        raise Unusable(f"the field {shown(field)} is empty")
    return value.strip()


def _truth(value: object) -> object:
    """The label of true, 1, false or 0; other values stay, and the check of gold judges them."""
    return str(bool(value)) if isinstance(value, int) and value in (0, 1) else value


def _on_one_line(text: str) -> str:
    """The text with spaces for newlines, as the paper shows responses."""
    return _NEWLINES.sub(" ", text)


def _in_blind_order(question: str, answers: Iterable[str]) -> list[str]:
    """The answers in an order that depends on the texts alone, and not on which are correct."""
    return sorted(answers, key=lambda answer: _digest("order", question, answer))


def _digest(purpose: str, *texts: str) -> bytes:
    # With one digest for both purposes, the answer chosen for its small one would come first, too.
    return hashlib.sha256("\0".join((purpose, *texts)).encode()).digest()


def _answers(raw: Raw, column: str, best: str) -> list[str]:
    """The answers of a TruthfulQA column, which semicolons separate, with the best one's."""
    answers = _text(raw, column).split(";")
    if best in raw:
        answers.append(_text(raw, best))
    return list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))


_TRUTHFULQA = "TruthfulQA.csv (the release of 790 or of 817 questions)"
_TRUTHFULQA_COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
_RELEASED = "the paper's released JSON (question, choice, label)"
_RELEASED_COLUMNS = ("question", "choice")
_RELEASED_PAIRS = "the paper's released JSON (question, choice, choice_2, label)"
_RELEASED_PAIR_COLUMNS = ("question", "choice", "choice_2")

LOADERS: Mapping[str, Loader] = MappingProxyType(
    {
        "truthfulqa": Loader(
            fields=("question", "claim"),
            layouts=(
                Layout(_TRUTHFULQA, _TRUTHFULQA_COLUMNS, _truthfulqa_claims),
                Layout(_RELEASED, _RELEASED_COLUMNS, _released_claims),
            ),
        ),
        "truthfulqa-preference": Loader(
            fields=("question", "answer_1", "answer_2"),
            layouts=(
                Layout(_TRUTHFULQA, _TRUTHFULQA_COLUMNS, _truthfulqa_pairs),
                Layout(_RELEASED_PAIRS, _RELEASED_PAIR_COLUMNS, _released_answers),
            ),
        ),
        "gsm8k": Loader(
            fields=("question", "claim"),
            layouts=(
                Layout(
                    "grade-school-math's example_model_solutions.jsonl",
                    ("question", "ground_truth"),
                    _model_solutions,
                ),
                Layout(_RELEASED, _RELEASED_COLUMNS, _released_solutions),
                Layout("rows that lack only 'answer'", ("question", "claim"), _own_solutions),
            ),
            added=("answer",),
        ),
        "alpaca": Loader(
            fields=("question", "response_1", "response_2"),
            layouts=(
                Layout(_RELEASED_PAIRS, _RELEASED_PAIR_COLUMNS, _released_responses),
                Layout(
                    "AlpacaFarm's JSON (instruction, input, output_1, output_2, preference)",
                    ("instruction", "output_1", "output_2"),
                    _alpaca_farm,
                ),
            ),
        ),
    }
)
