"""In which order to send questions, so that a server's prefix cache serves what they share.

The prompts of one call form a radix tree: contexts fork into longer contexts, and those into
targets. Every node of the tree whose prefix is worth a request of its own becomes a `Branch`: a
server with one shared cache is sent that prefix first and what hangs below it afterwards. A server
with slots, each of which keeps the last prompt it saw, is sent the tree in depth-first order, cut
into one stretch a slot.

Pure: no server, no clock.
"""

from collections.abc import Container, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from icm_client.endpoints.protocol import TokenIds, common_prefix
from icm_client.scoring.prompts import Question

MIN_SHARED = 32
"""Tokens that a prefix must add to its parent's to be prefilled by itself: two of vLLM's blocks of
16."""


class Branch(NamedTuple):
    """Questions that share a prefix.

    Attributes:
        prefix: a proper prefix of every follower's prompt; () where nothing worthwhile is shared.
        followers: indices of questions, in lexicographic order of their prompts, so that the later
            tokens of a label come right after its first. Questions below an inner branch are that
            one's followers and not repeated here.
        parent: position in the plan of the branch whose prefix this one extends, or None. It
            stands before this one.
    """

    prefix: TokenIds
    followers: tuple[int, ...]
    parent: int | None = None


def plan(questions: Sequence[Question], *, min_shared: int = MIN_SHARED) -> tuple[Branch, ...]:
    """Return the branches of `questions`, depth first; each index follows exactly one.

    A prefix that n questions share saves `(n - 1) * tokens` beyond what its parent saves, and makes
    the n wait for one more request; it becomes a branch where it adds more than `min_shared`
    tokens. A branch without followers of its own is where its inner branches fork.
    """
    order = sorted(range(len(questions)), key=questions.__getitem__)
    ordered = [questions[index] for index in order]
    prefixes: list[TokenIds] = []
    parents: list[int | None] = []
    followers: list[list[int]] = []
    around: list[tuple[int, int]] = []  # (end, branch): the branches around a position
    forks = _forks(ordered)[::-1]
    rest: int | None = None  # the branch of questions that share nothing
    for position, index in enumerate(order):
        while around and around[-1][0] <= position:
            around.pop()
        while forks and forks[-1].start == position:
            _, end, depth = forks.pop()
            parent = around[-1][1] if around else None
            first = ordered[position]
            if len(first) == depth:
                # A question must follow its branch's prefix, which is one token shorter then. Where
                # only other tokens are wanted below, it is the rest of a label of several tokens,
                # and follows the label's first token anyway.
                again = (ordered[place].wanted for place in range(position + 1, end))
                depth = depth - 1 if first.wanted in again else 0
            if depth - (len(prefixes[parent]) if parent is not None else 0) > min_shared:
                around.append((end, len(prefixes)))
                prefixes.append(first.read().prompt[:depth])
                parents.append(parent)
                followers.append([])
        if around:
            followers[around[-1][1]].append(index)
        else:
            if rest is None:
                rest = len(prefixes)
                prefixes.append(())
                parents.append(None)
                followers.append([])
            followers[rest].append(index)
    return tuple(map(Branch, prefixes, map(tuple, followers), parents))


def prune(branches: Sequence[Branch], keep: Container[int]) -> tuple[Branch, ...]:
    """Return `branches` with only those followers that `keep` holds.

    Prefixes stay as planned, so that what is prefilled before a question does not depend on which
    ones were answered before. Branches with no follower left in or below them are dropped.
    """
    kept = [tuple(index for index in branch.followers if index in keep) for branch in branches]
    needed = [bool(followers) for followers in kept]
    for number in range(len(branches) - 1, -1, -1):  # parents stand before their branches
        parent = branches[number].parent
        if needed[number] and parent is not None:
            needed[parent] = True
    moved: dict[int | None, int | None] = {None: None}
    pruned: list[Branch] = []
    for number, branch in enumerate(branches):
        if needed[number]:
            moved[number] = len(pruned)
            pruned.append(Branch(branch.prefix, kept[number], moved[branch.parent]))
    return tuple(pruned)


