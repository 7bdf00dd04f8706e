"""What an earlier version wrote is read: its score store, and its run's folder.

`written_before` holds both of a run of `planted_reviews` on 32 rows, written by the version before
the package was laid out in its present rooms.
"""

import shutil
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from planted_reviews import TASK, planted, reviews

from icm_client import SweepSettings, label
from icm_client.cli.main import cli
from icm_client.coherence.contexts import REPEATED

BEFORE = Path(__file__).with_name("written_before")
RUN = "rows-3515888aa7"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    shutil.copytree(BEFORE, tmp_path / "before")
    return tmp_path / "before"


async def test_its_scores_are_all_used_again(before: Path) -> None:
    endpoint = planted(32)
    found = await label(
        reviews(32),
        task=TASK,
        endpoint=endpoint,
        # That version's search made five sweeps, however clear labels were.
        settings=SweepSettings(clear=1.1),
        store=before / "scores.sqlite3",
    )
    assert endpoint.usage.requests <= REPEATED  # it repeated reads in another context
    labels = before / "runs" / RUN / "labels.jsonl"
    written = [orjson.loads(line) for line in labels.read_bytes().splitlines()]
    assert [row.label for row in found.rows] == [row["label"] for row in written]


def test_its_run_is_shown_reported_and_exported(before: Path) -> None:
    base = str(before / "runs")
    asked = ["runs", "show", RUN, "--runs", base]
    shown = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "trust" in shown.output
    page = before / "report.html"
    reported = CliRunner().invoke(
        cli, ["report", f"{base}/{RUN}", "-o", str(page)], catch_exceptions=False
    )
    assert reported.exit_code == 0
    assert "words of row 31" in page.read_text("utf-8")
    chat = before / "chat.jsonl"
    exported = CliRunner().invoke(
        cli, ["export", f"{base}/{RUN}", "--to", "chat", "-o", str(chat)], catch_exceptions=False
    )
    assert exported.exit_code == 0, exported.output
    assert len(chat.read_text("utf-8").splitlines()) == 32
