"""Disturbed rows, made of rows that a person can count."""

from collections import Counter

import pytest

from icm_client import Task
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.experiments.stress_rows import (
    FEWEST,
    PHRASE,
    SHARES,
    STRENGTHS,
    Trouble,
    imbalance,
    impossible,
    salient,
    undisturbed,
)

WORDS = ("good", "bad")
TASK = Task(template="In {{short}}: {title}\nReview: {text}\nSentiment:", labels=WORDS)


def job_of(count: int = 8, task: Task = TASK) -> Job:
    rows = [
        {"title": f"t{n}", "text": f"Review number {n}.", "gold": task.labels[n % 2]}
        for n in range(count)
    ]
    return Job.prepare(rows, task, gold="gold")


def texts(trouble: Trouble, field: str = "text") -> list[str]:
    return [str(row.fields[field]) for row in trouble.dataset.rows]


def named(made: list[Trouble], name: str) -> list[Trouble]:
    return [trouble for trouble in made if trouble.name == name]


def test_half_of_the_rows_have_a_feature_whatever_their_labels() -> None:
    job = job_of()
    made, notices = salient(job, seed=0)
    assert notices == ()
    assert [trouble.strength for trouble in named(made, "phrase")] == ["x1", "x2", "x4"]
    for times, trouble in zip(STRENGTHS, named(made, "phrase"), strict=True):
        assert trouble.feature is not None
        assert Counter(trouble.feature) == {"good": 4, "bad": 4}
        for number, (text, has) in enumerate(zip(texts(trouble), trouble.feature, strict=True)):
            planted = [PHRASE] * times if has == "good" else []
            assert text == " ".join([f"Review number {number}.", *planted])
    drawn = {salient(job, seed)[0][0].feature for seed in range(5)}
    assert len(drawn) == 5


def test_a_longer_row_goes_on_with_sentences_of_its_own() -> None:
    for times, trouble in zip(STRENGTHS, named(salient(job_of(), 0)[0], "length"), strict=True):
        assert trouble.feature is not None
        added = [
            text.split(".")[1:-1]
            for text, has in zip(texts(trouble), trouble.feature, strict=True)
            if has == "good"
        ]
        assert {len(sentences) for sentences in added} == {2 * times}
        assert len({tuple(sentences) for sentences in added}) == 4
        assert sum(len(text) < 20 for text in texts(trouble)) == 4


def test_a_sentence_begins_half_of_the_rows_and_ends_the_others() -> None:
    trouble = named(salient(job_of(), 0)[0], "position")[0]
    assert trouble.feature is not None
    for text, has in zip(texts(trouble), trouble.feature, strict=True):
        assert text.startswith(PHRASE) == (has == "good")
        assert text.endswith(PHRASE) == (has == "bad")


def test_the_asker_names_each_label_equally_often() -> None:
    words = ("one", "two", "three")
    job = job_of(9, Task(template="{title} {text}\nIs:", labels=words))
    loudest = named(salient(job, 0)[0], "opinion")[-1]
    assert loudest.feature is not None
    assert Counter(loudest.feature) == dict.fromkeys(words, 3)
    for text, word in zip(texts(loudest), loudest.feature, strict=True):
        assert text.endswith(" ".join([f"I think this is {word}."] * 4))


def test_one_text_of_a_pair_has_the_feature() -> None:
    task = Task(template="B: {b}\nA: {a}\nA is", labels=("better", "worse"), exchange=("a", "b"))
    job = Job.prepare([{"a": f"first {n}", "b": f"second {n}"} for n in range(6)], task)
    made = salient(job, 0)[0]
    for name, planted in (("phrase", PHRASE), ("opinion", "I think this is better.")):
        trouble = named(made, name)[0]
        assert trouble.feature is not None
        for row, has in zip(trouble.dataset.rows, trouble.feature, strict=True):
            assert (planted in str(row.fields["a"])) == (has == "better")
            assert (planted in str(row.fields["b"])) == (has == "worse")
    assert imbalance(job, ["better"] * 6, range(6))[1] == (
        "imbalance is left out: a rule joins the rows, and fixes the labels' shares",
    )


