"""The endpoint that is shipped for tests: its formula, its tokens, its counts."""

import math

import pytest

from icm_client import Task, label, rows_from
from icm_client.endpoints import Endpoint, Exactness, Read
from icm_client.errors import PromptTooLong
from icm_client.testing import Axis, PlantedConcept

PROMPTS = {"Q: a\nA:": 0, "Q: b\nA:": 1, "Q: c d\nA:": 0}
LABELS = (" yes", " no")


def concept(
    *, meaning: float = 0.0, bias: list[float] | None = None, context_length: int = 8192
) -> PlantedConcept:
    return PlantedConcept(
        PROMPTS,
        LABELS,
        strength=3.0,
        meaning=meaning,
        bias=bias,
        noise=0.0,
        context_length=context_length,
    )


def log_odds(log_probs: list[float]) -> float:
    assert math.fsum(map(math.exp, log_probs)) == pytest.approx(1)
    return log_probs[0] - log_probs[1]


def test_the_formula_by_hand() -> None:
    target, *others = PROMPTS
    right = [(others[0], 1), (others[1], 0)]
    half = [(others[0], 1), (others[1], 1)]
    wrong = [(others[0], 0), (others[1], 1)]
    one = concept()
    assert log_odds(one.label_log_probs(right, target)) == pytest.approx(3)
    assert log_odds(one.label_log_probs(half, target)) == pytest.approx(0)
    assert log_odds(one.label_log_probs(wrong, target)) == pytest.approx(-3)
    assert log_odds(one.label_log_probs([], target)) == pytest.approx(0)
    # 3 from the context, 0.5 from the word, 2 - 1 from taste
    other = concept(meaning=0.5, bias=[2, 1])
    assert log_odds(other.label_log_probs(right, target)) == pytest.approx(4.5)


def test_the_formula_with_a_second_axis_by_hand() -> None:
    target, *others = PROMPTS  # classes 0; 1, 0
    second = Axis(dict(zip(PROMPTS, (1, 0, 0), strict=True)), strength=4.0, meaning=0.25)
    one = PlantedConcept(PROMPTS, LABELS, strength=3.0, meaning=0.5, noise=0.0, second=second)
    # The words say 0.5 by the first axis, and 0.25 against it by the second.
    assert log_odds(one.label_log_probs([], target)) == pytest.approx(0.25)
    # Demos named by the first axis, whose votes cancel on the second, and the other way round.
    first_alone = [(others[0], 1), (others[1], 0)]
    assert log_odds(one.label_log_probs(first_alone, target)) == pytest.approx(0.25 + 3)
    second_alone = [(others[0], 1), (others[1], 1)]  # its class 0 is named 1, so 1 is named 0
    assert log_odds(one.label_log_probs(second_alone, target)) == pytest.approx(0.25 + 4)
    both = [(others[1], 0)]
    assert log_odds(one.label_log_probs(both, target)) == pytest.approx(0.25 + 3 - 4)


async def test_tokens_are_the_text_s_own_and_labels_have_their_own() -> None:
    one, other = concept(), concept(meaning=1)
    prompt = "Q: a\nA:"
    ids = await one.tokenize(prompt, add_special=False)
    assert ids == await other.tokenize(prompt, add_special=False)
    assert await one.tokenize(prompt, add_special=True) == (1, *ids)
    whole = await one.tokenize(f"{prompt} yes\n\n", add_special=False)
    assert whole[: len(ids)] == ids
    assert len(whole) == len(ids) + 3
    assert all(1 < token < 2**31 for token in whole)


async def test_an_answer_is_the_formula_s() -> None:
    one = concept(bias=[0.3, 0])
    text = "Q: b\nA: no\n\nQ: c d\nA: no\n\nQ: a\nA:"
    prompt = await one.tokenize(text, add_special=True)
    wanted = [(await one.tokenize(label, add_special=False))[0] for label in LABELS]
    (answer,) = await one.read([Read(prompt, (*wanted, 5))])
    expected = one.label_log_probs([("Q: b\nA:", 1), ("Q: c d\nA:", 1)], "Q: a\nA:")
    assert answer.exactness is Exactness.EXACT
    assert answer.log_probs[:2] == pytest.approx(expected)
    assert -math.inf < answer.log_probs[2] < -20


