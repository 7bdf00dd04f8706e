"""Messages to the user: how pieces of their data are shown, and mistakes in their settings.

A piece of data is shown short and on one line, with a suggestion where there is one.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from icm_client.errors import TaskError

_LONGEST = 80
_MOST_NAMES = 12


def shown(value: object) -> str:
    """Return the value for a message: text in quotes, control characters escaped, 80 at most."""
    text = value if isinstance(value, str) else str(value)
    escaped = repr(text[:_LONGEST])
    if len(text) > _LONGEST or len(escaped) > _LONGEST + 2:
        escaped = f"{escaped[: _LONGEST + 1]}...{escaped[0]}"
    return escaped if isinstance(value, str) else escaped[1:-1]


def listed(names: Iterable[str]) -> str:
    """Return the names in quotes, separated by commas; the first dozen if there are more."""
    every = list(names)
    text = ", ".join(shown(name) for name in every[:_MOST_NAMES])
    more = len(every) - _MOST_NAMES
    return f"{text} and {more} more" if more > 0 else text or "none"


def named_lines(lines: Sequence[int | str]) -> str:
    """Return `line 5`, or `lines 5, 7 and 12`; the first dozen if there are more."""
    return f"{'line' if len(lines) == 1 else 'lines'} {one_after_another(lines)}"


def one_after_another(things: Sequence[object]) -> str:
    """Return `5`, or `5, 7 and 12`; the first dozen if there are more."""
    if len(things) == 1:
        return str(things[0])
    texts = [str(thing) for thing in things[:_MOST_NAMES]]
    more = len(things) - _MOST_NAMES
    last = f"{more:,} more" if more > 0 else texts.pop()
    return f"{', '.join(texts)} and {last}"


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the option nearest to the word, or nothing if none is."""
    by_case = {option.strip().casefold(): option for option in options}
    near = difflib.get_close_matches(word.strip().casefold(), by_case, n=1)
    return f" Did you mean {shown(by_case[near[0]])}?" if near else ""


class Described(BaseModel):
    """Settings that a person writes; a mistake in them is a `TaskError`.

    The error has one sentence for each mistake that pydantic or `check` finds, with the file's name
    in front where validation was given one as its context.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    called: ClassVar[str]
    needs: ClassVar[str]

    def check(self) -> None:
        """Refuse what does not fit together; raises ValueError, a line for each problem."""

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.check()
        return self

    @model_validator(mode="wrap")
    @classmethod  # placed after the other validators, so that their errors reach it
    def _in_sentences(
        cls, data: object, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        where = f"{info.context}: " if info.context else ""
        try:
            return handler(data)
        except ValidationError as invalid:
            lines = "\n".join(map(cls._sentence, invalid.errors())).splitlines()
            raise TaskError("\n".join(f"{where}{line}" for line in lines)) from None

    @classmethod
    def _sentence(cls, problem: ErrorDetails) -> str:
        key = ".".join(str(part) for part in problem["loc"])
        match problem["type"]:
            case "missing":
                return f"`{key}` is missing: {cls.needs}"
            case "extra_forbidden":
                return f"no setting is called {shown(key)}.{did_you_mean(key, cls.model_fields)}"
            case "value_error":
                return str(problem["ctx"]["error"])
            case _:
                expected = problem["msg"].removeprefix("Input should be ").replace("tuple", "list")
                subject = key or cls.called
                return f"`{subject}` should be {expected}, not {shown(problem['input'])}"