def test_what_a_rule_reads_is_left_as_it_is() -> None:
    rule = ConstraintSpec(kind="mutual-exclusion", group=("question",), answer="claim")
    task = Task(template="{question} {claim}\nIt is", labels=("True", "False"), constraint=rule)
    rows = [{"question": f"q{n // 2}", "claim": f"claim {n}"} for n in range(8)]
    assert salient(Job.prepare(rows, task), 0)[1] == (
        "salient features are left out: the task's rule reads all that a prompt shows",
    )
    made, notices = impossible(Job.prepare(rows, task), 0)
    assert [trouble.name for trouble in made] == ["unrelated", "unrelated"]
    assert notices == ("no-answer is left out: the task's rule reads all that a prompt shows",)
    shown = Task(**{**task.model_dump(), "template": "{question} {claim} {note}\nIt is"})
    noted = Job.prepare([{**row, "note": "n"} for row in rows], shown)
    for trouble in salient(noted, 0)[0]:
        assert texts(trouble, "claim") == [f"claim {n}" for n in range(8)]


@pytest.mark.parametrize("firsts", [20, 60])
def test_imbalanced_sets_have_equally_many_rows(firsts: int) -> None:
    rows = [{"title": "t", "text": f"row {n}"} for n in range(80)]
    labels = ["good"] * firsts + ["bad"] * (80 - firsts)
    job = Job.prepare(rows, Task(**{**TASK.model_dump(), "prior": {"good": 0.4}}))
    made, notices = imbalance(job, labels, range(80))
    assert notices == ()
    assert [trouble.strength for trouble in made] == [f"{share:.0%}" for share in SHARES]
    by_text = {f"row {n}": label for n, label in enumerate(labels)}
    for share, trouble in zip(SHARES, made, strict=True):
        found = Counter(by_text[text] for text in texts(trouble))
        assert found.total() == 21  # at 2% and 98% one row is of the rare label
        assert found["good"] == max(1, min(20, round(21 * share)))
        assert trouble.task.prior is None
    assert texts(made[0])[0] == "row 0"  # the first in the order


def test_too_few_rows_of_a_label_make_no_imbalance() -> None:
    job = job_of(40)
    labels = ["good"] * 5 + ["bad"] * 30 + [None] * 5
    made, (notice,) = imbalance(job, labels, range(40))
    assert made == []
    assert notice == (
        "imbalance is left out: 5 rows are good and 30 are not, and sets of "
        f"{FEWEST} rows are needed"
    )


def test_impossible_rows_say_nothing_of_what_is_asked() -> None:
    job = job_of()
    shelf, weekday, neutral, letters = impossible(job, 0)[0]
    assert shelf.task.render(shelf.dataset.rows[0]) == (
        "In {short}: t0\nReview: Review number 0.\nShelf:"
    )
    assert (shelf.task.labels, weekday.task.labels) == (("left", "right"), ("Monday", "Thursday"))
    assert neutral.task == letters.task == TASK
    assert not any("Review" in text or "number" in text for text in texts(neutral))
    assert len(set(texts(neutral))) == 8
    before = sorted("".join(texts(undisturbed(job))))
    assert sorted("".join(texts(letters))) == before
    assert texts(letters) != texts(undisturbed(job))


def test_no_row_made_has_gold() -> None:
    job = job_of(40)
    everything = [
        undisturbed(job),
        *salient(job, 0)[0],
        *imbalance(job, job.dataset.gold or (), range(40))[0],
        *impossible(job, 0)[0],
    ]
    assert len(everything) == 24
    for trouble in everything:
        assert trouble.dataset.gold is None
        assert all("gold" not in row.fields for row in trouble.dataset.rows)
