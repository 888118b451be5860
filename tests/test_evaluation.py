"""Bounds that order and close, likelihoods against quadrature."""

import math
from dataclasses import replace

import pytest
import torch
from exact import linear_gaussian_chain

from avo_lib import estimate
from avo_lib.chain import Chain, Gaussian
from avo_lib.evaluation import BLOCK, ais, average_bound, kl_sandwich, log_likelihood, marginal_bounds, reverse_ais
from avo_lib.gaps import GapConfig, measure_gaps
from avo_lib.kernels import HMC, GatedKernel, Underdamped, tune_step_sizes
from avo_lib.models import VAE, VAEConfig
from avo_lib.momentum import with_momentum
from avo_lib.nested import LearnedPath
from avo_lib.numerics import log_bernoulli, log_mean_exp, log_normal
from avo_lib.objectives import avo, elbo
from avo_lib.paths import AmortisedPath, GeometricPath, linear_alphas
from avo_lib.targets import GaussianMixture, LinearGaussian, energy
from avo_lib.testing import assert_bracket


def test_ais_brackets_the_truth_from_both_sides(generator):
    """A skewed mixture, from a base that covers it; forwards from the base, backwards from exact draws."""
    log_c = 0.8
    target = GaussianMixture((0.3, 0.7), ((-1.5, 0.0), (1.5, 1.0)), 0.6)
    base = Gaussian(torch.zeros(2), torch.full((2,), 2.5))
    path = GeometricPath(base.log_prob, lambda z: target.log_density(z) + log_c, linear_alphas(40))
    kernels = tune_step_sizes(
        path, lambda: base.sample((500,), generator=generator)[0], leapfrog_steps=5, generator=generator
    )
    chain = Chain(base, kernels, path)
    lower, log_w = ais(chain, 5000, generator=generator)
    upper, _ = reverse_ais(chain, target.sample(5000, generator=generator), generator=generator)
    assert_bracket(lower, log_c, upper, width=0.25)
    assert log_w.shape == (5000,)


def test_ais_says_what_its_kernels_accept(generator):
    """Short steps accept nearly all, long ones nothing, those that diverge nothing; learned kernels never reject."""
    base = Gaussian(torch.zeros(2), torch.ones(2))
    path = GeometricPath(base.log_prob, lambda z: base.log_prob(z) - (z**4).sum(-1), linear_alphas(5))
    steps = [HMC(0.01), HMC(0.5), HMC(50.0), HMC(1e200), GatedKernel(2, 4)]
    found = ais(Chain(base, steps, path), 200, generator=generator)
    short, medium, long, divergent, learned = found.acceptance.tolist()
    assert short > 0.99 and 0.3 < medium < 0.99 and long < 1e-6 and divergent == 0 and learned == 1
    log_z, log_w = found
    assert log_z is found.log_z and log_w is found.log_w
    assert ais(Chain(base, [], GeometricPath(base.log_prob, base.log_prob, torch.ones(1))), 10).acceptance.shape == (0,)


def test_ais_with_equal_ends_has_no_variance(generator):
    base = Gaussian(torch.ones(2), torch.full((2,), 2.0))
    path = GeometricPath(base.log_prob, base.log_prob, linear_alphas(5))
    kernels = tune_step_sizes(path, lambda: base.sample((50,), generator=generator)[0], generator=generator)
    found, log_w = ais(Chain(base, kernels, path), 100, generator=generator)
    assert log_w.abs().max() < 1e-12 and found.value == pytest.approx(0, abs=1e-12)


def test_ais_of_a_single_datum(generator):
    """One datum on an axis of its own has the estimate of no axis, with its standard error."""
    base = Gaussian(torch.zeros(1, 2), torch.ones(1, 2))
    path = GeometricPath(base.log_prob, lambda z: log_normal(z - 0.5) + 0.7, linear_alphas(10))
    kernels = tune_step_sizes(path, lambda: base.sample((50,), generator=generator)[0], generator=generator)
    found, _ = ais(Chain(base, kernels, path), 1000, generator=generator)
    assert abs(found.value - 0.7) < 5 * found.stderr < 0.1


