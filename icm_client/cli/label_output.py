"""What `label` ends with, of one run or several: labels written, and what is said of them."""

from icm_client.cli.concept_display import print_concept_warnings, print_concepts
from icm_client.cli.documents import print_json
from icm_client.cli.result_display import (
    print_group_warnings,
    print_groups,
    print_result,
    print_warnings,
    result_console,
)
from icm_client.data import FileFormat
from icm_client.data.outputs import STANDARD_OUTPUT
from icm_client.errors import IcmError, InputError
from icm_client.record.layout import LABELS
from icm_client.runs.by_field import GroupLabels
from icm_client.runs.concepts import ConceptLabels
from icm_client.runs.result import Labels

Found = Labels | GroupLabels | ConceptLabels


def put_out(
    found: Found,
    output: str,
    output_format: FileFormat | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the labels, and print what a person must know about them.

    Raises:
        IcmError: they cannot be written, though they could when the run began. The result has been
            printed by then, and the run's record has the labels too.
    """
    lost: IcmError | None = None
    place = "standard output" if output == STANDARD_OUTPUT else output
    try:
        found.write(output, format=output_format)
    except InputError as error:
        place = ", ".join(_records(found)) or "no file"
        kept = "" if place == "no file" else f". The labels are in {place}"
        lost = IcmError(f"{error}{kept}")
        lost.goes_on = True
    if as_json:
        print_json({**found.summary(), "output": None if place == "no file" else place})
    elif not quiet:
        _print_found(found, output, place)
    notes = not (as_json or quiet)
    match found:
        case Labels():
            print_warnings(found, notes=notes)
        case GroupLabels():
            print_group_warnings(found, notes=notes)
        case ConceptLabels():
            print_concept_warnings(found, notes=notes)
    if lost is not None:
        raise lost


def _records(found: Found) -> list[str]:
    """The files in the runs' folders that have the labels too."""
    match found:
        case Labels():
            runs = [found.run]
        case GroupLabels():
            runs = [one.run for one in found.runs.values()]
        case ConceptLabels():
            runs = [one.run for one in found.concepts]
    return [str(run / LABELS) for run in runs if run is not None]


def _print_found(found: Found, output: str, place: str) -> None:
    console = result_console(output)
    match found:
        case Labels():
            print_result(found, place, console)
        case GroupLabels():
            print_groups(found, place, console)
        case ConceptLabels():
            print_concepts(found, place, console)