class _Fork(NamedTuple):
    """An inner node of the radix tree: the sorted prompts `[start, end)` share `depth` tokens."""

    start: int
    end: int
    depth: int


def _forks(ordered: Sequence[Question]) -> list[_Fork]:
    """Return the inner nodes below the root, parents first, left to right.

    The nodes are the intervals of the longest-common-prefix array, found with a stack (Kasai et
    al. 2001), so depth is not limited by Python's recursion.
    """
    forks: list[_Fork] = []
    stack = [(0, 0)]  # (depth, start), depth rising
    for position in range(1, len(ordered) + 1):
        common = _shared(ordered[position - 1], ordered[position]) if position < len(ordered) else 0
        start = position - 1
        while stack[-1][0] > common:
            depth, start = stack.pop()
            forks.append(_Fork(start, position, depth))
        if common > stack[-1][0]:
            stack.append((common, start))
    return sorted(forks, key=lambda fork: (fork.start, fork.depth))


def _shared(one: Question, other: Question) -> int:
    if one.head is other.head:
        return len(one.head) + common_prefix(one.tail, other.tail)
    return common_prefix(one.head + one.tail, other.head + other.tail)


def optimal_tokens(prompts: Sequence[TokenIds], *, block: int = 1) -> int:
    """Return the fewest tokens any order of `prompts` can prefill.

    Those are the nodes of the prompts' prefix tree; on a server whose cache finds whole blocks of
    so many tokens, they are the tree's distinct blocks and each prompt's tokens after its last one.
    """
    ordered = sorted(prompts)
    repeated = sum(common_prefix(a, b) // block * block for a, b in pairwise(ordered))
    return sum(map(len, ordered)) - repeated


def assign_lanes(
    questions: Sequence[Question], indices: Iterable[int], lanes: int
) -> list[list[int]]:
    """Return which of `indices` each lane is sent, in that order; some lanes may stay empty.

    The depth-first walk over all of them, which on one lane prefills the optimal number of tokens,
    is cut into at most `lanes` stretches. A cut inside a shared prefix makes the next lane compute
    that prefix again, which is counted. The longest stretch, in computed tokens, is as short as
    cuts allow; among cuts that keep it so, those that repeat the fewest tokens are taken, so
    questions with one context stay together where splitting them gains nothing.
    """
    order = sorted(sorted(indices), key=questions.__getitem__)
    walk = [questions[index] for index in order]
    full = [len(question) for question in walk]
    new = full[:1] + [len(after) - _shared(before, after) for before, after in pairwise(walk)]
    shares = [order[start:end] for start, end in _stretches(full, new, lanes)]
    return shares + [[] for _ in range(lanes - len(shares))]


def _stretches(full: Sequence[int], new: Sequence[int], lanes: int) -> list[tuple[int, int]]:
    """Return where each lane's stretch of the walk starts and ends."""
    if not full:
        return []
    low, high = max(full), sum(new)
    while low < high:
        middle = (low + high) // 2
        if len(_latest_starts(full, new, middle)) <= lanes:
            high = middle
        else:
            low = middle + 1
    stretches = []
    start = 0
    for earliest in _latest_starts(full, new, low)[1:]:
        # If the next stretch began before `earliest`, the rest would not fit.
        spent, end = full[start], start + 1
        while end < len(full) - 1 and spent + new[end] <= low:
            spent += new[end]
            end += 1
        end = max(range(earliest, end + 1), key=lambda cut: (new[cut] - full[cut], cut))
        stretches.append((start, end))
        start = end
    return [*stretches, (start, len(full))]


def _latest_starts(full: Sequence[int], new: Sequence[int], budget: int) -> list[int]:
    """Return where stretches within `budget` begin, each as long as it can be, from the end."""
    starts = []
    end = len(full)
    while end > 0:
        start = end - 1
        spent = 0  # tokens of [start + 1, end) beyond its first prompt
        while start > 0 and full[start - 1] + spent + new[start] <= budget:
            spent += new[start]
            start -= 1
        starts.append(start)
        end = start
    return starts[::-1]
