"""Prompts in pieces are what they would be written out: to keys, to the planner, to servers."""

from hypothesis import given
from hypothesis import strategies as st

from icm_client.endpoints.protocol import Read
from icm_client.scoring.planner import assign_lanes, plan, shared
from icm_client.scoring.prompts import Prompt, Question, score_keys, written_out
from icm_client.scoring.scorer import different

# Few ids and short pieces: equal prompts cut in different places are met as well.
HEADS = ((), (1,), (1, 2), (1, 2, 1), (2, 1, 2, 1))
prompts = st.builds(
    Prompt, st.sampled_from(HEADS), st.lists(st.integers(1, 2), max_size=4).map(tuple)
)
questions = st.lists(st.builds(Question, prompts, st.sampled_from([(5, 7), (6,)])), max_size=12)


@given(prompts, prompts, st.slices(10))
def test_a_prompt_in_pieces_behaves_as_its_ids_do(one: Prompt, two: Prompt, part: slice) -> None:
    ids, others = one.head + one.tail, two.head + two.tail
    assert one[:] == ids
    assert one[part] == ids[part]
    assert len(one) == len(ids)
    assert [one[place] for place in range(-len(ids), len(ids))] == [*ids, *ids]
    more = (9,)
    assert (one + more)[:] == ids + more
    assert (one == two) == (ids == others)
    assert (one < two) == (ids < others)
    assert one != two or hash(one) == hash(two)
    assert shared(one, two) == shared(ids, others)


@given(questions)
def test_pieces_change_no_key_no_order_and_no_lane(asked: list[Question]) -> None:
    reads = [written_out(question) for question in asked]
    assert score_keys("f", asked) == score_keys("f", reads)
    assert plan(asked, min_shared=0) == plan(reads, min_shared=0)
    branches = plan(reads, min_shared=1)
    assert assign_lanes(branches, asked, 3) == assign_lanes(branches, reads, 3)


@given(questions)
def test_reads_are_told_apart_by_what_they_ask(asked: list[Question]) -> None:
    found, needed = different([asked[:5], asked[5:]], "f")
    reads = [written_out(question) for question in found]
    assert len(set(reads)) == len(reads)
    own = [[reads[place] for place in places] for places in needed]
    assert own == [[written_out(q) for q in some] for some in (asked[:5], asked[5:])]


def test_a_key_is_what_it_has_always_been() -> None:
    """Scores that were stored by any version are found again."""
    read = Read((1, 2, 3, 70_000), (5676, 4414))
    key = "59727d5a0d598630990af5bdcf440f3e"
    pieces = Question(Prompt((1, 2), (3, 70_000)), (5676, 4414))
    assert [one.hex() for one in score_keys("0123456789abcdef", [read, pieces])] == [key, key]
