"""Nothing false in silence: what would give a wrong number, labelled as a bound, is refused or right."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_kernels import KERNELS
from torch.distributions import MultivariateNormal

from avo_lib.chain import Chain, Gaussian
from avo_lib.checkpoint import Progress
from avo_lib.collapse import mutual_information
from avo_lib.data import Dataset
from avo_lib.evaluation import ais, average_bound, log_likelihood, reverse_ais
from avo_lib.experiments.benchmark import BenchmarkConfig
from avo_lib.experiments.contestants import Affine
from avo_lib.kernels import (
    HMC,
    Drift,
    GatedKernel,
    Householder,
    Langevin,
    Underdamped,
    autoregressive,
    tune_step_sizes,
)
from avo_lib.models import VAE, VAEConfig
from avo_lib.models.iterative import elbo_gradient
from avo_lib.models.linear_vae import LinearVAE, ppca
from avo_lib.models.parts import GaussianNoise, trunk
from avo_lib.models.ring import Ring, RingConfig
from avo_lib.models.vamp import EvenMixture
from avo_lib.nested import LearnedPath, nested
from avo_lib.numerics import effective_sample_size, log_normal
from avo_lib.objectives import AVO, elbo, iwae
from avo_lib.paths import AmortisedPath, GeometricPath, linear_alphas, sigmoidal_alphas
from avo_lib.schedules import Constant, Cyclical, Scaled, WarmUp
from avo_lib.smc import adaptive_alphas, smc
from avo_lib.training import TrainConfig

BASE = Gaussian(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))


def network(z: torch.Tensor) -> torch.Tensor:
    """An energy as users write it: its one output keeps an axis."""
    return -0.5 * (z - 1).square().sum(-1, keepdim=True)


LAST = GeometricPath(BASE.log_prob, BASE.log_prob, linear_alphas(0))
SMALL = VAE(VAEConfig(4, (3,), 2, batch_norm=False))


def not_a_number(z: torch.Tensor) -> torch.Tensor:
    return z[..., 0] * math.nan


def tune(path, start=lambda: torch.zeros(9, 2)):
    return tune_step_sizes(path, start, adaptations=2)


def hmc_chain(log_f0=BASE.log_prob, log_fT=lambda z: log_normal(z, 1.0), steps: int = 2) -> Chain:
    return Chain(BASE, [HMC(0.5, 3)] * steps, GeometricPath(log_f0, log_fT, linear_alphas(steps)))


@pytest.mark.parametrize("ends", [{"log_fT": network}, {"log_f0": network}])
def test_a_log_density_with_an_axis_too_many_is_refused(ends, generator):
    with pytest.raises(ValueError, match=r"shape \(300, 1\) for points \(300, 2\).*squeeze"):
        ais(hmc_chain(**ends), 300, generator=generator)
    with pytest.raises(ValueError, match="one log density for each point"):
        hmc_chain(**ends).path.log_ladder(torch.zeros(2, 300, 2))


def test_a_log_density_of_some_points_alone_is_refused(generator):
    """``z[:, 0]`` of draws (50, 5, 1) is no coordinate, but the first of five populations: it would stand for all."""
    base = Gaussian(torch.zeros(5, 1), torch.ones(5, 1))
    path = GeometricPath(base.log_prob, lambda z: -2 * (z[:, 0] - 1).square(), linear_alphas(0))
    with pytest.raises(ValueError, match=r"shape \(50, 1\) for points \(50, 5, 1\).*a coordinate is z\[\.\.\., 0\]"):
        ais(Chain(base, [], path), 50, generator=generator)


def test_where_points_have_one_entry_densities_may_have_more(generator):
    """As of one draw of the prior under each of seven data."""
    base = Gaussian(torch.zeros(1, 2), torch.ones(1, 2))
    path = GeometricPath(base.log_prob, lambda z: log_normal(z, torch.zeros(7, 2)), linear_alphas(0))
    assert Chain(base, [], path).sample((50,), generator=generator).log_w().shape == (50, 7)


def test_a_path_of_ones_own_is_held_to_its_axes(generator):
    """Log weights ``(50, 50)`` would pass for weights."""

    class Own:
        alphas = linear_alphas(1)

        def log_density(self, t, z, beta=1.0):
            return network(z)

        log_ladder = lambda self, zs, beta=1.0: network(zs)  # noqa: E731

    chain = Chain(BASE, [GatedKernel(2, 4)], Own())
    draws = chain.sample((50,), generator=generator)
    for weigh in (draws.log_w, draws.log_v, lambda: ais(chain, 50, generator=generator), lambda: smc(chain, 50)):
        with pytest.raises(ValueError, match=r"the path.* gives shape \((1, )?50, 1\)"):
            weigh()


@pytest.mark.parametrize("ends", [{"mean": torch.zeros(2)}, {"std": torch.ones(3, 2)}])
def test_points_of_one_coordinate_are_not_stretched_to_the_gaussian(ends):
    with pytest.raises(ValueError, match=r"points \(5, 1, 1\) have one coordinate for a Gaussian of 2"):
        log_normal(torch.zeros(5, 1, 1), **ends)
    assert log_normal(torch.zeros(5, 1, 2), **ends).shape == (5, 3 if "std" in ends else 1)


def test_points_of_another_size_are_not_weighed(generator):
    with pytest.raises(ValueError, match="have one coordinate for a Gaussian of 2"):
        reverse_ais(hmc_chain(), torch.randn(500, 1, generator=generator), generator=generator)


@pytest.mark.parametrize("ends", [(network, BASE.log_prob), (BASE.log_prob, network)])
def test_a_path_that_learns_refuses_an_axis_too_many(ends, generator):
    chain = Chain(BASE, [GatedKernel(2, 4)] * 2, LearnedPath(*ends, T=2))
    with pytest.raises(ValueError, match=r"log_f. gives shape \(5, 1\)"):
        nested(chain, 5, generator=generator)


@pytest.mark.parametrize("kernel", [HMC(0.5), Langevin(0.5)], ids=["hmc", "langevin"])
def test_a_kernel_without_a_chain_refuses_an_axis_too_many(kernel, generator):
    with pytest.raises(ValueError, match=r"log_f gives shape \(5, 1\)"):
        kernel.forward(torch.zeros(5, 2), network, None, generator=generator)


@pytest.mark.parametrize("part", ["prior", "likelihood"])
def test_a_model_with_an_axis_too_many_is_refused(part, generator):
    log_prior, log_likelihood = (network if part == name else log_normal for name in ("prior", "likelihood"))
    path = AmortisedPath(log_prior, log_likelihood, log_likelihood, linear_alphas(1))
    with pytest.raises(ValueError, match=f"log_{part} gives shape"):
        Chain(BASE, [GatedKernel(2, 4)], path).sample((5,), generator=generator).log_v()


def test_a_proposal_or_kernel_with_an_axis_too_many_is_refused(generator):
    class Wrong:
        def sample(self, shape, *, generator):
            z, log_q = BASE.sample(shape, generator=generator)
            return z, log_q[..., None]

        def log_prob(self, z):
            return BASE.log_prob(z)[..., None]

        def forward(self, z_prev, log_f, context, *, generator):
            return z_prev, torch.zeros_like(z_prev[..., :1])

        reverse = forward

    path = GeometricPath(BASE.log_prob, BASE.log_prob, linear_alphas(1))
    with pytest.raises(ValueError, match="the proposal gives shape"):
        Chain(Wrong(), [HMC(0.5)], path).sample((5,), generator=generator)
    with pytest.raises(ValueError, match="kernel 1 gives shape"):
        Chain(BASE, [Wrong()], path).sample((5,), generator=generator)
    with pytest.raises(ValueError, match="kernel 1 gives shape"):
        ais(Chain(BASE, [Wrong()], path), 5, generator=generator)
    with pytest.raises(ValueError, match="kernel 1 gives shape"):
        reverse_ais(Chain(BASE, [Wrong()], path), torch.zeros(5, 2), generator=generator)
    with pytest.raises(ValueError, match="log_prob of the proposal gives shape"):
        Chain(Wrong(), [HMC(0.5)], path).sample_reverse(torch.zeros(5, 2), generator=generator)


def test_reverse_chains_do_not_average_over_data(generator):
    """One exact draw for each of 50 images is one sample of each, not 50 samples of one log Z."""
    scale = torch.linspace(0.5, 3.0, 50)
    proposal = Gaussian(torch.zeros(50, 2), torch.ones(50, 2))
    path = GeometricPath(proposal.log_prob, lambda z: log_normal(z) + scale.log(), linear_alphas(3))
    chain = Chain(proposal, [HMC(0.5, 3)] * 3, path)
    z = torch.randn(50, 2, generator=generator)
    with pytest.raises(ValueError, match=r"z\[None\]"):
        reverse_ais(chain, z, generator=generator)
    estimate, log_w = reverse_ais(chain, z[None], generator=generator)
    assert log_w.shape == (1, 50)
    assert estimate.value == pytest.approx(scale.log().mean().item(), abs=1e-9)


def test_hmc_refuses_to_cut_a_gradient(generator):
    """N(0, sigma^2) before HMC would learn sigma from the proposal's entropy alone, without end."""
    log_std = torch.zeros(2, requires_grad=True)
    path = GeometricPath(BASE.log_prob, lambda z: log_normal(z, 1.0), linear_alphas(3))
    chain = Chain(Gaussian(torch.zeros(2), log_std.exp()), [HMC(0.5, 3)] * 3, path)
    with pytest.raises(ValueError, match="HMC passes no gradient on"):
        elbo(chain.sample((50,), generator=generator))
    with torch.no_grad():
        assert elbo(chain.sample((50,), generator=generator)).isfinite().all()


