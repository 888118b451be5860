"""Pictures behind a slider that need neither a kernel nor a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ipywidgets as widgets
import matplotlib.pyplot as plt
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["frame_slider"]

MAX_FRAMES = 15
MAX_CHARACTERS = 250_000  # the budget of a whole page of the book
DPI = 100  # as the static figures have it
COLOURS = 64


def frame_slider(frames: Sequence[Figure], *, labels: Sequence[str], name: str, alt: str) -> widgets.VBox:
    """Shows one of several drawn figures at a time, chosen with a slider or played in turn.

    The frames are drawn once and linked to the slider in the browser, so the widget works in the built book,
    from disk and in a live notebook. The slider obeys the arrow keys. Every frame carries its label as
    visible text and, with ``alt``, as alternative text. The figures are closed: the notebook would show them
    again.

    Args:
        frames: 1 to 15 matplotlib figures, best all of one size.
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
    # jslink and no callback: the links then live in the page, and no kernel is asked.
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
