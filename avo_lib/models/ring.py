"""The ring of Huang et al. 2018 (arXiv 1809.01818, section 5.1): a decoder whose mean is known and whose noise is not.

It has one latent, so that log p(x) and the posterior are sums on a grid: nothing about a fit is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from avo_lib.axes import check_size
from avo_lib.chain import Chain, Gaussian
from avo_lib.checks import check_counts, check_positive
from avo_lib.kernels import GatedKernel
from avo_lib.models.parts import STD_FLOOR, frozen
from avo_lib.numerics import LOG_2PI, log_normal, symmetric_axis
from avo_lib.objectives import AVO, elbo, iwae
from avo_lib.paths import AmortisedPath, linear_alphas

ETA = 0.75
METHODS = ("vae", "iwae", "hvi", "avo", "mixed")


@dataclass(frozen=True)
class RingConfig:
    """One way to fit the ring's noise, in independent copies: every seed at every noise level.

    Attributes:
        method: ``"vae"`` has a Gaussian encoder; ``"iwae"`` proposes from the prior; ``"hvi"``, ``"avo"``, ``"mixed"``
            send draws of the prior through T kernels that see x, and differ in their objective alone: the ELBO, AVO, or
            one of the two by the toss of a fair coin at every update.
        stds: Standard deviations of the true noise.
        seeds: Number of copies at each noise level; copy i has the noise ``stds[i // seeds]``.
        T: Number of kernels.
        samples: Number K of draws in the importance-weighted bound.
        hidden: Width of every hidden layer.
        batch: Number of data in an update, drawn afresh for each.
        updates: Number of Adam steps.
        lr: Learning rate of Adam.

    Raises:
        ValueError: If there is no such method, a noise is not positive, a count is below 1, or the rate is not
            positive.
    """

    method: str
    stds: tuple[float, ...] = (0.05, 0.1, 0.2)
    seeds: int = 8
    T: int = 10
    samples: int = 500
    hidden: int = 32
    batch: int = 64
    updates: int = 5000
    lr: float = 2e-3

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.method not in METHODS:
            raise ValueError(f"need a method of {METHODS}, not {self.method!r}")
        check_counts(self, "seeds", "T", "samples", "hidden", "batch", "updates")
        check_positive(self, "lr")
        if not isinstance(self.stds, Sequence) or not self.stds or not all(0 < std < math.inf for std in self.stds):
            raise ValueError(f"stds must be positive and finite, and one at least, not {self.stds}")

    @property
    def copies(self) -> int:
        """Number of copies, all seeds at all noise levels."""
        return self.seeds * len(self.stds)

    @property
    def decodings(self) -> float:
        """Average number of latents decoded for each datum in an update; IWAE's are counted as if no x shared them."""
        return {"vae": 1, "iwae": self.samples, "hvi": 1, "avo": self.T, "mixed": (1 + self.T) / 2}[self.method]

    def simulate(self, points: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw data for every copy, ``(copies, points, 2)``."""
        std = torch.tensor(self.stds).repeat_interleave(self.seeds)[:, None, None]
        return simulate((self.copies, points), std, generator=generator)


def mean(z: Tensor) -> Tensor:
    r"""The point of the circle that belongs to z, :math:`(\sin\theta, \cos\theta)` with θ = π tanh(ηz).

    >>> mean(torch.zeros(1)).tolist()
    [0.0, 1.0]
    """
    angle = math.pi * torch.tanh(ETA * check_size("the ring", z, 1))
    return torch.cat([angle.sin(), angle.cos()], -1)


def simulate(shape: Sequence[int], std: Tensor | float, *, generator: torch.Generator | None = None) -> Tensor:
    """Draws of the true model, ``(*shape, 2)``; ``std`` is broadcast to them."""
    centre = mean(torch.randn(*shape, 1, generator=generator))
    return centre + std * torch.randn(centre.shape, generator=generator)


def line(points: int = 3201, box: float = 8.0) -> Tensor:
    """Equally spaced latents from −box to box, ``(points, 1)``, in float64."""
    return symmetric_axis(box, points, dtype=torch.float64)[:, None]


def posterior(x: Tensor, z: Tensor, std: Tensor | float) -> tuple[Tensor, Tensor]:
    """The posterior of a model of the ring, from a sum over equal cells around the latents.

    Args:
        x: Data ``(..., n, 2)``.
        z: Equally spaced latents ``(points, 1)`` from :func:`line`.
        std: Standard deviation of the noise at each latent, broadcastable to ``(..., n, points)``.

    Returns:
        Log p(z|x) at the latents, ``(..., n, points)``, and log p(x), ``(..., n)``, in nats.
    """
    x, std = x.to(z), torch.as_tensor(std, dtype=z.dtype)
    squares = x.square().sum(-1, keepdim=True) + 1 - 2 * x @ mean(z).T  # |x − mean|², as the mean has length one
    log_joint = log_normal(z) - LOG_2PI - 2 * std.log() - squares / (2 * std.square())
    log_p = log_joint.logsumexp(-1) + (z[1, 0] - z[0, 0]).log()
    return log_joint - log_p[..., None], log_p


class _Linear(nn.Linear):
    """Independent copies of a linear layer: ``(..., seeds, points, in)`` to ``(..., seeds, points, out)``."""

    def __init__(self, seeds: int, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim)
        bound = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(seeds, in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(seeds, 1, out_dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def _mlp(seeds: int, in_dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        _Linear(seeds, in_dim, hidden),
        nn.Tanh(),
        _Linear(seeds, hidden, hidden),
        nn.Tanh(),
        _Linear(seeds, hidden, out_dim),
    )


class Ring(nn.Module):
    """Copies of the model with the true mean and a learned noise σ(z), each with its own approximate posterior.

    Args:
        config: Configuration of the model.

    >>> ring = Ring(RingConfig("avo", stds=(0.1,), seeds=3, T=2))
    >>> ring.chain(torch.zeros(3, 7, 2)).sample().log_w().shape
    torch.Size([3, 7])
    """

    def __init__(self, config: RingConfig) -> None:
        super().__init__()
        self.config, copies, hidden = config, config.copies, config.hidden
        self.noise = _mlp(copies, 1, hidden, 1)
        self.encoder = _mlp(copies, 2, hidden, 2) if config.method == "vae" else None
        count = config.T if config.method in ("hvi", "avo", "mixed") else 0
        self.kernels = nn.ModuleList(GatedKernel(1, hidden, batch=(copies,)) for _ in range(count))
        for kernel in self.kernels:  # x enters the hidden layer of each kernel, in independent copies too
            kernel.q.hidden.shift_of_context = _Linear(copies, 2, hidden)  # type: ignore[union-attr]
            kernel.r.hidden.shift_of_context = _Linear(copies, 2, hidden)  # type: ignore[union-attr]

    def std(self, z: Tensor) -> Tensor:
        """The noise's standard deviation at z, both ``(..., copies, points, 1)``."""
        return self._std(z, self.noise)

    @staticmethod
    def _std(z: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        flat = z.movedim(-3, 0).flatten(1, -2)  # one product for each copy
        std = functional.softplus(noise(flat)) + STD_FLOOR
        return std.reshape(z.shape[-3], *z.shape[:-3], *z.shape[-2:]).movedim(0, -3)

    def chain(self, x: Tensor) -> Chain:
        """The approximate posterior of x, ``(copies, points, 2)``; a ValueError for any other shape.

        Under IWAE all points of a copy share the draws of the prior.
        """
        if x.dim() != 3 or (len(x), x.shape[-1]) != (self.config.copies, 2):
            raise ValueError(f"need data ({self.config.copies}, points, 2), each copy its own, got {tuple(x.shape)}")
        if self.encoder is not None:
            loc, raw = self.encoder(x).chunk(2, -1)
            proposal = Gaussian(loc, functional.softplus(raw) + STD_FLOOR)
        else:
            zero = x.new_zeros(len(x), 1 if self.config.method == "iwae" else x.shape[1], 1)
            proposal = Gaussian(zero, zero + 1)
        path = AmortisedPath(
            log_normal,
            lambda z: log_normal(x, mean(z), self.std(z)),
            lambda z: log_normal(x, mean(z), self._std(z, frozen(self.noise))),
            linear_alphas(len(self.kernels)),
        )
        return Chain(proposal, list(self.kernels), path, x)  # type: ignore[arg-type]

    def bound(self, x: Tensor, *, training: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """A draw of the method's own bound for each x, ``(copies, points)`` in nats; in training, with its gradient."""
        chain = self.chain(x)
        if self.config.method == "iwae":
            return iwae(chain.sample((self.config.samples,), generator=generator))
        if not training:
            return elbo(chain.sample(generator=generator))
        share = {"avo": 1.0, "mixed": 0.5}.get(self.config.method, 0.0)
        return AVO(share)(self, x, generator=generator)
