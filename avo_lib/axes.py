"""Axes of points and their log densities: what would silently broadcast into something else is refused."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_axes(what: str, value: Tensor, z: Tensor) -> Tensor:
    """Refuse log densities with other axes than the points': ``(n, 1)`` and ``(n,)`` silently broadcast to ``(n, n)``.

    Args:
        what: Where the value comes from, for the message.
        value: Log densities in nats.
        z: The points ``(..., dim)`` that they belong to.

    Returns:
        ``value``.

    Raises:
        ValueError: Unless ``value`` has the axes of ``z`` but the last; where these have one entry it may have more.
        TypeError: If it is no tensor.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{what} gives {value!r}: expected a tensor, one number for each of the points {tuple(z.shape)}"
        )
    axes = z.shape[:-1]
    if value.dim() != z.dim() - 1 or (
        value.shape != axes and any(a not in (1, b) for a, b in zip(axes, value.shape, strict=True))
    ):
        raise ValueError(
            f"{what} gives shape {tuple(value.shape)} for points {tuple(z.shape)}: expected one log density for each "
            "point, without the last axis. A network with one output needs .squeeze(-1), and a coordinate is z[..., 0]"
        )
    return value


def check_size(what: str, z: Tensor, dim: int) -> Tensor:
    """Refuse points of another size, of which a formula would silently take some coordinates or repeat one.

    Args:
        what: What takes the points, for the message.
        z: The points.
        dim: Number of coordinates that the points must have.

    Returns:
        ``z``.

    Raises:
        ValueError: If the last axis of ``z`` is not ``dim``.
    """
    if z.shape[-1:] != (dim,):
        raise ValueError(f"{what} takes points (..., {dim}), not {tuple(z.shape)}")
    return z


def check_draws(shape: Sequence[int], z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse draws of a proposal without the leading axes that were asked for, or with other densities than points.

    Args:
        shape: The leading axes.
        z: The draws, ``(*shape, ..., dim)``.
        log_q: Their log densities in nats, ``(*shape, ...)``.

    Returns:
        ``z`` and ``log_q``.

    Raises:
        ValueError: If an axis does not fit.
    """
    check_axes("the proposal", log_q, z)
    if z.shape[: len(shape)] != tuple(shape):
        raise ValueError(f"asked for draws ({', '.join(map(str, shape))}, …, dim), the proposal gives {tuple(z.shape)}")
    return z, log_q


def check_move(kernel: str, z_from: Tensor, z_to: Tensor, log_ratio: Tensor) -> Tensor:
    """Refuse a move to points with other axes: more chains or coordinates than there were, with weights of their own.

    Args:
        kernel: What moves the points, for the message.
        z_from: The points before, ``(..., dim)``.
        z_to: The points after; an axis with one entry may have grown.
        log_ratio: The log ratio of the kernel's densities in nats, ``(...)``.

    Returns:
        ``log_ratio``.

    Raises:
        ValueError: If an axis does not fit.
    """
    fit = len(z_from.shape) == len(z_to.shape) and z_from.shape[-1] == z_to.shape[-1]
    if not fit or any(a not in (1, b) for a, b in zip(z_from.shape, z_to.shape, strict=True)):
        raise ValueError(
            f"{kernel} moves points {tuple(z_from.shape)} to {tuple(z_to.shape)}: expected as many points and "
            "coordinates; only an axis with one entry may grow"
        )
    return check_axes(kernel, log_ratio, z_to)


def check_own_draws(shape: Sequence[int], z: Tensor) -> None:
    """Refuse points that several data share: estimates from the same draws err together, and their error hides it.

    Args:
        shape: The axes of the data, or of their log densities.
        z: The points ``(..., dim)``.

    Raises:
        ValueError: Unless the points have these axes.
    """
    if tuple(shape) != z.shape[:-1]:
        raise ValueError(
            f"data of axes {tuple(shape)} would share the draws of points of axes {tuple(z.shape[:-1])}: give the "
            "proposal a row for each datum, such as mean.expand(len(x), -1)"
        )
