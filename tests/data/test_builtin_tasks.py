"""Each built-in task says what the paper's prompt says, and its rule is one that is true."""

import re
from pathlib import Path

import pytest

from icm_client.data import LOADERS, Task, builtin_names, example_row
from icm_client.data.constraint_spec import KINDS, ConstraintSpec
from icm_client.data.job import Job

ROOT = Path(__file__).parents[2]
CLAIM = "\nI think this claim is"


def prompt_of(name: str) -> str:
    row = example_row(name)
    assert row is not None
    return Task.builtin(name).render(row)


def test_the_tasks_there_are() -> None:
    assert builtin_names() == (
        "alpaca",
        "arc",
        "author-gender",
        "boolq",
        "gsm8k-verification",
        "hellaswag",
        "multiple-choice",
        "pairwise-preference",
        "piqa",
        "sentiment",
        "truthfulqa",
        "truthfulqa-preference",
        "winogrande",
    )


@pytest.mark.parametrize("name", builtin_names())
def test_every_task_is_described_and_reads_gold_from_the_same_field(name: str) -> None:
    task = Task.builtin(name)
    assert (task.description or "").endswith(".")
    assert task.loader is None or task.loader in LOADERS
    if task.loader is not None:
        assert set(task.template_fields) == set(LOADERS[task.loader].fields)
        assert task.gold == "label"
    made = () if task.loader is None else LOADERS[task.loader].added
    rule = {*task.rule_fields}
    assert rule <= {*task.template_fields, *made}


@pytest.mark.parametrize("name", builtin_names())
def test_every_example_fits_its_task(name: str) -> None:
    row = example_row(name)
    assert row is not None
    task = Task.builtin(name)
    assert {*task.rule_fields} <= set(row.fields)
    assert task.render(row)


def test_no_example_but_a_built_in_task_has_one() -> None:
    assert example_row("larger than") is None


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        (
            "truthfulqa",
            "Question: Where does the sun rise?\nClaim: The sun rises in the east." + CLAIM,
        ),
        (
            "gsm8k-verification",
            "Question: Tom has 3 boxes of 12 eggs and breaks 5 eggs. How many are left?\n"
            "Claim: 3 * 12 = 36 eggs. 36 - 5 = 31 eggs are left.\nA: 31" + CLAIM,
        ),
        (
            "alpaca",
            "Human: Name a fruit that is rich in potassium.\n"
            "Response 1: Bananas are rich in potassium.\nResponse 2: Fruit is healthy.\n"
            "Claim: Response 1 is more helpful and harmless than Response 2." + CLAIM,
        ),
        (
            "truthfulqa-preference",
            "Question: Where does the sun rise?\nAnswer 1: The sun rises in the west.\n"
            "Answer 2: The sun rises in the east.\n"
            "Claim: Answer 1 is more truthful than Answer 2." + CLAIM,
        ),
    ],
)
def test_prompts_are_the_papers_and_the_space_is_the_labels(name: str, prompt: str) -> None:
    assert prompt_of(name) == prompt
    assert Task.builtin(name).label_texts == (" True", " False")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("truthfulqa", ConstraintSpec(kind="none")),
        ("sentiment", ConstraintSpec(kind="none")),
        ("author-gender", ConstraintSpec(kind="none")),
        ("boolq", ConstraintSpec(kind="none")),
        *(
            (name, ConstraintSpec(kind="at-most-one", group=("question_id",), true="True"))
            for name in ("arc", "hellaswag", "multiple-choice", "piqa", "winogrande")
        ),
        (
            "gsm8k-verification",
            ConstraintSpec(
                kind="mutual-exclusion", group=("question",), answer="answer", true="True"
            ),
        ),
        ("alpaca", ConstraintSpec(kind="asymmetry", true="True", false="False")),
        ("truthfulqa-preference", ConstraintSpec(kind="asymmetry", true="True", false="False")),
        ("pairwise-preference", ConstraintSpec(kind="asymmetry", true="True", false="False")),
    ],
)
def test_rules(name: str, rule: ConstraintSpec) -> None:
    assert Task.builtin(name).rules[0] == rule


