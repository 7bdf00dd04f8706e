"""Who serves what, on a server whose slots each keep the last prompt they saw."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from icm_client.endpoints.protocol import TokenIds
from icm_client.scoring.planner import Branch, shared
from icm_client.scoring.prompts import Asked, Prompt


class _Stop(NamedTuple):
    """A read on the depth-first walk over the prefix tree.

    `full` is its prompt's length, `new` what of it the read before on the walk does not share.
    """

    branch: int
    follower: int
    full: int
    new: int


def assign_lanes(
    branches: Sequence[Branch], reads: Sequence[Asked], lanes: int
) -> list[list[Branch]]:
    """Return each lane's branches, in the order to send them; some lanes may stay empty.

    The depth-first walk over all reads, which on one lane prefills the optimal number of tokens,
    is cut into at most `lanes` stretches. A cut inside a branch makes the next lane compute the
    shared prefix again, which is counted. The longest stretch, in computed tokens, is as short as
    cuts allow; among cuts that keep it so, those that repeat the fewest tokens are taken, so
    branches stay whole where splitting them gains nothing. A branch that an inner branch interrupts
    comes in several parts.
    """
    walk = _walk(branches, reads)
    assigned: list[list[Branch]] = [[] for _ in range(lanes)]
    for lane, (start, end) in enumerate(_stretches(walk, lanes)):
        for number, stops in groupby(walk[start:end], key=lambda stop: stop.branch):
            followers = tuple(stop.follower for stop in stops)
            assigned[lane].append(Branch(branches[number].prefix, followers))
    return assigned


def _walk(branches: Sequence[Branch], reads: Sequence[Asked]) -> list[_Stop]:
    # Sorted, not branch by branch: prefixes too short to be branches are kept together as well.
    stops = sorted(
        (
            (number, follower)
            for number, branch in enumerate(branches)
            for follower in branch.followers
        ),
        key=lambda stop: reads[stop[1]].prompt,
    )
    walk: list[_Stop] = []
    before: TokenIds | Prompt = ()
    for number, follower in stops:
        prompt = reads[follower].prompt
        walk.append(_Stop(number, follower, len(prompt), len(prompt) - shared(before, prompt)))
        before = prompt
    return walk


def _stretches(walk: Sequence[_Stop], lanes: int) -> list[tuple[int, int]]:
    if not walk:
        return []
    low, high = max(stop.full for stop in walk), walk[0].full + sum(stop.new for stop in walk)
    while low < high:
        middle = (low + high) // 2
        if len(_latest_starts(walk, middle)) <= lanes:
            high = middle
        else:
            low = middle + 1
    starts = _latest_starts(walk, low)
    stretches = []
    start = 0
    # earliest: where the next stretch must begin at the earliest for the rest to fit its lanes
    for earliest in starts[1:]:
        end = _reach(walk, start, low)
        end = max(
            range(earliest, min(end, len(walk) - 1) + 1),
            key=lambda cut: (walk[cut].new - walk[cut].full, cut),
        )
        stretches.append((start, end))
        start = end
    return [*stretches, (start, len(walk))]


def _reach(walk: Sequence[_Stop], start: int, budget: int) -> int:
    """Return the end of the longest stretch from `start` within `budget` tokens."""
    spent = walk[start].full
    end = start + 1
    while end < len(walk) and spent + walk[end].new <= budget:
        spent += walk[end].new
        end += 1
    return end


def _latest_starts(walk: Sequence[_Stop], budget: int) -> list[int]:
    """Return where stretches within `budget` begin, each as long as it can be, from the end."""
    starts = []
    end = len(walk)
    while end > 0:
        start = end - 1
        spent = 0  # tokens of [start + 1, end) beyond its first prompt
        while start > 0 and walk[start - 1].full + spent + walk[start].new <= budget:
            spent += walk[start].new
            start -= 1
        starts.append(start)
        end = start
    return starts[::-1]
