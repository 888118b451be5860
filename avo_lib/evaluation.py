"""Judging a fit: likelihoods by importance sampling, AIS from both sides, and the true marginal KL between bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avo_lib import estimate
from avo_lib.annealing import anneal, draw_for_each
from avo_lib.axes import check_own_draws
from avo_lib.chain import Chain, Trajectory
from avo_lib.checks import check_count, check_evaluating
from avo_lib.estimate import Bracket, Estimate
from avo_lib.momentum import beta_acts
from avo_lib.numerics import Noise, check_generator, effective_sample_size, log_mean_exp
from avo_lib.objectives import Model

BLOCK = 100
"""Number of samples that share one generator; part of the definition of a result, so not an option."""


@dataclass(frozen=True, eq=False)
class Annealing:
    """What annealed importance sampling returns; ``log_z, log_w = ais(...)`` unpacks the first two.

    Attributes:
        log_z: The estimate of log Z_T in nats, a lower bound (a mean over the proposal's axes).
        log_w: Log weights in nats, ``(samples, ...)``.
        acceptance: Mean acceptance probability of each kernel, ``(T,)``: 1 if it never rejects; divergences count as 0.
    """

    log_z: Estimate
    log_w: Tensor
    acceptance: Tensor

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the bound and the log weights."""
        return iter((self.log_z, self.log_w))


def ais(chain: Chain, samples: int, *, generator: Noise = None) -> Annealing:
    r"""Annealed importance sampling: log Z_T from below (Neal 2001, arXiv physics/9803008).

    If kernels leave f_t invariant, the increments are :math:`\log v_t = \log f_t(z_{t-1}) - \log f_{t-1}(z_{t-1})`.
    Any chain that reaches all that f_T and the r_t reach gives an unbiased weight. Memory does not grow with T.

    Args:
        chain: A chain with MCMC kernels of fixed step size, or with any others.
        samples: Number of independent chains.
        generator: Source of the noise.

    Returns:
        The bound, the log weights, and the acceptance of the kernels.

    Raises:
        ValueError: If there are no samples, or one for one datum, which has no standard error; if data share draws.
    """
    log_w, acceptance = anneal(chain, samples, least=2, generator=generator)
    return Annealing(estimate.log_mean(log_w), log_w, acceptance)


def reverse_ais(chain: Chain, z: Tensor, *, generator: Noise = None) -> tuple[Estimate, Tensor]:
    """AIS run backwards from exact draws of f_T: log Z_T from above (BDMC, Grosse et al. 2015, 1511.02543).

    Args:
        chain: As for :func:`ais`.
        z: Exact draws of f_T, ``(samples, ..., dim)``; for a model, ``z[None]`` with the z that made x. A ValueError
            without the axis of samples, where data share draws, or for one draw of one datum, which has no error.
        generator: Source of the noise.

    Returns:
        The estimate of log Z_T, an upper bound in expectation, and the log weights in nats.
    """
    with torch.no_grad():
        if z.dim() <= chain.proposal.sample((), generator=torch.Generator(z.device))[0].dim():
            raise ValueError(f"z {tuple(z.shape)} lacks the axis of samples; one draw for each datum is z[None]")
        log_w = chain.sample_reverse(z, generator=generator).log_w()
    check_own_draws(log_w.shape, z)
    return -estimate.log_mean(-log_w), log_w


def marginal_bounds(
    chain: Chain, trajectory: Trajectory, samples: int, *, generator: Noise = None
) -> tuple[Tensor, Tensor]:
    r"""Two bounds on log f_T(z_T) − log q_T(z_T), with the intractable marginal q_T of a hierarchical proposal.

    K fresh reverse trajectories estimate :math:`q_T(z_T) = E_r[q/r]`. Their log-mean is too small on average: a bound
    from above (appendix C of Huang et al. 2018). With the generating trajectory as the (K+1)-st it is too large: a
    bound from below (Sobolev & Vetrov 2019, 1905.03290). The expectation of the difference is log Z − KL(q_T ‖ f_T/Z).

    Args:
        chain: A chain with learned kernels.
        trajectory: A trajectory drawn from that chain.
        samples: The number K of reverse trajectories for each point, at least 1, or a ValueError.
        generator: Source of the noise.

    Returns:
        Lower and upper bound in nats at each point, both with the shape of log w.
    """
    with torch.no_grad():
        z, samples = trajectory.z[-1], check_count("samples", samples)
        fresh = chain.sample_reverse(z.expand(samples, *z.shape), generator=generator)
        log_q = fresh.log_q0 - sum(fresh.log_ratio)
        own = trajectory.log_q0 - sum(trajectory.log_ratio)
        log_f = chain.target(len(chain.kernels))(z)
        return log_f - log_mean_exp(torch.cat([own[None], log_q])), log_f - log_mean_exp(log_q)


def kl_sandwich(chain: Chain, log_z: float, points: int, samples: int = 100, *, generator: Noise = None) -> Bracket:
    """KL(q_T ‖ f_T / Z_T) of a chain's marginal, between two bounds that close as ``samples`` grows.

    Args:
        chain: A chain with learned kernels.
        log_z: The exact log Z_T in nats.
        points: Number of trajectories to average the difference over; for one datum at least two, or a ValueError.
        samples: Number of reverse trajectories for each; on toys about 100 close the bracket to hundredths of a nat.
        generator: Source of the noise.

    Returns:
        The bracket in nats.
    """
    check_count("samples", samples)
    with torch.no_grad():
        trajectory = chain.sample((check_count("points", points),), generator=generator)
    lower, upper = marginal_bounds(chain, trajectory, samples, generator=generator)
    return Bracket(estimate.mean(log_z - upper, "lower"), estimate.mean(log_z - lower, "upper"))


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Importance-sampled log p(x) of each image, and how much to trust it.

    Attributes:
        log_p: Log-mean of K weights, ``(images,)``, in nats: a lower bound in expectation.
        elbo: Mean of the same K log weights, ``(images,)``, in nats.
        ess: Effective sample size, ``(images,)``, between 1 and K.
        nll_by_samples: For each number of samples, the mean over images of −log p̂ in nats.
    """

    log_p: Tensor
    elbo: Tensor
    ess: Tensor
    nll_by_samples: dict[int, float]

    @property
    def nll(self) -> Estimate:
        """Mean of −log p̂(x) over images, an upper bound in nats; for one image, with the error of its K weights."""
        if len(self.log_p) == 1 < max(self.nll_by_samples):
            return Estimate(-self.log_p.item(), abs(1 / self.ess.item() - 1 / max(self.nll_by_samples)) ** 0.5, "upper")
        return -estimate.mean(self.log_p, "lower")


def log_likelihood(
    model: Model,
    x: Tensor,
    samples: int = 1000,
    *,
    curve: Sequence[int] = (1, 10, 100, 1000),
    rows: int = 1000,
    generator: torch.Generator | None = None,
) -> LogLikelihood:
    r"""Importance-sampled log-likelihood over *whole trajectories*, :math:`\log\frac1K\sum_k w_k(x)`.

    A weight compares densities on one space: all of z_0 … z_T, forward against reverse. Without the reverse kernels,
    p(x, z_T)/q_0(z_0) is no weight at all; the last kernel alone, p(x, z_T)/q_T(z_T | z_{T−1}), is unbiased but, when
    that kernel is narrow, far too low at any K that one can afford.

    Image i draws from generators of its own: neither ``rows`` nor later images change them (with a Gaussian proposal).

    Args:
        model: Anything with ``chain(x)``, in evaluation mode.
        x: Data ``(images, ...)`` of any kind that ``chain`` takes, such as binary images.
        samples: Number K of samples for each image; memory does not grow with it.
        curve: Smaller K at which to report the mean NLL too, averaged over disjoint groups of the same draws.
        rows: Number of latents decoded at a time, if more than a block of 100; affects speed and memory only.
        generator: Source of the one seed from which every image's generators follow.

    Returns:
        Log-likelihoods, in nats.

    Raises:
        ValueError: If there are no images or samples, the proposal has no row for each, or a layer is in training mode.
    """
    check_evaluating(model)
    check_generator(generator)
    if len(x) == 0:
        raise ValueError("need at least one image, got none")
    samples, *curve = (check_count("samples", k) for k in (samples, *curve))
    seed = int(torch.randint(2**40, (), generator=generator, device=generator.device if generator else "cpu"))
    block = min(BLOCK, samples)
    images = max(1, rows // block)
    sizes = [block] * (samples // block) + ([samples % block] if samples % block else [])
    parts: list[tuple[Tensor, ...]] = []
    counts = [k for k in (*curve, samples) if k <= samples]
    with torch.no_grad():
        for ids in torch.arange(len(x)).split(images):
            chain = model.chain(x[ids])
            noise = [[_generator(seed, i, j, x.device) for i in ids.tolist()] for j in range(len(sizes))]
            blocks = [
                draw_for_each(chain, (size,), len(ids), generator=one).log_w()
                for size, one in zip(sizes, noise, strict=True)
            ]
            log_w = torch.cat(blocks).double()
            nll = torch.stack([-_group_log_mean(log_w, k) for k in counts])
            parts.append((log_mean_exp(log_w), log_w.mean(0), effective_sample_size(log_w), nll.T))
    log_p, elbo, ess, nll = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    return LogLikelihood(log_p, elbo, ess, dict(zip(counts, nll.mean(0).tolist(), strict=True)))


def _generator(seed: int, image: int, block: int, device: torch.device) -> torch.Generator:
    # Odd multipliers keep (image, block) apart; the Mersenne twister's own seeding does the mixing.
    return torch.Generator(device).manual_seed((seed + image * 0x9E3779B97F4A7C15 + block * 0xC2B2AE3D27D4EB4F) % 2**63)


def _group_log_mean(log_w: Tensor, k: int) -> Tensor:
    return log_mean_exp(log_w[: len(log_w) // k * k].unflatten(0, (-1, k)), dim=1).mean(0)


def average_bound(
    model: Model, x: Tensor, *, rows: int = 1000, generator: torch.Generator | None = None
) -> tuple[Estimate, float]:
    """The ELBO, averaged over images with one trajectory each, and its Kullback-Leibler part.

    Args:
        model: Anything with ``chain(x)``, in evaluation mode, or a ValueError.
        x: Data ``(images, ...)`` of any kind that ``chain`` takes; a ValueError for fewer than two.
        rows: Number of images evaluated at a time.
        generator: Source of the noise.

    Returns:
        The ELBO, and E log p(x|z_T) − ELBO, both in nats. The latter is NaN where beta does not act on log f_T, and so
        takes no prior out of it, as in a :class:`GeometricPath <avo_lib.paths.GeometricPath>`.
    """
    check_evaluating(model)
    estimate.check_enough(len(x), "images")
    with torch.no_grad():
        both = []
        for part in x.split(check_count("rows", rows)):  # weighed at once: a model may keep the x of its last chain
            draw = draw_for_each(model.chain(part), (), len(part), generator=generator)
            both.append(torch.stack([draw.log_w(1.0), draw.log_w(0.0)]))
        log_w, likelihood = torch.cat(both, 1)
        prior_acts = beta_acts(draw.path, draw.z[-1])
    bound, likelihood_part = estimate.mean(log_w, "lower"), estimate.mean(likelihood, "exact").value
    return bound, likelihood_part - bound.value if prior_acts else math.nan
