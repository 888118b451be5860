"""The linear VAE against probabilistic PCA, Monte Carlo, and second derivatives by hand."""

import math

import pytest
import torch

from avo_lib.chain import Chain, Gaussian
from avo_lib.models.linear_vae import LinearVAE, best_encoder, collapsed, log_marginal, ppca
from avo_lib.numerics import log_normal
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import LinearGaussian
from avo_lib.testing import assert_mean

SPECTRUM = torch.tensor([6.0, 3.0, 1.5, 0.7, 0.3], dtype=torch.float64)


@pytest.fixture
def covariance(generator):
    """SPECTRUM in a random rotation."""
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    return rotation * SPECTRUM @ rotation.T


def perturbed(shape, generator, scale=0.5):
    return scale * torch.randn(shape, generator=generator)


def train(model, covariance, beta=1.0, steps=300):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure():
        optimiser.zero_grad()
        loss = -model.elbo(covariance, beta).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return model


def test_elbo_against_monte_carlo(generator):
    """The chain of the rest of the library, with no kernels, on the data that the covariance came from."""
    x = torch.randn(50, 5, generator=generator) * SPECTRUM.sqrt()
    x = x - x.mean(0)
    model = LinearVAE(perturbed((5, 3), generator), 0.6, encoder=perturbed((3, 5), generator))
    with torch.no_grad():
        model.log_var += torch.tensor([0.3, -0.5, 0.1])
        q = Gaussian(x @ model.encoder.T, (0.5 * model.log_var).exp().expand(50, 3))
        joint = LinearGaussian(model.weight, torch.zeros(5), 0.6**0.5)
        path = GeometricPath(q.log_prob, lambda z: log_normal(z) + joint.log_likelihood(x, z), linear_alphas(0))
        log_w = Chain(q, [], path).sample((5_000,), generator=generator).log_w()
        exact = model.elbo(x.T @ x / 50)
        assert_mean(log_w.mean(1), exact, resolution=0.03)
        torch.testing.assert_close(model.unit_kl(x).mean(0), model.kl(x.T @ x / 50))


def test_log_marginal_against_the_density(covariance, generator):
    weight = perturbed((5, 2), generator)
    total = weight @ weight.T + 0.4 * torch.eye(5)
    density = torch.distributions.MultivariateNormal(torch.zeros(5), total)
    x = torch.randn(7, 5, generator=generator)
    found = log_marginal(weight, torch.tensor(0.4), x.T @ x / 7)
    torch.testing.assert_close(found, density.log_prob(x).mean(), rtol=0, atol=1e-12)


def test_elbo_is_a_bound_and_its_gap_is_known(covariance, generator):
    """At the best encoder the gap is Hadamard's, ½ (Σ log M_jj − log det M); any other encoder is worse."""
    weight, noise_var = perturbed((40, 5, 3), generator), torch.rand(40, generator=generator) + 0.2
    exact = log_marginal(weight, noise_var, covariance)
    gap = exact - LinearVAE(weight, noise_var).elbo(covariance)
    precision = weight.mT @ weight + noise_var[:, None, None] * torch.eye(3)
    hadamard = 0.5 * (precision.diagonal(dim1=1, dim2=2).log().sum(-1) - torch.logdet(precision))
    torch.testing.assert_close(gap, hadamard, rtol=0, atol=1e-10)
    assert bool((gap > 1e-4).all())
    other = best_encoder(weight, noise_var)[0] + perturbed((40, 3, 5), generator, 0.1)
    assert bool((LinearVAE(weight, noise_var, encoder=other).elbo(covariance) < exact - gap).all())


