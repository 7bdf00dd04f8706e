"""`icm-client tasks` as a user meets it."""

import re
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from icm_client.cli.tasks import tasks_command
from icm_client.data import Task, builtin_names, read_rows
from icm_client.errors import InputError, RowError, TaskError

CSV = (
    "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    "Adversarial,Science,What is ice?,Water,Water; Solid water,Glass; Salt,https://example.org\n"
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(tasks_command, [str(word) for word in arguments])


def printed(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert not done.stderr
    return done.stdout


@pytest.fixture
def truthfulqa_csv(tmp_path: Path) -> Path:
    path = tmp_path / "TruthfulQA.csv"
    path.write_text(CSV, "utf-8")
    return path


def test_the_list_has_a_line_for_each_task() -> None:
    head, *lines = printed().splitlines()
    assert head.split() == ["task", "labels", "constraint"]
    assert tuple(line.split()[0] for line in lines) == builtin_names()
    claims = next(line for line in lines if line.startswith("gsm8k-verification"))
    assert "True, False" in claims
    assert "mutual-exclusion" in claims
    assert claims.rstrip().endswith("Is a solution of a school mathematics problem right?")


def test_the_list_as_json() -> None:
    tasks = orjson.loads(printed("--json"))["tasks"]
    assert [task["name"] for task in tasks] == list(builtin_names())
    assert {task["name"]: task["constraint"]["kind"] for task in tasks} == {
        "alpaca": "asymmetry",
        "arc": "at-most-one",
        "author-gender": "none",
        "boolq": "none",
        "gsm8k-verification": "mutual-exclusion",
        "hellaswag": "at-most-one",
        "multiple-choice": "at-most-one",
        "pairwise-preference": "asymmetry",
        "piqa": "at-most-one",
        "sentiment": "none",
        "truthfulqa": "none",
        "truthfulqa-preference": "asymmetry",
        "winogrande": "at-most-one",
    }


def test_json_before_the_command_is_not_ignored() -> None:
    done = run("--json", "show", "truthfulqa")
    assert done.exit_code == 2
    assert "--json goes after the command" in done.output


@pytest.mark.parametrize("name", builtin_names())
def test_show_has_prompt_labels_constraint_and_an_example(name: str) -> None:
    shown = printed("show", name)
    about = orjson.loads(printed("show", name, "--json"))
    assert about["template"] in shown
    assert ", ".join(map(repr, about["label_texts"])) in shown
    assert f"{about['constraint']['kind']}: {about['constraint']['says']}" in shown
    assert all(layout in shown for layout in about["reads"])
    prompts = about["example"]["prompts"]
    assert len(prompts) == (1 if about["exchange"] is None else 2)
    assert all(prompt in shown for prompt in prompts)
    assert all(
        str(value) in prompts[0]
        for key, value in about["example"]["row"].items()
        if key in about["template"]
    )


def test_show_says_the_rule_in_words() -> None:
    assert "rows of one question with different answer are not both True" in printed(
        "show", "gsm8k-verification"
    )
    assert "the two orders of a pair have opposite labels" in printed("show", "alpaca")


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        ('kind = "none"', "none: any labels may stand together"),
        ('kind = "same-answer"\ngroup = "q"', "rows of one q have the same label"),
        (
            'kind = "same-answer"\ngroup = ["q", "r"]\nanswer = "a"',
            "rows of one q and r with the same a have the same label",
        ),
        ('kind = "at-most-one"\ngroup = "q"', "at most one row of one q is yes"),
        ('kind = "exactly-one"\ngroup = "q"\ntrue = "no"', "exactly one row of one q is no"),
        ('kind = "implication"\nimplies = "i"', "where a row is yes, so are the rows that its i"),
        ('kind = "rules:fits"\ngroup = "q"', "what the function says of two rows of one q"),
    ],
)
def test_a_task_file_is_shown_as_well(tmp_path: Path, constraint: str, says: str) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        f'template = "{{text}}:"\nlabels = ["yes", "no"]\n[constraint]\n{constraint}\n', "utf-8"
    )
    shown = printed("show", path)
    assert says in shown
    assert "none, unless --gold names a field" in shown
    assert "An example" not in shown
    assert orjson.loads(printed("show", path, "--json"))["example"] is None


def test_several_constraints_are_shown_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    rules = [f'[[constraint]]\nkind = "{k}"\ngroup = "q"\n' for k in ("at-most-one", "same-answer")]
    path.write_text('template = "{text}:"\nlabels = ["yes", "no"]\n' + "".join(rules), "utf-8")
    shown = printed("show", path)
    assert "at-most-one: at most one row of one q is yes" in shown
    assert "same-answer: rows of one q have the same label" in shown
    found = orjson.loads(printed("show", path, "--json"))["constraint"]
    assert [each["kind"] for each in found] == ["at-most-one", "same-answer"]


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    done = run("show", "gsm8k-verifications")
    assert isinstance(done.exception, TaskError)
    assert str(done.exception).endswith("Did you mean 'gsm8k-verification'?")


