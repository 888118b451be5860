r"""Sequential Monte Carlo: a chain whose particles are resampled on the way, and stations chosen by their overlap.

Annealed importance sampling sends K particles along a path and lets each carry its weight to the end. A sequential
Monte Carlo sampler resamples them whenever few carry most of the weight: heavy ones are copied, light ones dropped, and
all go on with equal weights. Between two resamplings the weights multiply as ever; the product of their means is
unbiased for Z_T, if the chain reaches all that f_T and the r_t reach. Import it by ``from avo_lib.smc import smc``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from avo_lib import estimate
from avo_lib.annealing import first_draws, move, weigh
from avo_lib.axes import check_axes
from avo_lib.chain import Chain, Proposal
from avo_lib.checks import check_count
from avo_lib.estimate import Estimate
from avo_lib.kernels import Kernel, MetropolisKernel
from avo_lib.numerics import Noise, effective_sample_size, log_mean_exp, standard_normal, traced
from avo_lib.paths import GeometricPath, LogDensity

MAX_STEPS, HALVINGS = 10_000, 50  # steps of a path; halvings of an interval of alpha, as many as a double has digits


@dataclass(frozen=True, eq=False)
class Particles:
    """What :func:`smc` returns.

    Attributes:
        log_z: The estimate of log Z_T in nats, a lower bound: the mean of the estimate of Z_T is Z_T. With further axes
            it is the mean over them, with their standard error; without, its standard error comes from the families of
            common ancestors (Chan & Lai 2013, arXiv 1312.5114), and holds while many families are left.
        z: The particles' last points, ``(K, ..., dim)``.
        log_w: Log weights of the last points in nats, ``(K, ...)``; the log of the mean is the estimate of log Z_T.
        ess: Effective sample size once the weights of step t are in, before any resampling, ``(T, ...)``.
        ancestors: Particle i of step t continues particle ``ancestors[t - 1, i]`` of step t − 1, ``(T, K, ...)``.
        acceptance: Mean acceptance probability of each kernel, ``(T,)``; 1 if it never rejects.
    """

    log_z: Estimate
    z: Tensor
    log_w: Tensor
    ess: Tensor
    ancestors: Tensor
    acceptance: Tensor

    @property
    def founders(self) -> Tensor:
        """Index of the first ancestor z_0 of each last particle, ``(K, ...)``."""
        return _founders(_themselves(self.log_w), self.ancestors)


def _themselves(log_w: Tensor) -> Tensor:
    return torch.ones_like(log_w, dtype=torch.long).cumsum(0) - 1


def _founders(line: Tensor, ancestors: Tensor) -> Tensor:
    return reduce(lambda line, parents: parents.gather(0, line), ancestors.flip(0), line)


def systematic(log_w: Tensor, u: Tensor) -> Tensor:
    r"""Systematic resampling: particle k has :math:`K W_k` children, rounded up or down, and exact on average.

    Args:
        log_w: Log weights in nats, ``(K, ...)``; a ValueError if the weights are NaN, infinite or all zero.
        u: One uniform number from 0 to 1 for all K, ``(...)``; a ValueError otherwise.

    Returns:
        The parent of each child, ``(K, ...)``, in rising order.

    >>> weights = torch.tensor([0.5, 0.0, 0.25, 0.25])
    >>> systematic(weights.log(), torch.tensor(0.3)).tolist()
    [0, 0, 2, 3]
    """
    if u.shape != log_w.shape[1:] or not (traced() or ((0 <= u) & (u <= 1) & log_w.amax(0).isfinite()).all()):
        shapes = f"got log weights {tuple(log_w.shape)} and u {tuple(u.shape)}"
        raise ValueError(f"need one u from 0 to 1 for all K weights, which are not NaN, infinite or all zero; {shapes}")
    return draw_parents(log_w, u)


def draw_parents(log_w: Tensor, u: Tensor) -> Tensor:
    """:func:`systematic` without its checks: a lost population gets arbitrary parents, and does not stop the others."""
    share = log_w.double().softmax(0).movedim(0, -1).cumsum(-1)
    # A sum that rounds to less than one would leave its last marks to a particle without weight.
    share = share / share[..., -1:]
    marks = (torch.arange(len(log_w), device=log_w.device) + u[..., None].double()) / len(log_w)
    parents = torch.searchsorted(share.contiguous(), marks.clamp(max=1 - 1e-15).contiguous(), right=True)
    return parents.clamp(max=len(log_w) - 1).movedim(-1, 0)


def smc(chain: Chain, samples: int, *, threshold: float = 0.5, generator: Noise = None) -> Particles:
    r"""A sequential Monte Carlo sampler: log Z_T from below (Del Moral et al. 2006, arXiv cond-mat/0212648).

    With kernels that leave f_t invariant the increment :math:`f_t(z_{t-1})/f_{t-1}(z_{t-1})` is known before the move,
    and particles are resampled before it, so that copies part at once; with any other kernel they are weighed after it.
    A threshold of 0 is :func:`avo_lib.evaluation.ais`, number for number; compared with it, a step calls f_t once more.

    Args:
        chain: A chain with MCMC kernels of fixed step size, or with any others.
        samples: The number K of particles; each of the proposal's further axes is a population of its own.
        threshold: Resample where the effective sample size is below this share of K; 1 means wherever weights differ.
        generator: Source of the noise.

    Raises:
        ValueError: If the threshold is no share, there are no two particles, or log f is NaN or has more data than z_0.

    >>> from avo_lib import HMC, Gaussian, GeometricPath, linear_alphas
    >>> base = Gaussian(torch.zeros(1), torch.ones(1))
    >>> path = GeometricPath(base.log_prob, lambda z: base.log_prob(z - 3.0), linear_alphas(10))
    >>> found = smc(Chain(base, [HMC(0.5)] * 10, path), 1000, generator=torch.Generator().manual_seed(0))
    >>> abs(found.log_z.value) < 5 * found.log_z.stderr < 0.5
    True
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"need 0 <= threshold <= 1, not {threshold}")
    samples = check_count("samples", samples, least=2)
    steps: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        z, log_q0 = first_draws(chain, samples, generator=generator)
        log_w = -log_q0  # without the last target, which is added where it is needed
        for t, kernel in enumerate(chain.kernels, start=1):
            if first := isinstance(kernel, MetropolisKernel):
                z, log_w, *record = _resampled(z, log_w, weigh(chain, t, z), threshold, generator)
            z, log_ratio, rate = move(chain, t, z, generator=generator)
            log_w = log_w + log_ratio
            if not first:
                still = threshold if t < len(chain.kernels) else 0.0  # at the end copies would only lose points
                z, log_w, *record = _resampled(z, log_w, weigh(chain, t, z), still, generator)
            steps.append((*record, rate))
        log_w = log_w + weigh(chain, len(chain.kernels), z)
    empty = (log_w[:0], _themselves(log_w)[None][:0], log_w.new_ones(0))
    ess, ancestors, acceptance = map(torch.stack, zip(*steps, strict=True)) if steps else empty
    log_z = estimate.log_mean(log_w)
    if log_w[0].numel() == 1:  # the independent draws are the K founders, each with the weight of its family
        relative = (log_w - log_z.value).exp().flatten()
        families = torch.zeros_like(relative).index_add(0, _founders(_themselves(log_w), ancestors).flatten(), relative)
        log_z = replace(log_z, stderr=families.std().item() / math.sqrt(samples))
    return Particles(log_z, z, log_w, ess, ancestors, acceptance)


