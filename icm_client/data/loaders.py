"""Loaders make the fields that a built-in task uses out of the public files' own columns.

A loader is used only for rows that lack those fields. A file's known answers become `label` and
nothing else: neither the order of the rows made, nor their ids, nor which of two answers comes
first depends on them, and columns that would give them away (`Best Answer`, `ground_truth`, ...)
are left out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from icm_client.data.layouts import (
    Made,
    Raw,
    alpaca_farm,
    blank_claims,
    choice_claims,
    ending_claims,
    model_solutions,
    own_solutions,
    released_answers,
    released_claims,
    released_responses,
    released_solutions,
    solution_claims,
    truthfulqa_claims,
    truthfulqa_pairs,
    yes_or_no,
)
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.rows import Dataset, collect, path_of
from icm_client.data.values import Unusable
from icm_client.errors import TaskError

Where = TypeVar("Where")


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
        added: further fields, which a constraint or the gold needs.
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


def made_rows(
    name: str, rows: Iterable[tuple[Where, object]], template_fields: Sequence[str] = ()
) -> Iterator[tuple[Where, object]]:
    """Return the rows with the task's fields, each with where the row stands that it is made of.

    Rows that have the fields already are returned unchanged. So is what is no object at all: the
    code that collects the rows refuses it. In the place of a row that cannot be used, since it has
    neither these fields nor the columns of a file known here, stands an `Unusable`.

    Args:
        name: one of `LOADERS`; that there is one is checked at once, before the first row.
        rows: raw rows, each with its line, number or place; read one by one.
        template_fields: what the task's template uses; empty means the loader's own.
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
    """Return rows that have been read, as the loader makes them; their gold stays gold."""
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
                Layout(_TRUTHFULQA, _TRUTHFULQA_COLUMNS, truthfulqa_claims),
                Layout(_RELEASED, _RELEASED_COLUMNS, released_claims),
            ),
        ),
        "truthfulqa-preference": Loader(
            fields=("question", "answer_1", "answer_2"),
            layouts=(
                Layout(_TRUTHFULQA, _TRUTHFULQA_COLUMNS, truthfulqa_pairs),
                Layout(_RELEASED_PAIRS, _RELEASED_PAIR_COLUMNS, released_answers),
            ),
        ),
        "gsm8k": Loader(
            fields=("question", "claim"),
            layouts=(
                Layout(
                    "grade-school-math's examplemodel_solutions.jsonl",
                    ("question", "ground_truth"),
                    model_solutions,
                ),
                Layout(_RELEASED, _RELEASED_COLUMNS, released_solutions),
                Layout("rows that lack only 'answer'", ("question", "claim"), own_solutions),
            ),
            added=("answer",),
        ),
        "alpaca": Loader(
            fields=("question", "response_1", "response_2"),
            layouts=(
                Layout(_RELEASED_PAIRS, _RELEASED_PAIR_COLUMNS, released_responses),
                Layout(
                    "AlpacaFarm's JSON (instruction, input, output_1, output_2, preference)",
                    ("instruction", "output_1", "output_2"),
                    alpaca_farm,
                ),
            ),
        ),
        "multiple-choice": Loader(
            fields=("question", "claim"),
            layouts=(
                Layout("HellaSwag (ctx, endings, label)", ("ctx", "endings"), ending_claims),
                Layout("PIQA (goal, sol1, sol2, label)", ("goal", "sol1", "sol2"), solution_claims),
                Layout(
                    "WinoGrande (sentence, option1, option2, answer)",
                    ("sentence", "option1", "option2"),
                    blank_claims,
                ),
                Layout(
                    "ARC (question, choices, answerKey), MMLU (question, choices, answer)",
                    ("question", "choices"),
                    choice_claims,
                ),
            ),
            added=("question_id",),
        ),
        "boolq": Loader(
            fields=("passage", "question"),
            layouts=(
                Layout(
                    "BoolQ (question, passage, answer)",
                    ("question", "passage", "answer"),
                    yes_or_no,
                ),
            ),
            added=("label",),
        ),
    }
)
