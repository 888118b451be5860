"""What is maximised: the ELBO, IWAE, AVO and its loss-calibrated mixture with the ELBO."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from avo_lib.chain import Trajectory
from avo_lib.numerics import log_mean_exp


def elbo(trajectory: Trajectory, beta: float = 1.0) -> Tensor:
    """The evidence lower bound, one draw of log w for each trajectory.

    With kernels it is the hierarchical bound of Ranganath et al. 2016 (arXiv 1511.02386). A lower bound on log Z in
    expectation when beta = 1; for beta < 1 no bound, and for a model with beta > 1 a looser one.

    Args:
        trajectory: Of any chain.
        beta: Weight of the Kullback-Leibler part.

    Returns:
        Nats, ``(...)``.
    """
    return trajectory.log_w(beta)


def iwae(trajectory: Trajectory, beta: float = 1.0) -> Tensor:
    """The importance-weighted bound of K trajectories on axis 0 (Burda et al. 2016, arXiv 1509.00519).

    Args:
        trajectory: With K samples on axis 0.
        beta: Weight of the Kullback-Leibler part; a bound only for beta = 1.

    Returns:
        Nats, the trajectory's axes without the first.
    """
    return log_mean_exp(trajectory.log_w(beta))


def avo(trajectory: Trajectory, beta: float = 1.0) -> Tensor:
    r"""The annealed variational objective, :math:`\sum_t \log v_t` with each :math:`z_{t-1}` held constant.

    Step t then fits its own annealed target :math:`f_t` (Huang et al. 2018, arXiv 1809.01818, eq. 4). The value
    telescopes to the ELBO's, log w on the same draws; only the gradients of the kernels before the last differ. A model
    inside the path gets the ELBO's gradient; the proposal gets none, and learns in ELBO steps.

    Args:
        trajectory: Drawn with ``detach=True``, of a chain with at least one kernel.
        beta: Weight of the Kullback-Leibler part.

    Returns:
        Nats, ``(...)``: in value a draw of the ELBO, in gradient AVO.

    Raises:
        ValueError: If the trajectory is not detached or has no kernels.
    """
    if not trajectory.detached or not trajectory.log_ratio:
        raise ValueError("AVO needs at least one kernel and a trajectory drawn with chain.sample(detach=True)")
    start = trajectory.path.log_density(0, trajectory.z[0], beta) - beta * trajectory.log_q0
    return start.detach() + trajectory.log_v(beta).sum(0)


def calibrated_avo(
    draw: Callable[[bool], Trajectory],
    avo_share: float,
    beta: float = 1.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Loss-calibrated AVO: with probability ``avo_share`` an AVO step, else an ELBO step (Huang et al. 2018).

    One coin is tossed for the whole mini-batch. Its mean gradient is that of the mixture a·AVO + (1 − a)·ELBO.

    Args:
        draw: Draws trajectories, detached or not.
        avo_share: The paper's a, between 0 (the ELBO alone) and 1.
        beta: Weight of the Kullback-Leibler part.
        generator: Tosses the coin.

    Returns:
        Nats, the trajectories' axes.

    Raises:
        ValueError: If ``avo_share`` is no probability.
    """
    if not 0 <= avo_share <= 1:
        raise ValueError(f"avo_share is a probability, between 0 and 1, not {avo_share}")
    device = "cpu" if generator is None else generator.device
    if torch.rand((), generator=generator, device=device).item() < avo_share:
        return avo(draw(True), beta)
    return elbo(draw(False), beta)
