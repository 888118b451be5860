"""Targets that papers on annealed samplers compare themselves on, with exact log Z and exact draws.

Their names mean different things in different papers; each function says which version it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from avo_lib.axes import check_size
from avo_lib.checks import check_count
from avo_lib.numerics import log_normal, sum_last, symmetric_axis
from avo_lib.targets import GaussianMixture, Target

AXIS = symmetric_axis(4.0, 16_001, dtype=torch.float64)  # grid for a double well's integral and draws
NARROW = -80.0  # log width below which the funnel is magnified


def ring_of_gaussians(modes: int = 8, radius: float = 10.0, variance: float = 0.5) -> Target:
    """A sum of normalised Gaussians on a circle, so that Z is their number (Zimmermann et al. 2021, arXiv 2106.11302).

    Args:
        modes: Number of Gaussians, at equal distances; the first lies on the positive z1 axis.
        radius: Radius of the circle.
        variance: Variance of each Gaussian along each axis.

    Raises:
        ValueError: If the modes are not a whole number of at least 1, or a length is not positive.

    >>> round(ring_of_gaussians().log_z, 4)  # log 8
    2.0794
    """
    modes = check_count("modes", modes)
    if not (radius > 0 and variance > 0):
        raise ValueError(f"a ring needs a positive radius and variance, not {radius} and {variance}")
    angles = [2 * math.pi * i / modes for i in range(modes)]
    means = tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)
    mixture = GaussianMixture((1 / modes,) * modes, means, math.sqrt(variance))
    return mixture.scaled(f"ring of {modes} Gaussians", math.log(modes))


def funnel(dim: int = 10, std: float = 3.0) -> Target:
    r"""Neal's funnel, normalised: :math:`v \sim N(0, s^2)` first, then :math:`x_i \sim N(0, e^v)` (Neal 2003).

    Papers differ in s: 3 in Neal's and here, 1 in others.

    Args:
        dim: Number of coordinates, v and the x together, at least 2.
        std: Standard deviation s of v, positive.

    Raises:
        ValueError: If ``dim`` is not a whole number of at least 2, or s is not positive.

    >>> funnel().log_z, funnel().sample(5).shape
    (0.0, torch.Size([5, 10]))
    """
    dim = check_count("dim", dim, least=2)
    if not std > 0:
        raise ValueError(f"a funnel needs a positive std, not {std}")
    return Target(f"funnel of sd {std:g}", partial(_funnel, std), 0.0, partial(_sample_funnel, dim, std), dim)


def _funnel(std: float, z: Tensor) -> Tensor:
    v, x = z[..., :1], z[..., 1:]
    log_width = 0.5 * v
    magnified = (NARROW - log_width).clamp(min=0)  # below exp(NARROW) widths go to 0 in single precision
    log_x = log_normal(x * magnified.exp(), 0.0, (log_width + magnified).exp())
    return log_normal(v, 0.0, std) + log_x + x.shape[-1] * magnified[..., 0]


def _sample_funnel(dim: int, std: float, n: int, generator: torch.Generator | None) -> Tensor:
    noise = torch.randn(n, dim, generator=generator, device=getattr(generator, "device", None))
    v = std * noise[:, :1]
    return torch.cat([v, (0.5 * v).exp() * noise[:, 1:]], -1)


def _well(x: Tensor) -> Tensor:
    return 0.5 * x + 6 * x.square() - x.pow(4)


BELOW = _well(AXIS).softmax(0).cumsum(0)  # a double well's distribution function


def many_well(dim: int = 6) -> Target:
    """Pairs of a double well :math:`e^{x/2 + 6x^2 - x^4}` and a Gaussian :math:`e^{-y^2/2}`, ``dim / 2`` of them.

    Each pair has two modes, near x = −1.7 and x = 1.8, of which the right one holds 84 % of the mass: with 6
    coordinates there are 8 modes (Noé et al. 2019; Midgley et al. 2023, arXiv 2208.01893). The draws of x come from a
    table of 16,001 points of its distribution function, taken as linear between them.

    Args:
        dim: Twice the number of pairs.

    Raises:
        ValueError: If ``dim`` is not a whole number, odd or less than 2.

    >>> round(many_well().log_z, 4), round(many_well(32).log_z, 4)
    (30.8804, 164.6957)
    """
    if (dim := check_count("dim", dim, least=2)) % 2:
        raise ValueError(f"a many-well has pairs of coordinates, an even number of them, not {dim}")
    log_z_well = (_well(AXIS).logsumexp(0) + (AXIS[1] - AXIS[0]).log()).item()
    log_z = dim / 2 * (log_z_well + 0.5 * math.log(2 * math.pi))
    return Target(f"many-well of {dim} dimensions", _many_well, log_z, partial(_sample_many_well, dim // 2), dim)


def _many_well(z: Tensor) -> Tensor:
    x, y = z[..., 0::2], z[..., 1::2]
    return sum_last(_well(x) - 0.5 * y.square())


def _sample_many_well(pairs: int, n: int, generator: torch.Generator | None) -> Tensor:
    u = torch.rand(n, pairs, generator=generator, device=getattr(generator, "device", None), dtype=torch.float64)
    axis, below = AXIS.to(u.device), BELOW.to(u.device)
    right = torch.searchsorted(below, u).clamp(1, len(axis) - 1)
    share = (u - below[right - 1]) / (below[right] - below[right - 1])
    x = torch.lerp(axis[right - 1], axis[right], share).to(torch.get_default_dtype())
    y = torch.randn(n, pairs, generator=generator, device=u.device)
    return torch.stack([x, y], -1).flatten(-2)


LANDMARKS: dict[str, Callable[[], Target]] = {"ring": ring_of_gaussians, "many-well": many_well, "funnel": funnel}
"""The three landmarks, under the names by which experiments call them."""


def regions(name: str, z: Tensor) -> tuple[Tensor, Tensor]:
    """Eight regions that cover a landmark, with their exact shares: modes, wells, or eighths of the funnel's axis.

    Args:
        name: A name from :data:`LANDMARKS`; the landmark has its default size.
        z: Points ``(..., dim)``.

    Returns:
        The region of each point ``(...)``, from 0 to 7, and the shares ``(8,)``.

    Raises:
        ValueError: If there is no such landmark, or a point has another size or is NaN.

    >>> where, shares = regions("ring", torch.tensor([[10.0, 0.1], [0.0, -9.0]]))
    >>> where.tolist(), shares[0].item()
    ([0, 6], 0.125)
    """
    if name not in LANDMARKS:
        raise ValueError(f"landmarks are {', '.join(LANDMARKS)}, not {name!r}")
    if check_size(f"the landmark {name}", z, LANDMARKS[name]().dim).isnan().any():
        raise ValueError("a point that is NaN lies in no region: leave such points out, and say how many")
    even = torch.full((8,), 0.125, device=z.device)
    if name == "ring":
        return (torch.atan2(z[..., 1], z[..., 0]) * 4 / math.pi).round().long() % 8, even
    if name == "funnel":
        return (8 * torch.special.ndtr(z[..., 0] / 3)).long().clamp(max=7), even
    bit = torch.tensor([1, 2, 4], device=z.device)
    right = _well(AXIS).softmax(0)[AXIS > 0].sum().to(even.dtype)
    wells = (torch.arange(8, device=z.device)[:, None] & bit) > 0
    return ((z[..., 0::2] > 0) * bit).sum(-1), torch.where(wells, right, 1 - right).prod(-1)
