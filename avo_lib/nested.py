r"""Nested variational inference: annealed objectives on weighted particles, along a path that learns.

Step t of a chain should take the *target* :math:`\pi_{t-1} = f_{t-1}/Z_{t-1}` to the next, and pays

.. math::
    D_{KL}(\pi_{t-1} q_t \| \pi_t r_t) &= \log Z_t - \log Z_{t-1} \\
    &\quad - E_{\pi_{t-1}} E_{q_t} \log v_t .

AVO lets the points that the chain has reached stand for :math:`\pi_{t-1}`. Zimmermann et al. 2021 (arXiv 2106.11302)
weigh or resample them first, and then the sum of the divergences is a function of the path as well.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from avo_lib.chain import Chain
from avo_lib.checks import check_count
from avo_lib.numerics import Noise, standard_normal
from avo_lib.paths import LogDensity, checked, mix
from avo_lib.smc import draw_parents

Stand = Literal["equal", "weighted", "resampled"]


class LearnedPath(nn.Module):
    r"""A geometric path whose exponents learn: they are sums of a softmax, so they rise from 0 to 1 for any parameters.

    Args:
        log_f0: Log density of the base; both densities must be positive wherever the chain may go.
        log_fT: Log density of the target, up to its log Z.
        T: Number of steps, at least 1.
        copies: Axes of independent copies, each with its own exponents; densities are then ``(..., *copies)``.

    Raises:
        ValueError: If there is no step.

    >>> path = LearnedPath(lambda z: 0 * z[..., 0], lambda z: -z[..., 0].square(), T=4)
    >>> path.alphas.tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    def __init__(self, log_f0: LogDensity, log_fT: LogDensity, T: int, copies: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.log_f0, self.log_fT = log_f0, log_fT
        self.rises = nn.Parameter(torch.zeros(check_count("T", T), *copies))

    @property
    def alphas(self) -> Tensor:
        """Exponents of the target, ``(T + 1, *copies)``, with their gradient."""
        between = self.rises.softmax(0).cumsum(0)[:-1].clamp(max=1)  # in float32 the sum passes 1 by its rounding
        end = torch.zeros_like(self.rises[:1])
        return torch.cat([end, between, end + 1])

    def log_density(self, t: int, z: Tensor, beta: float = 1.0) -> Tensor:
        """Log f_t(z) in nats; ``beta`` does not act on an energy."""
        log_f0, log_fT = checked("log_f0", self.log_f0), checked("log_fT", self.log_fT)
        if t in (0, len(self.rises)):
            return (log_fT if t else log_f0)(z)
        return mix(log_f0(z), log_fT(z), self.alphas[t])

    def log_ladder(self, zs: Tensor, beta: float = 1.0) -> Tensor:
        """Log f_t(z_t) for t = 1 … T, ``(T, ..., dim)`` to ``(T, ...)``."""
        return torch.stack([self.log_density(t, z) for t, z in enumerate(zs, start=1)])


def nested(chain: Chain, samples: int, particles: Stand = "weighted", *, generator: Noise = None) -> Tensor:
    r"""The sum over t of minus :math:`D_{KL}(\pi_{t-1} q_t \| \pi_t r_t)`, up to a constant, from K particles.

    Kernel t learns from :math:`\sum_k W_k \log v_t`, with :math:`z_{t-1}` held constant. A path that learns has the
    gradient of the divergences, by self-normalised estimates of

    .. math::
        \partial_{\alpha_t} D_t &= E_{\pi_t} u(z_t) - E_{\pi_{t-1} q_t} u(z_t), \\
        \partial_{\alpha_{t-1}} D_t &= -\mathrm{Cov}_{\pi_{t-1} q_t}(u(z_{t-1}), \log v_t), \\
        u &= \log f_T - \log f_0 .

    Args:
        chain: A chain with learned kernels; the proposal does not learn, nor do the features that kernels see. A model
            inside the path does learn, from every target: give the path a model without gradients.
        samples: The number K of particles; further axes of the proposal are populations of their own.
        particles: What stands for :math:`\pi_{t-1}`: the particles as they are, which is AVO; the particles with
            their weights; or the particles resampled after every step but the last.
        generator: Source of the noise.

    Returns:
        Nats, with the proposal's axes. It is a surrogate, whose value bounds nothing with few particles.

    Raises:
        ValueError: If ``particles`` is none of these, if a path is to learn from equal particles, or without samples.
    """
    if particles not in get_args(Stand):
        raise ValueError(f"particles are {', '.join(get_args(Stand))}, not {particles!r}")
    learns = chain.path.alphas.requires_grad
    if learns and particles == "equal":
        raise ValueError("particles as they are do not stand for a target, so no path learns from them: weigh them")
    samples = check_count("samples", samples)
    z, log_q0 = (part.detach() for part in chain.proposal.sample((samples,), generator=generator))
    log_f = chain.target(0)(z)
    log_w = (log_f - log_q0).detach()
    context = None if chain.context is None else chain.context.detach()
    total = torch.zeros_like(log_w[0])
    for t, kernel in enumerate(chain.kernels, start=1):
        share = torch.full_like(log_w, 1 / samples) if particles == "equal" else log_w.softmax(0)
        moved, log_ratio = kernel.forward(z, chain.target(t), context, generator=generator)
        log_f_moved = chain.target(t)(moved)
        log_v = log_f_moved - log_f.detach() + log_ratio
        gain = (share * log_v).sum(0)
        total = total + gain
        z, log_w = moved.detach(), log_w + log_v.detach()
        log_f_here = log_f_moved.detach()
        if learns:
            log_f_here = chain.target(t)(z)  # its gradient reaches the path alone
            score = share * (log_v - gain).detach() * log_f
            total = total + _without_value((score - log_w.softmax(0) * log_f_here).sum(0))
        log_f = log_f_here
        if particles == "resampled" and t < len(chain.kernels):
            parents = draw_parents(log_w, torch.special.ndtr(standard_normal(z[0, ..., :1], generator)[..., 0]))
            z, log_f = z.gather(0, parents[..., None].expand(z.shape)), log_f.gather(0, parents)
            log_w = torch.zeros_like(log_w)
    return total


def _without_value(x: Tensor) -> Tensor:
    return x - x.detach()
