r"""Iterative amortised inference: updates of a Gaussian approximation, fed with gradients (Marino et al. 2018).

The approximation :math:`q(z\mid x)` is :math:`\lambda = (\mu, \log\sigma)`, one row for each datum. A rule turns λ and
the gradient of its ELBO into the next λ. Every rule that :func:`ascend` is given, learned or not, costs the same: one
gradient of log f at ``samples`` points for each datum and update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from avo_lib.axes import check_axes
from avo_lib.chain import Gaussian
from avo_lib.checks import check_count
from avo_lib.kernels.hamiltonian import check_gradients
from avo_lib.numerics import standard_normal
from avo_lib.paths import LogDensity

Rule = Callable[[Tensor, Tensor], Tensor]
"""Gives the next λ from λ and the gradient there, each ``(..., 2 * dim)``."""
TINY = 1e-4


def gaussian(lam: Tensor) -> Gaussian:
    """The Gaussian that λ = (mean, log std), ``(..., 2 * dim)``, stands for."""
    mean, log_std = _halves(lam)
    return Gaussian(mean, log_std.exp())


def _halves(lam: Tensor) -> tuple[Tensor, Tensor]:
    if lam.shape[-1] % 2:
        raise ValueError(f"λ has a mean and a log std for each coordinate, (..., 2 * dim), not {tuple(lam.shape)}")
    mean, log_std = lam.chunk(2, dim=-1)
    return mean, log_std


def elbo_gradient(
    lam: Tensor, log_f: LogDensity, samples: int = 2, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""The pathwise gradient of :math:`E_q \log f(z) + \sum_j \log\sigma_j` in λ, which is the ELBO's.

    The noise comes in pairs ±ε: where log f is quadratic, the gradient with respect to the mean is exact.

    Args:
        lam: λ, ``(..., 2 * dim)``.
        log_f: Log f of each datum in nats, ``(samples, ..., dim)`` to ``(samples, ...)``.
        samples: Number of draws for each datum, even.
        generator: Source of the noise.

    Returns:
        The gradient, a constant shaped as λ.

    Raises:
        ValueError: If the draws cannot be paired, or λ cannot be split into two halves.
        RuntimeError: Under ``torch.inference_mode()``, which leaves log f without a gradient.
    """
    check_gradients()
    if check_count("samples", samples, least=2) % 2:
        raise ValueError(f"the noise comes in pairs: samples must be an even number, not {samples}")
    with torch.enable_grad():
        lam = lam.detach().requires_grad_()
        mean, log_std = _halves(lam)
        noise = standard_normal(mean.expand(samples // 2, *mean.shape), generator)
        z = mean + log_std.exp() * torch.cat([noise, -noise])
        value = check_axes("log_f", log_f(z), z).mean(0).sum() + log_std.sum()
        (gradient,) = torch.autograd.grad(value, lam)
    return gradient


def ascend(
    start: Tensor, log_f: LogDensity, rule: Rule, *, samples: int = 2, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """λ and the gradient of its ELBO, after 0, 1, 2 … updates, for as long as they are asked for.

    Each λ depends on the parameters of the rule through its own update alone; the inputs of an update are constants.
    So a learned rule can learn from the gradient at λ, times λ, at no further cost: see
    :class:`IterativeInference`.

    Args:
        start: The first λ, ``(..., 2 * dim)``, that of an encoder or of the prior.
        log_f: As for :func:`elbo_gradient`.
        rule: The rule that makes each update.
        samples: Number of draws for each datum and gradient.
        generator: Source of the noise.

    Yields:
        λ and the gradient there.
    """
    lam = start.detach()
    while True:
        gradient = elbo_gradient(lam, log_f, samples, generator=generator)
        yield lam, gradient
        lam = rule(lam.detach(), gradient)


class IterativeInference(nn.Module):
    r"""A learned rule with gates, :math:`\lambda' = g \odot \lambda + (1 - g) \odot f` (Marino 2018, arXiv 1807.09356).

    The network sees λ and the gradient (the logarithm of its size, and its sign) and gives f and the log odds of g.
    Train it on the sum of λ times gradient over the updates, whose gradient is that of the sum of their ELBOs.

    Args:
        dim: Size of z.
        hidden: Width of the two hidden layers.
        gate_bias: Initial log odds of g: the larger, the smaller the first updates.

    >>> from itertools import islice
    >>> rule = IterativeInference(3)
    >>> steps = ascend(torch.zeros(5, 6), lambda z: -(z - 1).square().sum(-1), rule)
    >>> objective = sum((lam * gradient).sum(-1) for lam, gradient in islice(steps, 1, 4))
    >>> objective.shape
    torch.Size([5])
    """

    def __init__(self, dim: int, hidden: int = 100, *, gate_bias: float = 2.0) -> None:
        super().__init__()
        dim, hidden = check_count("dim", dim), check_count("hidden", hidden)
        last = nn.Linear(hidden, 4 * dim)
        with torch.no_grad():
            last.weight *= 0.1
            last.bias.zero_()
            last.bias[2 * dim :] = gate_bias
        self.network = nn.Sequential(nn.Linear(6 * dim, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), last)

    def forward(self, lam: Tensor, gradient: Tensor) -> Tensor:
        """The next λ, ``(..., 2 * dim)``."""
        size = (gradient.abs() + TINY).log() / 4
        proposed, gate = self.network(torch.cat([lam, size, gradient.sign()], -1)).chunk(2, dim=-1)
        mixed: Tensor = gate.sigmoid() * lam + (1 - gate.sigmoid()) * proposed
        return mixed
