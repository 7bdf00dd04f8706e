"""Runs as static pages: an index and each run's report, for a web server or a paper's supplement.

Each page is one file that asks for nothing else, with the policy that forbids it to
(`icm_client.report.report`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run
from icm_client.record.layout import LABELS
from icm_client.report.report import page, write_page, write_report
from icm_client.view.pages import TEMPLATES

INDEX: Final = "index.html"


def write_bundle(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write the pages of runs into a folder, which is made; those that are there are replaced.

    Runs without labels are in the index alone, with their state.

    Returns:
        The files, the index first.

    Raises:
        InputError: none of the runs has labels.
        RunError: a run cannot be read, or a page not written.
    """
    labelled = [run for run in runs if run.result and (run.path / LABELS).is_file()]
    if not labelled:
        raise InputError(f"none of the {len(runs):,} runs has labels yet: there is nothing to show")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}") from error
    written = [folder / INDEX]
    for run in labelled:
        path = folder / f"{run.name}.html"
        write_report(run, path)
        written.append(path)
    index = page(
        "bundle.html.j2",
        {"runs": runs, "labelled": {run.name for run in labelled}},
        rows=None,
        scripts=("page.js",),
        folders=(TEMPLATES,),
    )
    write_page(written[0], index, "Name another folder.")
    return written
