"""The public files' own columns become the tasks' fields, and say nothing that only gold knows."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from icm_client.data import LOADERS, Dataset, Task, builtin_names, loaded, made_rows, read_rows
from icm_client.data.rows import rows_from, take_own_gold
from icm_client.data.values import Unusable
from icm_client.errors import RowError, TaskError

TEXTS = st.text("abcdefgh ", min_size=1, max_size=8).map(str.strip).filter(bool)


def made(name: str, *rows: Mapping[str, object]) -> list[dict[str, object]]:
    """What the loader makes, without the lines."""
    return [dict(row) for _, row in made_rows(name, enumerate(rows, 1)) if isinstance(row, Mapping)]


def refused(name: str, *rows: Mapping[str, object]) -> str:
    """Why the first row that the loader can make nothing of cannot be used."""
    every = (row for _, row in made_rows(name, enumerate(rows, 1)))
    return next(str(row) for row in every if isinstance(row, Unusable))


def truthful(
    question: str = "What is water?",
    correct: str = "A liquid; Wet",
    incorrect: str = "A metal; Dry; Air",
    **more: str,
) -> dict[str, str]:
    """A row as in both releases; `**more` for the columns that one of them has besides."""
    return {
        "Type": "Adversarial",
        "Category": "Science",
        "Question": question,
        "Best Answer": correct.partition("; ")[0],
        "Correct Answers": correct,
        "Incorrect Answers": incorrect,
        "Source": "https://example.org",
        **more,
    }


def solutions(**answers: tuple[str, bool]) -> dict[str, object]:
    """A problem with models' solutions, as grade-school-math has them."""
    tries = {
        model: {"solution": solution, "is_correct": correct}
        for model, (solution, correct) in answers.items()
    }
    return {"question": "What is 2 + 2?", "ground_truth": "2 + 2 = 4\nA: 4", **tries}


# TruthfulQA


def test_truthfulqa_becomes_a_row_for_each_answer() -> None:
    rows = made("truthfulqa", truthful(), truthful("What is ice?", "Cold", "Hot"))
    ids = ["q1-c1", "q1-c2", "q1-c3", "q1-c4", "q1-c5", "q2-c1", "q2-c2"]
    assert [row["id"] for row in rows] == ids
    assert {(row["claim"], row["label"]) for row in rows[:5]} == {
        ("A liquid", "True"),
        ("Wet", "True"),
        ("A metal", "False"),
        ("Dry", "False"),
        ("Air", "False"),
    }
    assert all(set(row) == {"id", "question", "claim", "label"} for row in rows)


def test_the_best_answers_are_claims_too() -> None:
    row = truthful(**{"Best Answer": "H2O", "Best Incorrect Answer": "Fire"})
    claims = {claim["claim"]: claim["label"] for claim in made("truthfulqa", row)}
    assert (claims["H2O"], claims["Fire"]) == ("True", "False")


def test_an_answer_that_is_listed_twice_is_one_claim_and_a_contested_one_is_none() -> None:
    row = truthful(correct="Unknown; Wet; Wet;", incorrect="Dry; Unknown; ;Dry")
    assert {claim["claim"] for claim in made("truthfulqa", row)} == {"Wet", "Dry"}


@given(st.lists(TEXTS, min_size=2, max_size=6, unique=True), st.data())
def test_neither_order_nor_ids_of_claims_say_which_are_true(
    answers: list[str], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(answers) - 1))
    one, other = "; ".join(answers[:cut]), "; ".join(answers[cut:])
    rows = made("truthfulqa", truthful(correct=one, incorrect=other))
    exchanged = made("truthfulqa", truthful(correct=other, incorrect=one))
    assert [(row["id"], row["claim"]) for row in rows] == [
        (row["id"], row["claim"]) for row in exchanged
    ]
    assert all(row["label"] != twin["label"] for row, twin in zip(rows, exchanged, strict=True))


@given(TEXTS, TEXTS)
def test_the_side_of_the_better_answer_depends_on_the_texts_alone(one: str, other: str) -> None:
    assume(one != other)
    best = "Best Incorrect Answer"
    (row,) = made("truthfulqa-preference", truthful(correct=one, incorrect=other, **{best: other}))
    (twin,) = made("truthfulqa-preference", truthful(correct=other, incorrect=one, **{best: one}))
    assert (row["answer_1"], row["answer_2"]) == (twin["answer_1"], twin["answer_2"])
    assert {row["answer_1"], row["answer_2"]} == {one, other}
    assert row["label"] == str(row["answer_1"] == one)
    assert {row["label"], twin["label"]} == {"True", "False"}


@pytest.mark.parametrize("release", ["790", "817"])
def test_the_better_answer_is_first_about_as_often_as_second(release: str) -> None:
    """An incorrect answer chosen by the hash that also orders the pair would come first mostly."""
    rows = [
        truthful(
            f"Question {n}?",
            f"Correct {n}",
            "; ".join(f"Incorrect {n}.{k}" for k in range(4)),
            **({"Best Incorrect Answer": f"Incorrect {n}.0"} if release == "790" else {}),
        )
        for n in range(400)
    ]
    counts = Counter(row["label"] for row in made("truthfulqa-preference", *rows))
    assert 160 < counts["True"] < 240  # 4 standard deviations of a fair coin


