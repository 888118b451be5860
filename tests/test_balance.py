"""Squares that ask for balance: zero where it holds, AVO's gradient for q on policy, and not for r."""

from dataclasses import dataclass, replace

import pytest
import torch
from exact import linear_gaussian_chain
from torch import Tensor

from avo_lib.balance import (
    Backwards,
    DetailedBalance,
    LogVariance,
    TrajectoryBalance,
    Widened,
    log_variance,
    weigh,
)
from avo_lib.chain import Chain, Gaussian
from avo_lib.kernels import HMC, GatedKernel, Householder, Langevin
from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_normal
from avo_lib.objectives import AVO
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.testing import assert_mean


def log_target(z: Tensor) -> Tensor:
    """Two modes, with log Z = log(e^0.4 + e^1.1)."""
    return torch.logaddexp(0.4 + log_normal(z, -1.0, 0.7), 1.1 + log_normal(z, 1.5, 0.5))


@dataclass(frozen=True)
class Held:
    """A model that is one chain."""

    held: Chain

    def chain(self, x: Tensor) -> Chain:
        return self.held


@dataclass(frozen=True)
class Affine:
    """One Gaussian kernel each way, whose means can be moved; a and b are scalars, or one for each draw."""

    a: Tensor
    b: Tensor

    def forward(self, z_prev, log_f, context, *, generator=None):
        z = 0.8 * z_prev + self.a + 0.9 * torch.randn(z_prev.shape, generator=generator)
        return z, self.log_ratio(z_prev, z, log_f, context)

    def reverse(self, z, log_f, context, *, generator=None):
        z_prev = 0.6 * z + self.b + 0.7 * torch.randn(z.shape, generator=generator)
        return z_prev, self.log_ratio(z_prev, z, log_f, context)

    def log_ratio(self, z_prev, z, log_f, context):
        return log_normal(z_prev, 0.6 * z + self.b, 0.7) - log_normal(z, 0.8 * z_prev + self.a, 0.9)


def one_kernel(kernel, proposal=None) -> Chain:
    base = Gaussian(torch.zeros(1), torch.ones(1))
    return Chain(proposal or base, [kernel], GeometricPath(base.log_prob, log_target, linear_alphas(1)))


def line(box=14.0, points=401) -> Tensor:
    return torch.linspace(-box, box, points)[:, None]


@dataclass(frozen=True)
class Grid:
    """All pairs (z_0, z_1) of a grid as a behaviour: expectations become sums, with errors below 1e-10."""

    z: tuple[Tensor, ...]

    def __call__(self, chain, shape, *, generator=None):
        return self.z


def grid_of_pairs() -> tuple[Tensor, Tensor]:
    z = line()
    return tuple(part.reshape(-1, 1) for part in torch.meshgrid(z[:, 0], z[:, 0], indexing="ij"))


def mass(chain: Chain, z: tuple[Tensor, ...]) -> Tensor:
    """What each pair of the grid weighs under q_0 q_1, a constant."""
    step = (line()[1] - line()[0]).item()
    own = weigh(chain, z)
    log_q = own.log_q0 - own.log_ratio[0] + log_r(chain, z)
    return (log_q.exp() * step**2).detach()


def log_r(chain: Chain, z: tuple[Tensor, ...]) -> Tensor:
    kernel = chain.kernels[0]
    if isinstance(kernel, GatedKernel):
        return log_normal(z[0], *kernel.r(z[1], None))
    return log_normal(z[0], 0.6 * z[1] + kernel.b, 0.7)


def gradients(value: Tensor, parameters) -> list[Tensor]:
    return torch.autograd.grad(value, list(parameters), retain_graph=True)


def exact_elbo(chain: Chain, z: tuple[Tensor, ...]) -> Tensor:
    """E log v_1 as a sum whose *density* carries the gradient too, so no identity is taken for granted."""
    step = (line()[1] - line()[0]).item()
    own = weigh(chain, z)
    density = (own.log_q0 + log_r(chain, z) - own.log_ratio[0]).exp() * step**2
    return (density * own.log_v()[0]).sum()


def gated(seed=0) -> GatedKernel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GatedKernel(1, 8)


