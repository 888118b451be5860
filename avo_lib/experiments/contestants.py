"""The learned methods of the benchmark, each as kernels for all seeds, a chain, and the objective that trains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avo_lib.axes import check_size
from avo_lib.chain import Chain, Gaussian
from avo_lib.experiments.ascent import LONGEST_GRADIENT, shorten_by_seed
from avo_lib.experiments.dynamics import CLIP
from avo_lib.kernels import Controlled, Drift, GatedKernel, Kernel, Langevin, Underdamped, autoregressive
from avo_lib.momentum import with_momentum
from avo_lib.nested import LearnedPath, Stand, nested
from avo_lib.numerics import Noise, sum_last
from avo_lib.objectives import avo, elbo
from avo_lib.paths import GeometricPath, LogDensity, linear_alphas

HIDDEN = 64


class Affine(nn.Module):
    r"""The affine map :math:`z = m + L\,z_{prev}` with a triangular L: a Gaussian base becomes any Gaussian.

    Args:
        dim: Size of z.
        diagonal: Whether L is diagonal, as in a mean field.
        batch: Leading axes of independent copies; z is then ``(..., *batch, points, dim)``.

    Points of another size are refused by a ValueError.

    >>> z, log_ratio = Affine(3, diagonal=False)(torch.ones(5, 3), None, None)
    >>> z.shape, log_ratio.tolist()
    (torch.Size([5, 3]), [0.0, 0.0, 0.0, 0.0, 0.0])
    """

    def __init__(self, dim: int, *, diagonal: bool, batch: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.shift, self.log_scale = (nn.Parameter(torch.zeros(*batch, 1, dim)) for _ in range(2))
        self.below = None if diagonal else nn.Parameter(torch.zeros(*batch, dim, dim))

    def forward(
        self, z_prev: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move; see :class:`avo_lib.kernels.Kernel`."""
        check_size("the affine map", z_prev, self.shift.shape[-1])
        z = self.shift + self.log_scale.exp() * z_prev
        if self.below is not None:
            z = z + z_prev @ self.below.tril(-1).mT
        return z, sum_last(self.log_scale).expand(z.shape[:-1])

    def reverse(
        self, z: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move back by the inverse."""
        check_size("the affine map", z, self.shift.shape[-1])
        factor = self.log_scale.exp().mT * torch.eye(z.shape[-1])
        if self.below is not None:
            factor = factor + self.below.tril(-1)
        z_prev = torch.linalg.solve_triangular(factor, (z - self.shift).mT, upper=False).mT
        return z_prev, sum_last(self.log_scale).expand(z.shape[:-1])


class OnePerSeed(nn.Module):
    """Kernels without copies of their own, one for each seed on the first axis of ``(seeds, points, dim)``."""

    def __init__(self, kernels: Iterable[nn.Module]) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(kernels)

    def forward(
        self, z_prev: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move; see :class:`avo_lib.kernels.Kernel`."""
        return self._each("forward", z_prev, generator)

    def reverse(
        self, z: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move back."""
        return self._each("reverse", z, generator)

    def _each(self, way: str, z: Tensor, generator: Noise) -> tuple[Tensor, Tensor]:
        pairs = (
            getattr(k, way)(part, None, None, generator=generator) for k, part in zip(self.kernels, z, strict=True)
        )
        moved, log_ratios = zip(*pairs, strict=True)
        return torch.stack(moved), torch.stack(log_ratios)


@dataclass(frozen=True)
class _Turned:
    """A kernel for ``(seeds, points, dim)`` that takes ``(points, seeds, dim)``."""

    kernel: Kernel

    def forward(
        self, z_prev: Tensor, log_f: LogDensity, context: Tensor | None, *, generator: Noise
    ) -> tuple[Tensor, Tensor]:
        z, log_ratio = self.kernel.forward(z_prev.transpose(0, 1), log_f, context, generator=generator)
        return z.transpose(0, 1), log_ratio.T

    def reverse(
        self, z: Tensor, log_f: LogDensity, context: Tensor | None, *, generator: Noise
    ) -> tuple[Tensor, Tensor]:
        z_prev, log_ratio = self.kernel.reverse(z.transpose(0, 1), log_f, context, generator=generator)
        return z_prev.transpose(0, 1), log_ratio.T


LEARNED = {
    "mean-field": 1,
    "full Gaussian": 1,
    "HVI": 8,
    "AVO": 8,
    "NVI*": 8,
    "NVIR*": 8,
    "flow": 4,
    "AVO flow": 4,
    "ULA": 16,
    "UHA": 16,
    "CMCD": 16,
}
"""The learned methods, each with its number T of kernels."""

PROPOSALS = ("mean-field", "full Gaussian")


@dataclass(frozen=True)
class Contestant:
    """A learned method on one target, with all seeds side by side: draws are ``(seeds, points, dim)``.

    Attributes:
        method: One of :data:`LEARNED`.
        log_density: Log density of the target.
        dim: Dimension of the target.
        base: The Gaussian from which chains start, with axes ``(seeds, 1, dim)``.
        first_step: Initial step size of Langevin dynamics.
    """

    method: str
    log_density: LogDensity
    dim: int
    base: Gaussian
    first_step: float

    @property
    def seeds(self) -> int:
        """Number of independent copies."""
        return len(self.base.mean)

    @property
    def T(self) -> int:
        """Number of kernels."""
        return LEARNED[self.method]

    def kernels(self) -> nn.ModuleList:
        """Untrained kernels: dynamics, maps close to the identity, or steps of half the base's width."""
        batch, times = (self.seeds,), linear_alphas(self.T).tolist()
        drift = Drift(self.dim, HIDDEN, batch=batch) if self.method == "CMCD" else None

        def make(t: int) -> nn.Module:
            match self.method:
                case method if method in PROPOSALS:
                    return Affine(self.dim, diagonal=self.method == "mean-field", batch=batch)
                case "HVI" | "AVO" | "NVI*" | "NVIR*":
                    return GatedKernel(self.dim, HIDDEN, std_init=self.base.std.mean().item() / 2, batch=batch)
                case "flow" | "AVO flow":
                    return OnePerSeed(autoregressive(self.dim, HIDDEN, reverse=t % 2 == 1) for _ in range(self.seeds))
                case "ULA":
                    return Langevin(self.first_step, clip=CLIP, batch=batch)
                case "UHA":
                    return Underdamped(math.sqrt(2 * self.first_step), 0.8, clip=CLIP, batch=batch)
            assert drift is not None
            return Controlled(self.first_step, drift, (times[t], times[t + 1]), clip=CLIP, batch=batch)

        return nn.ModuleList(make(t) for t in range(self.T))

    def learned_path(self) -> LearnedPath | None:
        """The path that learns beside the kernels, for NVI* and NVIR* alone; its draws are ``(points, seeds, dim)``."""
        base = Gaussian(self.base.mean[:, 0], self.base.std[:, 0])
        learns = self.method in ("NVI*", "NVIR*")
        return LearnedPath(base.log_prob, self.log_density, self.T, (self.seeds,)) if learns else None

    def chain(self, kernels: nn.ModuleList, points: int) -> Chain:
        """The chain with ``points`` draws for each seed; each of UHA's has a momentum."""
        base = Gaussian(self.base.mean.expand(-1, points, -1), self.base.std)
        path = GeometricPath(base.log_prob, self.log_density, linear_alphas(self.T))
        chain = Chain(base, list(kernels), path)  # type: ignore[arg-type]
        return with_momentum(chain) if self.method == "UHA" else chain

    def objective(
        self, kernels: nn.ModuleList, path: LearnedPath | None, points: int, generator: torch.Generator
    ) -> Callable[[], Tensor]:
        """A function that draws what is maximised, in nats, summed over seeds."""
        if path is not None:
            base = Gaussian(self.base.mean[:, 0], self.base.std[:, 0])
            turned = Chain(base, [_Turned(kernel) for kernel in kernels], path)  # type: ignore[arg-type]
            stand: Stand = "weighted" if self.method == "NVI*" else "resampled"
            return lambda: nested(turned, points, stand, generator=generator).sum()
        chain, local = self.chain(kernels, points), self.method.startswith("AVO")
        value = avo if local else elbo
        return lambda: value(chain.sample(detach=local, generator=generator)).mean(-1).sum()


def shorten_gradients(kernels: nn.ModuleList) -> None:
    """Shorten the kernels' gradients as :func:`shorten_by_seed` does, copies or not; a path's stay as they are."""
    single = [kernel.kernels for kernel in kernels if isinstance(kernel, OnePerSeed)]
    for copies in zip(*single, strict=True):
        own = [one for copy in copies for one in copy.parameters()]
        if not nn.utils.clip_grad_norm_(own, LONGEST_GRADIENT).isfinite():
            for one in own:
                one.grad = torch.zeros_like(one)
    if not single:
        shorten_by_seed(kernels.parameters())
