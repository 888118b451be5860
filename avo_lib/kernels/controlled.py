"""Langevin dynamics with a learned drift: in the reverse kernel alone, or with opposite signs in both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from avo_lib.kernels.gated import ConditionalLinear
from avo_lib.kernels.langevin import Langevin
from avo_lib.paths import LogDensity


class Drift(nn.Module):
    r"""A vector field :math:`u(z, s)` that depends on a time s between 0 and 1, given by a small network.

    It is zero at first: whatever it steers starts as plain Langevin dynamics.

    Args:
        dim: Size of the latent.
        hidden: Width of the two hidden layers.
        batch: Leading axes of independent copies, as for :class:`avo_lib.kernels.Langevin`.

    >>> Drift(dim=2, hidden=8)(torch.ones(5, 2), 0.5).abs().sum().item()
    0.0
    """

    def __init__(self, dim: int, hidden: int, *, batch: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.first = ConditionalLinear(dim + 1, hidden, batch=batch)
        self.second = ConditionalLinear(hidden, hidden, batch=batch)
        self.last = ConditionalLinear(hidden, dim, batch=batch)
        with torch.no_grad():
            self.last.scale.zero_()
            self.last.shift.zero_()

    def forward(self, z: Tensor, time: float) -> Tensor:
        """The vector field at points ``(..., dim)``, shaped as they are."""
        h = torch.cat([z, z.new_full((*z.shape[:-1], 1), time)], -1)
        for layer in (self.first, self.second):
            h = functional.silu(layer(h))
        u: Tensor = self.last(h)
        return u


class Controlled(Langevin):
    r"""Controlled Monte Carlo diffusion: one drift u, with opposite signs there and back (Vargas et al. 2024).

    .. math::
        q:\ z &= z_{prev} + \sqrt{2\tau}\,\xi \\
        &\quad + \tau\{\nabla\log f + u_{t-1}\}(z_{prev}), \\
        r:\ z_{prev} &= z + \sqrt{2\tau}\,\xi' + \tau\{\nabla\log f - u_t\}(z)

    Where u carries the mass from one target to the next, the gap of the bound vanishes with the step size
    (arXiv 2307.01050). As for :class:`avo_lib.kernels.Langevin`, the parameters of log f learn through the drift.

    Args:
        step_size: Initial step size, as for :class:`avo_lib.kernels.Langevin`; so are ``clip`` and ``batch``.
        drift: Module that gives u at points and a time; the kernels of a chain share it.
        time: The interval :math:`((t-1)/T,\ t/T)` of this step.

    >>> kernel = Controlled(0.1, Drift(2, 8), (0.0, 0.25))
    >>> z, log_ratio = kernel(torch.zeros(5, 2), lambda z: -0.5 * z.square().sum(-1), None)
    """

    def __init__(
        self,
        step_size: float,
        drift: nn.Module,
        time: tuple[float, float],
        *,
        clip: float = math.inf,
        batch: tuple[int, ...] = (),
    ) -> None:
        super().__init__(step_size, clip=clip, batch=batch)
        self.control, self.time = drift, time

    def drift(self, z: Tensor, log_f: LogDensity, direction: int) -> Tensor:
        """The gradient of log f plus the control u, which has the sign of the direction."""
        time = self.time[0] if direction > 0 else self.time[1]
        u: Tensor = self.control(z, time)
        return super().drift(z, log_f, direction) + direction * u


class LearnedReverse(Controlled):
    r"""Monte Carlo diffusion: plain Langevin forwards, the control in the reverse kernel alone (Doucet et al. 2022).

    The reverse of a diffusion with the marginals :math:`q_t` has the drift :math:`2 \nabla\log q_t - \nabla\log f`
    (arXiv 2208.07698); so the best u is :math:`2 \nabla\log (f / q_t)`. The arguments are those of
    :class:`Controlled`, and the same parameters learn.
    """

    def drift(self, z: Tensor, log_f: LogDensity, direction: int) -> Tensor:
        """The gradient of log f; in the reverse kernel the control u as well."""
        return Langevin.drift(self, z, log_f, direction) if direction > 0 else super().drift(z, log_f, direction)
