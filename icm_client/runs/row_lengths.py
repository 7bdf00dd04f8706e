"""Rows whose prompt alone takes more tokens than the user allows: refused, or cut.

    count the tokens of each row's prompt, by the server's own tokenizer
    without `truncate`: name the rows that take too many
    with it: cut such a row's texts to the same length from their ends, as long as fits

Texts shorter than that length stay whole, so it is a row's longest text that is cut, or both texts
of a pair that are about as long. The template and the label words are never cut. A cut changes what
the model reads, and nothing else: rules and output have the row as it was.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from icm_client.data import Dataset, JsonValue, Row
from icm_client.data.items import duplicate_warning, items_of, render_items
from icm_client.data.job import Job
from icm_client.data.rows import FailedRow, path_of, refused_rows
from icm_client.endpoints import Endpoint, ServerIdentity, TextEndpoint
from icm_client.errors import InputError
from icm_client.runs.presets import Settings, fitted_job
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import ScoreStore, token_counts

_WORD = re.compile(r"\s\S{1,40}$")
"""White space and the beginning of a word at the end of a text that is cut: both are left out."""

_NEAR = 50
"""A cut is near enough where it leaves this part of the allowed tokens unused."""


@dataclass(frozen=True, slots=True)
class RowLimit:
    """How many tokens a row's prompt may take, without demos and label.

    Attributes:
        tokens: the most; None for what the server's context has room for.
        truncate: whether rows that take more are cut, instead of refused.

    Raises:
        InputError: a limit under 1, or rows that are to be cut to no limit.
    """

    tokens: int | None = None
    truncate: bool = False

    def __post_init__(self) -> None:
        """Refuse what says nothing."""
        if self.tokens is None and self.truncate:
            raise InputError(
                "--truncate cuts rows to --max-row-tokens N (from Python: max_row_tokens): give "
                "that as well"
            )
        if self.tokens is not None and self.tokens < 1:
            raise InputError(f"a row takes at least 1 token: {self.tokens} allows none")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return the limit that a run's record has."""
        return cls(settings.get("max_row_tokens"), bool(settings.get("truncate")))

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What the record of a run has of it; nothing where there is no limit."""
        if self.tokens is None:
            return {}
        return {"max_row_tokens": self.tokens, "truncate": self.truncate}


NO_LIMIT: Final = RowLimit()


class Limited(NamedTuple):
    """A job whose rows are within the limit.

    Attributes:
        job: with the prompts of rows that are cut.
        too_long: items whose rows take more and could not be cut or were not to be, with reasons.
        cut: row -> tokens that were cut from its prompt, 0 for a row that is whole; None where the
            limit cuts no rows.
        as_read: row -> the row with the texts that are left of it, of those that are cut.
    """

    job: Job
    too_long: Mapping[int, str]
    cut: Mapping[int, int] | None
    as_read: Mapping[int, Row] = MappingProxyType({})

    def refuse(self) -> None:
        """Raise `RowError` where rows take too many tokens; it names them all."""
        rows = self.job.by_row(self.too_long)
        if rows:
            dataset = self.job.dataset
            bad = [dataset.rows[row].failed(why) for row, why in rows.items()]
            raise refused_rows(bad, path=path_of(dataset), usable=len(dataset.rows) - len(bad))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on rows that are alike once they are cut."""
        if not self.cut or not any(self.cut.values()):
            return ()
        warning = duplicate_warning(self.job.prompts)
        if warning is None or warning in self.job.warnings:
            return ()
        return (f"once rows are cut, {warning}",)


def cut_notice(n_cut: int, n_rows: int, limit: RowLimit) -> str | None:
    """Return the sentence that says how many rows were cut; None where none was."""
    if not n_cut:
        return None
    rows = "1 row was" if n_cut == 1 else f"{n_cut:,} rows were"
    return (
        f"{rows} cut to {limit.tokens:,} tokens (of {n_rows:,} rows), and labelled by what is "
        "left; the column cut_tokens says which"
    )


