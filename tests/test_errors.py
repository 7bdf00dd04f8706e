"""The tree of errors is as drawn, and errors cross into another process unchanged."""

import pickle
import re

import pytest

from icm_client import errors
from icm_client.errors import (
    EndpointOverloaded,
    IcmError,
    InputError,
    ModelChanged,
    Retry,
    RowError,
    RowsTooLong,
)

MARKS = {" ": Retry.NEVER, "*": Retry.TRANSIENT, "~": Retry.BACK_PRESSURE}


def drawn() -> dict[str, tuple[str, Retry]]:
    """From each error in the drawing to its parent and what its mark says of retries."""
    parents, found = ["IcmError"], {}
    for line in (errors.__doc__ or "").splitlines():
        if node := re.fullmatch(r" {4}([│├└─ ]*)── (\w+) +([*~ ]).*", line):
            branch, name, mark = node.groups()
            depth = len(branch) // 4 + 1
            parents[depth:] = [name]
            found[name] = parents[depth - 1], MARKS[mark]
    return found


def test_the_tree_is_as_drawn() -> None:
    defined = {
        name: one
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, IcmError) and one is not IcmError
    }
    tree = drawn()
    assert tree.keys() == defined.keys()
    for name, (parent, retry) in tree.items():
        assert defined[name].__bases__[0].__name__ == parent
        assert defined[name].retry is retry, name
    assert RowsTooLong.__bases__ == (RowError, errors.PromptTooLong)


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
