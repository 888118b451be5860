"""Cases with a known answer that several tests share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from avo_lib.chain import Chain, Gaussian
from avo_lib.numerics import log_normal
from avo_lib.paths import GeometricPath, linear_alphas


@dataclass(frozen=True)
class Coupling:
    """A Gaussian kernel that couples N(m0, s0²) with N(m1, s1²) at correlation rho, with its exact reversal."""

    m0: float
    s0: float
    m1: float
    s1: float
    rho: float

    def _there(self, z: Tensor) -> tuple[Tensor, float]:
        return self.m1 + self.rho * self.s1 / self.s0 * (z - self.m0), self.s1 * math.sqrt(1 - self.rho**2)

    def _back(self, z: Tensor) -> tuple[Tensor, float]:
        return self.m0 + self.rho * self.s0 / self.s1 * (z - self.m1), self.s0 * math.sqrt(1 - self.rho**2)

    def forward(self, z_prev, log_f, context, *, generator=None):
        mean, std = self._there(z_prev)
        z = mean + std * torch.randn(z_prev.shape, generator=generator)
        return z, log_normal(z_prev, *self._back(z)) - log_normal(z, mean, std)

    def reverse(self, z, log_f, context, *, generator=None):
        mean, std = self._back(z)
        z_prev = mean + std * torch.randn(z.shape, generator=generator)
        return z_prev, log_normal(z_prev, mean, std) - log_normal(z, *self._there(z_prev))

    def log_ratio(self, z_prev, z, log_f, context):
        return log_normal(z_prev, *self._back(z)) - log_normal(z, *self._there(z_prev))


def linear_gaussian_chain(T=6, m=3.0, s=0.4, log_c=1.7, rho=0.5) -> tuple[Chain, list[float]]:
    """From N(0, 1) to c N(m, s²) through exact couplings of neighbouring targets, with log Z_0 … log Z_T."""
    alphas = linear_alphas(T)
    precision = [(a / s**2 + 1 - a) for a in alphas.tolist()]
    mean = [a * m / s**2 / p for a, p in zip(alphas.tolist(), precision)]
    log_z = [
        a * log_c
        + 0.5 * math.log(2 * math.pi / p)
        - 0.5 * a * math.log(2 * math.pi * s**2)
        - 0.5 * (1 - a) * math.log(2 * math.pi)
        - a * m**2 / (2 * s**2)
        + 0.5 * p * mu**2
        for a, p, mu in zip(alphas.tolist(), precision, mean)
    ]
    kernels = [
        Coupling(mean[t - 1], precision[t - 1] ** -0.5, mean[t], precision[t] ** -0.5, rho) for t in range(1, T + 1)
    ]
    base = Gaussian(torch.zeros(1), torch.ones(1))
    path = GeometricPath(base.log_prob, lambda z: log_c + log_normal(z, m, s), alphas)
    return Chain(base, kernels, path), log_z
