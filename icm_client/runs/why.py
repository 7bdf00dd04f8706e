"""Why a row has its label: `explain`. Which rows teach which: `teaching`.

    C <- demos with the run's labels from the half of its rows in which the row is not
    demos   each left out of C, and given another label      (`icm_client.coherence.influence`)
    words   the row read in C without each span of its texts
    beside  the labels of the run's other concepts, and of runs that were named

No row stands in a context of its own, nor does one that a rule relates to it or that has the same
prompt, with all of its words or without some. So no effect shown here follows from a rule: it is
what the model makes of other rows.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from icm_client.coherence.calibration import certainty
from icm_client.coherence.contexts import draw_demos, part_contexts
from icm_client.coherence.influence import DemoEffects, demo_effects, reads_for, wording_effects
from icm_client.coherence.problem import UNLABELLED, Context, IntArray
from icm_client.coherence.settings import SweepSettings
from icm_client.data import Row, Task
from icm_client.data.job import Job
from icm_client.data.messages import did_you_mean, shown
from icm_client.endpoints import Endpoint, ServerIdentity
from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run, find_run, list_runs
from icm_client.record.comparison import label_records, labels_by_row
from icm_client.record.explanations import keep_explanation
from icm_client.record.layout import DEFAULT_BASE
from icm_client.runs.audit import related_items
from icm_client.runs.frozen import Found
from icm_client.runs.predictor import Predictor
from icm_client.runs.presets import fitted_job
from icm_client.runs.row_lengths import prompts_of, within_limit
from icm_client.runs.server import Server, open_endpoint
from icm_client.runs.why_result import (
    CarryingDemo,
    CarryingSpan,
    Explanation,
    OtherLabel,
    Teaching,
    TeachingRow,
)
from icm_client.scoring import (
    Scorer,
    ScoreStore,
    ScoringProgress,
    open_store,
    with_prompts,
)
from icm_client.scoring.call import FailedItem
from icm_client.stats.agreement import agreement

READS: Final = 640
"""Reads of a row in a context for one explanation: of 64 demos three blocks of eight are tried one
by one."""

SPANS: Final = 32
"""The most parts of a row's texts that are left out one by one."""

_WITNESSES = 8  # or one of each label
_SEED = 22  # with the run's seed, of halves and demos: the search drew its own from the seed alone
_TEXT = 300  # characters of a demo's text that are kept
_TWO = 2
_WORD = re.compile(r"\S{1,24}")  # texts without spaces are cut as well


class Planned(NamedTuple):
    """What is to be explained, read and checked; nothing was sent.

    Attributes:
        run: the run.
        found: its labels.
        job: its rows.
        number: of the row among them; None for all.
        beside: what other runs say of it.
        settings: of contexts, as the run's search had them.
    """

    run: Run
    found: Found
    job: Job
    number: int | None
    beside: tuple[OtherLabel, ...]
    settings: SweepSettings


def plan_why(
    run: str | os.PathLike[str],
    row: str | int | None = None,
    *,
    beside: Sequence[str | os.PathLike[str]] = (),
    runs: str | os.PathLike[str] = DEFAULT_BASE,
) -> Planned:
    """Find the run, the row, and what other runs say of it. Nothing is sent.

    Args:
        run: its folder, name, or the beginning of its name. The rows are in its folder.
        row: its id; None for `teaching`.
        beside: runs over the same rows, to say what they make of it; the run's other concepts are
            found where they lie in the same folder.
        runs: the folder of all runs.

    Raises:
        InputError: there is no such run or row, the run has no labels, or all rows have one.
        RunError: a run's folder is damaged.
    """
    kept = find_run(os.fspath(run), Path(runs))
    found = Predictor.load(kept.path).found
    job = found.job()
    if len({one.label for one in found.rows}) < _TWO:
        raise InputError(f"the run {kept.name} gives all rows one label: nothing carries it")
    settings = _context_settings(kept)
    if row is None:
        return Planned(kept, found, job, None, (), settings)
    ids = [str(one.row.id) for one in found.rows]
    if str(row) not in ids:
        raise InputError(
            f"the run {kept.name} has no row {shown(str(row))} with a label: its labels.jsonl has "
            f"the ids.{did_you_mean(str(row), ids)}"
        )
    others = {one.name: one for one in _other_concepts(kept)}
    others |= {one.name: one for one in (find_run(os.fspath(name), Path(runs)) for name in beside)}
    said = tuple(_other_label(kept, str(row), one) for one in others.values())
    return Planned(kept, found, job, ids.index(str(row)), said, settings)


