"""A variational autoencoder whose posterior is a chain; with T = 0 kernels it is the plain VAE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from avo_lib.chain import Chain, Gaussian
from avo_lib.kernels import GatedKernel, Householder, Kernel
from avo_lib.numerics import check_binary, log_bernoulli, log_normal
from avo_lib.paths import AmortisedPath, linear_alphas

STD_FLOOR = 1e-4
LAYERS = ("leaky_relu", "gated")
KERNELS = ("gated", "householder")


@dataclass(frozen=True)
class VAEConfig:
    """The architecture of a :class:`VAE`.

    Attributes:
        pixels: Size of an image.
        hidden: Widths of the encoder's layers; the decoder has them in reverse.
        latent: Size of z.
        layers: ``"leaky_relu"``, or ``"gated"`` for (W h + b) * sigmoid(V h + c) (Tomczak & Welling 2016).
        batch_norm: Whether hidden layers are batch-normalised (not with gated layers).
        T: The number of kernels; 0 for the plain VAE.
        kernel: ``"gated"`` (HVI and AVO) or ``"householder"``.
        kernel_hidden: Width of a gated kernel's hidden layer.
        conditioning: How gated kernels see the encoder's features, ``"concat"`` or ``"weight_norm"``.
        std_init: Standard deviation of the gated kernels at the start; small, see :class:`GatedKernel`.
        gate_bias: Bias of their gates at the start.
    """

    pixels: int = 784
    hidden: tuple[int, ...] = (300, 300)
    latent: int = 40
    layers: str = "leaky_relu"
    batch_norm: bool = True
    T: int = 0
    kernel: str = "gated"
    kernel_hidden: int = 40
    conditioning: str = "concat"
    std_init: float = 0.05
    gate_bias: float = -3.0

    def __post_init__(self) -> None:
        """Refuse names that do not exist and combinations that make no sense."""
        for value, valid in ((self.layers, LAYERS), (self.kernel, KERNELS)):
            if value not in valid:
                raise ValueError(f"{value!r} is not one of {', '.join(valid)}")
        if self.layers == "gated" and self.batch_norm:
            raise ValueError("gated layers are used without batch norm: set batch_norm=False")
        if min(self.pixels, self.latent, self.kernel_hidden, *self.hidden) < 1:
            raise ValueError("pixels, latent, kernel_hidden and the widths in hidden must be at least 1")
        if not 0 < self.std_init < math.inf or not math.isfinite(self.gate_bias):
            raise ValueError(
                f"need a positive std_init and a finite gate_bias, got {self.std_init} and {self.gate_bias}"
            )
        if self.T < 0 or not self.hidden:
            raise ValueError(f"need T >= 0 and at least one hidden layer, got T={self.T} and hidden={self.hidden}")


class _GatedLayer(nn.Module):
    """(W h + b) * sigmoid(V h + c), in one product."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * out_dim)

    def forward(self, h: Tensor) -> Tensor:
        return functional.glu(self.linear(h))


def _trunk(widths: Sequence[int], config: VAEConfig) -> nn.Sequential:
    """Hidden layers from widths[0] to widths[-1]."""
    modules: list[nn.Module] = []
    for in_dim, out_dim in pairwise(widths):
        if config.layers == "gated":
            modules.append(_GatedLayer(in_dim, out_dim))
            continue
        modules.append(nn.Linear(in_dim, out_dim, bias=not config.batch_norm))
        if config.batch_norm:
            modules.append(nn.BatchNorm1d(out_dim))
        modules.append(nn.LeakyReLU())
    return nn.Sequential(*modules)


class VAE(nn.Module):
    r"""A Bernoulli VAE whose approximate posterior is a chain (Kingma & Welling 2014, Huang et al. 2018).

    The encoder gives a Gaussian :math:`q_0(z_0\mid x)` and features for the T kernels; the path runs from the prior
    :math:`p(z) = \mathcal N(0, I)` to :math:`p(z)\,p(x\mid z)`.

    Args:
        config: The architecture.

    >>> model = VAE(VAEConfig(pixels=16, hidden=(8,), latent=2, T=3, batch_norm=False))
    >>> model.chain(torch.ones(5, 16)).sample().log_w().shape
    torch.Size([5])
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        widths, features = (config.pixels, *config.hidden), config.hidden[-1]
        self.encoder = _trunk(widths, config)
        self.q0 = nn.Linear(features, 2 * config.latent)
        self.decoder = nn.Sequential(
            _trunk((config.latent, *config.hidden[::-1]), config), nn.Linear(config.hidden[0], config.pixels)
        )
        self.kernels = nn.ModuleList(self._kernel(features) for _ in range(config.T))
        self.alphas: Tensor
        self.register_buffer("alphas", linear_alphas(config.T), persistent=False)

    def _kernel(self, features: int) -> nn.Module:
        config = self.config
        if config.kernel == "householder":
            return Householder(config.latent, context_dim=features)
        return GatedKernel(
            config.latent,
            config.kernel_hidden,
            context_dim=features,
            conditioning=config.conditioning,
            activation=nn.ELU(),
            std_init=config.std_init,
            gate_bias=config.gate_bias,
        )

    def decode(self, z: Tensor) -> Tensor:
        """Logits of the pixels, ``(..., latent)`` to ``(..., pixels)``."""
        logits: Tensor = self.decoder(z.reshape(-1, z.shape[-1]))
        return logits.reshape(*z.shape[:-1], -1)

    def chain(self, x: Tensor, *, seen: Tensor | None = None) -> Chain:
        """The chain that approximates the posterior of x.

        Args:
            x: Binary images ``(images, pixels)``.
            seen: What the encoder sees in place of x, of any values; a proposal needs no binary pixels.

        Returns:
            The chain.

        Raises:
            ValueError: If x has the wrong shape or grey pixels.
        """
        if x.dim() != 2 or x.shape[1] != self.config.pixels:
            raise ValueError(f"expected images of shape (images, {self.config.pixels}), got {tuple(x.shape)}")
        check_binary(x)
        features = self.encoder(x if seen is None else seen)
        mean, std = self.q0(features).chunk(2, dim=-1)
        path = AmortisedPath(
            log_normal,
            lambda z: log_bernoulli(x, self.decode(z)),
            lambda z: log_bernoulli(x, self._decode_frozen(z)),
            self.alphas,
        )
        proposal = Gaussian(mean, functional.softplus(std) + STD_FLOOR)
        kernels: Sequence[Kernel] = list(self.kernels)  # type: ignore[arg-type]
        return Chain(proposal, kernels, path, features)

    def _decode_frozen(self, z: Tensor) -> Tensor:
        """The decoder with its parameters constant; batch norm normalises but does not record."""
        constants = {name: value.detach() for name, value in self.decoder.named_parameters()}
        constants |= {name: value.clone() for name, value in self.decoder.named_buffers()}
        logits: Tensor = torch.func.functional_call(self.decoder, constants, (z.reshape(-1, z.shape[-1]),))
        return logits.reshape(*z.shape[:-1], -1)

    def sample_images(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Pixel probabilities ``(n, pixels)`` of n draws of the prior."""
        z = torch.randn(n, self.config.latent, generator=generator, device=self.alphas.device)
        return self.decode(z).sigmoid()