def _resampled(
    z: Tensor, log_w: Tensor, log_f: Tensor, threshold: float, generator: Noise
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points and weights (without f) after resampling where too few carry weight; the ESS before it; the parents."""
    whole = log_w + log_f
    parents = _themselves(whole)
    ess = effective_sample_size(whole)
    if threshold:
        u = torch.special.ndtr(standard_normal(z[0, ..., :1], generator)[..., 0])
        few = ess < threshold * len(z)
        parents = torch.where(few, draw_parents(whole, u), parents)
        z = z.gather(0, parents[..., None].expand_as(z))
        log_w = torch.where(few, log_mean_exp(whole) - log_f.gather(0, parents), log_w)
    return z, log_w, ess, parents


def conditional_ess(log_w: Tensor, log_v: Tensor, dim: int = 0) -> Tensor:
    r"""How many of K weighted particles an increment leaves, :math:`K(\sum_k W_k v_k)^2 / \sum_k W_k v_k^2`.

    With equal increments it is K, however unequal the weights so far; with equal weights it is the effective sample
    size of v (Zhou, Johansen & Aston 2016, arXiv 1303.3123).

    Args:
        log_w: Log weights in nats, any shape with K along ``dim``.
        log_v: Log increments in nats, of the same shape; a ValueError otherwise.
        dim: The axis of the K samples.

    Returns:
        The conditional ESS, shaped as ``log_w`` without ``dim``; a number of samples, not a share.

    >>> round(conditional_ess(torch.tensor([0.0, -9.0]), torch.tensor([1.0, 1.0])).item(), 3)
    2.0
    """
    if log_w.shape != log_v.shape:
        raise ValueError(f"weights {tuple(log_w.shape)} and increments {tuple(log_v.shape)} must have one shape")
    log_share = log_w.double().log_softmax(dim)
    first, second = ((log_share + power * log_v.double()).logsumexp(dim) for power in (1, 2))
    return log_w.shape[dim] * (2 * first - second).exp()


def adaptive_alphas(
    base: Proposal,
    log_fT: LogDensity,
    kernel: Kernel,
    samples: int,
    *,
    share: float = 0.9,
    threshold: float = 0.5,
    generator: Noise = None,
) -> Tensor:
    """Stations of a geometric path from a pilot run, each as far on as the conditional ESS allows (arXiv 1303.3123).

    Run :func:`smc` anew on the path: an estimate from particles that chose their own stations is not unbiased.

    Args:
        base: Proposal at which the path starts, normalised.
        log_fT: Log density at which the path ends.
        kernel: Kernel that moves the pilot's particles at every station; it should leave its target invariant.
        samples: Number of the pilot's particles.
        share: Share of the particles that a step must leave, measured by :func:`conditional_ess`.
        threshold: The pilot resamples where the effective sample size is below this share.
        generator: Source of the noise.

    Returns:
        Alphas ``(T + 1,)`` from 0 to 1; T follows from the share.

    Raises:
        ValueError: If ``share`` or ``threshold`` is impossible, if the base has further axes, if there are fewer than
            two samples, if log f_T is NaN at a point of the pilot or f_T is zero at all, or after 10,000 steps.

    >>> from avo_lib import HMC, Gaussian
    >>> base, noise = Gaussian(torch.zeros(1), torch.ones(1)), torch.Generator().manual_seed(0)
    >>> len(adaptive_alphas(base, lambda z: base.log_prob(z - 3.0), HMC(0.5), 1000, generator=noise)) - 1
    10
    """
    if not (0 < share < 1 and 0 <= threshold <= 1):
        raise ValueError(f"need shares 0 < share < 1 and 0 <= threshold <= 1, not {share} and {threshold}")
    with torch.no_grad():
        z, log_q = base.sample((check_count("samples", samples, 2),), generator=generator)
        if z.dim() != 2:
            raise ValueError(f"one population chooses the stations: a base of shape (dim,), not {tuple(z.shape[1:])}")
        log_w, alphas = torch.zeros_like(log_q), [0.0]
        while alphas[-1] < 1 and len(alphas) <= MAX_STEPS:
            slope = check_axes("log_fT", log_fT(z), z) - base.log_prob(z)
            some, none = int(slope.isfinite().sum()), int((slope == -torch.inf).sum())
            if not some or some + none < samples:
                raise ValueError(f"at {samples} points log_fT is finite {some}, -inf {none} times: need one, no NaN")
            least, low, high = share * samples, alphas[-1], 1.0
            whole = conditional_ess(log_w, (high - low) * slope) >= least
            for _ in range(0 if whole else HALVINGS):
                middle = (low + high) / 2
                enough = conditional_ess(log_w, (middle - alphas[-1]) * slope) >= least
                low, high = (middle, high) if enough else (low, middle)
            # The upper end: where f_T vanishes at many points no step is small enough, and yet one must be made.
            log_w = log_w + (high - alphas[-1]) * slope
            alphas.append(high)
            if effective_sample_size(log_w) < threshold * samples:
                u = torch.special.ndtr(standard_normal(z[0, :1], generator)[..., 0])
                z, log_w = z[systematic(log_w, u)], torch.zeros_like(log_w)
            station = GeometricPath(base.log_prob, log_fT, [0.0, high, 1.0])
            z, _ = kernel.forward(z, lambda z: station.log_density(1, z), None, generator=generator)  # noqa: B023
    if alphas[-1] < 1:
        raise ValueError(f"{MAX_STEPS} steps lead to alpha = {alphas[-1]:.3g} alone: ask for a smaller share")
    return torch.tensor(alphas, dtype=z.dtype)
