"""Interactive pictures that need neither a kernel nor a network: frames behind a slider, and starts to choose from."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import ipywidgets as widgets
import matplotlib.pyplot as plt
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["frame_slider", "start_picker"]

MAX_FRAMES = 15
MAX_CHARACTERS = 250_000  # the budget of a whole page of the book
DPI = 100  # as the static figures have it
COLOURS = 64


def frame_slider(frames: Sequence[Figure], *, labels: Sequence[str], name: str, alt: str) -> widgets.VBox:
    """Shows one of several drawn figures at a time, chosen with a slider or played in turn.

    The frames are drawn once and linked to the slider in the browser, so the widget works in the built book,
    from disk and in a live notebook. The slider obeys the arrow keys. Every frame carries its label as
    visible text and, with ``alt``, as alternative text. The figures are closed, or the notebook would show them
    again.

    Args:
        frames: 1 to 15 matplotlib figures, ideally all of one size.
        labels: One text per frame, such as ``"α = 0.3"``; Greek letters as characters, not as LaTeX.
        name: What the slider changes, written beside it.
        alt: What the figures show, in one sentence without the label.

    Returns:
        The widget; as the last line of a cell it is displayed.

    Raises:
        ValueError: If there is no frame or more than 15, if the labels do not match the frames, or if the
            frames together take more than 250 kB of the page.

    >>> from matplotlib.figure import Figure
    >>> figures = [Figure(figsize=(2, 1)) for _ in range(3)]
    >>> labels = [f"α = {alpha}" for alpha in (0.1, 0.5, 1.0)]
    >>> widget = frame_slider(figures, labels=labels, name="α", alt="The tempered density")
    >>> controls, stack = widget.children
    >>> len(stack.children), stack.selected_index
    (3, 0)
    """
    if not frames:
        raise ValueError("frame_slider needs at least one figure, got none")
    if len(frames) > MAX_FRAMES:
        raise ValueError(f"frame_slider takes at most {MAX_FRAMES} figures, got {len(frames)}: show fewer values")
    if len(labels) != len(frames):
        raise ValueError(f"frame_slider needs one label per figure, got {len(labels)} for {len(frames)} figures")
    pages = [_page(frame, label, alt) for frame, label in zip(frames, labels, strict=True)]
    size = sum(map(len, pages))
    if size > MAX_CHARACTERS:
        raise ValueError(
            f"the {len(frames)} frames take {size / 1000:.0f} kB of the page, "
            f"at most {MAX_CHARACTERS / 1000:.0f} kB fit: make the figures smaller, fewer or simpler"
        )

    last = len(pages) - 1
    # The readout would show the number of the frame; the label above the picture says what it means.
    slider = widgets.IntSlider(0, 0, last, description=name, readout=False)
    play = widgets.Play(value=0, min=0, max=last, interval=700)
    stack = widgets.Stack([widgets.HTML(page) for page in pages], selected_index=0)
    # jslink rather than a callback: the links then live in the page, and no kernel is needed.
    widgets.jslink((play, "value"), (slider, "value"))
    widgets.jslink((slider, "value"), (stack, "selected_index"))
    return widgets.VBox([widgets.HBox([play, slider]), stack])


def _page(figure: Figure, label: str, alt: str) -> str:
    """Returns the frame as HTML: ``widgets.Image`` knows no alternative text."""
    picture = base64.b64encode(_palette_png(figure)).decode()
    text = html.escape(f"{alt}, {label}")
    caption = html.escape(label)
    return (
        f'<div class="avo-frame"><figure><figcaption>{caption}</figcaption>'
        f'<img alt="{text}" src="data:image/png;base64,{picture}"></figure></div>'
    )


def _palette_png(figure: Figure) -> bytes:
    """Draws the figure on white with few colours, which takes about a third of the space."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor="white")
    plt.close(figure)
    drawn.seek(0)
    with Image.open(drawn) as picture:
        # An octree keeps the book's colours; the median cut, which is the default, turns thin lines brown.
        few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(small, format="png", optimize=True)
    return small.getvalue()


DASHES = ("none", "7 3", "2 3", "9 3 2 3")  # lines differ without their colours too
# A page may have several pickers: the form keeps their buttons apart, the style of one is that of all, and what is a
# picker's own stands in its division. The enter key sends no form whose submit button is disabled.
PICKER = """<style>
.avo-starts {{ border: 0; margin: 0; padding: 0; }}
.avo-starts legend {{ font-size: 1rem; }}
.avo-starts > div {{ background: white; color-scheme: light; position: relative; }}
.avo-starts img {{ display: block; width: 100%; }}
.avo-starts svg {{ inset: 0; pointer-events: none; position: absolute; }}
.avo-starts g {{ display: none; fill: none; stroke-width: 2; }}
.avo-starts input {{ height: 14px; margin: -7px; position: absolute; width: 14px; z-index: 1; }}
{ways}
{shown} {{ display: inline; }}
</style>
<form><button disabled hidden></button><fieldset class="avo-starts"><legend>{name}</legend>
<div style="max-width: {width}px; {colours}">
{inputs}
<img alt="{alt}" src="data:image/png;base64,{picture}">
<svg viewBox="0 0 {width} {height}" aria-hidden="true">{groups}</svg>
</div></fieldset></form>"""


