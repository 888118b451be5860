"""The stochastic refinement operator of Huang et al. 2018 (arXiv 1809.01818, section 4.2), forward and reverse."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from avo_lib.axes import check_size
from avo_lib.checks import check_count
from avo_lib.numerics import Noise, log_normal, standard_normal, sum_last
from avo_lib.paths import LogDensity

STD_FLOOR = 1e-6
CONDITIONINGS = ("concat", "weight_norm")


class ConditionalLinear(nn.Module):
    r"""A weight-normalised linear layer whose scale and shift may depend on a context.

    .. math:: y = s(c) \odot \frac{v}{\|v\|} z + b(c)

    With ``conditioning="weight_norm"`` both s and b are linear in c (conditional weight normalisation, Krueger et al.
    2017, arXiv 1710.04759). With ``"concat"`` only b is, which is what feeding [z, c] to a linear layer amounts to.

    Args:
        in_dim: Size of z.
        out_dim: Size of y.
        context_dim: Size of the context c; 0 for none.
        conditioning: ``"concat"`` or ``"weight_norm"``.
        batch: Leading axes of independent copies, e.g. ``(seeds,)``; z is then ``(..., *batch, points, in_dim)``. They
            cannot be combined with a context.

    Raises:
        ValueError: If there is no such conditioning, a size is below 1 (the context's may be 0), or copies are asked
            for together with a context.
    """

    def __init__(
        self, in_dim: int, out_dim: int, context_dim: int = 0, conditioning: str = "concat", batch: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning must be 'concat' or 'weight_norm', not {conditioning!r}")
        in_dim, out_dim = check_count("in_dim", in_dim), check_count("out_dim", out_dim)
        context_dim = check_count("context_dim", context_dim, least=0)
        if batch and context_dim:
            raise ValueError("independent copies take no context here: they would share the layers that read it")
        bound = 1 / math.sqrt(in_dim)
        self.direction = nn.Parameter(torch.empty(*batch, in_dim, out_dim).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.ones(*batch, 1, out_dim))
        self.shift = nn.Parameter(torch.empty(*batch, 1, out_dim).uniform_(-bound, bound))
        self.shift_of_context = nn.Linear(context_dim, out_dim, bias=False) if context_dim else None
        self.scale_of_context = None
        if context_dim and conditioning == "weight_norm":
            self.scale_of_context = nn.Linear(context_dim, out_dim, bias=False)
            nn.init.normal_(self.scale_of_context.weight, std=1e-3)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Map ``(..., in_dim)`` to ``(..., out_dim)``."""
        # Scale and shift keep their points axis; without copies of the layer it is dropped, for any shape of z.
        flat = self.direction.dim() == 2
        scale, shift = (self.scale[0], self.shift[0]) if flat else (self.scale, self.shift)
        inverse_norm = self.direction.square().sum(-2, keepdim=not flat).rsqrt()
        if self.shift_of_context is not None:
            shift = shift + self.shift_of_context(required(context))
        if self.scale_of_context is not None:
            scale = scale + self.scale_of_context(context)
        return torch.addcmul(shift, z @ self.direction, scale * inverse_norm)


def required(context: Tensor | None) -> Tensor:
    """The context, which a layer that reads one cannot do without.

    Raises:
        ValueError: If there is none.
    """
    if context is None:
        raise ValueError("a kernel made with a context_dim needs a context: give the chain one, or the kernel none")
    return context


class GatedGaussian(nn.Module):
    r"""One transition density: a Gaussian whose mean is a gated step away from where it starts.

    .. math::
        h = \mathrm{act}(W_h z + b_h),\quad m = W_m h + b_m,\quad g = \mathrm{sigmoid}(W_g h + b_g),\quad
        \sigma = \mathrm{softplus}(W_\sigma h + b_\sigma) + 10^{-6},\qquad
        z' \sim \mathcal N\!\big(g \odot m + (1-g) \odot z,\ \mathrm{diag}\,\sigma^2\big)

    The context enters the hidden layer. The arguments are those of :class:`GatedKernel`.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        context_dim: int,
        conditioning: str,
        activation: nn.Module,
        std_init: float,
        gate_bias: float,
        batch: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.hidden = ConditionalLinear(dim, hidden, context_dim, conditioning, batch)
        self.activation = activation
        self.heads = ConditionalLinear(hidden, 3 * dim, batch=batch)  # m, g, sigma in one product
        with torch.no_grad():
            self.heads.shift[..., dim : 2 * dim] = gate_bias
            self.heads.shift[..., 2 * dim :] = math.log(math.expm1(std_init))
            self.heads.scale[..., 2 * dim :].uniform_(-1e-3, 1e-3)

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z' given z, each shaped as z."""
        m, gate, std = self.heads(self.activation(self.hidden(z, context))).chunk(3, dim=-1)
        return torch.lerp(z, m, gate.sigmoid()), functional.softplus(std) + STD_FLOOR


def check_start(std_init: float, gate_bias: float) -> None:
    """Refuse initial values with which no kernel can start.

    Raises:
        ValueError: If ``std_init`` is not between 0 and 700, or ``gate_bias`` is not finite.
    """
    if not 0 < std_init < 700 or not math.isfinite(gate_bias):  # above, float64 cannot invert the softplus
        raise ValueError(f"need 0 < std_init < 700 and a finite gate_bias, got {std_init} and {gate_bias}")


class GatedKernel(nn.Module):
    """A gated Gaussian forward kernel q with a gated Gaussian reverse kernel r of its own.

    Two initialisations matter. On an energy the chain must carry mass from a N(0, I) base: start wide
    (``std_init=1``, ``gate_bias=-1``, the authors' released values, and the defaults here). In an amortised chain the
    proposal is already near the posterior: start close to the identity (``std_init=0.05``, ``gate_bias=-3``), or the
    kernels' noise drowns the posterior's and units are switched off for good.

    Args:
        dim: Size of the latent.
        hidden: Width of the single hidden layer.
        context_dim: Size of the context; 0 for none.
        conditioning: How the context enters: ``"concat"`` or ``"weight_norm"``; see :class:`ConditionalLinear`.
        activation: Activation of the hidden layer; ReLU by default (for energies), ELU in the paper's amortised runs.
        std_init: Initial standard deviation of the noise, in both directions.
        gate_bias: Initial bias of the gate; sigmoid(-1) is about 0.27.
        batch: Leading axes of independent copies, e.g. ``(seeds,)``: one batched run trains them all.

    Raises:
        ValueError: If a size is below 1 (the context's may be 0), ``std_init`` is not between 0 and 700, or
            ``gate_bias`` is not finite.

    >>> kernel = GatedKernel(dim=2, hidden=8)
    >>> z, log_ratio = kernel(torch.zeros(5, 2), None, None)
    >>> z.shape, log_ratio.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        context_dim: int = 0,
        conditioning: str = "concat",
        activation: nn.Module | None = None,
        std_init: float = 1.0,
        gate_bias: float = -1.0,
        batch: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        check_start(std_init, gate_bias)
        dim, hidden = check_count("dim", dim), check_count("hidden", hidden)
        act = nn.ReLU() if activation is None else activation
        args = (dim, hidden, context_dim, conditioning, act, std_init, gate_bias, batch)
        self.q, self.r = GatedGaussian(*args), GatedGaussian(*args)

    def forward(
        self, z_prev: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Draw z ~ q(z | z_prev); see :class:`avo_lib.kernels.Kernel`."""
        return self._move(self.q, self.r, z_prev, context, generator)

    def reverse(
        self, z: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Draw z_prev ~ r(z_prev | z); see :class:`avo_lib.kernels.Kernel`."""
        z_prev, log_ratio = self._move(self.r, self.q, z, context, generator)
        return z_prev, -log_ratio

    def log_ratio(self, z_prev: Tensor, z: Tensor, log_f: LogDensity | None, context: Tensor | None) -> Tensor:
        """Log r(z_prev | z) − log q(z | z_prev) of given points; see :class:`avo_lib.kernels.DensityKernel`."""
        return log_normal(z_prev, *self.r(z, context)) - log_normal(z, *self.q(z_prev, context))

    @staticmethod
    def _move(
        there: GatedGaussian, back: GatedGaussian, z: Tensor, context: Tensor | None, generator: Noise
    ) -> tuple[Tensor, Tensor]:
        """A draw from ``there`` given z, with log back(z | draw) − log there(draw | z)."""
        mean, std = there(check_size("a gated kernel", z, there.hidden.direction.shape[-2]), context)
        noise = standard_normal(mean, generator)
        drawn = mean + std * noise
        mean_back, std_back = back(drawn, context)
        # The noise is the standardised draw, and the constants of the two Gaussians cancel.
        residual = (z - mean_back) / std_back
        return drawn, sum_last(0.5 * (noise.square() - residual.square()) + (std / std_back).log())
