"""Sequential Monte Carlo: AIS at threshold 0, no variance where there is none, means that are Z, honest errors."""

import math

import pytest
import torch
from exact import linear_gaussian_chain

from avo_lib.chain import Chain, Gaussian
from avo_lib.evaluation import ais
from avo_lib.kernels import HMC, GatedKernel
from avo_lib.numerics import effective_sample_size, log_mean_exp, log_normal
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.smc import adaptive_alphas, conditional_ess, smc, systematic
from avo_lib.targets import GaussianMixture
from avo_lib.testing import assert_mean

LOG_C = 0.8
TARGET = GaussianMixture((0.3, 0.7), ((-1.5, 0.0), (1.5, 1.0)), 0.6)


class Walk:
    """A random walk that ignores its target: q and r are one symmetric density, so their ratio is 1."""

    def forward(self, z_prev, log_f, context, *, generator=None):
        return z_prev + 0.2 * torch.randn(z_prev.shape, generator=generator), torch.zeros_like(z_prev[..., 0])

    reverse = forward


def skewed_chain(kernels, populations=()) -> Chain:
    base = Gaussian(torch.zeros(*populations, 2), torch.full((2,), 2.5))
    path = GeometricPath(base.log_prob, lambda z: TARGET.log_density(z) + LOG_C, linear_alphas(len(kernels)))
    return Chain(base, kernels, path)


def of_each_sort() -> dict[str, list]:
    mcmc, learned = HMC(0.6, 2), GatedKernel(2, 8)
    return {"mcmc": [mcmc] * 3, "walk": [Walk()] * 3, "mixed": [mcmc, Walk(), mcmc], "learned": [learned] * 3}


@pytest.mark.parametrize("populations", [(), (4,)])
@pytest.mark.parametrize("sort", ["mcmc", "walk", "mixed", "learned"])
def test_without_resampling_it_is_ais(sort, populations):
    chain = skewed_chain(of_each_sort()[sort], populations)
    known = ais(chain, 50, generator=torch.Generator().manual_seed(1))
    found = smc(chain, 50, threshold=0, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.log_w, known.log_w) and torch.equal(found.acceptance, known.acceptance)
    assert found.log_z == known.log_z
    assert torch.equal(found.ess[-1], effective_sample_size(found.log_w)) or sort in ("mcmc", "mixed")
    assert bool((found.founders.movedim(0, -1) == torch.arange(50)).all())


def test_effective_sample_sizes_are_those_of_the_partial_weights():
    chain = skewed_chain(of_each_sort()["mixed"])
    with torch.no_grad():
        trajectory = chain.sample((50,), generator=torch.Generator().manual_seed(1))
        start = chain.target(0)(trajectory.z[0]) - trajectory.log_q0
        partial = start + trajectory.log_v().cumsum(0)
    found = smc(chain, 50, threshold=0, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.ess, effective_sample_size(partial, 1))
    torch.testing.assert_close(found.z, trajectory.z[-1])


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_exact_couplings_leave_no_variance(threshold, generator):
    chain, log_z = linear_gaussian_chain()
    found = smc(chain, 20, threshold=threshold, generator=generator)
    assert (found.log_w - log_z[-1]).abs().max() < 1e-9
    assert found.log_z.value == pytest.approx(log_z[-1], abs=1e-9) and found.log_z.stderr < 1
    assert found.ess.shape == (6,) and (found.ess - 20).abs().max() < 1e-9
    assert found.log_z.kind == "lower"


def test_a_chain_without_kernels_is_importance_sampling(generator):
    base = Gaussian(torch.zeros(2), torch.ones(2))
    chain = Chain(base, [], GeometricPath(base.log_prob, lambda z: base.log_prob(z) + LOG_C, torch.ones(1)))
    found = smc(chain, 10, generator=generator)
    assert found.log_z.value == pytest.approx(LOG_C) and found.ess.shape == (0,) and found.ancestors.shape == (0, 10)
    assert torch.equal(found.founders, torch.arange(10))


@pytest.mark.parametrize("threshold", [0.5, 1.0])
@pytest.mark.parametrize("sort", ["mcmc", "walk", "mixed"])
def test_the_mean_of_the_estimate_is_z(sort, threshold, generator):
    """Six particles, resampled often: a product of means, and weighted points, that are right on average."""
    chain = skewed_chain(of_each_sort()[sort], (40_000,))
    found = smc(chain, 6, threshold=threshold, generator=generator)
    moved = found.ancestors != torch.arange(6)[:, None]
    assert moved.any(1).double().mean() > 0.2, "hardly anything was resampled: the test says nothing"
    assert_mean((log_mean_exp(found.log_w) - LOG_C).exp(), 1.0, resolution=0.02)
    left = (found.z[..., 0] < 0).double()
    exact = 0.3 * 0.5 * math.erfc(-1.5 / 0.6 / 2**0.5) + 0.7 * 0.5 * math.erfc(1.5 / 0.6 / 2**0.5)
    assert_mean(((found.log_w - LOG_C).exp() * left).mean(0), exact, resolution=0.01)
    assert found.log_z.value + 5 * found.log_z.stderr < LOG_C  # on average below, as it says