async def within_limit(job: Job, limit: RowLimit, server: Endpoint, store: ScoreStore) -> Limited:
    """Count the tokens of a job's prompts, and cut or name the rows that take too many.

    Nothing is asked where there is no limit. What is cut is a function of row, task, tokenizer and
    limit, so new rows are cut as those of the run were.

    Raises:
        InputError: the server takes only text: how many tokens that is it does not say.
    """
    most = limit.tokens
    if most is None:
        return Limited(job, {}, None)
    if isinstance(server, TextEndpoint):
        raise InputError(
            "--max-row-tokens needs a server that tokenizes: this one takes only text. Shorten "
            "the rows, or name a vLLM, SGLang or llama.cpp server"
        )
    counts = await token_counts(job.prompts, server, store)
    lengths: dict[int, int] = {}  # a pair's longer order counts
    for item, count in zip(job.items, counts, strict=True):
        lengths[item.row] = max(count, lengths.get(item.row, 0))
    long = {row: length for row, length in lengths.items() if length > most}
    if not limit.truncate:
        reasons = {row: _too_long(length, most) for row, length in long.items()}
        return Limited(job, job.by_item(reasons), None)
    cuts = [_Cut(job.dataset.rows[row], length, job) for row, length in long.items()]
    while under_way := [one for one in cuts if not one.is_done(most)]:
        tried = [one.next_length(most) for one in under_way]
        rows = [one.cut(length) for one, length in zip(under_way, tried, strict=True)]
        prompts = prompts_of(rows, job)
        counts = await token_counts([text for texts in prompts for text in texts], server, store)
        orders = len(counts) // len(rows)
        for place, (one, length) in enumerate(zip(under_way, tried, strict=True)):
            one.found(length, max(counts[place * orders : (place + 1) * orders]), most)
    done = dict(zip(long, cuts, strict=True))
    uncut = {
        row: f"its prompt takes {one.whole:,} tokens, and without most of its texts still more "
        f"than the {most:,} of --max-row-tokens: allow more"
        for row, one in done.items()
        if not one.fits
    }
    kept = {row: one for row, one in done.items() if one.fits}
    as_read = {row: one.cut(one.fits) for row, one in kept.items()}
    made = dict(zip(kept, prompts_of(list(as_read.values()), job), strict=True))
    job = replace(
        job,
        prompts=tuple(
            made[item.row][item.exchanged] if item.row in made else prompt
            for item, prompt in zip(job.items, job.prompts, strict=True)
        ),
    )
    cut = {row: kept[row].left_out if row in kept else 0 for row in lengths}
    return Limited(job, job.by_item(uncut), cut, as_read)


class LengthCheck(NamedTuple):
    """What a server's tokenizer says of a job's rows.

    Attributes:
        bad: rows that it makes unusable: too long, or written otherwise where a label follows.
        cut: rows that are cut, of those that can be used.
        lengths: tokens of the shortest prompt, of the middle one and of the longest, of the rows
            that can be used, once they are cut; characters where the server takes only text.
        unit: "tokens" or "characters".
        server: who was asked.
        notices: sentences that the user should see.
        warnings: sentences on what the user should mend.
    """

    bad: tuple[FailedRow, ...]
    cut: int
    lengths: tuple[int, int, int]
    unit: str
    server: ServerIdentity
    notices: tuple[str, ...]
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, JsonValue]:
        """Return the lengths as JSON values."""
        least, middle, most = self.lengths
        return {
            "least": least,
            "middle": middle,
            "most": most,
            "unit": self.unit,
            "cut": self.cut,
            "model": self.server.model,
            "context_length": self.server.context_length,
        }

    def sentence(self) -> str:
        """Return the lengths in one sentence."""
        least, middle, most = self.lengths
        return (
            f"A row's prompt takes {least:,} to {most:,} {self.unit} of {self.server.model}, "
            f"{middle:,} in the middle; its context holds {self.server.context_length:,}."
        )


