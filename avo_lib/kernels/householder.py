"""Householder reflections: volume-preserving steps that rotate a Gaussian (Tomczak & Welling 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avo_lib.axes import check_size
from avo_lib.checks import check_count
from avo_lib.kernels.gated import required
from avo_lib.numerics import Noise
from avo_lib.paths import LogDensity


class Householder(nn.Module):
    r"""The reflection :math:`z' = z - 2\,v\,v^\top z/\|v\|^2`, with v free or affine in a context.

    A reflection is its own inverse and :math:`|\det| = 1`, so the log ratio is zero: T of them turn a diagonal
    Gaussian proposal into one with a full covariance (Tomczak & Welling 2016, arXiv 1611.09630).

    Args:
        dim: Size of the latent.
        context_dim: Size of the context; 0 for a free v.

    Raises:
        ValueError: If a size is below 1 (the context's may be 0).

    >>> z = torch.tensor([[3.0, 4.0]])
    >>> reflected, log_ratio = Householder(dim=2)(z, None, None)
    >>> round(reflected.norm().item(), 4), log_ratio.item()
    (5.0, 0.0)
    """

    def __init__(self, dim: int, *, context_dim: int = 0) -> None:
        super().__init__()
        dim, context_dim = check_count("dim", dim), check_count("context_dim", context_dim, least=0)
        self.vector = nn.Parameter(torch.randn(dim))
        self.vector_of_context = nn.Linear(context_dim, dim, bias=False) if context_dim else None

    def forward(
        self, z_prev: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Reflect; see :class:`avo_lib.kernels.Kernel`."""
        v = self.vector
        if self.vector_of_context is not None:
            v = v + self.vector_of_context(required(context))
        v = v / v.norm(dim=-1, keepdim=True)
        check_size("the reflection", z_prev, len(self.vector))
        z = z_prev - 2 * v * (v * z_prev).sum(-1, keepdim=True)
        return z, z.new_zeros(z.shape[:-1])

    def reverse(
        self, z: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Reflect back, by the same map."""
        return self.forward(z, log_f, context)
