"""Pathwise gradients: unbiased, silent at the posterior, and less noisy than the bound's own."""

import pytest
import torch

from avo_lib.chain import Chain, Drawn, Gaussian
from avo_lib.kernels import GatedKernel
from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_normal
from avo_lib.objectives import ELBO, IWAE
from avo_lib.paths import AmortisedPath, linear_alphas
from avo_lib.pathwise import STL, DReG, without_score

DRAWS = 4000


class Toy(torch.nn.Module):
    """p(z) = N(mu, 1), p(x|z) = N(z, 1), q(z|x) = N(a x + b, s²), each x with parameters of its own."""

    def __init__(self, a: float, b: float, s: float, mu: float) -> None:
        super().__init__()
        self.phi = torch.nn.Parameter(torch.tensor([a, b, s]).expand(DRAWS, 3).clone())
        self.theta = torch.nn.Parameter(torch.full((DRAWS, 1), mu))

    def chain(self, x):
        a, b, s = self.phi.unsqueeze(-1).unbind(1)
        prior, likelihood = (lambda z: log_normal(z, self.theta)), (lambda z: log_normal(x, z))
        return Chain(Gaussian(a * x + b, s), [], AmortisedPath(prior, likelihood, likelihood, linear_alphas(0)))


def gradients(objective, generator, *, phi=(0.3, 0.4, 0.9), mu=0.5):
    """One draw of the gradient for each datum, of the proposal (DRAWS, 3) and of the model (DRAWS, 1)."""
    model = Toy(*phi, mu)
    value = objective(model, torch.full((DRAWS, 1), 1.5), generator=generator)
    value.sum().backward()
    return value.detach(), model.phi.grad, model.theta.grad


@pytest.mark.parametrize("pair", [(ELBO(), STL()), (IWAE(4), DReG(4)), (ELBO(), DReG(1))], ids=str)
def test_the_mean_gradient_is_that_of_the_bound(pair, generator):
    for one, other in zip(gradients(pair[0], generator), gradients(pair[1], generator)):
        difference = one.mean(0) - other.mean(0)
        error = ((one.var(0) + other.var(0)) / DRAWS).sqrt()
        assert bool((difference.abs() < 5 * error).all())
        assert bool((error < 0.1 * one.std(0).clamp(min=0.1)).all())  # a bias of half a deviation would show


def test_at_the_posterior_the_gradient_of_the_proposal_vanishes(generator):
    exact = {"phi": (0.5, 0.25, 0.5**0.5), "mu": 0.5}  # the posterior is N((x + mu) / 2, 1/2)
    for objective in (STL(), DReG(5)):
        assert gradients(objective, generator, **exact)[1].abs().max() < 1e-9
    assert gradients(ELBO(), generator, **exact)[1].std() > 0.1


def test_with_one_draw_it_is_the_elbo_without_the_score():
    both = [gradients(one, torch.Generator().manual_seed(3)) for one in (STL(), DReG(1))]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_noise_shrinks_where_that_of_the_bound_does_not(generator):
    """Signal to noise of the proposal's gradient: it falls with K under IWAE and rises under DReG."""
    ratio = {}
    for K in (4, 64):
        for name, objective in (("iwae", IWAE(K)), ("dreg", DReG(K))):
            _, phi, _ = gradients(objective, generator)
            ratio[name, K] = (phi.mean(0).abs() / phi.std(0))[1]
    assert ratio["dreg", 64] > 1.5 * ratio["dreg", 4] > ratio["iwae", 4] > 1.3 * ratio["iwae", 64]


def test_values_are_those_of_the_bounds(generator):
    model = VAE(VAEConfig(pixels=6, hidden=(5,), latent=2, batch_norm=False))
    x = (torch.rand(7, 6, generator=generator) < 0.5).double()
    for pathwise, plain in ((STL(), ELBO()), (DReG(3), IWAE(3))):
        states = [torch.Generator().manual_seed(3) for _ in range(2)]
        torch.testing.assert_close(*(one(model, x, generator=s) for one, s in zip((pathwise, plain), states)))


@pytest.mark.parametrize(
    "make", [lambda g: (g, [GatedKernel(2, 3)]), lambda g: (Drawn(g), [])], ids=["kernel", "drawn"]
)
def test_other_chains_are_refused(make):
    proposal, kernels = make(Gaussian(torch.zeros(2), torch.ones(2)))
    path = AmortisedPath(log_normal, log_normal, log_normal, linear_alphas(len(kernels)))
    with pytest.raises(ValueError, match="need a Gaussian proposal and no kernels"):
        without_score(Chain(proposal, kernels, path))


@pytest.mark.parametrize("beta", [0.2, 0.5, 2.0])
def test_the_gradient_is_that_of_the_bound_with_any_beta(beta, generator):
    """A z-test of 5 σ whose power is stated: the factor of beta = 1 alone would be far outside."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = torch.nn.Parameter(torch.zeros(1))

        def chain(self, x):
            like = lambda z: log_normal(x, z, 0.5)  # noqa: E731
            mean = self.mean.expand(len(x), 1)
            path = AmortisedPath(log_normal, like, like, linear_alphas(0))
            return Chain(Gaussian(mean, torch.ones_like(mean)), [], path)

    model, x = Model(), torch.ones(500, 1)
    slopes = {
        name: torch.stack(
            [
                torch.autograd.grad(objective(model, x, beta=at, generator=generator).mean(), model.mean)[0]
                for _ in range(40)
            ]
        ).flatten()
        for name, objective, at in (("iwae", IWAE(5), beta), ("dreg", DReG(5), beta), ("beta 1", DReG(5), 1.0))
    }
    error = (slopes["iwae"].var() / 40 + slopes["dreg"].var() / 40).sqrt()
    assert (slopes["iwae"].mean() - slopes["dreg"].mean()).abs() < 5 * error
    assert (slopes["iwae"].mean() - slopes["beta 1"].mean()).abs() > 10 * error


def test_a_weight_of_zero_spoils_no_bound(generator):
    like = lambda z: torch.where(z[..., 0] > 0, log_normal(torch.ones(4, 1), z, 0.5), -torch.inf)  # noqa: E731
    path = AmortisedPath(log_normal, like, like, linear_alphas(0))
    mean = torch.full((4, 1), 0.5, requires_grad=True)
    model = type("Model", (), {"chain": lambda self, x: Chain(Gaussian(mean, torch.ones(4, 1)), [], path)})()
    bounds = [one(model, torch.ones(4, 1), generator=torch.Generator().manual_seed(4)) for one in (IWAE(9), DReG(9))]
    torch.testing.assert_close(*bounds)
    assert torch.autograd.grad(bounds[1].sum(), mean)[0].isfinite().all()


def test_a_proposal_that_scores_its_draws_otherwise_is_refused():
    class Wide(Gaussian):
        pass

    path = AmortisedPath(log_normal, log_normal, log_normal, linear_alphas(0))
    with pytest.raises(ValueError, match="need a Gaussian proposal and no kernels, not Wide"):
        without_score(Chain(Wide(torch.zeros(2), torch.ones(2)), [], path))