@pytest.mark.parametrize("name", ["hmc", "langevin", "controlled", "learned reverse", "underdamped"])
def test_gradients_that_inference_mode_takes_away_are_missed(name, generator):
    """Every log f would count as flat: HMC a random walk, and Langevin dynamics without a drift."""
    kernel, z = KERNELS[name](), torch.ones(5, 4 if name == "underdamped" else 2)
    move = lambda: kernel.forward(z, log_normal, None, generator=generator)  # noqa: E731
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch\.no_grad\(\) instead"):
        move()
    with torch.no_grad():
        assert move()[0].isfinite().all()


def test_iterative_inference_misses_its_gradients_too():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch\.no_grad\(\) instead"):
        elbo_gradient(torch.zeros(5, 4), log_normal)


def box(z: torch.Tensor) -> torch.Tensor:
    """A uniform density with hard edges."""
    return torch.where((z.abs() < 1).all(-1), -2 * math.log(2.0), -torch.inf)


@pytest.mark.parametrize("ends", [(BASE.log_prob, box), (box, BASE.log_prob)], ids=["target", "base"])
def test_a_path_vanishes_where_an_end_does(ends):
    path = GeometricPath(*ends, linear_alphas(2))
    z = torch.tensor([[0.5, 0.5], [2.0, 0.0]])
    inside, outside = path.log_density(1, z).tolist()
    assert inside == pytest.approx(0.5 * (log_normal(z[0]).item() - 2 * math.log(2.0)))
    assert outside == -math.inf
    assert path.log_ladder(torch.stack([z, z]))[0].tolist() == [inside, -math.inf]


