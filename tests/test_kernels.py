"""One contract over every kernel there is, and what each kernel promises besides."""

import math

import pytest
import torch
from torch.distributions.transforms import AffineTransform

from avo_lib.balance import weigh
from avo_lib.chain import Chain, Gaussian
from avo_lib.evaluation import ais
from avo_lib.kernels import (
    HMC,
    Controlled,
    DensityKernel,
    Drift,
    Flow,
    GatedKernel,
    Householder,
    Langevin,
    LearnedReverse,
    MetropolisKernel,
    Underdamped,
    autoregressive,
    tune_step_sizes,
)
from avo_lib.kernels.gated import ConditionalLinear
from avo_lib.numerics import log_normal
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import ENERGIES, GaussianMixture, energy
from avo_lib.testing import assert_mean

SKEWED = GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.0, -0.3)), 0.8)
FEATURES = 3


def steered() -> Drift:
    """A drift that is not zero any more."""
    drift = Drift(2, 8)
    with torch.no_grad():
        drift.last.scale.fill_(0.5)
        drift.last.shift.fill_(0.2)
    return drift


KERNELS = {
    "gated": lambda: GatedKernel(2, 8, std_init=0.4, gate_bias=-4),
    "gated, concatenated context": lambda: GatedKernel(2, 8, context_dim=FEATURES, std_init=0.4, gate_bias=-4),
    "gated, weight-normalised context": lambda: GatedKernel(
        2, 8, context_dim=FEATURES, conditioning="weight_norm", activation=torch.nn.ELU(), std_init=0.4, gate_bias=-4
    ),
    "householder": lambda: Householder(2),
    "householder with context": lambda: Householder(2, context_dim=FEATURES),
    "autoregressive": lambda: autoregressive(2, 8),
    "autoregressive, reversed, with context": lambda: autoregressive(2, 8, context_dim=FEATURES, reverse=True),
    "a transform of torch": lambda: Flow(AffineTransform(0.3, torch.tensor([0.8, 1.2]))),
    "langevin": lambda: Langevin(0.3),
    "controlled": lambda: Controlled(0.3, steered(), (0.5, 0.75)),
    "learned reverse": lambda: LearnedReverse(0.3, steered(), (0.5, 0.75)),
    "underdamped": lambda: Underdamped(0.6, 0.7),
    "hmc": lambda: HMC(0.5, 3),
    "hmc with a step far too long": lambda: HMC(3.0, 3),
}
LEARNED = [name for name in KERNELS if "hmc" not in name and "torch" not in name]
WITH_DENSITY = [name for name, make in KERNELS.items() if isinstance(make(), DensityKernel)]
every_kernel = pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)


def context(shape, generator):
    return torch.randn(*shape, FEATURES, generator=generator)


@every_kernel
def test_shapes_follow_leading_axes(make, generator):
    kernel = make()
    for shape in [(), (5,), (4, 5), (3, 4, 5)]:
        z = torch.randn(*shape, 2, generator=generator)
        for move in (kernel.forward, kernel.reverse):
            moved, log_ratio = move(z, SKEWED.log_density, context(shape, generator), generator=generator)
            assert moved.shape == z.shape and log_ratio.shape == z.shape[:-1]


@every_kernel
def test_an_axis_with_one_entry_grows_with_the_data(make, generator):
    """One proposal for five data, (7, 1, 2): log f and context have five, and the ratio goes with the points."""
    kernel, z, means = make(), torch.randn(7, 1, 2, generator=generator), torch.randn(5, 2, generator=generator)
    for move in (kernel.forward, kernel.reverse):
        moved, log_ratio = move(z, lambda z: log_normal(z, means), context((5,), generator), generator=generator)
        assert moved.shape in [(7, 5, 2), (7, 1, 2)] and log_ratio.shape == moved.shape[:-1]


