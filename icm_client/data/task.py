"""A task: the template that turns a row into a prompt, and the label words that may follow it.

In a template `{field}` is the row's field, `{{` and `}}` are braces.
"""

import os
import re
import string
import tomllib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import orjson
from pydantic import InstanceOf, field_validator

from icm_client.data.constraint_spec import ConstraintSpec, rules_problems
from icm_client.data.formats import unpacked_name
from icm_client.data.messages import Described, did_you_mean, listed, shown
from icm_client.data.rows import Dataset, Row, path_of, refused_rows
from icm_client.data.values import Unusable, kind_of
from icm_client.errors import RowError, TaskError

_FEWEST_LABELS = 2
_ESCAPE = re.compile(r"\\([nt\\])")
_ESCAPED = {"n": "\n", "t": "\t", "\\": "\\"}
_JOINERS = "\u200c\u200d"
_PRIOR_TOLERANCE = 1e-6


class Task(Described):
    """The question that is asked about each row; a faulty one is a `TaskError` however it is made.

    Attributes:
        template: the prompt, with `{field}` where a row's field belongs.
        labels: the words that may follow the prompt; at least two.
        separator: the text between two rows with their labels.
        gold: the field with the known labels, where a run does not name another.
        prior: label -> expected share of the rows; labels left out share the rest equally.
        name: the task's name in reports.
        description: a sentence on the task, for people.
        constraint: which labels may stand together, one rule or several that hold at once; None
            where the task names none.
        exchange: two fields that change places to show a pair's second order.
        loader: the name of the loader that reads a public file's own format (`LOADERS`).
    """

    called: ClassVar[str] = "task"
    needs: ClassVar[str] = "a task needs a template and labels"

    template: str
    labels: tuple[str, ...]
    separator: str = "\n\n"
    gold: str | None = None
    prior: dict[str, float] | None = None
    name: str | None = None
    description: str | None = None
    constraint: InstanceOf[ConstraintSpec] | tuple[InstanceOf[ConstraintSpec], ...] | None = None
    exchange: tuple[str, ...] | None = None
    loader: str | None = None

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """Return the task that a TOML file describes.

        Raises:
            TaskError: the file cannot be read, is not TOML, or describes no task.
        """
        name = os.fspath(path)
        try:
            content = Path(name).read_bytes()
        except OSError as problem:
            raise TaskError(f"{name}: the task cannot be read: {problem.strerror}") from None
        return cls._from_bytes(content, name)

    @classmethod
    def builtin(cls, name: str) -> Self:
        """Return the built-in task of this name.

        Raises:
            TaskError: there is none; the message names those there are.
        """
        if name not in (names := builtin_names()):
            raise TaskError(
                f"no built-in task is called {shown(name)}; there are {listed(names)}."
                f"{did_you_mean(name, names)}"
            )
        file = f"{name}.toml"
        return cls._from_bytes(_builtin_folder().joinpath(file).read_bytes(), file)

    @classmethod
    def _from_bytes(cls, content: bytes, name: str) -> Self:
        try:
            described = tomllib.loads(content.decode("utf-8-sig"))
        except UnicodeDecodeError as problem:
            raise TaskError(f"{name}: not UTF-8 at byte {problem.start + 1}") from None
        except tomllib.TOMLDecodeError as problem:
            raise TaskError(f"{name}: not TOML: {problem}") from None
        return cls.model_validate(described, context=name)

    @property
    def template_fields(self) -> tuple[str, ...]:
        """The fields that the template uses, each once, in its order."""
        fields = (piece.field for piece in parse_template(self.template))
        return tuple(dict.fromkeys(field for field in fields if field is not None))

    @property
    def read_fields(self) -> tuple[str, ...]:
        """The fields of a row that are read: the template's, then the constraint's."""
        return tuple(dict.fromkeys((*self.template_fields, *self.rule_fields)))

    @property
    def rule_fields(self) -> tuple[str, ...]:
        """The fields of a row that the constraint reads, each once."""
        return tuple(dict.fromkeys(field for rule in self.rules for _, field in rule.fields()))

    @property
    def label_texts(self) -> tuple[str, ...]:
        """The text that follows a prompt for each label: the word, with one space before it.

        The space belongs to the label because models have tokens like ` True`; a template that
        ends in spaces or tabs loses them for the same reason. After a newline no space is added.
        """
        direct = self.template[-1:].isspace() and self.template[-1] not in " \t"
        return self.labels if direct else tuple(f" {label}" for label in self.labels)

    @property
    def rules(self) -> tuple[ConstraintSpec, ...]:
        """The constraint's rules, at least one.

        Where the task names none: asymmetry for exchanged pairs, otherwise the kind "none", under
        which any labels may stand together.
        """
        if isinstance(self.constraint, ConstraintSpec):
            return (self.constraint,)
        return self.constraint or (ConstraintSpec(kind="asymmetry" if self.exchange else "none"),)

    @property
    def holds_words(self) -> tuple[str, str]:
        """The labels of "holds" and "does not hold", by the first of the rules."""
        return self.rules[0].words(self.labels)

    def prior_vector(self) -> tuple[float, ...] | None:
        """Return the expected share of each label, in the labels' order, summing to 1; or None."""
        if self.prior is None:
            return None
        given = sum(self.prior.values())
        absent = len(self.labels) - len(self.prior)
        if absent == 0:
            return tuple(self.prior[label] / given for label in self.labels)
        share = (1 - given) / absent
        return tuple(self.prior.get(label, share) for label in self.labels)

    def render(self, row: Row, *, path: str | None = None) -> str:
        """Return the row's prompt, which a label text may follow.

        Raises:
            RowError: a field of the template is missing, empty, or a list or object; the message
                names the file `path`.
        """
        try:
            return _filled(self._pieces(), row)
        except Unusable as problem:
            raise RowError(str(problem), path=row.file or path, line=row.line) from None

    def render_all(self, dataset: Dataset) -> tuple[str, ...]:
        """Return every row's prompt, in order.

        Raises:
            TaskError: the template uses the field that holds the gold labels.
            RowError: as `render`, for all rows that cannot be used.
        """
        prompts, problems = self.render_usable(dataset)
        if problems:
            bad = [dataset.rows[number].failed(why) for number, why in problems.items()]
            raise refused_rows(bad, path=path_of(dataset), usable=len(prompts))
        return tuple(prompts)

    def render_usable(self, dataset: Dataset) -> tuple[list[str], dict[int, str]]:
        """Return the prompts of the rows that the template fits, and why it does not fit the rest.

        The latter are named by their numbers from 0.

        Raises:
            TaskError: the template uses the field that holds the gold labels.
        """
        if dataset.gold_field in self.template_fields:
            raise TaskError(_gives_gold_away(dataset.gold_field))
        pieces = self._pieces()
        prompts: list[str] = []
        problems: dict[int, str] = {}
        for number, row in enumerate(dataset.rows):
            try:
                prompts.append(_filled(pieces, row))
            except Unusable as problem:
                problems[number] = str(problem)
        return prompts, problems

    def _pieces(self) -> "tuple[Piece, ...]":
        return parse_template(self.template.rstrip(" \t"))

    @field_validator("template")
    @classmethod
    def _template_parses(cls, template: str) -> str:
        try:
            parse_template(template)
        except TaskError as problem:
            raise ValueError(str(problem)) from None
        return template

    @field_validator("labels")
    @classmethod
    def _labels_are_words(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) < _FEWEST_LABELS:
            hint = "; put commas between them" if any(";" in label for label in labels) else ""
            raise ValueError(f"at least 2 labels are needed, not {len(labels)}{hint}")
        for label in labels:
            if not label.strip():
                raise ValueError("a label is empty")
            if label != label.strip():
                raise ValueError(f"the label {shown(label)} has white space around it: remove it")
            if not _is_printable(label):
                raise ValueError(f"the label {shown(label)} is not printable: use plain text")
            if labels.count(label) > 1:
                raise ValueError(f"the label {shown(label)} is given twice")
        return labels

    @field_validator("constraint", mode="before")
    @classmethod
    def _constraint_in_sentences(cls, constraint: object) -> object:
        try:
            if isinstance(constraint, list | tuple):
                rules = tuple(map(ConstraintSpec.model_validate, constraint))
                return rules[0] if len(rules) == 1 else rules
            return None if constraint is None else ConstraintSpec.model_validate(constraint)
        except TaskError as problem:
            raise ValueError(str(problem)) from None

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        if self.gold is not None and self.gold in self.template_fields:
            raise ValueError(_gives_gold_away(self.gold))
        if self.prior is not None:
            self._check_prior(self.prior)
        if self.exchange is not None:
            self._check_exchange(self.exchange)
        exchange = self.exchange is not None
        problems = [s for rule in self.rules for s in rule.problems(self.labels, exchange=exchange)]
        if problems := problems or rules_problems(self.rules):
            raise ValueError("\n".join(dict.fromkeys(problems)))

    def _check_exchange(self, exchange: tuple[str, ...]) -> None:
        if len(set(exchange)) != 2 or len(exchange) != 2:  # noqa: PLR2004
            raise ValueError(
                f"`exchange` takes the two fields that change places, not {listed(exchange)}"
            )
        for field in exchange:
            if field not in self.template_fields:
                raise ValueError(
                    f"`exchange` names {shown(field)}, which the template does not use; it uses "
                    f"{listed(self.template_fields)}.{did_you_mean(field, self.template_fields)}"
                )

    def _check_prior(self, prior: dict[str, float]) -> None:
        if not prior:
            raise ValueError("the prior is empty: give a label's share, or leave out the prior")
        for label, share in prior.items():
            if label not in self.labels:
                raise ValueError(
                    f"the prior has a share for {shown(label)}, which is none of the labels "
                    f"{listed(self.labels)}.{did_you_mean(label, self.labels)}"
                )
            if not 0 < share < 1:
                raise ValueError(
                    f"the prior gives {shown(label)} the share {share}; "
                    "it must lie between 0 and 1, both excluded"
                )
        total = sum(prior.values())
        if len(prior) == len(self.labels):
            if abs(total - 1) > _PRIOR_TOLERANCE:
                raise ValueError(f"the prior's shares sum to {total:g}, not to 1")
        elif total > 1 - _PRIOR_TOLERANCE:
            raise ValueError(
                f"the prior's shares sum to {total:g}, which leaves nothing for the other labels"
            )


