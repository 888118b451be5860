"""Where a model's bound is lost, and where it overfits: decoder and inference apart, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avo_lib.annealing import anneal
from avo_lib.chain import Chain, Gaussian
from avo_lib.checks import check_counts, check_evaluating
from avo_lib.kernels import HMC, tune_step_sizes
from avo_lib.models.iterative import elbo_gradient, gaussian
from avo_lib.numerics import check_generator, log_mean_exp, log_normal
from avo_lib.objectives import Model
from avo_lib.paths import GeometricPath, LogDensity, sigmoidal_alphas

BLOCK = 250
"""Number of images that share one draw of noise; part of the definition of a result, so not an option."""
PILOT_CHAINS, ADAPTATIONS = 2, 3
LEAST_STD = 1e-3
"""Smallest standard deviation at the start of the search for a Gaussian, where all draws of a chain may agree."""


@dataclass(frozen=True)
class GapConfig:
    """How to measure the gaps.

    Attributes:
        draws: Number of draws behind the mean of each bound.
        steps: Number of Adam steps that fit each image's Gaussian.
        samples: Number of samples behind each gradient of the Gaussian's fit, an even number.
        lr: Adam's learning rate in the Gaussian's fit, which falls linearly to 0.
        chains: Number of AIS chains for each image.
        T: Number of stations on the path of the AIS chains.
        leapfrog_steps: Number of leapfrog steps in each Hamiltonian kernel.

    Raises:
        ValueError: If a number is below 1, ``samples`` is not even, or the learning rate is not between 0 and 1.
    """

    draws: int = 200
    steps: int = 600
    samples: int = 8
    lr: float = 0.03
    chains: int = 16
    T: int = 100
    leapfrog_steps: int = 5

    def __post_init__(self) -> None:
        """Refuse settings that measure nothing."""
        check_counts(self, "draws", "steps", "chains", "T", "leapfrog_steps")
        check_counts(self, "samples", least=2)
        if self.samples % 2:
            raise ValueError(f"samples come in pairs: their number must be even, not {self.samples}")
        if not 0 < self.lr < 1:
            raise ValueError(f"lr must be between 0 and 1, not {self.lr}")


@dataclass(frozen=True, eq=False)
class Gaps:
    """Three numbers for each image in nats, ``(images,)``, each a lower bound of log p(x) in expectation.

    Cremer et al. 2018 (arXiv 1801.03558) call ``log_p - local`` the approximation gap, here of diagonal Gaussians, and
    ``local - bound`` the amortisation gap. A chain is not a Gaussian: its ``bound`` may lie above ``local``.

    Attributes:
        bound: The ELBO of the model's own chain.
        local: The ELBO of the best diagonal Gaussian for each image, found by gradient ascent with the decoder fixed.
        log_p: Log p(x) by AIS from that best Gaussian.
    """

    bound: Tensor
    local: Tensor
    log_p: Tensor


def measure_gaps(
    model: Model,
    x: Tensor,
    pilot: Tensor,
    config: GapConfig | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Gaps:
    """Bound, best Gaussian's ELBO and log p by AIS of each image.

    The model's own inference only says where the search for the Gaussian begins: two models with one decoder
    get one log p.

    Args:
        model: Anything with ``chain(x)`` whose proposal is a :class:`Gaussian`; in evaluation mode, preferably without
            gradients to its parameters.
        x: Images ``(images, ...)``.
        pilot: Other images, on which the step sizes of AIS are tuned.
        config: How to measure the gaps.
        generator: Source of the noise, on the images' device; by default one with a fixed seed.

    Returns:
        The three numbers of each image.

    Raises:
        TypeError: If the proposal is not a Gaussian.
        ValueError: If there are no pilot images, or batch norm or dropout is in training mode.
    """
    check_generator(generator)
    config, generator = config or GapConfig(), generator or torch.Generator(x.device)
    kernels = _tuned(model, pilot, config, generator)
    found = []
    for part in x.split(BLOCK):
        log_f = _target(model, part)
        with torch.no_grad():
            bound = model.chain(part).sample((config.draws,), generator=generator).log_w().mean(0)
        lam = fit_gaussians(log_f, _start(model, part, config, generator), config, generator)
        chain = gaussian_chain(log_f, lam, kernels)
        with torch.no_grad():
            u, log_q = chain.proposal.sample((config.draws,), generator=generator)
            local = (chain.target(config.T)(u) - log_q).mean(0)
        found.append((bound, local, log_mean_exp(anneal(chain, config.chains, generator=generator)[0])))
    return Gaps(*(torch.cat(parts).double().cpu() for parts in zip(*found, strict=True)))


def measure_bracket(
    model: Model,
    x: Tensor,
    z: Tensor,
    pilot: Tensor,
    config: GapConfig | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The most that the log p of :func:`measure_gaps` misses, on images that the model itself has drawn.

    The same chains, run backwards from the z that an image was drawn with, bound log p(x) from above (BDMC, Grosse et
    al. 2015, arXiv 1511.02543).

    Args:
        model: As for :func:`measure_gaps`.
        x: Images drawn from the model ``(images, ...)``.
        z: Latents that these images were drawn with ``(images, latent)``.
        pilot: As for :func:`measure_gaps`.
        config: How to measure the gaps.
        generator: Source of the noise, on the images' device; by default one with a fixed seed.

    Returns:
        Upper minus lower estimate of each image's log p in nats, ``(images,)``; its mean is positive in expectation.

    Raises:
        TypeError: As for :func:`measure_gaps`.
        ValueError: As for :func:`measure_gaps`, and unless there is a latent for each image.
    """
    check_generator(generator)
    if z.shape[:1] != x.shape[:1]:
        raise ValueError(f"need a latent for each of {len(x)} images, not {tuple(z.shape)}")
    config, generator = config or GapConfig(), generator or torch.Generator(x.device)
    kernels, log_f = _tuned(model, pilot, config, generator), _target(model, x)
    lam = fit_gaussians(log_f, _start(model, x, config, generator), config, generator)
    chain, (mean, log_std) = gaussian_chain(log_f, lam, kernels), lam.chunk(2, dim=-1)
    if z.shape != mean.shape:
        raise ValueError(f"the latents must be {tuple(mean.shape)}, not {tuple(z.shape)}")
    u = ((z - mean) / log_std.exp()).expand(config.chains, *z.shape)
    with torch.no_grad():
        above = -log_mean_exp(-chain.sample_reverse(u, generator=generator).log_w())
    below = log_mean_exp(anneal(chain, config.chains, generator=generator)[0])
    return (above - below).double().cpu()