def _context_settings(run: Run) -> SweepSettings:
    """The most demos that the run showed, and how certain ones; the default where it does not say.

    A search that trains models has them in `sweeps`; those of Algorithm 1 have `max_demos`.
    """
    recorded = run.record["settings"]
    recorded = {**recorded, **recorded.get("sweeps", {})}
    default = SweepSettings()
    return replace(
        default,
        demos=recorded.get("demos") or recorded.get("max_demos") or default.demos,
        keep=recorded.get("keep", default.keep),
    )


def check_amounts(planned: Planned, *, reads: int | None = None, rows: int | None = None) -> None:
    """Raise `InputError` where `explain`, or with `rows` `teaching`, could show nothing."""
    n_labels = len(planned.job.labels)
    if rows is None:
        least = 4 * (1 + max(_WITNESSES, n_labels))
        if reads is not None and reads < least:
            raise InputError(
                f"an explanation takes {least} reads at least, not {reads}: allow more"
            )
        return
    if rows < (least := 4 * n_labels):
        raise InputError(f"{least} rows at least are read, two of each label twice, not {rows}")
    # Each row with a block of demos, without it, and with another label of one.
    if reads is not None and reads < 3 * 2 * (rows // 2):
        raise _too_few_reads(reads, rows)


def _too_few_reads(reads: int | None, rows: int) -> InputError:
    return InputError(f"{reads} reads are too few to show a demo to {rows // 2} rows: allow more")


async def explain(
    planned: Planned,
    *,
    reads: int = READS,
    endpoint: Endpoint | Server | str | None = None,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    on_progress: Callable[[ScoringProgress], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Explanation:
    """Find out why a row has its label. The run's folder keeps the result, where it can be written.

    Args:
        planned: the row.
        reads: of a row in a context, at most; labels of several tokens take a request for each of
            these. The same call again asks the server nothing.
        endpoint: as for `icm_client.label`.
        store: as for `icm_client.label`.
        on_progress: called as reads are answered.
        stopping: as for `icm_client.label`.

    Raises:
        InputError: `reads` are too few, the run's rows are, or the server cannot read the row.
        EndpointError, ScoreError, StoreError, RunStopped: as `icm_client.label`.
    """
    if planned.number is None:
        raise InputError("no row is named to explain: plan_why takes its id")
    job, words = planned.job, planned.job.labels
    witnesses = max(_WITNESSES, len(words))
    check_amounts(planned, reads=reads)
    item = int(job.row_items[planned.number])
    with open_store(store) as kept:
        async with open_endpoint(endpoint, stopping=stopping) as server:
            reader = await _reader(
                planned,
                server,
                kept,
                spans=min(SPANS, reads // 8),
                on_progress=on_progress,
                stopping=stopping,
            )
            wordings = range(len(job.items), len(job.items) + len(reader.spans))
            known = -1
            while len(reader.spoilt) > known:  # else without what could not be read
                known = len(reader.spoilt)
                reader.check(item)
                context, pool = next(half for half in reader.halves() if item in half[1])
                left = reads - len(wordings) - 1
                effects = await reader.effects(context, pool, witnesses, left, item)
                reader.check(item)
                labels = (int(reader.labels[item]), int(effects.others[0]))
                fallen = await wording_effects(context, item, wordings, labels, reader.scorer)
            identity = server.identity
    read = np.flatnonzero(~np.isnan(effects.relabelled[:, 0]))
    read = read[np.argsort(-effects.relabelled[read, 0], kind="stable")]
    unread = np.setdiff1d(np.arange(len(context)), read)
    most = float(np.abs(effects.without_block[unread, 0]).max(initial=0.0))
    explanation = Explanation(
        run=planned.found.run,
        row=job.dataset.rows[planned.number].id,
        label=words[labels[0]],
        other=words[labels[1]],
        log_odds=float(effects.log_odds[0]),
        shown=len(context),
        demos=tuple(
            CarryingDemo(
                *_named(planned, context[demo].item),
                float(effects.left_out[demo, 0]),
                float(effects.relabelled[demo, 0]),
            )
            for demo in read.tolist()
        ),
        unread=len(unread),
        unread_effect=None if np.isnan(most) else most,
        spans=tuple(
            replace(span, effect=None if np.isnan(effect) else effect)
            for span, effect in zip(reader.spans, fallen.tolist(), strict=True)
        ),
        beside=planned.beside,
        server=identity,
        notices=_notices(planned.found, identity),
        stats=reader.scorer.stats,
    )
    try:
        keep_explanation(planned.run.path, asdict(explanation))
    except RunError as error:  # of a folder that others may read only
        return replace(explanation, notices=(*explanation.notices, f"not kept: {error}"))
    return explanation


async def teaching(
    planned: Planned,
    rows: int,
    *,
    reads: int | None = None,
    endpoint: Endpoint | Server | str | None = None,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    on_progress: Callable[[ScoringProgress], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Teaching:
    """Find out which rows teach others: the mean effect of each demo's label on `rows` of them.

    Half of these are read in a context of the one half of the run's rows, half in that of the
    other. Arguments and errors are those of `explain`; `reads` None takes as many as are needed.
    """
    job = planned.job
    check_amounts(planned, reads=reads, rows=rows)
    with open_store(store) as kept:
        async with open_endpoint(endpoint, stopping=stopping) as server:
            reader = await _reader(
                planned, server, kept, spans=0, on_progress=on_progress, stopping=stopping
            )
            known = -1
            while len(reader.spoilt) > known:
                known, budget = len(reader.spoilt), None if reads is None else reads // 2
                read = [
                    await reader.effects(context, pool, rows // 2, budget)
                    for context, pool in reader.halves()
                ]
            identity = server.identity
    taught = [
        TeachingRow(*_named(planned, demo.item), float(nats.mean()), float((nats > 0).mean()))
        for one in read
        for demo, nats in zip(one.context, one.relabelled, strict=True)
        if not np.isnan(nats).any()
    ]
    if not taught:
        raise _too_few_reads(reads, rows)
    taught.sort(key=lambda one: -one.effect)
    gains = [one.effect for one in taught if one.effect > 0]
    notices, read_by = _notices(planned.found, identity), min(len(one.targets) for one in read)
    if read_by < (asked := rows // 2 // len(job.labels) * len(job.labels)):
        few = f"some demos were shown to {read_by} rows, not {asked}"
        notices += (f"{few}: as many of each label are read, and one label has no more",)
    return Teaching(
        run=planned.found.run,
        rows=tuple(taught),
        read_by=read_by,
        speak_for=len(gains) / len(taught),
        of_a_tenth=sum(gains[: -(-len(taught) // 10)]) / sum(gains) if gains else None,
        unread=sum(len(one.context) for one in read) - len(taught),
        server=identity,
        notices=notices,
        stats=reader.scorer.stats,
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """A run's rows, ready to be read in contexts of its labels.

    Attributes:
        planned: the rows.
        labels: shape `[N]`, of the items, the run's.
        settings: of contexts, fitted to the server.
        scorer: of the items, and of the row without each span.
        spans: parts of the row's texts.
        twins: items that say what the row does without a span, and those related to these: their
            labels would give away what is read there, so they are no demos.
        spoilt: items that cannot be read or that spoil contexts, with the reasons.
    """

    planned: Planned
    labels: IntArray
    settings: SweepSettings
    scorer: Scorer
    spans: tuple[CarryingSpan, ...]
    twins: frozenset[int]
    spoilt: dict[int, str]

    def halves(self) -> list[tuple[Context, IntArray]]:
        """A context of each half of the items, and the rows' own items of the other half."""
        found, job, labels = self.planned.found, self.planned.job, self.labels.copy()
        labels[[item for item in self.spoilt if item < len(labels)]] = UNLABELLED
        usable = job.row_items[labels[job.row_items] != UNLABELLED]
        labels[list(self.twins)] = UNLABELLED
        parts = part_contexts(
            labels,
            related_items(job),
            folds=2,
            size=self.settings.demos,
            n_labels=len(job.labels),
            rng=np.random.default_rng((found.seed, _SEED)),
            keep=self.settings.keep,
            certain=certainty(found.of_items(job)[1], found.pins(job)),
        )
        return [(context, np.intersect1d(part, usable)) for context, part in parts]

    async def effects(
        self,
        context: Context,
        pool: IntArray,
        size: int,
        reads: int | None,
        item: int | None = None,
    ) -> DemoEffects:
        """What the demos do for `item`, beside `size` witnesses of the pool, or for these."""
        job = self.planned.job
        related = [one for group in related_items(job) if item in group for one in group]
        drawn = draw_demos(
            self.labels,
            np.setdiff1d(pool, related if related or item is None else [item]),
            np.zeros(len(self.labels)),
            size=size,
            keep=1.0,
            n_labels=len(job.labels),
            rng=np.random.default_rng((self.planned.found.seed, _SEED)),
        )
        if len({demo.label for demo in context}) < _TWO or len({one.label for one in drawn}) < _TWO:
            raise InputError(
                f"the run {self.planned.found.run} has too few rows of each label to read one in "
                "the context of others"
            )
        every = reads_for(len(context), len(drawn), leave_out=False)
        return await demo_effects(
            context,
            self.labels,
            np.array([one.item for one in drawn]),
            self.scorer,
            n_labels=len(job.labels),
            target=item,
            leave_out=item is not None,
            reads=every if reads is None else reads,
        )

    def check(self, item: int) -> None:
        """Raise `InputError` where the row cannot be read."""
        if item in self.spoilt:
            row = self.planned.job.dataset.rows[self.planned.job.items[item].row]
            raise InputError(f"this server cannot read {shown(str(row.id))}: {self.spoilt[item]}")


async def _reader(
    planned: Planned,
    server: Endpoint,
    store: ScoreStore,
    *,
    spans: int,
    on_progress: Callable[[ScoringProgress], None] | None,
    stopping: Callable[[], bool],
) -> _Reader:
    store.record_server(server.identity)
    within = await within_limit(planned.job, planned.found.row_limit, server, store)
    job = within.job
    pieces, settings, unusable, _ = await fitted_job(
        job, planned.settings, server, store, skip_bad_rows=True, too_long=within.too_long
    )
    assert isinstance(settings, SweepSettings)  # noqa: S101 - `fit` keeps the kind
    spoilt = dict(unusable)
    parts: tuple[CarryingSpan, ...] = ()
    twins: frozenset[int] = frozenset()
    if planned.number is not None:
        row = within.as_read.get(planned.number, job.dataset.rows[planned.number])
        parts = spans_of(row, job.task, spans)
        wordings = prompts_of([_without(row, part) for part in parts], job)
        pieces, odd = await with_prompts(pieces, [one[0] for one in wordings], server, store)
        twins = _same_as(wordings, job)
        spoilt |= {len(job.items) + place: reason for place, reason in odd.items()}

    def failed(items: Mapping[int, FailedItem]) -> None:
        spoilt.update({item: str(one.error) for item, one in items.items()})

    scorer = Scorer(
        server,
        store,
        pieces,
        on_progress=on_progress,
        on_failed=failed,
        stopping=stopping,
        unusable=tuple(spoilt),
    )
    planned = planned._replace(job=job)
    return _Reader(planned, planned.found.of_items(job)[0], settings, scorer, parts, twins, spoilt)


def _same_as(wordings: Sequence[tuple[str, ...]], job: Job) -> frozenset[int]:
    """The items with the prompt of a wording, in either order of a pair, and all related ones."""
    prompts = {prompt for orders in wordings for prompt in orders}
    same = {item for item, prompt in enumerate(job.prompts) if prompt in prompts}
    related = [group for group in related_items(job) if not same.isdisjoint(group)]
    return frozenset(same.union(*related))


def text_of(row: Row, task: Task) -> str:
    """What the template shows of a row, in one line."""
    return " ".join(" ".join(str(row.fields[name]) for name in task.template_fields).split())


def _named(planned: Planned, item: int) -> tuple[str | int, str, str]:
    """A demo's id, label and text; of a pair shown the other way round those of its own order."""
    one = planned.found.rows[planned.job.items[item].row]
    return one.row.id, one.label, text_of(one.row, planned.job.task)[:_TEXT]


def spans_of(row: Row, task: Task, most: int) -> tuple[CarryingSpan, ...]:
    """Parts of the texts that the template shows: single words, or as many together as must be.

    A text of one word is no part: a row without it would say nothing.
    """
    texts = {name: row.fields[name] for name in task.template_fields}
    words = {
        name: [match.span() for match in _WORD.finditer(text)]
        for name, text in texts.items()
        if isinstance(text, str)
    }
    size = max(1, -(-sum(map(len, words.values())) // max(1, most)))
    found = []
    for name, places in words.items():
        text, step = str(texts[name]), min(size, -(-len(places) // 2))
        for first in range(0, len(places) if len(places) > 1 else 0, step):
            part = places[first : first + step]
            start, end = part[0][0], part[-1][1]
            found.append(CarryingSpan(name, start, end, text[start:end]))
    return tuple(found)


def _without(row: Row, span: CarryingSpan) -> Row:
    text = str(row.fields[span.field])
    left = f"{text[: span.start]}{text[span.end :].lstrip()}".strip()
    return replace(row, fields={**row.fields, span.field: left})


def _notices(found: Found, now: ServerIdentity) -> tuple[str, ...]:
    if now.fingerprint == found.server.fingerprint:
        return ()
    said = (
        f"{now.model} was asked, and {found.server.model} found the labels of the run {found.run}: "
        "what carries a label for the one need not do so for the other"
    )
    return (said,)


def _other_concepts(run: Run) -> list[Run]:
    """The runs in the same folder that differ from this one in what they had to be unlike alone."""

    def described(record: Mapping[str, Any]) -> list[object]:
        settings = {name: value for name, value in record["settings"].items() if name != "unlike"}
        parts = [record.get(name) for name in ("rows_digest", "task", "seed")]
        return [*parts, settings, record["server"].get("fingerprint")]

    return [
        one
        for one in list_runs(run.path.parent).runs
        if one.name != run.name
        and one.result is not None
        and described(one.record) == described(run.record)
    ]


def _other_label(run: Run, row: str, other: Run) -> OtherLabel:
    ours, theirs = labels_by_row([run, other])
    key = next(key for key, one in ours.items() if str(one.id) == row)
    if (found := theirs.get(key)) is None:
        return OtherLabel(other.name)
    record = next(one for one in label_records(other) if one["id"] == found.id)
    first, second = ({key: one.label for key, one in some.items()} for some in (ours, theirs))
    kappa = agreement(first, second).kappa
    return OtherLabel(other.name, found.label, record.get("confidence"), kappa)
