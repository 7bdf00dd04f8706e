"""A labelling job: rows, task and rule, checked and made ready to search."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from icm_client.coherence.contexts import in_units
from icm_client.coherence.problem import Constraint, FloatArray, IntArray, Problem
from icm_client.data import (
    Dataset,
    Task,
    builtin_names,
    check_gold,
    find_beside,
    loaded,
    read_rows,
    rows_from,
    take_own_gold,
)
from icm_client.data.constraint_spec import Rules
from icm_client.data.formats import NO_OPTIONS, FileOptions
from icm_client.data.frames import Frame
from icm_client.data.items import Item, items_of, prompt_warnings, render_items
from icm_client.data.rows import FEWEST_ROWS, only, path_of, refused_rows, without_rows
from icm_client.data.rule import build_constraint, idle_rules, rule_notices
from icm_client.data.sanity import gold_notices, refuse_gold_keys, sanity_warnings
from icm_client.data.sources import Files, Named
from icm_client.errors import InputError, TaskError

Rows = Dataset | Named | Iterable[Mapping[str, object] | str] | Frame


@dataclass(frozen=True, slots=True)
class Job:
    """Rows and task, ready to search.

    The search works on `labels`, the label words in alphabetical order, so that the order in which
    a user lists them changes nothing.

    Attributes:
        dataset: the rows; gold, where there is any, uses the task's label words.
        task: the question, with the options of the call in it.
        items: what the search labels: one a row, or two where pairs are shown in both orders.
        prompts: one per item, the template filled in.
        labels: the label words, sorted.
        label_texts: the texts that follow a prompt, aligned with `labels`.
        prior: the labels' shares aligned with `labels`, shape `[K]`, or None.
        constraint: which labels of two items may stand together; label numbers as in `labels`.
        warnings: sentences on what the user should mend before the labels are used.
        notices: sentences on what is worth knowing.
    """

    dataset: Dataset
    task: Task
    items: tuple[Item, ...]
    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    label_texts: tuple[str, ...]
    prior: FloatArray | None
    constraint: Constraint
    warnings: tuple[str, ...]
    notices: tuple[str, ...]

    def problem(
        self,
        *,
        start: IntArray | None = None,
        pinned: IntArray | None = None,
        left_out: Collection[int] = (),
        unlike: IntArray | None = None,
    ) -> Problem:
        """What a search is given.

        Args:
            start: first labels, shape `[N]`, `UNLABELLED` where an item has none.
            pinned: labels that are kept, shape `[N]`, `UNLABELLED` where an item is free.
            left_out: items that cannot be scored.
            unlike: classes of other labels that those found are to be independent of, shape `[N]`.
        """
        n_items = len(self.prompts)
        return Problem(
            n_items,
            len(self.labels),
            self.constraint,
            self.prior,
            start,
            pinned,
            np.setdiff1d(np.arange(n_items), list(left_out)) if left_out else None,
            unlike,
        )

    def by_row(self, reasons: Mapping[int, str]) -> dict[int, str]:
        """Rows with a reason by their numbers, rising, of items with one; a pair's first counts."""
        rows: dict[int, str] = {}
        for item in sorted(reasons):
            rows.setdefault(self.items[item].row, reasons[item])
        return dict(sorted(rows.items()))

    def by_item(self, reasons: Mapping[int, str]) -> dict[int, str]:
        """The items of rows with a reason: of a pair both orders."""
        return {
            number: reasons[item.row]
            for number, item in enumerate(self.items)
            if item.row in reasons
        }

    @classmethod
    def prepare(
        cls,
        rows: Rows,
        task: Task | str | os.PathLike[str],
        *,
        gold: str | None = None,
        prior: Mapping[str, float] | None = None,
        constraint: Rules | None = None,
        file: FileOptions = NO_OPTIONS,
        skip_bad_rows: bool = False,
        limit: int | None = None,
    ) -> "Job":
        """Read, render and check everything; nothing is sent.

        Arguments are those of `icm_client.label`, and `file` says how a file of rows is read where
        neither its name nor its content shows it. The rule of kind "none" disables the task's own.

        Raises:
            InputError: the message names what is wrong, where, and what to do.
            RowError: names all rows that cannot be used.
        """
        task = task if isinstance(task, Task) else named_task(task)
        if prior is not None:
            task = Task(**{**task.model_dump(), "prior": dict(prior)})
        if constraint is not None:
            task = Task(**{**task.model_dump(), "constraint": constraint})
        dataset, own_prompts = _usable(_dataset(rows, gold, task, file), task)
        given = len(rows.skipped) if isinstance(rows, Dataset) else 0
        if len(dataset.skipped) > given and not skip_bad_rows:
            raise refused_rows(
                dataset.skipped,
                path=path_of(dataset),
                usable=len(dataset.rows),
                fewest=dataset.fewest,
            )
        items = items_of(task, dataset)
        prompts = render_items(task, dataset, items, own_prompts)
        refuse_gold_keys(task, dataset)
        rule = build_constraint(task, dataset, items)
        order = sorted(range(len(task.labels)), key=lambda k: task.labels[k])
        shares = task.prior_vector()
        job = cls(
            dataset=dataset,
            task=task,
            items=items,
            prompts=prompts,
            labels=tuple(task.labels[k] for k in order),
            label_texts=tuple(task.label_texts[k] for k in order),
            prior=None if shares is None else np.array([shares[k] for k in order]),
            constraint=rule,
            warnings=(
                *sanity_warnings(task, dataset),
                *prompt_warnings(items, prompts),
                *idle_rules(task, rule),
            ),
            notices=(
                *dataset.warnings,
                *gold_notices(task, dataset),
                *rule_notices(task, rule, dataset, items),
            ),
        )
        return job if limit is None else cls.prepare(_some_rows(job, limit), task)

    @property
    def row_items(self) -> IntArray:
        """For each row the item in its own order, whose label is the row's; shape `[rows]`."""
        own = [i for i, item in enumerate(self.items) if not item.exchanged]
        return np.array(own, dtype=np.int64)


