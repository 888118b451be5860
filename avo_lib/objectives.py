"""What is maximised: objectives as functions of a trajectory, and as objects that draw from a model.

``elbo``, ``iwae`` and ``avo`` turn a trajectory into nats. :class:`ELBO`, :class:`IWAE` and :class:`AVO` are what a
training loop is given: they draw from any model with ``chain(x)``, and say which of its parts learn. The module
``controls`` holds the objectives that AVO is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from avo_lib.chain import Chain, Trajectory
from avo_lib.checks import check_counts
from avo_lib.numerics import check_generator, log_mean_exp, traced
from avo_lib.paths import AmortisedPath

Source = torch.Generator | None
ALSO = ("decoder", "features", "proposal")


class Model(Protocol):
    """What an objective asks of a model."""

    def chain(self, x: Tensor) -> Chain:
        """The chain that approximates the posteriors of data ``(images, ...)``."""
        ...


class Objective(Protocol):
    """What a training loop maximises."""

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """Draws of the objective in nats, one for each datum, ``(images,)``."""
        ...


def elbo(trajectory: Trajectory, beta: float = 1.0) -> Tensor:
    """The evidence lower bound, one draw of log w for each trajectory.

    With kernels it is the hierarchical bound of Ranganath et al. 2016 (arXiv 1511.02386). In expectation it is a
    lower bound on log Z if beta = 1; if beta < 1 it is no bound, and for a model with beta > 1 a looser one.

    Args:
        trajectory: Trajectories of any chain; detached ones have a value here, and no gradient.
        beta: Weight of the Kullback-Leibler part.

    Returns:
        Log weights in nats, ``(...)``.
    """
    return trajectory.log_w(beta)


def iwae(trajectory: Trajectory, beta: float = 1.0) -> Tensor:
    """The importance-weighted bound from K trajectories along axis 0 (Burda et al. 2016, arXiv 1509.00519).

    Args:
        trajectory: Trajectories with K samples along axis 0.
        beta: Weight of the Kullback-Leibler part; the result is a bound only for beta = 1.

    Returns:
        Values in nats, with the trajectory's axes except the first.

    Raises:
        ValueError: If there is no such axis.
    """
    if not (log_w := trajectory.log_w(beta)).dim():
        raise ValueError("iwae averages over K samples along axis 0: draw them with chain.sample((K,))")
    return log_mean_exp(log_w)


def avo(trajectory: Trajectory, beta: float = 1.0, *, proposal: bool = False) -> Tensor:
    r"""The annealed variational objective, :math:`\sum_t \log v_t` with each :math:`z_{t-1}` held constant.

    Step t then fits its own annealed target :math:`f_t` (Huang et al. 2018, arXiv 1809.01818, eq. 4). With the term of
    the proposal, which is held constant too, the value telescopes to that of the ELBO, log w on the same draws; only
    the gradients of the kernels before the last differ. The proposal gets none, and learns in ELBO steps. A model in
    an :class:`AmortisedPath <avo_lib.paths.AmortisedPath>` gets the ELBO's gradient, if no kernel uses log f. On a
    :class:`GeometricPath <avo_lib.paths.GeometricPath>` what its two densities learn comes from every target: where f_0
    is a proposal that learns, give the path a copy that does not, ``Gaussian(mean.detach(), std.detach()).log_prob``.
    Where a target before the last vanishes, the value is NaN: they must be positive wherever the chain may go.

    Args:
        trajectory: A trajectory drawn with ``detach=True`` from a chain with at least one kernel; with ``detach=2`` the
            proposal and the first kernel learn as one step, whose target is f_1.
        beta: Weight of the Kullback-Leibler part.
        proposal: Let the proposal learn too, as a step 0 with the target f_0: :math:`-D_{KL}(q_0\|f_0)` joins the sum.

    Returns:
        Nats, ``(...)``: the value is a draw of the ELBO, the gradient that of AVO.

    Raises:
        ValueError: If the trajectory is not detached or has no kernels, or the path's alphas learn: the gradient of
            Σ log v_t by alpha has a part proportional to log Z.
    """
    if not trajectory.detached or not trajectory.log_ratio:
        raise ValueError("AVO needs at least one kernel and a trajectory drawn with chain.sample(detach=True)")
    if getattr(trajectory.path.alphas, "requires_grad", False):
        raise ValueError("AVO cannot teach a schedule, whose gradient would hang on the unknown log Z: use nested()")
    start = trajectory.path.log_density(0, trajectory.z[0], beta) - beta * trajectory.log_q0
    learns = proposal or trajectory.detached > 1
    return (start if learns else start.detach()) + trajectory.log_v(beta).sum(0)


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound; every part of the model learns."""

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """See :class:`Objective`."""
        return elbo(model.chain(x).sample(generator=generator), beta)


