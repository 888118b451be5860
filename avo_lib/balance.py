r"""Balance as an objective: weights that do not vary, on trajectories that may come from anywhere.

Where forward and reverse kernels are in detailed balance with the targets, :math:`f_{t-1} q_t \propto f_t r_t`, every
:math:`\log v_t` is a constant, :math:`\log Z_t - \log Z_{t-1}`. The objectives here penalise squared
deviations from it. Their gradient takes the points as constants, so any :class:`Behaviour` may draw them. If the chain
itself draws them, the forward kernels get beta times the expected gradient of AVO or of the ELBO, the reverse kernels
another. A decoder does not learn, unless kernels such as :class:`avo_lib.kernels.Langevin` take their drift from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from avo_lib.axes import check_axes, check_move
from avo_lib.chain import Chain, Trajectory
from avo_lib.checks import check_counts, check_positive
from avo_lib.kernels import DensityKernel
from avo_lib.numerics import standard_normal
from avo_lib.objectives import Model, Source
from avo_lib.paths import Path


class Behaviour(Protocol):
    """Where trajectories come from: a policy that need not be the chain's own."""

    def __call__(self, chain: Chain, shape: Sequence[int], *, generator: Source) -> Sequence[Tensor]:
        """Points z_0 … z_T, each with ``shape`` in front of the proposal's axes, ``(*shape, ..., dim)``."""


@dataclass(frozen=True)
class Widened:
    """The chain's own draws, each point moved by Gaussian noise before the chain goes on from there.

    Attributes:
        std: Standard deviation of the noise on every coordinate of z_0 … z_T; a ValueError unless positive and finite.
    """

    std: float

    def __post_init__(self) -> None:
        """Refuse a standard deviation that is not positive and finite."""
        check_positive(self, "std")

    def __call__(self, chain: Chain, shape: Sequence[int], *, generator: Source = None) -> Sequence[Tensor]:
        """See :class:`Behaviour`."""
        z, _ = chain.proposal.sample(shape, generator=generator)
        zs = [z + self.std * standard_normal(z, generator)]
        for t, kernel in enumerate(chain.kernels, start=1):
            z, _ = kernel.forward(zs[-1], chain.target(t), chain.context, generator=generator)
            zs.append(z + self.std * standard_normal(z, generator))
        return zs


@dataclass(frozen=True, eq=False)
class Backwards:
    """The chain's reverse kernels, started from stored points: exact draws, annealed particles, a replay buffer.

    Attributes:
        ends: Points z_T ``(n, ..., dim)``, of which each trajectory takes one at random; between n and dim come
            the proposal's axes, or axes that broadcast to them: ``(n, dim)`` serves every datum. Else a ValueError.
    """

    ends: Tensor

    def __post_init__(self) -> None:
        """Refuse what is not a list of points."""
        if self.ends.dim() < 2 or len(self.ends) == 0:
            raise ValueError(f"ends must be points (n, ..., dim), n >= 1, not of shape {tuple(self.ends.shape)}")

    def __call__(self, chain: Chain, shape: Sequence[int], *, generator: Source = None) -> Sequence[Tensor]:
        """See :class:`Behaviour`."""
        like, _ = chain.proposal.sample(shape, generator=generator)
        n, *axes = self.ends.shape
        pairs = zip(axes[-2::-1], like.shape[-2::-1], strict=False)
        if axes[-1] != like.shape[-1] or len(axes) > like.dim() or any(a not in (1, b) for a, b in pairs):
            raise ValueError(f"ends {tuple(self.ends.shape)} do not fit the chain's points {tuple(like.shape)}")
        rows = torch.randint(n, (1, *like.shape[:-1], 1), generator=generator, device=self.ends.device)
        ends = self.ends.reshape(n, *[1] * (like.dim() - len(axes)), *axes).expand(n, *like.shape)
        return chain.sample_reverse(ends.gather(0, rows.expand(1, *like.shape))[0], generator=generator).z


