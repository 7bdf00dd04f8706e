"""The final answer of a worked solution, read from the solution's own words."""

import re

from icm_client.data.answer_text import comparable

# "A: 18" (OpenAI's model solutions), "#### 18" (GSM8K's own), "The answer is 18."
_MARKS = r"(?:^\s*A:|^\s*####|\bthe (?:final )?answer is\b:?)"
_MARKED = re.compile(rf"{_MARKS}(.*?)(?={_MARKS}|$)", re.IGNORECASE | re.MULTILINE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def final_answer(solution: str) -> str | None:
    """Return the number that the solution calls its answer, in one spelling; None if none is clear.

    `$1,500.00` and `1500` are one answer, and so are `50%` and `50`. A solution that gives no plain
    number ("5 hours", "7/14"), or two different ones, has None rather than a guess: it excludes no
    other.
    """
    answers = {_plain_number(match.group(1)) for match in _MARKED.finditer(solution)} - {None}
    return answers.pop() if len(answers) == 1 else None


def _plain_number(text: str) -> str | None:
    sentence = _SENTENCE_END.split(text.strip(), maxsplit=1)[0]
    number = (comparable(sentence) or "").removesuffix("%")
    return number if _NUMBER.fullmatch(number) else None
