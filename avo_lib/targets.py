"""Targets with a known answer: six energies, Gaussian mixtures and a linear-Gaussian model.

The six functions are log f, minus the literature's energy. Each comes with its exact log Z, to judge a fit in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from avo_lib.axes import check_size
from avo_lib.numerics import log_normal, quadrature_log_z, standard_normal, sum_last

TINY = 1e-30  # least value under a root, whose slope at 0 is infinite


@dataclass(frozen=True)
class Target:
    """An unnormalised density, here on the plane unless ``dim`` says otherwise, with its exact log Z.

    Attributes:
        name: Name for titles and messages.
        log_density: Log f in nats, ``(..., dim)`` to ``(...)``; points of another size are refused.
        log_z: Log of the integral of f, in nats.
        sampler: Function that draws ``(n, dim)`` exact samples, where one exists.
        dim: Number of coordinates.
    """

    name: str
    log_density: Callable[[Tensor], Tensor]
    log_z: float
    sampler: Callable[[int, torch.Generator | None], Tensor] | None = None
    dim: int = 2

    def __post_init__(self) -> None:
        """Refuse points of another size in log f, which there would belong to another target than log Z."""
        object.__setattr__(self, "log_density", partial(_of_size, self.name, self.dim, self.log_density))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws ``(n, dim)``; a ValueError if this target has no exact sampler."""
        if self.sampler is None:
            raise ValueError(f"{self.name} has no exact sampler; energies d, e and f, mixtures and landmarks have one")
        return self.sampler(n, generator)


