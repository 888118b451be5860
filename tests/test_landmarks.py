"""Landmarks: exact log Z against quadrature, exact draws against their densities, and what is refused."""

import math
import pickle

import pytest
import torch

from avo_lib.landmarks import LANDMARKS, funnel, many_well, regions, ring_of_gaussians
from avo_lib.numerics import log_normal, quadrature_log_z
from avo_lib.testing import assert_mean


@pytest.mark.parametrize("name", LANDMARKS)
def test_names_shapes_and_leading_axes(name, generator):
    target = LANDMARKS[name]()
    z = target.sample(12, generator=generator)
    assert z.shape == (12, target.dim) and z.dtype == torch.float64
    assert torch.equal(z, target.sample(12, generator=generator)) is False
    torch.testing.assert_close(target.log_density(z.reshape(3, 4, -1)), target.log_density(z).reshape(3, 4))


@pytest.mark.parametrize("name", LANDMARKS)
def test_points_may_be_whole_numbers_and_draws_none(name):
    target = LANDMARKS[name]()
    z = torch.arange(2 * target.dim).reshape(2, -1) - 5
    torch.testing.assert_close(target.log_density(z), target.log_density(z.double()))
    assert target.sample(0).shape == (0, target.dim)


def test_log_z_against_quadrature():
    assert quadrature_log_z(ring_of_gaussians().log_density) == pytest.approx(math.log(8), abs=1e-9)
    assert quadrature_log_z(ring_of_gaussians(5, 3.0, 0.2).log_density) == pytest.approx(math.log(5), abs=1e-9)
    assert quadrature_log_z(many_well(2).log_density) == pytest.approx(many_well(2).log_z, abs=1e-9)
    assert many_well(6).log_z == pytest.approx(3 * many_well(2).log_z)
    # A narrow funnel, which a grid resolves: for a wide one its neck is too thin and its mouth too far.
    assert quadrature_log_z(funnel(2, 0.5).log_density) == pytest.approx(0, abs=1e-6)


def test_the_funnel_by_hand():
    z = torch.tensor([[-1.2, 0.3, 0.5], [2.0, -4.0, 1.0]])
    for v, x1, x2 in z.tolist():
        normal = lambda x, s: -0.5 * (x / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))  # noqa: E731
        by_hand = normal(v, 3.0) + normal(x1, math.exp(v / 2)) + normal(x2, math.exp(v / 2))
        assert funnel(3).log_density(torch.tensor([v, x1, x2])).item() == pytest.approx(by_hand)


def test_draws_of_the_funnel(generator):
    """E v² = 9; given v, x² e^{−v} has mean 1, and does not depend on v."""
    z = funnel().sample(200_000, generator=generator)
    v, x = z[:, :1], z[:, 1:]
    assert_mean(v, 0.0, resolution=0.01)
    assert_mean(v.square(), 9.0, resolution=0.05)
    assert_mean(x.square() * (-v).exp(), 1.0, resolution=0.01)
    assert_mean((x.square() * (-v).exp() - 1) * v, 0.0, resolution=0.02)


def test_draws_of_the_ring(generator):
    z = ring_of_gaussians(3, 4.0, 0.3).sample(200_000, generator=generator)
    assert_mean(z, 0.0, resolution=0.01)
    assert_mean(z.square().sum(-1), 16 + 2 * 0.3, resolution=0.02)
    assert_mean((z[:, 0] > 2).double(), 1 / 3 * 0.99987, resolution=0.002)  # 2 is 3.65 deviations inside the first
    assert_mean(z[:, 0] ** 3, 16.0, resolution=0.1)  # a third of 64 − 2 · 8, as spread adds nothing for centred means


def test_draws_of_the_many_well(generator):
    """Moments of x by quadrature, the right well's share, and Gaussian partners."""
    z = many_well().sample(200_000, generator=generator)
    x, y = z[:, 0::2], z[:, 1::2]
    axis = torch.linspace(-4, 4, 8001)
    weight = (0.5 * axis + 6 * axis.square() - axis**4).softmax(0)
    for power in (1, 2, 3):
        assert_mean(x**power, (weight * axis**power).sum(), resolution=0.02)
    assert_mean((x > 0).double(), 0.8443, resolution=0.001)
    assert_mean(y.square(), 1.0, resolution=0.01)
    assert_mean(x[:, :1] * y, 0.0, resolution=0.01)
    assert_mean((x[:, 0] > 0).double() * (x[:, 1] > 0).double(), 0.8443**2, resolution=0.002)


