"""Annealed importance sampling forwards: the weights, of which :mod:`avo_lib.evaluation` makes an estimate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avo_lib.axes import check_draws, check_move, check_own_draws
from avo_lib.chain import Chain, Trajectory
from avo_lib.checks import check_count
from avo_lib.estimate import check_enough
from avo_lib.kernels import MetropolisKernel
from avo_lib.numerics import Noise, traced


def first_draws(chain: Chain, samples: int, *, generator: Noise = None) -> tuple[Tensor, Tensor]:
    """Draws of a chain's proposal ``(samples, ..., dim)``, and their log densities in nats ``(samples, ...)``.

    Raises:
        TypeError: If the chain is none.
    """
    if not hasattr(chain, "proposal"):
        raise TypeError(f"expected a chain, such as model.chain(x), not a {type(chain).__name__}")
    return check_draws((samples,), *chain.proposal.sample((samples,), generator=generator))


def move(chain: Chain, t: int, z: Tensor, *, generator: Noise = None) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel t of a chain, with its acceptance.

    Args:
        chain: The chain.
        t: The step, from 1 to T.
        z: Points ``(..., dim)``.
        generator: Source of the noise.

    Returns:
        The moved points, the log ratio of the kernel's densities in nats ``(...)``, and the mean probability with which
        it accepts: 1 if it never rejects.
    """
    kernel, log_f = chain.kernels[t - 1], chain.target(t)
    if isinstance(kernel, MetropolisKernel):
        moved, log_ratio, rate = kernel.transition(z, log_f, generator=generator)
    else:
        moved, log_ratio = kernel.forward(z, log_f, chain.context, generator=generator)
        rate = moved.new_ones(())
    log_ratio = check_move(f"kernel {t}", z, moved, log_ratio)
    check_own_draws(moved.shape[:-1], z)
    return moved, log_ratio, rate.mean()


def weigh(chain: Chain, t: int, z: Tensor) -> Tensor:
    """Log f_t in nats ``(...)`` at points ``(..., dim)``; a ValueError if it is NaN or has more data than points."""
    log_f = chain.target(t)(z)
    check_own_draws(log_f.shape, z)
    if not traced() and (lost := int(log_f.isnan().sum())) and bool(z.isfinite().all()):
        raise ValueError(f"log f_{t} is NaN at {lost} of {log_f.numel()} points: give -inf where the density vanishes")
    return log_f


def draw_for_each(chain: Chain, shape: Sequence[int], data: int, *, generator: Noise = None) -> Trajectory:
    """Trajectories ``(*shape, data)`` in which each datum has draws of its own.

    Raises:
        ValueError: If the proposal has no row for each datum.
    """
    trajectory = chain.sample(shape, generator=generator)
    check_own_draws((*shape, data), trajectory.z[0])
    return trajectory


def anneal(chain: Chain, samples: int, *, least: int = 1, generator: Noise = None) -> tuple[Tensor, Tensor]:
    """Log weights and acceptance of annealed chains; memory does not grow with T.

    Args:
        chain: As for :func:`avo_lib.evaluation.ais`.
        samples: Number of independent chains, for each datum if the proposal has several.
        least: Smallest number of weights, over all data, that will do. Fewer are refused before log f is called.
        generator: Source of the noise.

    Returns:
        Log weights in nats ``(samples, ...)``, and the mean acceptance probability of each kernel, ``(T,)``.

    Raises:
        ValueError: If there are no samples, too few weights, more data than the proposal has, or log f_T is NaN.
    """
    rates = []
    with torch.no_grad():
        z, log_q0 = first_draws(chain, check_count("samples", samples), generator=generator)
        log_w = -log_q0
        check_enough(log_w.numel(), "weights", least)
        for t in range(1, len(chain.kernels) + 1):
            z, log_ratio, rate = move(chain, t, z, generator=generator)
            log_w = log_w + log_ratio
            rates.append(rate)
        log_w = log_w + weigh(chain, len(chain.kernels), z)
    return log_w, torch.stack(rates) if rates else log_w.new_ones(0)
