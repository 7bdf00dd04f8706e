from itertools import chain, pairwise

from hypothesis import given
from hypothesis import strategies as st

from icm_client.endpoints.protocol import TokenIds, common_prefix
from icm_client.scoring.planner import Branch, assign_lanes, optimal_tokens, plan, prune
from icm_client.scoring.prompts import Question

prompts = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)
question_lists = st.lists(
    st.builds(Question, st.just(()), prompts, st.sampled_from([(1, 2), (3,)])), max_size=25
)
thresholds = st.integers(0, 4)


def prefixes(asked: list[TokenIds]) -> int:
    return len({prompt[:end] for prompt in asked for end in range(1, len(prompt) + 1)})


def slot_tokens(share: list[int], questions: list[Question]) -> int:
    """Return what a slot prefills that keeps the last prompt."""
    asked = [questions[index].tail for index in share]
    return sum(
        len(prompt) - common_prefix(before, prompt) for before, prompt in pairwise([(), *asked])
    )


def shared_cache_tokens(branches: tuple[Branch, ...], questions: list[Question]) -> int:
    """Return what a server prefills whose cache knows prefixes only where a request ended."""
    cached: set[TokenIds] = {()}
    tokens = 0
    for branch in branches:
        followers = [questions[index].tail for index in branch.followers]
        for sent in ([branch.prefix], followers):  # each list at once
            for prompt in sent:
                known = max(end for end in range(len(prompt) + 1) if prompt[:end] in cached)
                tokens += len(prompt) - known
            cached.update(sent)
    return tokens


@given(question_lists, thresholds)
def test_every_question_is_in_one_branch_and_follows_its_prefix(
    questions: list[Question], min_shared: int
) -> None:
    branches = plan(questions, min_shared=min_shared)
    followers = [index for branch in branches for index in branch.followers]
    assert sorted(followers) == list(range(len(questions)))
    for number, branch in enumerate(branches):
        for index in branch.followers:
            prompt = questions[index].tail
            assert prompt[: len(branch.prefix)] == branch.prefix
            assert len(prompt) > len(branch.prefix)
        own = [questions[index].tail for index in branch.followers]
        assert own == sorted(own)
        if branch.parent is not None:
            outer = branches[branch.parent].prefix
            assert branch.parent < number
            assert branch.prefix[: len(outer)] == outer
            assert len(branch.prefix) - len(outer) > min_shared
        elif branch.prefix:
            assert len(branch.prefix) > min_shared


@given(question_lists, thresholds, st.sets(st.integers(0, 24)))
def test_pruning_drops_only_what_is_not_kept(
    questions: list[Question], min_shared: int, keep: set[int]
) -> None:
    branches = plan(questions, min_shared=min_shared)
    pruned = prune(branches, keep)
    kept = [index for branch in pruned for index in branch.followers]
    assert sorted(kept) == sorted(keep & set(range(len(questions))))
    before = {index: branch for branch in branches for index in branch.followers}
    for branch in pruned:
        for index in branch.followers:
            assert branch.prefix == before[index].prefix
    parents = {branch.parent for branch in pruned}
    for number, branch in enumerate(pruned):
        assert branch.followers or number in parents
        if branch.parent is not None:
            outer = pruned[branch.parent].prefix
            assert branch.prefix[: len(outer)] == outer


@given(st.lists(prompts, max_size=25))
def test_optimal_tokens_counts_distinct_prefixes(asked: list[TokenIds]) -> None:
    assert optimal_tokens(asked) == prefixes(asked)


@given(question_lists, st.sets(st.integers(0, 24)), st.integers(1, 4))
def test_lanes_share_out_every_question_once(
    questions: list[Question], some: set[int], lanes: int
) -> None:
    indices = sorted(some & set(range(len(questions))))
    assigned = assign_lanes(questions, indices, lanes)
    assert len(assigned) == lanes
    assert sorted(chain.from_iterable(assigned)) == indices
    # No lane does more than all the work, or less than its fair share leaves over.
    longest = max(slot_tokens(share, questions) for share in assigned)
    optimal = optimal_tokens([questions[index].tail for index in indices])
    assert optimal / lanes <= longest <= optimal


