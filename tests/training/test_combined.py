"""Several runs become one set of preferences in which none outweighs the others."""

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from exported_runs import PAIRS, REVIEWS, pairs_run, reviews_run, with_result

from icm_client.cli.export import export_command
from icm_client.errors import InputError
from icm_client.record.archive import Run
from icm_client.training.combined import export_combined


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reviews_run(tmp_path_factory.mktemp("reviews"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pairs_run(tmp_path_factory.mktemp("pairs"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def labels_in(run: Run) -> Counter[str]:
    return Counter(record["label"] for record in lines(run.path / "labels.jsonl"))


def relabelled(run: Run, folder: Path, word: str | None = None) -> Run:
    """A copy of the run, with the first row's label turned, or with all rows called `word`."""
    copy = reviews_run(folder)
    path = copy.path / "labels.jsonl"
    records = lines(run.path / "labels.jsonl")
    for record in records if word is not None else records[:1]:
        other = {"positive": "negative", "negative": "positive"}[record["label"]]
        record["label"] = word or other
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return copy


def test_runs_and_their_labels_have_equal_shares(reviews: Run, pairs: Run, tmp_path: Path) -> None:
    done = export_combined([reviews, pairs], tmp_path / "dpo.jsonl")
    records = lines(done.path)
    reviewed = [record for record in records if record["prompt"].startswith("Review: ")]
    compared = [record for record in records if record["prompt"].startswith("question ")]
    assert len(reviewed) == len(compared) == len(records) / 2
    for record in reviewed:
        assert {record["chosen"], record["rejected"]} == set(REVIEWS.label_texts)
    assert set(Counter(record["chosen"] for record in reviewed).values()) == {len(reviewed) // 2}
    shares = done.shares[pairs.name]
    assert set(shares) == set(PAIRS.labels)
    assert set(shares.values()) == {len(compared) // 2}
    least = min(*labels_in(reviews).values(), shares["True"])
    assert done.shares[reviews.name] == dict.fromkeys(REVIEWS.labels, least)
    assert done.rows + sum(done.left_out.values()) == 16 + 13


def test_the_draw_and_the_order_are_the_seeds(reviews: Run, pairs: Run, tmp_path: Path) -> None:
    first, again, other = (
        export_combined([reviews, pairs], tmp_path / f"{n}.jsonl", seed=seed).path.read_bytes()
        for n, seed in enumerate([0, 0, 1])
    )
    assert first == again != other
    runs = [record["prompt"][:6] for record in lines(tmp_path / "0.jsonl")]
    assert runs != sorted(runs), "runs are mixed, not one after the other"


def test_the_card_lists_all_runs(reviews: Run, pairs: Run, tmp_path: Path) -> None:
    done = export_combined([reviews, pairs], tmp_path / "dpo.jsonl", seed=3)
    card = done.card.read_text("utf-8")
    assert card.startswith("# Labels of 2 runs in equal shares\n")
    assert "seed 3" in card
    for run in (reviews, pairs):
        (line,) = (line for line in card.splitlines() if line.startswith(f"| `{run.name}` |"))
        assert f" {sum(done.shares[run.name].values())} |" in line
    assert card.count("\n### How the labels were made\n") == 2


def test_a_row_of_several_runs_is_there_once_and_not_at_all_if_they_disagree(
    reviews: Run, tmp_path: Path
) -> None:
    other = relabelled(reviews, tmp_path)
    with pytest.raises(InputError, match="no row with the label"):
        # All that is left of the second run is what the first has too.
        export_combined([reviews, other], tmp_path / "dpo.jsonl")
    part = lines(other.path / "labels.jsonl")
    for record in part[8:]:  # rows of its own
        record["text"] += " of another shop"
    (other.path / "labels.jsonl").write_bytes(
        b"".join(orjson.dumps(record) + b"\n" for record in part)
    )
    done = export_combined([reviews, other], tmp_path / "dpo.jsonl")
    assert done.left_out["a row that is labelled differently elsewhere in these runs"] == 2
    assert done.left_out["a row that is there already"] == 7
    prompts = [record["prompt"] for record in lines(done.path)]
    assert len(set(prompts)) == len(prompts)
    assert REVIEWS.template.format(text=part[0]["text"]) not in prompts


def test_a_run_without_one_of_its_labels_is_refused(
    reviews: Run, pairs: Run, tmp_path: Path
) -> None:
    same = relabelled(reviews, tmp_path, "positive")
    with pytest.raises(InputError, match="no row with the label 'negative' is left"):
        export_combined([pairs, same], tmp_path / "dpo.jsonl")
    assert not (tmp_path / "dpo.jsonl").exists()


def test_the_verdict_is_the_worst_and_each_runs_warning_names_it(
    pairs: Run, tmp_path: Path
) -> None:
    doubtful = with_result(
        reviews_run(tmp_path), lambda result: result.update(verdict="do not trust", findings=[])
    )
    done = export_combined([pairs, doubtful], tmp_path / "dpo.jsonl")
    assert done.verdict == "do not trust"
    assert any(said.startswith(f"{doubtful.name}: DO NOT TRUST") for said in done.warnings)


def test_the_command_says_each_runs_share(reviews: Run, pairs: Run) -> None:
    arguments = [str(reviews.path), str(pairs.path), "-o", "dpo.jsonl"]
    done = CliRunner().invoke(export_command, [*arguments, "--to", "dpo"])
    assert done.exit_code == 0, done.output
    assert f"{reviews.name}: " in done.stdout
    assert "Left out, beyond the smallest share: " in done.stdout
    for wrong in (["--to", "sft"], ["--to", "dpo", "--with-gold"]):
        assert CliRunner().invoke(export_command, [*arguments, *wrong]).exit_code == 2
    with pytest.raises(InputError, match="is named twice"):
        export_combined([reviews, reviews], "dpo.jsonl")
