"""Controls for AVO: objectives that share one of its side effects but have no annealed targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avo_lib.chain import Proposal
from avo_lib.numerics import Noise
from avo_lib.objectives import Model, Source, check_share, elbo, toss


@dataclass(frozen=True)
class Held:
    """A proposal whose draws are constants, as are their log densities: what made it does not learn from them."""

    proposal: Proposal

    def sample(self, shape: Sequence[int] = (), *, generator: Noise = None) -> tuple[Tensor, Tensor]:
        """Draws and log densities, detached."""
        z, log_q = self.proposal.sample(shape, generator=generator)
        return z.detach(), log_q.detach()

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density in nats of points from elsewhere, from which the proposal does learn."""
        return self.proposal.log_prob(z)


@dataclass(frozen=True)
class RestingEncoder:
    """The ELBO, with a random share of steps that leave the encoder alone: a placebo for AVO.

    AVO's annealed steps do not train the encoder either; what that alone changes is no effect of annealed targets. Only
    through a prior that it makes, from pseudo-inputs, does the encoder learn in these steps too, as under AVO.

    Attributes:
        share: Probability that a mini-batch holds proposal and features constant.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        """Refuse a share that is not a probability."""
        check_share(self.share)

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """See :class:`Objective`."""
        rests, chain = toss(self.share, generator), model.chain(x)
        if rests:
            context = None if chain.context is None else chain.context.detach()
            chain = replace(chain, proposal=Held(chain.proposal), context=context)
        return elbo(chain.sample(generator=generator), beta)


@dataclass(frozen=True)
class NoisyEncoder:
    """The ELBO of a model whose encoder sees a noisy image: inference is regularised, the likelihood is not.

    After Shu et al. 2018 (arXiv 1805.08913). The model's ``chain`` takes the noisy image as ``seen``.

    Attributes:
        std: Standard deviation of Gaussian noise on every pixel.
        flips: Probability that a binary pixel is flipped.

    Raises:
        ValueError: If there is no noise, or ``flips`` is not a probability below 1.
    """

    std: float = 0.0
    flips: float = 0.0

    def __post_init__(self) -> None:
        """Refuse noise that is absent or impossible."""
        if not (0 <= self.std < math.inf and 0 <= self.flips < 1 and self.std + self.flips > 0):
            raise ValueError(f"need a finite std >= 0 and 0 <= flips < 1, not both 0, got {self.std} and {self.flips}")

    def __call__(self, model: Any, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """See :class:`Objective`."""
        seen = x
        if self.flips:
            seen = torch.where(_like(torch.rand, x, generator) < self.flips, 1 - x, x)
        if self.std:
            seen = seen + self.std * _like(torch.randn, x, generator)
        return elbo(model.chain(x, seen=seen).sample(generator=generator), beta)


def _like(draw: Callable[..., Tensor], x: Tensor, generator: Source) -> Tensor:
    return draw(x.shape, generator=generator, dtype=x.dtype, device=x.device)