async def check_lengths(
    job: Job,
    settings: Settings,
    row_limit: RowLimit,
    endpoint: Endpoint | Server | str | None,
    store: ScoreStore,
) -> LengthCheck:
    """Find the rows that `label` would refuse or cut once it knew the server's tokenizer.

    Nothing is scored.
    """
    async with open_endpoint(endpoint) as server:
        within = await within_limit(job, row_limit, server, store)
        fitted = await fitted_job(
            within.job, settings, server, store, skip_bad_rows=True, too_long=within.too_long
        )
        identity = server.identity
    usable = [ids for n, ids in enumerate(fitted.pieces.prompts) if n not in fitted.unusable]
    lengths = sorted(map(len, usable))
    bad = job.by_row(fitted.unusable)
    cut = sum(map(bool, (within.cut or {}).values()))
    rows = job.dataset.rows
    said = cut_notice(cut, len(rows) - len(bad), row_limit)
    return LengthCheck(
        tuple(rows[row].failed(why) for row, why in bad.items()),
        cut,
        (lengths[0], lengths[len(lengths) // 2], lengths[-1]),
        "characters" if isinstance(server, TextEndpoint) else "tokens",
        identity,
        (
            *([] if said is None else [said]),
            *([] if fitted.notice is None else [fitted.notice]),
        ),
        within.warnings,
    )


def _too_long(length: int, most: int) -> str:
    return (
        f"its prompt takes {length:,} tokens, more than the {most:,} of --max-row-tokens: shorten "
        "the text, or have such rows cut (--truncate)"
    )


def prompts_of(rows: Sequence[Row], job: Job) -> list[tuple[str, ...]]:
    """Return each row's prompts: one, or two where pairs are shown in both orders.

    Raises:
        RowError: the template does not fit a row.
    """
    dataset = Dataset(job.dataset.name, tuple(rows), None, None, ())
    items = items_of(job.task, dataset)
    prompts = render_items(job.task, dataset, items)
    orders = len(items) // max(len(rows), 1)
    return [tuple(prompts[n : n + orders]) for n in range(0, len(items), orders or 1)]


class _Cut:
    """The search for the most that can be kept of one row.

    Attributes:
        whole: as given.
        fits: characters of a text that fit; 0 while none are known to.
    """

    def __init__(self, row: Row, whole: int, job: Job) -> None:
        self._row = row
        self._fields = [
            name for name in job.task.template_fields if isinstance(row.fields[name], str)
        ]
        self.whole = whole
        self.fits, self._fitting = 0, 0
        self._over = max((len(str(row.fields[name])) for name in self._fields), default=0)
        self._exceeding = whole
        self._halves = False

    @property
    def left_out(self) -> int:
        """How many tokens are left out."""
        return self.whole - self._fitting

    def is_done(self, most: int) -> bool:
        """Whether no further length is worth a try."""
        return self._over - self.fits <= 1 or (
            bool(self.fits) and most - self._fitting <= most // _NEAR
        )

    def next_length(self, most: int) -> int:
        """A length between one that fits and one that does not.

        Every second one halves what is left; tokens are not spread evenly over a text.
        """
        room = self._over - self.fits
        part = 0.5 if self._halves else (most - self._fitting) / (self._exceeding - self._fitting)
        self._halves = not self._halves
        return self.fits + min(max(int(room * part), 1), room - 1)

    def found(self, length: int, count: int, most: int) -> None:
        """Take note of how many tokens the row takes at a length."""
        if count <= most:
            self.fits, self._fitting = length, count
        else:
            self._over, self._exceeding = length, count

    def cut(self, length: int) -> Row:
        """The row with the texts of the template cut to a length, between words where it can be."""
        texts = {name: _beginning(str(self._row.fields[name]), length) for name in self._fields}
        return replace(self._row, fields={**self._row.fields, **texts})


def _beginning(text: str, length: int) -> str:
    """The first `length` characters after white space, without a word that would be cut in two."""
    start = len(text) - len(text.lstrip())
    end = start + length
    if end >= len(text):
        return text
    kept = text[:end]
    word = None if text[end].isspace() else _WORD.search(kept, start)
    return (kept if word is None else kept[: word.start()]).rstrip()
