"""Paths and schedules."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from avo_lib.numerics import log_normal
from avo_lib.paths import AmortisedPath, GeometricPath, linear_alphas, sigmoidal_alphas
from avo_lib.targets import energy


@pytest.mark.parametrize("make", [linear_alphas, sigmoidal_alphas])
@pytest.mark.parametrize("T", [1, 2, 7])
def test_alphas_rise_from_0_to_1(make, T):
    alphas = make(T)
    assert alphas.shape == (T + 1,) and alphas[0] == 0 and alphas[-1] == 1 and bool((alphas.diff() > 0).all())


def geometric() -> GeometricPath:
    return GeometricPath(log_normal, energy("f").log_density, linear_alphas(3))


def amortised() -> AmortisedPath:
    likelihood = energy("e").log_density
    return AmortisedPath(log_normal, likelihood, likelihood, linear_alphas(3))


@pytest.mark.parametrize("path", [geometric(), amortised()], ids=["geometric", "amortised"])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_ladder_is_the_path(path, beta, generator):
    zs = torch.randn(3, 5, 4, 2, generator=generator)
    one_by_one = torch.stack([path.log_density(t, zs[t - 1], beta) for t in (1, 2, 3)])
    torch.testing.assert_close(path.log_ladder(zs, beta), one_by_one)


def test_the_geometric_path_interpolates_logs(generator):
    z = torch.randn(6, 2, generator=generator)
    between = geometric().log_density(1, z)
    torch.testing.assert_close(between, 2 / 3 * log_normal(z) + 1 / 3 * energy("f").log_density(z))


def test_beta_weighs_the_prior_alone(generator):
    """p(z)^beta p(x|z)^alpha: beta cools towards the likelihood's mode, alpha heats towards the prior."""
    z = torch.randn(6, 2, generator=generator)
    likelihood = energy("e").log_density(z)
    torch.testing.assert_close(amortised().log_density(3, z, 0.1), 0.1 * log_normal(z) + likelihood)
    torch.testing.assert_close(amortised().log_density(1, z), log_normal(z) + likelihood / 3)


def test_ends_do_not_multiply_infinity_by_zero():
    nowhere = GeometricPath(lambda z: z[..., 0] - torch.inf, lambda z: z[..., 0], linear_alphas(2))
    assert nowhere.log_density(2, torch.ones(1, 2)).item() == 1
    backwards = GeometricPath(lambda z: z[..., 0], lambda z: z[..., 0] - torch.inf, linear_alphas(2))
    assert backwards.log_density(0, torch.ones(1, 2)).item() == 1


@pytest.mark.parametrize(
    "alphas", [[0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.6, 1.0], [[0.0, 1.0]], [0.0, math.nan, 1.0], []]
)
def test_other_alphas_are_refused(alphas):
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        GeometricPath(log_normal, log_normal, torch.tensor(alphas))


def test_fewer_steps_than_none_are_refused():
    with pytest.raises(ValueError, match="T must be a whole number of at least 0, not -1"):
        linear_alphas(-1)


@pytest.mark.parametrize("alphas", [[0, 0.5, 1], np.array([0, 0.5, 1])], ids=["list", "array"])
def test_alphas_may_be_any_numbers(alphas):
    z = torch.randn(5, 2)
    for path in (
        GeometricPath(log_normal, log_normal, alphas),
        AmortisedPath(log_normal, log_normal, log_normal, alphas),
    ):
        factor = 1 if isinstance(path, GeometricPath) else 1.5
        torch.testing.assert_close(path.log_density(1, z), factor * log_normal(z))
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        GeometricPath(log_normal, log_normal, alphas[:2])


class Learned(torch.nn.Module):
    """A density with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, z):
        return self.scale * z[..., 0]


def stored(one):
    return pickle.loads(pickle.dumps(one))


@pytest.mark.parametrize("again", [copy.deepcopy, stored])
@pytest.mark.parametrize(
    "make",
    [
        lambda one: GeometricPath(log_normal, one, linear_alphas(1)),
        lambda one: AmortisedPath(log_normal, one, one, linear_alphas(1)),
    ],
    ids=["geometric", "amortised"],
)
def test_a_path_is_copied_with_its_densities(make, again):
    """Else a copy would go on learning with the original."""
    one, z = Learned(), torch.ones(5, 1)
    path = make(one)
    before, copied = path.log_density(1, z), again(path)
    with torch.no_grad():
        one.scale.fill_(3.0)
    assert torch.equal(copied.log_density(1, z), before) and not torch.equal(path.log_density(1, z), before)


@pytest.mark.parametrize("name", "abcef")
def test_an_energy_can_be_stored(name):
    target = energy(name)
    path = stored(GeometricPath(log_normal, stored(target).log_density, linear_alphas(2)))
    assert path.log_density(2, torch.ones(2)) == target.log_density(torch.ones(2))


def test_stations_with_a_gradient_keep_it_and_arrays_are_copied():
    middle = torch.tensor(0.3, requires_grad=True)
    path = GeometricPath(log_normal, log_normal, [torch.tensor(0.0), middle, torch.tensor(1.0)])
    assert torch.autograd.grad(path.alphas.square().sum(), middle)[0] == 2 * middle
    stations = np.array([0.0, 0.5, 1.0])
    path = GeometricPath(log_normal, log_normal, stations)
    stations[1] = 2.0
    assert path.alphas.tolist() == [0.0, 0.5, 1.0]


def half(z):
    """A density that vanishes on one side."""
    return torch.where(z[..., 0] > 0, 0.0, -torch.inf)


def test_a_learned_alpha_has_a_gradient_where_a_density_vanishes():
    alphas = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    log_f = GeometricPath(log_normal, half, alphas).log_density(1, z)
    (gradient,) = torch.autograd.grad(log_f.exp().sum(), alphas)
    assert log_f[1] == -torch.inf and gradient[1] == pytest.approx(-(log_normal(z[0]) * log_f[0].exp()).item())


def test_a_likelihood_with_no_weight_may_vanish():
    path = AmortisedPath(log_normal, half, half, [0.0, 0.0, 1.0])
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert torch.equal(path.log_density(1, z), log_normal(z))
    ladder = path.log_ladder(torch.stack([z, z]))
    assert torch.equal(ladder[0], log_normal(z)) and ladder[1, 1] == -torch.inf
