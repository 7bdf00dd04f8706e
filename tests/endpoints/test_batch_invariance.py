"""No batch under 8 tokens may fill a cache that is read, whatever was sent before."""

from hypothesis import given
from hypothesis import strategies as st

from icm_client.endpoints.llama_cpp import MICRO_BATCH, preparation

tokens = st.integers(0, 3)


def sizes(cached: tuple[int, ...], prompt: tuple[int, ...]) -> list[int]:
    """Batch sizes in which llama.cpp computes what is not cached of `prompt`."""
    common = 0
    while common < min(len(cached), len(prompt) - 1) and cached[common] == prompt[common]:
        common += 1
    new = len(prompt) - common
    return [MICRO_BATCH] * (new // MICRO_BATCH) + [new % MICRO_BATCH] * bool(new % MICRO_BATCH)


@given(
    st.lists(tokens, max_size=40), st.lists(tokens, min_size=8, max_size=40), st.integers(0, 1200)
)
def test_every_batch_that_is_kept_has_8_tokens(
    tail: list[int], other: list[int], shared: int
) -> None:
    common = (5,) * shared
    cached, prompt = common + tuple(tail), common + tuple(other)
    ahead = preparation(cached, prompt)
    if ahead is not None:
        assert ahead[:-1] == prompt[: len(ahead) - 1]
        assert ahead[-1] != prompt[len(ahead) - 1]
        kept = sizes(cached, ahead)
        if len(kept) > 1 or kept[0] > 1:  # one token alone is the odd one, which is dropped
            assert min(kept) >= 8
        cached = ahead
    assert min(sizes(cached, prompt)) >= 8


@given(st.lists(tokens, max_size=9), st.lists(tokens, min_size=1, max_size=7))
def test_a_short_prompt_is_computed_whole(cached: list[int], prompt: list[int]) -> None:
    ahead = preparation(tuple(cached), tuple(prompt))
    before = tuple(cached) if ahead is None else ahead
    assert sizes(before, tuple(prompt)) == [len(prompt)]