def _dataset(rows: Rows, gold: str | None, task: Task, file: FileOptions) -> Dataset:
    """The rows that can be read, the others skipped; the caller refuses those where it must."""
    if isinstance(rows, str | os.PathLike | Files):
        return read_rows(
            rows,
            gold=gold,
            loader=task.loader,
            template_fields=task.template_fields,
            **asdict(file),
            skip_bad_rows=True,
        )
    if not isinstance(rows, Dataset):
        own = gold if task.loader is None else None  # a loader makes the field that holds gold
        dataset = rows_from(rows, gold=own, skip_bad_rows=True)
    elif gold in (None, rows.gold_field):
        dataset = rows
    else:
        raise InputError(
            f"the rows were read without the gold field {gold!r}; name it when they are read"
        )
    if task.loader is None or dataset.is_part:  # whose rows the loader has made
        return dataset
    return loaded(dataset, task.loader, task.template_fields, gold=gold, skip_bad_rows=True)


def _usable(dataset: Dataset, task: Task) -> tuple[Dataset, list[str]]:
    """The rows whose gold is a label, and which the template fits, with their prompts.

    The others are skipped.
    """
    if task.gold is not None and dataset.gold is None:
        dataset = take_own_gold(dataset, task.gold, skip_bad_rows=True)
    dataset = check_gold(dataset, task.labels, skip_bad_rows=True)
    prompts, misfits = task.render_usable(dataset)
    return without_rows(dataset, misfits), prompts


def _some_rows(job: Job, count: int) -> Dataset:
    """Draw a sample of at most `count` rows, in their order; a rule's groups stay whole.

    It is the same sample each time, whatever the seed of a run: runs over it can be compared.

    Raises:
        InputError: fewer than two rows would be left.
    """
    units = in_units(np.random.default_rng(0).permutation(len(job.items)), job.constraint.groups)
    chosen: set[int] = set()
    for unit in units:
        rows = {job.items[item].row for item in unit} - chosen
        if len(chosen) + len(rows) <= count:
            chosen |= rows
    if len(chosen) < FEWEST_ROWS:
        raise InputError(
            f"{len(chosen)} of the rows, in whole groups, fit into {count}: ask for more"
        )
    return only(job.dataset, sorted(chosen))


def named_task(name: str | os.PathLike[str]) -> Task:
    """Return the built-in task of this name, or the one that a file describes."""
    name = os.fspath(name)
    if name in builtin_names() or not (Path(name).suffix or Path(name).exists()):
        return Task.builtin(name)
    return Task.from_toml(name)


def task_for(data: str | os.PathLike[str], asked: Task | str | None, *, such_as: str = "") -> Task:
    """Return the task that is asked for, or else the one that lies beside `data`.

    Args:
        data: the rows' path.
        asked: a task, the name of a built-in one, or a task file's path.
        such_as: which tasks will do, where not all will, for the message.
    """
    if asked is not None:
        return asked if isinstance(asked, Task) else named_task(asked)
    beside = find_beside(data)
    if beside is not None:
        return Task.from_toml(beside)
    if such_as:
        raise TaskError(
            f"no task: name one with --task ({such_as}), or put a task.toml beside {data}"
        )
    raise TaskError(
        "no task: name one with --task FILE or NAME, or write it down with --template "
        "'Review: {text}\\nSentiment:' --labels positive,negative, or put a task.toml beside "
        f"{data} (icm-client tasks init writes one)"
    )