def test_without_a_best_incorrect_answer_an_incorrect_one_is_taken() -> None:
    row = truthful(correct="Wet; Dry", incorrect="Dry; Air")
    (pair,) = made("truthfulqa-preference", row)
    assert {pair["answer_1"], pair["answer_2"]} == {"Wet", "Air"}
    contested = truthful(correct="Wet; Dry", incorrect="Dry")
    assert "no incorrect answer that is not among the correct ones" in refused(
        "truthfulqa-preference", contested
    )


# grade-school-math


def test_model_solutions_become_claims_with_their_final_answers() -> None:
    rows = made(
        "gsm8k", solutions(small=("2 + 2 = 5\nA: 5", False), large=("It is 4.\nA: 4", True))
    )
    assert rows == [
        {
            "id": "q1-small",
            "question": "What is 2 + 2?",
            "claim": "2 + 2 = 5\nA: 5",
            "answer": "5",
            "label": "False",
        },
        {
            "id": "q1-large",
            "question": "What is 2 + 2?",
            "claim": "It is 4.\nA: 4",
            "answer": "4",
            "label": "True",
        },
    ]


def test_a_solution_that_is_another_models_is_left_out() -> None:
    rows = made("gsm8k", solutions(a=("A: 4", True), b=("A: 4", True), c=("A: 5", False)))
    assert [row["id"] for row in rows] == ["q1-a", "q1-c"]


def test_a_problem_without_solutions_is_refused() -> None:
    assert "no model's solution" in refused("gsm8k", solutions())


def test_rows_with_claims_only_get_the_answers() -> None:
    own = {"question": "q", "claim": "The answer is 3.", "label": "True", "seen": 1}
    assert made("gsm8k", own) == [{**own, "answer": "3"}]
    complete = {"question": "q", "claim": "The answer is 3.", "answer": "three"}
    assert made("gsm8k", complete) == [complete]


def test_the_example_has_the_answers_that_its_solutions_end_with() -> None:
    path = Path(__file__).parents[2] / "examples" / "gsm8k_claims" / "gsm8k_claims.jsonl"
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    bare = [{key: row[key] for key in row if key != "answer"} for row in rows]
    assert made("gsm8k", *bare) == rows


# the released code's JSON


@pytest.mark.parametrize(("label", "word"), [(True, "True"), (1, "True"), (0, "False")])
def test_released_claims(label: object, word: str) -> None:
    raw = {"question": "q", "choice": " c ", "label": label, "consistency_id": 7}
    (row,) = made("truthfulqa", raw)
    assert row == {"question": "q", "claim": "c", "label": word, "consistency_id": 7}
    (row,) = made("gsm8k", {**raw, "choice": "A: 3"})
    assert (row["answer"], row["consistency_id"]) == ("3", 7)


def test_released_pairs() -> None:
    raw = {"question": "a\nb", "choice": "c\n\nd", "choice_2": "e", "label": 1}
    assert made("truthfulqa-preference", raw) == [
        {"question": "a\nb", "answer_1": "c\n\nd", "answer_2": "e", "label": "True"}
    ]
    assert made("alpaca", raw) == [
        {"question": "a\nb", "response_1": "c d", "response_2": "e", "label": "True"}
    ]


@pytest.mark.parametrize(
    ("label", "kept"), [("True", "True"), (None, None), (0.5, 0.5), (2, 2), ("yes", "yes")]
)
def test_a_released_label_that_is_no_truth_is_left_to_the_check_of_gold(
    label: object, kept: object
) -> None:
    (row,) = made("truthfulqa", {"question": "q", "choice": "c", "label": label})
    assert row["label"] == kept


def test_no_built_in_task_uses_a_key_that_may_come_from_gold() -> None:
    for name in builtin_names():
        task = Task.builtin(name)
        read = {*task.read_fields}
        assert not read & {"consistency_id", "label", task.gold}


# AlpacaFarm


@pytest.mark.parametrize(
    ("preference", "label"),
    [(1, "True"), (2, "False"), ("1", "True"), (2.0, "False"), (0, None), (None, None)],
)
def test_alpaca_farm(preference: object, label: str | None) -> None:
    raw = {
        "instruction": "Sort.",
        "input": "b, a",
        "output_1": "a \n b\r\n\r\nc",
        "output_2": "b",
        "preference": preference,
    }
    assert made("alpaca", raw, {**raw, "input": "", "id": 9}) == [
        {"question": "Sort.\nb, a", "response_1": "a b c", "response_2": "b", "label": label},
        {"question": "Sort.", "response_1": "a b c", "response_2": "b", "label": label, "id": 9},
    ]


def test_comparisons_without_a_preference_have_no_label() -> None:
    (row,) = made("alpaca", {"instruction": "i", "output_1": "a", "output_2": "b"})
    assert "label" not in row


# what needs no loader, and what fits none


