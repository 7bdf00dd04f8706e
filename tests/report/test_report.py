"""The report as a file: what is in it, and what hostile texts cannot do to it."""

import base64
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from report_runs import reviews, step, write_run

from icm_client import Task
from icm_client.errors import InputError, RunError
from icm_client.record.archive import read_run
from icm_client.report.report import embedded_json, render_report, write_report
from icm_client.report.report_data import page_rows, read_report

HOSTILE = [
    "</script><img src=x onerror=\"document.title='taken'\">",
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "\x01\x07\x1b[31m red \u2028\u2029\x7f",
    "\u202eright to left\u202d \u05e9\u05dc\u05d5\u05dd",
    "&lt;b&gt;'\"` ${1}",
    "x" * 100_000,
    "\U0001f600 e\u0301",
]


class Page(HTMLParser):
    """Scripts, styles, policy and the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inside: list[tuple[str, dict[str, str | None], str]] = []
        self.policy = ""
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        found = dict(attrs)
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(found["content"])
        self._open = (tag, found) if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.inside.append((*self._open, data))

    def handle_endtag(self, _: str) -> None:
        self._open = None

    def data(self) -> Any:
        (text,) = (t for _, found, t in self.inside if found.get("type") == "application/json")
        return orjson.loads(text)


def page_of(tmp_path: Path, *rows: dict[str, Any], **own: Any) -> str:
    run = write_run(tmp_path / "runs", list(rows) or reviews(40), **own)
    return render_report(read_report(run))


def test_nothing_is_loaded_and_only_our_script_may_run(tmp_path: Path) -> None:
    page = Page(page_of(tmp_path, gold="label"))
    assert set(page.tags).isdisjoint({"iframe", "object", "embed", "base", "img", "image", "use"})
    assert "default-src 'none'" in page.policy
    for name, value in page.attributes:
        assert not name.startswith("on"), "no inline handlers: the policy would refuse them"
        assert name != "style"
        if name in ("src", "href", "srcset"):
            assert str(value).startswith(("#", "data:,"))
    for tag, found, text in page.inside:
        if found.get("type") != "application/json":
            digest = base64.b64encode(sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in page.policy, f"the policy refuses our own {tag}"
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", str(page.inside))


def test_hostile_texts_are_only_texts(tmp_path: Path) -> None:
    rows = [{"id": f"<i>{i}</i>", "text": text} for i, text in enumerate(HOSTILE)]
    plain = Page(page_of(tmp_path, *({"id": str(i), "text": "x"} for i in range(len(HOSTILE)))))
    page = Page(page_of(tmp_path, *rows))
    assert page.tags == plain.tags
    shown = page.data()["rows"]
    assert [row[0] for row in shown] == [row["id"] for row in rows]
    assert [row[6][0] for row in shown[:6]] == HOSTILE[:6]
    assert len(shown[6][6][0]) == 20_000
    assert shown[6][7] == 80_000


def test_hostile_names_in_the_record_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    finding = {"message": evil, "advice": evil, "severity": "fatal", "figures": evil}
    task = Task(template="{text}<b>:", labels=("<b>yes</b>", '"no"'), name=evil)
    rows = [{"text": f"row {i}"} for i in range(6)]
    text = page_of(
        tmp_path,
        *rows,
        task=task,
        result={"findings": [finding], "notices": [evil], "verdict": "do not trust"},
    )
    assert evil not in text
    assert "<b>" not in text
    assert Page(text).data()["words"] == list(task.labels)


def test_embedded_json_ends_no_element_and_reads_back() -> None:
    value = {"a": "</script><!-- <script> \u2028 & ]]>"}
    text = embedded_json(value)
    assert not set("<>&\u2028") & set(text)
    assert orjson.loads(text) == value


def test_the_verdict_and_its_findings_stand_first_the_worst_on_top(tmp_path: Path) -> None:
    text = page_of(tmp_path)
    assert '<h2 id="verdict-title">Check</h2>' in text
    assert text.index("The labels may be uneven.") < text.index("2 labels of 40 were decided")
    assert "90% interval: 20% to 90%." in text
    assert "holds no verdict" not in text


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([], "Trust"),
        ([{"message": "m", "advice": "a", "fatal": False}], "Check"),
        ([{"message": "m", "advice": "a", "fatal": True}], "Do not trust"),
    ],
)
def test_older_records_have_a_verdict_from_their_findings(
    tmp_path: Path, findings: list[object], verdict: str
) -> None:
    text = page_of(tmp_path, result={"findings": findings, "verdict": None})
    assert f'<h2 id="verdict-title">{verdict}</h2>' in text
    assert "holds no verdict" in text


def test_gold_adds_what_it_tells_and_no_more_without(tmp_path: Path) -> None:
    without, told = page_of(tmp_path), page_of(tmp_path, gold="label")
    for words in ("Accuracy", "Reliability", "unlike gold", "Labels against gold"):
        assert words not in without
        assert words in told
    assert "80.0%" in told
    # 40 rows, 20 of each label; 16 of each have it as their gold label too.
    for word, counts in (("positive", (16, 4)), ("negative", (4, 16))):
        cells = re.search(rf'<th scope="row">{word}</th>(.*?)</tr>', told)
        assert cells is not None
        assert tuple(map(int, re.findall(r">(\d+)</td>", cells[1]))) == counts
    assert told.count("<td>80.0%</td>") == 6  # precision, recall and F1 of both


def test_the_verdict_on_a_run_that_was_ended_early_says_so(tmp_path: Path) -> None:
    assert "ended early" not in page_of(tmp_path)
    text = page_of(tmp_path, result={"stopped": "the limit of 20 requests"}, seed=1)
    assert '<h2 id="verdict-title">Check</h2>' in text
    assert "of a run that the limit of 20 requests ended early" in text
    assert "icm-client runs resume rows-" in text


def test_what_should_be_mended_stands_with_the_findings(tmp_path: Path) -> None:
    said = "1 row has the same prompt as <b>another</b>"
    text = page_of(tmp_path, result={"warnings": [said], "findings": []})
    assert "No findings" not in text
    assert "the same prompt as &lt;b&gt;another&lt;/b&gt;." in text
    assert "No findings" in page_of(tmp_path, result={"findings": []}, seed=1)


def test_how_the_starts_agree_is_shown_where_there_were_several(tmp_path: Path) -> None:
    starts = [
        {"utility": 0.41, "coherence": 0.6, "agreement": [1.0, 0.731]},
        {"utility": -0.02, "coherence": 0.0, "agreement": [0.731, 1.0]},
    ]
    text = page_of(tmp_path, result={"starts": starts, "label_mass": 0.63})
    assert "Agreement of the starts" in text
    assert text.count("<td>73%</td>") == 2
    assert "start 2 (U -0.02)" in text
    assert "<dd>63%" in text
    alone = [{"utility": 0.41, "coherence": 0.6, "agreement": [1.0]}]
    assert "Agreement of the starts" not in page_of(tmp_path, result={"starts": alone}, seed=1)


def test_a_run_of_steps_has_their_charts(tmp_path: Path) -> None:
    events = [("step", step(n, f"r{n % 40}", "positive")) for n in range(1, 30)]
    text = page_of(tmp_path, gold="label", result={"sweeps": [], "steps": 29}, events=events)
    assert "Acceptance by step" in text
    assert "Accuracy by step" in text
    assert "Flips" not in text


def test_three_labels_have_margins_in_the_place_of_log_odds(tmp_path: Path) -> None:
    task = Task(template="Thing: {text}\nColour:", labels=("red", "green", "blue"))
    text = page_of(
        tmp_path, *({"text": f"row {i}"} for i in range(30)), task=task, result={"sweeps": []}
    )
    assert "<h3>Margins</h3>" in text
    assert "<h3>Log-odds</h3>" not in text


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(10), gold="label")
    write_report(run, tmp_path / "a.html")
    write_report(run, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_many_long_rows_leave_a_page_that_a_browser_opens(tmp_path: Path) -> None:
    rows = [{"text": f"{i} {'word ' * 2000}"} for i in range(10_000)]
    run = write_run(tmp_path, rows)
    page = render_report(read_report(run))
    assert len(page) < 30_000_000
    shown = page_rows(read_report(run).table)["rows"]
    assert len(shown) == 10_000
    assert all(len(row[6][0]) == 2400 and row[7] > 7000 for row in shown)


def test_what_stands_in_the_way_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(4))
    with pytest.raises(RunError, match=r"cannot be written: .* -o"):
        write_report(run, tmp_path / "nowhere" / "x.html")
    (run.path / "result.json").unlink()
    with pytest.raises(InputError, match="no labels yet"):
        write_report(read_run(run.name, tmp_path), tmp_path / "x.html")


def test_the_page_s_example_writes_a_report(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    name = write_run(tmp_path / "runs", reviews(6)).name
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own documentation
    names["report"](name)
    assert Path(f"{name}.html").read_text("utf-8").startswith("<!doctype html>")


def test_labels_without_a_confidence_are_shown_with_the_reason(tmp_path: Path) -> None:
    run = write_run(tmp_path, reviews(20), gold="label", result={"verdict": "do not trust"})
    path = run.path / "labels.jsonl"
    lines = [{**orjson.loads(line), "confidence": None} for line in path.read_bytes().splitlines()]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    data = read_report(run)
    assert data.reliability is None
    page = render_report(data)
    assert "No confidence is given: the verdict is" in page
    assert "Accuracy" in page
    assert "Calibration error" not in page
    assert {row[2] for row in Page(page).data()["rows"]} == {None}