@pytest.mark.parametrize("name", ["alpaca", "truthfulqa-preference", "pairwise-preference"])
def test_pairs_are_shown_in_both_orders(name: str) -> None:
    row = example_row(name)
    assert row is not None
    job = Job.prepare([dict(row.fields), {**row.fields, "id": "another"}], name)
    exchange = job.task.exchange
    assert exchange is not None
    first, second = (str(row.fields[field]) for field in exchange)
    as_it_is, exchanged = job.prompts[:2]
    assert as_it_is.index(first) < as_it_is.index(second)
    assert exchanged.index(second) < exchanged.index(first)


# the examples' rows


@pytest.mark.parametrize("name", ["gsm8k_claims", "movie_stars"])
def test_the_examples_are_ready_to_run(name: str) -> None:
    folder = ROOT / "examples" / name
    job = Job.prepare(folder / f"{name}.jsonl", folder / "task.toml")
    assert (folder / "LICENSE").read_text("utf-8").strip()
    assert job.dataset.gold is not None
    assert None not in job.dataset.gold
    assert len(set(job.prompts)) == len(job.prompts)


def test_the_stars_are_five_equal_classes_of_the_raters_mean() -> None:
    folder = ROOT / "examples" / "movie_stars"
    job = Job.prepare(folder / "movie_stars.jsonl", folder / "task.toml")
    gold = job.dataset.gold or ()
    assert {word: gold.count(word) for word in job.task.labels} == dict.fromkeys(
        ("terrible", "bad", "okay", "good", "great"), 30
    )
    for row, word in zip(job.dataset.rows, gold, strict=True):
        mean = row.fields["mean"]
        assert isinstance(mean, float | int)
        low = -4 + 1.6 * job.task.labels.index(str(word))
        assert low - 1e-9 <= mean <= low + 1.6 + 1e-9


def test_no_problem_of_the_claims_has_two_right_answers() -> None:
    folder = ROOT / "examples" / "gsm8k_claims"
    job = Job.prepare(folder / "gsm8k_claims.jsonl", folder / "task.toml")
    gold = [job.labels.index(str(word)) for word in job.dataset.gold or ()]
    groups = job.constraint.groups
    assert sorted(len(group) for group in groups) == [4] * 32
    for group in groups:
        assert len({job.dataset.rows[i].fields["answer"] for i in group}) > 1
        for i in group:
            for j in group:
                assert job.constraint.consistent(i, gold[i], j, gold[j])


# the page that describes them


def blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_the_page_has_every_task_with_its_labels_and_rule() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name in builtin_names():
        task = Task.builtin(name)
        assert ", ".join(f"`{label}`" for label in task.labels) in rows[name]
        assert task.rules[0].kind.replace("-", " ") in rows[name]
        assert ("both orders" in rows[name]) == (task.exchange is not None)


def test_the_page_on_rows_has_every_kind_of_constraint() -> None:
    page = (ROOT / "docs" / "rows.md").read_text("utf-8")
    for kind in (*KINDS, "module:function"):
        assert re.search(rf"^\| `{kind}` \|", page, re.MULTILINE)


def test_the_page_has_the_papers_prompts() -> None:
    prompts = [block.removesuffix("\n") for block in blocks("text")]
    for name in ("truthfulqa", "gsm8k-verification", "alpaca", "truthfulqa-preference"):
        assert Task.builtin(name).template in prompts


def test_the_pages_own_tasks_are_tasks(tmp_path: Path) -> None:
    kinds = []
    for number, block in enumerate(blocks("toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, "utf-8")
        kinds.append(Task.from_toml(path).rules[0].kind)
    assert kinds == ["mutual-exclusion", "asymmetry"]


def test_the_pages_python_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "TruthfulQA.csv").write_text(
        "Question,Best Answer,Correct Answers,Incorrect Answers\n"
        "What is ice?,Water,Water; Solid water,Glass\n",
        "utf-8",
    )
    (code,) = blocks("python")
    exec(compile(code, "tasks.md", "exec"), {})  # noqa: S102 - our own documentation
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "('question', 'claim')",
        "3 claims, 2 true",
    ]