@every_kernel
def test_the_ratio_is_unbiased_both_ways(make, generator):
    """E over p(z_prev) q(z|z_prev) of r(z_prev|z) g(z) / (p q) is 1 for any densities p and g; and so in reverse."""
    kernel, n = make(), 300_000
    p, g = Gaussian(torch.zeros(2), torch.full((2,), 1.3)), Gaussian(torch.full((2,), 0.2), torch.full((2,), 1.2))
    features = context((1,), generator)
    with torch.no_grad():
        z_prev, log_p = p.sample((n,), generator=generator)
        z, log_ratio = kernel.forward(z_prev, SKEWED.log_density, features, generator=generator)
        assert_mean((log_ratio + g.log_prob(z) - log_p).exp(), 1.0, resolution=0.02)
        z, log_g = g.sample((n,), generator=generator)
        z_prev, log_ratio = kernel.reverse(z, SKEWED.log_density, features, generator=generator)
        assert_mean((p.log_prob(z_prev) - log_ratio - log_g).exp(), 1.0, resolution=0.02)


@every_kernel
def test_the_generator_is_the_only_noise(make):
    kernel, z = make(), torch.ones(6, 2)
    features = torch.ones(6, FEATURES)
    state = torch.get_rng_state()
    draws = [
        move(z, SKEWED.log_density, features, generator=torch.Generator().manual_seed(seed))[0]
        for move in (kernel.forward, kernel.reverse)
        for seed in (1, 1)
    ]
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[2], draws[3])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", [name for name in KERNELS if "context" in name])
def test_a_kernel_misses_its_context(name):
    kernel = KERNELS[name]()
    for move in (kernel.forward, kernel.reverse):
        with pytest.raises(ValueError, match="made with a context_dim needs a context: give the chain one"):
            move(torch.ones(5, 2), None, None)


class Named(torch.nn.Module):
    """A kernel of one's own, whose networks have the names of methods."""

    def __init__(self):
        super().__init__()
        self.transition, self.log_ratio = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def forward(self, z_prev, log_f, context, *, generator):
        return z_prev, z_prev.new_zeros(z_prev.shape[:-1])

    reverse = forward


def test_a_network_is_no_method(generator):
    """As one it would be called with a point and a log density."""
    assert isinstance(HMC(0.5), MetropolisKernel) and not isinstance(GatedKernel(2, 4), MetropolisKernel)
    assert not isinstance(Named(), MetropolisKernel | DensityKernel)
    base = Gaussian(torch.zeros(2), torch.ones(2))
    chain = Chain(base, [Named()], GeometricPath(base.log_prob, SKEWED.log_density, linear_alphas(1)))
    assert ais(chain, 50, generator=generator).log_w.shape == (50,)
    with pytest.raises(TypeError, match="kernel 1, a Named, has no log_ratio"):
        weigh(chain, chain.sample((5,), generator=generator).z)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_a_kernel_with_densities_weighs_its_own_moves(name, generator):
    kernel, features = KERNELS[name](), context((9,), generator)
    z = torch.randn(9, 2, generator=generator)
    for move in (kernel.forward, kernel.reverse):
        moved, log_ratio = move(z, SKEWED.log_density, features, generator=generator)
        pair = (z, moved) if move == kernel.forward else (moved, z)
        torch.testing.assert_close(kernel.log_ratio(*pair, SKEWED.log_density, features), log_ratio)


def test_all_but_flows_and_momenta_have_densities():
    assert WITH_DENSITY == [name for name in KERNELS if name.startswith(("gated", "langevin", "controlled", "learned"))]


@pytest.mark.parametrize("name", LEARNED)
def test_every_parameter_learns(name, generator):
    kernel = KERNELS[name]()
    z = torch.randn(9, 2, generator=generator)
    z, log_ratio = kernel(z, SKEWED.log_density, context((9,), generator), generator=generator)
    (log_ratio + SKEWED.log_density(z)).sum().backward()
    for label, parameter in kernel.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, label


def test_the_gated_density_is_a_gaussian_at_its_own_mean_and_std(generator):
    kernel = GatedKernel(3, 8)
    z_prev = torch.randn(20, 3, generator=generator)
    z, log_ratio = kernel(z_prev, None, None, generator=generator)
    log_q = torch.distributions.Normal(*kernel.q(z_prev, None)).log_prob(z).sum(-1)
    log_r = torch.distributions.Normal(*kernel.r(z, None)).log_prob(z_prev).sum(-1)
    torch.testing.assert_close(log_ratio, log_r - log_q)


