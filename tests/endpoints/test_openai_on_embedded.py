"""llama.cpp's own OpenAI route, on the real model: a top-k server whose exact answers are known."""

import pytest

from icm_client.endpoints import EmbeddedEndpoint, Exactness, OpenAITopKEndpoint, Read
from icm_client.errors import LabelMissing

LABELS = (" positive", " negative")
SEPARATOR = "\n\n"
ROW = "Review: it never comes to life\nSentiment:"
PROMPT = (
    "Review: a great movie with lots of fun\nSentiment: positive\n\n"
    "Review: the plot was dull and the acting awful\nSentiment: negative\n\n" + ROW
)


@pytest.fixture
async def top_k(embedded: EmbeddedEndpoint) -> OpenAITopKEndpoint:
    inner = (await embedded._started(instead_of=None)).endpoint
    return await OpenAITopKEndpoint.open(inner._transport)  # which the other one closes


async def test_the_top_k_agrees_with_the_whole_vocabulary(
    embedded: EmbeddedEndpoint, top_k: OpenAITopKEndpoint
) -> None:
    found = [
        await top_k.find_label_token(label, prompt=ROW, separator=SEPARATOR) for label in LABELS
    ]
    assert [one.token for one in found] == list(LABELS)
    wanted = tuple(map(top_k.name_label, found))
    (top,) = await top_k.read([Read(tuple(map(ord, PROMPT)), wanted)])
    ids = await embedded.tokenize(PROMPT, add_special=True)
    tokens = [(await embedded.tokenize(label, add_special=False))[0] for label in LABELS]
    # Asked again from scratch: the slot holds what the other route left there.
    await embedded.read([Read((9, 9, 9), tuple(tokens))])
    (exact,) = await embedded.read([Read(ids, tuple(tokens))])
    assert top.exactness is Exactness.TOP_K
    assert top.log_probs == pytest.approx(exact.log_probs, abs=0.25)


async def test_a_demo_is_text_again_in_the_prompt(top_k: OpenAITopKEndpoint) -> None:
    found = [
        await top_k.find_label_token(label, prompt=ROW, separator=SEPARATOR) for label in LABELS
    ]
    positive, negative = map(top_k.name_label, found)
    demo = "Review: a great movie with lots of fun\nSentiment:"
    pieces = (*map(ord, demo), positive, *map(ord, SEPARATOR + ROW))
    (by_id,) = await top_k.read([Read(pieces, (positive, negative))])
    text = f"{demo} positive{SEPARATOR}{ROW}"
    (by_text,) = await top_k.read([Read(tuple(map(ord, text)), (positive, negative))])
    assert by_id.log_probs == pytest.approx(by_text.log_probs, abs=0.25)


async def test_what_the_model_never_says_is_missing(top_k: OpenAITopKEndpoint) -> None:
    found = await top_k.find_label_token(" positive", prompt=ROW, separator=SEPARATOR)
    wanted = (top_k.name_label(found),)
    with pytest.raises(LabelMissing, match="20 most probable"):
        await top_k.read([Read(tuple(map(ord, "1, 2, 3, 4, 5,")), wanted)])