def test_a_population_does_not_hang_on_the_others():
    """One is resampled, one is not; with a generator each, both are what they are alone."""

    def run(stds, seeds):
        base = Gaussian(torch.zeros(len(stds), 2), torch.ones(2))
        scale = torch.tensor(stds)
        path = GeometricPath(base.log_prob, lambda z: log_normal(z, 0.0, scale[:, None]), linear_alphas(4))
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        return smc(Chain(base, [HMC(0.3, 2)] * 4, path), 30, threshold=0.5, generator=noise)

    both, alone = run([0.1, 1.0], [3, 4]), [run([0.1], [3]), run([1.0], [4])]
    assert (both.ess[:, 0] < 15).any() and (both.ess[:, 1] > 29.9).all()
    for i in (0, 1):
        assert torch.equal(both.z[:, i], alone[i].z[:, 0]) and torch.equal(both.log_w[:, i], alone[i].log_w[:, 0])
        assert torch.equal(both.ancestors[..., i], alone[i].ancestors[..., 0])
    assert bool((both.ancestors[..., 1] == torch.arange(30)).all())


def test_one_run_knows_its_error(generator):
    """The families' standard error, against the spread of many runs: right without, not too small with resampling."""
    chain = skewed_chain([HMC(0.5, 2)] * 5)
    for threshold, most in ((0.0, 1.25), (0.5, 1.25), (1.0, 1.6)):
        found = [smc(chain, 100, threshold=threshold, generator=generator).log_z for _ in range(200)]
        spread = torch.tensor([one.value for one in found]).std().item()
        stated = torch.tensor([one.stderr for one in found]).square().mean().sqrt().item()
        assert 0.8 < stated / spread < most  # of 200 runs the spread is known to 5 %, one s.e.


def test_systematic_resampling_rounds_the_expected_number_of_children(generator):
    log_w = torch.randn(7, 20_000, generator=generator)
    log_w[2] = -torch.inf
    parents = systematic(log_w, torch.rand(20_000, generator=generator))
    children = torch.stack([(parents == k).sum(0) for k in range(7)])
    expected = 7 * log_w.softmax(0)
    assert bool((children >= (expected - 1e-9).floor()).all() and (children <= (expected + 1e-9).ceil()).all())
    assert bool((children[2] == 0).all() and (children.sum(0) == 7).all())
    assert_mean((children - expected).T, 0.0, resolution=0.01)


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0])
def test_systematic_resampling_never_takes_a_particle_without_weight(u):
    for place in range(5):
        log_w = torch.full((5,), -torch.inf)
        log_w[place] = -1e4
        assert systematic(log_w, torch.tensor(u)).tolist() == [place] * 5


def test_rounding_gives_no_mark_to_a_last_particle_without_weight():
    for K in range(2, 400):
        log_w = torch.zeros(K)
        log_w[-1] = -torch.inf
        assert systematic(log_w, torch.tensor(1.0)).max() < K - 1


@pytest.mark.parametrize(
    "log_w, u",
    [
        ([0.0, math.nan, 0.0], 0.3),
        ([-math.inf] * 3, 0.3),
        ([0.0, math.inf, 0.0], 0.3),
        ([0.0] * 3, 5.3),
        ([0.0] * 3, -0.1),
        ([0.0] * 3, math.nan),
        ([0.0] * 3, [0.1, 0.2, 0.3]),
    ],
)
def test_parents_of_nothing_are_refused(log_w, u):
    with pytest.raises(ValueError, match="need one u from 0 to 1"):
        systematic(torch.tensor(log_w), torch.tensor(u))


def test_weights_and_increments_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(4,\) and increments \(4, 1\)"):
        conditional_ess(torch.zeros(4), torch.zeros(4, 1))


def test_after_the_last_learned_move_nothing_is_copied(generator):
    found = smc(skewed_chain(of_each_sort()["walk"], (50,)), 10, threshold=1.0, generator=generator)
    themselves = torch.arange(10)[:, None]
    assert bool((found.ancestors[-1] == themselves).all()) and bool((found.ancestors[-2] != themselves).any())
    assert bool((found.log_w.std(0) > 0).all())


