"""A task that is written is the task that is read."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.data import Task, builtin_names
from icm_client.data.task_file import task_text, toml_value, write_task
from icm_client.errors import InputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=6,
)


@given(VALUES)
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_task_is_written_and_read(name: str, tmp_path: Path) -> None:
    task = Task.builtin(name)
    write_task(task, tmp_path / "t.toml", ("a", "b"))
    assert Task.from_toml(tmp_path / "t.toml") == task


def test_everything_a_task_may_say_is_written(tmp_path: Path) -> None:
    task = Task.model_validate(
        {
            "template": 'Say "{q}"\t{a}\\ \x7f:',
            "labels": ["très bien", "non"],
            "separator": "\n--\n",
            "prior": {"très bien": 0.3},
            "constraint": [
                {"kind": "mutual-exclusion", "group": ["q"], "answer": "a", "true": "non"},
                {"kind": "same-answer", "group": ["q"], "answer": "a"},
            ],
        }
    )
    write_task(task, tmp_path / "t.toml")
    assert Task.from_toml(tmp_path / "t.toml") == task


def test_the_comments_can_be_uncommented_one_by_one() -> None:
    """What stands behind # is to be used, so it must be right."""
    task = Task(template="{text}:", labels=("yes, or so", "no"))
    text = task_text(task, ("text",))
    settings = [line for line in text.splitlines() if " = " in line and line.startswith("# ")]
    assert len(settings) == 9
    for line in settings[:6]:
        assert tomllib.loads(line.removeprefix("# "))
    assert "The rows have text." in text


def test_a_file_of_another_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    task = Task(template="{text}:", labels=("yes", "no"))
    write_task(task, path)
    write_task(task, path)
    with pytest.raises(InputError, match="there is a file already, and it is not overwritten"):
        write_task(Task(template="{text}?", labels=("yes", "no")), path)
    assert Task.from_toml(path) == task


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    task = Task(template="{text}:", labels=("yes", "no"))
    with pytest.raises(InputError, match="the task cannot be written: No such file"):
        write_task(task, tmp_path / "nowhere" / "t.toml")
