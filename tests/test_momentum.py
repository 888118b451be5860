"""A chain with a momentum is the same chain in more dimensions."""

import math

import torch

from avo_lib.chain import Chain, Gaussian
from avo_lib.kernels import Underdamped
from avo_lib.momentum import add_momentum, with_momentum
from avo_lib.nested import LearnedPath
from avo_lib.numerics import log_normal
from avo_lib.paths import AmortisedPath, linear_alphas
from avo_lib.targets import LinearGaussian
from avo_lib.testing import assert_mean


def test_a_momentum_leaves_the_normaliser_and_is_standard_normal(generator):
    base = Gaussian(torch.zeros(3), torch.full((3,), 2.0))
    chain = with_momentum(Chain(base, [], AmortisedPath(log_normal, log_normal, log_normal, linear_alphas(0))))
    pair, log_q = chain.proposal.sample((200_000,), generator=generator)
    z, momentum = pair.chunk(2, -1)
    torch.testing.assert_close(log_q, base.log_prob(z) + log_normal(momentum))
    torch.testing.assert_close(chain.proposal.log_prob(pair), log_q)
    assert_mean(momentum.square(), 1.0, resolution=0.01)
    assert_mean(momentum[:, :1] * z, 0.0, resolution=0.01)
    torch.testing.assert_close(add_momentum(z)[:, :3], z)


def test_a_path_that_learns_is_not_copied():
    path = LearnedPath(log_normal, log_normal, T=3)
    chain = with_momentum(Chain(Gaussian(torch.zeros(2), torch.ones(2)), [Underdamped(0.1, 0.5)] * 3, path))
    with torch.no_grad():
        path.rises[0] = 5.0
    assert torch.equal(chain.path.alphas, path.alphas) and chain.path.alphas[1] > 0.9


def test_beta_weighs_the_momentum_as_part_of_the_divergence(generator):
    """At beta = 0 the weight of a model is its likelihood alone, whatever the momentum."""
    model = LinearGaussian(torch.randn(5, 2, generator=generator), torch.zeros(5), 0.6)
    _, x = model.sample(1, generator=generator)
    likelihood = lambda z: model.log_likelihood(x[0], z)  # noqa: E731
    path = AmortisedPath(model.log_prior, likelihood, likelihood, linear_alphas(3))
    chain = with_momentum(Chain(Gaussian(torch.zeros(2), torch.ones(2)), [Underdamped(0.1, 0.5)] * 3, path))
    drawn = chain.sample((20,), generator=generator)
    torch.testing.assert_close(drawn.log_w(0.0), likelihood(drawn.z[-1][:, :2]))
    for beta in (0.3, 1.0):
        start = chain.path.log_density(0, drawn.z[0], beta) - beta * drawn.log_q0
        torch.testing.assert_close(start + drawn.log_v(beta).sum(0), drawn.log_w(beta))


def test_a_conserved_energy_makes_every_weight_alike(generator):
    """On a Gaussian that is its own path, Hamiltonian dynamics of small steps keep f_T(z) N(p): log w is log Z."""
    base = Gaussian(torch.zeros(2), torch.ones(2))
    path = AmortisedPath(log_normal, lambda z: 0.7 + 0 * z[..., 0], lambda z: 0.7 + 0 * z[..., 0], linear_alphas(4))
    spread = [
        with_momentum(Chain(base, [Underdamped(step, 0.4)] * 4, path)).sample((500,), generator=generator).log_w()
        for step in (0.02, 0.01)
    ]
    assert (spread[1] - 0.7).abs().max() < 1e-3
    assert math.isclose((spread[0].std() / spread[1].std()).item(), 8, rel_tol=0.3)
