"""Nested objectives: AVO where particles are equal, the gradient of an exact divergence where a path learns."""

import math

import pytest
import torch
from exact import linear_gaussian_chain

from avo_lib.chain import Chain, Gaussian
from avo_lib.kernels import GatedKernel
from avo_lib.nested import LearnedPath, nested
from avo_lib.numerics import log_normal, symmetric_axis
from avo_lib.objectives import avo
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.testing import assert_mean

START, STEP, BACK = 1.2, (0.8, 0.4, 0.7), (0.6, -0.1, 0.9)
"""S.d. of the base; slope, shift and s.d. of the kernels on a learned path, forwards and backwards."""


class Linear:
    """A Gaussian kernel that fits nothing in particular."""

    def forward(self, z_prev, log_f, context, *, generator=None):
        (a, b, s), (c, d, u) = STEP, BACK
        z = a * z_prev + b + s * torch.randn(z_prev.shape, generator=generator)
        return z, log_normal(z_prev, c * z + d, u) - log_normal(z, a * z_prev + b, s)


def base(*copies: int) -> Gaussian:
    return Gaussian(torch.zeros(*copies, 1), torch.full((1,), START))


def log_target(z):
    return torch.logaddexp(log_normal(z, 1.5, 0.8), log_normal(z, 0.0, 0.9) - 1.5) + 1.3


def small_chain(T=3) -> tuple[Chain, torch.nn.ModuleList]:
    torch.manual_seed(0)
    kernels = torch.nn.ModuleList(GatedKernel(1, 4) for _ in range(T))
    return Chain(base(), list(kernels), GeometricPath(base().log_prob, log_target, linear_alphas(T))), kernels


