from collections.abc import Iterator
from pathlib import Path

import pytest
from table_endpoint import BOS, TableEndpoint

from icm_client.coherence.problem import Demo, Query
from icm_client.endpoints.protocol import TokenIds
from icm_client.errors import EndpointUnreachable, TaskError
from icm_client.scoring.assemble import Pieces, context_ids, prompt_ids, tokenize_pieces
from icm_client.scoring.store import ScoreStore

PROMPTS = ["good film\nIs:", "bad\nIs:", "so so\nIs:", "a rather long one\nIs:", "bad\nIs:"]
LABELS = [" positive", " not positive"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScoreStore]:
    with ScoreStore.open(tmp_path / "scores.sqlite3") as opened:
        yield opened


def test_prompts_are_pieces_in_the_order_of_the_context() -> None:
    pieces = Pieces((1,), ((10, 11), (20,), (30,)), ((5,), (6, 7)), (2,))
    context = (Demo(2, 1), Demo(0, 0))
    assert context_ids(pieces, ()) == (1,)
    assert context_ids(pieces, context) == (1, 30, 6, 7, 2, 10, 11, 5, 2)
    assert prompt_ids(pieces, Query(context, 1)) == (1, 30, 6, 7, 2, 10, 11, 5, 2, 20)


async def test_assembled_ids_are_those_of_the_whole_text(store: ScoreStore) -> None:
    endpoint = TableEndpoint()
    pieces = await tokenize_pieces(PROMPTS, LABELS, "\n\n", endpoint, store)
    text = PROMPTS[0] + LABELS[1] + "\n\n" + PROMPTS[1]
    whole = await endpoint.tokenize(text, add_special=True)
    assert prompt_ids(pieces, Query((Demo(0, 1),), 1)) == whole
    assert pieces.bos == (BOS,)
    assert [len(ids) for ids in pieces.labels] == [1, 2]


async def test_each_text_is_tokenized_once_and_a_second_run_asks_nothing(
    store: ScoreStore,
) -> None:
    endpoint = TableEndpoint()
    pieces = await tokenize_pieces(PROMPTS, LABELS, "\n", endpoint, store)
    assert len(endpoint.texts) == len(set(endpoint.texts))
    endpoint.texts.clear()
    assert await tokenize_pieces(PROMPTS, LABELS, "\n", endpoint, store) == pieces
    assert endpoint.texts == []


async def test_a_label_that_merges_with_the_prompt_is_refused(store: ScoreStore) -> None:
    with pytest.raises(TaskError, match=r"'positive' merges .*'good: '.*end in a mark such as ':'"):
        await tokenize_pieces(["good: "], ["positive"], "\n", TableEndpoint(), store)


async def test_a_merge_after_a_late_row_is_found_by_its_ending(store: ScoreStore) -> None:
    prompts = [f"row {number}:\n" for number in range(50)]
    prompts[40] = "row 40: x"
    with pytest.raises(TaskError, match="'row 40: x'"):
        await tokenize_pieces(prompts, ["yes"], "\n", TableEndpoint(), store)


@pytest.mark.parametrize("place", [0, 23, 49])
async def test_every_way_in_which_prompts_end_is_checked(store: ScoreStore, place: int) -> None:
    prompts = [f"row ends in word{number}" for number in range(50)]
    prompts[place] = "row ends in x~"
    endpoint = Tilde()
    with pytest.raises(TaskError, match=f"prompt {place + 1}: the model's tokenizer merges .*x~"):
        await tokenize_pieces(prompts, [" yes", " no"], "\n", endpoint, store)
    merged: dict[int, str] = {}
    pieces = await tokenize_pieces(prompts, [" yes", " no"], "\n", Tilde(), store, merged=merged)
    assert list(merged) == [place]
    assert pieces.labels == ((endpoint.words[" yes"],), (endpoint.words[" no"],))


async def test_one_ending_is_asked_about_once(store: ScoreStore) -> None:
    endpoint = TableEndpoint()
    prompts = [f"row {number}\nAnswer:" for number in range(100)]
    await tokenize_pieces(prompts, [" yes", " no"], "\n", endpoint, store)
    # BOS, each prompt, each label after one of them, the separator alone and after each label.
    assert len(endpoint.texts) == 1 + 100 + 2 + 3


class Tilde(TableEndpoint):
    """Writes a text that ends in "~" and what follows as one token."""

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        return await super().tokenize(text.replace("~ ", "~_"), add_special=add_special)


class Moody(TableEndpoint):
    """Writes a label as one token after "a:" and as two after all else."""

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        text = text.replace("a: yes", "a: y-es").replace("b: yes", "b: y es")
        return await super().tokenize(text, add_special=add_special)


async def test_a_label_written_differently_from_row_to_row_is_refused(store: ScoreStore) -> None:
    with pytest.raises(TaskError, match="differently after 'a:' and after 'b:'"):
        await tokenize_pieces(["a:", "b:"], [" yes"], "\n", Moody(), store)


class Dummy(TableEndpoint):
    """Puts a space before every text, as SentencePiece does."""

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        return await super().tokenize(f" {text}" if text else "", add_special=add_special)


async def test_a_separator_is_written_as_it_stands_after_a_label(store: ScoreStore) -> None:
    endpoint = Dummy()
    pieces = await tokenize_pieces(["a:"], [" yes"], "\n", endpoint, store)
    assert pieces.separator == (endpoint.words["\n"],)


async def test_an_empty_prompt_is_refused(store: ScoreStore) -> None:
    with pytest.raises(TaskError, match="item 1"):
        await tokenize_pieces(["a", ""], [" yes"], "\n", TableEndpoint(), store)


class Gone(TableEndpoint):
    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        raise EndpointUnreachable(text + str(add_special))


async def test_a_failure_is_one_typed_error(store: ScoreStore) -> None:
    with pytest.raises(EndpointUnreachable):
        await tokenize_pieces(PROMPTS, LABELS, "\n", Gone(), store)
