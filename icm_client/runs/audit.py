"""Are labels that the rows already have any good? Each is read in the context of the others'.

    read every row once, or a few times, given demos with the given labels (`coherence.given`)
    do the reads follow the given labels at all, and fall into a group for each label?
        if not, this model does not see what was labelled: nothing is said of any row
    else fit the groups and the noise (`stats.label_noise`): which labels are probably wrong, how
        many, and which is taken for which

No gold label is needed, and none is read.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from icm_client.coherence.calibration import coherence, label_counts, utility_of
from icm_client.coherence.given import GivenRead, read_given
from icm_client.coherence.problem import UNLABELLED, FloatArray, Groups, IntArray
from icm_client.coherence.simple import FewShotSettings
from icm_client.data import Dataset, Task, check_gold
from icm_client.data.constraint_spec import Rules
from icm_client.data.formats import NO_OPTIONS, FileOptions
from icm_client.data.items import connected
from icm_client.data.job import Job, Rows, named_task
from icm_client.data.messages import listed, shown
from icm_client.data.rows import check_field
from icm_client.endpoints import Endpoint, NoticingEndpoint
from icm_client.errors import InputError
from icm_client.runs.audit_result import Audit, AuditedRow
from icm_client.runs.labels_file import put
from icm_client.runs.presets import fitted_job
from icm_client.runs.progress import cost_since
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR, FailureBudget, StartAgainError
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import Scorer, ScoreStore, ScoringProgress, open_store
from icm_client.stats.label_noise import SUPPORTED, LabelNoise, estimate_noise, follows_given

FEWEST: Final = 24
"""Labelled rows under which nothing is estimated."""

CONTEXTS: Final = 1
"""How often each row is read; docs/audit.md has what more gain."""


@dataclass(frozen=True, slots=True)
class PreparedAudit:
    """Rows with their given labels, read and checked; nothing was sent.

    Attributes:
        job: rows and task.
        field: that holds the given labels.
        given: shape `[N]`, of the items, `UNLABELLED` where a row has none.
    """

    job: Job
    field: str
    given: IntArray

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each given label."""
        counts = label_counts(self.given[self.job.row_items], len(self.job.labels))
        return dict(zip(self.job.labels, counts, strict=True))

    @property
    def unlabelled(self) -> tuple[str | int, ...]:
        """Ids of the rows without a given label."""
        rows = np.flatnonzero(self.given[self.job.row_items] == UNLABELLED)
        return tuple(self.job.dataset.rows[row].id for row in rows.tolist())


def prepare_audit(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    given: str | None = None,
    constraint: Rules | None = None,
    file: FileOptions = NO_OPTIONS,
    skip_bad_rows: bool = False,
    limit: int | None = None,
) -> PreparedAudit:
    """Read rows and given labels, and check both; arguments and errors are those of `audit`."""
    task = task if isinstance(task, Task) else named_task(task)
    given = task.gold if given is None else given
    if given is None:
        raise InputError(
            "name the field that holds the labels to audit: --given FIELD (from Python: given)"
        )
    if given in task.read_fields:
        raise InputError(
            f"the field {shown(given)} holds the labels to audit, and the task reads it: the model "
            "would be shown what it is to judge. Take it out of the template and the constraint"
        )
    if task.gold == given and task.loader is None:  # else its labels would be taken for gold
        task = Task(**{**task.model_dump(), "gold": None})
    job = Job.prepare(
        rows,
        task,
        constraint=constraint,
        file=file,
        skip_bad_rows=skip_bad_rows,
        limit=limit,
    )
    words, usable = _given_words(job, given, skip_bad_rows=skip_bad_rows)
    if len(words) < len(job.dataset.rows):
        job = Job.prepare(usable, job.task, skip_bad_rows=True)
    labels = np.full(len(job.items), UNLABELLED)
    for item, word in zip(job.row_items.tolist(), words, strict=True):
        if word is not None:
            put(item, job.labels.index(word), labels, job)
    prepared = PreparedAudit(job, given, labels)
    labelled = len(job.dataset.rows) - len(prepared.unlabelled)
    if labelled < FEWEST:
        raise InputError(
            f"{labelled} rows have a label in the field {shown(given)}: an audit needs {FEWEST}"
        )
    missing = [word for word, count in prepared.counts.items() if count < 2]  # noqa: PLR2004
    if missing:
        raise InputError(
            f"fewer than two rows have the given label {listed(missing)}: leave it out of the "
            "task's labels, or audit more rows"
        )
    return prepared