def _is_printable(label: str) -> bool:
    """Whether a label is text that a model may have seen, whatever Unicode this Python knows.

    An emoji newer than the interpreter has no category yet (Cn). Emoji of families and flags hold
    joiners and tags, which `str.isprintable` refuses, as it does the non-joiners of Persian words.
    """
    return all(
        one.isprintable()
        or one in _JOINERS
        or "\U000e0020" <= one <= "\U000e007f"
        or (unicodedata.category(one) == "Cn" and not _is_no_character(ord(one)))
        for one in label
    )


def _is_no_character(code: int) -> bool:
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF  # noqa: PLR2004 - Unicode's own


def _gives_gold_away(field: str | None) -> str:
    return (
        f"the template uses {shown(field)}, the field with the gold labels: the model would read "
        "the answer. Take it out of the template"
    )


class Piece(NamedTuple):
    """A literal text of a template, and the field that follows it; None after the last field."""

    literal: str
    field: str | None


@lru_cache(maxsize=64)
def parse_template(template: str) -> tuple[Piece, ...]:
    """Return the template's pieces in order.

    Raises:
        TaskError: unbalanced braces, no field, or more than a field's name between braces.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as problem:
        raise TaskError(
            f"the template's braces do not match ({problem}). Write {{field}} for a field, "
            f"{{{{ and }}}} for braces: {shown(template)}"
        ) from None
    pieces = []
    for literal, field, spec, conversion in parsed:
        if field is not None:
            _check_field(field, spec, conversion)
        pieces.append(Piece(literal, field))
    if all(piece.field is None for piece in pieces):
        raise TaskError(
            f"the template has no field, so all prompts would be the same: {shown(template)}. "
            "Write {text} where the field 'text' belongs"
        )
    return tuple(pieces)


def _check_field(field: str, spec: str | None, conversion: str | None) -> None:
    if not field.strip():
        raise TaskError("the template has {} without a name: write the field's name in the braces")
    if spec or conversion:
        raise TaskError(
            f"the template may not format a field ({shown(field)} has ':' or '!'): write the "
            "field's name alone, and change the data instead"
        )
    if "." in field or "[" in field:
        raise TaskError(
            f"the template may not reach into a field ({shown(field)}): make what it needs a "
            "field of its own"
        )


def _filled(pieces: Sequence[Piece], row: Row) -> str:
    parts = []
    for literal, field in pieces:
        parts.append(literal)
        if field is not None:
            parts.append(_field_text(row, field))
    return "".join(parts)


def _field_text(row: Row, field: str) -> str:
    if field not in row.fields:
        raise Unusable(
            f"no field {shown(field)}, which the template uses; the row has "
            f"{listed(row.fields)}.{did_you_mean(field, row.fields)}"
        )
    value = row.fields[field]
    if value is None:
        raise Unusable(f"the field {shown(field)} is null; the template needs its text")
    if isinstance(value, list | dict):
        raise Unusable(
            f"the field {shown(field)} is {kind_of(value)}; flatten "
            "it into text before it is used in the template"
        )
    text = str(value)
    if not text.strip():
        raise Unusable(f"the field {shown(field)} is empty; the template needs its text")
    return text


def unescape(text: str) -> str:
    r"""Return the text with `\n`, `\t` and `\\` turned into newline, tab and backslash.

    For texts from a command line, where a newline is hard to type. Any other backslash stays.
    """
    return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], text)


def builtin_names() -> tuple[str, ...]:
    """Return the names of the built-in tasks, sorted."""
    files = (file.name for file in _builtin_folder().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def _builtin_folder() -> Traversable:
    return resources.files("icm_client.data").joinpath("tasks")


def example_row(task_name: str) -> Row | None:
    """Return the example of a built-in task; None for a task of another name."""
    examples = orjson.loads(_builtin_folder().joinpath("examples.json").read_bytes())
    fields = examples.get(task_name)
    return None if fields is None else Row(id=1, fields=fields, line=1)


def find_beside(data_path: str | os.PathLike[str]) -> Path | None:
    """Return the task file that lies beside a data file, or None.

    Beside `reviews.jsonl`, or `reviews.jsonl.gz`, it is `reviews.task.toml`, or else `task.toml`.
    """
    for name in (path_beside(data_path), path_beside(data_path).with_name("task.toml")):
        if name.is_file():
            return name
    return None


def path_beside(data_path: str | os.PathLike[str]) -> Path:
    """Return where the task of a data file is looked for first: `reviews.task.toml`."""
    data = Path(data_path)
    return data.parent / f"{Path(unpacked_name(data.name)).stem}.task.toml"
