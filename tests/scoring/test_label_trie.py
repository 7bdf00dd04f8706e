import pytest

from icm_client.endpoints.protocol import Answer, Exactness, Read
from icm_client.errors import TaskError
from icm_client.scoring.prompts import LabelTrie


def test_single_token_labels_are_one_read() -> None:
    trie = LabelTrie([(9,), (4,), (6,)])
    assert trie.reads((1, 2)) == (Read((1, 2), (4, 6, 9)),)
    assert trie.log_probs([Answer((-1.0, -2.0, -3.0), Exactness.EXACT)]) == [-3.0, -1.0, -2.0]


def test_a_label_of_several_tokens_is_the_sum_of_its_chain() -> None:
    trie = LabelTrie([(5, 6, 7), (5, 8), (9,)])
    reads = trie.reads((1,))
    assert reads == (Read((1,), (5, 9)), Read((1, 5), (6, 8)), Read((1, 5, 6), (7,)))
    answers = [
        Answer((-0.25, -2.0), Exactness.EXACT),
        Answer((-0.5, -1.0), Exactness.EXACT),
        Answer((-4.0,), Exactness.EXACT),
    ]
    assert trie.log_probs(answers) == [-4.75, -1.25, -2.0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([(5,), (5,)], "cannot be told apart"),
        ([(5, 6), (7,), (5,)], r"'label 2' and 'label 0' cannot be told apart.*\(5 6\)"),
        ([(5,), ()], "'label 1' has no tokens"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    labels: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        LabelTrie(labels)


def test_describes_labels_by_their_names() -> None:
    assert LabelTrie([(5,), (6, 7)], [" yes", " no"]).describe() == (
        (" yes", (5,)),
        (" no", (6, 7)),
    )