@pytest.mark.parametrize("name", LANDMARKS)
def test_regions_hold_their_shares(name, generator):
    where, shares = regions(name, LANDMARKS[name]().sample(100_000, generator=generator))
    assert shares.sum().item() == pytest.approx(1)
    assert_mean(torch.nn.functional.one_hot(where, 8).double(), shares, resolution=0.002)


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="modes must be a whole number of at least 1, not 0"):
        ring_of_gaussians(0)
    with pytest.raises(ValueError, match="a positive radius and variance"):
        ring_of_gaussians(8, 10.0, 0.0)
    with pytest.raises(ValueError, match="dim must be a whole number of at least 2, not 1"):
        funnel(1)
    with pytest.raises(ValueError, match="ring, many-well, funnel"):
        regions("banana", torch.zeros(3, 2))
    with pytest.raises(ValueError, match="pairs of coordinates"):
        many_well(5)
    with pytest.raises(ValueError, match="a positive radius and variance"):
        ring_of_gaussians(8, 10.0, math.nan)
    with pytest.raises(ValueError, match="positive std"):
        funnel(2, math.nan)


@pytest.mark.parametrize("make", [ring_of_gaussians, funnel, many_well])
def test_a_number_of_coordinates_is_whole(make):
    with pytest.raises(ValueError, match=r"(modes|dim) must be a whole number of at least [12], not 10\.0"):
        make(10.0)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_the_funnel_is_exact_where_its_width_underflows(dtype, rel):
    """At v = −210 the width e^−105 is 0 in single precision, and 0 / 0 was NaN."""
    z = torch.tensor([-210.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    found = funnel(3).log_density(z)
    at_zero = -0.5 * 70**2 - math.log(3) + 210 - 1.5 * math.log(2 * math.pi)
    assert found.item() == pytest.approx(at_zero, rel=rel)
    found.backward()
    torch.testing.assert_close(z.grad, torch.tensor([210 / 9 - 1, 0.0, 0.0], dtype=dtype))
    for x in (1e-30, 1.0):
        exact = at_zero - (x * math.exp(105)) ** 2 / 2
        exact = torch.tensor(exact).to(dtype)  # −∞ where single precision has no such number
        torch.testing.assert_close(funnel(3).log_density(torch.tensor([-210.0, x, 0.0], dtype=dtype)), exact)


def test_where_its_width_is_a_number_the_funnel_has_not_changed_by_a_bit(generator):
    """Runs on it are stored."""
    z = funnel().sample(1000, generator=generator).float()
    before = log_normal(z[:, :1], 0.0, 3.0) + log_normal(z[:, 1:], 0.0, (0.5 * z[:, :1]).exp())
    assert torch.equal(funnel().log_density(z), before)


@pytest.mark.parametrize("name", LANDMARKS)
def test_a_landmark_can_be_sent_to_another_process(name):
    target = LANDMARKS[name]()
    twin = pickle.loads(pickle.dumps(target))
    z, same = (one.sample(5, generator=torch.Generator().manual_seed(1)) for one in (target, twin))
    assert torch.equal(z, same) and torch.equal(target.log_density(z), twin.log_density(z))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", LANDMARKS)
def test_draws_are_made_where_their_generator_is(name):
    z = LANDMARKS[name]().sample(5, generator=torch.Generator("cuda").manual_seed(1))
    assert z.device.type == "cuda" and LANDMARKS[name]().log_density(z).isfinite().all()
    assert regions(name, z)[0].device.type == "cuda"


@pytest.mark.parametrize("dim", [1, 3, 4, 8])
def test_points_of_another_size_are_refused(dim):
    """A many-well of other points has another log Z."""
    with pytest.raises(ValueError, match=rf"takes points \(\.\.\., 6\), not \(2, {dim}\)"):
        many_well(6).log_density(torch.zeros(2, dim))
    with pytest.raises(ValueError, match="takes points"):
        regions("many-well", torch.zeros(2, dim))


@pytest.mark.parametrize("name", LANDMARKS)
def test_nan_lies_in_no_region(name, generator):
    z = LANDMARKS[name]().sample(3, generator=generator)
    z[1, 0] = math.nan
    with pytest.raises(ValueError, match="NaN lies in no region"):
        regions(name, z)
