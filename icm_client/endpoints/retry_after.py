"""How long a server asks to be left alone, in each spelling that is met.

Sources: RFC 9110, 10.2.3 (`Retry-After` in seconds or as a date); `retry-after-ms` and the
`x-ratelimit-*` headers of OpenAI's API, whose durations are written `6m0s` or `20ms`.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER: Final = r"[0-9]{1,12}(?:\.[0-9]{0,12})?"
_PLAIN = re.compile(_NUMBER)
_PART = re.compile(rf"({_NUMBER})(ms|[dhms])")
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|[dhms]))+")
_QUOTAS: Final = ("requests", "tokens")


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Return the seconds that `headers` ask to wait, at least 0, or None where they ask for none.

    Args:
        headers: an answer's, looked up in lower case.
        now: what a date is counted from; None is the present.
    """
    milliseconds = _plain(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    for read in (_plain, _duration_s):
        seconds = read(value)
        if seconds is not None:
            return seconds
    until = _seconds_until(value, now or datetime.now(UTC)) if value else None
    return until if until is not None else _quota_reset_s(headers)


def _plain(text: str) -> float | None:
    text = text.strip()
    return float(text) if _PLAIN.fullmatch(text) else None


def _duration_s(text: str) -> float | None:
    text = text.strip().lower().replace(" ", "")
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    except (ValueError, OverflowError, TypeError, IndexError):  # it is the server's text
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _quota_reset_s(headers: Mapping[str, str]) -> float | None:
    """When the quotas that are used up begin anew: the latest of them."""
    resets = [
        _duration_s(headers.get(f"x-ratelimit-reset-{quota}", ""))
        for quota in _QUOTAS
        if headers.get(f"x-ratelimit-remaining-{quota}", "").strip() == "0"
    ]
    return max((reset for reset in resets if reset is not None), default=None)