CONSTANTS = (-3.0, 0.0, 0.7, 25.0)


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("make", [gated, lambda: Affine(torch.tensor(0.3).requires_grad_(), torch.tensor(-0.2))])
def test_on_policy_squares_are_avo_for_the_forward_kernel(make, constant):
    """−∇_q ½ E(log v − c)² = ∇_q E log v for every c, to nine digits, on a grid."""
    kernel, z = make(), grid_of_pairs()
    chain = one_kernel(kernel)
    weight = mass(chain, z)
    assert abs(weight.sum().item() - 1) < 1e-9
    objective = DetailedBalance(torch.tensor([constant]), Grid(z))
    squares = (weight * objective(Held(chain), torch.zeros(()))).sum()
    forward = kernel.q.parameters() if isinstance(kernel, GatedKernel) else [kernel.a]
    forward = list(forward)
    of_avo = gradients(exact_elbo(chain, z), forward)
    assert max(gradient.abs().max().item() for gradient in of_avo) > 0.1
    for ours, theirs in zip(gradients(squares, forward), of_avo, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_for_the_reverse_kernel_they_are_not():
    """There the gradient is c times AVO's, minus E[log v ∇log r]: it turns round as c falls."""
    kernel, z = gated(), grid_of_pairs()
    chain = one_kernel(kernel)
    weight, back = mass(chain, z), list(kernel.r.parameters())
    of_avo = torch.cat([part.flatten() for part in gradients(exact_elbo(chain, z), back)])

    def of_squares(constant):
        value = (weight * DetailedBalance(torch.tensor([constant]), Grid(z))(Held(chain), torch.zeros(()))).sum()
        return torch.cat([part.flatten() for part in gradients(value, back)])

    for constant in CONSTANTS:
        torch.testing.assert_close(of_squares(constant), of_squares(0.0) + constant * of_avo, rtol=1e-7, atol=1e-9)
        assert not torch.allclose(of_squares(constant), of_avo, rtol=0.1)
    assert of_squares(25.0) @ of_avo > 0 > of_squares(-25.0) @ of_avo


@pytest.mark.parametrize("constant", CONSTANTS)
def test_the_whole_trajectory_has_the_elbo_s_gradient_for_proposal_and_forward_kernel(constant):
    mean, std = torch.tensor([0.4]).requires_grad_(), torch.tensor([0.8]).requires_grad_()
    kernel, z = Affine(torch.tensor(0.3).requires_grad_(), torch.tensor(-0.2)), grid_of_pairs()
    chain = one_kernel(kernel, Gaussian(mean, std))
    step = (line()[1] - line()[0]).item()
    own = weigh(chain, z)
    density = (own.log_q0 + log_r(chain, z) - own.log_ratio[0]).exp() * step**2
    elbo = (density * own.log_w()).sum()
    objective = TrajectoryBalance(torch.tensor(constant), Grid(z))
    squares = (density.detach() * objective(Held(chain), torch.zeros(()))).sum()
    learn = [mean, std, kernel.a]
    for ours, theirs in zip(gradients(squares, learn), gradients(elbo, learn), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_the_log_variance_of_pairs_has_the_elbo_s_gradient():
    """With K = 2 and no kernels all pairs of draws stand on a grid: the batch's own mean costs no bias."""
    mean, std = torch.tensor([0.4]).requires_grad_(), torch.tensor([0.8]).requires_grad_()
    base = Gaussian(torch.zeros(1), torch.ones(1))
    chain = Chain(Gaussian(mean, std), [], GeometricPath(base.log_prob, log_target, linear_alphas(0)))
    pairs, step = torch.stack(grid_of_pairs()), (line()[1] - line()[0]).item()
    density = chain.proposal.log_prob(pairs).sum(0).exp().detach() * step**2
    value = (density * LogVariance(2, Grid((pairs,)))(Held(chain), torch.zeros(()))).sum()
    z = line()
    log_q = chain.proposal.log_prob(z)
    elbo = (log_q.exp() * step * (log_target(z) - log_q)).sum()
    for ours, theirs in zip(gradients(value, [mean, std]), gradients(elbo, [mean, std]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("constant", [-2.0, 2.0])
def test_draws_agree_with_the_grid(constant, generator):
    """The same with the chain's own draws, each with parameters of its own: a z-test that tells q from r."""
    n, z, none = 200_000, grid_of_pairs(), torch.zeros(())
    exact = one_kernel(Affine(torch.tensor(-0.5).requires_grad_(), torch.tensor(-0.9).requires_grad_()))
    learn = [exact.kernels[0].a, exact.kernels[0].b]
    avo_q, avo_r = gradients(exact_elbo(exact, z), learn)
    squares = DetailedBalance(torch.tensor([constant]), Grid(z))(Held(exact), none)
    (for_r,) = gradients((mass(exact, z) * squares).sum(), learn[1:])
    many = Affine(*(one.detach().expand(n, 1).clone().requires_grad_() for one in learn))
    chain = one_kernel(many, Gaussian(torch.zeros(n, 1), torch.ones(n, 1)))
    value = DetailedBalance(torch.tensor([constant]))(Held(chain), none, generator=generator)
    of_q, of_r = gradients(value.sum(), [many.a, many.b])
    assert min(avo_q.abs().item(), (for_r - avo_r).abs().item()) > 0.3
    assert_mean(of_q, avo_q, resolution=0.03)
    assert_mean(of_r, for_r, resolution=0.03)


BEHAVIOURS = {
    "on policy": None,
    "widened": Widened(2.0),
    "backwards": Backwards(torch.linspace(1, 5, 11)[:, None]),
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=list(BEHAVIOURS))
def test_balanced_kernels_have_nothing_to_learn_wherever_the_points_come_from(behaviour, generator):
    chain, log_z = linear_gaussian_chain()
    chain = replace(chain, proposal=Gaussian(torch.zeros(50, 1), torch.ones(50, 1)))
    steps = torch.tensor(log_z).diff()
    objectives = (
        DetailedBalance(steps, behaviour),
        TrajectoryBalance(torch.tensor(log_z[-1]), behaviour),
        LogVariance(4, behaviour),
    )
    for objective in objectives:
        value = objective(Held(chain), torch.zeros(()), generator=generator)
        assert value.shape == (50,) and value.abs().max() < 1e-9
    off = DetailedBalance(steps + 0.1, behaviour)(Held(chain), torch.zeros(()), generator=generator)
    torch.testing.assert_close(off, torch.full((50,), -0.5 * 6 * 0.01))


def test_weighing_a_chain_s_own_draws_gives_their_weights(generator):
    base = Gaussian(torch.zeros(2), torch.ones(2))
    kernels = [GatedKernel(2, 8) for _ in range(3)]
    chain = Chain(base, kernels, GeometricPath(base.log_prob, lambda z: base.log_prob(z - 1), linear_alphas(3)))
    own = chain.sample((40,), generator=generator)
    again = weigh(chain, own.z)
    torch.testing.assert_close(again.log_w(), own.log_w())
    torch.testing.assert_close(again.log_v(), own.log_v())
    assert not any(z.requires_grad for z in again.z)


def test_constants_learn_the_mean(generator):
    """The gradient of the squares in log Z is the mean of log w − log Z."""
    chain, log_z = linear_gaussian_chain()
    constant = torch.tensor(0.3).requires_grad_()
    TrajectoryBalance(constant)(Held(chain), torch.zeros(()), generator=generator).mean().backward()
    assert constant.grad is not None and abs(constant.grad.item() - (log_z[-1] - 0.3)) < 1e-9


def test_behaviours_draw_what_they_say(generator):
    """Without kernels: the proposal's variance plus that of the noise; and the stored points themselves."""
    path = GeometricPath(log_target, log_target, linear_alphas(0))
    chain = Chain(Gaussian(torch.tensor([1.0]), torch.tensor([0.5])), [], path)
    (z,) = Widened(1.2)(chain, (100_000,), generator=generator)
    assert_mean((z - 1).square(), 0.25 + 1.44, resolution=0.02)
    ends = torch.tensor([[1.0], [2.0], [5.0]])
    (z,) = Backwards(ends)(chain, (3000,), generator=generator)
    assert set(z.flatten().tolist()) == {1.0, 2.0, 5.0}


def test_every_datum_takes_its_own_ends(generator):
    ends = torch.tensor([[[1.0], [10.0]], [[2.0], [20.0]]])  # two points for each of two data
    base = Gaussian(torch.zeros(2, 1), torch.ones(2, 1))
    chain = Chain(base, [], GeometricPath(log_target, log_target, linear_alphas(0)))
    (z,) = Backwards(ends)(chain, (500,), generator=generator)
    assert z.shape == (500, 2, 1)
    assert [set(column.tolist()) for column in z[..., 0].T] == [{1.0, 2.0}, {10.0, 20.0}]
    (shared,) = Backwards(ends[:, :1])(chain, (500,), generator=generator)
    assert set(shared.flatten().tolist()) == {1.0, 2.0}


def test_widened_noise_is_carried_on(generator):
    """A kernel starts from the point that was moved: the noise of z_0 reaches z_1 through the mean of q_1."""
    z_0, z_1 = Widened(2.0)(one_kernel(Affine(torch.tensor(0.0), torch.tensor(0.0))), (100_000,), generator=generator)
    assert_mean(z_0.square(), 1 + 4.0, resolution=0.05)
    assert_mean(z_0 * z_1, 0.8 * (1 + 4.0), resolution=0.05)
    assert_mean(z_1.square(), 0.64 * (1 + 4.0) + 0.81 + 4.0, resolution=0.1)


def small_vae() -> VAE:
    torch.manual_seed(1)
    return VAE(VAEConfig(T=3, latent=4, hidden=(12,), kernel_hidden=6))


LEARN = {
    "detailed": (DetailedBalance(torch.zeros(3)), ("kernels",)),
    "trajectory": (TrajectoryBalance(torch.tensor(-500.0)), ("encoder", "q0", "kernels")),
    "of each image": (TrajectoryBalance(torch.full((7,), -500.0)), ("encoder", "q0", "kernels")),
    "variance": (LogVariance(3), ("encoder", "q0", "kernels")),
    "off policy": (LogVariance(3, Widened(0.1)), ("encoder", "q0", "kernels")),
}


@pytest.mark.parametrize(("objective", "parts"), LEARN.values(), ids=LEARN)
def test_each_objective_trains_what_it_says(objective, parts, generator):
    model = small_vae()
    x = (torch.rand(7, 784, generator=generator) < 0.3).to(torch.get_default_dtype())
    value = objective(model, x, generator=generator)
    assert value.shape == (7,) and bool((value <= 0).all())
    value.mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith(parts), name
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


def test_detailed_balance_trains_what_avo_does_but_for_the_decoder(generator):
    model = small_vae()
    x = (torch.rand(7, 784, generator=generator) < 0.3).to(torch.get_default_dtype())

    def trained(objective):
        model.zero_grad(set_to_none=True)
        objective(model, x, generator=generator).mean().backward()
        return {name for name, parameter in model.named_parameters() if parameter.grad is not None}

    rest = {name for name, _ in model.named_parameters() if name.startswith("decoder")}
    assert trained(DetailedBalance(torch.zeros(3))) == trained(AVO(1.0)) - rest


def two_kernels() -> Chain:
    base = Gaussian(torch.zeros(5, 2), torch.ones(5, 2))
    return Chain(base, [gated(), gated()], GeometricPath(base.log_prob, base.log_prob, linear_alphas(2)))


def three_data() -> Chain:
    base = Gaussian(torch.zeros(3, 1), torch.ones(3, 1))
    return Chain(base, [gated()], GeometricPath(base.log_prob, base.log_prob, linear_alphas(1)))


def one_point(chain, shape, *, generator):
    """A behaviour that forgets the axis of samples."""
    return chain.sample((), generator=generator).z


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Widened(0.0), "positive"),
        (lambda: Widened(float("nan")), "positive"),
        (lambda: Backwards(torch.zeros(3)), "points"),
        (lambda: Backwards(torch.zeros(0, 2)), "n >= 1"),
        (lambda: Backwards(torch.zeros(4, 3))(two_kernels(), (), generator=None), "do not fit"),
        (lambda: Backwards(torch.zeros(4, 9, 5, 2))(two_kernels(), (), generator=None), "do not fit"),
        (lambda: Backwards(torch.zeros(4, 3, 2))(two_kernels(), (5,), generator=None), "do not fit"),
        (lambda: LogVariance(1), "at least 2"),
        (lambda: log_variance(torch.zeros(1, 4)), "two weights"),
        (lambda: weigh(two_kernels(), [torch.zeros(5, 2)]), "3 points"),
        (lambda: DetailedBalance(torch.zeros(3))(Held(two_kernels()), torch.zeros(())), "as many increments"),
        (lambda: LogVariance(5, one_point)(Held(three_data()), torch.zeros(())), r"need the axes \(5,\) in front"),
        (lambda: DetailedBalance(torch.zeros(()))(Held(two_kernels()), torch.zeros(())), "as many increments"),
        (lambda: TrajectoryBalance(torch.zeros(4), Grid((torch.zeros(5, 1),)))(T_ZERO, torch.zeros(())), "do not lead"),
        (lambda: TrajectoryBalance(torch.zeros(5, 1), Grid((torch.zeros(5, 1),)))(T_ZERO, torch.zeros(())), "lead"),
    ],
)
def test_misuse_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


T_ZERO = Held(
    Chain(Gaussian(torch.zeros(1), torch.ones(1)), [], GeometricPath(log_target, log_target, linear_alphas(0)))
)


@pytest.mark.parametrize("kernel", [Householder(1), HMC(0.3)])
def test_a_kernel_without_densities_is_refused(kernel):
    with pytest.raises(TypeError, match="no log_ratio"):
        weigh(one_kernel(kernel), [torch.zeros(4, 1), torch.zeros(4, 1)])


def test_points_of_another_size_are_refused_and_a_constant_may_be_a_number():
    density = lambda z: log_normal(z, 0.0, 1.0)  # noqa: E731
    base = Gaussian(torch.zeros(2), torch.ones(2))
    path = GeometricPath(density, density, linear_alphas(1))
    with pytest.raises(ValueError):
        weigh(Chain(base, [Langevin(0.1)], path), [torch.zeros(3, 2), torch.zeros(3, 1)])
    chain = Chain(base, [GatedKernel(2, 4)], path)
    model = type("Model", (), {"chain": lambda self, x: chain})()
    number, tensor = (
        TrajectoryBalance(log_z)(model, torch.zeros(1), generator=torch.Generator().manual_seed(1))
        for log_z in (0.5, torch.tensor(0.5))
    )
    torch.testing.assert_close(number, tensor)
