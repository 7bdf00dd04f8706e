"""Prompts in two pieces are what they would be written out: to keys, to the planner, to servers."""

from hypothesis import given
from hypothesis import strategies as st

from icm_client.endpoints.protocol import Read, TokenIds, common_prefix
from icm_client.scoring.planner import assign_lanes, plan
from icm_client.scoring.prompts import Question, score_keys
from icm_client.scoring.scorer import different

# Few ids and short pieces: equal prompts cut in different places are met as well.
HEADS = ((), (1,), (1, 2), (1, 2, 1), (2, 1, 2, 1))
ids = st.lists(st.integers(1, 2), max_size=4).map(tuple)
questions = st.builds(Question, st.sampled_from(HEADS), ids, st.sampled_from([(5, 7), (6,)]))
question_lists = st.lists(questions, max_size=12)


def in_one_piece(asked: list[Question]) -> list[Question]:
    return [Question((), *question.read()) for question in asked]


@given(questions, questions)
def test_a_prompt_in_pieces_behaves_as_its_ids_do(one: Question, two: Question) -> None:
    assert one.read() == Read(one.head + one.tail, one.wanted)
    assert len(one) == len(one.read().prompt)
    assert (one < two) == (one.read().prompt < two.read().prompt)


@given(ids, ids)
def test_what_two_prompts_share_is_their_longest_common_prefix(
    one: TokenIds, other: TokenIds
) -> None:
    ends = range(min(len(one), len(other)) + 1)
    assert common_prefix(one, other) == max(end for end in ends if one[:end] == other[:end])


@given(question_lists)
def test_pieces_change_no_key_no_order_and_no_lane(asked: list[Question]) -> None:
    whole = in_one_piece(asked)
    assert score_keys("f", asked) == score_keys("f", [question.read() for question in asked])
    assert score_keys("f", asked) == score_keys("f", whole)
    assert plan(asked, min_shared=0) == plan(whole, min_shared=0)
    indices = range(len(asked))
    assert assign_lanes(asked, indices, 3) == assign_lanes(whole, indices, 3)


@given(question_lists)
def test_repeated_questions_are_found_by_what_they_ask(asked: list[Question]) -> None:
    found, needed = different([asked[:5], asked[5:]], "f")
    reads = [question.read() for question in found]
    assert len(set(reads)) == len(reads)
    own = [[reads[place] for place in places] for places in needed]
    assert own == [[question.read() for question in some] for some in (asked[:5], asked[5:])]


def test_a_key_is_what_it_has_always_been() -> None:
    """Scores that were stored by any version are found again."""
    read = Read((1, 2, 3, 70_000), (5676, 4414))
    key = "59727d5a0d598630990af5bdcf440f3e"
    pieces = Question((1, 2), (3, 70_000), (5676, 4414))
    assert [one.hex() for one in score_keys("0123456789abcdef", [read, pieces])] == [key, key]
