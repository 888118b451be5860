r"""The linear VAE: a model small enough to know everything about, posterior collapse included.

Prior :math:`\mathcal N(0, I)`, likelihood :math:`\mathcal N(x; Wz, \sigma^2 I)` of centred data, encoder
:math:`q(z\mid x) = \mathcal N(Vx, D)` with one diagonal D. Averaged over data, every quantity depends on their
covariance S alone, so nothing is sampled. ``covariance`` is S with shape ``(data_dim, data_dim)``, or its diagonal
``(data_dim,)`` where all else is zero: the model looks the same in every rotation of the data. S divides by the
number of data, not by one less: only then are these averages over the data themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avo_lib.axes import check_size
from avo_lib.numerics import LOG_2PI


@dataclass(frozen=True, eq=False)
class PPCA:
    """The maximum of probabilistic PCA's likelihood.

    Attributes:
        weight: W, ``(data_dim, dim)``, with orthogonal columns, longest first.
        noise_var: σ², a scalar tensor.
        log_marginal: Log p(x) averaged over the data, in nats.
    """

    weight: Tensor
    noise_var: Tensor
    log_marginal: Tensor


def ppca(covariance: Tensor, dim: int, noise_var: Tensor | float | None = None) -> PPCA:
    r"""Probabilistic PCA in closed form, :math:`W = U(\Lambda - \sigma^2 I)_+^{1/2}` (Tipping & Bishop 1999).

    Args:
        covariance: S, or its diagonal; see the module.
        dim: Number of latents, fewer than ``data_dim``.
        noise_var: σ² held fixed; by default its maximum-likelihood value, the mean of the unused eigenvalues.

    Raises:
        ValueError: If there are too many latents, σ² is not positive, or S is not finite and symmetric, or
            has a negative eigenvalue.

    >>> best = ppca(torch.tensor([5.0, 2.0, 1.0]), 1)
    >>> best.noise_var.item(), round(best.weight.square().sum().item(), 4)
    (1.5, 3.5)
    """
    if not 1 <= dim < len(covariance):
        raise ValueError(f"need 1 ≤ dim < data_dim, got dim {dim} and data_dim {len(covariance)}")
    full = covariance.diag() if covariance.dim() == 1 else covariance
    if full.shape != full.mT.shape or not bool((full - full.mT).abs().max() <= 1e-4 * full.abs().max()):
        raise ValueError("need a covariance (data_dim, data_dim) that is finite and symmetric, or its diagonal")
    values, vectors = torch.linalg.eigh(full)
    values, vectors = values.flip(0), vectors.flip(1)
    if values[-1] < -1e-4 * values[0].abs():
        raise ValueError(f"a covariance has no negative eigenvalue, such as {values[-1].item():.3g}")
    held = values[dim:].mean() if noise_var is None else noise_var
    variance = torch.as_tensor(held, dtype=values.dtype, device=values.device)
    if not variance > 0:
        raise ValueError(f"the noise variance must be positive, not {variance.item():.3g}: use fewer latents or fix it")
    weight = vectors[:, :dim] * (values[:dim] - variance).clamp(min=0).sqrt()
    return PPCA(weight, variance, log_marginal(weight, variance, covariance))


def log_marginal(weight: Tensor, noise_var: Tensor, covariance: Tensor) -> Tensor:
    r"""Average :math:`\log p(x) = -\frac12[n\log 2\pi + \log\det C + \mathrm{tr}(C^{-1}S)]`, C = WWᵀ + σ²I, in nats.

    The part of tr S that W explains cancels before the division by σ²: where σ² is small beside tr S, use float64.

    Args:
        weight: W, ``(..., data_dim, dim)``.
        noise_var: σ², ``(...)``.
        covariance: S, or its diagonal; see the module.
    """
    data_dim, dim = weight.shape[-2:]
    precision = _precision(weight, noise_var)
    log_det: Tensor = (data_dim - dim) * noise_var.log() + torch.logdet(precision)
    explained: Tensor = torch.linalg.solve(precision, _times(weight.mT, covariance) @ weight)
    quadratic = (_trace(covariance) - explained.diagonal(dim1=-2, dim2=-1).sum(-1)) / noise_var
    return -0.5 * (data_dim * LOG_2PI + log_det + quadratic)


def best_encoder(weight: Tensor, noise_var: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""The V and diagonal of D that maximise the ELBO, ``(..., dim, data_dim)`` and ``(..., dim)``.

    With :math:`M = W^\top W + \beta\sigma^2 I`, V is :math:`M^{-1}W^\top` and the diagonal of D is
    :math:`\beta\sigma^2/M_{jj}`.
    """
    variance = beta * noise_var
    precision = _precision(weight, variance)
    return torch.linalg.solve(precision, weight.mT), variance[..., None] / precision.diagonal(dim1=-2, dim2=-1)


