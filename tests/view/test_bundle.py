"""A bundle is pages that ask for nothing, one a run, and an index."""

import re
from pathlib import Path

import pytest
from report_runs import reviews, write_run
from run_folders import described

from icm_client.errors import InputError
from icm_client.record.archive import list_runs
from icm_client.record.folder import RunFolder
from icm_client.view.bundle import write_bundle


def test_each_run_has_a_page_and_all_are_in_the_index(tmp_path: Path) -> None:
    base = tmp_path / "runs"
    first = write_run(base, reviews(8), gold="label")
    second = write_run(base, reviews(8), seed=1)
    with RunFolder.open(described(), base=base) as unfinished:
        unfinished.stop("an interruption")
    written = write_bundle(list_runs(base).runs, tmp_path / "a" / "pages")
    assert {path.name for path in written} == {
        "index.html",
        f"{first.name}.html",
        f"{second.name}.html",
    }
    index = written[0].read_text("utf-8")
    for run in (first, second):
        assert f'href="{run.name}.html"' in index
    assert unfinished.name in index
    assert f'href="{unfinished.name}.html"' not in index
    for path in written:
        page = path.read_text("utf-8")
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
        assert policy is not None
        assert "default-src &#39;none&#39;" in policy[1] or "default-src 'none'" in policy[1]
        assert "connect-src" not in policy[1]
        assert not re.search(r'(src|href)="(https?:)?//', page), "nothing is fetched"


def test_without_labels_there_is_nothing_to_show(tmp_path: Path) -> None:
    with RunFolder.open(described(), base=tmp_path):
        pass
    with pytest.raises(InputError, match="nothing to show"):
        write_bundle(list_runs(tmp_path).runs, tmp_path / "pages")
    assert not (tmp_path / "pages").exists()
