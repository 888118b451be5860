"""What is refused at once: numbers that cannot be counts, rates or lengths, and models that still train."""

from __future__ import annotations

import math
from operator import index
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least`` as a Python ``int``, or a ValueError that gives its name.

    >>> check_count("T", 5.0)
    Traceback (most recent call last):
    ...
    ValueError: T must be a whole number of at least 1, not 5.0
    """
    try:
        number = least - 1 if _is_bool(value) else index(value)
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


def is_positive(value: Any) -> bool:
    """Whether a value is one number, positive and finite.

    >>> is_positive(0.5), is_positive(True), is_positive([0.5, 0.5])
    (True, False, False)
    """
    try:
        return not _is_bool(value) and bool(0 < value < math.inf)
    except (TypeError, ValueError, RuntimeError):  # no number, or several of numpy or torch
        return False


def _is_bool(value: Any) -> bool:  # Python's, numpy's or torch's
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def check_positive(config: Any, *names: str) -> None:
    """Refuse fields that are not positive and finite: rates, step sizes, deviations.

    Args:
        config: A dataclass.
        names: Names of the fields that must be positive.

    Raises:
        ValueError: If one of them is not one number, positive and finite; the message names it.

    >>> from types import SimpleNamespace
    >>> check_positive(SimpleNamespace(lr=0.0), "lr")
    Traceback (most recent call last):
    ...
    ValueError: lr must be one number, positive and finite, not 0.0
    """
    for name in names:
        if not is_positive(value := getattr(config, name)):
            raise ValueError(f"{name} must be one number, positive and finite, not {value!r}")


def check_evaluating(model: Any) -> None:
    """Refuse a model whose batch norm or dropout still trains: the images of a batch would change each other's numbers.

    Args:
        model: Anything; only a module of torch can be in training mode.

    Raises:
        ValueError: If one of its layers is.
    """
    layers = model.modules() if isinstance(model, nn.Module) else ()
    kinds = _BatchNorm | _DropoutNd | nn.RReLU
    if any(layer.training for layer in layers if isinstance(layer, kinds) or _drops(layer)):
        raise ValueError("put the model in evaluation mode first, model.eval(): its batch norm or dropout still trains")


def _drops(layer: nn.Module) -> bool:
    """Whether it drops values itself, as attention and recurrent layers do."""
    return isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.dropout > 0
