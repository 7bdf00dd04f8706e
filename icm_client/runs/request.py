"""A run as it is asked for: `LabelRequest`, built by `label`, `Client.start` and the command line.

`LabelRequest.prepared` reads what it names and checks all of it; nothing is sent before.
"""

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, TypedDict, get_args

import numpy as np

from icm_client.coherence.contexts import in_units
from icm_client.coherence.initial_labels import Start
from icm_client.coherence.iterate import IterateSettings
from icm_client.coherence.problem import UNLABELLED, IntArray
from icm_client.coherence.simple import ZeroShotSettings
from icm_client.coherence.unlike import classes_of
from icm_client.data import Dataset, Task
from icm_client.data.constraint_spec import Rules
from icm_client.data.job import Job, Rows
from icm_client.data.rows import FEWEST_ROWS, only
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError, RowError
from icm_client.runs.labels_file import Pins, read_classes, read_pins, read_start
from icm_client.runs.presets import (
    Preset,
    Settings,
    TrainedSettings,
    preset_of,
    preset_settings,
)
from icm_client.runs.progress import Budget
from icm_client.runs.row_lengths import Limited, RowLimit, within_limit
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.trainer import Trainer
from icm_client.scoring import ScoreStore

SEARCH_ROWS = 2048
"""Rows above which a sample of so many is searched, and the others are predicted from its labels;
docs/predict.md has what decided it."""

_SAMPLED = 30
"""With the run's seed, of the sample: the search draws its own from the seed alone."""


class LabelOptions(TypedDict, total=False):
    """The arguments of `Client.start` besides rows and task, as `label` has them."""

    gold: str | None
    prior: Mapping[str, float] | None
    constraint: Rules | None
    preset: Preset
    settings: Settings | None
    start: str | os.PathLike[str] | None
    pins: Pins | None
    unlike: Sequence[str | os.PathLike[str]]
    easy: str | os.PathLike[str] | None
    trainer: Trainer | None
    seed: int
    budget: Budget | None
    fail_on_error: float
    skip_bad_rows: bool
    fresh: bool
    search_rows: int
    limit: int | None
    max_row_tokens: int | None
    truncate: bool


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """A run as it is asked for.

    The fields are arguments of `icm_client.label`, which says what they mean. Its others (endpoint,
    store, progress, stopping) say where a run happens and who follows it: they are those of
    `label_prepared`.
    """

    rows: Rows
    task: Task | str | os.PathLike[str]
    _: KW_ONLY
    gold: str | None = None
    prior: Mapping[str, float] | None = None
    constraint: Rules | None = None
    preset: Preset = "fast"
    settings: Settings | None = None
    start: str | os.PathLike[str] | None = None
    pins: Pins | None = None
    unlike: Sequence[str | os.PathLike[str]] = ()
    easy: str | os.PathLike[str] | None = None
    trainer: Trainer | None = None
    seed: int = 0
    budget: Budget | None = None
    fail_on_error: float = DEFAULT_FAIL_ON_ERROR
    skip_bad_rows: bool = False
    accept_drift: bool = False
    runs: str | os.PathLike[str] | None = None
    command: Sequence[str] | None = None
    fresh: bool = False
    search_rows: int = SEARCH_ROWS
    limit: int | None = None
    max_row_tokens: int | None = None
    truncate: bool = False

    @property
    def row_limit(self) -> RowLimit:
        """How many tokens a row may take.

        Raises:
            InputError: a limit that says nothing.
        """
        return RowLimit(self.max_row_tokens, self.truncate)

    def prepared(self) -> "PreparedRun":
        """Everything that the request names, read and checked; of many rows a sample is searched.

        Raises:
            InputError: as `read`.
        """
        return self.read().sampled()

    def read(self) -> "PreparedRun":
        """Everything that the request names, read and checked, with all rows to be searched.

        Raises:
            InputError: something in it cannot be used: it names no preset, settings of another
                search, or rows, task or labels that are wrong; a trainer is missing, or has
                nothing to do.
        """
        try:
            seed = operator.index(self.seed)
        except TypeError:
            raise InputError(f"the seed must be a whole number, not {self.seed!r}") from None
        if seed < 0:
            raise InputError(f"the seed must be 0 or more, not {seed}")
        if self.search_rows < FEWEST_ROWS:
            raise InputError(f"at least {FEWEST_ROWS} rows are searched, not {self.search_rows}")
        self.row_limit  # noqa: B018 - refused here, before the rows are read
        settings = self._checked_settings()
        whole = Job.prepare(
            self.rows,
            self.task,
            gold=self.gold,
            prior=self.prior,
            constraint=self.constraint,
            skip_bad_rows=self.skip_bad_rows,
            limit=self.limit,
        )
        easy: dict[str, str] = {}
        if self.easy is not None:
            whole, easy = _with_easy(whole, os.fspath(self.easy))
        first = None if self.start is None else read_start(self.start, whole)
        pinned = None if self.pins is None else read_pins(self.pins, whole)
        if easy:
            known = read_pins(easy, whole)
            assert known is not None  # noqa: S101 - there are easy rows
            pinned = known if pinned is None else np.maximum(pinned, known)
        others = [read_classes(one, whole) for one in self.unlike]
        return PreparedRun(
            replace(self, seed=seed),
            whole,
            None,
            whole,
            settings,
            first=first,
            pinned=pinned,
            unlike=classes_of(others) if others else None,
            easy=frozenset(easy),
        )

    def _checked_settings(self) -> Settings:
        """The settings given, or the preset's own, where they can be used."""
        presets = get_args(Preset)
        if self.preset not in presets:
            raise InputError(f"there is no preset {self.preset!r}; there are {', '.join(presets)}")
        settings = preset_settings(self.preset) if self.settings is None else self.settings
        if not isinstance(settings, Settings):
            raise InputError(
                "settings are an object such as icm_client.SweepSettings(demos=32), not "
                f"{settings!r}"
            )
        own = preset_of(settings)
        if self.preset not in ("fast", own):
            raise InputError(
                f"these settings are of the preset {own}, and {self.preset} was asked for"
            )
        trains = isinstance(settings, TrainedSettings)
        if trains and self.trainer is None:
            raise InputError(
                f"the preset {own} trains models, and there is no trainer: name one (trainer=..., "
                "on the command line --trainer)"
            )
        if self.trainer is not None and not trains:
            raise InputError(
                f"the preset {own} trains no models: a trainer is for folds and iterate"
            )
        if self.start is not None and isinstance(settings, ZeroShotSettings):
            raise InputError(
                f"the preset {own} reads each row by itself: first labels (--init) are for presets "
                "that show labelled rows, such as bootstrap"
            )
        if self.start is not None and isinstance(settings, IterateSettings):
            raise InputError(
                "the preset iterate begins with a search of its first batch: first labels (--init) "
                "are for the other presets"
            )
        if self.unlike and own != "fast":
            raise InputError(
                f"the preset {own} cannot look for another concept (--unlike): take --preset fast"
            )
        return settings