@pytest.mark.parametrize("name", LOADERS)
def test_rows_with_the_tasks_fields_pass_as_they_are(name: str) -> None:
    loader = LOADERS[name]
    own = {field: f"{field}\nof its own" for field in (*loader.fields, *loader.added)}
    assert made(name, {**own, "Question": 1}) == [{**own, "Question": 1}]


def test_the_fields_of_the_template_decide_whether_a_loader_is_needed() -> None:
    row = {"claim": "c"}
    assert list(made_rows("truthfulqa", [(1, row)], ("claim",))) == [(1, row)]
    assert list(made_rows("gsm8k", [(1, row)], ("claim",))) == [(1, row)]
    assert "it lacks 'Best Answer', " in refused("truthfulqa", {"Question": "q"})


def test_what_is_no_object_is_left_to_the_reader() -> None:
    assert list(made_rows("truthfulqa", [(4, [1])])) == [(4, [1])]


def test_wrong_columns_are_said_in_one_sentence_with_the_line() -> None:
    row = truthful()
    del row["Correct Answers"]
    ((line, reason),) = made_rows("truthfulqa", [(7, row)])
    assert (line, str(reason)) == (
        7,
        (
            "the row has 'Type', 'Category', 'Question', 'Best Answer', 'Incorrect "
            "Answers', 'Source': neither the task's fields 'question', 'claim' nor those of a file "
            "that its loader reads (for TruthfulQA.csv (the release of 790 or of 817 questions) it "
            "lacks 'Correct Answers')"
        ),
    )


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("truthfulqa", truthful(question=" "), "the field 'Question' is empty"),
        ("truthfulqa", truthful(correct=""), "the field 'Correct Answers' is empty"),
        ("truthfulqa", {"question": "q", "choice": 3}, "'choice' must be text, not a number"),
        ("truthfulqa", {"question": None, "choice": "c"}, "'question' must be text, not null"),
        ("gsm8k", solutions(a=("", True)), "the field 'solution' is empty"),
        ("gsm8k", {"question": "q", "claim": None}, "'claim' must be text, not null"),
    ],
)
def test_a_row_without_its_text_is_named(name: str, row: dict[str, object], said: str) -> None:
    assert said in refused(name, row)


def test_an_unknown_loader_is_refused_at_once() -> None:
    with pytest.raises(TaskError, match=r"no loader is called 'gsm8'; .* Did you mean 'gsm8k'\?$"):
        made_rows("gsm8", [])


# through the reader


@pytest.fixture
def truthfulqa_csv(tmp_path: Path) -> Path:
    path = tmp_path / "TruthfulQA.csv"
    rows = [truthful('What is "water"?'), truthful("What is\nice?", "Cold", "Hot")]
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells]
    path.write_text("\n".join(quoted), "utf-8")
    return path


def read(path: Path, *, gold: str | None = None) -> Dataset:
    return read_rows(path, gold=gold, loader="truthfulqa", template_fields=("question", "claim"))


def test_a_file_is_read_through_the_loader_and_keeps_its_lines(truthfulqa_csv: Path) -> None:
    rows = read(truthfulqa_csv).rows
    assert [row.line for row in rows] == [2, 2, 2, 2, 2, 3, 3]
    assert rows[5].fields["question"] == "What is\nice?"


def test_known_answers_become_gold_and_leave_the_rows(truthfulqa_csv: Path) -> None:
    named = read(truthfulqa_csv, gold="label")
    own = take_own_gold(read(truthfulqa_csv), "label")
    raw = read_rows(truthfulqa_csv)
    afterwards = take_own_gold(loaded(raw, "truthfulqa"), "label")
    assert named == own == afterwards == loaded(raw, "truthfulqa", gold="label")
    assert Counter(named.gold or ()) == {"True": 3, "False": 4}
    assert all(set(row.fields) == {"id", "question", "claim"} for row in named.rows)


def test_gold_that_was_taken_out_before_stays_with_its_row() -> None:
    raw = [{"question": "q", "choice": text, "truth": text == "b"} for text in "abc"]
    dataset = loaded(rows_from(raw, gold="truth"), "truthfulqa")
    assert [row.fields for row in dataset.rows] == [
        {"question": "q", "claim": text} for text in "abc"
    ]
    assert dataset.gold == ("False", "True", "False")
    assert dataset.gold_field == "truth"


def test_gold_that_no_row_has_is_an_error_afterwards_too(truthfulqa_csv: Path) -> None:
    with pytest.raises(RowError, match=r"2: no gold field 'labels'; .* Did you mean 'label'"):
        loaded(read_rows(truthfulqa_csv), "truthfulqa", gold="labels")


def test_the_released_json_array_is_read(tmp_path: Path) -> None:
    path = tmp_path / "test_gsm8k.json"
    rows = [{"question": "q", "choice": f"The answer is {n}.", "label": n == 1} for n in (1, 2)]
    path.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    dataset = read_rows(path, loader="gsm8k", gold="label")
    assert [row.fields["answer"] for row in dataset.rows] == ["1", "2"]
    assert dataset.gold == ("True", "False")
