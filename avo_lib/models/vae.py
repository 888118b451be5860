"""A variational autoencoder whose posterior is a chain; with T = 0 kernels it is the plain VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from avo_lib.chain import Chain, Gaussian
from avo_lib.checks import check_count, check_counts
from avo_lib.kernels import GatedKernel, Householder, Kernel, autoregressive
from avo_lib.kernels.gated import CONDITIONINGS, check_start
from avo_lib.models.parts import LAYERS, LIKELIHOODS, STD_FLOOR, Likelihood, frozen, trunk
from avo_lib.models.vamp import EvenMixture
from avo_lib.numerics import log_normal, standard_normal, traced
from avo_lib.paths import AmortisedPath, linear_alphas

KERNELS = ("gated", "householder", "autoregressive")


@dataclass(frozen=True)
class VAEConfig:
    """The architecture of a :class:`VAE`.

    Attributes:
        pixels: Number of pixels in an image.
        hidden: Widths of the encoder's layers; the decoder has them in reverse order.
        latent: Size of z.
        layers: ``"leaky_relu"``, or ``"gated"`` for (W h + b) * sigmoid(V h + c) (Tomczak & Welling 2016).
        batch_norm: Whether hidden layers are batch-normalised (not with gated layers).
        T: Number of kernels; 0 for the plain VAE.
        kernel: ``"gated"`` (HVI and AVO), ``"householder"`` or ``"autoregressive"`` (flows).
        kernel_hidden: Width of a gated kernel's hidden layer, or of an autoregressive kernel's two.
        conditioning: How gated kernels see the encoder's features, ``"concat"`` or ``"weight_norm"``.
        std_init: Initial standard deviation of the gated kernels; small, see :class:`GatedKernel`.
        gate_bias: Initial bias of the gated kernels' gates.
        likelihood: ``"bernoulli"`` for binary pixels, ``"gaussian"`` for real pixels with noise of a learned scale.
        pseudo_inputs: Number of images learned for a VampPrior (binary pixels only); 0 for the prior N(0, I).

    Raises:
        ValueError: If a name does not exist, a size is below 1, or parts do not go together; the message says which.
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
    likelihood: str = "bernoulli"
    pseudo_inputs: int = 0

    def __post_init__(self) -> None:
        """Refuse names that do not exist and combinations that make no sense."""
        names = (self.layers, self.kernel, self.conditioning, self.likelihood)
        for value, valid in zip(names, (LAYERS, KERNELS, CONDITIONINGS, LIKELIHOODS), strict=True):
            if value not in valid:
                raise ValueError(f"{value!r} is not one of {', '.join(valid)}")
        if self.layers == "gated" and self.batch_norm:
            raise ValueError("gated layers are used without batch norm: set batch_norm=False")
        if self.pseudo_inputs and (self.batch_norm or self.likelihood != "bernoulli"):
            raise ValueError(
                "pseudo_inputs counts images beside the batch, for binary pixels and with batch_norm=False, whose "
                f"statistics they enter; got {self.pseudo_inputs}, {self.likelihood}, batch_norm={self.batch_norm}"
            )
        check_counts(self, "pixels", "latent", "kernel_hidden")
        check_counts(self, "T", "pseudo_inputs", least=0)
        if not hasattr(self.hidden, "__len__") or not len(self.hidden):
            raise ValueError(f"hidden lists the widths of at least one hidden layer, as (300,), not {self.hidden!r}")
        object.__setattr__(self, "hidden", tuple(check_count("a width in hidden", width) for width in self.hidden))
        check_start(self.std_init, self.gate_bias)