def gradient(value, parameters) -> torch.Tensor:
    found = torch.autograd.grad(value.sum(), list(parameters), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


def test_equal_particles_are_avo():
    chain, kernels = small_chain()
    found = nested(chain, 7, "equal", generator=torch.Generator().manual_seed(1))
    trajectory = chain.sample((7,), detach=True, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, trajectory.log_v().sum(0).mean(0))
    known = gradient(avo(trajectory).mean(0), kernels.parameters())
    torch.testing.assert_close(gradient(found, kernels.parameters()), known)
    assert known.abs().max() > 0.1


def test_one_step_is_the_same_for_all():
    """The particles of f_0 are exact, and nothing lies between the ends."""
    chain, kernels = small_chain(T=1)
    path = LearnedPath(base().log_prob, log_target, T=1)
    values = [
        gradient(nested(one, 7, kind, generator=torch.Generator().manual_seed(1)), kernels.parameters())
        for one, kind in (
            (chain, "equal"),
            (chain, "weighted"),
            (chain, "resampled"),
            (Chain(base(), chain.kernels, path), "weighted"),
        )
    ]
    for other in values[1:]:
        torch.testing.assert_close(other, values[0])
    assert gradient(nested(Chain(base(), chain.kernels, path), 7), path.parameters()).abs().max() == 0


@pytest.mark.parametrize("particles", ["equal", "weighted", "resampled"])
def test_exact_couplings_have_no_variance_and_their_path_no_slope(particles, generator):
    chain, log_z = linear_gaussian_chain()
    found = nested(chain, 9, particles, generator=generator)
    assert abs(found.item() - log_z[-1]) < 1e-9
    if particles != "equal":
        path = LearnedPath(chain.path.log_f0, chain.path.log_fT, T=6)
        slope = gradient(nested(Chain(chain.proposal, chain.kernels, path), 9, particles), path.parameters())
        assert slope.abs().max() < (1e-9 if particles == "weighted" else 1.0)


LOG_Z = 1.3 + math.log1p(math.exp(-1.5))


def exact_divergence(alpha: float) -> tuple[float, float]:
    """The sum of both divergences, and its slope in the alpha between: sums over a grid, automatic differentiation."""
    z = symmetric_axis(9.0, 601)
    cell = (z[1] - z[0]).item()
    middle = torch.tensor(alpha, requires_grad=True)
    points, ends = z[:, None], [base().log_prob(z[:, None]), log_target(z[:, None])]
    log_f = [ends[0], torch.lerp(*ends, middle), ends[1]]
    pi = [(one - one.logsumexp(0) - torch.tensor(cell).log()) for one in log_f]
    (a, b, s), (c, d, u) = STEP, BACK
    log_q = log_normal(points[None], a * points[:, None] + b, s)  # before, after
    log_r = log_normal(points[:, None], c * points[None] + d, u)
    total = 0.0
    for t in (1, 2):
        there = (pi[t - 1][:, None] + log_q).exp()
        total = total + cell**2 * (there * (pi[t - 1][:, None] + log_q - pi[t][None] - log_r)).sum()
    return total.item(), torch.autograd.grad(total, middle)[0].item()


@pytest.mark.parametrize("particles", ["weighted", "resampled"])
@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_a_learned_path_follows_the_exact_divergence(particles, alpha, generator):
    """500 populations of 400: with that many the bias of self-normalised means is below what the test resolves."""
    path = LearnedPath(base().log_prob, log_target, T=2, copies=(500,))
    with torch.no_grad():
        path.rises[0] = torch.logit(torch.tensor(alpha))
    assert path.alphas[1, 0].item() == pytest.approx(alpha)
    chain = Chain(base(500), [Linear(), Linear()], path)
    value = nested(chain, 400, particles, generator=generator)
    (slope,) = torch.autograd.grad(-value.sum(), path.rises)
    divergence, exact = exact_divergence(alpha)
    exact = alpha * (1 - alpha) * exact
    assert abs(exact) > 0.05
    assert_mean(slope[0], exact, resolution=0.01)
    assert_mean(value.detach(), LOG_Z - divergence, resolution=0.004)
    torch.testing.assert_close(slope[1], -slope[0])


def test_learned_paths_are_sorted_and_fixed_at_the_ends(generator):
    path = LearnedPath(base().log_prob, log_target, T=5, copies=(3,))
    with torch.no_grad():
        path.rises.normal_(0, 20, generator=generator)
    assert path.alphas.shape == (6, 3) and bool((path.alphas.diff(dim=0) >= 0).all())
    assert bool((path.alphas[0] == 0).all() and (path.alphas[-1] == 1).all())


def test_learned_alphas_do_not_pass_one(generator):
    """In single precision a sum of shares may."""
    path = LearnedPath(base().log_prob, log_target, T=50, copies=(1000,)).float()
    with torch.no_grad():
        path.rises.normal_(generator=generator)
        path.rises[-1] = -60.0
        assert path.rises.softmax(0).cumsum(0).max() > 1
    assert path.alphas.max() == 1


def test_features_rest_as_the_proposal_does(generator):
    """Else an encoder would learn through what the kernels see of it."""
    features = torch.randn(4, 3, generator=generator, requires_grad=True)
    kernel = GatedKernel(1, 4, context_dim=3)
    path = GeometricPath(base().log_prob, log_target, linear_alphas(1))
    value = nested(Chain(base(4), [kernel], path, features), 5, generator=generator).sum()
    found = gradient(value, [features, *kernel.parameters()])
    assert found[: features.numel()].abs().max() == 0 and found.abs().max() > 0


def test_learned_paths_have_the_densities_of_geometric_ones(generator):
    path, z = LearnedPath(base().log_prob, log_target, T=4), torch.randn(4, 7, 1, generator=generator)
    fixed = GeometricPath(base().log_prob, log_target, linear_alphas(4))
    for t in range(5):
        torch.testing.assert_close(path.log_density(t, z[0]), fixed.log_density(t, z[0]))
    torch.testing.assert_close(path.log_ladder(z), fixed.log_ladder(z))


def test_impossible_settings_are_refused():
    chain, _ = small_chain()
    with pytest.raises(ValueError, match="equal, weighted, resampled, not 'heavy'"):
        nested(chain, 7, "heavy")
    with pytest.raises(ValueError, match="no path learns from them"):
        nested(Chain(base(), chain.kernels, LearnedPath(base().log_prob, log_target, T=3)), 7, "equal")
    for samples in (0, 2.5):
        with pytest.raises(ValueError, match="samples must be a whole number of at least 1"):
            nested(chain, samples)
    with pytest.raises(ValueError, match="T must be a whole number of at least 1"):
        LearnedPath(base().log_prob, log_target, T=0)
