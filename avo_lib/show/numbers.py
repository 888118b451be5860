"""Numbers of a run that the text of its chapter shows, and how wide their intervals are."""

from __future__ import annotations

import math

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


def half_width(*groups: ArrayLike) -> float:
    """Half of a 95 % interval by Student's t: of a mean, or of any sum or difference of several groups' means.

    The groups share one spread, which all of them estimate together. Pairs are one group: that of their differences.

    >>> round(half_width([1.0, 2.0, 3.0]), 2)
    2.48
    >>> round(half_width([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), 2)  # of the difference 3
    2.27

    Args:
        groups: Vectors of shape (n,), each with an n of its own.

    Raises:
        ValueError: If a group is empty or no vector, or no group has two values, so that there is no spread.
    """
    values = [np.asarray(group, dtype=float) for group in groups]
    freedom = sum(group.size - 1 for group in values)
    if freedom < 1 or any(group.ndim != 1 or not group.size for group in values):
        raise ValueError(f"an interval needs vectors with a spread, not shapes {[group.shape for group in values]}")
    squares = sum(float(np.square(group - group.mean()).sum()) for group in values)
    error = math.sqrt(squares / freedom * sum(1 / group.size for group in values))
    return float(stats.t.ppf(0.975, freedom)) * error
