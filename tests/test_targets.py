"""Exact log Z against quadrature, exact samplers against their densities, the linear-Gaussian model against algebra."""

import math
import pickle

import pytest
import torch

from avo_lib.numerics import quadrature_log_z
from avo_lib.targets import ENERGIES, VARIANTS, GaussianMixture, LinearGaussian, energy
from avo_lib.testing import assert_mean

# By an independent grid quadrature (box ±20), to five digits.
LOG_Z = {
    ("a", "paper"): 1.87750,
    ("b", "paper"): 3.81460,
    ("b", "released"): 3.30983,
    ("c", "paper"): 3.45021,
    ("d", "paper"): 0.0,
    ("d", "released"): 1.11371,
    ("e", "paper"): 1.72631,
    ("f", "paper"): 2.63249,
}


@pytest.mark.parametrize(("name", "variant"), LOG_Z)
def test_log_z(name, variant):
    target = energy(name, variant)
    assert target.log_z == pytest.approx(LOG_Z[name, variant], abs=1e-5)
    # The root of a squared norm in a to c has a kink at the origin, which costs the trapezoidal rule some digits.
    finest = quadrature_log_z(target.log_density, points=2401)
    assert target.log_z == pytest.approx(finest, abs=2e-5)


def test_densities_by_hand():
    """One asymmetric point per energy, from the printed formulas."""
    z = torch.tensor([1.0, -0.5])
    r = math.hypot(1, 0.5)

    def half(x: float, s: float) -> float:
        return -0.5 * (x / s) ** 2

    a = half(r - 2, 0.4) + math.log(math.exp(half(-1, 0.6)) + math.exp(half(3, 0.6)))
    three = math.exp(half(-1, 0.6)) + math.exp(half(2 * math.sin(1), 1)) + math.exp(half(3.0, 0.6))
    wave, bump = math.sin(math.pi / 2), 3 * math.exp(-0.5)
    f = math.log(math.exp(half(-0.5 - wave, 0.35)) + math.exp(half(-0.5 - wave + bump, 0.35))) - 0.05
    expected = {
        ("a", "paper"): a,
        ("b", "paper"): half(0.5 * r - 2, 0.5) + math.log(three),
        ("b", "released"): half(math.sqrt(0.5) * r - 2, 0.5) + math.log(three),
        ("c", "paper"): -((2 - math.sqrt(1 + 0.125)) ** 2),
        ("e", "paper"): half(-0.5 - wave, 0.4) - 0.1,
        ("f", "paper"): f,
    }
    for key, value in expected.items():
        assert energy(*key).log_density(z).item() == pytest.approx(value, abs=1e-12), key


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", "def")
def test_samplers_are_exact(name, variant, generator):
    """Moments of exact draws against quadrature of the density; all these targets are asymmetric."""
    target = energy(name, variant)
    z = target.sample(200_000, generator=generator)
    axis = torch.linspace(-20, 20, 1201)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    weight = target.log_density(grid).softmax(0)
    for statistic in (lambda z: z, lambda z: z.square(), lambda z: torch.sin(z[:, :1] * z[:, 1:])):
        assert_mean(statistic(z), weight @ statistic(grid), resolution=0.05)


def test_mixture_masses(generator):
    mixture = GaussianMixture((0.25, 0.75), ((-3.0, 0.0), (3.0, 1.0)), 0.5)
    z = mixture.sample(100_000, generator=generator)
    assert_mean((z[:, 0] > 0).double(), 0.75, resolution=0.002)
    assert quadrature_log_z(mixture.log_density) == pytest.approx(0, abs=1e-9)


@pytest.fixture
def model(generator) -> LinearGaussian:
    return LinearGaussian(torch.randn(5, 2, generator=generator), torch.randn(5, generator=generator), 0.6)


def test_log_marginal_is_the_gaussian_one(model, generator):
    _, x = model.sample(7, generator=generator)
    covariance = model.weight @ model.weight.T + model.noise_std**2 * torch.eye(5)
    exact = torch.distributions.MultivariateNormal(model.bias, covariance).log_prob(x)
    torch.testing.assert_close(model.log_z(x), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 4.0])
def test_tempered_log_z_against_quadrature(model, alpha, generator):
    _, x = model.sample(1, generator=generator)
    numerical = quadrature_log_z(lambda z: model.log_prior(z) + alpha * model.log_likelihood(x[0], z), box=12)
    assert model.log_z(x, alpha).item() == pytest.approx(numerical, abs=1e-8)


