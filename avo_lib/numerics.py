"""Log densities, weights and noise: the arithmetic that everything else stands on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)

Noise = torch.Generator | Sequence[torch.Generator] | None
"""The source of randomness, which is one generator, one generator per datum, or None for torch's global stream."""


def traced() -> bool:
    """Whether the running code is being compiled or captured in a CUDA graph: then no check may look at a number."""
    return torch.compiler.is_compiling() or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())


def check_generator(generator: Any) -> None:
    """Refuse a seed in place of a generator, with a TypeError: 0 would pass for none."""
    if isinstance(generator, int):
        raise TypeError(f"{generator} is a seed, not a generator: give torch.Generator().manual_seed({generator})")


def standard_normal(like: Tensor, generator: Noise = None) -> Tensor:
    """Standard normal noise with the shape, type and device of ``like``.

    With a sequence of generators, generator i draws the noise of datum i (axis -2 of ``like``). The noise
    of a datum then does not depend on which others it is evaluated with.

    Args:
        like: A tensor ``(..., dim)``; with a sequence, ``(..., len(generator), dim)``.
        generator: One generator, a sequence of them, or None for the global stream.

    Returns:
        Noise shaped as ``like``.

    Raises:
        ValueError: If the number of generators is not the size of axis -2.
        TypeError: If the generator is a seed.

    >>> standard_normal(torch.zeros(3, 2), torch.Generator().manual_seed(0)).shape
    torch.Size([3, 2])
    """
    if generator is None:  # even as None the argument is too much for torch.compile where shapes vary
        return torch.randn(like.shape, dtype=like.dtype, device=like.device)
    if isinstance(generator, torch.Generator):
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    check_generator(generator)
    if like.dim() < 2 or like.shape[-2] != len(generator):
        raise ValueError(
            f"{len(generator)} generators for a tensor of shape {tuple(like.shape)}: axis -2 must match. For data give "
            "the proposal a row for each datum, such as mean.expand(len(x), -1)"
        )
    shape = (*like.shape[:-2], like.shape[-1])
    draws = [torch.randn(shape, dtype=like.dtype, device=like.device, generator=one) for one in generator]
    return torch.stack(draws, dim=-2)


def sum_last(x: Tensor) -> Tensor:
    """Sum over the last axis; adding up slices is several times faster than ``x.sum(-1)`` when it is tiny.

    >>> sum_last(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [3.0, 7.0]
    """
    if 1 <= x.shape[-1] <= 4:
        total, *rest = x.unbind(-1)
        for part in rest:
            total = total + part
        return total
    return x.sum(-1)