class VAE(nn.Module):
    r"""A VAE whose approximate posterior is a chain (Kingma & Welling 2014, Huang et al. 2018).

    The encoder gives a Gaussian :math:`q_0(z_0\mid x)` and features for the T kernels; the path runs from the prior
    :math:`p(z)` to :math:`p(z)\,p(x\mid z)`. The prior is :math:`\mathcal N(0, I)`, or with pseudo-inputs the mixture
    of the Gaussians that the encoder gives for them, which is part of the model and learns where the decoder does.

    Args:
        config: The architecture.
        encoder: Replaces the model's own encoder; maps images ``(images, pixels)`` to features
            ``(images, hidden[-1])``.
        decoder: Replaces the model's own decoder; maps ``(points, latent)`` to ``(points, pixels)``: log odds or means;
            with ``likelihood.maps`` numbers for each pixel, to ``(points, maps * pixels)``.
        likelihood: Replaces the one that ``config`` names, e.g. by :class:`avo_lib.models.masked.MaskedBernoulli`; any
            module that is a :class:`avo_lib.models.parts.Likelihood`, or a TypeError.

    >>> model = VAE(VAEConfig(pixels=16, hidden=(8,), latent=2, T=3, batch_norm=False))
    >>> model.chain(torch.ones(5, 16)).sample().log_w().shape
    torch.Size([5])
    """

    def __init__(
        self,
        config: VAEConfig,
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        widths, features, style = (config.pixels, *config.hidden), config.hidden[-1], (config.layers, config.batch_norm)
        self.encoder = trunk(widths, *style) if encoder is None else encoder  # an empty nn.Sequential is false
        self.q0 = nn.Linear(features, 2 * config.latent)
        self.likelihood: Likelihood = LIKELIHOODS[config.likelihood]() if likelihood is None else likelihood
        if not (isinstance(self.likelihood, nn.Module) and isinstance(self.likelihood, Likelihood)):
            raise TypeError(
                "a likelihood of your own is a torch.nn.Module with maps, check, forward and mean, not "
                f"{likelihood!r}; a name belongs into VAEConfig(likelihood=...): {', '.join(LIKELIHOODS)}"
            )
        given = self.likelihood.maps * config.pixels
        if decoder is None:
            own = trunk((config.latent, *config.hidden[::-1]), *style)
            decoder = nn.Sequential(own, nn.Linear(config.hidden[0], given))
        self.decoder = decoder
        self.kernels = nn.ModuleList(self._kernel(features, t) for t in range(config.T))
        if config.pseudo_inputs:  # log odds; at first as dark as handwritten digits are on average
            self.pseudo_inputs = nn.Parameter(torch.randn(config.pseudo_inputs, config.pixels) - 2)
        self.alphas: Tensor
        self.register_buffer("alphas", linear_alphas(config.T), persistent=False)

    def _kernel(self, features: int, t: int) -> nn.Module:
        config = self.config
        if config.kernel == "autoregressive":
            return autoregressive(config.latent, config.kernel_hidden, context_dim=features, reverse=bool(t % 2))
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
        """What the likelihood needs for each pixel, log odds or mean: ``(..., latent)`` to ``(..., maps * pixels)``."""
        return self._decode(self.decoder, z)

    def _decode(self, decoder: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        given = decoder(z.reshape(-1, z.shape[-1]))
        if given.shape != (expected := (z.shape[:-1].numel(), self.likelihood.maps * self.config.pixels)):
            raise ValueError(f"the decoder should give {tuple(expected)} numbers, but gives {tuple(given.shape)}")
        return given.reshape(*z.shape[:-1], expected[1])

    def learned_prior(self) -> EvenMixture | None:
        """The mixture made from the pseudo-inputs; None where the prior is N(0, I)."""
        if not self.config.pseudo_inputs:
            return None
        return EvenMixture(*self._proposed(self.encoder(self.pseudo_inputs.sigmoid())))

    def _proposed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.q0(features).chunk(2, dim=-1)
        return mean, functional.softplus(std) + STD_FLOOR

    def chain(self, x: Tensor, *, seen: Tensor | None = None) -> Chain:
        """The chain that approximates the posterior of x.

        Args:
            x: Images ``(images, pixels)``, binary under a Bernoulli likelihood.
            seen: What the encoder sees in place of x, of any values; a proposal needs no binary pixels.

        Returns:
            The chain.

        Raises:
            ValueError: If x has the wrong shape, type or pixels (not checked while compiled or captured), or your own
                encoder or decoder gives a wrong shape.
        """
        if x.dim() != 2 or x.shape[1] != self.config.pixels:
            raise ValueError(f"expected images of shape (images, {self.config.pixels}), got {tuple(x.shape)}")
        if not traced():
            self.likelihood.check(x)
        if x.dtype != self.alphas.dtype:
            raise ValueError(f"images are {x.dtype}, but the model is {self.alphas.dtype}: use model.to({x.dtype})")
        features = self.encoder(x if seen is None else seen)
        if features.shape != (expected := (len(x), self.config.hidden[-1])):
            raise ValueError(f"the encoder should give {expected} features, but gives {tuple(features.shape)}")
        learned = self.learned_prior()
        path = AmortisedPath(
            learned.log_prob if learned else log_normal,
            lambda z: self.likelihood(x, self.decode(z)),
            lambda z: frozen(cast(nn.Module, self.likelihood))(x, self._decode(frozen(self.decoder), z)),
            self.alphas,
            learned.detached().log_prob if learned else log_normal,
        )
        proposal = Gaussian(*self._proposed(features))
        kernels: Sequence[Kernel] = list(self.kernels)  # type: ignore[arg-type]
        return Chain(proposal, kernels, path, features)

    def sample_prior(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws ``(n, latent)`` from the model's own prior, learned or not."""
        learned = self.learned_prior()
        if learned:
            return learned.sample(n, generator=generator)
        return standard_normal(self.alphas.new_empty(n, self.config.latent), generator)

    def sample_images(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The mean images ``(n, pixels)``, for binary pixels their probabilities, at n draws from the prior."""
        return self.likelihood.mean(self.decode(self.sample_prior(n, generator=generator)))

    def simulate(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Data ``(n, pixels)`` of the model's own and the latents ``(n, latent)`` that they were drawn with.

        Raises:
            TypeError: If the likelihood cannot be drawn from: it needs ``sample(given, *, generator)``.
        """
        draw = getattr(self.likelihood, "sample", None)
        if draw is None:
            name = type(self.likelihood).__name__
            raise TypeError(f"{name} has no sample(given, *, generator), which draws data given what the decoder makes")
        z = self.sample_prior(n, generator=generator)
        return draw(self.decode(z), generator=generator), z