def _given_words(job: Job, field: str, *, skip_bad_rows: bool) -> tuple[list[str | None], Dataset]:
    """The given labels, spelled as the task's, and the rows that they are of."""
    dataset = job.dataset
    if dataset.gold_field == field and dataset.gold is not None:  # of a loader, or read so
        return list(dataset.gold), dataset
    check_field(dataset, field, ", which holds the labels to audit; there are")
    held = (row.fields.get(field) for row in dataset.rows)
    words = tuple(None if value is None or not f"{value}".strip() else f"{value}" for value in held)
    checked = check_gold(
        replace(dataset, gold=words, gold_field=field),
        job.labels,
        skip_bad_rows=skip_bad_rows,
        called="field of given labels",
    )
    return list(checked.gold or ()), replace(checked, gold=None, gold_field=None)


async def audit(
    rows: Rows,
    *,
    task: Task | str | os.PathLike[str],
    given: str | None = None,
    endpoint: Endpoint | Server | str | None = None,
    constraint: Rules | None = None,
    contexts: int = CONTEXTS,
    seed: int = 0,
    fail_on_error: float = DEFAULT_FAIL_ON_ERROR,
    skip_bad_rows: bool = False,
    limit: int | None = None,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    progress: Callable[[ScoringProgress], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Audit:
    """Find labels that are probably wrong among those that the rows have.

    The same call again asks the server nothing that it answered before.

    Args:
        rows: as for `icm_client.label`.
        task: as for `icm_client.label`; its labels are those that the field may hold.
        given: the field that holds the labels; None takes the task's field of gold labels.
        endpoint: as for `icm_client.label`.
        constraint: rows that a rule relates are not read in the context of each other.
        contexts: how often each row is read, in as many contexts; the reads are averaged.
        seed: of all that is random.
        fail_on_error: as for `icm_client.label`.
        skip_bad_rows: leave rows that cannot be used, or whose given label is none of the task's,
            out, in `Audit.failed`.
        limit: audit a sample of so many rows.
        store: as for `icm_client.label`.
        progress: called as reads are answered.
        stopping: asked before each request.

    Raises:
        InputError: rows, labels or task cannot be used; nothing has been sent.
        EndpointError, ScoreError, StoreError, RunStopped: as `icm_client.label`.
    """
    prepared = prepare_audit(
        rows,
        task=task,
        given=given,
        constraint=constraint,
        skip_bad_rows=skip_bad_rows,
        limit=limit,
    )
    with open_store(store) as kept:
        return await audit_prepared(
            prepared,
            endpoint=endpoint,
            store=kept,
            contexts=contexts,
            seed=seed,
            fail_on_error=fail_on_error,
            skip_bad_rows=skip_bad_rows,
            progress=progress,
            stopping=stopping,
        )


async def audit_prepared(
    prepared: PreparedAudit,
    *,
    endpoint: Endpoint | Server | str | None,
    store: ScoreStore,
    contexts: int = CONTEXTS,
    seed: int = 0,
    fail_on_error: float = DEFAULT_FAIL_ON_ERROR,
    skip_bad_rows: bool = False,
    progress: Callable[[ScoringProgress], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Audit:
    """Read the labels, and judge them; arguments and errors are those of `audit`."""
    if contexts < 1:
        raise InputError(f"each row is read in at least 1 context, not {contexts}")
    began, job = time.monotonic(), prepared.job
    async with open_endpoint(endpoint, stopping=stopping) as server:
        usage = replace(server.usage)
        store.record_server(server.identity)
        pieces, settings, unusable, notice = await fitted_job(
            job, FewShotSettings(rounds=0), server, store, skip_bad_rows=skip_bad_rows
        )
        assert isinstance(settings, FewShotSettings)  # noqa: S101 - `fit` keeps the kind
        failures = FailureBudget(job, settings, fail_on_error, unusable)
        scorer = Scorer(
            server,
            store,
            pieces,
            on_progress=progress,
            on_failed=failures.failed,
            stopping=stopping,
            unusable=unusable,
        )
        read, related = None, related_items(job)
        while read is None:
            shown_labels = prepared.given.copy()
            shown_labels[list(failures.left_out)] = UNLABELLED
            try:
                read = await read_given(
                    shown_labels,
                    len(job.labels),
                    related,
                    scorer,
                    demos=settings.demos,
                    contexts=contexts,
                    rng=np.random.default_rng(seed),
                )
            except StartAgainError:  # a row that cannot be scored stood in a context
                continue
        notices = (
            *job.notices,
            *store.notices,
            *(server.notices if isinstance(server, NoticingEndpoint) else ()),
            *([notice] if notice else []),
        )
        cost = cost_since(began, [(server, usage)], scorer.stats)
        identity = server.identity
    judged = _judge(prepared, read, related, seed)
    unread = np.full(len(job.items), UNLABELLED)  # those without a given label are not missed
    unread[prepared.given == UNLABELLED] = 0
    unread[job.row_items[judged.rows]] = 0
    return Audit(
        rows=_rows(job, judged, scorer),
        labels=job.labels,
        noise=judged.noise,
        beyond=judged.beyond,
        read=len(judged.rows),
        given_field=prepared.field,
        task=job.task,
        data=job.dataset.name,
        coherence=judged.coherence,
        unlabelled=prepared.unlabelled,
        failed=failures.without_label(unread),
        warnings=job.warnings,
        notices=notices,
        server=identity,
        cost=cost,
        seed=seed,
    )


def related_items(job: Job) -> Groups:
    """Groups of items of which no one may be read given another: the rule's, and equal prompts."""
    same: dict[str, list[int]] = {}
    for item, prompt in enumerate(job.prompts):
        same.setdefault(prompt, []).append(item)
    groups: dict[int, list[int]] = defaultdict(list)
    for item, number in enumerate(
        connected(len(job.items), [*same.values(), *job.constraint.groups]).tolist()
    ):
        groups[number].append(item)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


class _Judged(NamedTuple):
    """What the reads come to.

    Attributes:
        rows: shape `[R]`, numbers of the rows that were read.
        given: shape `[R]`, their labels.
        coherence: as `Audit.coherence`.
        noise: of these rows.
        beyond: why there is none.
    """

    rows: IntArray
    given: IntArray
    coherence: float
    noise: LabelNoise | None
    beyond: str | None


def _judge(prepared: PreparedAudit, read: GivenRead, related: Groups, seed: int) -> _Judged:
    job = prepared.job
    items = job.row_items
    scores, given = read.scores[items], prepared.given[items]
    if job.task.exchange is not None:  # a pair's other order says the same with labels exchanged
        scores = (scores + read.scores[items + 1][:, ::-1]) / 2
    rows = np.flatnonzero((given != UNLABELLED) & ~np.isnan(scores).any(axis=1))
    scores, given, items = scores[rows], given[rows], items[rows]
    group_of = {item: n for n, group in enumerate(related) for item in group}
    units = np.array([group_of.get(item, -1 - item) for item in items.tolist()])
    noise, beyond = _noise(scores, given, read.parts[items], units, seed)
    found = coherence(utility_of(scores, given), label_counts(given, len(job.labels)))
    return _Judged(rows, given, found, noise, beyond)


def _noise(
    scores: FloatArray, given: IntArray, parts: IntArray, units: IntArray, seed: int
) -> tuple[LabelNoise | None, str | None]:
    """What is wrong with the labels; or why this model cannot tell."""
    elsewhere = (
        "That says nothing about the labels. Try a larger model, or a template and label words "
        "that say what is labelled"
    )
    if follows_given(scores, given, parts, seed=seed) < SUPPORTED:
        return None, (
            "read in the context of each other, the given labels are followed no more than chance "
            f"would have it, so this model does not see what was labelled. {elsewhere}."
        )
    noise = estimate_noise(scores, given, units, seed=seed)
    if noise is None or not noise.apart:
        return None, (
            "the reads follow the given labels, but do not fall into a group for each label, so "
            f"rows that are misread cannot be told from labels that are wrong. {elsewhere}."
        )
    return noise, None


def _rows(job: Job, judged: _Judged, scorer: Scorer) -> tuple[AuditedRow, ...]:
    noise = judged.noise
    if noise is None:
        return ()
    rank = np.empty(len(judged.rows), dtype=np.int64)
    rank[np.argsort(-noise.wrong, kind="stable")] = np.arange(1, len(rank) + 1)
    return tuple(
        AuditedRow(
            row=job.dataset.rows[row],
            given=job.labels[judged.given[n]],
            read_as=job.labels[noise.predicted[n].argmax()],
            wrong=float(noise.wrong[n]),
            rank=int(rank[n]),
            predicted=dict(zip(job.labels, noise.predicted[n].tolist(), strict=True)),
            exactness=scorer.exactness[int(job.row_items[row])].value,
        )
        for n, row in enumerate(judged.rows.tolist())
    )
