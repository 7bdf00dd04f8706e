from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from icm_client.endpoints.protocol import Read, TokenIds
from icm_client.scoring.planner import Branch, assign_lanes, optimal_tokens, plan, prune, shared

prompts = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)
reads_lists = st.lists(st.builds(Read, prompts, st.sampled_from([(1, 2), (3,)])), max_size=25)
thresholds = st.integers(0, 4)


def prefixes(asked: list[TokenIds]) -> int:
    return len({prompt[:end] for prompt in asked for end in range(1, len(prompt) + 1)})


def slot_tokens(branches: list[Branch], reads: list[Read]) -> int:
    """Return what a slot prefills that keeps the last prompt."""
    tokens = 0
    before: TokenIds = ()
    for index in chain.from_iterable(branch.followers for branch in branches):
        tokens += len(reads[index].prompt) - shared(before, reads[index].prompt)
        before = reads[index].prompt
    return tokens


def shared_cache_tokens(branches: tuple[Branch, ...], reads: list[Read]) -> int:
    """Return what a server prefills whose cache knows prefixes only where a request ended."""
    cached: set[TokenIds] = {()}
    tokens = 0
    for branch in branches:
        followers = [reads[index].prompt for index in branch.followers]
        for sent in ([branch.prefix], followers):  # each list at once
            for prompt in sent:
                known = max(end for end in range(len(prompt) + 1) if prompt[:end] in cached)
                tokens += len(prompt) - known
            cached.update(sent)
    return tokens


@given(reads_lists, thresholds)
def test_every_read_is_in_one_branch_and_follows_its_prefix(
    reads: list[Read], min_shared: int
) -> None:
    branches = plan(reads, min_shared=min_shared)
    followers = [index for branch in branches for index in branch.followers]
    assert sorted(followers) == list(range(len(reads)))
    for number, branch in enumerate(branches):
        for index in branch.followers:
            prompt = reads[index].prompt
            assert prompt[: len(branch.prefix)] == branch.prefix
            assert len(prompt) > len(branch.prefix)
        own = [reads[index].prompt for index in branch.followers]
        assert own == sorted(own)
        if branch.parent is not None:
            outer = branches[branch.parent].prefix
            assert branch.parent < number
            assert branch.prefix[: len(outer)] == outer
            assert len(branch.prefix) - len(outer) > min_shared
        elif branch.prefix:
            assert len(branch.prefix) > min_shared


@given(reads_lists, thresholds, st.sets(st.integers(0, 24)))
def test_pruning_drops_only_what_is_not_kept(
    reads: list[Read], min_shared: int, keep: set[int]
) -> None:
    branches = plan(reads, min_shared=min_shared)
    pruned = prune(branches, keep)
    kept = [index for branch in pruned for index in branch.followers]
    assert sorted(kept) == sorted(keep & set(range(len(reads))))
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


@given(reads_lists, thresholds, st.integers(1, 4))
def test_lanes_share_out_every_read_once(reads: list[Read], min_shared: int, lanes: int) -> None:
    branches = plan(reads, min_shared=min_shared)
    assigned = assign_lanes(branches, reads, lanes)
    assert len(assigned) == lanes
    followers = [index for lane in assigned for branch in lane for index in branch.followers]
    assert sorted(followers) == list(range(len(reads)))
    planned = {index: branch.prefix for branch in branches for index in branch.followers}
    for branch in chain.from_iterable(assigned):
        assert {planned[index] for index in branch.followers} <= {branch.prefix}
    # No lane does more than all the work, or less than its fair share leaves over.
    longest = max(slot_tokens(lane, reads) for lane in assigned)
    optimal = optimal_tokens([read.prompt for read in reads])
    assert optimal / lanes <= longest <= optimal


@given(reads_lists, thresholds)
def test_one_lane_prefills_the_optimum(reads: list[Read], min_shared: int) -> None:
    (lane,) = assign_lanes(plan(reads, min_shared=min_shared), reads, 1)
    assert slot_tokens(lane, reads) == optimal_tokens([read.prompt for read in reads])


@given(reads_lists, st.integers(2, 3))
def test_the_longest_lane_is_as_short_as_cuts_allow(reads: list[Read], lanes: int) -> None:
    reads = sorted(reads[:8])
    assigned = assign_lanes(plan(reads, min_shared=0), reads, lanes)

    def cost(part: list[int]) -> int:
        return slot_tokens([Branch((), tuple(part))], reads)

    def best(rest: list[int], left: int) -> int:
        if left == 1 or not rest:
            return cost(rest)
        return min(
            max(cost(rest[:cut]), best(rest[cut:], left - 1)) for cut in range(len(rest) + 1)
        )

    longest = max(slot_tokens(lane, reads) for lane in assigned)
    assert longest == best(list(range(len(reads))), lanes)


def fold_reads(folds: int, followers: int) -> list[Read]:
    context = [tuple(range(fold * 1000, fold * 1000 + 100)) for fold in range(folds)]
    return [
        Read((*context[fold], 9000 + number, number), (1, 2))
        for number in range(followers)
        for fold in range(folds)
    ]


def test_fold_contexts_are_one_branch_each_and_prefill_the_optimum() -> None:
    reads = fold_reads(3, 10)
    branches = plan(reads)
    assert [(len(branch.prefix), len(branch.followers)) for branch in branches] == [(100, 10)] * 3
    assert shared_cache_tokens(branches, reads) == optimal_tokens([read.prompt for read in reads])


def test_nested_contexts_are_nested_branches_and_prefill_the_optimum() -> None:
    outer, inner = tuple(range(100)), tuple(range(200, 250))
    reads = [Read((*outer, 500 + n, 1), (1, 2)) for n in range(4)]
    reads += [Read((*outer, *inner, 500 + n, 1), (1, 2)) for n in range(4)]
    branches = plan(reads)
    assert [(branch.prefix, branch.followers, branch.parent) for branch in branches] == [
        (outer, (0, 1, 2, 3), None),
        (outer + inner, (4, 5, 6, 7), 0),
    ]
    assert shared_cache_tokens(branches, reads) == optimal_tokens([read.prompt for read in reads])


def test_the_rest_of_a_label_stands_behind_its_first_token_and_is_no_branch() -> None:
    reads = []
    for number in range(3):
        prompt = (*range(100), *range(1000 * number, 1000 * number + 60))
        reads += [Read(prompt, (1, 2)), Read((*prompt, 1), (3,)), Read((*prompt, 2), (4,))]
    assert plan(reads) == (Branch(tuple(range(100)), (0, 1, 2, 3, 4, 5, 6, 7, 8)),)


def test_little_in_common_is_sent_as_it_is() -> None:
    reads = [Read((1, 2, 3, number), (1,)) for number in range(5)]
    assert plan(reads) == (Branch((), (0, 1, 2, 3, 4)),)


def test_deep_trees_need_no_recursion() -> None:
    reads = [Read(tuple(range(length)), (1,)) for length in range(1, 3000)]
    assert sum(len(branch.followers) for branch in plan(reads, min_shared=0)) == len(reads)


def test_whole_branches_where_splitting_gains_nothing() -> None:
    reads = fold_reads(4, 10)
    assigned = assign_lanes(plan(reads), reads, 2)
    assert [[len(branch.followers) for branch in lane] for lane in assigned] == [[10, 10], [10, 10]]


def test_one_big_branch_is_split_over_lanes() -> None:
    reads = fold_reads(1, 1000)
    assigned = assign_lanes(plan(reads), reads, 3)
    longest = max(slot_tokens(lane, reads) for lane in assigned)
    assert longest <= 100 + 2 * 334