@pytest.mark.parametrize("noise_var", [None, 0.5, 2.0, 10.0])
def test_the_bound_is_tight_and_flat_at_the_ppca_optimum(covariance, noise_var):
    best = ppca(covariance, 3, noise_var)
    variance, exact = best.noise_var, best.log_marginal
    model = LinearVAE(best.weight, variance, learn_noise=noise_var is None)
    bound = model.elbo(covariance)
    torch.testing.assert_close(bound, exact, rtol=0, atol=1e-10)
    bound.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-9
    kept = SPECTRUM[:3].clamp(min=variance)
    torch.testing.assert_close(model.kl(covariance), 0.5 * (kept / variance).log(), rtol=0, atol=1e-10)
    assert int((model.kl(covariance) < 1e-10).sum()) == int((SPECTRUM[:3] <= variance).sum())
    if noise_var is None:
        assert variance.item() == pytest.approx(0.5)
        textbook = 5 * math.log(2 * math.pi) + SPECTRUM[:3].log().sum() + 2 * math.log(0.5) + 5
        assert exact.item() == pytest.approx(-0.5 * textbook.item(), abs=1e-10)


def test_a_vector_is_a_diagonal_covariance(covariance, generator):
    rotated, plain = ppca(covariance, 2), ppca(SPECTRUM, 2)
    torch.testing.assert_close(rotated.log_marginal, plain.log_marginal)
    model = LinearVAE(perturbed((5, 2), generator), 0.3, encoder=perturbed((2, 5), generator))
    torch.testing.assert_close(model.elbo(SPECTRUM), model.elbo(SPECTRUM.diag()))


