"""Schedules of beta, the weight of the Kullback-Leibler part: constant, rising, in cycles, and any of them scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass

from avo_lib.checks import check_counts


@dataclass(frozen=True)
class Constant:
    """The same beta, >= 0 or a ValueError, at every step; anything but 1 trains another model than the ELBO does."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a beta that cannot be a weight."""
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be a number of at least 0, not {self.beta}")

    def __call__(self, step: int) -> float:
        """Beta at a step."""
        return self.beta


@dataclass(frozen=True)
class WarmUp:
    """Beta rises by ``rate`` > 0 per step from ``start`` to 1, else a ValueError (Bowman et al., Sønderby et al. 2016).

    >>> WarmUp(start=0.2, rate=2e-4)(1000)
    0.4
    """

    start: float
    rate: float

    def __post_init__(self) -> None:
        """Refuse a beta that does not rise from 0 or more."""
        if not (0 <= self.start <= 1 and 0 <= self.rate < math.inf and (self.rate or self.start == 1)):
            raise ValueError(f"need 0 <= start <= 1 and rate > 0, got {self.start} and {self.rate}")

    def __call__(self, step: int) -> float:
        """Beta at a step."""
        return min(1.0, self.start + self.rate * step)


@dataclass(frozen=True)
class Cyclical:
    """Beta rises from 0 to 1 over the first ``ramp`` of every period, then stays (Fu et al. 2019, arXiv 1903.10145).

    Attributes:
        period: Number of steps in a cycle, at least 1, or a ValueError.
        ramp: Share of a cycle in which beta rises, above 0, or a ValueError.
        cycles: Number of cycles, at least 1, or a ValueError; beta is 1 after the last.

    >>> [Cyclical(period=10, ramp=0.5, cycles=1)(step) for step in (0, 2, 5, 10)]
    [0.0, 0.4, 1.0, 1.0]
    """

    period: int
    ramp: float = 0.5
    cycles: int = 4

    def __post_init__(self) -> None:
        """Refuse cycles without steps, or without a rise."""
        check_counts(self, "period", "cycles")
        if not 0 < self.ramp <= 1:
            raise ValueError(f"ramp is a share of a cycle, above 0 and at most 1, not {self.ramp}")

    def __call__(self, step: int) -> float:
        """Beta at a step."""
        return 1.0 if step >= self.period * self.cycles else min(1.0, step % self.period / (self.ramp * self.period))


@dataclass(frozen=True)
class Scaled:
    """A schedule times a factor: what ends at 1 ends at ``factor``, and trains another model than the ELBO does.

    >>> Scaled(WarmUp(start=0.2, rate=0.1), 1.25)(100)
    1.25
    """

    schedule: Constant | WarmUp | Cyclical
    factor: float

    def __post_init__(self) -> None:
        """Refuse a factor that cannot be a weight."""
        Constant(self.factor)

    def __call__(self, step: int) -> float:
        """Beta at a step."""
        return self.factor * self.schedule(step)


BetaSchedule = Constant | WarmUp | Cyclical | Scaled