@dataclass(frozen=True)
class IWAE:
    """The importance-weighted bound (Burda et al. 2016, arXiv 1509.00519); every part of the model learns.

    Attributes:
        samples: Number K of trajectories, at least 1, or a ValueError.
    """

    samples: int = 5

    def __post_init__(self) -> None:
        """Refuse a bound of no samples."""
        check_counts(self, "samples")

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """See :class:`Objective`."""
        return iwae(model.chain(x).sample((self.samples,), generator=generator), beta)


@dataclass(frozen=True)
class AVO:
    """Loss-calibrated AVO: with probability ``share`` an annealed step, else one of the ELBO (Huang et al. 2018).

    In an annealed step the kernels learn, each from its own target, and the decoder from the last one. The paper leaves
    open what else learns; ``also`` and ``joint`` are the other readings. An ELBO step trains everything. Where the
    encoder also makes the prior, from pseudo-inputs, it learns through that prior in every step, and so does the
    proposal.

    Attributes:
        share: Probability of an annealed step, the paper's a; one coin is tossed for each mini-batch.
        also: What else learns: ``"proposal"`` from f_0 (and the encoder through it), ``"features"`` (the encoder,
            through what the kernels see of it), ``"decoder"`` from every annealed target.
        joint: Let the proposal and the first kernel learn as one step, from f_1.

    Raises:
        ValueError: If the share is not a probability or the parts do not go together; when called, if the model has no
            kernels, or a path that has no decoder.
    """

    share: float = 0.2
    also: tuple[str, ...] = ()
    joint: bool = False

    def __post_init__(self) -> None:
        """Refuse a share that is not a probability, and parts that do not exist."""
        check_share(self.share)
        if not set(self.also) <= set(ALSO) or self.also != tuple(sorted(set(self.also))):
            raise ValueError(f"also names some of {ALSO}, in that order and once each, not {self.also}")
        if self.joint and "proposal" in self.also:
            raise ValueError("the proposal learns from f_0 (also) or from f_1 (joint), not from both")

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """See :class:`Objective`."""
        annealed, chain = toss(self.share, generator), model.chain(x)
        if self.share and not chain.kernels:
            raise ValueError("AVO needs a model with at least one kernel: set T >= 1")
        if not annealed:
            return elbo(chain.sample(generator=generator), beta)
        if chain.context is not None and "features" not in self.also:
            chain = replace(chain, context=chain.context.detach())
        if "decoder" in self.also:
            if not isinstance(chain.path, AmortisedPath):
                raise ValueError(f"only an AmortisedPath has a decoder to train, not a {type(chain.path).__name__}")
            chain = replace(chain, path=chain.path.attached())
        trajectory = chain.sample(detach=2 if self.joint else 1, generator=generator)
        return avo(trajectory, beta, proposal="proposal" in self.also)


def check_share(share: float) -> None:
    """Refuse a share that is not a probability, with a ValueError."""
    if not 0 <= share <= 1:
        raise ValueError(f"a share is a probability, between 0 and 1, not {share}")


def toss(share: float, generator: Source) -> bool:
    """Toss one coin for a mini-batch: True with probability ``share``."""
    if traced() and share in (0, 1):  # a graph could not wait for the coin
        return bool(share)
    check_generator(generator)
    device = "cpu" if generator is None else generator.device
    return torch.rand((), generator=generator, device=device).item() < share
