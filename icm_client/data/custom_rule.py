"""The user's own rule: a Python function that says which two labels may stand together.

    def may_stand_together(row_i, label_i, row_j, label_j) -> bool

It is called with two rows of one group at a time, and gets their fields without gold labels. It
must return the same with the two exchanged, and the same every time.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from icm_client.coherence.problem import Constraint, Groups
from icm_client.data.messages import did_you_mean, shown
from icm_client.data.rows import Row, named_places
from icm_client.data.values import JsonValue
from icm_client.errors import TaskError

Fields: TypeAlias = Mapping[str, JsonValue]
PairFunction: TypeAlias = Callable[[Fields, str, Fields, str], bool]

# Calls made before a request is sent: enough to find most mistakes, and done in a second.
_ASKED_AHEAD = 20_000


def load_function(reference: str) -> PairFunction:
    """Return the function that `module:function` names; the current folder is looked in first.

    Raises:
        TaskError: the module cannot be imported, or has no such function.
    """
    module_name, _, name = reference.partition(":")
    try:
        with _current_folder_first():
            module = importlib.import_module(module_name)
    except Exception as problem:  # whatever the user's module does when it is run
        raise TaskError(
            f"the constraint {shown(reference)}: importing {shown(module_name)} raised "
            f"{_named(problem)}. Python looks for it in the current folder and among the "
            "installed packages"
        ) from problem
    function: PairFunction | None = getattr(module, name, None)
    if not callable(function):
        what = "is no function" if hasattr(module, name) else "is not there"
        functions = [own for own, value in vars(module).items() if callable(value)]
        raise TaskError(
            f"the constraint {shown(reference)}: {shown(name)} {what} in {module.__file__}."
            f"{did_you_mean(name, functions)}"
        )
    return function


class CustomRule(Constraint):
    """The user's function as a rule on items, each of which is one row.

    Answers are kept, so that the function is called once for two rows and two labels.

    Args:
        reference: the function as the user named it, `module:function`.
        function: the function.
        rows: shape `[N]`.
        labels: shape `[K]`, the label words in the order of the search's numbers.
        groups: disjoint groups of items.

    Raises:
        TaskError: here or in a later call: the function raised, returned no bool, or returned
            something else with the two rows exchanged.
    """

    def __init__(
        self,
        reference: str,
        function: PairFunction,
        rows: Sequence[Row],
        labels: Sequence[str],
        groups: Groups,
    ) -> None:
        self._reference = reference
        self._function = function
        self._rows = rows
        self._labels = labels
        self._groups = groups
        self._answers: dict[tuple[int, int, int, int], bool] = {}
        self._ask_ahead()

    @property
    def groups(self) -> Groups:
        """The groups."""
        return self._groups

    def consistent(self, i: int, y_i: int, j: int, y_j: int, /) -> bool:
        """Whether the user's function lets the two labels stand together."""
        question = (i, y_i, j, y_j) if i < j else (j, y_j, i, y_i)
        answer = self._answers.get(question)
        if answer is None:
            answer = self._answers[question] = self._asked_both_ways(*question)
        return answer

    def _ask_ahead(self) -> None:
        asked = 0
        numbers = range(len(self._labels))
        for group in self._groups:
            for i, j in combinations(group, 2):
                for y_i in numbers:
                    for y_j in numbers:
                        self.consistent(i, y_i, j, y_j)
                asked += len(numbers) ** 2
                if asked >= _ASKED_AHEAD:
                    return

    def _asked_both_ways(self, i: int, y_i: int, j: int, y_j: int) -> bool:
        answer = self._asked(i, y_i, j, y_j)
        if self._asked(j, y_j, i, y_i) != answer:
            raise TaskError(
                f"{self._about(i, y_i, j, y_j)} gave {answer}, and {not answer} with the two rows "
                "exchanged: let the order make no difference"
            )
        return answer

    def _asked(self, i: int, y_i: int, j: int, y_j: int) -> bool:
        one, other = (MappingProxyType(self._rows[item].fields) for item in (i, j))
        try:
            answer: object = self._function(one, self._labels[y_i], other, self._labels[y_j])
        except Exception as problem:  # whatever the user's function raises
            raise TaskError(f"{self._about(i, y_i, j, y_j)} raised {_named(problem)}") from problem
        if not isinstance(answer, bool):
            raise TaskError(
                f"{self._about(i, y_i, j, y_j)} gave {shown(repr(answer))}; it must give True or "
                "False"
            )
        return answer

    def _about(self, i: int, y_i: int, j: int, y_j: int) -> str:
        asked = " and ".join(
            f"row {shown(self._rows[item].id)} ({named_places([(self._rows[item].place, '')])}) as "
            f"{shown(self._labels[label])}"
            for item, label in ((i, y_i), (j, y_j))
        )
        return f"the constraint {shown(self._reference)}, asked about {asked},"


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _named(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".rstrip(": ")
