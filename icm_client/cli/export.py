"""`icm-client export`: a run's labels in the formats that training programs read."""

from pathlib import Path
from typing import Literal

import anyio
import click

from icm_client.cli.completion import complete_runs
from icm_client.cli.documents import print_json
from icm_client.cli.options import server_options, store_option
from icm_client.cli.run_options import json_option, runs_option
from icm_client.cli.sections import SectionedCommand, section
from icm_client.data import check_output
from icm_client.errors import InputError, ModelChanged
from icm_client.record.archive import find_run
from icm_client.runs.frozen import Frozen
from icm_client.runs.predictor import Predictor
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import open_store
from icm_client.training.combined import export_combined
from icm_client.training.exports import EXPORT_FORMATS, Export, ExportFormat, export_run
from icm_client.training.frozen_prompt import export_prompt
from icm_client.training.push import check_push, push


@click.command("export", cls=SectionedCommand, short_help="Write a run's labels for training.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_runs)
@section(
    "Output",
    click.option(
        "--to",
        type=click.Choice([*EXPORT_FORMATS, "prompt"]),
        required=True,
        metavar="FORMAT",
        help="The format, one of those above.",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        metavar="PATH",
        help="The file to write; for hf and argilla a new folder.",
    ),
    click.option(
        "--min-confidence",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Leave out rows whose label has less confidence than this.",
    ),
    click.option(
        "--with-gold",
        is_flag=True,
        help="Write the gold labels too, as a column of csv, parquet or hf.",
    ),
    click.option(
        "--push",
        "repository",
        metavar="OWNER/NAME",
        help="Upload the folder of --to hf as this dataset repository, private unless --public.",
    ),
    click.option("--public", is_flag=True, help="With --push: let everyone see the repository."),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Of several runs: draws the rows of their equal shares.",
    ),
)
@server_options()
@section(
    "Record",
    runs_option,
    store_option,
)
@json_option
def export_command(
    *,
    runs: tuple[str, ...],
    to: ExportFormat | Literal["prompt"],
    output: Path,
    min_confidence: float | None,
    with_gold: bool,
    repository: str | None,
    public: bool,
    seed: int,
    server: Server,
    base: Path,
    store: str | None,
    as_json: bool,
) -> None:
    """Write the labels of RUN, and a card that says how they were made.

    RUN is a run's name, its beginning, `latest`, or its folder.

    \b
    sft           JSON Lines: prompt, completion (trl)
    chat          JSON Lines: messages (OpenAI, axolotl, trl)
    dpo           JSON Lines: prompt, chosen, rejected (trl, axolotl)
    reward        the same, for reward models: pairs of responses only
    csv           a table: prompt, completion, label, confidence, the row's fields
    parquet       the same
    hf            the same, as a folder for datasets.load_dataset, with a card
    label-studio  tasks with the labels as predictions; interface in PATH.xml
    argilla       a folder for argilla.Dataset.from_disk, labels as suggestions
    prompt        JSON: demos, label tokens and thresholds, as predict uses them

    Prompts and label texts are those that the model was asked, the label's space included. A pair
    of responses is in sft and chat in both orders; dpo and reward take the response that the label
    prefers as chosen. Of a task without pairs, dpo takes the label's text as chosen and each other
    label's as rejected.

    The card (PATH.md; README.md in a folder) has model, seed, settings, prompt, counts, findings
    and the verdict. Labels that are not to be trusted are written all the same, with a warning.

    Several runs are combined into one set for dpo, in which each run has the same share and so has
    each label of a run.

    What people say in Label Studio or Argilla is read back by icm-client label --pin.

    A prompt is for other programs that ask the same model. The server is asked only where no
    prediction has been made from RUN yet.
    """  # noqa: D301 - click's mark for a paragraph that keeps its lines
    _check_options(runs, to, with_gold=with_gold, repository=repository, public=public)
    if to == "prompt":
        if min_confidence is not None or with_gold:
            raise click.UsageError("--to prompt writes no rows: neither their confidence nor gold")
        _export_prompt(runs[0], base, output, server, store, as_json=as_json)
        return
    found = [find_run(run, base) for run in runs]
    if len(found) > 1:
        done = export_combined(found, output, min_confidence=min_confidence, seed=seed)
    else:
        done = export_run(found[0], to, output, min_confidence=min_confidence, with_gold=with_gold)
    for warning in done.warnings:
        click.secho(f"WARNING: {warning}", err=True, fg="red", bold=done.verdict == "do not trust")
    address = None if repository is None else push(done, repository, public=public)
    if as_json:
        print_json({**done.summary(), "pushed": address})
        return
    _print(done)
    if address is not None:
        click.echo(f"Pushed to {address} ({'public' if public else 'private'}).")


def _check_options(
    runs: tuple[str, ...], to: str, *, with_gold: bool, repository: str | None, public: bool
) -> None:
    """Refuse options that do not go together."""
    if len(runs) > 1 and to != "dpo":
        raise click.UsageError(f"--to {to} exports one run: several are combined by --to dpo")
    if len(runs) > 1 and with_gold:
        raise click.UsageError("--to dpo has no place for gold labels: csv, parquet and hf have")
    if public and repository is None:
        raise click.UsageError("--public goes with --push")
    if repository is not None:
        if to != "hf":
            raise click.UsageError("--push uploads the folder of --to hf")
        check_push(repository)


def _print(done: Export) -> None:
    click.echo(f"Wrote {done.records:,} records of {done.rows:,} rows to {done.path}.")
    for run, labels in done.shares.items():
        counts = ", ".join(f"{label} {count:,}" for label, count in sorted(labels.items()))
        click.echo(f"{run}: {sum(labels.values()):,} rows ({counts}).")
    for reason, count in done.left_out.items():
        click.echo(f"Left out, {reason}: {count:,} rows.")
    if done.format == "label-studio":
        click.echo(f"The labeling interface: {done.path}.xml")
    click.echo(f"How they were made: {done.card}")


def _export_prompt(
    run: str, base: Path, output: Path, server: Server, store: str | None, *, as_json: bool
) -> None:
    check_output(output, "jsonl")
    predictor = Predictor.load(run, runs=base)

    async def measured() -> Frozen:
        with open_store(store) as scores:
            async with open_endpoint(server) as endpoint:
                try:
                    return await predictor.frozen(endpoint, scores)
                except ModelChanged:
                    found = predictor.found
                    raise InputError(
                        f"nothing has been predicted from the run {found.run} yet, so its rows are "
                        f"read once more, by the model that labelled them ({found.server.model}), "
                        "and another one answers: name its server with --endpoint"
                    ) from None

    done = export_prompt(predictor.kept() or anyio.run(measured), output)
    for warning in done.warnings:
        click.secho(f"WARNING: {warning}", err=True, fg="red", bold=done.verdict == "do not trust")
    if as_json:
        print_json(done.summary())
    else:
        click.echo(f"Wrote the prompt to {done.path}.")