def test_chains_that_need_gradients_are_evaluated_too(generator):
    class Annealed:
        def chain(self, x):
            path = AmortisedPath(log_normal, *2 * [lambda z: log_bernoulli(x, z)], linear_alphas(2))
            return Chain(Gaussian(torch.zeros(len(x), 3), torch.ones(len(x), 3)), [HMC(0.3), HMC(0.3)], path)

    x = (torch.rand(5, 3, generator=generator) < 0.5).double()
    found = log_likelihood(Annealed(), x, 2000, generator=generator)
    # By symmetry every pixel is a fair coin.
    assert abs(found.log_p + 3 * math.log(2)).max() < 5 * (1 / found.ess.min()).sqrt() < 0.2
    assert average_bound(Annealed(), x, generator=generator)[0].value < -3 * math.log(2)


def test_ais_and_bdmc_on_a_latent_variable_model(generator):
    """Data simulated from the model comes with an exact posterior draw: the z that it was simulated from."""
    model = LinearGaussian(torch.randn(4, 2, generator=generator), torch.zeros(4), 0.5)
    z, x = model.sample(3, generator=generator)

    def likelihood(z: torch.Tensor) -> torch.Tensor:
        return model.log_likelihood(x, z)

    base = Gaussian(torch.zeros(3, 2), torch.ones(3, 2))
    path = AmortisedPath(log_normal, likelihood, likelihood, linear_alphas(60))
    kernels = tune_step_sizes(path, lambda: base.sample((50,), generator=generator)[0], generator=generator)
    chain = Chain(base, kernels, path)
    _, log_w = ais(chain, 3000, generator=generator)
    exact = model.log_z(x)
    for i in range(3):
        lower = estimate.log_mean(log_w[:, i])
        assert abs(lower.value - exact[i].item()) < 5 * lower.stderr + 1e-9 and lower.stderr < 0.05
    _, log_w = reverse_ais(chain, z[None], generator=generator)  # one exact draw for each x
    gap = (log_w[0] - exact).mean().item()
    assert -1 < gap < 1


