"""Uncorrected and learned dynamics: densities by hand, closed forms of the gap on Gaussian paths, and their rates."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal

import avo_lib.kernels.langevin
import avo_lib.proposals
from avo_lib.chain import Chain, Gaussian
from avo_lib.evaluation import ais, reverse_ais
from avo_lib.kernels import HMC, Controlled, Drift, Flow, Langevin, LearnedReverse, Underdamped
from avo_lib.kernels.langevin import shorten
from avo_lib.momentum import add_momentum, with_momentum
from avo_lib.numerics import log_normal, quadrature_log_z
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import GaussianMixture
from avo_lib.testing import assert_bracket, assert_mean, assert_unbiased_weights

SKEWED = GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.0, -0.3)), 0.8)
WIDE = Gaussian(torch.zeros(2, dtype=torch.float64), torch.full((2,), 1.5, dtype=torch.float64))
LOG_Z = 0.4


def skewed_chain(kernels) -> Chain:
    path = GeometricPath(WIDE.log_prob, lambda z: SKEWED.log_density(z) + LOG_Z, linear_alphas(len(kernels)))
    return Chain(WIDE, kernels, path)


def score(log_f, z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(log_f(z).sum(), z)[0]


def steered(dim=2, **options) -> Drift:
    drift = Drift(dim, 8, **options)
    with torch.no_grad():
        drift.last.scale.fill_(0.5)
        drift.last.shift.fill_(0.2)
    return drift


# --- densities


@pytest.mark.parametrize("kind", [Langevin, Controlled, LearnedReverse])
def test_the_ratio_is_that_of_two_gaussians(kind, generator):
    """Of q at its own mean and of r at its own; the control enters q, r or neither, with opposite signs."""
    tau, u, time = 0.2, steered(), (0.25, 0.5)
    kernel = Langevin(tau) if kind is Langevin else kind(tau, u, time)
    z_prev = torch.randn(20, 2, generator=generator)
    z, log_ratio = kernel(z_prev, SKEWED.log_density, None, generator=generator)
    there = tau * u(z_prev, time[0]) if kind is Controlled else 0
    back = 0 if kind is Langevin else -tau * u(z, time[1])
    mean = z_prev + tau * score(SKEWED.log_density, z_prev) + there
    mean_back = z + tau * score(SKEWED.log_density, z) + back
    log_q = Normal(mean, math.sqrt(2 * tau)).log_prob(z).sum(-1)
    log_r = Normal(mean_back, math.sqrt(2 * tau)).log_prob(z_prev).sum(-1)
    torch.testing.assert_close(log_ratio, log_r - log_q)
    assert u(z, 0.5).abs().mean() > 0.1  # else the control was not tested


def test_the_refreshment_is_that_of_two_gaussians_and_the_leap_is_leapfrog(generator):
    tau, angle = 0.3, 0.7
    pair = torch.randn(20, 4, generator=generator)
    z_prev, momentum = pair.chunk(2, -1)
    log_f = lambda y: SKEWED.log_density(y[..., :2]) + log_normal(y[..., 2:])  # noqa: E731
    moved, log_ratio = Underdamped(tau, angle)(pair, log_f, None, generator=generator)
    z, momentum_new = moved.chunk(2, -1)
    kicked = momentum_new - tau / 2 * score(SKEWED.log_density, z)
    torch.testing.assert_close(z, z_prev + tau * kicked)
    refreshed = kicked - tau / 2 * score(SKEWED.log_density, z_prev)
    log_q = Normal(momentum * math.cos(angle), math.sin(angle)).log_prob(refreshed).sum(-1)
    log_r = Normal(refreshed * math.cos(angle), math.sin(angle)).log_prob(momentum).sum(-1)
    torch.testing.assert_close(log_ratio, log_r - log_q)


# --- Hamiltonian dynamics


def test_without_friction_it_is_a_hamiltonian_flow(generator):
    """A deterministic map of volume 1 that can be undone; its energy error is of third order in one step."""
    log_f = lambda y: SKEWED.log_density(y[..., :2]) + log_normal(y[..., 2:])  # noqa: E731
    kernel = Underdamped(0.4, 0.0)
    pair = torch.randn(50, 4, generator=generator)
    moved, log_ratio = kernel(pair, log_f, None, generator=generator)
    again, _ = kernel(pair, log_f, None, generator=generator)
    back, ratio_back = kernel.reverse(moved, log_f, None, generator=generator)
    assert torch.equal(moved, again) and bool((log_ratio == 0).all()) and bool((ratio_back == 0).all())
    torch.testing.assert_close(back, pair)
    jacobian = torch.autograd.functional.jacobian(lambda y: kernel(y, log_f, None)[0], pair[0])
    assert torch.linalg.det(jacobian).item() == pytest.approx(1)
    errors = [
        (log_f(Underdamped(step, 0.0)(pair, log_f, None)[0]) - log_f(pair)).abs().mean().item() for step in (0.1, 0.05)
    ]
    assert 7 < errors[0] / errors[1] < 9


def test_a_chain_without_friction_weighs_by_the_change_of_variables(generator):
    """Log w is log f_T(z_T) N(p_T) − log q_0(z_0) N(p_0), for a map of volume 1: nothing else enters."""
    chain = with_momentum(skewed_chain([Underdamped(0.3, 0.0)] * 5))
    drawn = chain.sample((30,), generator=generator)
    first, last = drawn.z[0], drawn.z[-1]
    before = WIDE.log_prob(first[:, :2]) + log_normal(first[:, 2:])
    after = SKEWED.log_density(last[:, :2]) + LOG_Z + log_normal(last[:, 2:])
    torch.testing.assert_close(drawn.log_w(), after - before)


def test_full_refreshment_is_langevin(generator):
    """With a momentum drawn anew at each step, a leapfrog step of tau is a Langevin step of tau²/2, weight and all."""
    tau, T = 0.5, 6
    chain = with_momentum(skewed_chain([Underdamped(tau, math.pi / 2)] * T))
    drawn = chain.sample((40,), generator=generator)
    zs = [pair[:, :2] for pair in drawn.z]
    plain = skewed_chain([Langevin(tau**2 / 2)] * T)
    log_ratio = 0
    for t in range(1, T + 1):
        log_f = plain.target(t)
        there, back = (
            Normal(z + tau**2 / 2 * score(log_f, z), tau).log_prob(to).sum(-1)
            for z, to in ((zs[t - 1], zs[t]), (zs[t], zs[t - 1]))
        )
        log_ratio = log_ratio + back - there
    log_w = plain.target(T)(zs[-1]) - WIDE.log_prob(zs[0]) + log_ratio
    torch.testing.assert_close(drawn.log_w(), log_w)


def test_points_without_a_momentum_are_refused(generator):
    with pytest.raises(ValueError, match=r"\(5, 3\) have no room for a momentum.*with_momentum"):
        Underdamped(0.1, 0.5)(torch.zeros(5, 3), log_normal, None)


# --- any chain of them has unbiased weights and two bounds


def mixed():
    u, times = steered(), linear_alphas(4).tolist()
    return {
        "langevin": [Langevin(0.2)] * 4,
        "controlled": [Controlled(0.2, u, (s, t)) for s, t in pairwise(times)],
        "learned reverse": [LearnedReverse(0.2, u, (s, t)) for s, t in pairwise(times)],
        "flows and chains in turn": [
            Flow(torch.distributions.transforms.AffineTransform(0.1, torch.tensor([0.8, 0.9]))),
            HMC(0.5, 2),
            Langevin(0.2),
            HMC(0.5, 2),
        ],
    }


@pytest.mark.parametrize("name", mixed())
def test_weights_are_unbiased(name, generator):
    log_z, log_w = ais(skewed_chain(mixed()[name]), 100_000, generator=generator)
    assert_unbiased_weights(log_w, LOG_Z, resolution=0.01)
    assert log_w.std() > 0.1 and not log_w.requires_grad
    ends = SKEWED.sample(20_000, generator=generator)
    upper, _ = reverse_ais(skewed_chain(mixed()[name]), ends, generator=generator)
    assert_bracket(log_z, LOG_Z, upper, width=0.3)


@pytest.mark.parametrize("angle", [0.0, 0.6, math.pi / 2])
def test_weights_with_a_momentum_are_unbiased(angle, generator):
    chain = with_momentum(skewed_chain([Underdamped(0.5, angle)] * 4))
    log_z, log_w = ais(chain, 100_000, generator=generator)
    assert_unbiased_weights(log_w, LOG_Z, resolution=0.01)
    ends = add_momentum(SKEWED.sample(20_000, generator=generator), generator=generator)
    upper, _ = reverse_ais(chain, ends, generator=generator)
    assert_bracket(log_z, LOG_Z, upper, width=0.3)
    drawn = chain.sample((50,), generator=generator)
    torch.testing.assert_close(drawn.log_v().sum(0) + chain.target(0)(drawn.z[0]) - drawn.log_q0, drawn.log_w())


# --- learning


@pytest.mark.parametrize("kind", ["langevin", "controlled", "underdamped"])
def test_gradients_of_a_chain_are_those_of_finite_differences(kind, generator):
    """Through every gradient of log f: with respect to a step size and to the exponent of a target on the way."""
    u = steered()

    def bound(log_step, alpha):
        kernels = {
            "langevin": lambda t: Langevin(0.2),
            "controlled": lambda t: Controlled(0.2, u, (t / 2, t / 2 + 0.5)),
            "underdamped": lambda t: Underdamped(0.5, 0.6),
        }
        parts = [kernels[kind](t) for t in range(2)]
        for part in parts:
            del part.log_step
            part.log_step = log_step
        alphas = torch.stack([torch.zeros(()), alpha, torch.ones(())])
        chain = Chain(WIDE, parts, GeometricPath(WIDE.log_prob, SKEWED.log_density, alphas))
        chain = with_momentum(chain) if kind == "underdamped" else chain
        return chain.sample((20,), generator=torch.Generator().manual_seed(1)).log_w().mean()

    at = [torch.tensor(-1.0, requires_grad=True), torch.tensor(0.4, requires_grad=True)]
    gradients = torch.autograd.grad(bound(*at), at)
    for i, gradient in enumerate(gradients):
        shift = [1e-5 * (i == j) for j in range(2)]
        up, down = (bound(*(x.detach() + sign * s for x, s in zip(at, shift))).item() for sign in (1, -1))
        assert gradient.item() == pytest.approx((up - down) / 2e-5, rel=1e-6)
        assert abs(gradient.item()) > 1e-3


def test_copies_are_independent(generator):
    u = steered(batch=(3,))
    kernel = Controlled(0.2, u, (0.0, 0.5), batch=(3,))
    with torch.no_grad():
        kernel.log_step.copy_(torch.tensor([0.1, 0.2, 0.3]).log().reshape(3, 1, 1))
    z = torch.randn(3, 50, 2, generator=generator)
    _, log_ratio = kernel(z, SKEWED.log_density, None, generator=generator)
    gradient = torch.autograd.grad(log_ratio[1].sum(), [kernel.log_step, u.first.direction])
    assert [bool(part.abs().sum() > 0) for part in gradient[0]] == [False, True, False]
    assert [bool(part.abs().sum() > 0) for part in gradient[1]] == [False, True, False]
    assert Underdamped(0.2, 0.5, batch=(3,)).angle.shape == (3, 1, 1)


def test_diverging_dynamics_are_refused(generator):
    with pytest.raises(FloatingPointError, match="smaller step_size"):
        skewed_chain([Langevin(1e200)] * 4).sample((10,), generator=generator)


@pytest.mark.parametrize("kernel", [Langevin(0.5), Underdamped(0.5, 1.0)], ids=["langevin", "underdamped"])
def test_a_gradient_that_is_nan_where_a_move_ends_is_noticed(kernel, generator):
    """``torch.where`` hides a value that is NaN, but not its gradient: log f is finite, and the weight is not."""
    log_f = lambda z: torch.where(z[..., 0] > 0, z[..., 0].sqrt(), z[..., 0])  # noqa: E731
    z = torch.stack([torch.full((50,), 0.5), torch.linspace(-3, 3, 50)], -1)
    for move in (kernel.forward, kernel.reverse):
        with pytest.raises(FloatingPointError, match="gradient of log f is finite"):
            move(z, log_f, None, generator=generator)


@pytest.mark.parametrize("make", [lambda s: Langevin(s**2 / 2, clip=1.0), lambda s: Underdamped(s, 0.6, clip=1.0)])
def test_clipped_drifts_keep_weights_exact_and_points_finite(make, generator):
    """On a target so steep that the same steps diverge without."""
    steep = lambda z: SKEWED.log_density(z) - z.pow(4).sum(-1)  # noqa: E731
    wide = Gaussian(torch.zeros(2), torch.ones(2))

    def log_w(kernels):
        chain = Chain(wide, kernels, GeometricPath(wide.log_prob, steep, linear_alphas(len(kernels))))
        chain = with_momentum(chain) if isinstance(kernels[0], Underdamped) else chain
        return ais(chain, 100_000, generator=generator).log_w

    assert_unbiased_weights(log_w([make(0.5)] * 2), quadrature_log_z(steep), resolution=0.02)
    free = make(2.0)
    free.clip = math.inf
    with pytest.raises(FloatingPointError, match="a clip"):
        log_w([free] * 12)
    z = 3 * torch.randn(50, 2, generator=generator)
    exact = score(steep, z)
    clipped = shorten(exact, 1.0)
    assert bool((exact.norm(dim=-1) > 1).any())
    torch.testing.assert_close(clipped, exact / exact.norm(dim=-1, keepdim=True).clamp(min=1))


@pytest.mark.parametrize("step_size", [0.0, -0.1, math.inf, math.nan])
def test_impossible_steps_are_refused(step_size):
    for make in (Langevin, lambda step, **clip: Underdamped(step, 0.5, **clip)):
        with pytest.raises(ValueError, match="one number, positive and finite"):
            make(step_size)
        with pytest.raises(ValueError, match="positive length"):
            make(0.1, clip=0.0)


# --- closed forms, by a sum that is exact for the quadratic log weights of linear-Gaussian chains

SHIFT, HORIZON = 1.5, 2.0


def exact_elbo(chain: Chain, monkeypatch) -> float:
    """The mean of log w over 2n nodes in n dimensions of noise: exact for polynomials of degree three."""
    n = len(chain.kernels) + 1
    nodes, used = math.sqrt(n) * torch.cat([torch.eye(n), -torch.eye(n)]), iter(range(n))
    for module in (avo_lib.proposals, avo_lib.kernels.langevin):
        monkeypatch.setattr(module, "standard_normal", lambda like, generator: nodes[:, next(used), None])
    with torch.no_grad():
        log_w = chain.sample((2 * n,)).log_w()
    assert next(used, None) is None
    return log_w.mean().item()


class Affine(torch.nn.Module):
    """A control that is known."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, z, time):
        return self.field(z, time)