def test_hard_edges_may_be_of_another_type(generator):
    """``torch.where`` of Python's numbers gives the default type, whatever the type of the points."""
    single = lambda z: box(z).float()  # noqa: E731
    z = torch.tensor([[0.5, 0.5], [2.0, 0.0]])
    path, same = (GeometricPath(BASE.log_prob, end, linear_alphas(2)) for end in (single, box))
    torch.testing.assert_close(path.log_density(1, z), same.log_density(1, z), rtol=1e-6, atol=0)
    torch.testing.assert_close(path.log_ladder(torch.stack([z, z])), same.log_ladder(torch.stack([z, z])))
    assert path.log_density(1, z).dtype == torch.float64
    learned = LearnedPath(BASE.log_prob, single, T=2)
    torch.testing.assert_close(learned.log_density(1, z[:1]), same.log_density(1, z[:1]), rtol=1e-6, atol=0)
    assert adaptive_alphas(BASE, single, HMC(0.5), 100, generator=generator)[-1] == 1


@pytest.mark.parametrize(
    "path",
    [
        GeometricPath(log_normal, lambda z: log_normal(z, 1.0), linear_alphas(2)),
        AmortisedPath(log_normal, log_normal, log_normal, linear_alphas(2)),
    ],
    ids=["geometric", "amortised"],
)
def test_alphas_stay_fractions_at_integer_points(path):
    z = torch.tensor([[2, 3], [0, -1]])
    torch.testing.assert_close(path.log_density(1, z), path.log_density(1, z.double()), check_dtype=False)
    zs = torch.stack([z, z])
    torch.testing.assert_close(path.log_ladder(zs), path.log_ladder(zs.double()), check_dtype=False)


def test_steps_are_tuned_on_a_bounded_target(generator):
    """A NaN outside would count as a rejection whatever the step, and make it much too small."""
    path = GeometricPath(BASE.log_prob, box, linear_alphas(2))
    start = lambda: 0.5 * torch.randn(500, 2, generator=generator).clamp(-1.9, 1.9)  # noqa: E731
    first = tune_step_sizes(path, start, leapfrog_steps=3, generator=generator)[0]
    moved = torch.zeros(500, 2)
    _, _, accepted = first.transition(moved, lambda z: path.log_density(1, z), generator=generator)
    assert 0.4 < accepted.mean() < 0.95
    assert first.step_size > 0.1


