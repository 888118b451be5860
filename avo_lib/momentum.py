"""Chains whose points carry a momentum: the same chain in twice the dimensions, for Hamiltonian kernels.

The weight of a chain compares densities on one space. So the momentum belongs to the points: every target becomes
f_t(z) N(p; 0, I), which leaves its normaliser as it is, and the proposal draws a momentum too. Then nothing else has to
know of it: weights, bounds, gradients and the way back are those of any chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avo_lib.chain import Chain, Proposal
from avo_lib.numerics import Noise, log_normal, standard_normal
from avo_lib.paths import AmortisedPath, Path


def with_momentum(chain: Chain) -> Chain:
    """The chain on pairs (z, p), side by side on the last axis, with p ~ N(0, I) in the proposal and every target.

    Args:
        chain: A chain as without momentum, but with kernels for pairs, such as :class:`avo_lib.kernels.Underdamped`.

    Returns:
        A chain with the same log Z_t, and points ``(..., 2 * dim)``.

    >>> from avo_lib.chain import Gaussian
    >>> from avo_lib.kernels import Underdamped
    >>> from avo_lib.paths import GeometricPath, linear_alphas
    >>> base = Gaussian(torch.zeros(3), torch.ones(3))
    >>> path = GeometricPath(base.log_prob, lambda z: base.log_prob(z - 1), linear_alphas(4))
    >>> chain = with_momentum(Chain(base, [Underdamped(0.2, 0.5)] * 4, path))
    >>> chain.sample((100,)).z[-1].shape
    torch.Size([100, 6])
    """
    return replace(chain, proposal=_Proposal(chain.proposal), path=_Path(chain.path))  # type: ignore[arg-type]  # only read


def add_momentum(z: Tensor, *, generator: Noise = None) -> Tensor:
    """Points ``(..., dim)`` with a fresh momentum ``(..., 2 * dim)``, as reverse chains from exact draws need them.

    >>> add_momentum(torch.zeros(5, 2)).shape
    torch.Size([5, 4])
    """
    return torch.cat([z, standard_normal(z, generator)], -1)


def beta_acts(path: Path, z: Tensor) -> bool:
    """Whether beta takes a prior out of log f_T: not where f_T is an energy.

    Args:
        path: A path, with or without momenta.
        z: Points ``(..., dim)`` at its end.
    """
    if isinstance(path, _Path):
        path, z = path.path, z.chunk(2, -1)[0]
    without, whole = (path.log_density(len(path.alphas) - 1, z, beta) for beta in (0.0, 1.0))
    return isinstance(path, AmortisedPath) or not torch.equal(without, whole)


@dataclass(frozen=True)
class _Proposal:
    proposal: Proposal

    def sample(self, shape: Sequence[int] = (), *, generator: Noise = None) -> tuple[Tensor, Tensor]:
        z, log_q = self.proposal.sample(shape, generator=generator)
        pair = add_momentum(z, generator=generator)
        return pair, log_q + log_normal(pair.chunk(2, -1)[1])

    def log_prob(self, z: Tensor) -> Tensor:
        position, momentum = z.chunk(2, -1)
        return self.proposal.log_prob(position) + log_normal(momentum)


class _Path:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def alphas(self) -> Tensor:
        """Exponents of the path as it is now: it may learn."""
        return self.path.alphas

    def log_density(self, t: int, z: Tensor, beta: float = 1.0) -> Tensor:
        position, momentum = z.chunk(2, -1)
        return self.path.log_density(t, position, beta) + beta * log_normal(momentum)

    def log_ladder(self, zs: Tensor, beta: float = 1.0) -> Tensor:
        position, momentum = zs.chunk(2, -1)
        return self.path.log_ladder(position, beta) + beta * log_normal(momentum)