def start_picker(axes: Axes, paths: Mapping[str, tuple[str, Tensor]], *, name: str, alt: str) -> widgets.HTML:
    """Shows where several methods go from a start that the reader picks on a picture.

    The picture carries one radio button for each start, and only the paths of the picked start are visible. It takes
    no script at all: the page's style sheet does it, in the book and in a live notebook. The arrow keys go from start
    to start, and each start has the ends of its paths as its spoken name. The figure is closed.

    Args:
        axes: The axes of the picture, with limits that no longer change; the whole figure is drawn.
        paths: Colour and points ``(starts, steps, 2)`` of each method; all methods begin at the same starts. Up to
            four methods, told apart by dashes as well, in the order of :data:`DASHES`.
        name: What the reader picks, written above the picture.
        alt: What the picture shows, in one sentence.

    Returns:
        The widget; as the last line of a cell it is displayed.

    Raises:
        ValueError: If there are no methods or more than four, if their points have another shape, are not finite or do
            not start alike, or if the widget takes more than 250 kB of the page.

    >>> import torch
    >>> figure, axes = plt.subplots(figsize=(2, 2))
    >>> there = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]])
    >>> "start at 0.0, 1.0: plain ends at 1.0, 1.0" in start_picker(
    ...     axes, {"plain": ("#000000", there)}, name="Pick a start", alt="An empty plane"
    ... ).value
    True
    """
    lines = [points for _, points in paths.values()]
    if not 1 <= len(lines) <= len(DASHES):
        raise ValueError(f"start_picker takes 1 to {len(DASHES)} methods, not {len(lines)}")
    for method, (_, points) in paths.items():
        if points.dim() != 3 or points.shape[2] != 2 or not points.numel():
            raise ValueError(f"start_picker takes points (starts, steps, 2), not {tuple(points.shape)} of {method}")
        if not bool(points.isfinite().all()):
            raise ValueError(f"not all points of {method} are finite: give only paths that stay so")
        if not points[:, 0].equal(lines[0][:, 0]):
            raise ValueError(f"start_picker takes methods that start alike, and {method} does not start as the first")
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.dpi = DPI
    figure.draw_without_rendering()
    width, height = (round(DPI * inches) for inches in figure.get_size_inches())

    def pixels(points: Tensor) -> list[tuple[float, float]]:
        return [(x, height - y) for x, y in axes.transData.transform(points.numpy(force=True)).tolist()]

    inputs, groups = [], []
    for i, ((left, top), start) in enumerate(zip(pixels(lines[0][:, 0]), lines[0][:, 0].tolist(), strict=True)):
        ends, drawn = [], []
        for way, (method, (_, points)) in enumerate(paths.items()):
            x, y = pixels(points[i])[-1]
            corners = [f"{a:.0f},{b:.0f}" for a, b in pixels(points[i])]
            moves = [here for here, last in zip(corners, [None, *corners], strict=False) if here != last]
            drawn.append(f'<polyline class="w{way}" points="{" ".join(moves)}"/>')
            drawn.append(f'<circle class="w{way}" cx="{x:.0f}" cy="{y:.0f}" r="10"/>')
            ends.append(f"{method} ends at {_place(points[i, -1].tolist())}")
        label = html.escape(f"start at {_place(start)}: {', '.join(ends)}")
        where = f"left: {100 * left / width:.2f}%; top: {100 * top / height:.2f}%"
        inputs.append(
            f'<input type="radio" name="avo-start" class="avo-start-{i}" aria-label="{label}" style="{where}"'
            f"{' checked' if i == 0 else ''}>"
        )
        groups.append(f'<g class="avo-start-{i}">{"".join(drawn)}</g>')
    page = PICKER.format(
        ways="\n".join(
            f".avo-starts .w{way} {{ stroke: var(--w{way}); stroke-dasharray: {dash}; }}"
            for way, dash in enumerate(DASHES[: len(lines)])
        ),
        colours=" ".join(f"--w{way}: {html.escape(colour)};" for way, (colour, _) in enumerate(paths.values())),
        shown=",\n".join(f".avo-start-{i}:checked ~ svg .avo-start-{i}" for i in range(len(inputs))),
        name=html.escape(name),
        alt=html.escape(alt),
        inputs="\n".join(inputs),
        groups="".join(groups),
        picture=base64.b64encode(_palette_png(figure)).decode(),
        width=width,
        height=height,
    )
    if len(page) > MAX_CHARACTERS:
        raise ValueError(f"the picker takes {len(page) / 1000:.0f} kB of the page: fewer starts, or shorter paths")
    return widgets.HTML(page)


def _place(point: Sequence[float]) -> str:
    return ", ".join(f"{number:.1f}".replace("-", "−") for number in point)
