"""`icm-client label --dry-run`: all that can be known of the rows before a run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import anyio
import click
from rich.text import Text

from icm_client.cli.documents import print_json
from icm_client.cli.result_display import print_notices, print_preview, result_console
from icm_client.data.job import Job
from icm_client.data.rows import path_of, refused_rows
from icm_client.endpoints import RetryPolicy
from icm_client.errors import EndpointError, SetupError
from icm_client.runs.by_field import prepare_groups
from icm_client.runs.request import LabelRequest
from icm_client.runs.row_lengths import LengthCheck, check_lengths
from icm_client.runs.server import Server
from icm_client.scoring import open_store

_PATIENCE: Final = RetryPolicy(attempts=3, attempt_timeout_s=5.0, item_timeout_s=10.0)
"""With a server whose tokenizer is asked: a dry run goes on without it."""


def show_dry_run(
    request: LabelRequest,
    server: Server,
    *,
    store: str | None,
    output: str | None,
    by: str | None,
    match: Sequence[str],
    serve: str | None,
    as_json: bool,
    quiet: bool,
) -> Job:
    """Print a prompt, and what is to be said of the rows; return what was read.

    Rows that cannot be used are named all at once, those too that the server's tokenizer makes
    unusable. Where it cannot be asked, the rest is checked, and that is said.
    """
    lenient = replace(request, skip_bad_rows=True)
    groups = None if by is None else prepare_groups(lenient, by, match=match)
    read = lenient.read() if groups is None else groups.whole
    job, rows = read.whole, read.whole.dataset
    checked: LengthCheck | None = None
    unchecked: str | None = None
    if serve is not None:
        unchecked = "--serve starts no server for a dry run"
    else:
        asked = replace(server, transport=replace(server.transport, retry=_PATIENCE))
        try:
            with open_store(store) as kept:
                checked = anyio.run(
                    check_lengths, job, read.settings, request.row_limit, asked, kept
                )
        except (EndpointError, SetupError) as error:
            unchecked = str(error)
    skipped = rows.skipped if groups is None else groups.skipped
    found = {row.number: row for row in (*(checked.bad if checked else ()), *skipped)}
    bad = [found[number] for number in sorted(found)]
    if unchecked is not None and not as_json:
        click.echo(f"Note: row lengths were not checked: {unchecked}", err=True)
    if bad and not request.skip_bad_rows:
        raise refused_rows(bad, path=path_of(rows), usable=len(rows.rows) - len(bad))
    notices = (
        *(job.notices if groups is None else groups.notices),
        *(checked.notices if checked else ()),
    )
    warnings = (
        *(job.warnings if groups is None else groups.warnings),
        *(checked.warnings if checked else ()),
    )
    if as_json:
        print_json(
            {
                "rows": len(rows.rows),
                "first_prompt": job.prompts[0],
                "labels": job.label_texts,
                "notices": notices,
                "warnings": warnings,
                "failed": [row.summary() for row in bad],
                "lengths": None if checked is None else checked.summary(),
                "lengths_not_checked": unchecked,
                "values": None
                if groups is None
                else {value: len(run.whole.dataset.rows) for value, run in groups.runs.items()},
            }
        )
        return job
    console = result_console(output)
    print_preview(job, console)
    if groups is not None:
        for value, run in groups.runs.items():
            words = f"{by} = {value}: {len(run.whole.dataset.rows):,} rows"
            console.print(Text(words), soft_wrap=True)
    if checked is not None:
        console.print(Text(checked.sentence()), soft_wrap=True)
    print_notices(() if quiet else notices, () if quiet else bad, warnings=warnings)
    return job