@pytest.mark.parametrize(("std", "gate"), [(1.0, -1.0), (0.05, -3.0)])
def test_initialisation(std, gate, generator):
    operator = GatedKernel(2, 64, std_init=std, gate_bias=gate).q
    z = torch.randn(1000, 2, generator=generator)
    _, actual = operator(z, None)
    assert bool(((actual - std).abs() < 0.02 * std + 0.01).all())
    assert bool((operator.heads.shift[..., 2:4] == gate).all())


@pytest.mark.parametrize(
    "start", [{"std_init": 0.0}, {"std_init": 1000.0}, {"std_init": math.nan}, {"gate_bias": math.nan}]
)
def test_starts_that_no_gated_kernel_has_are_refused(start):
    with pytest.raises(ValueError, match="need 0 < std_init < 700 and a finite gate_bias"):
        GatedKernel(2, 8, **start)


def test_a_batch_of_kernels_is_many_kernels(generator):
    """Independent copies along a leading axis give what each gives alone."""
    batched = GatedKernel(2, 8, batch=(3,))
    z = torch.randn(3, 50, 2, generator=generator)
    mean, std = batched.q(z, None)
    for i in range(3):
        one = GatedKernel(2, 8)
        one.load_state_dict({name: value[i] for name, value in batched.state_dict().items()})
        alone = one.q(z[i], None)
        torch.testing.assert_close(mean[i], alone[0])
        torch.testing.assert_close(std[i], alone[1])


def test_conditional_weight_normalisation_by_hand(generator):
    layer = ConditionalLinear(4, 3, FEATURES, "weight_norm")
    z, c = torch.randn(5, 4, generator=generator), torch.randn(5, FEATURES, generator=generator)
    v = layer.direction / torch.linalg.vector_norm(layer.direction, dim=0)
    scale = layer.scale + c @ layer.scale_of_context.weight.T
    shift = layer.shift + c @ layer.shift_of_context.weight.T
    torch.testing.assert_close(layer(z, c), scale * (z @ v) + shift)
    with pytest.raises(ValueError, match="'concat' or 'weight_norm'"):
        ConditionalLinear(4, 3, FEATURES, "film")


def test_copies_with_a_context_are_refused():
    """They would share its layers, and no longer be independent."""
    with pytest.raises(ValueError, match="independent copies take no context"):
        GatedKernel(2, 4, context_dim=3, batch=(5,))


def test_householder_reflects(generator):
    kernel = Householder(5)
    z = torch.randn(7, 5, generator=generator)
    reflected, log_ratio = kernel(z, None, None)
    torch.testing.assert_close(reflected.norm(dim=-1), z.norm(dim=-1))
    torch.testing.assert_close(kernel.reverse(reflected, None, None)[0], z)
    jacobian = torch.autograd.functional.jacobian(lambda z: kernel(z, None, None)[0], z[0])
    assert torch.linalg.det(jacobian).item() == pytest.approx(-1) and bool((log_ratio == 0).all())
    torch.testing.assert_close(jacobian @ jacobian.T, torch.eye(5))


def test_points_of_another_size_are_not_reflected():
    for move in (Householder(2), Householder(2).reverse):
        with pytest.raises(ValueError, match=r"the reflection takes points \(\.\.\., 2\), not \(5, 1\)"):
            move(torch.zeros(5, 1), None, None)


def test_hmc_leaves_a_skewed_target_invariant(generator):
    """From exact draws one transition must keep every moment: no burn-in, independent samples."""
    z = SKEWED.sample(200_000, generator=generator)
    moved, _, accepted = HMC(0.9, 3).transition(z, SKEWED.log_density, generator=generator)
    assert 0.3 < accepted.mean() < 0.95  # else the Metropolis step is not tested
    exact_mean = 0.3 * torch.tensor([-1.0, 0.5]) + 0.7 * torch.tensor([1.0, -0.3])
    assert_mean(moved, exact_mean, resolution=0.01)
    third = 0.3 * (-1 - 3 * 0.64) + 0.7 * (1 + 3 * 0.64)  # E z1³ = m³ + 3 m s²
    assert_mean(moved[:, 0] ** 3, third, resolution=0.03)


