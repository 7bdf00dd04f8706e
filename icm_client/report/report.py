"""The report of a run: one HTML file that needs nothing else and sends nothing anywhere.

Style sheet, script and rows are in the page. Its Content-Security-Policy allows exactly that style
sheet and that script, by their hashes, and forbids every request. Texts are the user's and may hold
anything: the template escapes what it prints, the rows are JSON in which `<`, `>` and `&` are
escaped, and the script only ever sets them as text.
"""

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import orjson
from markupsafe import Markup

import icm_client
from icm_client.data.whole_files import replace_file
from icm_client.errors import RunError
from icm_client.record.archive import Run, resume_command
from icm_client.report.charts import chart_svg, charts_of, series_class
from icm_client.report.report_data import MEANINGS, ReportData, page_rows, read_report
from icm_client.verdict.findings import NO_CONFIDENCE, of_run

_ASSETS = resources.files("icm_client.report").joinpath("report_page")
_SCRIPTS = ("page.js", "checks.js", "deck.js", "rows.js", "report.js")
_NONE = "\N{EN DASH}"
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def write_report(run: Run, path: Path, *, gold: str | None = None) -> None:
    """Write the report of a run that is done; an old file is replaced in one step.

    Raises:
        InputError: the run has no labels yet, or the gold field is missing or holds no labels.
        RunError: a file of the run cannot be read, or the page cannot be written.
    """
    write_page(path, render_report(read_report(run, gold=gold)), "Name another file with -o.")


def write_page(path: Path, html: str, advice: str = "Name another file.") -> None:
    """Write a page in one step; raises `RunError`, which ends in `advice`, where that fails."""
    try:
        replace_file(path, html.encode())
    except OSError as error:
        raise RunError(
            f"{path}: the report cannot be written: {error.strerror}. {advice}"
        ) from error


def render_report(data: ReportData) -> str:
    """Return the page, which follows from the data alone."""
    return page("page.html.j2", sections_of(data), rows=page_rows(data.table))


def sections_of(data: ReportData) -> dict[str, object]:
    """Return what the templates in `sections/` show of a run, by the names they use."""
    return {
        "data": data,
        "charts": charts_of(data),
        "matrices": _matrices(data),
        "verdict_words": data.verdict.capitalize(),
        "verdict_class": data.verdict.replace(" ", "-"),
        "meaning": MEANINGS[data.verdict],
        "unfinished": of_run(data.result.get("stopped")).removeprefix(", "),
        "resume": resume_command(data.run) if data.run.record.get("command") else "",
        "numbers": _numbers(data),
        "balance": _balance(data),
        "balance_words": ", ".join(f"{word}: {share:.0%}" for word, _, share in data.counts),
        "facts": _facts(data),
        "warnings": _sentences(data.result.get("warnings", ())),
        "notices": _sentences(data.result.get("notices", ())),
    }


def page(
    template: str,
    values: Mapping[str, object],
    *,
    rows: object,
    scripts: Sequence[str] = _SCRIPTS,
    folders: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the template filled in, with style sheet, scripts, and a policy that allows both."""
    # These files are ours: they hold no `</script>` and no `</style>`.
    css, script = asset("page.css"), "\n".join(map(asset, scripts))
    return (
        templates(*folders)
        .get_template(template)
        .render(
            policy=Markup(_policy(css, script)),  # noqa: S704 - hashes
            css=Markup(css),  # noqa: S704 - ours
            script=Markup(script),  # noqa: S704 - ours
            rows_json=Markup(embedded_json(rows)),  # noqa: S704 - escaped there
            version=icm_client.__version__,
            **values,
        )
    )


@cache
def templates(*folders: tuple[str, str]) -> jinja2.Environment:
    """Return the templates, those in `folders` (a package, a folder in it) before the report's."""
    places = (*folders, ("icm_client.report", "report_page"))
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(*place) for place in places]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["drawn"] = lambda chart: Markup(chart_svg(chart))  # noqa: S704 - escaped there
    made.globals["series_class"] = series_class
    return made


def embedded_json(value: object) -> str:
    """Return JSON for a `<script>` element: nothing in it ends the element."""
    text = orjson.dumps(value).decode()
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _sentences(said: Iterable[object]) -> list[str]:
    return [f"{str(one).rstrip('.')}." for one in said]


def asset(name: str) -> str:
    """Return the text of a style sheet or script of the page."""
    return _ASSETS.joinpath(name).read_text("utf-8")


def _policy(css: str, script: str) -> str:
    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(css)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


class _Number(NamedTuple):
    name: str
    value: str
    note: str = ""


