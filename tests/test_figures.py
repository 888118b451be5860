"""The plots show what they say: orientation, mass, order. How they look is for the eye."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from avo_lib.numerics import log_normal
from avo_lib.show.figures import COLOURS, plane, show_contours, show_curves, show_density, show_images, use_style
from tools import overview

CENTRE = torch.tensor([2.0, -1.0])


@pytest.fixture
def axes():
    return Figure(figsize=(2, 2)).subplots()


def blob(z: torch.Tensor) -> torch.Tensor:
    return log_normal(z, CENTRE, 0.5) + 100.0


def test_the_plane_runs_along_z1_in_rows_and_z2_in_columns():
    grid = plane(2.0, 5)
    assert grid.shape == (5, 5, 2)
    assert grid[0, :, 0].tolist() == grid[:, 0, 1].tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert grid[3, 1].tolist() == [-1.0, 1.0]


def test_a_density_stands_where_it_is(axes):
    show_density(axes, blob, box=4.0, title="a blob")
    (image,) = axes.images
    left, right, bottom, top = image.get_extent()
    shown = torch.from_numpy(image.get_array().filled())
    assert image.origin == "lower" and shown.max() == 1 and (left, right, bottom, top) == (-4, 4, -4, 4)
    row, column = divmod(shown.argmax().item(), shown.shape[1])
    assert left + (right - left) * (column + 0.5) / shown.shape[1] == pytest.approx(2.0, abs=0.07)
    assert bottom + (top - bottom) * (row + 0.5) / shown.shape[0] == pytest.approx(-1.0, abs=0.07)
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("a blob", "$z_1$", "$z_2$")


def test_contours_hold_half_and_nine_tenths_of_the_mass(axes):
    """Of a Gaussian on the plane the circle that holds a share p has the radius sqrt(−2 log(1 − p))."""
    show_contours(axes, blob, box=5.0)
    (contours,) = (drawn for drawn in axes.get_children() if isinstance(drawn, QuadContourSet))
    radii = []
    for segments in contours.allsegs:
        (line,) = segments
        distance = (torch.from_numpy(line) - CENTRE).norm(dim=-1) / 0.5
        assert distance.std() < 0.02
        radii.append(distance.mean().item())
    assert radii == pytest.approx([math.sqrt(-2 * math.log(1 - share)) for share in (0.9, 0.5)], abs=0.06)
    assert to_rgba(contours.get_edgecolor()[0]) == to_rgba(COLOURS["warning"])


def test_contours_of_two_modes_stand_at_both(axes):
    far = torch.tensor([3.0, 0.0])
    show_contours(axes, lambda z: torch.stack([log_normal(z, far, 0.4), log_normal(z, -far, 0.4)]).logsumexp(0))
    (contours,) = (drawn for drawn in axes.get_children() if isinstance(drawn, QuadContourSet))
    assert [len(segments) for segments in contours.allsegs] == [2, 2]
    assert {round(line[:, 0].mean()) for line in contours.allsegs[0]} == {-3, 3}


def test_plots_take_no_gradient(axes):
    weight = torch.ones((), requires_grad=True)
    show_density(axes, lambda z: weight * blob(z))
    show_contours(axes, lambda z: weight * blob(z))
    assert weight.grad is None


def holed(z: torch.Tensor) -> torch.Tensor:
    log_f = blob(z)
    log_f[0, 0] = math.nan
    return log_f


@pytest.mark.parametrize("show", [show_density, show_contours])
@pytest.mark.parametrize("log_f", [holed, lambda z: blob(z) - math.inf], ids=["NaN", "nowhere"])
def test_a_picture_that_would_be_blank_is_refused(axes, show, log_f):
    with pytest.raises(ValueError, match="square of side 10"):
        show(axes, log_f)
    assert not axes.images


@pytest.mark.parametrize("steepness", [0.0, 1e5], ids=["flat", "narrow"])
def test_regions_that_the_grid_cannot_tell_apart_are_refused(axes, steepness):
    with pytest.raises(ValueError, match="flat, or too narrow for a grid of 121 points"):
        show_contours(axes, lambda z: -steepness * z.square().sum(-1))


def test_images_of_another_size_are_refused(axes):
    with pytest.raises(ValueError, match=r"\(\.\.\., 784\), not \(8, 392\)"):
        show_images(axes, torch.rand(8, 392))


def test_images_stand_in_rows(axes):
    images = torch.zeros(6, 784)
    images[4] = 1.0
    images.requires_grad_()
    show_images(axes, images, per_row=4, title="digits")
    shown = torch.from_numpy(axes.images[0].get_array().filled())
    assert shown.shape == (2 * 30 + 2, 4 * 30 + 2)
    assert bool((shown[32:60, 2:30] == 1).all()) and shown.sum() == 784  # the fifth is the first of the second row
    assert axes.get_title() == "digits"


def test_curves_have_names_colours_and_abscissae(axes):
    figure = show_curves(axes, {"avo": [3.0, 2.0], "vae": [5.0, 4.0, 3.0]})
    assert figure is axes.figure
    avo, vae = axes.lines
    assert list(avo.get_xdata()) == [1, 2] and list(vae.get_ydata()) == [5.0, 4.0, 3.0]
    assert (avo.get_color(), vae.get_color()) == (COLOURS["avo"], COLOURS["vae"])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["AVO", "VAE"]


def test_curves_share_given_abscissae(axes):
    show_curves(axes, {"avo": [3.0, 2.0]}, x=[10, 100])
    assert list(axes.lines[0].get_xdata()) == [10, 100]


def test_curves_take_the_names_of_a_table(axes):
    show_curves(axes, {"householder": [3.0], "vae": [2.0]}, names={"householder": "Householder, T = 5"})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Householder, T = 5", "VAE"]


def test_the_style_draws_in_the_books_colours():
    with plt.rc_context():
        use_style()
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == list(COLOURS.values())
        assert plt.rcParams["image.cmap"] == "Greys"
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_the_readmes_picture_goes_into_the_book_from_any_folder(tmp_path, monkeypatch):
    written = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(overview, "UPDATES", 0)
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: written.append(Path(file).resolve()))
    with plt.rc_context():
        overview.main()
    plt.close("all")
    assert written == [Path(overview.__file__).parents[1] / "book" / "_static" / "overview.png"]
    assert written[0].is_file()
