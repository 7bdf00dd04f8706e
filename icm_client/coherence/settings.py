"""The numbers of the `fast` search, and of the searches that begin with it."""

from dataclasses import dataclass

from icm_client.errors import InputError


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """The numbers of the search. docs/search.md has the figures that decided the defaults.

    Attributes:
        initial: `K` of Algorithm 1, `K0` in `fast`: items labelled at random to start from.
        folds: `F`, parts that are scored in contexts of the other parts' demos.
        demos: `C`, the most demos in a context.
        second_demos: the most demos in the second sweep, whose labels come from one context of
            random labels and are not worth more tokens yet.
        keep: the share of a label's items, the most certain ones, that demos are drawn from.
        averaged: `M`, the sweeps whose scores are averaged.
        temperature: `T_1` in nats, at which labels are sampled after the first sweep. It is halved
            each sweep, and 0 from `cold_after` sweeps on.
        cold_after: sweeps after which labels are no longer sampled.
        min_sweeps: sweeps before the search may stop where two labels are clear; otherwise it makes
            at least `averaged`.
        several: further sweeps that three labels and more get before they may have settled: a
            context shows each label less often than one of two, and labels improve for longer.
        max_sweeps: sweeps after which it stops anyway.
        clear: the share of the labels' entropy that `U` must reach, in each sweep but the first,
            for labels to be clear.
        changing: the share of clear labels that one more sweep may be expected to change when the
            search stops.
        moving: the share of other labels that may still move when the search stops.
        climb: nats by which `U` must rise to count as climbing.
        ripe: the share of the present coherence that all averaged sweeps must have, those with
            sampled labels left out, before a coherent search stops.
        restarts: `R`, the most searches from new random starts.
        coherent: the share of the labels' entropy that `U` must reach for the search to be
            content: it then stops although labels still move, and makes no further restart.
        all_names: the most sweeps over all rotations of the label names with which a coherent
            search ends where the words say little, its last plain one among them. 0 disables it.
        renamed: further sweeps of a coherent search whose names were exchanged, where there were
            none over all rotations. 0 disables it.
    """

    initial: int = 8
    folds: int = 2
    demos: int = 64
    second_demos: int = 16
    keep: float = 0.7
    averaged: int = 5
    temperature: float = 0.5
    cold_after: int = 2
    min_sweeps: int = 3
    several: int = 3
    max_sweeps: int = 10
    clear: float = 0.4
    changing: float = 0.04
    moving: float = 0.01
    climb: float = 0.04
    ripe: float = 0.6
    restarts: int = 2
    coherent: float = 0.25
    all_names: int = 5
    renamed: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers that no search can work with; raises `InputError`."""
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.keep <= 1:
            raise InputError(f"keep must be over 0 and at most 1, not {self.keep}")


_LEAST = {
    "initial": 1,
    "folds": 2,
    "demos": 2,
    "second_demos": 2,
    "averaged": 1,
    "min_sweeps": 2,  # the first leaves the items that it starts from without a score
    "max_sweeps": 2,
    "several": 0,
    "restarts": 1,
    "all_names": 0,
    "renamed": 0,
}
