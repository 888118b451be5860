"""Normalising flows as kernels: a step without noise, whose reverse is its inverse (Rezende & Mohamed 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from avo_lib.checks import check_count
from avo_lib.kernels.gated import required
from avo_lib.numerics import Noise, sum_last, traced
from avo_lib.paths import LogDensity

START = 0.01  # an autoregressive step starts this much off the identity


class Flow(nn.Module):
    r"""Any invertible map as a kernel: :math:`z = \psi(z_{prev})`, with :math:`\log r - \log q = \log|\det J_\psi|`.

    A step without noise has one origin for each point, so its reverse is exact and loosens no bound: with flows alone
    :math:`E \log w = \log Z - D_{KL}(q_T \| f_T / Z)`, where :math:`q_T` is the density of :math:`z_T` itself (Rezende
    & Mohamed 2015, arXiv 1505.05770).

    Args:
        transform: A transform of ``torch.distributions`` or of zuko, or a function of the context that returns one (if
            it is a module, such as zuko's lazy transforms, its parameters are the kernel's). The log determinant comes
            from the transform's ``call_and_ladj`` if there is one, else from ``log_abs_det_jacobian``; if each
            coordinate has its own, they are summed. The transform's ``inv`` is the reverse.
        conditional: Whether the function is given the chain's context; otherwise it is given None.

    Raises:
        TypeError: If ``transform`` is neither a transform nor a function.

    >>> from torch.distributions.transforms import AffineTransform
    >>> kernel = Flow(AffineTransform(1.0, torch.tensor([2.0, 0.5])))
    >>> z, log_ratio = kernel(torch.zeros(5, 2), None, None)
    >>> z.shape, log_ratio.tolist()
    (torch.Size([5, 2]), [0.0, 0.0, 0.0, 0.0, 0.0])
    """

    def __init__(self, transform: Transform | Callable[[Tensor | None], Any], *, conditional: bool = True) -> None:
        super().__init__()
        if not (isinstance(transform, Transform) or callable(transform)):
            raise TypeError(f"a flow needs a transform, or a function of the context that gives one, not {transform!r}")
        self.transform, self.conditional = transform, conditional
        self.requires_context = False  # a function of the context may do without

    def forward(
        self, z_prev: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move; see :class:`avo_lib.kernels.Kernel`.

        Raises:
            ValueError: If the transform changes the shape of a point, or its log determinants have the wrong shape.
            FloatingPointError: If a point or log determinant that it gives is not finite.
        """
        there = self._at(context)
        return self._moved(there, self._grown(z_prev, context), type(there).__name__)

    def reverse(
        self, z: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Move back by the inverse; an autoregressive flow takes as many passes as there are coordinates.

        Raises:
            ValueError: If the transform has no inverse, or as for :meth:`forward`.
            FloatingPointError: If z is no image of a finite point.
        """
        there = self._at(context)
        try:
            if not getattr(there, "bijective", True):
                raise NotImplementedError
            z_prev, log_det = self._moved(there.inv, self._grown(z, context), f"the inverse of {type(there).__name__}")
            if not traced() and not bool(((there(z_prev) - z).abs() <= 1e-2 * (1 + z.abs())).all()):
                raise FloatingPointError(f"{type(there).__name__} does not reach all of these points")
        except (AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"{type(there).__name__} has no inverse: a chain can be drawn with it, not reversed"
            ) from error
        return z_prev, -log_det

    def _at(self, context: Tensor | None) -> Any:
        if isinstance(self.transform, Transform):
            return self.transform
        if self.requires_context:
            context = required(context)
        return self.transform(context if self.conditional else None)

    def _grown(self, z: Tensor, context: Tensor | None) -> Tensor:
        """An axis with one entry grows to the context's."""
        if not self.conditional or context is None:
            return z
        return z.expand(*torch.broadcast_shapes(z.shape[:-1], context.shape[:-1]), -1)

    @staticmethod
    def _moved(transform: Any, z: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """The image of z, shaped as it is, and log|det J| at z, ``(...)``."""
        if not z.numel():  # zuko's networks cannot take an empty batch of points
            return z, z.new_zeros(z.shape[:-1])
        if hasattr(transform, "call_and_ladj"):
            moved, log_det = transform.call_and_ladj(z)
        else:
            moved = transform(z)
            log_det = transform.log_abs_det_jacobian(z, moved)
        if moved.shape == z.shape == log_det.shape:
            log_det = sum_last(log_det)
        if moved.shape != z.shape or log_det.shape != z.shape[:-1]:
            raise ValueError(
                f"a flow takes points {tuple(z.shape)} to points of that shape with log determinants "
                f"{tuple(z.shape[:-1])}, but {name} gives {tuple(moved.shape)} and "
                f"{tuple(log_det.shape)}"
            )
        if not traced() and not bool(moved.isfinite().all() and log_det.isfinite().all()):
            raise FloatingPointError(
                f"{name} leaves the finite numbers: keep its scale bounded, or give it no point outside its range"
            )
        return moved, log_det


def autoregressive(dim: int, hidden: int, *, context_dim: int = 0, reverse: bool = False) -> Flow:
    r"""One step of an inverse autoregressive flow (Kingma et al. 2016, arXiv 1606.04934), through zuko.

    .. math::
        z_i &= \exp\{s_i(z_{prev,<i}, c)\}\, z_{prev,i} \\
        &\quad + m_i(z_{prev,<i}, c)

    with m and s from a masked network of two hidden layers that also sees the context c. All coordinates move in one
    pass; going back takes ``dim`` passes. It starts close to the identity.

    Args:
        dim: Size of the latent.
        hidden: Width of both hidden layers.
        context_dim: Size of the context; 0 for none.
        reverse: Whether to take the coordinates in reverse order, as every second step of a chain should.

    Returns:
        The kernel.

    Raises:
        ModuleNotFoundError: If zuko is missing, which the extra ``flows`` installs.
        ValueError: If a size is below 1 (the context's may be 0).

    >>> kernel = autoregressive(dim=3, hidden=16)
    >>> z, log_ratio = kernel(torch.ones(5, 3), None, None)
    >>> back, _ = kernel.reverse(z, None, None)
    >>> torch.allclose(back, torch.ones(5, 3)), log_ratio.shape
    (True, torch.Size([5]))
    """
    try:
        from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("autoregressive flows need zuko: pip install '.[flows]'", name=error.name) from error
    dim, hidden = check_count("dim", dim), check_count("hidden", hidden)
    context_dim, order = check_count("context_dim", context_dim, least=0), torch.arange(dim)
    transform = MaskedAutoregressiveTransform(
        dim,
        context_dim,
        order=order.flip(0) if reverse else order,
        hidden_features=(hidden, hidden),
        activation=nn.ELU,
    )
    last = transform.hyper[-1] if hasattr(transform, "hyper") else transform.phi  # one coordinate alone has no network
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(START)
    flow = Flow(transform, conditional=context_dim > 0)
    flow.requires_context = flow.conditional
    return flow
