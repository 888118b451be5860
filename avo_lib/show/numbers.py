"""Numbers of a run that the text of its chapter shows, and how wide their intervals are."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from myst_nb import glue
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor


def keep(name: str, value: float | Tensor, digits: int = 2) -> None:
    """Store a number under a name: the text shows it as ``0.12<!-- name -->``, which ``tools/notebooks.py`` refreshes.

    Args:
        name: A name that no other number of the chapter has.
        value: One number.
        digits: How many decimals the text shows.

    Raises:
        ValueError: If the number is not finite, which no text can show.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name!r} is {number}: a text shows finite numbers only")
    glue(name, f"{number:z.{digits}f}", display=False)  # z: no minus before a zero


def holm(chances: ArrayLike, level: float = 0.05) -> np.ndarray:
    """Which of several tests stand all together, by Holm's correction (1979, Scand. J. Statist. 6, 65-70).

    The chance that any of them is decided by luck alone is at most ``level``, however they hang together.

    >>> holm([0.04, 0.001, 0.02]).tolist()  # against 0.05 / 3, then 0.05 / 2, then 0.05
    [True, True, True]
    >>> holm([0.04, 0.001, 0.03]).tolist()  # 0.03 fails, so what is more likely luck than it fails too
    [False, True, False]

    Args:
        chances: The tests' p-values, shape (n,).
        level: The chance of one or more false decisions.

    Raises:
        ValueError: If they are no vector of probabilities.
    """
    p = np.asarray(chances, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"Holm's correction needs a vector of p-values from 0 to 1, not {chances!r}")
    order, stands = p.argsort(), np.zeros(p.shape, dtype=bool)
    stands[order] = np.logical_and.accumulate(p[order] < level / np.arange(p.size, 0, -1))
    return stands


def half_width(*groups: ArrayLike, among: Iterable[ArrayLike] | None = None) -> float:
    """Half of a 95 % interval by Student's t: of a mean, or of any sum or difference of several groups' means.

    The groups share one spread, which all of them estimate together. Pairs are one group: that of their differences.

    >>> round(half_width([1.0, 2.0, 3.0]), 2)
    2.48
    >>> one, other, third = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [2.0, 3.0, 4.0]
    >>> round(half_width(one, other), 2)  # of the difference 3
    2.27
    >>> round(half_width(one, other, among=[one, other, third]), 2)
    2.0

    Args:
        groups: Vectors of shape (n,), each with an n of its own.
        among: All the groups that share the spread, these and others; by default these alone.

    Raises:
        ValueError: If a group is empty or no vector, or none that shares the spread has two values.
    """
    values, sharing = (
        [np.asarray(g, dtype=float) for g in given] for given in (groups, groups if among is None else among)
    )
    freedom = sum(group.size - 1 for group in sharing)
    if not values or freedom < 1 or any(group.ndim != 1 or not group.size for group in (*values, *sharing)):
        raise ValueError(f"an interval needs vectors with a spread, not shapes {[group.shape for group in values]}")
    squares = sum(float(np.square(group - group.mean()).sum()) for group in sharing)
    error = math.sqrt(squares / freedom * sum(1 / group.size for group in values))
    return float(stats.t.ppf(0.975, freedom)) * error