@dataclass(eq=False)
class _Fixed:
    """A path whose values are constants: a chain is judged by them, and the path does not learn from them."""

    path: Path
    alphas: Tensor

    def log_density(self, t: int, z: Tensor, beta: float = 1.0) -> Tensor:
        with torch.no_grad():
            return self.path.log_density(t, z, beta)

    def log_ladder(self, zs: Tensor, beta: float = 1.0) -> Tensor:
        with torch.no_grad():
            return self.path.log_ladder(zs, beta)


def weigh(chain: Chain, z: Sequence[Tensor]) -> Trajectory:
    r"""Weigh given points as a trajectory of a chain, with gradients to proposal, kernels and what feeds them.

    Points and the targets' values are constants: balance asks that weights be equal, not large, and is no objective for
    a model. The context is not held constant, so an encoder learns through what kernels see of it.

    Args:
        chain: A chain whose kernels have densities (:class:`avo_lib.kernels.DensityKernel`).
        z: Points z_0 … z_T, each ``(..., dim)``, from any source.

    Returns:
        The trajectory, with ``log_w`` and ``log_v`` in nats.

    Raises:
        ValueError: If there are not T + 1 points.
        TypeError: If a kernel, such as a deterministic one, has no density.

    >>> from avo_lib.chain import Gaussian
    >>> from avo_lib.kernels import GatedKernel
    >>> from avo_lib.paths import GeometricPath, linear_alphas
    >>> base = Gaussian(torch.zeros(2), torch.ones(2))
    >>> path = GeometricPath(base.log_prob, lambda z: base.log_prob(z - 1), linear_alphas(1))
    >>> chain = Chain(base, [GatedKernel(2, 8)], path)
    >>> own = chain.sample((5,))
    >>> torch.allclose(weigh(chain, own.z).log_w(), own.log_w(), atol=1e-4)
    True
    """
    if len(z) != len(chain.kernels) + 1:
        raise ValueError(f"a chain of {len(chain.kernels)} kernels has {len(chain.kernels) + 1} points, not {len(z)}")
    z = tuple(point.detach() for point in z)
    ratios = []
    for t, kernel in enumerate(chain.kernels, start=1):
        if not isinstance(kernel, DensityKernel):
            raise TypeError(f"kernel {t}, a {type(kernel).__name__}, has no log_ratio of two given points")
        ratios.append(kernel.log_ratio(z[t - 1], z[t], chain.target(t), chain.context))
        check_move(f"kernel {t}", z[t - 1], z[t], ratios[-1])
    log_q0 = check_axes("log_prob of the proposal", chain.proposal.log_prob(z[0]), z[0])
    return Trajectory(z, log_q0, tuple(ratios), _Fixed(chain.path, chain.path.alphas))


def log_variance(log_w: Tensor, dim: int = 0) -> Tensor:
    r"""Minus half the variance of K log weights, :math:`-\frac{1}{2(K-1)}\sum_k (\log w_k - \overline{\log w})^2`.

    The log-variance loss of Richter et al. 2020 (arXiv 2010.10436): the batch's own mean stands for log Z.

    Args:
        log_w: Log weights of given points in nats, any shape with K ≥ 2 along ``dim``.
        dim: The axis of the K samples.

    Returns:
        Minus half the variance in nats², shaped as ``log_w`` without ``dim``.

    Raises:
        ValueError: If K is below 2.

    >>> log_variance(torch.tensor([1.0, 3.0])).item()
    -1.0
    """
    if log_w.shape[dim] < 2:
        raise ValueError(f"a variance needs at least two weights along axis {dim}, not {log_w.shape[dim]}")
    return -0.5 * log_w.var(dim)


