import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.endpoints.http_errors import retry_after_s

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": " 120 "}, 120),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "1m30s"}, 90),
        ({"retry-after": "1h 2m 3.5s"}, 3723.5),
        ({"retry-after": "250ms"}, 0.25),
        ({"retry-after": "2M"}, 120),
        ({"retry-after": "1d"}, 86400),
        ({"retry-after": "Mon, 04 May 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Mon, 04 May 2026 14:00:30 +0200"}, 30),
        ({"retry-after": "Monday, 04-May-26 12:00:30 GMT"}, 30),
        ({"retry-after": "Mon May  4 12:00:30 2026"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "20ms",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1s",
            },
            1,
        ),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"retry-after": "1s", "x-ratelimit-remaining-tokens": "0"}, 1),
        ({}, None),
    ],
)
def test_each_spelling(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "nonsense",
    ["soon", "-1", "nan", "inf", "", "1_000", "1e9999", "9" * 400, "1m30", "s", "\u0663", "1x"],
)
def test_nonsense_asks_for_nothing(nonsense: str) -> None:
    assert retry_after_s({"retry-after": nonsense}, now=NOW) is None


@given(st.one_of(st.text(), st.datetimes().map(str), st.text("0123456789.dhms ,:GMT+-")))
def test_whatever_a_server_writes_is_a_wait_or_nothing(text: str) -> None:
    for name in ("retry-after", "retry-after-ms", "x-ratelimit-reset-tokens"):
        seconds = retry_after_s({name: text, "x-ratelimit-remaining-tokens": "0"}, now=NOW)
        assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


def test_a_date_counts_from_now() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after_s({"retry-after": soon}) == pytest.approx(30, abs=2)
