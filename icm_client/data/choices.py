"""Questions with choices become one claim a choice, of which at most one is true.

Each function is as those of `icm_client.data.layouts`. The claims of a question have its
`question_id`: questions of the same words may be several, with other choices and answers. They come
in an order that does not depend on which is right; `choice` is the choice's name in the file.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import orjson

from icm_client.data.layouts import Made, Raw, in_blind_order, text_in
from icm_client.data.messages import listed, shown
from icm_client.data.values import Unusable, json_value, kind_of

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
