"""The slider and the picker: what they refuse, and what they are made of."""

import base64
import io
import math
import re

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from avo_lib.show import figures
from avo_lib.show.explore import _page, frame_slider, start_picker


def frames(n: int, size: float = 1.0) -> list[Figure]:
    return [Figure(figsize=(size, size)) for _ in range(n)]


def slider(n: int = 3, **changes):
    options = {"labels": [f"α = {i}" for i in range(n)], "name": "α", "alt": "A density"} | changes
    return frame_slider(frames(n), **options)


def every_widget(root: widgets.Widget) -> list[widgets.Widget]:
    return [root, *(found for child in getattr(root, "children", ()) for found in every_widget(child))]


def test_one_page_for_each_frame():
    pages = [widget.value for widget in every_widget(slider(3)) if isinstance(widget, widgets.HTML)]
    assert len(pages) == 3
    for i, page in enumerate(pages):
        assert f"α = {i}</figcaption>" in page and f'alt="A density, α = {i}"' in page
        start = page.index("base64,") + len("base64,")
        assert base64.b64decode(page[start : page.index('"', start)]).startswith(b"\x89PNG")


def test_the_controls_reach_every_frame():
    box = slider(4)
    slide = next(widget for widget in every_widget(box) if isinstance(widget, widgets.IntSlider))
    play = next(widget for widget in every_widget(box) if isinstance(widget, widgets.Play))
    stack = next(widget for widget in every_widget(box) if isinstance(widget, widgets.Stack))
    assert (slide.min, slide.max, slide.value, slide.description) == (0, 3, 0, "α")
    assert (play.min, play.max) == (0, 3)
    assert len(stack.children) == 4 and stack.selected_index == 0


def test_the_colours_of_the_book_survive_the_palette():
    """Thin lines among the many shades of a density, which claim most of a palette."""
    figure, axes = plt.subplots(figsize=(6, 3))
    line = torch.linspace(-3, 3, 100)
    axes.contourf(line, line, (-line.square() - line[:, None].square()).exp(), levels=30)
    for i, colour in enumerate(figures.COLOURS.values()):
        axes.plot(line, torch.sin(line + i), color=colour)
    page = _page(figure, "one", "lines")
    picture = Image.open(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0]))).convert("RGB")
    shown = torch.tensor([colour for _, colour in picture.getcolors()])
    wanted = 255 * torch.tensor([to_rgb(colour) for colour in figures.COLOURS.values()])
    nearest = (wanted[:, None] - shown).abs().amax(-1).amin(-1)
    assert nearest.max() <= 20, dict(zip(figures.COLOURS, nearest.tolist(), strict=True))


def test_texts_cannot_break_the_page():
    box = slider(1, labels=["<b>β < 1"], alt='a "quoted" <word>')
    page = next(widget.value for widget in every_widget(box) if isinstance(widget, widgets.HTML))
    assert "<b>" not in page and "<word>" not in page and '"quoted"' not in page
    assert "&lt;b&gt;β &lt; 1" in page


def test_figures_are_closed():
    opened = [plt.figure(figsize=(1, 1)) for _ in range(2)]
    frame_slider(opened, labels=["one", "two"], name="n", alt="nothing")
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    "n, changes, message",
    [
        (0, {}, "at least one figure"),
        (16, {}, "at most 15 figures, got 16"),
        (3, {"labels": ["a", "b"]}, "one label per figure, got 2 for 3"),
    ],
)
def test_wrong_input_is_refused(n, changes, message):
    with pytest.raises(ValueError, match=message):
        slider(n, **changes)


def test_frames_that_fill_the_page_are_refused(generator):
    figure = Figure(figsize=(8, 8))
    figure.figimage(torch.rand(600, 600, generator=generator).numpy())
    with pytest.raises(ValueError, match="kB of the page"):
        frame_slider([figure], labels=["noise"], name="n", alt="noise")


def picker(paths: torch.Tensor, methods: int = 2, **changes):
    _, axes = plt.subplots(figsize=(4, 2))
    axes.set(xlim=(-2, 2), ylim=(-1, 1), position=(0, 0, 1, 1))
    options = {"name": "Pick a start", "alt": "A plane"} | changes
    return start_picker(axes, {f"way {i}": ("#0072B2", paths) for i in range(methods)}, **options).value


def test_a_button_and_all_paths_for_each_start():
    there_and_back = [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    straight = [[[-1.0, 0.5]] + 3 * [[0.0, 0.0]], [[1.0, -0.5]] + 3 * [[2.0, 1.0]]]
    page = picker(torch.tensor([*straight, there_and_back]))
    buttons = re.findall(r'<input type="radio"[^>]*>', page)
    assert len(buttons) == 3 and [" checked" in one for one in buttons] == [True, False, False]
    assert 'aria-label="start at −1.0, 0.5: way 0 ends at 0.0, 0.0, way 1 ends at 0.0, 0.0"' in buttons[0]
    assert "left: 25.00%; top: 25.00%" in buttons[0] and "left: 75.00%; top: 75.00%" in buttons[1]
    groups = re.findall(r"<g class=.*?</g>", page)
    assert [one.count("<polyline") for one in groups] == [2, 2, 2]
    assert (
        'points="100,50 200,100"' in groups[0]
        and 'points="200,100 300,100 200,100"' in groups[2]
        and 'cx="400" cy="0"' in groups[1]
    )
    assert len(set(re.findall("dasharray: ([^;]*);", page))) == 2, "told apart without colours"
    assert re.findall('class="(w.)"', groups[0]) == ["w0", "w0", "w1", "w1"]
    assert all(f".avo-start-{i}:checked ~ svg .avo-start-{i}" in page for i in range(3))
    assert not plt.get_fignums()


def test_texts_cannot_break_the_picker():
    page = picker(torch.zeros(1, 2, 2), name="<b>β < 1", alt='a "quoted" <word>')
    assert "<b>" not in page and "<word>" not in page and '"quoted"' not in page


def test_what_the_picker_refuses():
    here = torch.zeros(1, 2, 2)
    for methods in (0, 5):
        with pytest.raises(ValueError, match="1 to 4 methods"):
            picker(here, methods)
    figure, axes = plt.subplots()
    for first, second, message in (
        (here, here + 1, "start alike, and b does not"),
        (here, here.expand(5, 2, 2), "start alike, and b does not"),
        (here.expand(5, 2, 2), here.expand(3, 2, 2), "start alike, and b does not"),
        (here, here[0], r"not \(2, 2\) of b"),
        (here[:, :0], here, r"not \(1, 0, 2\) of a"),
        (here, torch.tensor([[[0.0, 0.0], [math.nan, 0.0]]]), "not all points of b are finite"),
    ):
        with pytest.raises(ValueError, match=message):
            start_picker(axes, {"a": ("red", first), "b": ("blue", second)}, name="n", alt="a")
    plt.close(figure)
    with pytest.raises(ValueError, match="kB of the page"):
        picker(torch.rand(200, 300, 2))
