"""Errors cross into another process as they are."""

import pickle

import pytest

from icm_client.errors import (
    EndpointOverloaded,
    IcmError,
    InputError,
    ModelChanged,
    RowError,
)


@pytest.mark.parametrize(
    "error",
    [
        InputError("wrong"),
        RowError("empty", path="rows.csv", line=3),
        EndpointOverloaded("busy", retry_after_s=2.5),
        ModelChanged("another one", last_confirmed_at=1.5),
    ],
)
def test_an_error_is_the_same_after_pickling(error: IcmError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - of our own
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
