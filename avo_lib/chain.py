r"""One weight: the chain from which every method of the book follows.

A chain draws :math:`z_0 \sim q_0` and moves it through kernels :math:`q_t(z_t\mid z_{t-1})`, each with a reverse
:math:`r_t(z_{t-1}\mid z_t)`, towards the targets :math:`f_t` of a path. Its trajectory has one importance weight,

.. math::
    \log w &= \log f_0(z_0) - \log q_0(z_0) + \sum_{t=1}^T \log v_t, \\
    \log v_t &= \log f_t(z_t) - \log f_{t-1}(z_{t-1}) \\
    &\quad + \log r_t(z_{t-1}\mid z_t) - \log q_t(z_t\mid z_{t-1}),

and :math:`E\,w = Z_T`, whatever the kernels, as long as the chain reaches every trajectory to which :math:`f_T` and the
:math:`r_t` give mass. The mean of log w is the ELBO; the log of the mean of K weights is the IWAE bound; with MCMC
kernels the weights are those of annealed importance sampling; and the sum of the log v_t, each with :math:`z_{t-1}`
held constant, is the annealed variational objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from avo_lib.axes import check_axes, check_draws, check_move
from avo_lib.kernels import Kernel
from avo_lib.numerics import Noise
from avo_lib.paths import LogDensity, Path
from avo_lib.proposals import Drawn, Gaussian, Proposal

__all__ = ["Chain", "Drawn", "Gaussian", "Proposal", "Trajectory"]  # a proposal is at home with the chain it starts


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Draws z_0 … z_T of a chain, with everything that its weights are made of.

    Attributes:
        z: The T + 1 latents, each ``(..., dim)``.
        log_q0: Log q_0(z_0) in nats, ``(...)``.
        log_ratio: For each t, log r_t(z_{t−1}|z_t) − log q_t(z_t|z_{t−1}) in nats, ``(...)``.
        path: The targets f_0 … f_T.
        detached: The first step t in which z_{t−1} was held constant, as AVO asks of every step; 0 if there was none.
    """

    z: tuple[Tensor, ...]
    log_q0: Tensor
    log_ratio: tuple[Tensor, ...]
    path: Path
    detached: int = 0

    def log_w(self, beta: float = 1.0) -> Tensor:
        r"""The trajectory's log weight; its mean is the ELBO. On a detached trajectory a value without a gradient.

        The f_t between the ends cancel: :math:`\log w = \log f_T(z_T) - \log q_0(z_0) + \sum_t \log r_t/q_t`.

        Args:
            beta: Weight of the Kullback-Leibler part; a bound only for beta = 1, or for a model (not an energy) >= 1.

        Returns:
            Log weights in nats, ``(...)``.
        """
        divergence = sum(self.log_ratio, start=-self.log_q0)
        log_f = self.path.log_density(len(self.log_ratio), self.z[-1], beta)
        log_w = check_axes("the path", log_f, self.z[-1]) + beta * divergence
        return log_w.detach() if self.detached else log_w

    def log_v(self, beta: float = 1.0) -> Tensor:
        """The incremental log weights log v_1 … log v_T.

        On a detached trajectory the gradient of each log v_t reaches only the kernel of its own step, so the subtracted
        log f_{t−1}(z_{t−1}) is a constant. If no kernel uses log f, an amortised model sees the last target only.

        Args:
            beta: As in :meth:`log_w`.

        Returns:
            Log v_t in nats, ``(T, ...)``.

        Raises:
            ValueError: If there are no kernels, and so no increments.
        """
        if not self.log_ratio:
            raise ValueError("a chain without kernels has no increments: its one weight is log_w()")
        reached = check_axes("the path's ladder", self.path.log_ladder(zs := torch.stack(self.z[1:]), beta), zs)
        start = check_axes("the path", self.path.log_density(0, self.z[0], beta), self.z[0])
        left = torch.cat([start.expand_as(reached[0])[None], reached[:-1]])  # log f may have more data than q_0
        if self.detached:  # even an empty part of the graph would bring zero gradients, on which Adam moves
            held = left[self.detached - 1 :].detach()
            left = held if self.detached == 1 else torch.cat([left[: self.detached - 1], held])
        return reached - left + beta * torch.stack(self.log_ratio)


