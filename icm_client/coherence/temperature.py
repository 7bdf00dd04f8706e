"""The cooling schedule (paper, Algorithm 1, line 4)."""
# ruff: noqa: N803 - the symbols are the paper's

import math


def temperature(n: int, T0: float, T_min: float, beta: float) -> float:
    """`T = max(T_min, T0 / (1 + beta * log n))` for iteration `n`, counted from 1.

    With the paper's numbers (10, 0.01, 0.99) `T` falls slowly: 3.05 at `n = 10`, 1.12 at 3,000.
    `T_min` would be reached at `n = exp(1009)`.
    """
    return max(T_min, T0 / (1 + beta * math.log(n)))
