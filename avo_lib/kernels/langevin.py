"""Unadjusted Langevin dynamics as a pair of kernels: the weight corrects what no accept-or-reject test does."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from avo_lib.checks import is_positive
from avo_lib.kernels.hamiltonian import value_and_gradient
from avo_lib.numerics import Noise, standard_normal, sum_last, traced
from avo_lib.paths import LogDensity


class Langevin(nn.Module):
    r"""One step of unadjusted Langevin, with the same step as its reverse (Thin et al. 2021, arXiv 2106.15921).

    .. math::
        q:\ z &= z_{prev} + \tau \nabla\log f(z_{prev}) + \sqrt{2\tau}\,\xi, \\
        r:\ z_{prev} &= z + \tau \nabla\log f(z) + \sqrt{2\tau}\,\xi'

    As no move is rejected, gradients pass through the step: by maximising E log w a chain learns its step sizes, and
    also the parameters of its targets, through every step's drift, whatever else an objective holds constant. A step
    takes two gradients of log f, under ``torch.no_grad()`` too; ``torch.inference_mode()`` raises a RuntimeError. A
    log f that cuts its own graph, by ``detach`` or ``torch.no_grad``, counts as flat, and the drift is zero.

    Args:
        step_size: Initial step size τ, positive; it is learned, on a logarithmic scale.
        clip: Length to which longer drifts are shortened. As q and r both do so, the weight stays exact; without it
            nothing holds points back where a target is steeper than the step size allows.
        batch: Leading axes of independent copies, e.g. ``(seeds,)``, each with its own step size; z is then
            ``(..., *batch, points, dim)``.

    Raises:
        ValueError: If the step size or the clip is not positive.

    >>> kernel = Langevin(0.1)
    >>> z, log_ratio = kernel(torch.zeros(5, 2), lambda z: -0.5 * z.square().sum(-1), None)
    >>> z.shape, log_ratio.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, step_size: float, *, clip: float = math.inf, batch: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.log_step, self.clip = log_step_size(step_size, clip, batch), clip

    def drift(self, z: Tensor, log_f: LogDensity, direction: int) -> Tensor:
        """The drift at z of the forward kernel (direction 1) or of the reverse kernel (−1)."""
        return value_and_gradient(log_f, z, attached=torch.is_grad_enabled())[1]

    def forward(
        self, z_prev: Tensor, log_f: LogDensity, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move, see :class:`avo_lib.kernels.Kernel`; raises FloatingPointError where the dynamics diverge."""
        return self._move(z_prev, log_f, 1, generator)

    def reverse(
        self, z: Tensor, log_f: LogDensity, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move back by the reverse kernel; see :meth:`forward`."""
        z_prev, log_ratio = self._move(z, log_f, -1, generator)
        return z_prev, -log_ratio

    def log_ratio(self, z_prev: Tensor, z: Tensor, log_f: LogDensity, context: Tensor | None) -> Tensor:
        """Log r(z_prev | z) − log q(z | z_prev) of given points; see :class:`avo_lib.kernels.DensityKernel`."""
        step = self.log_step.exp()
        std = (2 * step).sqrt()
        there = (z - z_prev - step * shorten(self.drift(z_prev, log_f, 1), self.clip)) / std
        back = (z_prev - z - step * shorten(self.drift(z, log_f, -1), self.clip)) / std
        return sum_last(0.5 * (there.square() - back.square()))

    def _move(self, z: Tensor, log_f: LogDensity, direction: int, generator: Noise) -> tuple[Tensor, Tensor]:
        """A draw of one kernel, with log other(z | draw) − log one(draw | z); both have the standard deviation √2τ."""
        step = self.log_step.exp()
        std = (2 * step).sqrt()
        noise = standard_normal(z, generator)
        drawn = z + step * shorten(self.drift(z, log_f, direction), self.clip) + std * noise
        residual = (z - drawn - step * shorten(self.drift(drawn, log_f, -direction), self.clip)) / std
        check_finite(residual)  # which is finite only where both drifts and the draw are
        return drawn, sum_last(0.5 * (noise.square() - residual.square()))


def shorten(drift: Tensor, clip: float) -> Tensor:
    """Vectors ``(..., dim)`` shortened to a length of at most ``clip``; zero where their squared length overflows."""
    if clip == math.inf:
        return drift
    return drift * (clip / sum_last(drift.square()).clamp(min=clip**2).sqrt())[..., None]


def log_step_size(step_size: float, clip: float, batch: tuple[int, ...]) -> nn.Parameter:
    """A learnable logarithm of the step size, or one for each copy; a ValueError unless it and clip are positive."""
    if not is_positive(step_size):
        raise ValueError(f"a step size is one number, positive and finite, not {step_size!r}")
    if not clip > 0:
        raise ValueError(f"drifts are shortened to a positive length, not {clip}")
    return nn.Parameter(torch.full((*batch, 1, 1) if batch else (), math.log(step_size)))


def check_finite(moved: Tensor) -> Tensor:
    """Raise a FloatingPointError if a move is not finite: nothing rejects it, and its weight is NaN."""
    if not traced() and not bool(moved.isfinite().all()):
        raise FloatingPointError(
            "uncorrected dynamics leave the finite numbers: take a smaller step_size or a clip, and see that the "
            "gradient of log f is finite where log f is"
        )
    return moved
