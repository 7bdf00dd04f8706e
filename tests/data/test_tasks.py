import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_client.data import (
    Task,
    builtin_names,
    check_gold,
    duplicate_warning,
    find_beside,
    read_rows,
    rows_from,
    unescape,
)
from icm_client.errors import RowError, TaskError


def a_task(template: str = "Review: {text}\nSentiment:", **settings: object) -> Task:
    return Task.model_validate({"template": template, "labels": ["good", "bad"]} | settings)


def refused(**settings: object) -> str:
    with pytest.raises(TaskError) as caught:
        a_task(**settings)  # type: ignore[arg-type]
    return str(caught.value)


def prompts(template: str, *rows: dict[str, object]) -> tuple[str, ...]:
    return a_task(template).render_all(rows_from(rows))


# what a task is


def test_a_task_needs_only_a_template_and_labels() -> None:
    task = Task(template="{text}", labels=("yes", "no"))
    assert task.separator == "\n\n"
    assert (task.gold, task.prior, task.name, task.description) == (None, None, None, None)
    assert (task.constraint, task.exchange, task.loader) == (None, None, None)
    assert task.rules[0].kind == "none"


def test_a_task_can_be_copied_and_sent_to_another_process() -> None:
    task = Task.builtin("sentiment")
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301 - our own bytes
    assert copy.deepcopy(task) == task


def test_every_way_to_make_a_task_raises_task_errors() -> None:
    with pytest.raises(TaskError, match="at least 2 labels are needed, not 1"):
        Task(template="{text}", labels=("only",))
    with pytest.raises(TaskError, match=r"`template` is missing"):
        Task.model_validate({"labels": ["a", "b"]})
    with pytest.raises(TaskError, match=r"`task` should be .* not 3"):
        Task.model_validate(3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": []}, "at least 2 labels are needed, not 0"),
        ({"labels": ["a", "a"]}, "the label 'a' is given twice"),
        ({"labels": ["a", ""]}, "a label is empty"),
        ({"labels": ["a", " "]}, "a label is empty"),
        ({"labels": ["a", " b"]}, "the label ' b' has white space around it: remove it"),
        ({"labels": ["a", "b\n"]}, "the label 'b\\n' has white space around it: remove it"),
        ({"labels": ["a", "b\tc"]}, "the label 'b\\tc' is not printable: use plain text"),
        ({"labels": ["a", 1]}, "`labels.1` should be a valid string, not 1"),
        ({"labels": "ab"}, "`labels` should be a valid list, not 'ab'"),
        ({"lables": ["a", "b"]}, "no setting is called 'lables'. Did you mean 'labels'?"),
        ({"gold": "text"}, "the template uses 'text', the field with the gold labels"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(settings: dict[str, object], said: str) -> None:
    assert said in refused(**settings)


def test_every_problem_is_one_sentence() -> None:
    message = refused(template="no field", labels=["a"], sep="x")
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    "label",
    [
        "\U0001fae9",  # Unicode 16: of no category in Python 3.11
        "\U0001f6d8",  # Unicode 17
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # a flag
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # a Persian word
        "\u2764\ufe0f",
    ],
)
def test_emoji_and_words_with_joiners_are_labels(label: str) -> None:
    assert Task(template="{text}:", labels=(label, "b")).labels[0] == label


@pytest.mark.parametrize("bad", ["a\u200bb", "a\ufffe", "a\u2028b", "a\x07", "a\u202eb", "a\ue000"])
def test_a_label_that_nobody_can_see_is_refused(bad: str) -> None:
    assert "is not printable" in refused(labels=["x", bad])


# templates


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "the template has no field, so all prompts would be the same: ''"),
        ("Text:", "the template has no field, so all prompts would be the same: 'Text:'"),
        ("{{text}}", "the template has no field"),
        ("{text", "the template's braces do not match"),
        ("text}", "the template's braces do not match"),
        ("{}", "the template has {} without a name"),
        ("{ }", "the template has {} without a name"),
        ("{text!r}", "the template may not format a field ('text' has ':' or '!')"),
        ("{text:>9}", "the template may not format a field ('text' has ':' or '!')"),
        ("{text.upper}", "the template may not reach into a field ('text.upper')"),
        ("{text[0]}", "the template may not reach into a field ('text[0]')"),
    ],
)
def test_a_template_that_is_more_or_less_than_fields_is_refused(template: str, said: str) -> None:
    assert said in refused(template=template)


