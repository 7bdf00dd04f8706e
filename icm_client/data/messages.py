"""How pieces of a user's data stand in a message: short, on one line, with a way out."""

import difflib
from collections.abc import Iterable, Sequence

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
    if len(lines) == 1:
        return f"line {lines[0]}"
    numbers = [str(line) for line in lines[:_MOST_NAMES]]
    more = len(lines) - _MOST_NAMES
    last = f"{more:,} more" if more > 0 else numbers.pop()
    return f"lines {', '.join(numbers)} and {last}"


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the option nearest to the word, or nothing if none is."""
    by_case = {option.strip().casefold(): option for option in options}
    near = difflib.get_close_matches(word.strip().casefold(), by_case, n=1)
    return f" Did you mean {shown(by_case[near[0]])}?" if near else ""
