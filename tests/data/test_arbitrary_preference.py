"""The rows of the arbitrary preference are what their generator says, and nothing gives it away."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from icm_client.data.job import Job

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "arbitrary_preference"


@pytest.fixture
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_samples", ROOT / "examples" / "make_samples.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_liked_is_the_mention_of_a_number(generator: ModuleType) -> None:
    job = Job.prepare(FOLDER / "arbitrary_preference.jsonl", FOLDER / "task.toml")
    gold = job.dataset.gold or ()
    assert (gold.count("Yes"), gold.count("No")) == (48, 48)
    assert (FOLDER / "LICENSE").read_text("utf-8").startswith("The MIT License")
    for row, word in zip(job.dataset.rows, gold, strict=True):
        mentions = generator.NUMBER.search(str(row.fields["text"])) is not None
        assert word == ("Yes" if mentions else "No")
    assert len(set(job.prompts)) == len(job.prompts)
    assert not any("number" in prompt.partition("Do I like")[2] for prompt in job.prompts)


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("set in the 15th century", True),
        ("Two hours of boredom", True),
        ("as giddy as it was 270 years ago", True),
        ("one of the first films", False),
        ("a tenor and a network", False),
    ],
)
def test_a_number_is_a_word_or_a_digit(generator: ModuleType, text: str, mentions: bool) -> None:
    assert (generator.NUMBER.search(text) is not None) is mentions