@pytest.mark.parametrize("guess", [1e6, 0.0, -0.5, math.nan, math.inf])
def test_a_hopeless_first_step_is_refused(guess, generator):
    path = hmc_chain().path
    with pytest.raises(ValueError, match="step"):
        tune_step_sizes(path, lambda: torch.randn(100, 2, generator=generator), step_size=guess, generator=generator)


def test_weights_of_large_magnitude_keep_their_sample_size():
    log_w = torch.full((100,), -1.2e5, dtype=torch.float32)
    assert effective_sample_size(log_w).item() == pytest.approx(100, rel=1e-9)


def test_avo_without_kernels_is_refused_at_the_first_step(generator):
    model = VAE(VAEConfig(pixels=4, hidden=(3,), latent=2, batch_norm=False))
    for share in (1e-9, 1.0):
        with pytest.raises(ValueError, match="at least one kernel"):
            AVO(share)(model, torch.ones(2, 4), generator=generator)


class Silent:
    """A kernel whose ratio is Python's."""

    def forward(self, z_prev, log_f, context=None, *, generator=None):
        return z_prev, 0.0


@pytest.mark.parametrize(
    "ask, error, advice",
    [
        (lambda: TrainConfig(epochs=1, objective=elbo), TypeError, r"elbo takes a trajectory.*give ELBO\(\)"),
        (lambda: Chain(MultivariateNormal(torch.zeros(2), torch.eye(2)), [], LAST), TypeError, r"Drawn\(Multiva"),
        (lambda: Gaussian(torch.zeros(2), torch.ones(3)), ValueError, r"broadcast to one, not \(2,\) and \(3,\)"),
        (lambda: ais(SMALL, 5), TypeError, r"a chain, such as model\.chain\(x\), not a VAE"),
        (lambda: smc(SMALL, 5), TypeError, r"a chain, such as model\.chain\(x\), not a VAE"),
        (lambda: ais(hmc_chain(log_fT=not_a_number), 5), ValueError, "log f_2 is NaN at 5 of 5 points: give -inf"),
        (lambda: smc(hmc_chain(log_fT=not_a_number), 5), ValueError, "log f_1 is NaN at 5 of 5 points: give -inf"),
        (lambda: tune(hmc_chain(log_fT=not_a_number).path), ValueError, "log f_1 is NaN at 9 of the pilot's points"),
        (lambda: tune(hmc_chain()), TypeError, r"a path, such as chain\.path, not to a Chain"),
        (lambda: tune(hmc_chain().path, BASE.sample), TypeError, r"start is a function that draws points"),
        (lambda: tune(hmc_chain().path, torch.zeros(9, 2)), TypeError, r"start is a function that draws points"),
        (lambda: tune(hmc_chain().path, lambda: torch.zeros(0, 2)), ValueError, r"at least one chain, not .*\(0, 2\)"),
        (lambda: GeometricPath(log_normal, log_normal, []), ValueError, r"linear_alphas\(5\).*got \[\]"),
        (lambda: GeometricPath(log_normal, log_normal, 5), ValueError, r"linear_alphas\(5\).*got 5"),
        (lambda: ais(replace(hmc_chain(), kernels=[Silent()] * 2), 5), TypeError, "kernel 1 gives 0.0: expected a ten"),
        (lambda: iwae(hmc_chain().sample()), ValueError, r"chain\.sample\(\(K,\)\)"),
        (lambda: average_bound(SMALL, torch.ones(5, 4), rows=0), ValueError, "rows must be a whole number of at least"),
        (lambda: log_likelihood(SMALL, torch.ones(5, 4), generator=0), TypeError, "0 is a seed, not a generator"),
        (
            lambda: GatedKernel(3, 4)(torch.zeros(5, 2), None, None),
            ValueError,
            r"takes points .*3\), not \(5, 2\)",
        ),
        (lambda: GaussianNoise().check(torch.tensor([[math.nan, 1.0]])), ValueError, "but 1 are NaN or infinite"),
    ],
)
def test_what_is_easily_mistaken_is_told_how_to_mend_it(ask, error, advice):
    with pytest.raises(error, match=advice):
        ask()


@pytest.mark.parametrize(
    "make",
    [
        lambda: HMC(0.0),
        lambda: HMC(math.nan),
        lambda: HMC(torch.tensor([0.1, 0.2])),
        lambda: HMC(np.array([0.1, 0.2])),
        lambda: HMC(True),
        lambda: HMC("long"),
        lambda: Langevin(torch.tensor([0.1, 0.2])),
        lambda: log_normal(torch.zeros(2), 0.0, -1.0),
        lambda: log_normal(torch.zeros(2), std=0),
        lambda: mutual_information(Gaussian(torch.zeros(5, 1), torch.ones(5, 1)), rows=0),
        lambda: HMC(0.5, 0),
        lambda: Constant(math.nan),
        lambda: Constant(-1.0),
        lambda: WarmUp(0.2, -1e-4),
        lambda: WarmUp(math.nan, 1e-4),
        lambda: WarmUp(0.5, 0.0),
        lambda: Cyclical(10, ramp=0.0),
        lambda: Cyclical(10, ramp=1.5),
        lambda: Cyclical(10, ramp=math.nan),
        lambda: Cyclical(0),
        lambda: Scaled(Constant(), math.nan),
        lambda: sigmoidal_alphas(0),
        lambda: sigmoidal_alphas(5, 0.0),
        lambda: sigmoidal_alphas(5, math.nan),
        lambda: VAEConfig(latent=0),
        lambda: VAEConfig(pixels=0),
        lambda: VAEConfig(hidden=(300, 0)),
        lambda: VAEConfig(hidden=300),
        lambda: VAEConfig(std_init=0.0),
        lambda: VAEConfig(std_init=math.nan),
        lambda: VAEConfig(gate_bias=math.nan),
        lambda: GatedKernel(0, 8),
        lambda: GatedKernel(2, 0),
        lambda: Drift(0, 8),
        lambda: Drift(2, 8.5),
        lambda: Householder(0),
        lambda: autoregressive(0, 8),
        lambda: autoregressive(2, 0),
        lambda: Underdamped(0.1, math.nan),
        lambda: EvenMixture(torch.empty(0, 2), torch.empty(0, 2)),
        lambda: elbo_gradient(torch.zeros(5, 4), log_normal, samples=2.0),
        lambda: tune_step_sizes(hmc_chain().path, lambda: torch.zeros(9, 2), adaptations=2.5),
        lambda: LinearVAE(torch.ones(3, 1), torch.ones(3)),
        lambda: ppca(torch.ones(3, 3).triu(), 1),
        lambda: ppca(torch.ones(3, 2), 1),
        lambda: Ring(RingConfig("avo", (0.1,), seeds=3)).bound(torch.zeros(1, 7, 2)),
        lambda: Affine(3, diagonal=True)(torch.zeros(5, 1), None, None),
        lambda: Affine(3, diagonal=False).reverse(torch.zeros(5, 1), None, None),
        lambda: BenchmarkConfig("sonar", "ULA", budget=7),
        lambda: trunk((4, 8), "tanh", False),
        lambda: trunk((4, 8), "gated", True),
        lambda: TrainConfig(epochs=1.5),
        lambda: TrainConfig(epochs=1, lr=math.nan),
        lambda: TrainConfig(epochs=1, lr_drop=math.nan),
        lambda: TrainConfig(epochs=1, patience=1, beta=Constant(0.5)),
        lambda: TrainConfig(epochs=1, patience=1, beta=Scaled(WarmUp(0.2, 0.1), 1.25)),
    ],
)
def test_impossible_settings_are_refused_where_they_are_given(make):
    with pytest.raises(ValueError):
        make()


def test_what_is_no_tensor_or_no_generator_is_named():
    with pytest.raises(TypeError, match=r"valid must be a tensor, not ndarray: use torch\.as_tensor\(valid\)"):
        Dataset(torch.zeros(3, 2), np.zeros((3, 2)))
    with pytest.raises(TypeError, match=r"5 is a seed, not a generator: give torch\.Generator\(\)\.manual_seed\(5\)"):
        GatedKernel(2, 4)(torch.zeros(3, 2), None, None, generator=5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dataset(torch.zeros(3, 2), torch.zeros(3, 2)),
        lambda: EvenMixture(torch.zeros(3, 2), torch.ones(3, 2)),
        lambda: ppca(torch.tensor([5.0, 2.0, 1.0]), 1),
        Progress,
    ],
)
def test_what_holds_tensors_is_equal_to_itself_alone(make):
    """Fields that are compared would end in torch's error about a truth value."""
    one, other = make(), make()
    assert one != other and one in [other, one] and len({one, other}) == 2
