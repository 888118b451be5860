"""The learned prior: exact as a density, and a part of the model that learns where the decoder does."""

import math
from dataclasses import replace

import pytest
import torch

from avo_lib.models import VAE, VAEConfig
from avo_lib.models.vamp import EvenMixture
from avo_lib.numerics import log_mean_exp

CONFIG = VAEConfig(pixels=12, hidden=(9,), latent=1, kernel_hidden=5, batch_norm=False, pseudo_inputs=7, T=3)


@pytest.fixture
def x(generator) -> torch.Tensor:
    return (torch.rand(8, 12, generator=generator) < 0.4).double()


@pytest.fixture
def mixture(generator) -> EvenMixture:
    return EvenMixture(
        torch.randn(4, 3, generator=generator), 0.2 + torch.rand(4, 3, generator=generator, dtype=torch.float64)
    )


def test_its_density_is_that_of_torch(mixture, generator):
    each = torch.distributions.Independent(torch.distributions.Normal(mixture.mean, mixture.std), 1)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(4)), each)
    z = 2 * torch.randn(5, 6, 3, generator=generator)
    torch.testing.assert_close(mixture.log_prob(z), expected.log_prob(z))


def test_its_draws_have_its_moments(mixture, generator):
    z = mixture.sample(100_000, generator=generator)
    mean = mixture.mean.mean(0)
    second = (mixture.mean.square() + mixture.std.square()).mean(0)
    for values, exact in ((z, mean), (z.square(), second)):
        stderr = values.std(0) / math.sqrt(len(z))
        assert bool(((values.mean(0) - exact).abs() < 5 * stderr).all())
        assert bool((5 * stderr < 0.1).all()), "too few draws to tell a wrong density"


def test_weights_estimate_the_likelihood_under_it(x, generator):
    """One latent: log p(x) by quadrature of learned prior times likelihood."""
    model = VAE(replace(CONFIG, T=0)).requires_grad_(False)
    chain = model.chain(x)
    axis = torch.linspace(-12, 12, 4001)
    grid = axis.reshape(-1, 1, 1).expand(-1, len(x), 1)
    exact = chain.target(0)(grid).logsumexp(0) + (axis[1] - axis[0]).log()
    weights = chain.sample((20_000,), generator=generator).log_w()
    relative = (weights - exact).exp()
    stderr = relative.std(0) / math.sqrt(len(relative))
    assert bool(((log_mean_exp(weights) - exact).exp() - 1).abs().lt(5 * stderr).all())
    assert bool((5 * stderr < 0.05).all())
    standard = chain.path.log_likelihood(grid) - 0.5 * grid[..., 0].square() - 0.5 * math.log(2 * math.pi)
    other = standard.logsumexp(0) + (axis[1] - axis[0]).log()
    assert bool(((exact - other).abs() > 10 * stderr).any()), "N(0, 1) as prior would have passed"


def test_it_learns_from_the_last_target_alone(x, generator):
    """As the decoder does: f_0 … f_{T−1} hold it constant, unless the path is attached."""
    model = VAE(CONFIG)
    chain = model.chain(x)
    zs = torch.randn(3, len(x), 1, generator=generator)
    for path, early in ((chain.path, False), (chain.path.attached(), True)):
        first, _, last = path.log_ladder(zs).sum(-1)
        (gradient,) = torch.autograd.grad(last, model.pseudo_inputs, retain_graph=True)
        assert bool(gradient.any())
        (gradient,) = torch.autograd.grad(first, model.pseudo_inputs, retain_graph=True, allow_unused=True)
        assert bool(gradient is not None and gradient.any()) == early
        base = path.log_density(0, zs[0])
        assert base.requires_grad == early
        torch.testing.assert_close(base, model.learned_prior().log_prob(zs[0]))


def test_as_many_pseudo_inputs_as_images_make_the_average_posterior(x):
    """Then no other prior has a higher mean log density under the posteriors, N(0, I) and a wider one included."""
    model = VAE(VAEConfig(pixels=12, hidden=(9,), latent=2, batch_norm=False, pseudo_inputs=len(x)))
    with torch.no_grad():
        model.pseudo_inputs.copy_(torch.where(x > 0, 40.0, -40.0))
        prior, proposal = model.learned_prior(), model.chain(x).proposal
    torch.testing.assert_close(prior.mean, proposal.mean)
    z, _ = proposal.sample((20_000,), generator=torch.Generator().manual_seed(0))
    own = prior.log_prob(z).mean()
    rivals = [EvenMixture(prior.mean, prior.std * 1.2), EvenMixture(torch.zeros(1, 2), torch.ones(1, 2))]
    assert all(own > rival.log_prob(z).mean() for rival in rivals)


@pytest.mark.parametrize("shapes", [((2,), (2,)), ((3, 2), (2,)), ((3, 2), (3, 1))])
def test_a_mixture_has_an_axis_of_gaussians(shapes):
    with pytest.raises(ValueError, match=r"need mean and std \(K, dim\)"):
        EvenMixture(*(torch.ones(shape) for shape in shapes))


def test_images_of_the_prior_are_of_its_draws(generator):
    model = VAE(CONFIG)
    z = model.learned_prior().sample(6, generator=torch.Generator().manual_seed(3))
    images = model.sample_images(6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(images, model.decode(z).sigmoid())


@pytest.mark.parametrize("wrong", [{"batch_norm": True}, {"likelihood": "gaussian"}])
def test_what_it_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="pseudo_inputs counts images"):
        VAEConfig(**{"pseudo_inputs": 3, "batch_norm": False} | wrong)
