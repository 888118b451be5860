"""Annealing paths between a base density and a target, and the schedules of alpha.

``alpha`` is the target's exponent (below 1 it heats), ``beta`` weighs the Kullback-Leibler term (below 1 it cools).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from avo_lib.axes import check_axes
from avo_lib.checks import check_count
from avo_lib.numerics import traced

Alphas = Tensor | Sequence[float]
LogDensity = Callable[[Tensor], Tensor]
"""A log density in nats, possibly unnormalised, from points ``(..., dim)`` to ``(...)``."""


class Path(Protocol):
    """What a chain asks of its path: the targets f_0 … f_T, the last of which is what log Z refers to.

    Of ``alphas`` a chain uses the length alone, T + 1. Log w asks for ``log_density``; ``log_ladder`` serves log v, and
    so AVO: ``log_ladder(zs)[t - 1]`` has to be ``log_density(t, zs[t - 1])``. ``beta`` is passed by position.
    """

    alphas: Tensor

    def log_density(self, t: int, z: Tensor, beta: float = 1.0) -> Tensor:
        """Log f_t(z) in nats, ``(..., dim)`` to ``(...)``."""

    def log_ladder(self, zs: Tensor, beta: float = 1.0) -> Tensor:
        """Log f_t(z_t) for t = 1 … T at once, ``(T, ..., dim)`` to ``(T, ...)``; see :class:`AmortisedPath`."""


def _check_alphas(alphas: Alphas) -> Tensor:
    if not isinstance(alphas, Tensor) and not (hasattr(alphas, "__len__") and len(alphas)):
        raise ValueError(f"alphas must rise from 0 to 1, such as linear_alphas(5) for five steps, got {alphas!r}")
    if not isinstance(alphas, Tensor):  # stacked, so that numbers with a gradient keep it
        alphas = torch.stack([torch.as_tensor(alpha) for alpha in alphas])
    if traced():
        return alphas
    rise = alphas.dim() == 1 and len(alphas) > 0 and alphas[-1] == 1 and bool((alphas.diff() >= 0).all())  # no NaN
    if not rise or (len(alphas) > 1 and alphas[0] != 0):
        raise ValueError(f"alphas must rise from 0 to 1 along one axis, got {alphas.tolist()}")
    return alphas


def checked(what: str, log_density: LogDensity) -> LogDensity:
    """The same density, which refuses to return an axis too many; ``what`` names it in the message."""
    return partial(_checked, what, log_density)  # unlike a lambda, a partial is copied and stored with its density


def _checked(what: str, log_density: LogDensity, z: Tensor) -> Tensor:
    return check_axes(what, log_density(z), z)


def mix(log_f0: Tensor, log_fT: Tensor, alpha: Tensor) -> Tensor:
    """The mixture of two log densities, in the wider of their types: hard edges made by ``torch.where`` are float32."""
    if not log_f0.dtype == log_fT.dtype == alpha.dtype:
        wide = torch.promote_types(log_f0.dtype, log_fT.dtype)
        log_f0, log_fT, alpha = log_f0.to(wide), log_fT.to(wide), alpha.to(wide)
    return torch.lerp(log_f0, log_fT, alpha)


def _between(log_f0: Tensor, log_fT: Tensor, alpha: Tensor) -> Tensor:
    """The same mixture, except that where either density vanishes it vanishes too, and is not NaN."""
    outside = (log_f0 == -torch.inf) | (log_fT == -torch.inf)
    # At zeros in place of infinities a learned alpha keeps a gradient; otherwise it would be NaN.
    log_f0, log_fT = (one.masked_fill(outside, 0.0) for one in (log_f0, log_fT))
    return mix(log_f0, log_fT, alpha).masked_fill(outside, -torch.inf)


def _heated(alpha: Tensor, log_likelihood: Tensor) -> Tensor:
    """Alpha log p(x|z), which at alpha = 0 is 0 even where the likelihood vanishes."""
    return alpha * log_likelihood.masked_fill((alpha == 0) & (log_likelihood == -torch.inf), 0.0)


def _beside(alpha: Tensor, z: Tensor) -> Tensor:
    """Alpha on the device of z and in its type, unless z holds whole numbers, which would leave nothing of alpha."""
    return alpha.to(z if z.is_floating_point() else z.device)


class GeometricPath:
    r"""The geometric path :math:`\log f_t = (1-\alpha_t)\log f_0 + \alpha_t\log f_T` between two densities.

    An energy has no prior, so ``beta`` does not act on f_t here; it weighs −log q_0 and the kernels' log ratios (see
    :meth:`avo_lib.chain.Trajectory.log_w`), as in appendix D of Huang et al. 2018 (arXiv 1809.01818). Parameters of the
    two densities learn from every target of the path, in AVO too; hold constant there what should not.

    Args:
        log_f0: Log density of the base.
        log_fT: Log density of the target, up to its log Z.
        alphas: Exponents of the target ``(T + 1,)``; a ValueError unless they rise from 0 to 1.

    >>> path = GeometricPath(lambda z: 0 * z[..., 0], lambda z: -z[..., 0].square(), linear_alphas(4))
    >>> path.log_density(2, torch.tensor([[2.0]])).tolist()
    [-2.0]
    """

    def __init__(self, log_f0: LogDensity, log_fT: LogDensity, alphas: Alphas) -> None:
        self.log_f0, self.log_fT = checked("log_f0", log_f0), checked("log_fT", log_fT)
        self.alphas = _check_alphas(alphas)

    def log_density(self, t: int, z: Tensor, beta: float = 1.0) -> Tensor:
        """Log f_t(z) in nats; the ends never multiply an infinite log density by zero."""
        if (last := t == len(self.alphas) - 1) or t == 0:
            return (self.log_fT if last else self.log_f0)(z)
        return _between(self.log_f0(z), self.log_fT(z), _beside(self.alphas[t], z))

    def log_ladder(self, zs: Tensor, beta: float = 1.0) -> Tensor:
        """Log f_t(z_t) for t = 1 … T, all of them at once."""
        last = self.log_fT(zs[-1:])
        if len(zs) == 1:
            return last
        alpha = _beside(self.alphas[1:-1], zs).reshape(-1, *[1] * (zs.dim() - 2))
        return torch.cat([_between(self.log_f0(zs[:-1]), self.log_fT(zs[:-1]), alpha), last])


class AmortisedPath:
    r"""The path of a latent-variable model, :math:`f_t(z) = p(z)^\beta\,p(x\mid z)^{\alpha_t}`.

    With beta = 1 this is the geometric path from the prior to the joint density p(z) p(x|z). The model learns from the
    *last* target alone: from the broad samples of the others (``log_likelihood_frozen``) it would learn to blur.
    Through kernels that move along the gradient of f_t it does learn, and from every target.

    Args:
        log_prior: Log p(z).
        log_likelihood: Log p(x|z) with gradients to the model's parameters.
        log_likelihood_frozen: The same values with the parameters held constant.
        alphas: Exponents of the likelihood ``(T + 1,)``; a ValueError unless they rise from 0 to 1.
        log_prior_frozen: Log p(z) with its parameters held constant, if it has any.
    """

    def __init__(
        self,
        log_prior: LogDensity,
        log_likelihood: LogDensity,
        log_likelihood_frozen: LogDensity,
        alphas: Alphas,
        log_prior_frozen: LogDensity | None = None,
    ) -> None:
        priors, likelihoods = (log_prior, log_prior_frozen or log_prior), (log_likelihood, log_likelihood_frozen)
        self.log_prior, self.log_prior_frozen = (checked("log_prior", one) for one in priors)
        self.log_likelihood, self.log_likelihood_frozen = (checked("log_likelihood", one) for one in likelihoods)
        self.alphas = _check_alphas(alphas)

    def attached(self) -> AmortisedPath:
        """The same path, but the model learns from every target on it, and so do batch norm's running statistics."""
        return AmortisedPath(self.log_prior, self.log_likelihood, self.log_likelihood, self.alphas)

    def log_density(self, t: int, z: Tensor, beta: float = 1.0) -> Tensor:
        """Beta log p(z) + alpha_t log p(x|z) in nats; for the targets before the last, only the prior is frozen."""
        last = len(self.alphas) - 1
        log_prior = beta * (self.log_prior if t == last else self.log_prior_frozen)(z)
        return log_prior if t == 0 < last else log_prior + _heated(self.alphas[t], self.log_likelihood(z))

    def log_ladder(self, zs: Tensor, beta: float = 1.0) -> Tensor:
        """Log f_t(z_t) for t = 1 … T, with the model held constant for t < T.

        One call for each station: in one stacked call batch normalisation would tie the stations to each other.
        """
        alphas = _beside(self.alphas[1:], zs)
        early = [
            beta * self.log_prior_frozen(z) + _heated(alpha, self.log_likelihood_frozen(z))
            for alpha, z in zip(alphas[:-1], zs[:-1], strict=True)
        ]
        return torch.stack([*early, beta * self.log_prior(zs[-1]) + alphas[-1] * self.log_likelihood(zs[-1])])


def linear_alphas(T: int) -> Tensor:
    """Alpha_t = t / T, the schedule of Huang et al. 2018, ``(T + 1,)``; T = 0 is the target alone, T < 0 a ValueError.

    >>> linear_alphas(4).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    return torch.linspace(0, 1, T + 1) if (T := check_count("T", T, least=0)) else torch.ones(1)


def sigmoidal_alphas(T: int, sharpness: float = 4.0) -> Tensor:
    """Alphas ``(T + 1,)`` on a sigmoid from 0 to 1, densest near both ends, for AIS (Wu et al. 2017, arXiv 1611.04273).

    Args:
        T: The number of steps, at least 1, or a ValueError.
        sharpness: Half the range of the sigmoid's argument, 0.001 to 15, or a ValueError; near 0 the alphas are linear.

    >>> [round(a, 3) for a in sigmoidal_alphas(4).tolist()]
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    if not 1e-3 <= sharpness <= 15:  # below this range both ends round to a half, above it to 0 and 1
        raise ValueError(f"need a sharpness between 0.001 and 15, not {sharpness}")
    s = torch.sigmoid(torch.linspace(-sharpness, sharpness, check_count("T", T) + 1))
    return (s - s[0]) / (s[-1] - s[0])