def moving(T, method) -> Chain:
    """From N(0, 1) to N(SHIFT, 1): a geometric path is a Gaussian of variance 1 that moves at a constant speed."""
    base, speed = Gaussian(torch.zeros(1), torch.ones(1)), SHIFT / HORIZON
    path = GeometricPath(base.log_prob, lambda z: log_normal(z, SHIFT), linear_alphas(T))
    carry = Affine(lambda z, s: torch.full_like(z, speed))
    lag = Affine(lambda z, s: torch.full_like(z, 2 * speed * (1 - math.exp(-HORIZON * s))))
    kernels = {
        "ULA": lambda a, b: Langevin(HORIZON / T),
        "MCD": lambda a, b: LearnedReverse(HORIZON / T, lag, (a, b)),
        "CMCD": lambda a, b: Controlled(HORIZON / T, carry, (a, b)),
    }
    return Chain(base, [kernels[method](t / T, (t + 1) / T) for t in range(T)], path)


GAPS = {
    "ULA": (SHIFT / HORIZON) ** 2 * (HORIZON - 1 + math.exp(-HORIZON)),
    "MCD": (SHIFT / HORIZON) ** 2 / 2 * (1 - math.exp(-HORIZON)) ** 2,
    "CMCD": 0.0,
}


@pytest.mark.parametrize("method", GAPS)
def test_the_gap_of_a_moving_gaussian(method, monkeypatch):
    """It tends to its closed form, and what is left halves with the step; with perfect control, it is quartered."""
    gaps = [-exact_elbo(moving(T, method), monkeypatch) for T in (64, 128, 256)]
    rest = [gap - GAPS[method] for gap in gaps]
    assert all(abs(part) > 1e-5 for part in rest)  # else there is no rate to see
    for before, after in pairwise(rest):
        assert before / after == pytest.approx(4 if method == "CMCD" else 2, abs=0.1)
    assert abs(2 * gaps[2] - gaps[1] - GAPS[method]) < 2e-4


