"""Parts of latent-variable models: hidden layers, likelihoods, and a module held constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from avo_lib.numerics import check_binary, log_bernoulli, log_normal

LAYERS = ("leaky_relu", "gated")
STD_FLOOR = 1e-4  # least standard deviation that an encoder or a learned noise can have


class GatedLayer(nn.Module):
    """(W h + b) * sigmoid(V h + c), in one product (Tomczak & Welling 2016)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * out_dim)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(..., in_dim)`` to ``(..., out_dim)``."""
        return functional.glu(self.linear(h))


def trunk(widths: Sequence[int], layers: str, batch_norm: bool) -> nn.Sequential:
    """Hidden layers from widths[0] to widths[-1], ``"gated"``, or ``"leaky_relu"`` with or without batch norm.

    Raises:
        ValueError: If there are no such layers, or gated ones are to be batch-normalised.
    """
    if layers not in LAYERS or (layers == "gated" and batch_norm):
        raise ValueError(f"layers are 'leaky_relu', or 'gated' without batch norm, not {layers!r}, {batch_norm=}")
    modules: list[nn.Module] = []
    for in_dim, out_dim in pairwise(widths):
        if layers == "gated":
            modules.append(GatedLayer(in_dim, out_dim))
            continue
        modules.append(nn.Linear(in_dim, out_dim, bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm1d(out_dim))
        modules.append(nn.LeakyReLU())
    return nn.Sequential(*modules)


@runtime_checkable
class Likelihood(Protocol):
    """What a VAE asks of p(x | z), given what the decoder makes of z; a ``torch.nn.Module``, so that it may learn.

    Attributes:
        maps: How many numbers the decoder gives for each pixel.
    """

    maps: int

    def check(self, x: Tensor, /) -> None:
        """Raise a ValueError for data ``(images, pixels)`` that this likelihood is none of."""
        ...

    def forward(self, x: Tensor, given: Tensor, /) -> Tensor:
        """Log p(x|z) in nats ``(...)``: ``(..., pixels)`` and ``(..., maps * pixels)`` summed over pixels."""
        ...

    def __call__(self, x: Tensor, given: Tensor, /) -> Tensor:
        """What a module makes of :meth:`forward`."""
        ...

    def mean(self, given: Tensor, /) -> Tensor:
        """The mean of x given z, ``(..., maps * pixels)`` to ``(..., pixels)``."""
        ...


class Bernoulli(nn.Module):
    """Binary pixels, whose log odds the decoder gives."""

    maps: int = 1  # how many numbers the decoder gives for each pixel

    def check(self, x: Tensor) -> None:
        """Refuse grey pixels; see :func:`avo_lib.numerics.check_binary`."""
        check_binary(x)

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        """Log p(x|z) in nats, summed over pixels."""
        return log_bernoulli(x, logits)

    def mean(self, logits: Tensor) -> Tensor:
        """Probabilities of the pixels."""
        return logits.sigmoid()

    def sample(self, logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw binary pixels."""
        return torch.bernoulli(logits.sigmoid(), generator=generator)


class GaussianNoise(nn.Module):
    """Real pixels with Gaussian noise of one learned standard deviation around the decoder's output.

    The log-likelihood of real pixels is a log density: in nats it changes with their unit, and may be positive.
    """

    maps: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(()))

    def check(self, x: Tensor) -> None:
        """Raise a ValueError unless all pixels are finite floating-point numbers."""
        if not x.is_floating_point():
            raise ValueError(f"pixels must be floating-point numbers, not {x.dtype}: use x.float()")
        if not bool(x.isfinite().all()):
            raise ValueError(f"pixels must be finite, but {int((~x.isfinite()).sum())} are NaN or infinite")

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """Log p(x|z) in nats, summed over pixels."""
        return log_normal(x, mean, self.log_std.exp())

    def mean(self, mean: Tensor) -> Tensor:
        """The decoder's output."""
        return mean

    def sample(self, mean: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw pixels: the decoder's output with noise."""
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.log_std.exp() * noise


LIKELIHOODS: dict[str, Callable[[], Bernoulli | GaussianNoise]] = {"bernoulli": Bernoulli, "gaussian": GaussianNoise}


def frozen(module: nn.Module) -> Callable[..., Tensor]:
    """A module as a function with constant parameters: gradients reach its inputs alone, and no buffer changes.

    AVO's intermediate targets are made with a decoder that must not learn from them.

    >>> layer = nn.Linear(2, 1)
    >>> frozen(layer)(torch.ones(2)).requires_grad
    False
    """

    def call(*inputs: Tensor) -> Tensor:
        state = {name: value.detach() for name, value in module.named_parameters()}
        state |= {name: value.clone() for name, value in module.named_buffers()}
        found: Tensor = torch.func.functional_call(module, state, inputs)
        return found

    return call
