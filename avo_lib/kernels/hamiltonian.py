"""Hamiltonian Monte Carlo with an exact Metropolis step, tuned in a pilot run and then frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avo_lib.axes import check_axes
from avo_lib.checks import check_count, check_counts, check_positive
from avo_lib.numerics import Noise, standard_normal, sum_last, traced
from avo_lib.paths import LogDensity, Path


def check_gradients() -> None:
    """Raise a RuntimeError under ``torch.inference_mode()``, which ``torch.enable_grad`` does not lift."""
    if not traced() and torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode() takes the gradients of log f away, and nothing brings them back: use "
            "torch.no_grad() instead"
        )


def value_and_gradient(log_f: LogDensity, z: Tensor, *, attached: bool = False) -> tuple[Tensor, Tensor]:
    """Log f in nats ``(...)`` and its gradient ``(..., dim)``; if attached, both pass gradients to z and into log f.

    A log f that cuts its own graph, by ``detach`` or ``torch.no_grad``, counts as flat: its gradient is zero.

    Raises:
        ValueError: If log f has an axis too many.
        RuntimeError: Under ``torch.inference_mode()``, where every log f would count as flat.
    """
    check_gradients()
    with torch.enable_grad():
        if not (attached and z.requires_grad):
            z = z.detach().requires_grad_()
        value = check_axes("log_f", log_f(z), z)
        if value.shape != z.shape[:-1]:  # one point for several data: each datum has a gradient of its own
            return value_and_gradient(log_f, z.expand(*value.shape, -1), attached=attached)
        if not value.requires_grad:  # flat wherever it does not vanish
            return value, torch.zeros_like(z)
        (gradient,) = torch.autograd.grad(value.sum(), z, create_graph=attached, materialize_grads=True)
    return value if attached else value.detach(), gradient


@dataclass(frozen=True)
class HMC:
    r"""One HMC transition that leaves f exactly invariant (Duane et al. 1987; Neal 2011, arXiv 1206.1901).

    The leapfrog carries its gradient from one step to the next: L + 1 gradients for L steps. Being reversible with
    respect to f, the kernel is its own reversal, and its log ratio is :math:`\log f(z_{prev}) - \log f(z)`. A step
    whose energy is not finite is rejected.

    The step size is fixed. A step size that adapts to the chain's own past breaks invariance, and with it every bound
    that annealed importance sampling gives: tune with :func:`tune_step_sizes`, then run anew.

    Gradients are taken under ``torch.no_grad()`` too; ``torch.inference_mode()`` raises a RuntimeError. A log f that
    cuts its own graph, by ``detach`` or ``torch.no_grad``, counts as flat, and the kernel is a random walk.

    Attributes:
        step_size: Size of a leapfrog step.
        leapfrog_steps: Number L of leapfrog steps in a transition.

    Raises:
        ValueError: If the step size is not positive and finite, or there is no leapfrog step.

    >>> kernel = HMC(step_size=0.5, leapfrog_steps=4)
    >>> z, log_ratio = kernel.forward(torch.zeros(100, 2), lambda z: -0.5 * z.square().sum(-1), None)
    >>> z.shape, log_ratio.shape
    (torch.Size([100, 2]), torch.Size([100]))
    """

    step_size: float
    leapfrog_steps: int = 10

    def __post_init__(self) -> None:
        """Refuse steps that lead nowhere."""
        check_positive(self, "step_size")
        check_counts(self, "leapfrog_steps")

    def forward(
        self, z_prev: Tensor, log_f: LogDensity, context: Tensor | None = None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Propose a move, and accept or reject it; see :class:`avo_lib.kernels.Kernel`."""
        z, log_ratio, _ = self.transition(z_prev, log_f, generator=generator)
        return z, log_ratio

    def reverse(
        self, z: Tensor, log_f: LogDensity, context: Tensor | None = None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move back by the same transition, which is reversible."""
        z_prev, log_ratio, _ = self.transition(z, log_f, generator=generator)
        return z_prev, -log_ratio

    def transition(self, z: Tensor, log_f: LogDensity, *, generator: Noise = None) -> tuple[Tensor, Tensor, Tensor]:
        """One transition with its diagnostics.

        Returns:
            The new point ``(..., dim)``, log f(old) − log f(new) ``(...)``, and the acceptance probability ``(...)``.

        Raises:
            ValueError: If a gradient is asked for through z: the accept-or-reject step has none, and whatever learns
                before these steps would follow a false one.
        """
        if torch.is_grad_enabled() and z.requires_grad:
            raise ValueError(
                "HMC passes no gradient on to what comes before it: train without it, sample under torch.no_grad(), or "
                "detach its first points"
            )
        log_f_old, gradient = value_and_gradient(log_f, z)
        momentum = standard_normal(z, generator)
        kinetic_old = 0.5 * sum_last(momentum.square())
        proposal, log_f_new = z.detach(), log_f_old
        for _ in range(self.leapfrog_steps):
            momentum = momentum + 0.5 * self.step_size * gradient
            proposal = proposal + self.step_size * momentum
            log_f_new, gradient = value_and_gradient(log_f, proposal)
            momentum = momentum + 0.5 * self.step_size * gradient
        log_accept = log_f_new - log_f_old + kinetic_old - 0.5 * sum_last(momentum.square())
        log_accept = log_accept.masked_fill(log_f_new == torch.inf, torch.nan)
        # log Phi of a normal draw is the log of a uniform one: one kind of noise is enough.
        threshold = torch.special.log_ndtr(standard_normal(z[..., :1], generator)[..., 0])
        accept = threshold < log_accept  # False for NaN: a divergence is a rejection
        moved = torch.where(accept[..., None], proposal, z.detach())
        log_ratio = torch.where(accept, log_f_old - log_f_new, torch.zeros_like(log_f_old))
        return moved, log_ratio, log_accept.nan_to_num(nan=-torch.inf).clamp(max=0).exp()


def first_points(path: Path, start: Callable[[], Tensor]) -> Tensor:
    """The pilot's first points, from what :func:`tune_step_sizes` was given.

    Raises:
        TypeError: If the path is none, or ``start`` gives no tensor.
        ValueError: If there are no points.
    """
    if not hasattr(path, "log_density"):
        raise TypeError(f"step sizes belong to a path, such as chain.path, not to a {type(path).__name__}")
    z = start() if callable(start) else None
    if not isinstance(z, Tensor):
        raise TypeError("start is a function that draws points, such as lambda: base.sample((200,))[0]")
    if not z.numel():
        raise ValueError(f"the pilot needs at least one chain, not points {tuple(z.shape)}")
    return z.detach()


def tune_step_sizes(
    path: Path,
    start: Callable[[], Tensor],
    *,
    leapfrog_steps: int = 10,
    step_size: float = 0.5,
    acceptance: float = 0.65,
    adaptations: int = 20,
    generator: Noise = None,
) -> list[HMC]:
    """Find a step size for each target of a path in a pilot run, and freeze it.

    The pilot chains go once along the path; at every target the step size is shortened or lengthened, a fixed
    number of times, towards the wanted mean acceptance. The pilot chains are discarded: only the step sizes are kept.

    Args:
        path: The targets f_0 … f_T.
        start: Function that draws the pilot chains' first points ``(chains, dim)`` from the proposal.
        leapfrog_steps: Number of leapfrog steps of every kernel.
        step_size: First guess of the step size.
        acceptance: Mean acceptance probability to aim for; 0.65 is optimal in high dimension (Neal 2011).
        adaptations: Number of transitions, and so of adaptations, at each target.
        generator: Source of the noise.

    Returns:
        T frozen kernels, for f_1 … f_T.

    Raises:
        ValueError: If an argument is impossible, or ``step_size`` so far off that at the end of a target the pilot
            accepts next to nothing, or log f is NaN there. Steps that are still too short are not refused: check how
            many moves :func:`avo_lib.evaluation.ais` accepts.
        TypeError: If ``path`` is no path, or ``start`` no function that draws points.
    """
    if not 0 < acceptance < 1:
        raise ValueError(f"need 0 < acceptance < 1, not {acceptance}")
    adaptations = check_count("adaptations", adaptations)
    kernels: list[HMC] = []
    kernel, z = HMC(step_size, leapfrog_steps), first_points(path, start)
    for t in range(1, len(path.alphas)):
        rates = []
        for i in range(adaptations):
            z, _, accepted = kernel.transition(z, lambda z: path.log_density(t, z), generator=generator)  # noqa: B023
            rates.append(accepted.mean().item())
            factor = 2 ** ((accepted.mean().item() - acceptance) * 2 / (1 + i) ** 0.5)
            kernel = replace(kernel, step_size=kernel.step_size * factor)
        last = sum(rates[-5:]) / len(rates[-5:])
        if not abs(last - acceptance) < 0.9 * max(acceptance, 1 - acceptance):
            if lost := int(path.log_density(t, z).isnan().sum()):
                raise ValueError(f"log f_{t} is NaN at {lost} of the pilot's points: give -inf where it vanishes")
            raise ValueError(
                f"at target {t} the pilot chains accept {last:.0%} of their moves, with a step of "
                f"{kernel.step_size:.3g}: start with another step_size, or give more adaptations"
            )
        kernels.append(kernel)
    return kernels