def _with_easy(job: Job, named: str) -> tuple[Job, dict[str, str]]:
    """The job with further rows at its end whose labels are known, and these, by their new ids.

    Args:
        job: the rows whose labels are looked for.
        named: the file of the others, and after a colon the field that holds their labels.

    Raises:
        InputError: the file cannot be read, names no field, or a row of it has no label.
    """
    path, _, field = named.rpartition(":")
    if not path or not field:
        raise InputError(
            f"{named!r} does not say which field holds the labels of these rows: write FILE:FIELD, "
            "such as easy.jsonl:label"
        )
    task = job.task.model_dump()
    known = Job.prepare(path, Task(**{**task, "gold": None, "constraint": None}), gold=field)
    rows, words = known.dataset.rows, known.dataset.gold or ()
    for row, word in zip(rows, words, strict=True):
        if word is None:
            raise RowError(f"no label in {field!r}: easy rows need one", path=path, line=row.line)
    last = max(row.number for row in job.dataset.rows)
    added = tuple(
        replace(row, id=f"easy:{row.id}", number=last + place)
        for place, row in enumerate(rows, start=1)
    )
    gold = job.dataset.gold
    dataset = replace(
        job.dataset,
        rows=(*job.dataset.rows, *added),
        gold=None if gold is None else (*gold, *[None] * len(added)),
        is_part=True,  # a loader has made all of them
    )
    labels = {str(row.id): str(word) for row, word in zip(added, words, strict=True)}
    return Job.prepare(dataset, job.task), labels