def test_the_fields_of_a_template_in_its_order() -> None:
    assert a_task("{b} {a}{{c}} {b}").template_fields == ("b", "a")


def test_braces_are_doubled_to_stand_for_themselves() -> None:
    assert prompts('{{"text": "{text}"}}', {"text": "{x}"}, {"text": "}}{{"}) == (
        '{"text": "{x}"}',
        '{"text": "}}{{"}',
    )


@given(st.text(), st.text(min_size=1).filter(lambda text: text.strip() and "\0" not in text))
def test_a_prompt_is_the_literal_text_and_the_fields_text(literal: str, value: str) -> None:
    rows = rows_from([value, value])
    escaped = literal.replace("{", "{{").replace("}", "}}")
    assert a_task(escaped + "{text}").render(rows.rows[0]) == literal + value


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(), min_size=1))
def test_a_prompt_is_what_str_format_makes_of_it(fields: dict[str, int]) -> None:
    template = "<" + " ".join(f"{{{name}}}" for name in fields) + ">"
    row = rows_from([{name: str(value) for name, value in fields.items()}, {}]).rows[0]
    assert a_task(template).render(row) == template.format(**fields)


def test_numbers_and_booleans_are_written_as_python_does() -> None:
    assert prompts("{a}", {"a": 1}, {"a": 0.5}, {"a": True}, {"a": False}, {"a": 0}) == (
        "1",
        "0.5",
        "True",
        "False",
        "0",
    )


@pytest.mark.parametrize(
    ("template", "prompt", "label"),
    [
        ("{a}\nTrue?", "x\nTrue?", " good"),
        ("{a}\nTrue? ", "x\nTrue?", " good"),
        ("{a}\nTrue? \t  ", "x\nTrue?", " good"),
        ("{a}\nTrue?\n", "x\nTrue?\n", "good"),
        ("{a}\nTrue?\n ", "x\nTrue?\n", " good"),
        ("{a} \n", "x \n", "good"),
        ("{a}", "x", " good"),
        ("{a} ", "x", " good"),
        ("{a}\u3000", "x\u3000", "good"),
        ("{a}}}", "x}", " good"),
    ],
)
def test_the_space_before_a_label_belongs_to_the_label(
    template: str, prompt: str, label: str
) -> None:
    task = a_task(template)
    assert task.render(rows_from([{"a": "x"}, {"a": "y"}]).rows[0]) == prompt
    assert task.label_texts[0] == label


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"Text": "x", "n": 1}, "no field 'text', which the template uses; the row has 'Text', "),
        ({"Text": "x", "n": 1}, "Did you mean 'Text'?"),
        ({}, "the row has none."),
        ({"text": None}, "the field 'text' is null"),
        ({"text": ""}, "the field 'text' is empty"),
        ({"text": " \n\t"}, "the field 'text' is empty"),
        ({"text": ["x"]}, "the field 'text' is a list; flatten it into text"),
        ({"text": {"en": "x"}}, "the field 'text' is an object; flatten it into text"),
    ],
)
def test_a_row_that_the_template_does_not_fit_is_named(bad: dict[str, object], said: str) -> None:
    with pytest.raises(RowError) as caught:
        prompts("{text}", {"text": "x"}, bad)
    assert caught.value.line == 2
    assert str(caught.value).startswith("rows:2: ")
    assert said in str(caught.value)


def test_a_row_that_the_template_does_not_fit_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n\n{"texts": "b"}\n')
    with pytest.raises(RowError) as caught:
        a_task("{text}").render_all(read_rows(path))
    assert (caught.value.path, caught.value.line) == (str(path), 3)


def test_the_gold_field_never_enters_a_prompt() -> None:
    dataset = rows_from([{"text": "a", "y": "good"}, {"text": "b", "y": "bad"}], gold="y")
    with pytest.raises(TaskError, match="the template uses 'y', the field with the gold labels"):
        a_task("{text} {y}").render_all(dataset)
    with pytest.raises(RowError, match="no field 'y'"):
        a_task("{text} {y}").render(dataset.rows[0])
    checked = check_gold(dataset, ("good", "bad"))
    assert a_task("{text}").render_all(checked) == ("a", "b")


