"""Estimates that know their direction and their standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from avo_lib.numerics import log_mean_exp

Kind = Literal["exact", "lower", "upper"]
_FLIPPED: dict[Kind, Kind] = {"exact": "exact", "lower": "upper", "upper": "lower"}
_LABEL: dict[Kind, str] = {"exact": "exact", "lower": "lower bound", "upper": "upper bound"}


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo estimate of a quantity, or of a bound on it.

    Attributes:
        value: The estimate, in nats unless its maker says otherwise.
        stderr: Standard error of the estimate, in the same unit.
        kind: ``"exact"`` if its expectation is the quantity itself, or differs by a bias of the order of the squared
            standard error; ``"lower"`` or ``"upper"`` if its expectation bounds the quantity from below or above.

    Raises:
        ValueError: If there is no such kind, or the standard error is negative.

    >>> print(-Estimate(-91.4, 0.05, "lower"))
    91.40 ± 0.05 (upper bound)
    """

    value: float
    stderr: float
    kind: Kind

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist and an error below zero."""
        if self.kind not in _FLIPPED:
            raise ValueError(f"kind must be one of {', '.join(_FLIPPED)}, not {self.kind!r}")
        if self.stderr < 0:
            raise ValueError(f"a standard error is at least 0, not {self.stderr}")

    def __neg__(self) -> Estimate:
        """The estimate of the negated quantity: a lower bound becomes an upper bound."""
        return Estimate(-self.value, self.stderr, _FLIPPED[self.kind])

    def __add__(self, constant: float) -> Estimate:
        """The estimate of the quantity plus a known constant; the sum of two estimates has no known error."""
        if isinstance(constant, Estimate):
            return NotImplemented
        return Estimate(constant + self.value, self.stderr, self.kind)

    __radd__ = __add__

    def __sub__(self, constant: float) -> Estimate:
        """The estimate of the quantity minus a known constant."""
        return NotImplemented if isinstance(constant, Estimate) else self + -constant

    def __rsub__(self, constant: float) -> Estimate:
        """The estimate of a known constant minus the quantity: a lower bound becomes an upper bound."""
        return constant + -self

    def __str__(self) -> str:
        """Value, standard error and direction."""
        return f"{self.value:.2f} ± {self.stderr:.2f} ({_LABEL[self.kind]})"


@dataclass(frozen=True)
class Bracket:
    """A quantity between a lower and an upper bound, each with its standard error.

    Attributes:
        lower: Bound from below.
        upper: Bound from above.

    Raises:
        ValueError: If the lower bound is a bound from above, or the upper bound one from below.
    """

    lower: Estimate
    upper: Estimate

    def __post_init__(self) -> None:
        """Refuse a bound from the wrong side."""
        if self.lower.kind == "upper" or self.upper.kind == "lower":
            raise ValueError(f"need a lower and an upper bound, in this order, not {self.lower} and {self.upper}")

    @property
    def gap(self) -> float:
        """Upper minus lower; how far the quantity is from being known."""
        return self.upper.value - self.lower.value


def check_enough(number: int, what: str = "draws", least: int = 2) -> None:
    """Refuse too few draws for a standard error; call this before anything costly.

    Raises:
        ValueError: If there are fewer than ``least``.
    """
    if number < least:
        raise ValueError(f"a standard error needs at least two {what}, not {number}: take more samples or more data")


def mean(samples: Tensor, kind: Kind) -> Estimate:
    """The mean of independent draws, with its standard error.

    Args:
        samples: Independent draws of any shape, at least two.
        kind: How the expectation of a draw relates to the quantity.

    Returns:
        The estimate.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    check_enough(samples.numel())
    samples = _at_least_float32(samples)
    return Estimate(samples.mean().item(), samples.std().item() / math.sqrt(samples.numel()), kind)


def _at_least_float32(values: Tensor) -> Tensor:
    """In bfloat16 a mean is rounded to half a nat, and small differences of means to 0."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def log_mean(log_w: Tensor, kind: Kind = "lower") -> Estimate:
    r"""The log of the mean of weights, :math:`\log\frac1K\sum_k w_k`, with the delta-method standard error.

    By Jensen's inequality its expectation is at most :math:`\log E w`: a lower bound, closer as K grows.
    For several data the estimate is an average over them, with the standard error of a mean over data.

    Args:
        log_w: K independent log weights in nats, ``(K,)``, or K for each datum, ``(K, ...)``.
        kind: Direction of the estimate; ``"lower"`` unless the caller knows better.

    Returns:
        The estimate in nats.

    Raises:
        ValueError: If there are fewer than two weights.
    """
    check_enough(len(log_w), "weights", least=1)
    log_w = _at_least_float32(log_w)
    if log_w.dim() > 1 and log_w[0].numel() > 1:
        return mean(log_mean_exp(log_w), kind)
    log_w = log_w.flatten()
    check_enough(log_w.numel(), "weights")
    value = log_mean_exp(log_w)
    relative = (log_w - value).exp()
    return Estimate(value.item(), relative.std().item() / math.sqrt(log_w.numel()), kind)


def bennett(forward: Tensor, reverse: Tensor) -> Estimate:
    r"""Log Z from forward and reverse log weights together: the acceptance ratio of Bennett 1976.

    The two densities of log w differ by the factor :math:`w/Z` (Crooks 1999), so which side a weight came from is a
    logistic regression on log w of slope one, and log Z its intercept. At the maximum of its likelihood (Shirts et al.
    2003), with :math:`m = \log(n_F/n_R)`,

    .. math::
        \sum_F & \,\mathrm{sigmoid}(\log w - \log Z - m) \\
        &= \sum_R \mathrm{sigmoid}(\log Z + m - \log w).

    Args:
        forward: Independent log weights ``(n_F,)`` of forward chains, in nats.
        reverse: Independent log weights ``(n_R,)`` of the same chain run backwards from exact draws of f_T, in nats.

    Returns:
        The estimate in nats, which is no bound; its bias is of the order of the squared standard error.

    Raises:
        ValueError: If either side has fewer than two weights, is not a vector or is not finite.

    >>> print(bennett(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])))
    1.00 ± 0.35 (exact)
    """
    for log_w in (forward, reverse):
        if log_w.dim() != 1 or len(log_w) < 2 or not bool(log_w.isfinite().all()):
            raise ValueError(f"need at least two finite log weights (n,) from both sides, got {tuple(log_w.shape)}")
    forward, reverse = forward.double(), reverse.double()
    m = math.log(len(forward) / len(reverse))
    both = torch.cat([forward, reverse])
    low, high = both.min().item() - abs(m) - 40, both.max().item() + abs(m) + 40
    for _ in range(100):  # the difference of the two sums falls as log Z rises
        middle = 0.5 * (low + high)
        excess = (forward - middle - m).sigmoid().sum() - (middle + m - reverse).sigmoid().sum()
        low, high = (middle, high) if excess > 0 else (low, middle)
    x = both - low - m
    information = (x.sigmoid() * (-x).sigmoid()).sum().item()
    spread = 1 / information - 1 / len(forward) - 1 / len(reverse) if information else math.inf
    return Estimate(low, math.sqrt(max(spread, 0.0)), "exact")
