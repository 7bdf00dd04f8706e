"""A server that takes only text, through assembly, planning and store; and exactness on its way."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from icm_client.coherence.problem import Demo, Query
from icm_client.endpoints.parsing import fingerprint
from icm_client.endpoints.protocol import (
    Answer,
    Exactness,
    LabelToken,
    Read,
    ServerIdentity,
    TextEndpoint,
    TokenIds,
    Usage,
    worst,
)
from icm_client.errors import TaskError
from icm_client.scoring import Scorer, ScoreStore, prompt_ids, tokenize_pieces

PROMPTS = ["good film:", "bad film:", "so so:"]
LABELS = [" positive", " negative"]


class Texts:
    """Answers `-len(prompt)` for each label, and a floor after a prompt that begins with 'so'."""

    def __init__(self, tokens: dict[str, str] | None = None) -> None:
        self.identity = ServerIdentity("text", "t", 1000, fingerprint({"kind": "text"}))
        self.lanes = 0
        self.usage = Usage()
        self.names: dict[int, LabelToken] = {}
        self.tokens = tokens or {}
        self.asked: list[str] = []
        self.prompts: list[str] = []

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        del add_special
        return tuple(map(ord, text))

    async def find_label_token(self, label: str, *, prompt: str, separator: str) -> LabelToken:
        self.asked.append(f"{prompt}{label}{separator}")
        return LabelToken(label, self.tokens.get(label, label))

    def name_label(self, found: LabelToken) -> int:
        number = 0x110000 + sum(map(ord, found.label + found.token))
        self.names[number] = found
        return number

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        del lane
        return [self._answer(read) for read in reads]

    def _answer(self, read: Read) -> Answer:
        text = "".join(
            self.names[one].label if one in self.names else chr(one) for one in read.prompt
        )
        self.prompts.append(text)
        floor = text.rpartition("\n")[2].startswith("so")
        value = -float(len(text))
        return Answer((value,) * len(read.wanted), Exactness.FLOOR if floor else Exactness.TOP_K)

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        del prefix, lane

    async def aclose(self) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScoreStore]:
    with ScoreStore.open(tmp_path / "scores.sqlite3") as opened:
        yield opened


async def test_assembled_prompts_are_the_text(store: ScoreStore) -> None:
    endpoint = Texts()
    assert isinstance(endpoint, TextEndpoint)
    pieces = await tokenize_pieces(PROMPTS, LABELS, "\n", endpoint, store)
    query = Query((Demo(0, 1), Demo(2, 0)), 1)
    scorer = Scorer(endpoint, store, pieces)
    await scorer([query])
    assert endpoint.prompts == ["good film: negative\nso so: positive\nbad film:"]
    assert len(prompt_ids(pieces, query)) < len(endpoint.prompts[0])  # a label is one id


async def test_a_second_process_asks_no_label_and_one_score_to_compare(store: ScoreStore) -> None:
    first = Texts({" positive": " pos"})
    pieces = await tokenize_pieces(PROMPTS, LABELS, "\n", first, store)
    query = Query((Demo(0, 1),), 1)
    scores = await Scorer(first, store, pieces)([query])
    assert first.asked == ["good film: positive\n", "good film: negative\n"]
    second = Texts()
    again = await tokenize_pieces(PROMPTS, LABELS, "\n", second, store)
    assert (await Scorer(second, store, again)([query])).tolist() == scores.tolist()
    assert again == pieces
    assert second.asked == []
    assert second.prompts == first.prompts
    assert LabelToken(" positive", " pos") in second.names.values()


async def test_labels_that_begin_with_one_token_are_refused(store: ScoreStore) -> None:
    endpoint = Texts({" possible": " pos", " positive": " pos"})
    with pytest.raises(TaskError, match=r"' possible' and ' positive'.*token ' pos'"):
        await tokenize_pieces(PROMPTS, [" possible", " positive"], "\n", endpoint, store)


async def test_an_empty_prompt_is_refused(store: ScoreStore) -> None:
    with pytest.raises(TaskError, match="item 1"):
        await tokenize_pieces(["a", ""], LABELS, "\n", Texts(), store)


async def test_an_item_keeps_the_worst_exactness_it_met(store: ScoreStore) -> None:
    endpoint = Texts()
    pieces = await tokenize_pieces(PROMPTS, LABELS, "\n", endpoint, store)
    for _ in range(2):  # the second time from the store
        scorer = Scorer(endpoint, store, pieces)
        await scorer([Query((), 2), Query((), 0)])
        assert scorer.exactness == {2: Exactness.FLOOR, 0: Exactness.TOP_K}
        await scorer([Query((Demo(1, 0),), 2)])
        assert scorer.exactness[2] is Exactness.FLOOR


def test_the_worst_is_the_least_reliable() -> None:
    assert worst([]) is Exactness.EXACT
    assert worst([Exactness.TOP_K, Exactness.EXACT]) is Exactness.TOP_K
    assert worst([Exactness.FLOOR, Exactness.TOP_K]) is Exactness.FLOOR