def test_rows_that_read_the_same_are_warned_about() -> None:
    assert duplicate_warning(("a", "b")) is None
    assert str(duplicate_warning(("a", "b", "a"))).startswith(
        "1 row has the same prompt as an earlier"
    )
    assert str(duplicate_warning(("a", "b", "a", "a", "b"))).startswith(
        "3 rows have the same prompt as an earlier row; such a twin in the context gives"
    )


# priors


@pytest.mark.parametrize(
    ("labels", "prior", "vector"),
    [
        (["a", "b"], None, None),
        (["a", "b"], {"a": 0.75}, (0.75, 0.25)),
        (["a", "b"], {"b": 0.75}, (0.25, 0.75)),
        (["a", "b"], {"b": 0.75, "a": 0.25}, (0.25, 0.75)),
        (["a", "b", "c"], {"b": 0.5}, (0.25, 0.5, 0.25)),
        (["a", "b", "c"], {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, (1 / 3, 1 / 3, 1 / 3)),
        (["a", "b", "c", "d"], {"a": 0.5, "d": 0.25}, (0.5, 0.125, 0.125, 0.25)),
    ],
)
def test_labels_left_out_of_the_prior_share_the_rest(
    labels: list[str], prior: dict[str, object], vector: tuple[float, ...] | None
) -> None:
    assert a_task(labels=labels, prior=prior).prior_vector() == vector


def test_shares_that_are_rounded_are_made_to_sum_to_one() -> None:
    vector = a_task(prior={"good": 0.3000001, "bad": 0.7}).prior_vector()
    assert vector is not None
    assert sum(vector) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ({}, "the prior is empty"),
        ({"godo": 0.5}, "none of the labels 'good', 'bad'. Did you mean 'good'?"),
        ({"good": 0}, "the prior gives 'good' the share 0.0; it must lie between 0 and 1"),
        ({"good": 1}, "the prior gives 'good' the share 1.0; it must lie between 0 and 1"),
        ({"good": -0.5}, "it must lie between 0 and 1"),
        ({"good": float("nan")}, "it must lie between 0 and 1"),
        ({"good": 0.5, "bad": 0.6}, "the prior's shares sum to 1.1, not to 1"),
        ({"good": 0.5, "bad": 0.4}, "the prior's shares sum to 0.9, not to 1"),
        ({"good": "half"}, "`prior.good` should be a valid number"),
    ],
)
def test_a_prior_that_is_no_distribution_is_refused(prior: dict[str, object], said: str) -> None:
    assert said in refused(prior=prior)


def test_a_prior_that_leaves_nothing_is_refused() -> None:
    message = refused(labels=["a", "b", "c"], prior={"a": 0.5, "b": 0.5})
    assert "the prior's shares sum to 1, which leaves nothing for the other labels" in message


# files


def test_a_task_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_bytes(
        b'\xef\xbb\xbftemplate = "Claim: {claim}\\nTrue?"\nlabels = ["True", "False"]\n'
        b'separator = "\\n---\\n"\ngold = "truth"\nname = "claims"\n[prior]\nTrue = 0.4\n'
    )
    task = Task.from_toml(path)
    assert task == Task(
        template="Claim: {claim}\nTrue?",
        labels=("True", "False"),
        separator="\n---\n",
        gold="truth",
        name="claims",
        prior={"True": 0.4},
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"template = ", "not TOML: Invalid value (at "),
        (b'template = "\xff"', "not UTF-8 at byte 13"),
        (b'labels = ["a", "b"]', "`template` is missing: a task needs a template and labels"),
        (b'template = "{a}"\nlabels = [true, false]', "`labels.0` should be a valid string, not"),
    ],
)
def test_a_bad_task_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "task.toml"
    path.write_bytes(content)
    with pytest.raises(TaskError) as caught:
        Task.from_toml(path)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())
    assert said in str(caught.value)


def test_a_task_file_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="the task cannot be read: No such file"):
        Task.from_toml(tmp_path / "task.toml")
    with pytest.raises(TaskError, match="the task cannot be read: Is a directory"):
        Task.from_toml(tmp_path)


