r"""A decoder that sees the pixels before each pixel: locally masked convolutions (Jain et al. 2020, arXiv 2006.12486).

In an order o of generation the likelihood is a product, :math:`p(x\mid z) = \prod_i p(x_{o(i)}\mid x_{o(<i)}, z)`,
computed exactly in one pass. A convolution takes a patch around every pixel; here the entries of a patch that come
later in the order are set to zero before the product with the weights. Only the masks hold the order, so that one
set of weights serves every order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from avo_lib.models.parts import Bernoulli

Order = Tensor | Sequence[int]
"""All pixels, counted row by row, in the order of their generation."""


def s_curve(height: int, width: int) -> Tensor:
    """The order that runs through the rows back and forth, so that every pixel follows a neighbour.

    >>> s_curve(2, 3).tolist()
    [0, 1, 2, 5, 4, 3]
    """
    rows = torch.arange(height * width).reshape(height, width)
    return torch.cat([row.flip(0) if i % 2 else row for i, row in enumerate(rows)])


def patch_mask(order: Order, height: int, width: int, window: int, *, itself: bool) -> Tensor:
    """The part of the patch around each pixel that may be seen when that pixel is generated.

    Args:
        order: All pixels in the order of their generation.
        height: Height of the image.
        width: Width of the image.
        window: Side of a patch, an odd number.
        itself: Whether a pixel sees its own entry, as it may where that entry holds what earlier pixels say.

    Returns:
        Zeros and ones ``(window², pixels)``, of the default type.

    Raises:
        ValueError: If the window is even or below 1, or the order does not have each pixel once, as whole numbers.

    >>> patch_mask(range(4), 2, 2, 3, itself=False).sum(0).tolist()  # row by row: each sees all before it
    [0.0, 1.0, 2.0, 3.0]
    """
    order, pixels = torch.as_tensor(order), height * width
    if order.is_floating_point() or order.dtype == torch.bool or sorted(order.tolist()) != list(range(pixels)):
        raise ValueError(f"an order has each of the {pixels} pixels of {height} x {width} once, as whole numbers")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window around a pixel has an odd side, not {window}")
    rank = torch.empty(pixels)
    rank[order.long()] = torch.arange(pixels, dtype=rank.dtype)
    border = functional.pad(rank.reshape(1, 1, height, width), [window // 2] * 4, value=torch.inf)
    around = functional.unfold(border, window)[0]
    return (around <= rank if itself else around < rank).to(rank)


class MaskedConvolution(nn.Module):
    """A convolution that multiplies patches by a mask, one for each pixel, and then by its weights.

    Args:
        in_dim: Channels of the input.
        out_dim: Channels of the output.
        window: Side of a patch, an odd number.

    >>> layer = MaskedConvolution(1, 8, 3)
    >>> layer(torch.zeros(5, 1, 4, 6), patch_mask(s_curve(4, 6), 4, 6, 3, itself=False)).shape
    torch.Size([5, 8, 4, 6])
    """

    def __init__(self, in_dim: int, out_dim: int, window: int) -> None:
        super().__init__()
        self.window = window
        linear = nn.Linear(in_dim * window**2, out_dim)  # its initial weights suit a sum over the whole patch
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Map ``(images, in_dim, height, width)`` to ``(images, out_dim, height, width)``."""
        patches = functional.unfold(h, self.window, padding=self.window // 2).unflatten(1, (h.shape[1], -1))
        out = _product((patches * mask).flatten(1, 2), self.weight, self.bias)
        return out.reshape(*out.shape[:2], *h.shape[-2:])


def _product(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weight times h, ``(n, in_dim, pixels)`` to ``(n, out_dim, pixels)``; as a convolution it is fastest."""
    return functional.conv1d(h, weight[..., None], bias)


class MaskedBernoulli(Bernoulli):
    r"""Binary pixels, each with a probability that depends on the pixels before it and on the decoder's output.

    The decoder gives ``maps`` numbers for each pixel, the same for every order. The first convolution sees the pixels
    strictly before each one; the others see in addition what the layer below has at the pixel itself. With windows of
    1 no pixel is seen, and the likelihood is that of an ordinary decoder with the same layers.

    Args:
        height: Height of an image.
        width: Width of an image.
        windows: Side of each convolution's patches, an odd number; together they say how far a pixel sees.
        channels: Number of channels of the layers.
        maps: How many numbers the decoder gives for each pixel.
        order: All pixels in the order of their generation; row by row if None.

    Raises:
        ValueError: If there are no windows, a size is below 1, or window and order are refused by :func:`patch_mask`.

    >>> from avo_lib.models.vae import VAE, VAEConfig
    >>> config = VAEConfig(pixels=16, hidden=(8,), latent=2, batch_norm=False)
    >>> model = VAE(config, likelihood=MaskedBernoulli(4, 4, windows=(3, 3)))
    >>> model.chain(torch.ones(5, 16)).sample().log_w().shape
    torch.Size([5])
    """

    def __init__(
        self,
        height: int,
        width: int,
        windows: Sequence[int],
        *,
        channels: int = 32,
        maps: int = 4,
        order: Order | None = None,
    ) -> None:
        super().__init__()
        if not windows or min(height, width, channels, maps) < 1:
            raise ValueError("need at least one window, and height, width, channels and maps of at least 1")
        self.height, self.width, self.windows, self.maps = height, width, tuple(windows), maps
        dims = pairwise([1, *[channels] * len(windows)])
        self.layers = nn.ModuleList(MaskedConvolution(*dim, window) for dim, window in zip(dims, windows, strict=True))
        self.read, self.last = nn.Linear(maps, channels, bias=False), nn.Linear(channels, 1)
        self.order: Tensor
        self.reorder(range(height * width) if order is None else order)

    def reorder(self, order: Order) -> None:
        """Generate pixels in another order from now on, with the same weights; raises ValueError as the class does."""
        for i, window in enumerate(self.windows):
            mask = patch_mask(order, self.height, self.width, window, itself=i > 0).to(self.last.weight)
            self.register_buffer(f"mask{i}", mask, persistent=False)
        self.register_buffer("order", torch.as_tensor(order).clone(), persistent=False)

    def extra_repr(self) -> str:
        """Windows and order, which the weights do not show: by them a checkpoint recognises another model."""
        order = self.order.tolist()
        own = "row by row" if order == sorted(order) else hashlib.sha256(repr(order).encode()).hexdigest()[:8]
        return f"windows={self.windows}, order={own}"

    def logits(self, x: Tensor, given: Tensor) -> Tensor:
        """Log odds of each pixel given those before it.

        Args:
            x: Binary pixels ``(..., pixels)``.
            given: Output of the decoder, ``(..., maps * pixels)``, with the leading axes of x or more in front.

        Returns:
            Log odds ``(..., pixels)``, with the leading axes of ``given``.

        Raises:
            ValueError: If x or ``given`` has the wrong number of entries.
        """
        pixels = self.height * self.width
        if (x.shape[-1], given.shape[-1]) != (pixels, self.maps * pixels):
            raise ValueError(
                f"expected {pixels} pixels and {self.maps * pixels} numbers from the decoder, got {x.shape[-1]} and "
                f"{given.shape[-1]}"
            )
        first, *rest = self.layers
        image = (2.0 * x - 1).reshape(-1, 1, self.height, self.width)
        seen = first(image, self.get_buffer("mask0")).flatten(2)  # once for all draws of z
        seen = seen.reshape(*x.shape[:-1], self.read.out_features, pixels)
        maps = given.reshape(-1, self.maps, pixels)
        told = _product(maps, self.read.weight).reshape(*given.shape[:-1], self.read.out_features, pixels)
        h = seen + told
        h = h.reshape(-1, h.shape[-2], self.height, self.width)
        for i, layer in enumerate(rest, start=1):
            h = h + layer(functional.leaky_relu(h), self.get_buffer(f"mask{i}"))
        out = _product(functional.leaky_relu(h).flatten(2), self.last.weight, self.last.bias)
        return out.reshape(*given.shape[:-1], pixels)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """Log p(x|z) in nats, summed over pixels."""
        return super().forward(x, self.logits(x, given))

    def mean(self, given: Tensor) -> Tensor:
        """Refuse: there is no mean in closed form.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a pixel depends on those before it, and has no mean in closed form: use sample")

    def sample(self, given: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw binary pixels one after the other, with one pass for each."""
        x = given.new_zeros(*given.shape[:-1], self.height * self.width)
        with torch.no_grad():
            for pixel in self.order.tolist():
                odds = self.logits(x, given)[..., pixel]
                x[..., pixel] = super().sample(odds, generator=generator)
        return x