def fit_gaussians(log_f: LogDensity, start: Tensor, config: GapConfig, generator: torch.Generator) -> Tensor:
    """The diagonal Gaussian λ = (mean, log std) of highest ELBO for each datum, ``(images, 2 * dim)``."""
    lam = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([lam])
    for step in range(config.steps):
        optimiser.param_groups[0]["lr"] = config.lr * (1 - step / config.steps)
        lam.grad = -elbo_gradient(lam, log_f, config.samples, generator=generator)
        optimiser.step()
    return lam.detach()


def gaussian_chain(log_f: LogDensity, lam: Tensor, kernels: list[HMC]) -> Chain:
    """The geometric path from each image's Gaussian λ to its posterior, in units of that Gaussian.

    In these units all coordinates have about the same scale, as a single step size for all of them requires.
    """
    mean, log_std = lam.chunk(2, dim=-1)
    path = GeometricPath(
        log_normal, lambda u: log_f(mean + log_std.exp() * u) + log_std.sum(-1), sigmoidal_alphas(len(kernels))
    )
    return Chain(gaussian(torch.zeros_like(lam)), kernels, path)


def _tuned(model: Model, pilot: Tensor, config: GapConfig, generator: torch.Generator) -> list[HMC]:
    check_evaluating(model)
    if not len(pilot):
        raise ValueError("need at least one pilot image, on which the step sizes are tuned")
    log_f = _target(model, pilot)
    lam = fit_gaussians(log_f, _start(model, pilot, config, generator), config, generator)
    chain = gaussian_chain(log_f, lam, [HMC(0.5)] * config.T)
    return tune_step_sizes(
        chain.path,
        lambda: chain.proposal.sample((PILOT_CHAINS,), generator=generator)[0],
        leapfrog_steps=config.leapfrog_steps,
        adaptations=ADAPTATIONS,
        generator=generator,
    )


def _target(model: Model, x: Tensor) -> LogDensity:
    """Log p(x, z) of each image, ``(..., images, latent)`` to ``(..., images)``."""
    chain = model.chain(x)
    return chain.target(len(chain.kernels))


def _start(model: Model, x: Tensor, config: GapConfig, generator: torch.Generator) -> Tensor:
    """Start of the search: the encoder's Gaussian, or the moments at the end of the model's chain, wherever that is."""
    with torch.no_grad():
        chain = model.chain(x)
        if not isinstance(chain.proposal, Gaussian):
            raise TypeError(f"gaps are measured from a Gaussian proposal, not from a {type(chain.proposal).__name__}")
        mean, std = torch.broadcast_tensors(chain.proposal.mean, chain.proposal.std)
        if chain.kernels:
            z = chain.sample((config.draws,), generator=generator).z[-1]
            mean, std = z.mean(0), z.std(0, correction=0).clamp(min=LEAST_STD)
    return torch.cat([mean, std.log()], -1)
