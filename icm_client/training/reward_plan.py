"""Which pairs a reward model's three steps use; what can be wrong with them is found here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from icm_client.data.job import Job
from icm_client.data.messages import shown
from icm_client.data.rows import only
from icm_client.errors import InputError
from icm_client.training.run_labels import Pair, task_pairs

FEWEST_PAIRS: Final = 8
"""That a reward model is trained on."""

FIRST: Final = 256
"""Pairs of the first step, where nobody says otherwise."""

_SAMPLED: Final = 30


@dataclass(frozen=True, slots=True, eq=False)
class RewardPlan:
    """What the steps use.

    Attributes:
        job: all pairs, and the task.
        first: rows that ICM labels, rising.
        many: rows that the first reward model labels, rising; those of the first step among them.
        test: held-out pairs, the better response first.
        seed: of the sample and of both trainings.
        notices: what was left out, and why.
    """

    job: Job
    first: tuple[int, ...]
    many: tuple[int, ...]
    test: tuple[Pair, ...]
    seed: int
    notices: tuple[str, ...]

    @property
    def words(self) -> tuple[str, str]:
        """The labels that prefer the first and the second of a pair's responses."""
        return self.job.task.holds_words

    @property
    def gold(self) -> Mapping[int, str]:
        """Row -> gold label, of the rows that have one."""
        words = enumerate(self.job.dataset.gold or ())
        return {row: word for row, word in words if word is not None}

    def summary(self) -> dict[str, Any]:
        """Return JSON values: how many pairs each step has."""
        return {
            "pairs": len(self.job.dataset.rows),
            "first": len(self.first),
            "many": len(self.many),
            "test": len(self.test),
            "seed": self.seed,
            "notices": list(self.notices),
        }


def plan_reward(
    job: Job, *, first: int = FIRST, many: int | None = None, test: Job | None = None, seed: int = 0
) -> RewardPlan:
    """Draw the pairs of each step, seeded; gold has no part in it.

    Args:
        job: the pairs.
        first: how many ICM labels.
        many: how many the first reward model labels, the first ones among them; None takes all.
        test: held-out pairs with gold.
        seed: of the sample.

    Raises:
        InputError: no pairs task, too few pairs for the steps, or test pairs without gold or among
            those that are trained on.
    """
    if job.task.exchange is None:
        raise InputError(
            "a reward model is trained on pairs, and this task does not say which two fields are "
            'compared: exchange = ["response_1", "response_2"] in the task file does; '
            "--task pairwise-preference asks about pairs"
        )
    one, other = job.task.exchange
    same = [
        number
        for number, row in enumerate(job.dataset.rows)
        if str(row.fields[one]) == str(row.fields[other])
    ]
    usable = sorted(set(range(len(job.dataset.rows))) - set(same))
    notices = list(job.notices)
    if same:
        notices.append(f"{len(same)} pairs hold the same response twice and are left out")
    wanted = len(usable) if many is None else many
    _check_sizes(len(usable), first, wanted)
    drawn = np.random.default_rng((seed, _SAMPLED)).permutation(usable).tolist()
    held_out = () if test is None else _held_out(job, test)
    return RewardPlan(
        job,
        tuple(sorted(drawn[:first])),
        tuple(sorted(drawn[:wanted])),
        held_out,
        seed,
        tuple(notices),
    )


def _check_sizes(usable: int, first: int, many: int) -> None:
    if first < FEWEST_PAIRS:
        raise InputError(f"--first {first}: a reward model needs at least {FEWEST_PAIRS} pairs")
    if many > usable:
        raise InputError(f"--many {many}: there are {usable} pairs that can be used")
    if many <= first:
        raise InputError(
            f"the first reward model would have {many} pairs to label, and ICM labels {first} of "
            f"them: take fewer for the first step (--first, at least {FEWEST_PAIRS}), or more "
            "pairs. For one reward model, trained on ICM's labels, there is "
            "icm-client finetune RUN --objective reward"
        )


def _held_out(job: Job, test: Job) -> tuple[Pair, ...]:
    words = test.dataset.gold or (None,) * len(test.dataset.rows)
    known = [row for row, word in enumerate(words) if word is not None]
    if not known:
        raise InputError(
            f"{test.dataset.name}: no pair has a gold label: name the field that has it (--gold)"
        )
    labels = tuple(words[row] for row in known)
    pairs = task_pairs(test.task, only(test.dataset, known), labels)
    _refuse_trained_on(job, test)
    told_apart = tuple(pair for pair in pairs if pair.chosen != pair.rejected)
    if not told_apart:
        raise InputError(f"{test.dataset.name}: every pair holds the same response twice")
    return told_apart


def _refuse_trained_on(job: Job, test: Job) -> None:
    """An accuracy on pairs that were trained on says nothing of others."""
    trained_on = set(job.prompts)  # in both orders
    own: Sequence[int] = test.row_items.tolist()
    seen = [item for item in own if test.prompts[item] in trained_on]
    if seen:
        raise InputError(
            f"{test.dataset.name}: {len(seen)} of its {len(own)} pairs are among those to train "
            f"on, such as {shown(test.prompts[seen[0]][:60])}: test on pairs that the models do "
            "not see"
        )
