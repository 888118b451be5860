"""A learned mixture as prior: the VampPrior (Tomczak & Welling 2018, arXiv 1705.07120)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from avo_lib.numerics import log_normal, standard_normal


@dataclass(frozen=True, eq=False)
class EvenMixture:
    """An even mixture of K diagonal Gaussians.

    Where they are what the encoder gives for K learned pseudo-inputs, it is the VampPrior: the prior goes where the
    posteriors are, whose average is the best prior.

    Attributes:
        mean: Means ``(K, dim)``.
        std: Standard deviations, positive, of the same shape; their values are not checked.

    Raises:
        ValueError: If a shape is wrong or empty.

    >>> two = EvenMixture(torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
    >>> round(two.log_prob(torch.zeros(1)).item(), 4)
    -1.4189
    >>> two.sample(5).shape
    torch.Size([5, 1])
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        """Refuse one Gaussian alone: it would be taken for as many as it has coordinates."""
        if self.mean.dim() != 2 or self.std.shape != self.mean.shape or not self.mean.numel():
            raise ValueError(
                f"need mean and std (K, dim), none of them empty, got {tuple(self.mean.shape)} and "
                f"{tuple(self.std.shape)}: one Gaussian alone is mean[None]"
            )

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density in nats, ``(..., dim)`` to ``(...)``."""
        return log_normal(z.unsqueeze(-2), self.mean, self.std).logsumexp(-1) - math.log(len(self.mean))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws ``(n, dim)``."""
        chosen = torch.randint(len(self.mean), (n,), generator=generator, device=self.mean.device)
        return self.mean[chosen] + self.std[chosen] * standard_normal(self.mean[chosen], generator)

    def detached(self) -> EvenMixture:
        """The same density, as a constant."""
        return EvenMixture(self.mean.detach(), self.std.detach())