@pytest.fixture(scope="module")
def trained_toy():
    """An AVO chain on energy a after a short training, in which the reverse kernels are far from exact."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    base = Gaussian(torch.zeros(64, 2), torch.ones(64, 2))
    target = energy("a")
    kernels = torch.nn.ModuleList(GatedKernel(2, 16) for _ in range(3))
    path = GeometricPath(base.log_prob, target.log_density, linear_alphas(3))
    optimiser = torch.optim.Adam(kernels.parameters(), 3e-3, fused=True)
    for _ in range(400):
        loss = -avo(Chain(base, list(kernels), path).sample(detach=True, generator=generator)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Chain(Gaussian(torch.zeros(2), torch.ones(2)), list(kernels), path), target.log_z


def test_the_sandwich_orders_and_closes(trained_toy, generator):
    chain, log_z = trained_toy
    brackets = [kl_sandwich(chain, log_z, 2000, samples, generator=generator) for samples in (1, 10, 100)]
    for bracket in brackets:
        assert bracket.lower.value <= bracket.upper.value + 5 * (bracket.lower.stderr + bracket.upper.stderr)
        assert bracket.upper.value > 0
    assert brackets[0].gap > brackets[1].gap > brackets[2].gap
    assert brackets[2].gap < 0.05


def test_the_sandwich_holds_the_marginal(trained_toy, generator):
    """Against a third estimate at the same points, the mixture of the last kernel over independent z_{T−1}."""
    chain, _ = trained_toy
    with torch.no_grad():
        trajectory = chain.sample((1000,), generator=generator)
        inputs = chain.sample((10_000,), generator=generator).z[-2]
        z = trajectory.z[-1]
        log_q = log_mean_exp(log_normal(z, *(part[:, None] for part in chain.kernels[-1].q(inputs, None))))
        direct = chain.target(3)(z) - log_q
    lower, upper = marginal_bounds(chain, trajectory, 100, generator=generator)
    below, above = estimate.mean(direct - lower, "exact"), estimate.mean(upper - direct, "exact")
    assert below.value > -5 * below.stderr - 0.01 and above.value > -5 * above.stderr - 0.01
    assert max(below.stderr, above.stderr) < 0.02


def test_the_lower_bound_on_the_marginal_starts_at_the_elbo(trained_toy, generator):
    """With one fresh sample the bound already beats the ELBO on the same trajectories, on average."""
    chain, _ = trained_toy
    with torch.no_grad():
        trajectory = chain.sample((3000,), generator=generator)
    lower, upper = marginal_bounds(chain, trajectory, 1, generator=generator)
    assert elbo(trajectory).mean() < lower.mean() < upper.mean()


def test_the_sandwich_is_exact_for_exact_reversals(generator):
    chain, log_z = linear_gaussian_chain(T=2)
    bracket = kl_sandwich(chain, log_z[-1], 100, 5, generator=generator)
    assert abs(bracket.lower.value) < 1e-9 and abs(bracket.upper.value) < 1e-9


def quadrature_log_p(model: VAE, x: torch.Tensor) -> torch.Tensor:
    z = torch.linspace(-10, 10, 4001)[:, None]
    with torch.no_grad():
        log_joint = log_normal(z)[:, None] + log_bernoulli(x, model.decode(z)[:, None])
    return log_joint.logsumexp(0) + math.log(20 / 4000)


def build(T: int) -> VAE:
    """One latent, so that log p(x) is a one-dimensional integral; sharpened pixels make the posterior skewed."""
    model = VAE(VAEConfig(pixels=6, hidden=(8,), latent=1, T=T, batch_norm=False, kernel_hidden=4, std_init=0.5))
    with torch.no_grad():
        model.decoder[-1].weight *= 2
        model.q0.bias[1] = 1.2  # a proposal wider than the posterior keeps the weights' variance small
        for kernel in model.kernels:
            for operator in (kernel.q, kernel.r):
                operator.heads.scale *= 0.3
    return model.eval()


@pytest.fixture(params=[0, 2], ids=["VAE", "HVI"])
def small_model(request, generator) -> VAE:
    return build(request.param)


def test_nll_against_quadrature(small_model, generator):
    x = (torch.rand(20, 6, generator=generator) < 0.5).double()
    exact = quadrature_log_p(small_model, x)
    found = log_likelihood(small_model, x, 10_000, curve=(1, 10, 100, 1000), generator=generator)
    error = 10_000**-0.5 * (10_000 / found.ess - 1).sqrt()  # delta method, from the effective sample size
    assert error.max() < 0.05
    assert bool(((found.log_p - exact).abs() < 5 * error + 1e-9).all())
    curve = list(found.nll_by_samples.values())
    assert curve == sorted(curve, reverse=True) and curve[0] > -exact.mean().item()
    assert bool((found.elbo < exact).all())
    bound, kl = average_bound(small_model, x.repeat(200, 1), generator=generator)
    assert abs(bound.value - found.elbo.mean().item()) < 5 * bound.stderr and kl > 0


def test_results_do_not_depend_on_chunks_or_company(small_model, generator):
    x = (torch.rand(7, 6, generator=generator) < 0.5).double()

    def evaluate(rows: int, images: torch.Tensor = x) -> torch.Tensor:
        return log_likelihood(small_model, images, 250, rows=rows, generator=torch.Generator().manual_seed(1)).log_p

    whole = evaluate(10_000)
    for rows in (1, BLOCK, 3 * BLOCK):
        torch.testing.assert_close(evaluate(rows), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(evaluate(10_000, x[:3]), whole[:3], rtol=0, atol=1e-12)


def test_a_whole_trajectory_is_needed(generator):
    """Without the reverse kernels p(x, z_T) / q_0(z_0) compares unlike spaces and misses log p(x)."""
    model = build(2)
    x = (torch.rand(5, 6, generator=generator) < 0.5).double()
    with torch.no_grad():
        trajectory = model.chain(x).sample((20_000,), generator=generator)
        wrong = log_mean_exp(trajectory.path.log_density(2, trajectory.z[-1]) - trajectory.log_q0)
    assert bool(((wrong - quadrature_log_p(model, x)).abs() > 0.1).any())


def test_nothing_to_evaluate_is_refused(small_model):
    with pytest.raises(ValueError, match="at least one image"):
        log_likelihood(small_model, torch.zeros(0, 6))
    for samples in (0, 10.0):
        with pytest.raises(ValueError, match="samples must be a whole number of at least 1"):
            log_likelihood(small_model, torch.zeros(2, 6), samples)


def test_one_image_has_the_error_of_its_weights(small_model, generator):
    x = (torch.rand(1, 6, generator=generator) < 0.5).double()
    exact = -quadrature_log_p(small_model, x).item()
    found = [log_likelihood(small_model, x, 200, generator=generator).nll for _ in range(200)]
    assert all(one.kind == "upper" for one in found)
    off = torch.tensor([(one.value - exact) / one.stderr for one in found])
    assert 0.7 < off.std() < 1.4 and off.abs().mean() < 1.2
    with pytest.raises(ValueError, match="at least two draws"):
        _ = log_likelihood(small_model, x, 1, generator=generator).nll


def refuses(z: torch.Tensor) -> torch.Tensor:
    raise AssertionError("log f was called")


@pytest.mark.parametrize(
    "ask",
    [
        lambda chain: ais(chain, 1),
        lambda chain: ais(chain, 0),
        lambda chain: ais(chain, 1.5),
        lambda chain: kl_sandwich(replace(chain, kernels=[GatedKernel(2, 4)]), 0.0, 2, 0),
    ],
)
def test_where_no_error_can_be_had_nothing_is_computed(ask):
    path = GeometricPath(refuses, refuses, linear_alphas(1))
    with pytest.raises(ValueError, match=r"standard error needs at least two weights|at least 1, not"):
        ask(Chain(Gaussian(torch.zeros(2), torch.ones(2)), [HMC(0.5)], path))


def test_two_data_have_an_error_over_data():
    base = Gaussian(torch.zeros(2, 3), torch.ones(2, 3))
    chain = Chain(base, [HMC(0.5)], GeometricPath(base.log_prob, base.log_prob, linear_alphas(1)))
    assert ais(chain, 1).log_z.stderr < 1e-9 and reverse_ais(chain, torch.zeros(1, 2, 3))[0].stderr < 1e-9


class OwnEnergy:
    """An energy's path as a user writes it: beta does not act on it."""

    def __init__(self, log_f, T):
        self.log_f, self.alphas = log_f, linear_alphas(T)

    def log_density(self, t, z, beta=1.0):
        return self.log_f(z)

    log_ladder = None  # AVO alone asks for it


@pytest.mark.parametrize("path", ["geometric", "learned", "own", "augmented", "own augmented"])
def test_an_energy_has_no_divergence_of_its_own(path, generator):
    """Of E log p(x, z) minus the ELBO a reader would think that it is one."""

    class Energy:
        def chain(self, x):
            base = Gaussian(torch.zeros(len(x), 2), torch.ones(len(x), 2))
            ends = base.log_prob, lambda z: base.log_prob(z) + log_bernoulli(x, z)
            learned = LearnedPath(*ends, 1) if path == "learned" else GeometricPath(*ends, linear_alphas(1))
            either = OwnEnergy(ends[1], 1) if "own" in path else learned
            if "augmented" in path:
                return with_momentum(Chain(base, [Underdamped(0.1, 0.5)], either))
            return Chain(base, [GatedKernel(2, 4)], either)

    bound, kl = average_bound(Energy(), torch.ones(5, 2), generator=generator)
    assert math.isnan(kl) and math.isfinite(bound.value)


class Wrapped:
    """A path around another, under a name that the library uses too."""

    def __init__(self, path):
        self.path, self.alphas = path, path.alphas

    def log_density(self, t, z, beta=1.0):
        return self.path.log_density(t, z, beta)


class Keeps(torch.nn.Module):
    """A model that keeps the data of its last chain, in a path of its own."""

    def chain(self, x):
        self.x = x
        path = AmortisedPath(log_normal, *[lambda z: log_normal(self.x, z, 0.5)] * 2, linear_alphas(0))
        return Chain(Gaussian(0.8 * x, torch.full_like(x, 0.45)), [], Wrapped(path))


