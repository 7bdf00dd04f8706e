"""A constraint as the user describes it, in the `[constraint]` of a task file, and its checks."""

import re
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from pydantic import field_validator

from icm_client.data.messages import Described, did_you_mean, listed, shown
from icm_client.errors import TaskError


class _Settings(NamedTuple):
    """The settings that a kind of rule needs, and those that it may have besides."""

    needed: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()

    @property
    def taken(self) -> tuple[str, ...]:
        return self.needed + self.allowed


_OF_CUSTOM_RULE = _Settings(needed=("group",))
KINDS = {
    "none": _Settings(),
    "asymmetry": _Settings(allowed=("group", "true", "false")),
    "mutual-exclusion": _Settings(needed=("group", "answer"), allowed=("true",)),
    "same-answer": _Settings(needed=("group",), allowed=("answer",)),
    "at-most-one": _Settings(needed=("group",), allowed=("true",)),
    "exactly-one": _Settings(needed=("group",), allowed=("true",)),
    "implication": _Settings(needed=("implies",), allowed=("true",)),
}
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_MEANINGS = {
    "group": "the field, or fields, whose values related rows share",
    "answer": "the field with the answer that a row gives",
    "implies": "the field with the ids of the rows that hold where this one does",
}


class ConstraintSpec(Described):
    """Which labels may stand together.

    Attributes:
        kind: one of `KINDS`, or `module:function` for the user's own rule.
        group: the fields whose values rows must share to be related.
        answer: the field with a row's answer, compared as
            `icm_client.data.answer_text.comparable` says.
        implies: a field with the id of a row, or a list of ids.
        true: the label that says "holds"; None takes the first of the task's.
        false: the label that says "does not hold"; None takes the other of the task's first two.

    Raises:
        TaskError: an unknown kind, or settings that it lacks or does not take.
    """

    called: ClassVar[str] = "constraint"
    needs: ClassVar[str] = "a constraint needs a kind"

    kind: str
    group: tuple[str, ...] = ()
    answer: str | None = None
    implies: str | None = None
    true: str | None = None
    false: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether the rule is the user's own function."""
        return ":" in self.kind

    def fields(self) -> tuple[tuple[str, str], ...]:
        """Return the fields of the rows that the rule reads, each after its setting's name."""
        named = [("group", field) for field in self.group]
        named += [("answer", self.answer)] if self.answer is not None else []
        named += [("implies", self.implies)] if self.implies is not None else []
        return tuple(named)

    def words(self, labels: Sequence[str]) -> tuple[str, str]:
        """Return the labels of "holds" and "does not hold", where the task has these labels."""
        true = labels[0] if self.true is None else self.true
        false = labels[1 if true == labels[0] else 0] if self.false is None else self.false
        return true, false

    def problems(self, labels: Sequence[str], *, exchange: bool) -> list[str]:
        """Return a sentence on each thing that does not fit the task.

        Args:
            labels: the task's labels.
            exchange: whether the task exchanges two fields to show a pair's second order.
        """
        problems = [
            f"the constraint's `{setting}` is {shown(word)}, which is none of the labels "
            f"{listed(labels)}.{did_you_mean(word, labels)}"
            for setting, word in (("true", self.true), ("false", self.false))
            if word is not None and word not in labels
        ]
        if not problems and len(set(self.words(labels))) == 1:
            problems.append("the constraint's `true` and `false` are the same label")
        if exchange and self.kind not in ("asymmetry", "none"):
            problems.append(
                f"`exchange` shows each pair in both orders, whose rule is asymmetry (or none), "
                f"not {shown(self.kind)}: leave out one of the two"
            )
        elif self.kind == "asymmetry" and exchange == bool(self.group):
            problems.append(
                "asymmetry takes `exchange`, where a row is shown in both orders, or `group`, "
                f"where the rows hold both orders: {'not both' if exchange else 'name one'}"
            )
        return problems

    @field_validator("kind")
    @classmethod
    def _kind_is_known(cls, kind: str) -> str:
        if ":" in kind:
            if not _REFERENCE.fullmatch(kind):
                raise ValueError(
                    f"the constraint {shown(kind)} is no 'module:function': name a Python module, "
                    "a colon and a function in it, such as 'rules:compatible' for a file rules.py"
                )
        elif kind not in KINDS:
            raise ValueError(
                f"no constraint is called {shown(kind)}; there are {listed(KINDS)}, and your own "
                f"function as 'module:function'.{did_you_mean(kind, KINDS)}"
            )
        return kind

    @field_validator("group", mode="before")
    @classmethod
    def _one_field_is_a_list_of_one(cls, group: object) -> object:
        return (group,) if isinstance(group, str) else group

    def check(self) -> None:
        """Refuse settings that the kind lacks or does not take."""
        settings = KINDS.get(self.kind, _OF_CUSTOM_RULE)
        given = [name for name in type(self).model_fields if name != "kind" and getattr(self, name)]
        for name in settings.needed:
            if name not in given:
                raise ValueError(
                    f"the constraint {shown(self.kind)} needs `{name}`: {_MEANINGS[name]}"
                )
        if strange := [name for name in given if name not in settings.taken]:
            takes = ", ".join(f"`{name}`" for name in settings.taken)
            raise ValueError(
                f"the constraint {shown(self.kind)} takes no `{strange[0]}`; "
                f"it takes {takes or 'no settings'}"
            )
        if len(set(self.group)) < len(self.group):
            raise ValueError("the constraint's `group` names a field twice")


Rules = ConstraintSpec | Sequence[ConstraintSpec]
"""One rule, or several that hold at once."""


def rules_of(kinds: Sequence[str], **settings: str | tuple[str, ...] | None) -> Rules:
    """Return rules of these kinds; each of several gets those of the settings that it takes.

    Raises:
        TaskError: a kind is unknown, lacks a setting, or does not take one; or none of them does.
    """
    if len(kinds) == 1:
        return ConstraintSpec.model_validate({"kind": kinds[0], **settings})
    taken = {kind: KINDS.get(kind, _OF_CUSTOM_RULE).taken for kind in kinds}
    for name, value in settings.items():
        if value and not any(name in names for names in taken.values()):
            raise TaskError(f"none of the constraints {listed(kinds)} takes `{name}`: leave it out")
    return tuple(
        ConstraintSpec.model_validate(
            {"kind": kind} | {name: settings[name] for name in taken[kind] if settings.get(name)}
        )
        for kind in kinds
    )


def rules_problems(rules: Sequence[ConstraintSpec]) -> list[str]:
    """Return a sentence on each reason why the rules cannot hold at once."""
    kinds = [rule.kind for rule in rules]
    if len(kinds) > 1 and "none" in kinds:
        return ["the constraint 'none' lets any labels stand together: name it alone"]
    twice = [rule.kind for number, rule in enumerate(rules) if rule in rules[:number]]
    return [f"the constraint {shown(kind)} is given twice with the same fields" for kind in twice]
