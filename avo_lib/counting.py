"""What a method costs, counted and not assumed: the points at which a target and its gradient are evaluated."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Counted:
    """A log density that counts its calls, point by point.

    Methods with one gradient a step are alike on paper and differ in code; give each a counted target and look.

    Args:
        log_density: Log f, ``(..., dim)`` to ``(...)``.

    Attributes:
        values: Number of points at which log f was evaluated.
        gradients: Number of points at which its gradient was taken. Differentiating through a gradient, as training
            does, may count again.

    >>> import torch
    >>> counted = Counted(lambda z: -0.5 * z.square().sum(-1))
    >>> z = torch.zeros(5, 2, requires_grad=True)
    >>> counted(z).sum().backward()
    >>> counted.values, counted.gradients
    (5, 5)
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density, self.values, self.gradients = log_density, 0, 0

    def __call__(self, z: Tensor) -> Tensor:
        """Log f at points z."""
        value = self.log_density(z)
        self.values += value.numel()
        if value.requires_grad:
            value.register_hook(self._count)
        return value

    def _count(self, gradient: Tensor) -> None:
        self.gradients += gradient.numel()