def test_a_constraint_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        'template = "{question} {claim}"\nlabels = ["yes", "no"]\nloader = "claims"\n'
        '[constraint]\nkind = "mutual-exclusion"\ngroup = "question"\nanswer = "answer"\n'
        'true = "no"\n'
    )
    task = Task.from_toml(path)
    assert task.loader == "claims"
    assert task.rules[0] == task.constraint
    assert task.rules[0].group == ("question",)
    assert task.holds_words == ("no", "yes")
    assert Task(**task.model_dump()) == task
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301 - our own bytes


def test_several_constraints_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        'template = "{claim}"\nlabels = ["yes", "no"]\n'
        '[[constraint]]\nkind = "mutual-exclusion"\ngroup = "question"\nanswer = "answer"\n'
        '[[constraint]]\nkind = "same-answer"\ngroup = "question"\nanswer = "answer"\n'
    )
    task = Task.from_toml(path)
    assert [rule.kind for rule in task.rules] == ["mutual-exclusion", "same-answer"]
    assert task.read_fields == ("claim", "question", "answer")
    assert Task.model_validate(task.model_dump(mode="json")) == task


def test_exchanged_fields_without_a_constraint_mean_asymmetry() -> None:
    pair = {"template": "{one} {two}", "exchange": ["one", "two"]}
    assert a_task(**pair).rules[0].kind == "asymmetry"  # type: ignore[arg-type]
    off = a_task(**pair, constraint={"kind": "none"})  # type: ignore[arg-type]
    assert off.rules[0].kind == "none"


def test_a_bad_constraint_in_a_file_is_named_beside_what_else_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        'template = "{a}"\nlabels = ["x"]\n[constraint]\nkind = "asymetry"\ngroups = "q"\n'
    )
    with pytest.raises(TaskError) as caught:
        Task.from_toml(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert [line.removeprefix(f"{path}: ")[:30] for line in lines] == [
        "at least 2 labels are needed, ",
        "no constraint is called 'asyme",
        "no setting is called 'groups'.",
    ]


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_task_is_sound(name: str) -> None:
    task = Task.builtin(name)
    assert task.name == name
    assert task.description
    assert task.template_fields


def test_the_sentiment_task() -> None:
    task = Task.builtin("sentiment")
    assert task.render(rows_from(["Fine.", "Poor."]).rows[0]) == "Review: Fine.\nSentiment:"
    assert task.label_texts == (" positive", " negative")


def test_an_unknown_built_in_task() -> None:
    with pytest.raises(TaskError, match=r"called 'Sentimental'; .* Did you mean 'sentiment'\?$"):
        Task.builtin("Sentimental")


@pytest.mark.parametrize("name", ["../sentiment", "sentiment.toml", ""])
def test_a_built_in_task_is_a_name_and_no_path(name: str) -> None:
    with pytest.raises(TaskError, match="no built-in task is called"):
        Task.builtin(name)


def test_the_task_beside_the_data(tmp_path: Path) -> None:
    data = tmp_path / "reviews.jsonl"
    assert find_beside(data) is None
    (tmp_path / "reviews.task.toml").mkdir()
    (tmp_path / "task.toml").touch()
    assert find_beside(str(data)) == tmp_path / "task.toml"
    (tmp_path / "reviews.task.toml").rmdir()
    (tmp_path / "reviews.task.toml").touch()
    assert find_beside(data) == tmp_path / "reviews.task.toml"


def test_the_task_beside_data_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "task.toml").touch()
    beside = find_beside("reviews.csv")
    assert beside is not None
    assert str(beside) == "task.toml"


# the command line's texts


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"{text}\nLabel:", "{text}\nLabel:"),
        (r"a\tb", "a\tb"),
        (r"a\\nb", r"a\nb"),
        (r"a\\\nb", "a\\\nb"),
        (r"\d \x41 \u00e9", r"\d \x41 \u00e9"),
        ("a\nb", "a\nb"),
        ("end\\", "end\\"),
    ],
)
def test_unescape(typed: str, meant: str) -> None:
    assert unescape(typed) == meant


@given(st.text())
def test_every_text_can_be_typed(text: str) -> None:
    typed = text.replace("\\", r"\\").replace("\n", r"\n").replace("\t", r"\t")
    assert unescape(typed) == text


@given(st.text().filter(lambda text: "\\" not in text))
def test_a_text_without_a_backslash_is_left_alone(text: str) -> None:
    assert unescape(text) == text


def test_rows_and_tasks_do_not_load_pyarrow() -> None:
    code = "import sys, icm_client.data; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