def test_exact_posterior_makes_every_weight_the_evidence(model, generator):
    """The zero-variance test: log p(x, z) − log p(z|x) is log p(x) at any z."""
    _, x = model.sample(4, generator=generator)
    mean, covariance = model.posterior(x)
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    z = torch.randn(6, 4, 2, generator=generator)
    log_w = model.log_prior(z) + model.log_likelihood(x, z) - posterior.log_prob(z)
    torch.testing.assert_close(log_w, model.log_z(x).expand(6, 4), rtol=0, atol=1e-9)


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="a, b, c, d, e, f"):
        energy("g")
    with pytest.raises(ValueError, match="paper, released"):
        energy("a", "arxiv")
    with pytest.raises(ValueError, match="no exact sampler"):
        energy("a").sample(3)
    with pytest.raises(ValueError, match="summing to 1"):
        GaussianMixture((0.5, 0.6), ((0, 0), (1, 1)), 1.0)
    with pytest.raises(TypeError, match="log_z"):  # it would change nothing: scaled() does
        GaussianMixture((1.0,), ((0, 0),), 1.0, log_z=5.0)
    with pytest.raises(ValueError, match="noise_std > 0"):
        LinearGaussian(torch.eye(2), torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match="noise_std > 0"):
        LinearGaussian(torch.eye(2), torch.zeros(2), math.nan)
    with pytest.raises(ValueError, match="summing to 1"):
        GaussianMixture((math.nan, 0.5), ((0, 0), (1, 1)), 1.0)
    for means in (((0, 0, 5),), ((0,),)):
        with pytest.raises(ValueError, match=r"means \(z1, z2\)"):
            GaussianMixture((1.0,), means, 1.0)
    for std in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="std > 0"):
            GaussianMixture((1.0,), ((0, 0),), std)


@pytest.mark.parametrize("alpha", [-1.0, math.nan])
def test_an_exponent_below_zero_is_refused(alpha, model):
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        model.log_z(torch.zeros(5), alpha)


def test_data_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"takes points \(\.\.\., 5\)"):
        model.posterior(torch.zeros(3, 1))


@pytest.mark.parametrize("target", [energy("a"), energy("d"), GaussianMixture((1.0,), ((0, 0),), 1.0)])
@pytest.mark.parametrize("dim", [1, 3])
def test_points_of_another_size_are_refused(target, dim):
    with pytest.raises(ValueError, match=rf"takes points \(\.\.\., 2\), not \(4, {dim}\)"):
        target.log_density(torch.zeros(4, dim))


@pytest.mark.parametrize(
    "target", [*map(energy, ENERGIES), GaussianMixture((0.3, 0.7), ((-2.5, 0.0), (2.5, 0.0)), 0.5)]
)
def test_points_may_be_whole_numbers(target):
    """Means shaped as such points would be cut to whole numbers."""
    z = torch.tensor([[2, 0], [-1, 3], [0, 0]])
    torch.testing.assert_close(target.log_density(z), target.log_density(z.double()))


@pytest.mark.parametrize("target", [*map(energy, "def"), GaussianMixture((1,), ((0, 0),), 1)])
def test_there_may_be_no_draws(target):
    assert target.sample(0).shape == (0, 2) and target.sample(1).shape == (1, 2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ENERGIES)
def test_an_energy_can_be_sent_to_another_process(name, variant):
    target = energy(name, variant)
    twin, z = pickle.loads(pickle.dumps(target)), torch.tensor([[1.0, -0.5], [0.0, 2.0]])
    assert torch.equal(target.log_density(z), twin.log_density(z)) and target.log_z == twin.log_z
    if name in "def":
        draws = [one.sample(5, generator=torch.Generator().manual_seed(1)) for one in (target, twin)]
        assert torch.equal(*draws)


def test_a_linear_model_stays_on_its_device():
    """``meta`` stands for any: what is made elsewhere cannot be multiplied with it."""
    model = LinearGaussian(torch.ones(5, 2, device="meta"), torch.zeros(5, device="meta"), 0.6)
    _, x = model.sample(3)
    assert x.device.type == "meta" and model.posterior(x)[1].device.type == "meta" and model.log_z(x).shape == (3,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", "def")
def test_draws_are_made_where_their_generator_is(name):
    z = energy(name).sample(5, generator=torch.Generator("cuda").manual_seed(1))
    assert z.device.type == "cuda" and energy(name).log_density(z).isfinite().all()


def test_all_names_exist():
    assert {energy(name, variant).name[:8] for name in ENERGIES for variant in VARIANTS} == {
        f"energy {name}" for name in ENERGIES
    }
