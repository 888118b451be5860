"""Annealed importance sampling forwards: the weights, of which :mod:`avo_lib.evaluation` makes an estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from avo_lib.chain import Chain
from avo_lib.checks import check_count
from avo_lib.estimate import check_enough
from avo_lib.kernels import MetropolisKernel
from avo_lib.numerics import Noise, check_axes


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
        ValueError: If there are no samples, or too few weights.
    """
    rates = []
    with torch.no_grad():
        z, log_q0 = chain.proposal.sample((check_count("samples", samples),), generator=generator)
        log_w = -check_axes("the proposal", log_q0, z)
        if 1 not in log_w.shape[1:]:  # else log f may have more data
            check_enough(log_w.numel(), "weights", least)
        for t, kernel in enumerate(chain.kernels, start=1):
            if isinstance(kernel, MetropolisKernel):
                z, log_ratio, rate = kernel.transition(z, chain.target(t), generator=generator)
            else:
                z, log_ratio = kernel.forward(z, chain.target(t), chain.context, generator=generator)
                rate = z.new_ones(())
            log_w = log_w + check_axes(f"kernel {t}", log_ratio, z)
            rates.append(rate.mean())
        log_w = log_w + chain.target(len(chain.kernels))(z)
    return log_w, torch.stack(rates) if rates else log_w.new_ones(0)
