"""Uncorrected Hamiltonian dynamics as a pair of kernels, on points that carry a momentum."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from avo_lib.kernels.hamiltonian import value_and_gradient
from avo_lib.kernels.langevin import check_finite, log_step_size, shorten
from avo_lib.numerics import Noise, standard_normal, sum_last
from avo_lib.paths import LogDensity


class Underdamped(nn.Module):
    r"""Partial refreshment of the momentum and an uncorrected leapfrog step (Geffner & Domke 2021, 2107.04150).

    The points are pairs (z, p) of a position and a momentum, side by side on the last axis; see
    :func:`avo_lib.momentum.with_momentum`. With an angle between 0 and π/2 in place of a friction,

    .. math::
        \tilde p &= p \cos\vartheta + \xi \sin\vartheta, \\ p' &= \tilde p + \tfrac\tau2 \nabla\log f(z), \\
        z' &= z + \tau p', \\ p'' &= p' + \tfrac\tau2 \nabla\log f(z')

    The leapfrog step is a flow that preserves volume, and costs nothing. The refreshment is reversible with respect to
    N(0, I), so that :math:`\log r - \log q = \tfrac12(\|\tilde p\|^2 - \|p\|^2)` is all that enters the ratio. Also
    known as differentiable annealed importance sampling (Zhang et al. 2021, arXiv 2107.10211).

    Args:
        step_size: Initial step size τ, positive; it is learned, on a logarithmic scale.
        angle: Initial angle ϑ, which is learned: 0 keeps the momentum, π/2 draws it anew.
        clip: Length to which longer forces are shortened, as drifts are in :class:`avo_lib.kernels.Langevin`.
        batch: Leading axes of independent copies, also as there.

    Raises:
        ValueError: If the step size or the clip is not positive, or the angle is not finite.

    >>> kernel = Underdamped(0.1, 0.5)
    >>> z, log_ratio = kernel(torch.zeros(5, 4), lambda z: -0.5 * z.square().sum(-1), None)
    >>> z.shape, log_ratio.shape
    (torch.Size([5, 4]), torch.Size([5]))
    """

    def __init__(self, step_size: float, angle: float, *, clip: float = math.inf, batch: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.log_step, self.clip = log_step_size(step_size, clip, batch), clip
        if not math.isfinite(angle):
            raise ValueError(f"an angle is finite, and best between 0 and π/2, not {angle}")
        self.angle = nn.Parameter(torch.full_like(self.log_step.detach(), angle))

    def forward(
        self, z_prev: Tensor, log_f: LogDensity, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Refresh, then leap; see :class:`avo_lib.kernels.Kernel`. A FloatingPointError where the dynamics diverge.

        Raises:
            ValueError: If points have an odd number of coordinates: half of them are momenta.
        """
        z, momentum = _parts(z_prev)
        refreshed, log_ratio = self._refresh(momentum, generator)
        moved = self._leap(z, refreshed, log_f, 1)
        return moved, log_ratio.expand(moved.shape[:-1])

    def reverse(
        self, z: Tensor, log_f: LogDensity, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Leap back, then refresh; see :meth:`forward`."""
        z_prev, refreshed = _parts(self._leap(*_parts(z), log_f, -1))
        momentum, log_ratio = self._refresh(refreshed, generator)
        return torch.cat([z_prev, momentum], -1), -log_ratio

    def _refresh(self, momentum: Tensor, generator: Noise) -> tuple[Tensor, Tensor]:
        """The momentum turned towards fresh noise, with log r(old | new) − log q(new | old)."""
        noise = standard_normal(momentum, generator)
        refreshed = momentum * self.angle.cos() + noise * self.angle.sin()
        return refreshed, 0.5 * sum_last(refreshed.square() - momentum.square())

    def _leap(self, z: Tensor, momentum: Tensor, log_f: LogDensity, direction: int) -> Tensor:
        """One leapfrog step, forwards or backwards in time."""
        step = direction * self.log_step.exp()
        momentum = momentum + 0.5 * step * self._force(z, log_f)
        z = z + step * momentum
        return check_finite(torch.cat([z, momentum + 0.5 * step * self._force(z, log_f)], -1))

    def _force(self, z: Tensor, log_f: LogDensity) -> Tensor:
        """The gradient at zero momentum: for any log f it depends on z alone, so a leapfrog step preserves volume."""
        at_rest = lambda z: log_f(torch.cat([z, torch.zeros_like(z)], -1))  # noqa: E731
        return shorten(value_and_gradient(at_rest, z, attached=torch.is_grad_enabled())[1], self.clip)


def _parts(z: Tensor) -> tuple[Tensor, Tensor]:
    if z.shape[-1] % 2:
        raise ValueError(
            f"points {tuple(z.shape)} have no room for a momentum: give the chain to avo_lib.momentum.with_momentum"
        )
    position, momentum = z.chunk(2, -1)
    return position, momentum
