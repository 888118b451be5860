"""Plots that several chapters share, in colours that survive colour blindness, grey print and a dark page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from avo_lib.axes import check_size
from avo_lib.numerics import symmetric_axis

COLOURS = {  # Okabe and Ito (2008); a method has one colour throughout the book
    "vae": "#0072B2",
    "iwae": "#56B4E9",
    "householder": "#CC79A7",
    "hvi": "#E69F00",
    "avo": "#009E73",
    "target": "#000000",
    "warning": "#D55E00",
}


def use_style() -> None:
    """Set matplotlib to the book's style; call it in a chapter's first cell."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.wspace": 0.06,  # else a panel's y label reads as its neighbour's
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "image.cmap": "Greys",
            "axes.prop_cycle": cycler(color=list(COLOURS.values())),
        }
    )


def plane(box: float, points: int = 121) -> Tensor:
    """Grid points of a square around the origin, ``(points, points, 2)``; axis 0 runs along z2, for imshow.

    >>> plane(1.0, 3)[0, :, 0].tolist()
    [-1.0, 0.0, 1.0]
    """
    axis = symmetric_axis(box, points)
    z2, z1 = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([z1, z2], -1)


def _on_plane(log_density: Callable[[Tensor], Tensor], box: float) -> Tensor:
    """Log f on the square; a ValueError if it cannot be drawn."""
    with torch.no_grad():
        log_f = log_density(plane(box))
    if not bool(log_f.amax().isfinite()):  # the maximum is NaN if one value is
        raise ValueError(
            f"log f is NaN or +inf on the square of side {2 * box:g}, or -inf all over it: "
            "give -inf where the density vanishes, and a box in which it does not"
        )
    return log_f


def show_density(axes: Axes, log_density: Callable[[Tensor], Tensor], *, box: float = 5.0, title: str = "") -> None:
    """Draw a density on the plane in grey, white where it vanishes.

    Args:
        axes: Where to draw.
        log_density: Log f, ``(..., 2)`` to ``(...)``; its constant does not matter.
        box: Half the side of the square shown.
        title: Title above the panel.

    Raises:
        ValueError: If log f is NaN or +inf in the square, or -inf all over it.
    """
    log_f = _on_plane(log_density, box)
    density = (log_f - log_f.max()).exp().numpy()
    axes.imshow(density, origin="lower", extent=(-box, box, -box, box), cmap="Greys", vmin=0, vmax=1)
    axes.set(title=title, xlabel="$z_1$", ylabel="$z_2$", aspect="equal")


def show_contours(axes: Axes, log_density: Callable[[Tensor], Tensor], *, box: float = 5.0, colour: str = "") -> None:
    """Draw the regions that hold 50 % and 90 % of a density's mass as contour lines.

    Args:
        axes: Where to draw.
        log_density: Log f, ``(..., 2)`` to ``(...)``.
        box: Half the side of the square considered.
        colour: Colour of the lines; the warning colour by default.

    Raises:
        ValueError: If log f is NaN or +inf in the square, or -inf all over it; or if both regions coincide there.
    """
    log_f = _on_plane(log_density, box)
    density = log_f.double().flatten().softmax(0)
    ordered = density.sort(descending=True).values
    mass = ordered.cumsum(0)
    levels = [ordered[(mass < share).sum()].item() for share in (0.9, 0.5)]
    if levels[0] == levels[1]:
        raise ValueError(
            f"on the square of side {2 * box:g} the density is flat, or too narrow for a grid of {len(log_f)} points "
            "along a side: give a box in which it falls"
        )
    axis = plane(box)[0, :, 0].numpy()
    values = density.reshape(log_f.shape).numpy()
    axes.contour(axis, axis, values, levels=levels, colors=colour or COLOURS["warning"], linewidths=1.5)


def show_images(axes: Axes, images: Tensor, *, per_row: int = 8, title: str = "") -> None:
    """Draw images in a grid, ink dark on white.

    Args:
        axes: Where to draw.
        images: ``(images, 784)`` in [0, 1].
        per_row: Number of images in a row.
        title: Title above the grid.

    Raises:
        ValueError: If an image does not have 784 pixels.
    """
    images = check_size("show_images", images.detach(), 784).reshape(-1, 1, 28, 28)
    grid = make_grid(images, nrow=per_row, padding=2, pad_value=0.0)[0]
    axes.imshow(grid.numpy(), cmap="Greys", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(title)


def show_curves(
    axes: Axes,
    curves: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Draw one labelled line for each method, in the method's colour.

    Args:
        axes: Where to draw.
        curves: Values to draw, by method.
        x: Shared abscissae; 1, 2, … by default.
        names: What the legend calls a method; by default its own name in capitals.

    Returns:
        The figure.
    """
    for method, values in curves.items():
        at = np.arange(1, len(values) + 1) if x is None else x
        label = (names or {}).get(method, method.upper())
        axes.plot(at, values, label=label, color=COLOURS.get(method, COLOURS["warning"]))
    axes.legend()
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure
