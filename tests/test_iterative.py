"""Iterative inference where the posterior is known."""

from itertools import islice

import pytest
import torch

from avo_lib.models.iterative import IterativeInference, ascend, elbo_gradient, gaussian
from avo_lib.numerics import log_normal
from avo_lib.targets import LinearGaussian

# The columns are orthogonal, so the posterior has independent coordinates.
WEIGHT = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 0.0]], dtype=torch.float64)
MODEL = LinearGaussian(WEIGHT, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), 0.7)


def data(n, generator):
    z = torch.randn(n, 2, generator=generator)
    return z @ WEIGHT.T + MODEL.bias + 0.7 * torch.randn(n, 3, generator=generator)


def joint(x):
    return lambda z: log_normal(z) + MODEL.log_likelihood(x, z)


def posterior(x):
    mean, covariance = MODEL.posterior(x)
    return torch.cat([mean, covariance.diagonal().sqrt().log().expand_as(mean)], -1)


def test_a_newton_step_on_the_mean_reaches_the_posterior(generator):
    """From anywhere and with any noise, once σ is the posterior's: pairs of noise leave no variance."""
    x = data(20, generator)
    exact = posterior(x)
    start = torch.cat([torch.randn(20, 2, generator=generator), exact[:, 2:]], -1)

    def newton(lam, gradient):
        mean, log_std = lam.chunk(2, -1)
        return torch.cat([mean + (2 * log_std).exp() * gradient[:, :2], log_std], -1)

    (before, _), (after, gradient) = islice(ascend(start, joint(x), newton, generator=generator), 2)
    assert (before - exact).abs().max() > 0.5
    assert torch.allclose(after, exact, atol=1e-9)
    assert gradient[:, :2].abs().max() < 1e-9


def test_the_gradient_is_that_of_the_elbo(generator):
    """Against the closed form: Λ(m − μ) in the mean, 1 − Λ_jj σ_j² in log σ, on average over the noise."""
    x = data(4, generator)
    exact = posterior(x)
    lam = exact + 0.3 * torch.randn(4, 4, generator=generator)
    precision = (-2 * exact[:, 2:]).exp()
    expected = torch.cat([precision * (exact - lam)[:, :2], 1 - precision * (2 * lam[:, 2:]).exp()], -1)
    found = elbo_gradient(lam, joint(x), 100_000, generator=generator)
    assert torch.allclose(found[:, :2], expected[:, :2], atol=1e-9)
    assert torch.allclose(found, expected, atol=0.05) and expected.abs().max() > 0.5


def test_a_learned_rule_reaches_the_posterior(generator):
    """On data that it has not seen, from the prior."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rule = IterativeInference(2, 32)
    optimiser = torch.optim.Adam(rule.parameters())
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 300)
        steps = ascend(torch.zeros(64, 4), joint(data(64, generator)), rule, samples=4, generator=generator)
        objective = sum((lam * gradient).sum(-1) for lam, gradient in islice(steps, 1, 6))
        optimiser.zero_grad()
        (-objective.mean()).backward()
        optimiser.step()
    x = data(200, generator)
    steps = ascend(torch.zeros(200, 4), joint(x), rule, samples=4, generator=generator)
    gaps = [gap(lam, posterior(x)).mean().item() for lam, _ in islice(steps, 6)]
    assert gaps[0] > 2 and gaps[5] < 0.02, gaps


def gap(lam, exact):
    """KL(q ‖ posterior) in nats."""
    q, p = gaussian(lam), gaussian(exact)
    ratio, distance = q.std / p.std, (q.mean - p.mean) / p.std
    return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)


def test_each_update_learns_from_its_own_gradient_alone(generator):
    """What an update is given is a constant: the objective's gradient is that of the ELBO, one update deep."""
    rule = IterativeInference(2, 8)
    x = data(3, generator)
    pairs = list(islice(ascend(torch.zeros(3, 4), joint(x), rule, generator=generator), 3))
    (alone,) = torch.autograd.grad((pairs[2][0] * pairs[2][1]).sum(), rule.network[0].bias)
    again = rule(pairs[1][0].detach(), pairs[1][1])
    (expected,) = torch.autograd.grad((again * pairs[2][1]).sum(), rule.network[0].bias)
    assert torch.equal(alone, expected) and not pairs[2][1].requires_grad


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_draws_come_in_pairs(samples):
    with pytest.raises(ValueError, match=r"pairs|at least 2"):
        elbo_gradient(torch.zeros(1, 4), lambda z: z.sum(-1), samples)


def test_lambda_has_two_halves():
    for call in (gaussian, lambda lam: elbo_gradient(lam, lambda z: -z.square().sum(-1))):
        with pytest.raises(ValueError, match=r"\(\.\.\., 2 \* dim\), not \(5, 3\)"):
            call(torch.zeros(5, 3))
