"""What a row of each of the paper's public files becomes.

Each function takes a row of the file and its place in it, from 1, and yields the rows that it
makes; it raises `Unusable` where a column that it reads is empty or no text.

Questions with choices become one claim a choice, of which at most one is true. The claims of a
question have its `question_id`: questions of the same words may be several, with other choices and
answers. They come in an order that does not depend on which is right; `choice` is the choice's name
in the file.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import orjson

from icm_client.data.answer_text import final_answer
from icm_client.data.messages import listed, shown
from icm_client.data.values import Unusable, json_value, kind_of

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


_NO_ANSWER = ("", "-1", "None")  # what test files have in the place of the answer
_YES_OR_NO = {"true": "yes", "1": "yes", "yes": "yes", "false": "no", "0": "no", "no": "no"}
_ANSWERS = ("answerKey", "answer", "label")


class _Choices(NamedTuple):
    """A question's choices.

    Attributes:
        names: how the file's answers name them: by these only, where `given`.
        texts: the choices themselves.
        given: whether the file, or its format, gives the names; else they are numbers from 0, and
            an answer may be a letter or a text as well.
    """

    names: list[str]
    texts: list[str]
    given: bool = True


def choice_claims(raw: Raw, number: int) -> Iterator[Made]:
    """Questions with a list of choices, or with ARC's lists of their texts and labels.

    The answer is a choice's label; where there are none its number from 0, its letter, or its text.
    """
    answer = next((name for name in _ANSWERS if name in raw), "answer")
    used = ("question", "choices", answer)
    yield from _claims(raw, number, text_in(raw, "question"), _choices(raw["choices"]), used)


def ending_claims(raw: Raw, number: int) -> Iterator[Made]:
    """HellaSwag: a text and four endings, of which `label` has the number from 0."""
    choices = _choices(raw["endings"])._replace(given=True)
    yield from _claims(raw, number, text_in(raw, "ctx"), choices, ("ctx", "endings", "label"))


def solution_claims(raw: Raw, number: int) -> Iterator[Made]:
    """PIQA: a goal and two solutions, of which `label` has the number from 0."""
    choices = _Choices(["0", "1"], [text_in(raw, "sol1"), text_in(raw, "sol2")])
    used = ("goal", "sol1", "sol2", "label")
    yield from _claims(raw, number, text_in(raw, "goal"), choices, used)


def blank_claims(raw: Raw, number: int) -> Iterator[Made]:
    """WinoGrande: a sentence with a blank and two options for it; `answer` is 1 or 2."""
    sentence = text_in(raw, "sentence")
    if "_" not in sentence:
        raise Unusable("the field 'sentence' has no blank (_)")
    choices = _Choices(["1", "2"], [text_in(raw, "option1"), text_in(raw, "option2")])
    used = ("sentence", "option1", "option2", "answer")
    yield from _claims(raw, number, sentence, choices, used)


def yes_or_no(raw: Raw, number: int) -> Iterator[Made]:
    """BoolQ: a question about a passage, whose answer is true or false."""
    answer = str(raw["answer"]).strip().casefold()
    if answer not in _YES_OR_NO and answer not in map(str.casefold, _NO_ANSWER):
        raise Unusable(f"the field 'answer' must be true or false, not {shown(raw['answer'])}")
    yield {
        "id": _id_of(raw, number),
        "passage": text_in(raw, "passage"),
        "question": text_in(raw, "question"),
        **_others(raw, ("id", "passage", "question", "answer")),
        "label": _YES_OR_NO.get(answer),
    }


def _claims(
    raw: Raw, number: int, question: str, choices: _Choices, used: tuple[str, ...]
) -> Iterator[Made]:
    """Yield a claim for each choice; of choices with the same text one."""
    row_id = _id_of(raw, number)
    names, texts, _ = choices
    right = _right(raw.get(used[-1]), choices)
    made: Made = {"id": row_id, "question_id": row_id, "question": question}
    for position, text in enumerate(in_blind_order(question, dict.fromkeys(texts)), start=1):
        made |= {"id": f"{row_id}-c{position}", "choice": names[texts.index(text)], "claim": text}
        if used[-1] in raw:
            made["label"] = None if right is None else str(text == texts[right])
        yield {**made, **_others(raw, (*used, *made))}


def _choices(given: object) -> _Choices:
    """Return the choices of a list of texts, of objects, or of ARC's two lists."""
    given = json_value(given)
    if isinstance(given, str) and given.lstrip().startswith(("[", "{")):  # as CSV has them
        try:
            given = orjson.loads(given)
        except orjson.JSONDecodeError:
            raise Unusable(
                f'the choices are not JSON, such as ["yes", "no"]: {shown(given)}'
            ) from None
    labels: object = None
    if isinstance(given, Mapping):
        labels, given = given.get("label"), given.get("text")
    elif isinstance(given, list) and any(isinstance(one, Mapping) for one in given):
        objects: list[Raw] = [one if isinstance(one, Mapping) else {} for one in given]
        labels = [one.get("label") for one in objects]
        given = [one.get("text") for one in objects]
    if not isinstance(given, list) or len(given) < 2:  # noqa: PLR2004 - as few as a choice has
        raise Unusable(
            f"the choices must be a list of two texts or more, not {kind_of(given)}: {shown(given)}"
        )
    texts = [text_in({f"choice {n}": text}, f"choice {n}") for n, text in enumerate(given, 1)]
    if labels is None:
        return _Choices([str(n) for n in range(len(texts))], texts, given=False)
    names = [str(label) for label in labels] if isinstance(labels, list) else []
    if len(names) != len(texts) or len(set(names)) != len(names):
        raise Unusable(f"the choices' labels must be one a choice, all different: {shown(labels)}")
    return _Choices(names, texts)


def _right(answer: object, choices: _Choices) -> int | None:
    """Return the place of the right choice, or None where the row does not say.

    Raises:
        Unusable: the answer is none of the choices, or could be two of them.
    """
    names, texts, given = choices
    if isinstance(answer, float) and answer.is_integer():  # numbers of a column with gaps
        answer = int(answer)
    said = str(answer).strip()
    letters = [chr(ord("A") + place) for place in range(len(texts))]
    by_name = given or isinstance(answer, int)
    ways = [names] if by_name else [names, letters, [one.lower() for one in letters], texts]
    found = {way.index(said) for way in ways if said in way}
    if len(found) == 1:
        return found.pop()
    if not found and said in _NO_ANSWER:
        return None
    kind = "may be two of the choices" if found else "is none of the choices"
    how = "" if given else ", by its letter from A, or by its text"
    raise Unusable(f"the answer {shown(said)} {kind}: name it as {listed(names)}{how}")


def _others(raw: Raw, used: tuple[str, ...]) -> Made:
    return {name: value for name, value in raw.items() if name not in used}


def _id_of(raw: Raw, number: int) -> str:
    own = raw.get("id")
    if own is None:
        return f"q{number}"
    if isinstance(own, bool) or not isinstance(own, str | int) or not str(own).strip():
        raise Unusable(f"the id must be text or a whole number, not {shown(own)}")
    return str(own)
