"""What every configuration refuses at once: numbers that cannot be counts, values that cannot be rates or lengths."""

from __future__ import annotations

import math
from operator import index
from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least`` as a Python ``int``, or a ValueError that gives its name.

    >>> check_count("T", 5.0)
    Traceback (most recent call last):
    ...
    ValueError: T must be a whole number of at least 1, not 5.0
    """
    try:
        number = least - 1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return number


def check_counts(config: Any, *names: str, least: int = 1) -> None:
    """Refuse fields that are not whole numbers, or too small; whole numbers of numpy and torch become Python's.

    Args:
        config: A dataclass, frozen or not.
        names: Names of the fields that count something.
        least: The smallest number allowed.

    Raises:
        ValueError: If one of them is not a whole number of at least ``least``; the message names it.

    >>> from types import SimpleNamespace
    >>> check_counts(SimpleNamespace(steps=2.5), "steps")
    Traceback (most recent call last):
    ...
    ValueError: steps must be a whole number of at least 1, not 2.5
    """
    for name in names:
        object.__setattr__(config, name, check_count(name, getattr(config, name), least))


def check_positive(config: Any, *names: str) -> None:
    """Refuse fields that are not positive and finite: rates, step sizes, deviations.

    Args:
        config: A dataclass.
        names: Names of the fields that must be positive.

    Raises:
        ValueError: If one of them is not positive and finite; the message names it.

    >>> from types import SimpleNamespace
    >>> check_positive(SimpleNamespace(lr=0.0), "lr")
    Traceback (most recent call last):
    ...
    ValueError: lr must be positive and finite, not 0.0
    """
    for name in names:
        if not 0 < (value := getattr(config, name)) < math.inf:
            raise ValueError(f"{name} must be positive and finite, not {value!r}")
