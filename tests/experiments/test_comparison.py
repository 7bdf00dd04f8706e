"""What comparisons share: a sample that keeps groups whole, and figures as CSV."""

import pytest

from icm_client import Task
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.errors import InputError
from icm_client.experiments.comparison import counted, csv_of, rounded, some_rows

WORDS = ("negative", "positive")
PLAIN = Task(template="Review: {text}\nSentiment:", labels=WORDS)
PAIRED = Task(
    template="Question: {question}\nClaim: {claim}\nI think this claim is",
    labels=("True", "False"),
    constraint=ConstraintSpec(kind="mutual-exclusion", group=("question",), answer="claim"),
)


def test_a_sample_of_rows_holds_whole_groups_in_their_order() -> None:
    rows = [{"question": f"q{n // 2}", "claim": f"claim {n}"} for n in range(12)]
    job = Job.prepare(rows, PAIRED)
    some = some_rows(job, 7)
    questions = [str(row.fields["question"]) for row in some.rows]
    assert len(questions) == 6
    assert questions == sorted(questions)
    assert all(questions.count(question) == 2 for question in questions)
    assert some_rows(job, 7) == some
    with pytest.raises(InputError, match="in whole groups, fit into 1"):
        some_rows(job, 1)


def test_a_sample_keeps_each_rows_gold() -> None:
    rows = [{"text": f"words of row {n}", "gold": WORDS[n * 7 % 5 % 2]} for n in range(20)]
    some = some_rows(Job.prepare(rows, PLAIN, gold="gold"), 5)
    assert len(some.rows) == 5
    for row, gold in zip(some.rows, some.gold or (), strict=True):
        number = int(str(row.fields["text"]).split()[-1])
        assert gold == WORDS[number * 7 % 5 % 2]


def test_a_figure_that_is_missing_is_an_empty_cell() -> None:
    records = [{"name": "a", "share": rounded(1 / 3)}, {"name": "b, c", "share": rounded(None)}]
    assert csv_of(records) == 'name,share\na,0.3333\n"b, c",\n'
    assert csv_of([]).strip() == ""


def test_words_are_counted_in_alphabetical_order() -> None:
    assert counted(["weak", "one-label", "weak"]) == "one-label (1), weak (2)"
    assert counted([]) == ""
