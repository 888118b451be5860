"""Training of toys whose gradients have heavy tails: Adam on shortened gradients, at a rate that falls as a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

LONGEST_GRADIENT = 5.0  # largest length of an update's gradient, for each seed on its own


def maximise(
    value: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    updates: int,
    lr: float,
    shorten: Callable[[], None],
) -> None:
    """Draw a value, follow its gradient, and let the learning rate fall to zero.

    Args:
        value: Function that draws the value to maximise, in nats.
        parameters: Parameters to train.
        updates: Number of Adam steps.
        lr: Initial learning rate of Adam.
        shorten: Function that is called before each step and acts on the gradients.

    Raises:
        FloatingPointError: If the value is not finite.
    """
    adam = torch.optim.Adam(parameters, lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, updates)
    for update in range(updates):
        drawn = value()
        if not math.isfinite(drawn.item()):
            raise FloatingPointError(f"the objective is {drawn.item()} at update {update}")
        adam.zero_grad()
        (-drawn).backward()
        shorten()
        adam.step()
        falling.step()


def shorten_by_seed(parameters: Iterable[nn.Parameter]) -> None:
    """Shorten gradients to at most LONGEST_GRADIENT for each index of axis 0 on its own: seeds stay independent.

    Where the length of a seed's gradient is not finite, the gradient is zero.
    """
    gradients = [one.grad for one in parameters if one.grad is not None]
    length = torch.stack([one.reshape(len(one), -1).square().sum(1) for one in gradients]).sum(0).sqrt()
    factor = (LONGEST_GRADIENT / length.clamp(min=LONGEST_GRADIENT)).nan_to_num(nan=0.0)
    for one in gradients:
        scale = factor.reshape(-1, *[1] * (one.dim() - 1))
        one.mul_(scale).masked_fill_(scale == 0, 0.0)  # zero times what is not finite is not zero