def log_normal(z: Tensor, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> Tensor:
    r"""Log density of a diagonal Gaussian, :math:`\sum_d \log\mathcal N(z_d; \mu_d, \sigma_d^2)`.

    Args:
        z: Points ``(..., dim)``.
        mean: Mean, broadcastable to ``z``.
        std: Standard deviation, positive, broadcastable to ``z``.

    Returns:
        Log density in nats, ``(...)``.

    Raises:
        ValueError: If ``mean`` or ``std`` has more coordinates than ``z``, or a ``std`` that is no tensor is not > 0.

    >>> round(log_normal(torch.zeros(1)).item(), 4)
    -0.9189
    """
    if not isinstance(std, Tensor) and not std > 0:
        raise ValueError(f"a standard deviation is positive, not {std}")
    log_std = std.log() if isinstance(std, Tensor) else math.log(std)
    terms = -0.5 * ((z - mean) / std).square() - log_std - 0.5 * LOG_2PI
    if terms.shape[-1:] != z.shape[-1:]:  # other axes may grow: points under each of many Gaussians
        raise ValueError(
            f"points {tuple(z.shape)} have one coordinate for a Gaussian of {terms.shape[-1]}: expected (..., dim), "
            "where mean and std have dim coordinates or one"
        )
    return sum_last(terms)


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    r"""Log probability of binary pixels, :math:`\sum_d x_d\ell_d - \log(1+e^{\ell_d})`, summed and never averaged.

    For :math:`x\in\{0,1\}` each term is :math:`\log\mathrm{sigmoid}((2x-1)\ell)`, which needs one pass.

    Args:
        x: Binary pixels ``(..., pixels)``. Grey pixels are no Bernoulli outcome: see :func:`check_binary`.
        logits: Log odds ``(..., pixels)``, broadcastable with ``x``.

    Returns:
        Log probability in nats, ``(...)``.

    >>> round(log_bernoulli(torch.ones(784), torch.zeros(784)).item() / 784, 4)
    -0.6931
    """
    return functional.logsigmoid((2.0 * x - 1) * logits).sum(-1)  # 2.0: bytes would wrap, and 0 become 255


def check_binary(x: Tensor) -> None:
    """Refuse grey pixels: a Bernoulli likelihood of them is not a likelihood, and its nats compare with nothing.

    Raises:
        ValueError: If any entry is neither 0 nor 1, or the entries are not floating-point numbers.
    """
    if not x.is_floating_point():
        raise ValueError(f"pixels must be floating-point numbers, not {x.dtype}: use x.float()")
    # x - x² vanishes at 0 and 1 alone, and is NaN where x is not finite; this is called at every training step.
    if torch.addcmul(x, x, x, value=-1).norm().item() != 0:
        raise ValueError(
            "pixels must be exactly 0 or 1 under a Bernoulli likelihood, but some are grey or not finite. "
            "Binarise first: avo_lib.data.binarise(x)."
        )


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    r"""Stable :math:`\log \frac1K \sum_k w_k`, the importance-weighted bound (Burda et al. 2016, arXiv 1509.00519).

    Args:
        log_w: Log weights in nats, any shape with K along ``dim``.
        dim: The axis of the K samples.

    Returns:
        The log of the mean in nats, shaped as ``log_w`` without ``dim``.

    Raises:
        ValueError: If there are no weights, K = 0.

    >>> log_mean_exp(torch.zeros(5)).item()
    0.0
    """
    if not log_w.shape[dim]:
        raise ValueError(f"the mean of no weights: axis {dim} of {tuple(log_w.shape)} is empty")
    return log_w.logsumexp(dim) - math.log(log_w.shape[dim])


def effective_sample_size(log_w: Tensor, dim: int = 0) -> Tensor:
    r"""Effective sample size :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, between 1 and K (Kong 1992).

    Args:
        log_w: Log weights in nats, any shape with K along ``dim``.
        dim: The axis of the K samples.

    Returns:
        The effective sample size, shaped as ``log_w`` without ``dim``; a number of samples, not a share.

    >>> round(effective_sample_size(torch.zeros(5)).item(), 3)
    5.0
    """
    log_w = log_w.double()  # log weights of -1e5 leave single precision no digit after the point
    return (2 * log_w.logsumexp(dim) - (2 * log_w).logsumexp(dim)).exp()


def symmetric_axis(box: float, points: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Equally spaced points from −box to box, ``(points,)``, each with its exact mirror image.

    ``torch.linspace`` has these only on some processors. Counts on either side of zero must not depend on that.

    >>> symmetric_axis(4.0, 81)[40].item()
    0.0
    """
    axis = torch.linspace(-box, box, points, dtype=dtype)
    return (axis - axis.flip(0)) / 2


def quadrature_log_z(log_density: Callable[[Tensor], Tensor], box: float = 20.0, points: int = 1601) -> float:
    """Log Z in nats of a density on the plane, by a sum over the points of a square grid in float64.

    For a density that vanishes at the border the sum is the trapezoidal rule; any other loses or gains mass there.

    Args:
        log_density: Log f in nats, ``(..., 2)`` to ``(...)``.
        box: Half the side of the square around the origin.
        points: Number of grid points along each side.

    Raises:
        ValueError: If log f is NaN at a point of the grid.

    >>> round(quadrature_log_z(lambda z: -0.5 * z.square().sum(-1)), 4)  # log 2 pi
    1.8379
    """
    axis = symmetric_axis(box, points, dtype=torch.float64)
    step = axis[1] - axis[0]
    rows = [log_density(torch.stack(torch.meshgrid(part, axis, indexing="ij"), -1)) for part in axis.split(200)]
    log_z = (torch.cat(rows).flatten().logsumexp(0) + 2 * step.log()).item()
    if math.isnan(log_z):
        raise ValueError(f"log f is NaN on the square of side {2 * box:g}: give -inf where the density vanishes")
    return log_z