async def test_labels_of_several_tokens_add_up() -> None:
    one = PlantedConcept({"x:": 0}, (" not good", " not bad", " fine"), noise=1.0)
    prompt = await one.tokenize("x:", add_special=True)
    no, good, bad = (await one.tokenize(" not good bad", add_special=False))[:3]
    (fine,) = await one.tokenize(" fine", add_special=False)
    (first,) = await one.read([Read(prompt, (no, fine))])
    (second,) = await one.read([Read((*prompt, no), (good, bad))])
    chained = [first.log_probs[0] + log_prob for log_prob in second.log_probs]
    chained += first.log_probs[1:]
    assert chained == pytest.approx(one.label_log_probs([], "x:"))


async def test_what_a_prompt_shares_with_the_one_before_is_cached() -> None:
    one = concept()
    a = await one.tokenize("Q: a\nA:", add_special=True)  # BOS, Q:, a, newline, A:
    b = await one.tokenize("Q: b\nA:", add_special=True)
    for prompt, computed, cached in ((a, 5, 0), (a, 1, 4), (b, 3, 2)):
        before = (one.usage.computed_tokens, one.usage.cached_tokens)
        await one.read([Read(prompt, (9,))])
        after = (one.usage.computed_tokens, one.usage.cached_tokens)
        assert (after[0] - before[0], after[1] - before[1]) == (computed, cached)
    await one.warm(b)
    assert one.usage.requests == 4


async def test_what_cannot_be_answered_is_refused() -> None:
    one = concept(context_length=5)
    with pytest.raises(PromptTooLong):
        await one.read([Read((1, 2, 3, 4, 5), (9,))])
    unknown = await one.tokenize("Q: z", add_special=True)
    with pytest.raises(ValueError, match="planted"):
        await one.read([Read(unknown, (9,))])


def test_everything_in_the_formula_is_in_the_fingerprint() -> None:
    variants: list[Endpoint] = [concept(), concept(meaning=1), concept(bias=[1, 0])]
    variants += [PlantedConcept(PROMPTS, LABELS, seed=seed) for seed in (0, 1)]
    variants.append(PlantedConcept({**PROMPTS, "Q: b\nA:": 0}, LABELS))
    axes = [Axis(PROMPTS), Axis(PROMPTS, strength=1.0), Axis(PROMPTS, meaning=1.0)]
    axes.append(Axis(dict.fromkeys(PROMPTS, 1)))
    variants += [PlantedConcept(PROMPTS, LABELS, second=second) for second in axes]
    assert len({one.identity.fingerprint for one in variants}) == len(variants)
    assert concept().identity == concept().identity


def test_a_concept_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        PlantedConcept({"x": 2}, LABELS)
    with pytest.raises(ValueError, match="one bias a label"):
        PlantedConcept(PROMPTS, LABELS, bias=[1])
    with pytest.raises(ValueError, match="0 to 1"):
        PlantedConcept(PROMPTS, LABELS, second=Axis(dict.fromkeys(PROMPTS, 2)))
    with pytest.raises(ValueError, match="second axis"):
        PlantedConcept(PROMPTS, LABELS, second=Axis({"Q: a\nA:": 0}))


async def test_the_example_in_the_docs_finds_its_classes(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    task = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
    rows = rows_from(["great", "awful", "lovely", "dull"])
    classes = dict(zip(task.render_all(rows), [0, 1, 0, 1], strict=True))
    endpoint = PlantedConcept(classes, task.label_texts)
    found = await label(
        rows, task=task, endpoint=endpoint, store=tmp_path_factory.mktemp("s") / "scores.sqlite3"
    )
    assert [row.label for row in found.rows] == ["positive", "negative"] * 2