class LinearVAE(nn.Module):
    """A linear VAE whose ELBO is known in closed form (Lucas et al. 2019, arXiv 1911.02469).

    Leading axes of ``weight`` hold independent models, which are trained as one.

    Args:
        weight: Initial W, ``(..., data_dim, dim)``.
        noise_var: Initial σ², a number or ``(...)``.
        encoder: Initial V, ``(..., dim, data_dim)``; by default V and D are the best for W and σ².
        learn_noise: Whether σ² is learned.

    Raises:
        ValueError: If W is not a matrix, V is not shaped as its transpose, or σ² is not positive or has the wrong
            shape.

    >>> covariance = torch.tensor([5.0, 2.0, 1.0])
    >>> best = ppca(covariance, 1)
    >>> torch.isclose(LinearVAE(best.weight, best.noise_var).elbo(covariance), best.log_marginal).item()
    True
    """

    def __init__(
        self, weight: Tensor, noise_var: Tensor | float, *, encoder: Tensor | None = None, learn_noise: bool = True
    ) -> None:
        super().__init__()
        variance = torch.as_tensor(noise_var, dtype=weight.dtype)
        try:
            variance = variance.expand(weight.shape[:-2]).clone()
        except RuntimeError as error:
            raise ValueError(f"need noise_var {tuple(weight.shape[:-2])}, got {tuple(variance.shape)}") from error
        if weight.dim() < 2 or not bool((variance > 0).all()):
            raise ValueError(f"need (..., data_dim, dim) and noise_var > 0, got {tuple(weight.shape)}, {noise_var}")
        best, posterior_var = best_encoder(weight, variance)
        if encoder is not None and encoder.shape != best.shape:
            raise ValueError(f"need encoder {tuple(best.shape)}, got {tuple(encoder.shape)}")
        self.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
        self.encoder = nn.Parameter((best if encoder is None else encoder).clone(memory_format=torch.contiguous_format))
        self.log_var = nn.Parameter(posterior_var.log())
        self.log_noise_var = nn.Parameter(variance.log(), requires_grad=learn_noise)

    def kl(self, covariance: Tensor) -> Tensor:
        """KL(q(z_j|x) ‖ p(z_j)) of each unit, averaged over data, in nats, ``(..., dim)``."""
        mean_square = (_times(self.encoder, covariance) * self.encoder).sum(-1)
        return 0.5 * (self.log_var.exp() - self.log_var - 1 + mean_square)

    def unit_kl(self, x: Tensor) -> Tensor:
        """KL(q(z_j|x) ‖ p(z_j)) at each centred datum; for one model, ``(data, data_dim)`` to ``(data, dim)``."""
        return 0.5 * (self.log_var.exp() - self.log_var - 1 + (x @ self.encoder.mT).square())

    def elbo(self, covariance: Tensor, beta: float = 1.0) -> Tensor:
        """The exact ELBO averaged over data, in nats, ``(...)``; for beta ≥ 1 at most :func:`log_marginal`.

        Like that function, it loses digits where σ² is small beside tr S: use float64 there.
        """
        gram = self.weight.mT @ self.weight
        code = _times(self.encoder, covariance)
        fitted = (code.mT * self.weight).sum((-2, -1))
        spread = (gram * (code @ self.encoder.mT)).sum((-2, -1))
        noise = (gram.diagonal(dim1=-2, dim2=-1) * self.log_var.exp()).sum(-1)
        squares = _trace(covariance) - 2 * fitted + spread + noise
        normaliser = self.weight.shape[-2] * (LOG_2PI + self.log_noise_var)
        return -0.5 * (squares / self.log_noise_var.exp() + normaliser) - beta * self.kl(covariance).sum(-1)


def collapsed(unit_kl: Tensor, epsilon: float, delta: float = 0.01) -> Tensor:
    """Which units are (ε, δ)-collapsed: KL below ε for a share of at least 1 − δ of the data (Lucas et al. 2019).

    Args:
        unit_kl: KL of each unit at each datum, ``(data, dim)``, in nats.
        epsilon: ε, in nats, positive.
        delta: δ, a share below 1.

    Raises:
        ValueError: If there are no data, a KL is NaN, or ε or δ is not such a number.

    >>> collapsed(torch.tensor([[0.001, 0.4], [0.002, 0.0]]), 0.01).tolist()
    [True, False]
    """
    if not len(unit_kl) or bool(unit_kl.isnan().any()):
        raise ValueError("a KL is NaN, or there is none: whether its unit is collapsed cannot be said")
    if not epsilon > 0 or not 0 <= delta < 1:
        raise ValueError(f"need an epsilon above 0 nats and a share delta from 0 to below 1, not {epsilon} and {delta}")
    return (unit_kl >= epsilon).sum(0) <= delta * len(unit_kl) + 1e-9  # a count, so that no rounding of a share decides


def _precision(weight: Tensor, variance: Tensor) -> Tensor:
    eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    return weight.mT @ weight + variance[..., None, None] * eye


def _times(rows: Tensor, covariance: Tensor) -> Tensor:
    check_size("a model of these data", covariance, rows.shape[-1])
    return rows * covariance if covariance.dim() == 1 else rows @ covariance


def _trace(covariance: Tensor) -> Tensor:
    return covariance.sum() if covariance.dim() == 1 else covariance.trace()