def test_an_unknown_loader_in_a_task_file(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text('template = "{a}"\nlabels = ["x", "y"]\nloader = "truthful"\n', "utf-8")
    done = run("show", path)
    assert isinstance(done.exception, TaskError)
    assert "'truthful'" in str(done.exception)


def test_convert_writes_rows_that_the_task_reads(truthfulqa_csv: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    assert printed("convert", "truthfulqa", truthfulqa_csv, "-o", output) == ""
    assert printed("convert", "truthfulqa", truthfulqa_csv) == output.read_text("utf-8")
    rows = read_rows(output, gold="label")
    assert rows.gold is not None
    assert {
        (row.fields["claim"], gold) for row, gold in zip(rows.rows, rows.gold, strict=True)
    } == {
        ("Water", "True"),
        ("Solid water", "True"),
        ("Glass", "False"),
        ("Salt", "False"),
    }


def test_convert_leaves_what_was_there_when_the_file_does_not_fit(
    tmp_path: Path, truthfulqa_csv: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    output.write_text("before", "utf-8")
    truthfulqa_csv.write_text(CSV.replace("Correct Answers", "Right Answers", 1), "utf-8")
    done = run("convert", "truthfulqa", truthfulqa_csv, "-o", output)
    assert isinstance(done.exception, RowError)
    assert "it lacks 'Correct Answers'" in str(done.exception)
    assert output.read_text("utf-8") == "before"


def test_convert_never_writes_over_its_input(truthfulqa_csv: Path) -> None:
    done = run("convert", "truthfulqa", truthfulqa_csv, "-o", truthfulqa_csv)
    assert isinstance(done.exception, InputError)
    assert truthfulqa_csv.read_text("utf-8") == CSV


def test_convert_is_for_tasks_that_read_a_public_file(truthfulqa_csv: Path) -> None:
    done = run("convert", "sentiment", truthfulqa_csv)
    assert isinstance(done.exception, InputError)
    assert "no public file to convert: give rows with 'text'" in str(done.exception)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("text,gold\nGood film,positive\nBad film,negative\nFine,positive\n", "utf-8")
    return path


def test_init_asks_nothing_where_the_options_say_all(reviews: Path, tmp_path: Path) -> None:
    asked = ("--template", r"Review: {text}\nSentiment:", "--labels", "positive, negative")
    shown = printed("init", reviews, *asked)
    task = Task.from_toml(tmp_path / "reviews.task.toml")
    assert task == Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
    assert "Review: Good film\nSentiment:" in shown
    assert f"icm-client label {reviews} -o labels.jsonl" in shown


def test_init_takes_the_labels_from_the_gold_field(reviews: Path, tmp_path: Path) -> None:
    printed("init", reviews, "--template", "{text}:", "--gold", "gold", "-o", tmp_path / "t.toml")
    task = Task.from_toml(tmp_path / "t.toml")
    assert (task.labels, task.gold) == (("negative", "positive"), "gold")


def test_init_begins_with_a_built_in_task(tmp_path: Path) -> None:
    shown = printed("init", "--task", "sentiment", "--labels", "good,bad")
    task = Task.from_toml(tmp_path / "task.toml")
    assert task == Task(**{**Task.builtin("sentiment").model_dump(), "labels": ("good", "bad")})
    assert "icm-client label ROWS --task task.toml" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Missing option '--labels'"),
        (("--labels", "a,b"), "Missing option '--template': .* The rows have text, gold"),
        (("--labels", "a", "--template", "{text}"), "at least 2 labels"),
        (("--labels", "a,b", "--template", "{txt}"), "no field 'txt'.*Did you mean 'text'"),
        (("--gold", "glod", "--template", "{text}"), "no field 'glod'.*Did you mean 'gold'"),
    ],
)
def test_init_without_a_terminal_asks_nothing_and_says_what_is_missing(
    reviews: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = run("init", reviews, *options)
    assert done.exit_code != 0
    assert re.search(message, done.output + str(done.exception), re.DOTALL)
    assert not (tmp_path / "reviews.task.toml").exists()


def test_init_overwrites_nothing(reviews: Path, tmp_path: Path) -> None:
    place = tmp_path / "reviews.task.toml"
    place.write_text("# mine", "utf-8")
    done = run("init", reviews, "--labels", "a,b", "--template", "{text}:")
    assert isinstance(done.exception, InputError)
    assert place.read_text("utf-8") == "# mine"


def test_init_asks_on_a_terminal_and_again_where_an_answer_cannot_be_used(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icm_client.cli.tasks._can_ask", lambda: True)
    answers = "glod\ngold\none\n\n{txt}\n\n"
    done = CliRunner().invoke(tasks_command, ["init", str(reviews)], input=answers)
    assert done.exit_code == 0, done.output
    for told in ("Did you mean 'gold'?", "at least 2 labels", "Did you mean 'text'?"):
        assert told in done.stderr
    task = Task.from_toml(tmp_path / "reviews.task.toml")
    assert (task.template, task.labels) == ("Text: {text}\nLabel:", ("negative", "positive"))
    assert task.gold == "gold"