def test_a_bound_weighs_each_part_with_its_own_data(generator):
    x = 3 * torch.randn(64, 4, generator=generator)  # parts of 64 numbers draw what the whole draws
    (whole, kl), (parts, kl_of_parts) = (
        average_bound(Keeps(), x, rows=rows, generator=torch.Generator().manual_seed(1)) for rows in (64, 16)
    )
    assert parts.value == pytest.approx(whole.value, abs=1e-9) and kl == pytest.approx(kl_of_parts, abs=1e-9)
    assert kl > 1


def test_half_precision_is_averaged_in_full(generator):
    log_w = 0.5 * torch.randn(20_000, generator=generator) - 138
    half, full = log_w.bfloat16(), log_w.bfloat16().double()
    for one, other in (
        (estimate.mean(half, "lower"), estimate.mean(full, "lower")),
        map(estimate.log_mean, (half, full)),
    ):
        assert one.value == pytest.approx(other.value, abs=1e-3) and one.stderr == pytest.approx(other.stderr, rel=1e-3)


def test_the_bound_of_one_image_is_refused_first(small_model, monkeypatch):
    monkeypatch.setattr(VAE, "chain", refuses)
    with pytest.raises(ValueError, match="at least two images, not 1"):
        average_bound(small_model, torch.ones(1, 6))


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(1, 1, dropout=0.5, batch_first=True)

    def forward(self, h):
        flat = h.flatten(0, -2)[..., None]
        return h + self.inner(flat, flat, flat)[0].reshape(h.shape)


@pytest.mark.parametrize(
    "layer",
    [torch.nn.BatchNorm1d(8), torch.nn.Dropout(), torch.nn.RReLU(), Attention()],
    ids=["batch norm", "dropout", "random slopes", "attention"],
)
@pytest.mark.parametrize(
    "judge",
    [log_likelihood, average_bound, lambda model, x: measure_gaps(model, x, x, GapConfig(steps=1, T=1))],
    ids=["log_likelihood", "average_bound", "measure_gaps"],
)
def test_a_model_that_still_trains_is_not_judged(layer, judge):
    """Its images would change each other's numbers, and its statistics would drift while it is judged."""
    model, x = build(0), torch.ones(3, 6)
    judge(model.train(), x)  # no layer of it knows the difference
    model.decoder[0] = torch.nn.Sequential(model.decoder[0], layer.double())
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        judge(model.train(), x)
    judge(model.eval(), x)


def test_backwards_too_data_may_not_share_draws(generator):
    base = Gaussian(torch.zeros(5, 1), torch.ones(5, 1))
    shared = lambda z: log_normal(z, 0.5, 0.8).expand(*z.shape[:-2], 5)  # noqa: E731
    chain = Chain(base, [], GeometricPath(base.log_prob, shared, linear_alphas(0)))
    with pytest.raises(ValueError, match="would share the draws"):
        reverse_ais(chain, torch.randn(10, 1, 1, generator=generator))