@dataclass(frozen=True, eq=False)
class Chain:
    """Proposal, kernels and path: everything about a method but its objective.

    With no kernels it is plain variational inference, with the proposal as the approximation.

    Attributes:
        proposal: Proposal that draws z_0; a TypeError if it is a distribution that is not :class:`Drawn`.
        kernels: The T kernels, in order; a TypeError unless they are a sequence (a generator is not).
        path: The targets f_0 … f_T; a ValueError unless there is one kernel for each step.
        context: Features of the data that the kernels may use, or None.

    >>> from avo_lib.kernels import HMC
    >>> from avo_lib.paths import GeometricPath, linear_alphas
    >>> base = Gaussian(torch.zeros(2), torch.ones(2))
    >>> path = GeometricPath(base.log_prob, lambda z: base.log_prob(z - 1), linear_alphas(4))
    >>> chain = Chain(base, [HMC(0.5)] * 4, path)
    >>> chain.sample((100,)).log_w().shape
    torch.Size([100])
    """

    proposal: Proposal
    kernels: Sequence[Kernel]
    path: Path
    context: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the parts are what they should be, and that there is one kernel for each step of the path."""
        if isinstance(self.proposal, Distribution):
            name = type(self.proposal).__name__
            raise TypeError(f"a distribution is no proposal until it is wrapped: Drawn({name}(...))")
        if not hasattr(self.kernels, "__len__"):
            raise TypeError(f"kernels must be a sequence, such as [kernel] * T, not {type(self.kernels).__name__}")
        if (steps := len(self.kernels)) != len(self.path.alphas) - 1:
            raise ValueError(f"{steps} kernels need {steps + 1} alphas, but the path has {len(self.path.alphas)}")

    def target(self, t: int) -> LogDensity:
        """Log f_t as a function of z alone."""
        return lambda z: check_axes("the path", self.path.log_density(t, z), z)

    def sample(self, shape: Sequence[int] = (), *, detach: int = 0, generator: Noise = None) -> Trajectory:
        """Draw trajectories forwards.

        Args:
            shape: Leading axes to add to the proposal's own, e.g. ``(K,)`` samples for each datum.
            detach: For AVO, hold z_{t−1} constant in step t: from step 1 on if True, from step 2 on if 2.
            generator: Source of the noise.

        Raises:
            ValueError: If ``detach`` begins before the first step, or after the last.
        """
        if not 0 <= detach <= max(len(self.kernels), 2):  # from step 2 on, a chain of one step learns as a whole
            raise ValueError(f"a chain of {len(self.kernels)} kernels cannot be held constant from step {detach} on")
        z, log_q0 = check_draws(shape, *self.proposal.sample(shape, generator=generator))
        zs, log_ratios = [z], []
        for t, kernel in enumerate(self.kernels, start=1):
            z_prev = z.detach() if detach and t >= detach else z
            z, log_ratio = kernel.forward(z_prev, self.target(t), self.context, generator=generator)
            zs.append(z)
            log_ratios.append(check_move(f"kernel {t}", z_prev, z, log_ratio))
        return Trajectory(tuple(zs), log_q0, tuple(log_ratios), self.path, int(detach))

    def sample_reverse(self, z: Tensor, *, generator: Noise = None) -> Trajectory:
        """Draw z_{T−1} … z_0 from the reverse kernels, starting from given z_T.

        From exact draws of f_T the weights of such trajectories bound log Z_T from above (Grosse et al. 2015).

        Args:
            z: Points z_T, ``(..., dim)``.
            generator: Source of the noise.

        Returns:
            The trajectories, in forward order.
        """
        zs, log_ratios = [z], []
        for t in range(len(self.kernels), 0, -1):
            z, log_ratio = self.kernels[t - 1].reverse(zs[-1], self.target(t), self.context, generator=generator)
            log_ratios.append(check_move(f"kernel {t}", zs[-1], z, log_ratio))
            zs.append(z)
        log_q0 = check_axes("log_prob of the proposal", self.proposal.log_prob(z), z)
        return Trajectory(tuple(zs[::-1]), log_q0, tuple(log_ratios[::-1]), self.path)
