r"""Two logistic regressions that papers on annealed samplers share: posteriors with correlated weights and one mode.

Standardised columns and an intercept, weights :math:`w \sim N(0, I)`, labels :math:`y_i \sim
\mathrm{Bernoulli}(\mathrm{sigmoid}(x_i^\top w))`; log Z is the evidence of the labels. The data are from the UCI
repository (``data/regressions/README.md``).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from avo_lib import estimate
from avo_lib.estimate import Estimate
from avo_lib.files import repository
from avo_lib.numerics import log_normal
from avo_lib.targets import Target

LOG_Z = {"ionosphere": -111.613, "sonar": -108.385}
"""Means of :func:`log_evidence` over the seeds 0, 1 and 2, in nats; their standard errors are .001 and .002."""

FREEDOM, PILOTS, PILOT = 20, 5, 100_000  # of the proposal's t distribution: its tails are heavier than the prior's


def load(name: str) -> tuple[Tensor, Tensor]:
    """Standardised columns ``(n, dim)``, the last of them all ones, and labels ``(n,)``, 0 or 1.

    A column that never changes becomes 0: its weight keeps the prior.

    Raises:
        ValueError: If there is no such regression.
        FileNotFoundError: If its file is not there, as without a clone of the repository.
    """
    if name not in LOG_Z:
        raise ValueError(f"regressions are {', '.join(LOG_Z)}, not {name!r}")
    x, y = _read(name)
    return x.clone(), y.clone()


@lru_cache
def _read(name: str) -> tuple[Tensor, Tensor]:
    file = repository("data/regressions") / f"{name}.csv"
    rows = [[float(number) for number in line.split(",")] for line in file.read_text(encoding="utf-8").splitlines()]
    table = torch.tensor(rows, dtype=torch.float64)
    x, y = table[:, :-1], table[:, -1]
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-12)
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1), y


def regression(name: str) -> Target:
    """The posterior of a regression's weights, not normalised: log f is the log joint density in nats.

    Args:
        name: ``"ionosphere"`` (351 rows, 35 weights) or ``"sonar"`` (208 rows, 61 weights).

    Raises:
        ValueError: If there is no such regression.
        FileNotFoundError: If its file is not there.

    >>> sonar = regression("sonar")
    >>> sonar.dim, round(sonar.log_density(torch.zeros(61)).item(), 2)  # 208 fair coins, and the prior at its mode
    (61, -200.23)
    """
    x, y = load(name)
    signed = x * (1 - 2 * y)[:, None]

    def log_density(w: Tensor) -> Tensor:
        prior = log_normal(w, w.new_zeros(()), w.new_ones(()))
        return prior - functional.softplus(w @ signed.to(w.dtype).T).sum(-1)

    return Target(f"regression on {name}", log_density, LOG_Z[name], dim=x.shape[1])


def laplace(name: str) -> tuple[Tensor, Tensor]:
    """The posterior's maximum ``(dim,)`` and its covariance there ``(dim, dim)``, by Newton's method in float64."""
    x, y = load(name)
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(20):
        p = (x @ w).sigmoid()
        precision = x.T @ (x * (p * (1 - p))[:, None]) + torch.eye(len(w), dtype=x.dtype)
        w = w + torch.linalg.solve(precision, x.T @ (y - p) - w)
    return w, torch.linalg.inv(precision)


def log_evidence(name: str, samples: int = 400_000, *, seed: int = 0) -> Estimate:
    """Log Z by importance sampling from a t distribution that pilot runs have fitted: the reference of a regression.

    Args:
        name: Name of the regression.
        samples: Number of draws of the last run; pilot runs have 100,000 each.
        seed: Seed of the draws.

    Returns:
        A lower bound in nats, with its standard error.
    """
    generator, target = torch.Generator().manual_seed(seed), regression(name)
    mean, covariance = laplace(name)
    for _ in range(PILOTS):
        w, log_w = _weighed(target, mean, covariance, PILOT, generator)
        share = log_w.softmax(0)
        mean = share @ w
        covariance = (w - mean).T @ (share[:, None] * (w - mean))
    return estimate.log_mean(_weighed(target, mean, covariance, samples, generator)[1])


def _weighed(
    target: Target, mean: Tensor, covariance: Tensor, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws ``(samples, dim)`` of a t distribution with given moments, and their log weights in nats."""
    factor, dim = torch.linalg.cholesky((FREEDOM - 2) / FREEDOM * covariance), len(mean)
    noise = torch.randn(samples, dim, generator=generator, dtype=mean.dtype)
    squares = torch.randn(samples, FREEDOM, generator=generator, dtype=mean.dtype).square().sum(1)
    noise = noise * (FREEDOM / squares).sqrt()[:, None]
    log_t = (
        math.lgamma((FREEDOM + dim) / 2)
        - math.lgamma(FREEDOM / 2)
        - dim / 2 * math.log(FREEDOM * math.pi)
        - factor.diagonal().log().sum()
        - (FREEDOM + dim) / 2 * (noise.square().sum(1) / FREEDOM).log1p()
    )
    w = mean + noise @ factor.T
    return w, torch.cat([target.log_density(part) for part in w.split(10_000)]) - log_t
