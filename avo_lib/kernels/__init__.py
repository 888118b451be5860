"""Transition kernels: how a chain moves, and what each move costs.

Every kernel pairs a forward density q(z | z_prev) with a reverse density r(z_prev | z) and obeys one contract, the
:class:`Kernel` protocol. For learned kernels both are networks; for a deterministic map log r − log q is its log
determinant; for an MCMC kernel that leaves f invariant, r is the kernel's reversal and log r − log q is
log f(z_prev) − log f(z), which turns a chain's weight into that of annealed importance sampling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from avo_lib.kernels.controlled import Controlled, Drift, LearnedReverse
from avo_lib.kernels.flow import Flow, autoregressive
from avo_lib.kernels.gated import GatedKernel
from avo_lib.kernels.hamiltonian import HMC, tune_step_sizes
from avo_lib.kernels.householder import Householder
from avo_lib.kernels.langevin import Langevin
from avo_lib.kernels.underdamped import Underdamped
from avo_lib.numerics import Noise
from avo_lib.paths import LogDensity


class Kernel(Protocol):
    """A forward and a reverse transition density, sampled and weighed together."""

    def forward(
        self, z_prev: Tensor, log_f: LogDensity, context: Tensor | None, *, generator: Noise
    ) -> tuple[Tensor, Tensor]:
        """Draw z ~ q(z | z_prev).

        Args:
            z_prev: Current point of the chain, ``(..., dim)``.
            log_f: The target of this step; learned kernels ignore it, MCMC kernels leave it invariant, uncorrected
                dynamics follow its gradient. Evaluation runs under ``torch.no_grad``: a kernel that needs a gradient
                there asks for it with ``torch.enable_grad``.
            context: Features of the datum ``(..., context_dim)``, or None.
            generator: Source of the noise.

        Returns:
            z ``(..., dim)`` and log r(z_prev | z) − log q(z | z_prev) in nats, ``(...)``.
        """
        ...

    def reverse(
        self, z: Tensor, log_f: LogDensity, context: Tensor | None, *, generator: Noise
    ) -> tuple[Tensor, Tensor]:
        """Draw z_prev ~ r(z_prev | z); returns z_prev and the same log ratio, log r(z_prev | z) − log q(z | z_prev)."""
        ...


class MetropolisKernel(ABC):
    """A kernel that accepts or rejects its proposals and says how often: annealed importance sampling reports it.

    Every class with this method is one. What an instance keeps under its name, such as a network, is no method.
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        """Whether a class has the method."""
        return callable(getattr(other, "transition", None)) if cls is MetropolisKernel else NotImplemented

    @abstractmethod
    def transition(self, z: Tensor, log_f: LogDensity, *, generator: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Draw as :meth:`Kernel.forward` does; the third value is the acceptance probability ``(...)``."""
        ...


class DensityKernel(ABC):
    """A kernel with densities: it can weigh a move that it did not draw, as off-policy training requires.

    Every class with this method is one, as for :class:`MetropolisKernel`.
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        """Whether a class has the method."""
        return callable(getattr(other, "log_ratio", None)) if cls is DensityKernel else NotImplemented

    @abstractmethod
    def log_ratio(self, z_prev: Tensor, z: Tensor, log_f: LogDensity, context: Tensor | None) -> Tensor:
        """Log r(z_prev | z) − log q(z | z_prev) for given points ``(..., dim)``, in nats, ``(...)``."""
        ...


__all__ = [
    "HMC",
    "Controlled",
    "DensityKernel",
    "Drift",
    "Flow",
    "GatedKernel",
    "Householder",
    "Kernel",
    "Langevin",
    "LearnedReverse",
    "MetropolisKernel",
    "Underdamped",
    "autoregressive",
    "tune_step_sizes",
]
