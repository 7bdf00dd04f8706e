"""`icm-client audit` as a user meets it."""

import re
from pathlib import Path

import numpy as np
import orjson
import pytest
from click.testing import CliRunner, Result
from planted_reviews import planted, reviews

import icm_client.runs.server
from icm_client.cli.main import cli

N = 80
WRONG = (3, 11, 20, 47, 61, 70)


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Rows of which six labels are wrong, beside their task, and the server that is started."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: planted(N))
    (tmp_path / "task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n'
        'gold = "label"\n',
        encoding="utf-8",
    )
    other = {"positive": "negative", "negative": "positive"}
    lines = [
        {"id": f"r{n}", **row, "label": other[row["label"]] if n in WRONG else row["label"]}
        for n, row in enumerate(reviews(N))
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return path


def audit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)])


def test_suspects_come_first_on_the_terminal_and_in_files(rows: Path, tmp_path: Path) -> None:
    out, page, probs = (tmp_path / name for name in ("out.csv", "page.html", "p.npy"))
    ended = audit(rows, "-o", out, "--report", page, "--pred-probs", probs, "--top", "6")
    assert ended.exit_code == 0, ended.output
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["id", "given", "read", "as", "wrong", "text"]
    assert {line.split()[0] for line in lines[1:7]} == {f"r{n}" for n in WRONG}
    assert re.search(r"About [678]\.\d% of the 80 given labels are wrong \(95%", ended.stdout)
    assert "given negative" in ended.stdout
    table = out.read_text("utf-8").splitlines()
    assert table[0] == "id,given,read_as,wrong,rank,text,label"
    assert len(table) == N + 1
    assert np.load(probs).shape == (N, 2)
    html = page.read_text("utf-8")
    assert '"said":{"found":"given","gold":"read as"' in html
    assert "About " in html


def test_json_has_the_estimate_and_the_suspects(rows: Path) -> None:
    ended = audit(rows, "--json")
    assert ended.exit_code == 0
    found = orjson.loads(ended.stdout)
    assert found["command"] == "audit"
    assert found["share_wrong"] == pytest.approx(6 / 80, abs=0.02)
    assert {one["id"] for one in found["suspects"][:6]} == {f"r{n}" for n in WRONG}
    assert found["beyond_audit"] is None
    assert np.sum(found["noise_matrix"], axis=1) == pytest.approx([1, 1])


def test_labels_beyond_audit_say_so_and_nothing_is_written(rows: Path, tmp_path: Path) -> None:
    held = [orjson.loads(line) for line in rows.read_bytes().splitlines()]
    words = np.random.default_rng(0).permutation([row["label"] for row in held])
    rows.write_bytes(
        b"\n".join(
            orjson.dumps({**row, "label": str(word)}) for row, word in zip(held, words, strict=True)
        )
    )
    ended = audit(rows, "-o", tmp_path / "out.csv")
    assert ended.exit_code == 1
    assert "Beyond audit: " in ended.stdout
    assert not (tmp_path / "out.csv").exists()


def test_a_dry_run_reads_no_row(rows: Path) -> None:
    ended = audit(rows, "--dry-run")
    assert ended.exit_code == 0
    assert "Given labels in the field 'label': negative: " in ended.stdout


def test_label_words_are_not_taken_for_the_field(rows: Path) -> None:
    ended = audit(rows, "--labels", "label")
    assert ended.exit_code == 2
    assert "--given" in ended.output