def test_particles_outside_the_target_die_and_a_lost_population_says_so(generator):
    base = Gaussian(torch.zeros(1), torch.ones(1))

    def run(edge):
        inside = lambda z: base.log_prob(z).masked_fill(z[..., 0] < edge, -torch.inf)  # noqa: E731
        path = GeometricPath(base.log_prob, inside, linear_alphas(2))
        return smc(Chain(base, [HMC(0.5, 2)] * 2, path), 2000, threshold=0.9, generator=generator)

    half = run(0.0)
    assert bool((half.z >= 0).all()) and abs(half.log_z.value + math.log(2)) < 5 * half.log_z.stderr < 0.2
    assert run(50.0).log_z.value == -math.inf


def test_conditional_ess_is_that_of_the_step_alone(generator):
    log_w, log_v = torch.randn(2, 100, 3, generator=generator)
    torch.testing.assert_close(conditional_ess(torch.zeros(100, 3), log_v), effective_sample_size(log_v))
    torch.testing.assert_close(conditional_ess(log_w, torch.ones(100, 3)), torch.full((3,), 100.0))
    share, v = log_w.softmax(0), log_v.exp()
    torch.testing.assert_close(conditional_ess(log_w, log_v), 100 * (share * v).sum(0) ** 2 / (share * v**2).sum(0))
    torch.testing.assert_close(conditional_ess(log_w.T, log_v.T, dim=1), conditional_ess(log_w, log_v))


def test_adaptive_stations_of_a_shifted_gaussian_are_evenly_spaced(generator):
    """Between N(0, 1) and N(m, 1) a step of d leaves the share exp(−m² d²), wherever it starts."""
    base, m, share = Gaussian(torch.zeros(1), torch.ones(1)), 4.0, 0.8
    alphas = adaptive_alphas(base, lambda z: log_normal(z - m), HMC(0.5, 4), 20_000, share=share, generator=generator)
    steps = alphas.diff()
    assert len(alphas) == 2 + int(m / math.sqrt(-math.log(share))) and alphas[0] == 0 and alphas[-1] == 1
    assert (steps[:-1] * m / math.sqrt(-math.log(share)) - 1).abs().max() < 0.1


def test_adaptive_stations_get_past_a_target_that_vanishes_at_most_points(generator):
    base = Gaussian(torch.zeros(1), torch.ones(1))
    inside = lambda z: log_normal(z).masked_fill(z[..., 0] < 1, -torch.inf)  # noqa: E731
    alphas = adaptive_alphas(base, inside, HMC(0.5, 2), 500, generator=generator)
    assert alphas[-1] == 1 and len(alphas) < 10 and bool((alphas.diff() > 0).all())


def test_impossible_settings_are_refused(monkeypatch):
    chain = skewed_chain([HMC(0.5)])
    for settings in ({"threshold": -0.1}, {"threshold": 1.1}, {"threshold": math.nan}):
        with pytest.raises(ValueError, match="0 <= threshold <= 1"):
            smc(chain, 10, **settings)
    log_f, base = TARGET.log_density, chain.proposal
    for samples in (1, 500.0):
        with pytest.raises(ValueError, match="samples must be a whole number of at least 2"):
            smc(chain, samples)
        with pytest.raises(ValueError, match="samples must be a whole number of at least 2"):
            adaptive_alphas(base, log_f, HMC(0.5), samples)
    for settings in ({"share": 1.0}, {"share": 0.0}, {"threshold": 2.0}):
        with pytest.raises(ValueError, match="0 < share < 1"):
            adaptive_alphas(base, log_f, HMC(0.5), 10, **settings)
    with pytest.raises(ValueError, match="one population"):
        adaptive_alphas(Gaussian(torch.zeros(3, 2), torch.ones(2)), log_f, HMC(0.5), 10)
    far = lambda z: -1e9 * z.square().sum(-1)  # noqa: E731
    monkeypatch.setattr("avo_lib.smc.MAX_STEPS", 20)
    with pytest.raises(ValueError, match="ask for a smaller share"):
        adaptive_alphas(base, far, HMC(1e-6, 1), 10, share=1 - 1e-9)


@pytest.mark.parametrize(
    "log_f, numbers, vanishing",
    [
        (lambda z: z[..., 0] - math.inf, 0, 100),
        (lambda z: z[..., 0] * math.nan, 0, 0),
        (lambda z: torch.where(z[..., 0] == z[..., 0].max(), math.nan, 0.0), 99, 0),
        (lambda z: torch.where(z[..., 0] == z[..., 0].max(), math.inf, -math.inf), 0, 99),
    ],
)
def test_a_pilot_without_a_target_is_refused_at_once(log_f, numbers, vanishing):
    """Ten thousand steps later it would be the share's fault."""
    message = f"at 100 points log_fT is finite {numbers}, -inf {vanishing} times: need one, no NaN"
    with pytest.raises(ValueError, match=message):
        adaptive_alphas(Gaussian(torch.zeros(1), torch.ones(1)), log_f, HMC(0.5), 100)