@given(question_lists)
def test_one_lane_prefills_the_optimum(questions: list[Question]) -> None:
    (share,) = assign_lanes(questions, range(len(questions)), 1)
    assert slot_tokens(share, questions) == optimal_tokens([q.tail for q in questions])


@given(question_lists, st.integers(2, 3))
def test_the_longest_lane_is_as_short_as_cuts_allow(questions: list[Question], lanes: int) -> None:
    questions = sorted(questions[:8])
    assigned = assign_lanes(questions, range(len(questions)), lanes)

    def best(rest: list[int], left: int) -> int:
        if left == 1 or not rest:
            return slot_tokens(rest, questions)
        return min(
            max(slot_tokens(rest[:cut], questions), best(rest[cut:], left - 1))
            for cut in range(len(rest) + 1)
        )

    longest = max(slot_tokens(share, questions) for share in assigned)
    assert longest == best(list(range(len(questions))), lanes)


def fold_questions(folds: int, followers: int) -> list[Question]:
    context = [tuple(range(fold * 1000, fold * 1000 + 100)) for fold in range(folds)]
    return [
        Question((), (*context[fold], 9000 + number, number), (1, 2))
        for number in range(followers)
        for fold in range(folds)
    ]


def test_fold_contexts_are_one_branch_each_and_prefill_the_optimum() -> None:
    questions = fold_questions(3, 10)
    branches = plan(questions)
    assert [(len(branch.prefix), len(branch.followers)) for branch in branches] == [(100, 10)] * 3
    assert shared_cache_tokens(branches, questions) == optimal_tokens(
        [question.tail for question in questions]
    )


def test_nested_contexts_are_nested_branches_and_prefill_the_optimum() -> None:
    outer, inner = tuple(range(100)), tuple(range(200, 250))
    questions = [Question((), (*outer, 500 + n, 1), (1, 2)) for n in range(4)]
    questions += [Question((), (*outer, *inner, 500 + n, 1), (1, 2)) for n in range(4)]
    branches = plan(questions)
    assert [(branch.prefix, branch.followers, branch.parent) for branch in branches] == [
        (outer, (0, 1, 2, 3), None),
        (outer + inner, (4, 5, 6, 7), 0),
    ]
    assert shared_cache_tokens(branches, questions) == optimal_tokens(
        [question.tail for question in questions]
    )


def test_the_rest_of_a_label_follows_its_first_token_and_is_no_branch() -> None:
    questions = []
    for number in range(3):
        prompt = (*range(100), *range(1000 * number, 1000 * number + 60))
        questions += [
            Question((), prompt, (1, 2)),
            Question((), (*prompt, 1), (3,)),
            Question((), (*prompt, 2), (4,)),
        ]
    assert plan(questions) == (Branch(tuple(range(100)), (0, 1, 2, 3, 4, 5, 6, 7, 8)),)


def test_little_in_common_is_sent_as_it_is() -> None:
    questions = [Question((), (1, 2, 3, number), (1,)) for number in range(5)]
    assert plan(questions) == (Branch((), (0, 1, 2, 3, 4)),)


def test_deep_trees_need_no_recursion() -> None:
    questions = [Question((), tuple(range(length)), (1,)) for length in range(1, 3000)]
    assert sum(len(branch.followers) for branch in plan(questions, min_shared=0)) == len(questions)


def test_whole_branches_where_splitting_gains_nothing() -> None:
    questions = fold_questions(4, 10)
    assigned = assign_lanes(questions, range(40), 2)
    contexts = [{questions[index].tail[0] for index in share} for share in assigned]
    assert contexts == [{0, 1000}, {2000, 3000}]


def test_one_big_branch_is_split_over_lanes() -> None:
    questions = fold_questions(1, 1000)
    assigned = assign_lanes(questions, range(1000), 3)
    assert max(slot_tokens(share, questions) for share in assigned) <= 100 + 2 * 334