def _squares(log_w: Tensor, given: Tensor | float) -> Tensor:
    constant = torch.as_tensor(given)
    spare = log_w.dim() - constant.dim()
    if spare < 0 or any(a not in (1, b) for a, b in zip(constant.shape, log_w.shape, strict=False)):
        raise ValueError(f"constants {tuple(constant.shape)} do not lead the log weights' axes {tuple(log_w.shape)}")
    return -0.5 * (log_w - constant.reshape((*constant.shape, *[1] * spare))).square()


@dataclass(frozen=True, eq=False)
class DetailedBalance:
    r"""Detailed balance of each step, :math:`-\frac12\sum_t(\log v_t - c_t)^2` (Bengio et al. 2023, arXiv 2111.09266).

    There the targets on the way are learned; here the path gives them, up to the constants. The kernels learn, each
    from its own step; proposal, features and decoder do not (but see the module), as in AVO.

    Attributes:
        increments: The c_t ``(T,)`` or ``(T, images)`` in nats: log Z_t − log Z_{t−1} where it is known, else
            parameters for the optimiser; a ValueError unless there are T of them.
        behaviour: What draws the points; by default the chain itself.
    """

    increments: Tensor
    behaviour: Behaviour | None = None

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """Draws of the objective in nats², one for each datum; see :class:`avo_lib.objectives.Objective`."""
        chain = model.chain(x)
        if (given := torch.as_tensor(self.increments).shape)[:1] != (T := len(chain.kernels),) or T == 0:
            raise ValueError(f"{T} kernels need as many increments (>= 1), not an array of shape {tuple(given)}")
        if chain.context is not None:
            chain = replace(chain, context=chain.context.detach())
        log_v = _weighed(self.behaviour, chain, (), generator).log_v(beta)
        return _squares(log_v, self.increments).sum(0)


@dataclass(frozen=True, eq=False)
class TrajectoryBalance:
    r"""Balance of the whole trajectory, :math:`-\frac12(\log w - \log Z)^2` (Malkin et al. 2022, arXiv 2201.13259).

    Proposal, encoder, kernels and, if the optimiser has it, ``log_z`` learn; the decoder does not (but see the module).

    Attributes:
        log_z: Log Z in nats, one number or one for each datum, ``(images,)``: known, or a parameter. Else a ValueError.
        behaviour: What draws the points; by default the chain itself.
    """

    log_z: Tensor | float
    behaviour: Behaviour | None = None

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """Draws of the objective in nats², one for each datum; see :class:`avo_lib.objectives.Objective`."""
        return _squares(_weighed(self.behaviour, model.chain(x), (), generator).log_w(beta), self.log_z)


@dataclass(frozen=True)
class LogVariance:
    """Balance of the whole trajectory, with the mean of K log weights in place of log Z; see :func:`log_variance`.

    Proposal, encoder and kernels learn; the decoder does not (but see the module).

    Attributes:
        samples: Number K of trajectories, at least 2, or a ValueError.
        behaviour: What draws the points; by default the chain itself.
    """

    samples: int = 5
    behaviour: Behaviour | None = None

    def __post_init__(self) -> None:
        """Refuse a variance of one sample."""
        check_counts(self, "samples", least=2)

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """Draws of the objective in nats², one for each datum; see :class:`avo_lib.objectives.Objective`."""
        return log_variance(_weighed(self.behaviour, model.chain(x), (self.samples,), generator).log_w(beta))


def _weighed(behaviour: Behaviour | None, chain: Chain, shape: Sequence[int], generator: Source) -> Trajectory:
    with torch.no_grad():
        own: Sequence[Tensor] = chain.sample(shape, generator=generator).z if behaviour is None else ()
        z = own if behaviour is None else behaviour(chain, shape, generator=generator)
    weighed = weigh(chain, z)
    if (axes := weighed.z[0].shape)[: len(shape)] != torch.Size(shape):
        raise ValueError(f"the behaviour's points need the axes {tuple(shape)} in front, not {tuple(axes)}")
    return weighed
