"""Where a chain starts: normalised densities that can be sampled and weighed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import RLock
from typing import Any, Protocol

import torch
from torch import Tensor

from avo_lib.axes import check_axes
from avo_lib.numerics import LOG_2PI, Noise, check_generator, log_normal, standard_normal, sum_last

_SEEDED = RLock()  # a draw that seeds the global stream, which all threads share, is alone with it


class Proposal(Protocol):
    """Where a chain starts: a normalised density that can be sampled."""

    def sample(self, shape: Sequence[int], *, generator: Noise) -> tuple[Tensor, Tensor]:
        """Draws ``(*shape, ..., dim)`` and their log densities ``(*shape, ...)`` in nats."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log q_0(z) in nats, ``(..., dim)`` to ``(...)``."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A diagonal Gaussian proposal.

    Attributes:
        mean: Mean ``(..., dim)``; a TypeError if it is no tensor, a ValueError if of integers: draws are not whole.
        std: Standard deviation ``(..., dim)``; a ValueError if neither it nor the mean has a last axis, or their shapes
            do not fit. It has to be positive, or densities are NaN: that is not checked, for a GPU would have to wait.

    >>> [part.shape for part in Gaussian(torch.zeros(3, 2), torch.ones(3, 2)).sample((5,))]
    [torch.Size([5, 3, 2]), torch.Size([5, 3])]
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        """Refuse points without a last axis: a hundred draws in one dimension would pass for one in a hundred."""
        if not isinstance(self.mean, Tensor) or not isinstance(self.std, Tensor):
            raise TypeError("a Gaussian's mean and std are tensors, such as torch.zeros(2) and torch.ones(2)")
        if self.mean.dim() == self.std.dim() == 0:
            raise ValueError("a Gaussian needs a last axis, even in one dimension: torch.tensor([mean]), not shape ()")
        if any(a != b and 1 not in (a, b) for a, b in zip(self.mean.shape[::-1], self.std.shape[::-1], strict=False)):
            shapes = f"{tuple(self.mean.shape)} and {tuple(self.std.shape)}"
            raise ValueError(f"a Gaussian's mean and std have one shape, or broadcast to one, not {shapes}")
        if not self.mean.is_floating_point():
            raise ValueError(f"a Gaussian's mean must be floating-point numbers, not {self.mean.dtype}: mean.float()")

    def sample(self, shape: Sequence[int] = (), *, generator: Noise = None) -> tuple[Tensor, Tensor]:
        """Reparameterised draws and their log densities."""
        axes = torch.broadcast_shapes(self.mean.shape, self.std.shape)
        noise = standard_normal(self.mean.expand(*shape, *axes), generator)
        log_q = sum_last(-0.5 * noise.square() - self.std.log() - 0.5 * LOG_2PI)
        return self.mean + self.std * noise, log_q

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density in nats."""
        return log_normal(z, self.mean, self.std)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Any distribution as a proposal: one of ``torch.distributions``, a normalising flow, or your own.

    Attributes:
        distribution: An object with ``rsample`` or ``sample``, and ``log_prob`` that sums over the last axis of a draw;
            wrap independent coordinates in ``torch.distributions.Independent``. Its draws come from the global random
            state: a generator (the first of several) seeds only the CPU's, for the draw alone. Without ``rsample`` no
            gradient reaches the draws or their log density: use :mod:`avo_lib.balance`. A ValueError if its support
            is discrete.

    >>> from torch.distributions import MultivariateNormal
    >>> proposal = Drawn(MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]])))
    >>> [part.shape for part in proposal.sample((5,))]
    [torch.Size([5, 2]), torch.Size([5])]
    """

    distribution: Any

    def __post_init__(self) -> None:
        """Refuse whole numbers, of which a density is none: kernels would leave them, and weights would be wrong."""
        support = None
        with suppress(NotImplementedError):  # a distribution need not tell its support
            support = getattr(self.distribution, "support", None)
        if getattr(support, "is_discrete", False):
            raise ValueError(
                f"{type(self.distribution).__name__} draws from a discrete set: a proposal needs a density"
            )

    def sample(self, shape: Sequence[int] = (), *, generator: Noise = None) -> tuple[Tensor, Tensor]:
        """Draws and their log densities: both carry a gradient to the distribution's parameters, or neither does."""
        one = self.distribution
        draw = one.rsample if getattr(one, "has_rsample", hasattr(one, "rsample")) else one.sample
        first = generator[0] if isinstance(generator, Sequence) else generator
        check_generator(first)
        with _SEEDED, torch.random.fork_rng(devices=[], enabled=first is not None):
            if first is not None:
                torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=first, device=first.device)))
            z: Tensor = draw(torch.Size(shape))
        log_q = self.log_prob(z)
        return z, log_q if z.requires_grad else log_q.detach()  # at fixed z the ELBO's gradient would be −∇log q alone

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density in nats."""
        return check_axes("log_prob of the distribution", self.distribution.log_prob(z), z)