def _of_size(name: str, dim: int, log_density: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return log_density(check_size(name, z, dim))


def _log_sum(*terms: Tensor) -> Tensor:
    """Log of a sum of exponentials over a leading axis: several times faster than over a tiny trailing one."""
    return torch.stack(terms).logsumexp(0)


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of isotropic Gaussians on the plane, normalised (log Z = 0).

    Attributes:
        weights: Weights of the components, positive and summing to 1, or a ValueError.
        means: One centre ``(z1, z2)`` for each component, or a ValueError.
        std: Standard deviation of every component along each axis; a ValueError unless positive and finite.

    >>> mixture = GaussianMixture((0.3, 0.7), ((-2.0, 0.0), (2.0, 0.0)), 0.5)
    >>> mixture.sample(4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """

    weights: Sequence[float]
    means: Sequence[tuple[float, float]]
    std: float
    log_z = 0.0  # no field: a mixture is normalised, and scaled() makes a target of another log Z

    def __post_init__(self) -> None:
        """Check that the weights are a distribution over the means."""
        fit = len(self.weights) == len(self.means) > 0 and all(len(mean) == 2 for mean in self.means)
        if not (fit and min(self.weights) > 0 and abs(sum(self.weights) - 1) <= 1e-9 and 0 < self.std < math.inf):
            raise ValueError(f"need means (z1, z2), one positive weight each, summing to 1, and std > 0; got {self}")

    def log_density(self, z: Tensor) -> Tensor:
        """Log density in nats, ``(..., 2)`` to ``(...)``."""
        along = (-1, *[1] * (check_size("a mixture", z, 2).dim() - 1))  # components lead: a tiny last axis sums slowly
        z = z if z.is_floating_point() else z.to(torch.get_default_dtype())  # else means would be cut to whole numbers
        m1, m2 = (z.new_tensor([mean[i] for mean in self.means]).reshape(along) for i in (0, 1))
        log_w = z.new_tensor([math.log(w / (2 * math.pi * self.std**2)) for w in self.weights]).reshape(along)
        squares = (z[..., 0] - m1).square() + (z[..., 1] - m2).square()
        return torch.logsumexp(log_w - squares / (2 * self.std**2), 0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws ``(n, 2)``, on the generator's device."""
        weights = 1.0 * torch.tensor(self.weights, device=getattr(generator, "device", None))  # None: torch's default
        component = torch.multinomial(weights, max(n, 1), replacement=True, generator=generator)[:n]
        noise = torch.randn(n, 2, generator=generator, device=weights.device)
        return noise.new_tensor(self.means)[component] + self.std * noise

    def scaled(self, name: str, log_z: float) -> Target:
        """The mixture times a constant, as a target with that log Z; it can be pickled."""
        return Target(name, partial(_raised, self, log_z), log_z, self.sample)


def _raised(mixture: GaussianMixture, log_z: float, z: Tensor) -> Tensor:
    return mixture.log_density(z) + log_z


def _half_square(x: Tensor, scale: float) -> Tensor:
    return -0.5 * (x / scale).square()


def _ring_with_two_modes(z: Tensor) -> Tensor:
    ring = _half_square(sum_last(z.square()).clamp(min=TINY).sqrt() - 2, 0.4)
    return ring + _log_sum(_half_square(z[..., 0] - 2, 0.6), _half_square(z[..., 0] + 2, 0.6))


def _broken_ring(shrink: float, z: Tensor) -> Tensor:
    z1, z2 = z[..., 0], z[..., 1]
    ring = _half_square(shrink * sum_last(z.square()).clamp(min=TINY).sqrt() - 2, 0.5)
    modes = _half_square(z1 - 2, 0.6), _half_square(2 * torch.sin(z1), 1.0), _half_square(z1 + z2 + 2.5, 0.6)
    return ring + _log_sum(*modes)


def _ellipse(z: Tensor) -> Tensor:
    return -(2 - (z[..., 0].square() + 0.5 * z[..., 1].square()).clamp(min=TINY).sqrt()).square()


def _wave_and_bump(z1: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sin(0.5 * math.pi * z1), 3 * torch.exp(_half_square(z1 - 2, 1.0))


def _wavy_ridge(z: Tensor) -> Tensor:
    return _half_square(z[..., 1] - _wave_and_bump(z[..., 0])[0], 0.4) - 0.1 * z[..., 0].square()


def _two_ridges(z: Tensor) -> Tensor:
    wave, bump = _wave_and_bump(z[..., 0])
    offset = z[..., 1] - wave
    return _log_sum(_half_square(offset, 0.35), _half_square(offset + bump, 0.35)) - 0.05 * z[..., 0].square()


def _sample_wavy_ridge(n: int, generator: torch.Generator | None) -> Tensor:
    noise = torch.randn(n, 2, generator=generator, device=getattr(generator, "device", None))
    z1 = math.sqrt(5) * noise[:, 0]
    return torch.stack([z1, _wave_and_bump(z1)[0] + 0.4 * noise[:, 1]], -1)


def _sample_two_ridges(n: int, generator: torch.Generator | None) -> Tensor:
    noise = torch.randn(n, 2, generator=generator, device=getattr(generator, "device", None))
    lower = torch.rand(n, generator=generator, device=noise.device) < 0.5
    z1 = math.sqrt(10) * noise[:, 0]
    wave, bump = _wave_and_bump(z1)
    return torch.stack([z1, wave - lower * bump + 0.35 * noise[:, 1]], -1)


ENERGIES, VARIANTS = "abcdef", ("paper", "released")


def energy(name: str, variant: str = "released") -> Target:
    r"""One of the six energies of Huang et al. 2018 (arXiv 1809.01818, Table 2), as log f.

    The authors' released code, from which their figures come, differs from the printed table in two: b has the radius
    :math:`\sqrt{\|z\|^2/2}`, not :math:`\|z\|/2`, and d has its modes at distance 2.5 with variance 0.375 and a log Z
    of 2.5 − log 4. Log Z is a closed form for c to f. Rezende & Mohamed 2015 have a as U_1; e and f vary U_2 and U_3.

    Args:
        name: One of ``"a"`` to ``"f"``.
        variant: ``"released"`` or ``"paper"``; both are the same for a, c, e and f.

    Returns:
        The target, with an exact sampler for d, e and f.

    Raises:
        ValueError: If there is no such energy or variant.

    >>> round(energy("e").log_z, 5)
    1.72631
    """
    if name not in tuple(ENERGIES) or variant not in VARIANTS:
        raise ValueError(f"energies are {', '.join(ENERGIES)}, variants {', '.join(VARIANTS)}, not {name, variant}")
    label = f"energy {name}" + (f" ({variant})" if name in "bd" else "")
    if name in "ab":
        shrink = 0.5 if variant == "paper" else math.sqrt(0.5)
        log_density = _ring_with_two_modes if name == "a" else partial(_broken_ring, shrink)
        return Target(label, log_density, quadrature_log_z(log_density))
    if name == "c":
        radial = 0.5 * math.exp(-4) + math.sqrt(math.pi) * (1 + math.erf(2))
        return Target(label, _ellipse, math.log(2 * math.pi * math.sqrt(2) * radial))
    if name == "d":
        r, variance, log_z = (2.0, 0.2, 0.0) if variant == "paper" else (2.5, 0.375, 2.5 - math.log(4))
        means = ((-r, 0), (r, 0), (0, r), (0, -r))
        return GaussianMixture((0.1, 0.3, 0.4, 0.2), means, math.sqrt(variance)).scaled(label, log_z)
    if name == "e":
        return Target(label, _wavy_ridge, math.log(2 * math.pi * math.sqrt(5) * 0.4), _sample_wavy_ridge)
    return Target(label, _two_ridges, math.log(4 * math.pi * math.sqrt(10) * 0.35), _sample_two_ridges)


class LinearGaussian:
    r"""The model z ~ N(0, I), x | z ~ N(W z + b, s² I), in which every annealed posterior is known.

    It is probabilistic PCA. With exponent alpha ≥ 0 on the likelihood, :math:`f_\alpha(z) = p(z)\,p(x\mid z)^\alpha`
    is Gaussian in z with precision :math:`I + \alpha W^\top W/s^2`.

    Args:
        weight: The matrix W, ``(data_dim, dim)``.
        bias: The vector b, ``(data_dim,)``.
        noise_std: Standard deviation s of the noise; a ValueError if it is not positive, or if W and b do not fit.

    >>> model = LinearGaussian(torch.eye(2), torch.zeros(2), 1.0)
    >>> mean, covariance = model.posterior(torch.tensor([2.0, 0.0]))
    >>> mean.tolist(), covariance.diagonal().tolist()
    ([1.0, 0.0], [0.5, 0.5])
    """

    def __init__(self, weight: Tensor, bias: Tensor, noise_std: float) -> None:
        if weight.dim() != 2 or bias.shape != weight.shape[:1] or not noise_std > 0:
            got = f"{tuple(weight.shape)}, {tuple(bias.shape)} and {noise_std}"
            raise ValueError(f"need weight (data_dim, dim), bias (data_dim,) and noise_std > 0; got {got}")
        self.weight, self.bias, self.noise_std = weight, bias, noise_std

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p(z) in nats."""
        return log_normal(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x|z) in nats, ``(..., data_dim)`` and ``(..., dim)`` to ``(...)``."""
        return log_normal(x, z @ self.weight.T + self.bias, self.noise_std)

    def posterior(self, x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean ``(..., dim)``, covariance ``(dim, dim)`` of normalised p(z) p(x|z)^alpha; a ValueError if alpha < 0."""
        if not alpha >= 0:
            raise ValueError(f"alpha must be at least 0, where the integral of p(z) p(x|z)^alpha exists, not {alpha}")
        offset = check_size("the model", x, len(self.bias)) - self.bias
        gram = self.weight.T @ self.weight / self.noise_std**2
        covariance = torch.linalg.inv(torch.eye(len(gram), dtype=x.dtype, device=x.device) + alpha * gram)
        return alpha * offset @ self.weight @ covariance / self.noise_std**2, covariance

    def log_z(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Log of the integral of p(z) p(x|z)^alpha, in nats, ``(...)``; for alpha = 1 it is log p(x)."""
        mean, covariance = self.posterior(x, alpha)
        at_mean = log_normal(mean) + alpha * self.log_likelihood(x, mean)
        return at_mean + 0.5 * (torch.logdet(covariance) + len(covariance) * math.log(2 * math.pi))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Exact draws of (z, x), ``(n, dim)`` and ``(n, data_dim)``."""
        z = standard_normal(self.weight.new_empty(n, self.weight.shape[1]), generator)
        mean = z @ self.weight.T + self.bias
        return z, mean + self.noise_std * standard_normal(mean, generator)