def _numbers(data: ReportData) -> list[_Number]:
    result, found = data.result, data.reliability
    failed = result.get("failed")
    notes = (
        [f"{predicted:,} predicted, not searched"] if (predicted := result.get("predicted")) else []
    )
    notes += [f"{len(failed):,} have no label"] if failed else []
    numbers = [_Number("Rows", f"{len(data.table.held):,}", ", ".join(notes))]
    if isinstance(result.get("coherence"), int | float):
        note = f"U {result['utility']:+.3f} nats an item" if "utility" in result else ""
        numbers.append(_Number("Coherence", f"{result['coherence']:.0%}", note))
    numbers.append(_confidence(data))
    if isinstance(mass := result.get("label_mass"), int | float):
        numbers.append(_Number("On label words", f"{mass:.0%}", "of the next token's probability"))
    if judged := int(data.table.judged.sum()):
        accuracy = data.table.right.sum() / judged
        numbers.append(_Number("Accuracy", f"{accuracy:.1%}", f"of {judged:,} rows with gold"))
    if found is not None:
        numbers.append(_Number("Calibration error", f"{found.error:.1%}", "expected (ECE)"))
    if cost := result.get("cost"):
        computed, cached = cost["computed_tokens"], f"{cost['cached_tokens']:,} read from cache"
        scores, stored = cost["from_server"] + cost["from_store"], cost["from_store"]
        numbers += [
            _Number("Tokens computed", f"{computed:,}", cached),
            _Number("Scores", f"{scores:,}", f"{stored:,} from the store"),
            _Number("Time", _duration(cost["seconds"]), f"{cost['requests']:,} requests"),
        ]
    return numbers


def _confidence(data: ReportData) -> _Number:
    confidence = data.table.confidence
    if np.isnan(confidence).any():
        return _Number("Mean confidence", "none", NO_CONFIDENCE)
    few = f"{(confidence < 0.6).sum():,} rows under 60%"  # noqa: PLR2004
    return _Number("Mean confidence", f"{confidence.mean():.0%}", few)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _balance(data: ReportData) -> list[dict[str, str]]:
    starts = np.cumsum([0.0, *(share for _, _, share in data.counts)])
    return [
        {
            "word": word,
            "count": f"{count:,}",
            "share": f"{share:.0%}",
            "x": f"{1000 * start:.2f}",
            "width": f"{1000 * share:.2f}",
            "css": series_class(number),
        }
        for number, ((word, count, share), start) in enumerate(
            zip(data.counts, starts, strict=False)
        )
    ]


class Matrix(NamedTuple):
    """A table of figures: a line for each of its rows, their names first."""

    title: str
    note: str
    corner: str
    columns: Sequence[str]
    lines: Sequence[tuple[str, Sequence[str]]]
    agreed: bool = False


def _matrices(data: ReportData) -> list[Matrix]:
    found = []
    if (against := data.confusion) is not None:
        found.append(
            Matrix(
                "Labels against gold",
                "Which labels the rows of each gold label were given.",
                "Gold",
                [f"as {word}" for word in against.labels],
                [
                    (word, [f"{count:,}" for count in counts])
                    for word, counts in zip(against.labels, against.counts, strict=True)
                ],
                agreed=True,
            )
        )
        found.append(
            Matrix(
                "Precision and recall",
                "Precision: of the rows given a label, the share whose gold label it is. Recall: "
                "of the rows with that gold label, the share given it.",
                "Label",
                ("Precision", "Recall", "F1"),
                [
                    (one.label, [_share(share) for share in (one.precision, one.recall, one.f1)])
                    for one in against.by_label
                ],
            )
        )
    if (starts := data.starts) is not None:
        found.append(
            Matrix(
                "Agreement of the starts",
                "Share of the rows that two starts of the search gave the same label, with label "
                "names matched: independent starts that agree have found something that is in "
                "the rows.",
                "",
                starts.names,
                [
                    (name, [_NONE if k == n else f"{share:.0%}" for k, share in enumerate(line)])
                    for n, (name, line) in enumerate(
                        zip(starts.names, starts.agreement, strict=True)
                    )
                ],
            )
        )
    return found


def _share(share: float | None) -> str:
    return _NONE if share is None else f"{share:.1%}"


def _facts(data: ReportData) -> dict[str, object]:
    record, result = data.run.record, data.result
    task, server, settings = record["task"], record["server"], record["settings"]
    name = str(record["data"]).replace("\\", "/").rpartition("/")[2]
    preset = str(result.get("preset", settings.get("preset", "")))
    command, steps = record.get("command"), ""
    if result.get("steps"):
        steps = f"{result['steps']:,}, {result.get('steps_accepted', 0):,} accepted"
    facts = [
        ("run", data.run.name),
        ("data", f"{record['data']} ({record['rows']:,} rows)"),
        ("task", task.get("name") or ""),
        ("template", task["template"]),
        ("labels", ", ".join(data.table.words)),
        ("model", f"{server.get('model')} ({server.get('kind')})"),
        ("fingerprint", server.get("fingerprint") or ""),
        (
            "settings",
            ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None),
        ),
        ("seed", str(record["seed"])),
        ("shares of the labels", str(result.get("prior_source", ""))),
        (
            "log-probs",
            ", ".join(f"{n:,} {kind}" for kind, n in result.get("exactness", {}).items()),
        ),
        ("gold", data.table.gold_field or ""),
        ("steps", steps),
        ("created", data.run.created),
        ("command", shlex.join(["icm-client", *map(str, command)]) if command else "(from Python)"),
        ("versions", ", ".join(f"{key} {value}" for key, value in record["versions"].items())),
    ]
    return {
        "data_name": name,
        "subtitle": f"{len(data.table.held):,} rows labelled by {server.get('model')}, preset "
        f"{preset}, seed {record['seed']}, {str(data.run.created)[:10]}",
        "version": record["versions"].get("icm-client", ""),
        "long_ids": data.table.long_ids,
        "all": [(key, value) for key, value in facts if value],
    }
