"""Numbers of a run that the text of its chapter shows."""

from __future__ import annotations

import math

from myst_nb import glue
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
