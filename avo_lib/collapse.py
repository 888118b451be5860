r"""How much of the latent space a model uses: KL for each unit, active units, and information about x.

A unit whose posterior equals its prior for every image carries nothing. Three numbers say how far a unit, or a code, is
from that. For an encoder :math:`q_0(z\mid x)` and its aggregate :math:`q(z) = E_x\,q_0(z\mid x)` they are tied by

.. math::
    E_x & \,\mathrm{KL}(q_0(z\mid x)\,\|\,p(z)) \\
    &= I(x; z) + \mathrm{KL}(q(z)\,\|\,p(z)),

so the KL bounds the information from above (Hoffman & Johnson 2016).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avo_lib import estimate
from avo_lib.chain import Gaussian
from avo_lib.checks import check_count
from avo_lib.estimate import Bracket
from avo_lib.numerics import Noise, log_normal, traced

THRESHOLD = 0.01
"""Activity above which a unit counts as active (Burda et al. 2016, arXiv 1509.00519)."""


def kl_per_unit(proposal: Gaussian) -> Tensor:
    r"""KL of each unit's Gaussian from its standard normal prior, :math:`\frac12(\mu^2+\sigma^2-1)-\log\sigma`.

    Both factorise over units, so for a plain VAE the sum over units is the KL part of the ELBO, without noise. For a
    model with kernels it is that of :math:`q_0` alone, which is then no longer the approximate posterior.

    Args:
        proposal: Gaussian with mean and standard deviation ``(..., dim)``.

    Returns:
        Divergences in nats, ``(..., dim)``; average them over images.

    >>> kl_per_unit(Gaussian(torch.tensor([0.0, 1.0]), torch.ones(2))).tolist()
    [0.0, 0.5]
    """
    return 0.5 * (proposal.mean.square() + proposal.std.square() - 1) - proposal.std.log()


def activity(mean: Tensor, other: Tensor | None = None) -> Tensor:
    r"""Variance over images of the posterior mean, :math:`\mathrm{Var}_x\,E[z_j\mid x]` (Burda et al., 1509.00519).

    A chain knows its posterior mean only through draws, whose noise adds to the variance. The covariance between the
    means of two independent halves of the draws is free of that noise on average.

    Args:
        mean: Posterior means ``(images, dim)``, or the means of one half of the draws.
        other: The means of the other half; None if ``mean`` is exact.

    Returns:
        Activity of each unit ``(dim,)``, in squared units of z. With ``other`` it can fall below zero by chance.

    Raises:
        ValueError: If there are fewer than two images, the halves differ in shape, or a mean is not finite.

    >>> activity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).tolist()
    [2.0, 0.0]
    """
    other = mean if other is None else other
    if mean.dim() != 2 or len(mean) < 2 or other.shape != mean.shape:
        raise ValueError(
            f"need means (images, dim) of at least two images, got {tuple(mean.shape)} and {tuple(other.shape)}"
        )
    found = ((mean - mean.mean(0)) * (other - other.mean(0))).sum(0) / (len(mean) - 1)
    if not traced() and bool(found.isnan().any()):
        raise ValueError("a posterior mean is NaN or infinite: whether its unit is active cannot be said")
    return found


def active_units(mean: Tensor, other: Tensor | None = None, *, threshold: float = THRESHOLD) -> Tensor:
    """Which units are active: those whose :func:`activity` exceeds the threshold.

    Args:
        mean: As for :func:`activity`.
        other: As for :func:`activity`.
        threshold: Threshold in squared units of z; the count depends on it, so report it.

    Returns:
        Booleans ``(dim,)``; their sum is the number of active units.

    Raises:
        ValueError: If the threshold is NaN, or as for :func:`activity`.
    """
    if math.isnan(threshold):
        raise ValueError("a threshold must be a number, not NaN: no unit would be active")
    return activity(mean, other) > threshold


def mutual_information(proposal: Gaussian, *, rows: int = 200, generator: Noise = None) -> Bracket:
    r"""Information I(x; z) between an image and its code, from one draw :math:`z_n \sim q_0(z\mid x_n)` per image.

    The aggregate posterior becomes a mean over the N images at hand, :math:`E\log q_0(z_n\mid x_n)/\hat q(z_n)`. With
    image n itself in that mean, the expectation is at most I, and no value exceeds log N, up to rounding; without it,
    the expectation is at least I (Poole et al. 2019, arXiv 1905.06922). For information about *which of these N images*
    was encoded, the index code of Hoffman & Johnson (2016), the first estimate is unbiased. When codes hardly overlap,
    the first says log N, whatever I is, and the second says nothing; :func:`kl_per_unit`, summed and averaged, then
    bounds I better from above.

    Args:
        proposal: Gaussian with mean and std ``(images, dim)``, for independent images; slice ``dim`` for one unit.
        rows: Number of images whose draws are compared with all others at a time; affects memory only.
        generator: Source of the noise.

    Returns:
        The bracket in nats. Its standard errors are those over images; that all share one aggregate changes them only
        to second order in 1/N.

    Raises:
        ValueError: If there are fewer than three images, or ``rows`` is not a whole number of at least 1.

    >>> bracket = mutual_information(Gaussian(torch.zeros(100, 1), torch.ones(100, 1)))
    >>> abs(bracket.lower.value) < 1e-6, abs(bracket.upper.value) < 1e-6
    (True, True)
    """
    n, rows = len(proposal.mean), check_count("rows", rows)
    if proposal.mean.dim() != 2 or n < 3:
        raise ValueError(f"need a proposal (images, dim) for at least three images, got {tuple(proposal.mean.shape)}")
    with torch.no_grad():
        z, log_q = proposal.sample(generator=generator)
        withs, withouts = [], []
        for part, first in zip(z.split(rows), range(0, n, rows), strict=True):
            log_each = log_normal(part[:, None], proposal.mean, proposal.std)  # (rows, images)
            withs.append(log_each.logsumexp(1) - math.log(n))
            index = torch.arange(len(part), device=z.device)
            log_each[index, first + index] = -math.inf
            withouts.append(log_each.logsumexp(1) - math.log(n - 1))
    lower, upper = (log_q - torch.cat(log_aggregate) for log_aggregate in (withs, withouts))
    return Bracket(estimate.mean(lower, "lower"), estimate.mean(upper, "upper"))