def test_hmc_detailed_balance_ratio_and_rejections(generator):
    z = SKEWED.sample(1000, generator=generator)
    moved, log_ratio = HMC(0.9, 3).forward(z, SKEWED.log_density, None, generator=generator)
    torch.testing.assert_close(log_ratio, SKEWED.log_density(z) - SKEWED.log_density(moved))
    assert bool((log_ratio[(moved == z).all(-1)] == 0).all())


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
def test_hmc_rejects_what_is_not_finite(beyond, generator):
    def cliff(z):
        return torch.where(z[..., 0].abs() < 1, -0.5 * z.square().sum(-1), beyond)

    z = torch.rand(500, 2, generator=generator) - 0.5
    moved, log_ratio, accepted = HMC(0.8, 4).transition(z, cliff, generator=generator)
    assert bool(moved.isfinite().all()) and bool(log_ratio.isfinite().all()) and bool((accepted == 0).any())
    assert bool((moved[:, 0].abs() < 1).all())


@pytest.mark.parametrize("name", ENERGIES)
def test_hmc_leaves_the_origin(name, generator):
    """Where rings have their centre, and the root in their radius a slope without end."""
    moved, _, accepted = HMC(0.3).transition(torch.zeros(100, 2), energy(name).log_density, generator=generator)
    assert accepted.mean() > 0.1 and bool((moved != 0).any())


def test_leapfrog_energy_error_is_of_second_order(generator):
    z = SKEWED.sample(20_000, generator=generator)
    rejection = []
    for step, count in ((0.2, 4), (0.1, 8)):
        _, _, accepted = HMC(step, count).transition(z, SKEWED.log_density, generator=generator)
        rejection.append((1 - accepted).mean().item())
    assert 3 < rejection[0] / rejection[1] < 5


def test_leapfrog_carries_its_gradient(generator):
    calls = []

    def counted(z):
        calls.append(1)
        return log_normal(z)

    HMC(0.1, 7).transition(torch.zeros(3, 2), counted, generator=generator)
    assert len(calls) == 8


def test_steps_are_tuned_from_a_proposal_that_learns(generator):
    """As from an encoder, whose draws carry a gradient that HMC would refuse."""
    base = Gaussian(torch.zeros(2, requires_grad=True), torch.ones(2))
    path = GeometricPath(log_normal, lambda z: log_normal(z, 1.0), linear_alphas(2))
    kernels = tune_step_sizes(path, lambda: base.sample((50,), generator=generator)[0], generator=generator)
    assert len(kernels) == 2


def test_tuned_steps_are_frozen_and_near_the_wanted_acceptance(generator):
    """The target narrows along the path, so the steps must shrink."""
    base = Gaussian(torch.zeros(5), torch.full((5,), 3.0))
    path = GeometricPath(base.log_prob, lambda z: log_normal(z, 0.0, 0.3), linear_alphas(4))
    accepted = torch.empty(7, 4)
    for i in range(7):  # one pilot of 500 chains that are not at rest can miss by much: 0.36 to 0.99 were seen
        kernels = tune_step_sizes(path, lambda: base.sample((500,), generator=generator)[0], generator=generator)
        assert len(kernels) == 4 and kernels[0].step_size > kernels[-1].step_size
        for t, kernel in enumerate(kernels, start=1):
            std = (path.alphas[t].item() / 0.3**2 + (1 - path.alphas[t].item()) / 9) ** -0.5
            exact = std * torch.randn(5000, 5, generator=generator)
            rate = kernel.transition(exact, lambda z: path.log_density(t, z), generator=generator)[2]  # noqa: B023
            accepted[i, t - 1] = rate.mean()
    assert 0.45 < accepted.median(0).values.min() and accepted.median(0).values.max() < 0.9
    with pytest.raises(AttributeError):
        kernels[0].step_size = 1.0
    assert math.isfinite(kernels[-1].step_size)
