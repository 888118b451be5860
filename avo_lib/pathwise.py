"""Objectives whose gradient follows the draws alone, without the score of the proposal.

Values and expected gradients are those of the ELBO and of the importance-weighted bound. In the gradient of the ELBO
the score has mean zero, and is left out; in that of K weights it has not, and is reparameterised a second time. Near
the posterior this takes noise away; far from it, as under a much narrower proposal, it may bring much more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from avo_lib.chain import Chain, Gaussian, Proposal, Trajectory
from avo_lib.checks import check_counts
from avo_lib.numerics import Noise, log_mean_exp
from avo_lib.objectives import Model, Source


@dataclass(frozen=True)
class _WithoutScore:
    """A Gaussian proposal whose log density depends on its parameters through the draw alone."""

    proposal: Gaussian

    def sample(self, shape: Sequence[int] = (), *, generator: Noise = None) -> tuple[Tensor, Tensor]:
        z, _ = self.proposal.sample(shape, generator=generator)
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        return Gaussian(self.proposal.mean.detach(), self.proposal.std.detach()).log_prob(z)


def without_score(chain: Chain) -> Chain:
    """The same chain, with a proposal that is differentiated through its draws alone.

    Args:
        chain: A chain with a Gaussian proposal and no kernels; the score of a learned reverse kernel does not have mean
            zero.

    Raises:
        ValueError: If the chain has another proposal, or kernels.
    """
    proposal: Proposal = chain.proposal
    if chain.kernels or type(proposal) is not Gaussian:  # a subclass may score its draws in another way
        raise ValueError(
            f"pathwise gradients need a Gaussian proposal and no kernels, not {type(proposal).__name__} and "
            f"{len(chain.kernels)} kernels"
        )
    return replace(chain, proposal=_WithoutScore(proposal))


@dataclass(frozen=True)
class STL:
    """The ELBO, sticking the landing (Roeder et al. 2017, arXiv 1703.09194).

    Where the proposal equals the posterior its gradient vanishes draw by draw.
    """

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """See :class:`avo_lib.objectives.Objective`."""
        return without_score(model.chain(x)).sample(generator=generator).log_w(beta)


@dataclass(frozen=True)
class DReG:
    r"""The importance-weighted bound with doubly reparameterised gradients (Tucker et al. 2019, arXiv 1810.04152).

    With normalised weights :math:`\tilde w_k` the proposal follows
    :math:`\sum_k \tilde w_k^2\,\partial_{z_k} \log w_k\,\partial_\phi z_k`, which is unbiased and, unlike IWAE's own
    gradient, does not drown in noise as K grows. (Where beta is not 1, log w has the score with the factor beta, and
    :math:`\tilde w_k^2` becomes :math:`(1 - \beta) \tilde w_k + \beta \tilde w_k^2`.) The model follows
    :math:`\sum_k \tilde w_k \nabla_\theta \log w_k`, as under IWAE.

    Attributes:
        samples: Number K of weights, at least 1, or a ValueError.
    """

    samples: int = 5

    def __post_init__(self) -> None:
        """Refuse a bound of no samples."""
        check_counts(self, "samples")

    def __call__(self, model: Model, x: Tensor, *, beta: float = 1.0, generator: Source = None) -> Tensor:
        """See :class:`avo_lib.objectives.Objective`."""
        trajectory = without_score(model.chain(x)).sample((self.samples,), generator=generator)
        return _doubly(trajectory, beta)


def _doubly(trajectory: Trajectory, beta: float) -> Tensor:
    """The bound in value, DReG in gradient."""
    log_w, (z,) = trajectory.log_w(beta), trajectory.z
    weight = log_w.detach().softmax(0)
    if z.requires_grad:  # on its way to the proposal the gradient is weighed a second time
        z.register_hook(lambda gradient: (1 - beta + beta * weight)[..., None] * gradient)
    surrogate = (weight * log_w.masked_fill(weight == 0, 0.0)).sum(0)  # zero times minus infinity is not a number
    return log_mean_exp(log_w).detach() + surrogate - surrogate.detach()