def test_the_best_control_of_a_gaussian_that_moves_and_narrows(monkeypatch):
    """U = m' + (s'/s)(z − m) carries N(m, s²) along; with it the gap vanishes as 1/T, without it it does not."""
    mean, std = 2.0, 0.5
    base = Gaussian(torch.zeros(1), torch.ones(1))

    def field(z, s):
        precision = 1 - s + s / std**2
        m = s * mean / std**2 / precision
        slope = (1 / std**2 - 1) / precision
        return (mean / std**2 / precision - m * slope - 0.5 * slope * (z - m)) / HORIZON

    def gap(T, control):
        path = GeometricPath(base.log_prob, lambda z: log_normal(z, mean, std), linear_alphas(T))
        step = HORIZON / T
        kernels = [Controlled(step, Affine(control), (t / T, (t + 1) / T)) for t in range(T)]
        return -exact_elbo(Chain(base, kernels, path), monkeypatch)

    constant = [T * gap(T, field) for T in (128, 256, 512)]
    limits = [2 * after - before for before, after in pairwise(constant)]  # without the term in 1/T²
    assert limits[0] == pytest.approx(limits[1], rel=0.01) and limits[1] > 0.5
    assert gap(512, lambda z, s: torch.zeros_like(z)) > 2


def test_the_exact_sum_is_exact(monkeypatch, generator):
    """Against draws, at a step so long that every term counts."""
    chain = moving(4, "CMCD")
    log_w = ais(chain, 100_000, generator=generator).log_w
    assert_mean(log_w, exact_elbo(chain, monkeypatch), resolution=0.01)
