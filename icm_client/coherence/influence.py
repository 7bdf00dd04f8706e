"""Which demos a label hangs on: each one left out of the context, and shown with another label.

    C <- D demos from the half of the items in which the targets are not
    cut C into about sqrt(D) blocks of neighbours
    for each block B: C_B <- the demos of all other blocks, then B's
        read the targets given C_B, and given C_B without B
    for each block, those first without which the log-odds move most, while reads are left:
        for each demo d of B:
            read the targets given C_B without d, and given C_B with another label of d
    s(t, y) <- log P(y | x_t, C) - mean_j log P(y | x_j, C)     witnesses j, as many of each label
    log-odds of t <- s(t, y_t) - s(t, o_t)                      o_t: the likeliest other label
    effect on t <- its log-odds given C_B, less those given the changed context

As a block stands last while its demos are tried, all that is read for it shares the prefix of the
other blocks: a changed context costs a block at most, and a demo counts no more for standing late.
A context with one demo of a label less prefers that label less for any target; what it does so to
the witnesses is no effect of the demo on this one. (A mean of log-probs is subtracted, and no log
of a mean: the latter moves along with the targets of one label, and would hide what a demo teaches
all of them.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from icm_client.coherence.problem import Context, Demo, FloatArray, IntArray, Query, Score


@dataclass(frozen=True, slots=True)
class DemoEffects:
    """What `D` demos do for `T` targets. Effects are nats, over 0 where they speak for its label.

    Attributes:
        context: the demos, in their order.
        targets: shape `[T]`, the items that were read; the one that was asked about is the first.
        others: shape `[T]`, the likeliest label of each but its own.
        log_odds: shape `[T]`, nats, of its label against that one, given all demos.
        without_block: shape `[D, T]`, of all demos of its block; NaN where it was not read.
        left_out: shape `[D, T]`, of the demo; NaN where it was not read by itself.
        relabelled: shape `[D, T]`, of its label: the next one stands in its place, of two the
            other; NaN likewise.
    """

    context: Context
    targets: IntArray
    others: IntArray
    log_odds: FloatArray
    without_block: FloatArray
    left_out: FloatArray
    relabelled: FloatArray


async def demo_effects(
    context: Context,
    labels: IntArray,
    witnesses: IntArray,
    score: Score,
    *,
    n_labels: int,
    target: int | None = None,
    leave_out: bool = True,
    reads: int,
) -> DemoEffects:
    """Find out what each demo does for a target, or for the witnesses themselves.

    Args:
        context: demos, at least two, none of which is a target or related to one.
        labels: shape `[N]`, of all items.
        witnesses: shape `[W]`, labelled items, about as many of each label.
        score: the only I/O.
        n_labels: `K`.
        target: the item that is asked about; None for the witnesses, each of them.
        leave_out: whether demos are left out one by one, too, and not relabelled alone.
        reads: of a target in a context at most, but for the first block; where none are left,
            demos are not read.

    Raises:
        EndpointError, ScoreError: whatever `score` raises.
    """
    asked = () if target is None else (target,)
    targets = np.array([*asked, *witnesses], dtype=np.int64)
    told, every = labels[targets], np.arange(len(targets))

    async def read(contexts: Sequence[Context]) -> FloatArray:
        """Scores `[len(contexts), T, K]`, nats."""
        queries = [Query(one, int(item)) for one in contexts for item in targets]
        log_probs = (await score(queries)).reshape(len(contexts), len(targets), n_labels)
        seen, theirs = log_probs[:, len(asked) :], told[len(asked) :]
        means = [seen[:, theirs == label].mean(axis=1) for label in np.unique(theirs)]
        centred: FloatArray = log_probs - np.mean(means, axis=0)[:, np.newaxis]
        return centred

    blocks = blocks_of(len(context))[: max(1, reads // (2 * len(targets)))]
    whole = [last(context, block) for block in blocks]
    bare = [one[: len(one) - len(block)] for one, block in zip(whole, blocks, strict=True)]
    given, given_bare = np.split(await read([*whole, *bare]), 2)
    mean = given.mean(axis=0)
    others = np.where(np.arange(n_labels)[:, np.newaxis] == told, -np.inf, mean.T).argmax(axis=0)

    def odds(scores: FloatArray) -> FloatArray:
        found: FloatArray = scores[..., every, told] - scores[..., every, others]
        return found

    by_block = odds(given) - odds(given_bare)
    strength = np.abs(by_block[:, : len(asked) or None]).mean(axis=1)
    kinds = (True, False) if leave_out else (False,)
    tries = [
        _Try(int(demo), number, drop, changed(whole[number], place, n_labels, drop=drop))
        for number in np.argsort(-strength, kind="stable").tolist()
        for place, demo in enumerate(blocks[number], start=len(bare[number]))
        for drop in kinds
    ]
    affordable = max(0, reads // len(targets) - 2 * len(blocks)) // len(kinds)
    tries = tries[: affordable * len(kinds)]
    shape = (len(context), len(targets))
    without_block, left_out, relabelled = (np.full(shape, np.nan) for _ in range(3))
    for block, effect in zip(blocks, by_block, strict=True):
        without_block[block] = effect
    scores = await read([one.context for one in tries]) if tries else ()
    for one, tried in zip(tries, scores, strict=True):
        effects = left_out if one.dropped else relabelled
        effects[one.demo] = odds(given[one.block]) - odds(tried)
    return DemoEffects(
        context=context,
        targets=targets,
        others=others,
        log_odds=odds(mean),
        without_block=without_block,
        left_out=left_out,
        relabelled=relabelled,
    )


class _Try(NamedTuple):
    """A context in which one demo is changed: its place as it was given, and its block."""

    demo: int
    block: int
    dropped: bool
    context: Context


def blocks_of(demos: int) -> list[IntArray]:
    """The places of each block's demos, rising."""
    return np.array_split(np.arange(demos), max(1, round(np.sqrt(demos))))


def reads_for(demos: int, targets: int, *, leave_out: bool = True) -> int:
    """How many reads `demo_effects` takes where all demos are read by themselves."""
    return targets * (2 * len(blocks_of(demos)) + (1 + leave_out) * demos)


def last(context: Context, block: IntArray) -> Context:
    """The context with the demos of a block behind all others."""
    places = set(block.tolist())
    others = [demo for place, demo in enumerate(context) if place not in places]
    return (*others, *(context[place] for place in block))


def changed(context: Context, place: int, n_labels: int, *, drop: bool) -> Context:
    """The context without the demo at a place, or with the next label of it."""
    item, label = context[place]
    instead = () if drop else (Demo(item, (label + 1) % n_labels),)
    return (*context[:place], *instead, *context[place + 1 :])


async def wording_effects(
    context: Context, item: int, wordings: Sequence[int], labels: tuple[int, int], score: Score
) -> FloatArray:
    """How far the log-odds of one label against another fall where an item is worded otherwise.

    Args:
        context: what the item is read in; its label bias is that of all wordings.
        item: as it is.
        wordings: items that are the same but for what was left out.
        labels: the label that effects over 0 speak for, and the one that it is held against.
        score: the only I/O.

    Returns:
        Shape `[len(wordings)]`, nats; NaN where a wording has no score.
    """
    read = await score([Query(context, one) for one in (item, *wordings)])
    label, other = labels
    odds = read[:, label] - read[:, other]
    effects: FloatArray = odds[0] - odds[1:]
    return effects
