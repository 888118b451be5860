"""Gaps of a model whose posteriors are Gaussian: each has a closed form."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from avo_lib.chain import Chain, Drawn, Gaussian
from avo_lib.gaps import GapConfig, fit_gaussians, measure_bracket, measure_gaps
from avo_lib.numerics import log_normal
from avo_lib.paths import AmortisedPath, linear_alphas

CONFIG = GapConfig(draws=2000, steps=400, chains=64, T=40)
NOISE = 0.7


@dataclass
class Linear:
    """z ~ N(0, I), x | z ~ N(W z, NOISE²): correlated posteriors, and an encoder that is off by known amounts."""

    weight: Tensor
    off: float = 0.5
    stretch: float = 1.5

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        precision = torch.eye(self.weight.shape[1]) + self.weight.T @ self.weight / NOISE**2
        return torch.linalg.solve(precision, self.weight.T @ x.T / NOISE**2).T, precision

    def chain(self, x: Tensor) -> Chain:
        mean, precision = self.posterior(x)
        std = self.stretch * precision.diagonal().rsqrt().expand(mean.shape)
        like = lambda z: log_normal(x, z @ self.weight.T, NOISE)  # noqa: E731
        return Chain(Gaussian(mean + self.off * std, std), [], AmortisedPath(log_normal, like, like, linear_alphas(0)))

    def log_p(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + NOISE**2 * torch.eye(len(self.weight))
        return torch.distributions.MultivariateNormal(torch.zeros(len(self.weight)), covariance).log_prob(x)

    def kl_of(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """KL(N(mean, std²) ‖ posterior) of each datum."""
        centre, precision = self.posterior(x)
        away = mean - centre
        spread = (precision.diagonal() * std.square() - 2 * std.log()).sum(-1) - len(precision)
        return 0.5 * (spread - torch.logdet(precision) + ((away @ precision) * away).sum(-1))


@pytest.fixture
def model():
    return Linear(torch.tensor([[1.0, 0.8], [0.9, 0.5], [0.2, 0.7]]))


@pytest.fixture
def x(model, generator):
    z = torch.randn(40, 2, generator=generator)
    return z @ model.weight.T + NOISE * torch.randn(40, 3, generator=generator)


def exact(model, x):
    proposal = model.chain(x).proposal
    centre, precision = model.posterior(x)
    best = model.kl_of(x, centre, precision.diagonal().rsqrt().expand(centre.shape))
    return model.log_p(x), best, model.kl_of(x, proposal.mean, proposal.std)


def test_the_three_numbers_are_the_exact_ones(model, x, generator):
    log_p, best, own = exact(model, x)
    assert best.min() > 0.05 and (own - best).min() > 0.3  # both gaps are there to be found
    found = measure_gaps(model, x, x[:10], CONFIG, generator=generator)
    for value, truth, allowed in (
        (found.log_p, log_p, 0.05),
        (found.local, log_p - best, 0.02),
        (found.bound, log_p - own, 0.05),
    ):
        error = value - truth
        stderr = (error.std() / len(x) ** 0.5).item()
        assert abs(error.mean().item()) < 5 * stderr + 1e-3 and stderr < allowed / 4


def test_the_search_ends_at_the_best_gaussian(model, x, generator):
    centre, precision = model.posterior(x)
    chain = model.chain(x)
    start = torch.cat([chain.proposal.mean, chain.proposal.std.log()], -1)
    mean, log_std = fit_gaussians(chain.target(0), start, CONFIG, generator).chunk(2, dim=-1)
    # The paired noise leaves the gradient in the mean exact, and that in log σ noisy.
    assert (mean - centre).abs().max() < 1e-3
    assert (log_std + 0.5 * precision.diagonal().log()).abs().max() < 0.1


class Carries:
    """A kernel that does all of the work: from where the proposal is, to the posterior."""

    def __init__(self, by):
        self.by = by

    def forward(self, z, log_f, context, *, generator=None):
        return z + self.by, torch.zeros(z.shape[:-1])


@dataclass
class Carried(Linear):
    """The same model, whose proposal is far away and is carried to where it was."""

    by: float = 30.0

    def chain(self, x):
        near = super().chain(x)
        far = Gaussian(near.proposal.mean - self.by, near.proposal.std)
        like = near.path.log_likelihood
        return Chain(far, [Carries(self.by)], AmortisedPath(log_normal, like, like, linear_alphas(1)))


def test_the_search_begins_where_the_chain_ends(model, x, generator):
    """Not at the proposal, which chains of a trained model leave behind."""
    carried, short = Carried(model.weight), replace(CONFIG, steps=60, draws=400)
    log_p, best, own = exact(model, x)
    found = measure_gaps(carried, x, x[:10], short, generator=generator)
    assert abs((found.bound - (log_p - own)).mean()) < 0.2
    assert abs((found.local - (log_p - best)).mean()) < 0.05
    start = torch.cat([carried.chain(x).proposal.mean, carried.chain(x).proposal.std.log()], -1)
    lost = fit_gaussians(carried.chain(x).target(1), start, short, generator).chunk(2, dim=-1)
    assert (lost[0] - model.posterior(x)[0]).abs().min() > 5  # from there so short a search does not arrive


def test_log_p_does_not_see_the_encoder(model, x, generator):
    poor = replace(model, off=-1.0, stretch=3.0)
    first, second = (measure_gaps(one, x, x[:10], CONFIG, generator=generator) for one in (model, poor))
    assert (first.bound - second.bound).mean() > 1
    difference = first.log_p - second.log_p
    assert abs(difference.mean()) < 5 * difference.std() / len(x) ** 0.5 + 1e-3 and difference.std() < 0.2


def test_both_sides_meet_on_images_of_the_model(model, generator):
    z = torch.randn(100, 2, generator=generator)
    drawn = z @ model.weight.T + NOISE * torch.randn(100, 3, generator=generator)
    found = measure_bracket(model, drawn, z, drawn[:10], CONFIG, generator=generator)
    stderr = found.std() / 10
    assert -5 * stderr < found.mean() < 0.05 and stderr < 0.015
    # One coarse station lets them gape, so the bracket can tell.
    coarse = replace(CONFIG, T=1, chains=1, steps=1)
    far = replace(model, off=4.0)
    assert measure_bracket(far, drawn, z, drawn[:10], coarse, generator=generator).mean() > 0.5


def test_a_block_of_one_image_and_one_chain_is_measured(model, x, generator):
    """Its weight has no standard error, and needs none."""
    few = GapConfig(draws=5, steps=3, samples=2, chains=1, T=3, leapfrog_steps=1)
    found = measure_gaps(model, x[:1].repeat(251, 1), x[:5], few, generator=generator)
    assert found.log_p.shape == (251,) and found.log_p.isfinite().all()
    assert measure_bracket(model, x[:1], torch.zeros(1, 2), x[:5], few, generator=generator).shape == (1,)


def test_what_cannot_be_measured_is_refused(model, x):
    with pytest.raises(ValueError, match="must be even, not 3"):
        GapConfig(samples=3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        GapConfig(lr=1.0)

    class Other(Linear):
        def chain(self, x):
            chain = super().chain(x)
            normal = torch.distributions.Normal(chain.proposal.mean, chain.proposal.std)
            return replace(chain, proposal=Drawn(torch.distributions.Independent(normal, 1)))

    with pytest.raises(TypeError, match="Gaussian proposal, not from a Drawn"):
        measure_gaps(Other(model.weight), x, x[:5], CONFIG)


def test_a_bracket_needs_a_latent_for_each_image_and_gaps_a_pilot(model, x):
    with pytest.raises(ValueError, match="latent for each of 40 images"):
        measure_bracket(model, x, torch.zeros(2), x[:3], CONFIG)
    with pytest.raises(ValueError, match="pilot"):
        measure_gaps(model, x, x[:0], CONFIG)


def test_one_deviation_for_all_data_and_no_seed_for_a_generator(model, x):
    class Shared(Linear):
        def chain(self, x):
            chain = super().chain(x)
            return replace(chain, proposal=Gaussian(chain.proposal.mean, chain.proposal.std[0]))

    tiny = GapConfig(draws=10, steps=5, samples=2, chains=2, T=3)
    one, each = (measure_gaps(m, x, x[:4], tiny) for m in (Shared(model.weight), model))
    torch.testing.assert_close(one.log_p, each.log_p)
    for measure in (
        lambda: measure_gaps(model, x, x, tiny, generator=0),
        lambda: measure_bracket(model, x, x[:, :2], x, tiny, generator=0),
    ):
        with pytest.raises(TypeError, match="0 is a seed"):
            measure()
