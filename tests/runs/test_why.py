"""Why a row has its label, on models in which some rows are planted to teach others."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_reviews import TASK
from several_runs import ROWS, gold, mistaken, model, rows, run_of
from test_failed_rows import Poisoned

from icm_client import Task, label
from icm_client.coherence.anneal import AnnealSettings
from icm_client.coherence.folds import FoldSettings
from icm_client.coherence.settings import SweepSettings
from icm_client.data import Row
from icm_client.errors import InputError, RunError
from icm_client.record.archive import Run
from icm_client.record.explanations import read_explanations
from icm_client.runs.why import _context_settings, explain, plan_why, spans_of, teaching
from icm_client.testing import PlantedConcept
from icm_client.testing.planted import log_softmax, uniform

TAUGHT = "r5"
SMALL = SweepSettings(demos=16, keep=0.4)


def prompt(text: str) -> str:
    return TASK.template.replace("{text}", text)


def text(number: int) -> str:
    return f"words of row {number}"


class Teachers(PlantedConcept):
    """Knows the rows' classes, but of some rows the labels of their teachers say more.

    Each teacher adds `nats` to the label that it is shown with, for each row that it teaches. The
    row `TAUGHT` is known by its number: without it, it is of the other class. Every context moves
    every row's scores by up to 0.2 nats, as no demo explains.
    """

    def __init__(self, taught: Mapping[int, Collection[int]], nats: float = 1.5) -> None:
        classes = {prompt(text(n)): one for n, one in enumerate(gold())}
        number = int(TAUGHT[1:])
        own = classes[prompt(text(number))]
        wordings = [f"of row {number}", f"words row {number}", f"words of {number}"]
        for words in wordings:
            classes[prompt(words)] = own
        classes[prompt("words of row")] = 1 - own
        super().__init__(classes, TASK.label_texts, strength=4.0, meaning=1.5, noise=0.5)
        self._taught = {
            prompt(text(n)): {prompt(text(one)) for one in teachers}
            for n, teachers in taught.items()
        }
        for words in [*wordings, "words of row"]:
            self._taught[prompt(words)] = self._taught.get(prompt(text(number)), set())
        self._nats = nats

    def label_log_probs(self, demos: Sequence[tuple[str, int]], target: str) -> list[float]:
        scores = super().label_log_probs(demos, target)
        scores = [one + 0.2 * uniform(demos, target, k) for k, one in enumerate(scores)]
        for shown, said in demos:
            if shown in self._taught.get(target, ()):
                scores[said] += self._nats
        return log_softmax(scores)


async def run_by(folder: Path, endpoint: PlantedConcept, **options: Any) -> Run:
    return await run_of(folder, endpoint, name="runs", **options)


def of_class(number: int, *, same: bool) -> list[int]:
    """Rows of the class of row `number`, or of the other one."""
    classes = gold()
    return [n for n in range(ROWS) if n != number and (classes[n] == classes[number]) == same]


@pytest.mark.parametrize("seed", range(3))
async def test_the_planted_demos_and_the_planted_word_are_named(seed: int, tmp_path: Path) -> None:
    planted = [f"r{n}" for n in of_class(5, same=True)[::4] + of_class(5, same=False)[::4]]
    endpoint = Teachers({5: [int(one[1:]) for one in planted]})
    run = await run_by(tmp_path, endpoint, seed=seed)
    before = endpoint.usage.requests
    plan = plan_why(run.path, TAUGHT)
    found = await explain(plan, endpoint=endpoint, store=tmp_path / "store")
    assert (found.row, found.unread, found.unread_effect) == (TAUGHT, 0, 0.0)
    assert endpoint.usage.requests - before <= 640
    named = [one for one in found.demos if abs(one.relabelled) > 1.0]
    assert {one.row for one in named} == {one.row for one in found.demos} & set(planted)
    assert len(named) >= 3
    # A demo of the row's label speaks for it, one of the other label against it.
    assert all((one.relabelled > 0) == (one.label == found.label) for one in named)
    assert all((one.left_out > 0.7) == (one.relabelled > 1.0) for one in found.demos)
    assert [one.relabelled for one in found.demos] == sorted(
        (one.relabelled for one in found.demos), reverse=True
    )
    assert [one.text for one in found.spans] == ["words", "of", "row", "5"]
    effects = [one.effect or 0.0 for one in found.spans]
    assert np.argmax(effects) == 3
    assert effects[3] > 1.0 > max(map(abs, effects[:3]))
    assert found.sentence().startswith(f"r5 is labelled {found.label}: log-odds +")

    asked = endpoint.usage.requests
    again = await explain(plan, endpoint=endpoint, store=tmp_path / "store")
    assert endpoint.usage.requests == asked
    assert again.demos == found.demos
    (kept,) = read_explanations(run.path)
    assert kept["row"] == TAUGHT
    assert [one["row"] for one in kept["demos"]] == [one.row for one in found.demos]


async def test_what_no_reads_are_left_for_is_said(tmp_path: Path) -> None:
    endpoint = Teachers({5: of_class(5, same=True)[::6]})
    run = await run_by(tmp_path, endpoint)
    before = endpoint.usage.requests
    plan = plan_why(run.path, TAUGHT)
    found = await explain(plan, reads=200, endpoint=endpoint, store=tmp_path / "store")
    assert endpoint.usage.requests - before <= 200
    assert found.unread == found.shown - len(found.demos) > 0
    assert found.unread_effect is not None
    # The planted demos' blocks are tried first.
    assert max(one.relabelled for one in found.demos) > 2 * found.unread_effect / 2
    few = await explain(plan, reads=40, endpoint=endpoint, store=tmp_path / "store")
    assert (few.demos, few.unread_effect) == ((), None)
    with pytest.raises(InputError, match="36 reads at least, not 35"):
        await explain(plan, reads=35, endpoint=endpoint, store=tmp_path / "store")


async def test_what_other_runs_say_of_the_row(tmp_path: Path) -> None:
    endpoint = Teachers({})
    run = await run_by(tmp_path, endpoint)
    other = await run_of(tmp_path, model(mistaken(0.2, 1)), name="others")
    plan = plan_why(run.path, TAUGHT, beside=[other.path])
    (said,) = plan.beside
    assert said.run == other.name
    assert said.label in TASK.labels
    assert said.confidence is not None
    assert said.kappa == pytest.approx(0.6, abs=0.15)
    (other.path / "labels.jsonl").unlink()
    assert plan_why(run.path, TAUGHT, beside=[other.path]).beside[0].label is None


async def test_another_model_than_the_run_s_is_said(tmp_path: Path) -> None:
    run = await run_by(tmp_path, model(gold()))
    endpoint = Teachers({5: [*range(6, 40)]})
    found = await explain(plan_why(run.path, TAUGHT), endpoint=endpoint, store=tmp_path / "store")
    assert len(found.notices) == 1
    assert "found the labels of the run" in found.notices[0]
    own = await teaching(plan_why(run.path), 16, endpoint=model(gold()), store=tmp_path / "store")
    assert own.notices == ()


async def test_rows_that_the_server_refuses(tmp_path: Path) -> None:
    """One that is asked about cannot be explained; as a demo or a witness it is left out."""
    run = await run_of(tmp_path, model(gold(40)), name="runs", n=40, rows=rows(40))

    with pytest.raises(InputError, match="this server cannot read 'r3'"):
        await explain(plan_why(run.path, "r3"), endpoint=Poisoned(3), store=tmp_path / "store")
    found = await teaching(plan_why(run.path), 40, endpoint=Poisoned(3), store=tmp_path / "store")
    assert "r3" not in {one.row for one in found.rows}
    assert found.unread == 0


class Loud(PlantedConcept):
    """Learns more of the concept from some rows than from others."""

    def __init__(self, loud: Collection[int]) -> None:
        self.classes = {prompt(text(n)): one for n, one in enumerate(gold())}
        self.loud = {prompt(text(n)) for n in loud}
        super().__init__(self.classes, TASK.label_texts, strength=4.0, meaning=1.5, noise=0.5)

    def label_log_probs(self, demos: Sequence[tuple[str, int]], target: str) -> list[float]:
        scores = super().label_log_probs(demos, target)
        for shown, said in demos:
            if shown in self.loud:
                taught = said if self.classes[shown] == self.classes[target] else 1 - said
                scores[taught] += 0.5
        return log_softmax(scores)


async def test_the_rows_that_teach_most_come_first(tmp_path: Path) -> None:
    """And the one whose label was pinned wrongly, which speaks against all others, comes last."""
    endpoint = Loud([8, 11])
    words = [TASK.labels[one] for one in gold()]
    wrong = TASK.labels[1 - gold()[20]]
    run = await run_by(tmp_path, endpoint, pins={"r8": words[8], "r11": words[11], "r20": wrong})
    found = await teaching(plan_why(run.path), 24, endpoint=endpoint, store=tmp_path / "store")
    effects = [one.effect for one in found.rows]
    assert effects == sorted(effects, reverse=True)
    assert {one.row for one in found.rows[:2]} == {"r8", "r11"}
    assert all(one.effect == pytest.approx(1.36, abs=0.1) for one in found.rows[:2])
    # Each of the others does its share of the planted strength: 4 nats over 14 or 24 demos, twice.
    assert {round(one.effect, 2) for one in found.rows[2:-1]} == {0.57, 0.33}
    assert found.rows[-1].row == "r20"
    assert found.rows[-1].effect == pytest.approx(-0.33, abs=0.01)
    assert found.rows[-1].helped < 0.1
    assert found.speak_for == pytest.approx(1 - 1 / len(found.rows))
    assert found.of_a_tenth is not None
    assert found.of_a_tenth > 0.2
    assert (found.read_by, found.unread) == (12, 0)
    assert "speak for the labels of the 12 rows that each was shown to; the" in found.sentence()
    with pytest.raises(InputError, match="8 rows at least"):
        await teaching(plan_why(run.path), 7, endpoint=endpoint, store=tmp_path / "store")
    with pytest.raises(InputError, match="too few to show a demo"):
        await teaching(
            plan_why(run.path), 24, reads=10, endpoint=endpoint, store=tmp_path / "store"
        )


PAIRS = Task(
    template="First: {a}\nSecond: {b}\nBetter:",
    labels=("first", "second"),
    exchange=("a", "b"),
)


async def test_pairs_teach_under_the_labels_of_their_rows_and_no_row_itself(tmp_path: Path) -> None:
    data = [{"id": f"r{n}", "a": f"text {n}", "b": f"answer {n}"} for n in range(32)]
    better = [n * 7 % 5 % 2 for n in range(32)]
    planted = {}
    for row, one in zip(data, better, strict=True):
        for a, b, which in (("a", "b", one), ("b", "a", 1 - one)):
            planted[f"First: {row[a]}\nSecond: {row[b]}\nBetter:"] = which

    class Listening(PlantedConcept):
        def label_log_probs(self, demos: Sequence[tuple[str, int]], target: str) -> list[float]:
            numbers = {target.split()[2]} & {shown.split()[2] for shown, _ in demos}
            assert not numbers
            return super().label_log_probs(demos, target)

    endpoint = Listening(planted, PAIRS.label_texts, strength=4.0, meaning=1.5)
    found = await label(
        data, task=PAIRS, endpoint=endpoint, store=tmp_path / "store", runs=tmp_path / "runs"
    )
    words = {row.row.id: row.label for row in found.rows}
    taught = await teaching(
        plan_why(found.run or ""), 16, endpoint=endpoint, store=tmp_path / "store"
    )
    assert all(one.label == words[one.row] for one in taught.rows)
    assert len({one.row for one in taught.rows}) < len(taught.rows)  # both orders
    assert taught.speak_for == 1.0


def parts(prompt: str) -> frozenset[str]:
    """The texts of a prompt of `PAIRS` or `TASK`, in whichever order."""
    return frozenset(line.partition(": ")[2] for line in prompt.splitlines()[:-1])


@pytest.mark.parametrize("task", [TASK, PAIRS], ids=["one text", "pairs"])
async def test_no_row_is_a_demo_that_reads_as_another_without_a_word(
    task: Task, tmp_path: Path
) -> None:
    """Its label would be copied: "item 3 not good" without "not" is another row."""
    data, planted = [], {}
    for n in range(24):
        for words in ("good", "not good"):
            item, rival = f"item{n} {words}", f"rival{n}"
            # Of pairs it is the other order of that row that reads so.
            swapped = n % 2 == (words == "not good")
            a, b = (rival, item) if swapped else (item, rival)
            data.append({"id": f"{words} {n}", "text": item, "a": a, "b": b})
            for word in ("", *item.split()):
                left = " ".join(one for one in item.split() if one != word)
                bad = int("not" in left.split())
                planted[prompt(left)] = bad
                planted[PAIRS.template.format(a=left, b=rival)] = bad
                planted[PAIRS.template.format(a=rival, b=left)] = 1 - bad

    class Listening(PlantedConcept):
        def label_log_probs(self, demos: Sequence[tuple[str, int]], target: str) -> list[float]:
            assert parts(target) not in {parts(shown) for shown, _ in demos}
            return super().label_log_probs(demos, target)

    endpoint = Listening(planted, task.label_texts, strength=4.0, meaning=1.5)
    options: dict[str, Any] = {"endpoint": endpoint, "store": tmp_path / "store"}
    found = await label(data, task=task, runs=tmp_path / "runs", **options)
    for n in range(8):
        plan = plan_why(found.run or "", f"not good {n}")
        explained = await explain(plan, reads=60, **options)
        assert [one.text for one in explained.spans][:3] == [f"item{n}", "not", "good"]
        assert all(one.effect is not None for one in explained.spans)


async def test_contexts_are_as_the_search_had_them(tmp_path: Path) -> None:
    options: dict[str, Any] = {"store": tmp_path / "store"}
    run = await run_by(tmp_path, model(gold()), settings=SweepSettings(demos=8, keep=0.5))
    plan = plan_why(run.path, TAUGHT)
    assert (plan.settings.demos, plan.settings.keep) == (8, 0.5)
    found = await explain(plan, endpoint=Teachers({}), **options)
    assert found.shown == 8
    trained = replace(run, record={**run.record, "settings": asdict(FoldSettings(sweeps=SMALL))})
    annealed = replace(run, record={**run.record, "settings": asdict(AnnealSettings(max_demos=12))})
    whole = replace(run, record={**run.record, "settings": asdict(AnnealSettings())})
    assert _context_settings(trained) == SMALL
    assert _context_settings(annealed).demos == 12
    assert _context_settings(whole) == SweepSettings()


async def test_fewer_rows_are_shown_demos_where_a_label_is_rare(tmp_path: Path) -> None:
    """The number is that of the half in which there are fewest, and a note says why."""
    rare = {row["id"]: TASK.labels[int(n % 13 == 0)] for n, row in enumerate(rows())}
    run = await run_by(tmp_path, model(gold()), pins=rare)
    options: dict[str, Any] = {"endpoint": model(gold()), "store": tmp_path / "store"}
    for seed in range(3):
        plan = plan_why(run.path)
        plan = plan._replace(found=replace(plan.found, seed=seed))
        taught = await teaching(plan, 32, **options)
        # Five rows of the rare label, which the halves share: two of them at most in the smaller.
        assert taught.read_by <= 4
        (notice,) = taught.notices
        assert notice.startswith(f"some demos were shown to {taught.read_by} rows, not 16: ")


async def test_what_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    run = await run_by(tmp_path, Teachers({}))
    with pytest.raises(InputError, match="has no row 'r99' with a label"):
        plan_why(run.path, "r99")
    with pytest.raises(InputError, match="no row is named"):
        await explain(plan_why(run.path), endpoint=Teachers({}), store=tmp_path / "store")
    one_label = await run_of(
        tmp_path,
        model(gold()),
        name="one",
        pins={row["id"]: "positive" for row in rows()},
        preset="zero-shot",
    )
    with pytest.raises(InputError, match="gives all rows one label"):
        plan_why(one_label.path, "r1")
    (run.path / "why.jsonl").write_bytes(b"{}\n")
    with pytest.raises(RunError, match="explain no row"):
        read_explanations(run.path)
    found = await explain(
        plan_why(run.path, TAUGHT), reads=36, endpoint=Teachers({}), store=tmp_path / "store"
    )
    assert "not kept: " in found.notices[0]


def test_a_text_is_cut_into_words_or_parts() -> None:
    row = Row("a", {"text": "one two  three\nfour five", "other": "alone", "n": 3}, 1)
    task = Task(template="{text} {other} {n}", labels=("a", "b"))
    spans = spans_of(row, task, 32)
    assert [one.text for one in spans] == ["one", "two", "three", "four", "five"]
    assert all(str(row.fields["text"])[one.start : one.end] == one.text for one in spans)
    assert [one.text for one in spans_of(row, task, 3)] == ["one two", "three\nfour", "five"]
    assert [one.text for one in spans_of(row, task, 1)] == ["one two  three", "four five"]
    long = Row("b", {"text": "x" * 60, "other": "y z", "n": 3}, 1)
    assert [len(one.text) for one in spans_of(long, task, 32)] == [24, 24, 12, 1, 1]
