"""What a row of each of the paper's public files becomes.

Each function takes a row of the file and its place in it, from 1, and yields the rows that it
makes; it raises `Unusable` where a column that it reads is empty or no text.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

from icm_client.data.answer_text import final_answer
from icm_client.data.messages import shown
from icm_client.data.values import Unusable, kind_of

Raw = Mapping[str, object]
Made = dict[str, object]

_NEWLINES = re.compile(r"[ \t]*[\r\n]+[ \t\r\n]*")


def truthfulqa_claims(raw: Raw, number: int) -> Iterator[Made]:
    """TruthfulQA's CSV: one row an answer. One listed as correct and as incorrect is left out."""
    question = text_in(raw, "Question")
    correct = _answers(raw, "Correct Answers", "Best Answer")
    incorrect = _answers(raw, "Incorrect Answers", "Best Incorrect Answer")
    claims = in_blind_order(question, {*correct} ^ {*incorrect})
    for position, claim in enumerate(claims, start=1):
        yield {
            "id": f"q{number}-c{position}",
            "question": question,
            "claim": claim,
            "label": str(claim in correct),
        }


def truthfulqa_pairs(raw: Raw, number: int) -> Iterator[Made]:
    """TruthfulQA's CSV: its best answer against its best incorrect one.

    The release of 817 questions names no best incorrect answer: one is taken by a hash of its text.
    A question all of whose incorrect answers are listed as correct, too, is `Unusable`.
    """
    question = text_in(raw, "Question")
    best = text_in(raw, "Best Answer")
    if "Best Incorrect Answer" in raw:
        incorrect = text_in(raw, "Best Incorrect Answer")
    else:
        correct = _answers(raw, "Correct Answers", "Best Answer")
        every = _answers(raw, "Incorrect Answers", "Best Incorrect Answer")
        others = [answer for answer in every if answer not in correct]
        if not others:
            raise Unusable("no incorrect answer that is not among the correct ones too")
        incorrect = min(others, key=lambda answer: _digest("chosen", question, answer))
    first, second = in_blind_order(question, (best, incorrect))
    yield {
        "id": f"q{number}",
        "question": question,
        "answer_1": first,
        "answer_2": second,
        "label": str(first == best),
    }


def model_solutions(raw: Raw, number: int) -> Iterator[Made]:
    """grade-school-math's examplemodel_solutions.jsonl: one row a model's solution.

    A solution that is word for word another model's is left out: the label of the one would give
    away that of the other.
    """
    question = text_in(raw, "question")
    tries = {
        solver: tried
        for solver, tried in raw.items()
        if isinstance(tried, Mapping) and "solution" in tried
    }
    if not tries:
        raise Unusable("no model's solution, an object with 'solution' and 'is_correct'")
    seen: set[str] = set()
    for solver, tried in tries.items():
        claim = text_in(tried, "solution")
        if claim not in seen:
            seen.add(claim)
            yield {
                "id": f"q{number}-{solver}",
                "question": question,
                "claim": claim,
                "answer": final_answer(claim),
                "label": _truth(tried.get("is_correct")),
            }


def released_claims(raw: Raw, _number: int) -> Iterator[Made]:
    """The released code's JSON: `choice` is the claim, and every other field stays.

    Among those that stay is `consistency_id`. For TruthfulQA that code made it from the gold
    labels, so no task here uses it as a key.
    """
    yield _renamed(raw, {"question": "question", "choice": "claim"})


def released_solutions(raw: Raw, _number: int) -> Iterator[Made]:
    """The same for solutions of problems, with the final answer that each ends with."""
    made = _renamed(raw, {"question": "question", "choice": "claim"})
    yield {**made, "answer": final_answer(text_in(raw, "choice"))}


def own_solutions(raw: Raw, _number: int) -> Iterator[Made]:
    """Rows with question and claim, and the final answer that each claim ends with."""
    yield {**raw, "answer": final_answer(text_in(raw, "claim"))}


def released_answers(raw: Raw, _number: int) -> Iterator[Made]:
    """The released code's pairs of answers: `choice` and `choice_2`."""
    yield _renamed(raw, {"question": "question", "choice": "answer_1", "choice_2": "answer_2"})


def released_responses(raw: Raw, _number: int) -> Iterator[Made]:
    """The released code's pairs of responses, each on one line."""
    made = _renamed(raw, {"question": "question"})
    del made["choice"], made["choice_2"]
    yield {
        **made,
        "response_1": _on_one_line(text_in(raw, "choice")),
        "response_2": _on_one_line(text_in(raw, "choice_2")),
    }


def alpaca_farm(raw: Raw, _number: int) -> Iterator[Made]:
    """AlpacaFarm's preferences: 1 says that the first output is better, 2 the second.

    Each output is put on one line. A preference that is neither leaves the row without gold.
    """
    made: Made = {
        "question": text_in(raw, "instruction"),
        "response_1": _on_one_line(text_in(raw, "output_1")),
        "response_2": _on_one_line(text_in(raw, "output_2")),
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
        made[new] = text_in(raw, old)
    if "label" in raw:
        made["label"] = _truth(raw["label"])
    return made


def text_in(raw: Raw, field: str) -> str:
    """Return the field's text, without white space around it."""
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


def in_blind_order(question: str, answers: Iterable[str]) -> list[str]:
    """Return the answers in an order that only their texts decide, not which are correct."""
    return sorted(answers, key=lambda answer: _digest("order", question, answer))


def _digest(purpose: str, *texts: str) -> bytes:
    # With one digest for both purposes, the answer chosen for its small one would come first, too.
    return hashlib.sha256("\0".join((purpose, *texts)).encode()).digest()


def _answers(raw: Raw, column: str, best: str) -> list[str]:
    """The answers of a TruthfulQA column, which semicolons separate, with the best one's."""
    answers = text_in(raw, column).split(";")
    if best in raw:
        answers.append(text_in(raw, best))
    return list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
