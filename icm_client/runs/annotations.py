"""Labels that people gave in Label Studio, Argilla or our page, as rows of `id` and `label`.

Read are the checks of a run (`icm_client.record.checks`), Label Studio's exports JSON
(https://labelstud.io/guide/task_format) and JSON-MIN, and the records that Argilla's
`records.to_json` and `records.to_list(flatten=True)` give. Which row a label is for the two tools
know where the rows came from `icm-client export`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from icm_client.data.messages import listed, shown
from icm_client.data.rows import Place
from icm_client.data.values import Unusable, kind_of
from icm_client.errors import InputError
from icm_client.record.checks import CHECK

ROW_ID: Final = "icm_id"
"""The field of a Label Studio task with the row's id: its own `id` is the task's number."""

PROMPT: Final = "icm_prompt"
"""The field of a Label Studio task with what the model was asked."""

QUESTION: Final = "label"
"""What the labels answer, as both tools name it."""

_NO_ID: Final = (
    f"the task has no {ROW_ID!r}, so which row it is of is not known: let people annotate what "
    "icm-client export --to label-studio writes"
)
# What Label Studio adds to a task's fields in JSON-MIN, over what is there.
_ADDED: Final = (
    "id",
    "annotator",
    "annotation_id",
    "created_at",
    "updated_at",
    "lead_time",
    "agreement",
)
_MOST_NAMED: Final = 10

_CHECK: Final = frozenset({"event", "id", "label"})

_Row = Mapping[str, Any]


@dataclass(slots=True)
class _Answers:
    """What people said of one row.

    Attributes:
        line: where it stands first.
        fields: the row's own.
        given: an answer a person.
        settled: answers that were marked as the right ones.
    """

    line: Place
    fields: _Row
    given: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)


def labels_of(rows: Iterable[tuple[Place, object]], name: str) -> Iterator[tuple[Place, object]]:
    """Yield annotated rows as rows with `id`, `label` and their fields; others as they are.

    Rows that nobody has answered are left out, and so are answers that were skipped or discarded.
    Several people must have said the same of a row, unless one answer is marked as ground truth in
    Label Studio. Of the checks of a run, whose order is known, the last one of a row counts.

    Args:
        rows: as a reader gives them, with their lines.
        name: of the file, for errors.

    Raises:
        InputError: people disagree about rows, or no row has an answer.
    """
    found: dict[str, _Answers] = {}
    checks: dict[str, tuple[Place, _Row]] = {}
    unusable = False
    for line, raw in rows:
        if isinstance(raw, Mapping) and raw.keys() >= _CHECK and raw["event"] == CHECK:
            checks.pop(str(raw["id"]), None)
            checks[str(raw["id"])] = line, {"id": raw["id"], "label": raw["label"]}
            continue
        kind = _kind(raw)
        if kind is None or not isinstance(raw, Mapping):
            yield line, raw
            continue
        try:
            row_id, fields, given, settled = kind(raw)
        except Unusable as problem:
            unusable = True
            yield line, problem
            continue
        answers = found.setdefault(row_id, _Answers(line, fields))
        answers.given += given
        answers.settled += settled
    counting = [check for check in checks.values() if check[1]["label"] is not None]
    if checks and not counting:
        raise InputError(f"{name}: every answer in it was taken back")
    yield from counting
    _refuse_disagreement(found, name)
    answered = {row_id: one for row_id, one in found.items() if one.given}
    if found and not answered and not unusable:
        raise InputError(
            f"{name}: nobody has submitted an answer for any of its {len(found):,} rows"
        )
    for row_id, one in answered.items():
        word = (one.settled or one.given)[0]
        yield one.line, {**one.fields, "id": row_id, "label": word}


def _refuse_disagreement(found: Mapping[str, _Answers], name: str) -> None:
    several = [
        f"{shown(row_id)} ({', '.join(f'{word} {n}' for word, n in Counter(said).most_common())})"
        for row_id, one in found.items()
        if len(set(said := one.settled or one.given)) > 1
    ]
    if several:
        more = len(several) - _MOST_NAMED
        raise InputError(
            f"{name}: people disagree about {len(several):,} rows: "
            f"{', '.join(several[:_MOST_NAMED])}{f' and {more:,} more' if more > 0 else ''}. Let "
            "one answer of each be left, or in Label Studio mark the right one as ground truth"
        )


def _kind(raw: object) -> Any:
    """Return what reads the row, or None where it is no annotation."""
    if not isinstance(raw, Mapping):
        return None
    if isinstance(raw.get("data"), Mapping) and "annotations" in raw:
        return _label_studio
    if "annotation_id" in raw and "annotator" in raw:
        return _label_studio_min
    if isinstance(raw.get("fields"), Mapping) and "responses" in raw:
        return _argilla
    return _argilla_flat if any(str(key).endswith(".responses") for key in raw) else None


_Read = tuple[str, _Row, list[str], list[str]]


def _label_studio(raw: _Row) -> _Read:
    """A task with its annotations."""
    data = raw["data"]
    if (row_id := data.get(ROW_ID, data.get("id"))) is None:
        raise Unusable(_NO_ID)
    given, settled = [], []
    for annotation in raw["annotations"] or ():
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            continue
        said = {
            str(one.get("from_name")): one["value"]["choices"]
            for one in annotation.get("result") or ()
            if one.get("type") == "choices"
        }
        if said:
            word = _one(said[_question(said)])
            given.append(word)
            settled += [word] if annotation.get("ground_truth") else []
    return str(row_id), _own(data), given, settled


def _label_studio_min(raw: _Row) -> _Read:
    """One annotation of a task, among the task's fields."""
    if ROW_ID not in raw:
        raise Unusable(_NO_ID)
    given = [] if raw.get(QUESTION) in (None, [], "") else [_one(raw[QUESTION])]
    fields = {name: value for name, value in _own(raw).items() if name not in _ADDED}
    return str(raw[ROW_ID]), fields, given, []


def _argilla(raw: _Row) -> _Read:
    """A record; its answers do not say whether they were submitted, but the record does."""
    responses = {} if raw.get("status") == "pending" else raw["responses"] or {}
    answers = responses[_question(responses)] if responses else []
    given = [_one(one["value"]) for one in answers if one.get("value") is not None]
    return str(raw["id"]), raw.get("metadata") or {}, given, []


def _argilla_flat(raw: _Row) -> _Read:
    """A record whose fields and answers stand side by side."""
    ending = ".responses"
    questions = [str(name).removesuffix(ending) for name in raw if str(name).endswith(ending)]
    asked = _question(questions)
    answers = raw[f"{asked}{ending}"] or []
    status = raw.get(f"{asked}{ending}.status") or ["submitted"] * len(answers)
    given = [
        _one(word)
        for word, state in zip(answers, status, strict=True)
        if word is not None and state == "submitted"
    ]
    return str(raw["id"]), {}, given, []


def _question(names: Iterable[str]) -> str:
    every = list(names)
    if QUESTION in every:
        return QUESTION
    if len(every) == 1:
        return every[0]
    raise Unusable(f"answers to several questions, {listed(every)}, and none is called 'label'")


def _one(answer: object) -> str:
    """Return the only choice."""
    words = answer if isinstance(answer, list) else [answer]
    if len(words) != 1 or not isinstance(words[0], str):
        raise Unusable(f"an answer must be one label, not {kind_of(answer)}: {shown(answer)}")
    return words[0]


def _own(data: _Row) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in (ROW_ID, PROMPT)}