@pytest.mark.parametrize("noise_var", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_curvature_of_a_zero_column(noise_var):
    """Two kept units and a zero column: (λ_j − σ²)/σ⁴ along unused axes, −(λ_a − σ²)/(σ² λ_a) along kept ones."""
    kept = int((SPECTRUM[:2] > noise_var).sum())
    start = torch.zeros(5, 3)
    start[:, :2] = ppca(SPECTRUM, 2, noise_var).weight
    axes = torch.eye(5)
    directions = torch.cat([axes, (axes[:, None] + axes)[axes == 0] / 2**0.5])  # the pairs show that axes do not mix
    step = 1e-3
    weight = start.repeat(2, len(directions), 1, 1)
    weight[0, :, :, 2], weight[1, :, :, 2] = step * directions, 2 * step * directions
    one, two = LinearVAE(weight, noise_var).elbo(SPECTRUM) - LinearVAE(start, noise_var).elbo(SPECTRUM)
    curvature = (16 * one - two) / (6 * step**2)  # of an even function, to fourth order
    expected = (SPECTRUM - noise_var) / noise_var**2
    expected[:kept] = -(SPECTRUM[:kept] - noise_var) / (noise_var * SPECTRUM[:kept])
    torch.testing.assert_close(curvature, directions.square() @ expected, rtol=0, atol=1e-7)
    assert bool((curvature[:5] < 0).all()) == bool(SPECTRUM[kept] < noise_var)


@pytest.mark.parametrize(("noise_var", "escapes"), [(1.4, True), (1.6, False)])
def test_ascent_from_a_perturbed_zero_column(noise_var, escapes, generator):
    """The third eigenvalue is 1.5: below it the zero column grows, above it dies."""
    weight = torch.cat([ppca(SPECTRUM, 2, noise_var).weight, perturbed((5, 1), generator, 1e-3)], 1)
    before = LinearVAE(weight, noise_var, learn_noise=False)
    after = train(LinearVAE(weight, noise_var, learn_noise=False), SPECTRUM)
    size = after.weight[:, 2].norm().item()
    assert size == pytest.approx((1.5 - noise_var) ** 0.5 if escapes else 0.0, abs=1e-3)
    assert after.elbo(SPECTRUM) > before.elbo(SPECTRUM)


def test_every_start_ends_at_the_maximum(covariance, generator):
    """No local maxima: 20 random starts with learned σ², each of decoder and encoder, and principal axes at the end."""
    weight = perturbed((20, 5, 2), generator)
    model = train(LinearVAE(weight, 1.0, encoder=perturbed((20, 2, 5), generator)), covariance, steps=2000)
    best = ppca(covariance, 2)
    torch.testing.assert_close(model.elbo(covariance), best.log_marginal.expand(20), rtol=0, atol=1e-6)
    gram = model.weight.mT @ model.weight
    assert gram[:, 0, 1].abs().max() < 1e-2
    lengths = gram.diagonal(dim1=1, dim2=2).sort(descending=True).values
    torch.testing.assert_close(lengths, best.weight.square().sum(0).expand(20, 2), rtol=0, atol=1e-2)


@pytest.mark.parametrize("beta", [0.5, 3.0, 7.0])
def test_beta_scales_the_noise(covariance, beta, generator):
    """The β-ELBO at σ² is β times the ELBO at βσ², up to a constant; so it collapses completely when λ_1 ≤ βσ²."""
    weight, encoder = perturbed((9, 5, 3), generator), perturbed((9, 3, 5), generator)
    one, other = (LinearVAE(weight, value, encoder=encoder, learn_noise=False) for value in (0.9, 0.9 * beta))
    with torch.no_grad():
        other.log_var.copy_(one.log_var)
        difference = one.elbo(covariance, beta) - beta * other.elbo(covariance)
    torch.testing.assert_close(difference, difference[:1].expand(9), rtol=0, atol=1e-9)
    trained = train(one, covariance, beta)
    found = torch.linalg.svdvals(trained.weight).square()
    expected = (SPECTRUM[:3] - 0.9 * beta).clamp(min=0)
    torch.testing.assert_close(found, expected.expand(9, 3), rtol=0, atol=2e-3)


def test_collapse_needs_almost_all_data():
    unit_kl = torch.zeros(1000, 3)
    unit_kl[:10, 1] = 1.0
    unit_kl[:11, 2] = 1.0
    assert collapsed(unit_kl, 0.1).tolist() == [True, True, False]
    for above in range(100):  # exactly the share that is allowed, and one more
        few, many = (torch.arange(100) < count for count in (above, above + 1))
        assert collapsed(torch.stack([few, many], 1).double(), 0.1, above / 100).tolist() == [True, False]


def test_what_cannot_be_is_refused(covariance):
    with pytest.raises(ValueError, match="dim < data_dim"):
        ppca(covariance, 5)
    with pytest.raises(ValueError, match="must be positive"):
        ppca(torch.tensor([1.0, 0.0, 0.0]), 1)
    with pytest.raises(ValueError, match="must be positive"):
        ppca(covariance, 1, math.nan)
    with pytest.raises(ValueError, match="noise_var > 0"):
        LinearVAE(torch.ones(3, 1), 0.0)
    with pytest.raises(ValueError, match="need encoder"):
        LinearVAE(torch.ones(3, 1), 1.0, encoder=torch.ones(3, 1))
    with pytest.raises(ValueError, match="KL is NaN"):
        collapsed(torch.tensor([[math.nan]]), 0.1)
    with pytest.raises(ValueError, match="or there is none"):
        collapsed(torch.zeros(0, 3), 0.1)
    for epsilon, delta in ((math.nan, 0.01), (0.0, 0.01), (0.1, -1.0), (0.1, math.nan), (0.1, 1.0)):
        with pytest.raises(ValueError, match="need an epsilon above 0 nats"):
            collapsed(torch.zeros(5, 3), epsilon, delta)


@pytest.mark.parametrize("shape", [(1,), (3, 1)])
def test_a_covariance_of_other_data_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        LinearVAE(torch.ones(3, 1), 1.0).elbo(torch.ones(shape))
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        log_marginal(torch.ones(3, 1), torch.tensor(1.0), torch.ones(shape))


def test_a_negative_eigenvalue_is_no_variance():
    with pytest.raises(ValueError, match="no negative eigenvalue"):
        ppca(torch.tensor([5.0, 3.0, -1.0]), 1)