def _sample(job: Job, most: int, seed: int, pinned: IntArray | None) -> tuple[int, ...] | None:
    """Draw the rows that are searched, groups whole and pinned ones first; None for all.

    Args:
        job: all rows.
        most: rows to draw, or a few less where a group does not fit any more.
        seed: of the draw.
        pinned: shape `[N]`, labels that a person has given.
    """
    n_rows = len(job.dataset.rows)
    if n_rows <= most:
        return None
    given = set() if pinned is None else set(np.flatnonzero(pinned != UNLABELLED).tolist())
    first = {job.items[item].row for item in given}
    order = np.random.default_rng((seed, _SAMPLED)).permutation(n_rows)
    units = in_units(order, _related(job))
    drawn: list[int] = []
    for unit in sorted(units, key=first.isdisjoint):  # stable: those with a pinned row come first
        if len(drawn) + len(unit) <= most or not first.isdisjoint(unit):
            drawn += unit
    if len(drawn) < FEWEST_ROWS:
        raise InputError(
            f"no group of related rows is as small as --search-rows {most}: search more rows"
        )
    return tuple(sorted(drawn))


def _related(job: Job) -> list[tuple[int, ...]]:
    """The rule's groups, as rows."""
    groups = [{job.items[item].row for item in group} for group in job.constraint.groups]
    return [tuple(sorted(group)) for group in groups if len(group) > 1]


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A request whose parts have been read and checked.

    Attributes:
        request: as it was made.
        whole: all rows, and the task.
        searched: numbers of the rows that are searched, rising; the others are predicted from
            their labels. None where all are searched.
        job: the rows that are searched.
        settings: of the search, before they are fitted to the server.
        first: first labels, shape `[N]`, or their kind; None leaves them to the search.
        pinned: labels that the search keeps, shape `[N]`, `UNLABELLED` where an item is free.
        unlike: classes of other labels that those found are to be independent of, shape `[N]`.
        easy: ids of rows of known labels, which are searched with the others and not returned.
        part: what the rows are of those in the data, for the run's name; None for all.
    """

    request: LabelRequest
    whole: Job
    searched: tuple[int, ...] | None
    job: Job
    settings: Settings
    first: Start | IntArray | None
    pinned: IntArray | None
    unlike: IntArray | None = None
    easy: frozenset[str] = frozenset()
    part: str | None = None

    def only(self, rows: Sequence[int], part: str) -> "PreparedRun":
        """The same run over some of the rows, by their numbers from 0; `part` names these.

        What is said of the rows as a whole, and those that were skipped, stay with the whole.

        Raises:
            RowError, InputError: a rule of the task cannot be built from these rows alone.
        """
        whole = self.whole
        dataset = replace(only(whole.dataset, rows), warnings=(), skipped=(), is_part=True)
        job = Job.prepare(dataset, whole.task)
        return replace(self, whole=job, job=job, part=part, **self._labels_of(rows))

    def sampled(self) -> "PreparedRun":
        """The same run, which searches no more rows than it is to, and predicts the others."""
        whole, request = self.whole, self.request
        if isinstance(self.settings, TrainedSettings):
            return self
        searched = _sample(whole, request.search_rows, request.seed, self.pinned)
        if searched is None:
            return self
        dataset = replace(only(whole.dataset, searched), is_part=True)  # checked as a whole
        job = Job.prepare(dataset, whole.task)
        return replace(self, searched=searched, job=job, **self._labels_of(searched))

    def _labels_of(self, rows: Sequence[int]) -> dict[str, Any]:
        """The labels that are given, of some of the rows' items, by the attributes' names."""
        there = set(rows)
        items = [number for number, item in enumerate(self.whole.items) if item.row in there]
        given = {name: getattr(self, name) for name in ("first", "pinned", "unlike")}
        return {
            name: labels[items] if isinstance(labels, np.ndarray) else labels
            for name, labels in given.items()
        }

    async def within_limit(self, server: Endpoint, store: ScoreStore) -> Limited:
        """The rows that are searched, within the request's limit of tokens.

        Raises:
            RowError: rows that are not searched are too long, and are not to be skipped: they are
                named together with those that are.
            InputError, EndpointError, StoreError: as `icm_client.runs.row_lengths.within_limit`.
        """
        request, limit = self.request, self.request.row_limit
        if self.searched is not None and limit.tokens is not None and not request.skip_bad_rows:
            every = await within_limit(self.whole, limit, server, store)
            every.refuse()
        return await within_limit(self.job, limit, server, store)

    @property
    def rest(self) -> Dataset:
        """The rows that are not searched; those that a rule relates stand together."""
        rows: list[int] = []
        if self.searched is not None:
            searched = set(self.searched)
            every = in_units(np.arange(len(self.whole.dataset.rows)), _related(self.whole))
            rows = [row for unit in every for row in unit if row not in searched]
        return replace(only(self.whole.dataset, rows), skipped=(), is_part=True)
