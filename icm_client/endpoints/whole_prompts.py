"""Does a server that takes text read all of it?

Some cut a prompt that is too long, and answer with status 200 as if nothing had happened. A server
that takes token ids says how many it read, and each answer is checked against that. The number of
tokens in a text is not known here, so the server itself is asked: a text has as many as its two
halves together. But a gateway may count the text before the server cuts it. So the text is sent
again with a few words replaced, near its beginning, in its middle and at its end: where the answer
stays the same to the last digit, those words were not read. A cut of a few words in the middle is
not found this way.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import anyio

from icm_client.errors import PromptTooLong

_SHORTEST: Final = 200
"""Characters; no server's context is shorter."""

_GROWTH: Final = 1.1
"""A prompt is checked if it is so many times as long as any that was read whole."""

_COUNTED_GROWTH: Final = 1.25
"""The same where the server counts tokens, so that a cut also shows in the count."""

_DENSER: Final = 1.05
"""A prompt is checked if it has so many times as many characters a token as any before."""

_SLACK: Final = 3
"""The parts of a text may have so many more tokens than the whole, where a word was split."""

_KEPT: Final = 24
"""A server may keep so many characters at the beginning and cut what follows them."""

_CHANGED: Final = 64
"""Characters that are replaced at a time."""

_ADVICE: Final = (
    "Start it with a larger context, use fewer demos, or say how many tokens its context holds "
    "with --context-length"
)

Top = tuple[tuple[str, float], ...]
"""The most probable tokens with their log-probs in nats, the most probable first."""


class Said(NamedTuple):
    """An answer to a text: the most probable next tokens, and how many tokens the text took."""

    top: Top
    tokens: int | None


class WholePrompts:
    """Checks that prompts are read whole: the first long one, and then each that is longer.

    Attributes:
        uncertain: whether that could not be seen for one of them.
    """

    def __init__(self, url: str, ask: Callable[[str], Awaitable[Said]]) -> None:
        self.uncertain = False
        self._url = url
        self._ask = ask
        self._lock = anyio.Lock()
        self._counts = True  # whether the server counts the tokens that it read
        self._whole = 0  # characters of the longest text that was read whole
        self._read = 0  # characters of the longest text whose words were seen to count
        self._characters_a_token = 0.0  # the most of any text that was read whole
        self._longest = 0  # characters of the longest text that was counted, ...
        self._tokens = 0  # ... and the most tokens that were counted

    async def check(self, text: str, said: Said) -> None:
        """Check the answer to a text. Raises `PromptTooLong` where the server cut it."""
        if self._is_due(text, said):
            async with self._lock:
                if self._is_due(text, said):  # nobody has checked one as long meanwhile
                    await self._look(text, said)
        if said.tokens:
            self._longest = max(self._longest, len(text))
            self._tokens = max(self._tokens, said.tokens)

    def _is_due(self, text: str, said: Said) -> bool:
        length = len(text)
        if length < _SHORTEST:
            return False
        if said.tokens is None or not self._counts:
            return length > _GROWTH * self._whole
        return (
            length > _COUNTED_GROWTH * self._whole
            or (length > self._longest and said.tokens <= self._tokens)
            or length > _DENSER * self._characters_a_token * said.tokens
        )

    async def _look(self, text: str, said: Said) -> None:
        if said.tokens is not None and self._counts:
            least = await self._least_tokens(text, said.tokens)
            if said.tokens < least:
                # A server that leaves out what is in its cache has this one not there.
                other = await self._ask(_others(text[:_KEPT]) + text[_KEPT:])
                if (other.tokens or 0) < least:
                    raise PromptTooLong(
                        f"{self._url}: the server cuts prompts without saying so: it read "
                        f"{said.tokens:,} tokens of a text that has at least {least:,}. {_ADVICE}",
                        cut=True,
                    )
                self._counts = False
        counted = said.tokens is not None and self._counts
        if not counted or len(text) > _COUNTED_GROWTH * self._read:
            read = await self._is_read(text, said)
            if read is False:
                raise PromptTooLong(
                    f"{self._url}: the server cuts prompts without saying so: in a text of "
                    f"{len(text):,} characters, other words make no difference to its answer. "
                    f"{_ADVICE}",
                    cut=True,
                )
            self.uncertain |= read is None and not counted
            self._read = max(self._read, len(text))
        self._whole = max(self._whole, len(text))
        if said.tokens:
            self._characters_a_token = max(self._characters_a_token, len(text) / said.tokens)

    async def _least_tokens(self, text: str, counted: int) -> int:
        """The least number of tokens that the text has, from two parts of it.

        More than `counted` is believed only where two places to cut it agree: a tokenizer may write
        a word with more tokens if it was split, or begins a text.
        """
        # What is put around every text (BOS, a chat's template) is in both parts, and in "1".
        around = (await self._ask("1")).tokens or 0
        least = len(text)
        for place in (len(text) // 2, len(text) // 3):
            cut = text.rfind(" ", 1, place)
            cut = place if cut < 0 else cut
            first, second = [
                (await self._ask(part)).tokens or 0 for part in (text[:cut], text[cut:])
            ]
            least = min(least, first + second - around - _SLACK)
            if least <= counted:
                break
        return least

    async def _is_read(self, text: str, said: Said) -> bool | None:
        """Whether all of the text bears on the answer; None where that cannot be seen."""
        noise = _moved(said.top, (await self._ask(text)).top)
        seen: bool | None = True
        places = [
            (0, _KEPT),
            (_KEPT, _KEPT + _CHANGED),
            (len(text) // 2, len(text) // 2 + _CHANGED),
            (len(text) - _CHANGED, len(text)),
        ]
        for start, end in places:
            changed = text[:start] + _others(text[start:end]) + text[end:]
            moved = _moved(said.top, (await self._ask(changed)).top)
            if moved <= 2 * noise:
                if not noise:
                    return False
                seen = None
        return seen


def _others(words: str) -> str:
    """Other letters in the same places."""
    return "".join(
        letter if letter.isspace() else ("y" if letter == "x" else "x") for letter in words
    )


def _moved(one: Top, other: Top) -> float:
    """How far two answers are apart, in nats; infinite where they name no token in common."""
    before, after = dict(one), dict(other)
    both = before.keys() & after.keys()
    return max((abs(before[token] - after[token]) for token in both), default=math.inf)
