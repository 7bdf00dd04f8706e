"""When two answers are the same answer, and which number a solution calls its answer.

`comparable` lists all that counts as equal. An answer in words ("twelve") or in other
units ("0.5 kg") stays as it is: users who need more normalise the field themselves.
"""

import re
import unicodedata
from decimal import Decimal

from icm_client.data.values import JsonValue, Unusable, kind_of

_MINUS = "\N{MINUS SIGN}"
_NUMBER = re.compile(
    r"""
    (?P<sign>[+-]?)
    (?P<whole>[0-9]{1,3}(?:[,'_\ ][0-9]{3})+|[0-9]*)  # 1,000 or 1 000 or 1000, or nothing: .5
    (?:\.(?P<fraction>[0-9]*))?                       # "5." too: the full stop of a sentence
    (?P<percent>\ ?%?)
    \.?
    """,
    re.VERBOSE,
)
# "A: 18" (OpenAI's model solutions), "#### 18" (GSM8K's own), "The answer is 18."
_MARKS = r"(?:^\s*A:|^\s*####|\bthe (?:final )?answer is\b:?)"
_MARKED = re.compile(rf"{_MARKS}(.*?)(?={_MARKS}|$)", re.IGNORECASE | re.MULTILINE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")


def comparable(value: JsonValue) -> str | None:
    """Return an answer's text in the form in which answers are compared, or None if it is empty.

    These become equal: forms of one character (Unicode NFKC), upper and lower case, any white
    space, and of plain numbers thousands separators (`,`, a space, `'`, `_`), currency signs, a
    leading `+` or zeros, zeros at a fraction's end and a final full stop: "$1,000.00", "1000" and
    the number 1000.0 are one answer. "50%" is "50.0 %", but not "50". A comma is never a decimal
    point.

    Raises:
        Unusable: the value is a list or an object.
    """
    if isinstance(value, list | dict):
        raise Unusable(f"{kind_of(value)}; it must hold one answer")
    if value is None:
        return None
    if isinstance(value, float):
        value = format(Decimal(str(value)), "f")
    text = _normalized(str(value))
    return _plain_number(text) or text or None


def exact(value: JsonValue) -> str | None:
    """Return a value that groups rows as text, or None if it is null or blank.

    7 and "7" are one value, as they are one id: a CSV file cannot tell them apart.

    Raises:
        Unusable: the value is a list or an object.
    """
    if isinstance(value, list | dict):
        raise Unusable(f"{kind_of(value)}; it must hold one value")
    text = "" if value is None else str(value).strip()
    return text or None


def final_answer(solution: str) -> str | None:
    """Return the number that the solution calls its answer, in one spelling; None if none is clear.

    `$1,500.00` and `1500` are one answer, and so are `50%` and `50`. A solution that gives no plain
    number ("5 hours", "7/14"), or two different ones, has None rather than a guess: it excludes no
    other solution.
    """
    sentences = (
        _SENTENCE_END.split(match[1].strip(), maxsplit=1)[0] for match in _MARKED.finditer(solution)
    )
    numbers = (_plain_number(_normalized(sentence)) for sentence in sentences)
    answers = {number.removesuffix("%") for number in numbers if number is not None}
    return answers.pop() if len(answers) == 1 else None


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _plain_number(text: str) -> str | None:
    """Return a number without what makes no difference to it, or None if the text is no number."""
    bare = "".join(
        character
        for character in text.replace(_MINUS, "-")
        if unicodedata.category(character) != "Sc"
    )
    found = _NUMBER.fullmatch(bare.strip().replace("- ", "-"))
    if found is None:
        return None
    whole, fraction = re.sub("[^0-9]", "", found["whole"]), found["fraction"] or ""
    if not whole and not fraction:
        return None
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    digits = f"{whole}.{fraction}" if fraction else whole
    sign = "-" if found["sign"] == "-" and digits != "0" else ""
    return f"{sign}{digits}{found['percent'].strip()}"
