"""Flows as kernels: the reverse is exact, the slack vanishes, and AVO's optimum is the path itself."""

import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import zuko
from torch import nn
from torch.distributions import Transform, constraints
from torch.distributions.transforms import AbsTransform, AffineTransform, ComposeTransform, TanhTransform

from avo_lib.chain import Chain, Gaussian
from avo_lib.evaluation import marginal_bounds
from avo_lib.kernels import Flow, GatedKernel, Householder, autoregressive
from avo_lib.numerics import log_normal
from avo_lib.objectives import AVO, ELBO, avo, elbo
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import ENERGIES, GaussianMixture, energy
from avo_lib.testing import assert_mean

SKEWED = GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (1.0, -0.3)), 0.8)


class Triangular(nn.Module):
    """Every affine map with a lower triangular matrix of positive diagonal; a function of the context, as a flow's."""

    def __init__(self, matrix: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.log_diagonal = nn.Parameter(matrix.diagonal().log())
        self.below, self.shift = nn.Parameter(matrix.tril(-1)), nn.Parameter(shift.clone())

    def forward(self, context: torch.Tensor | None) -> Transform:
        return Matrix(self.log_diagonal.exp().diag() + self.below.tril(-1), self.shift)


class Matrix(Transform):
    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, matrix: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.matrix, self.shift = matrix, shift

    def _call(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.matrix.T + self.shift

    def _inverse(self, z: torch.Tensor) -> torch.Tensor:
        return (z - self.shift) @ torch.linalg.inv(self.matrix).T

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.matrix.diagonal().log().sum().expand(x.shape[:-1])


def wild(steps: int = 3, seed: int = 0, spread: float = 0.6) -> nn.ModuleList:
    """Autoregressive steps far from the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        kernels = nn.ModuleList(autoregressive(2, 16, reverse=bool(t % 2)) for t in range(steps))
        with torch.no_grad():
            for kernel in kernels:
                for parameter in kernel.transform.hyper[-1].parameters():
                    parameter.copy_(spread * torch.randn(parameter.shape))
    return kernels


def chain_of(kernels, log_density=SKEWED.log_density) -> Chain:
    start = Gaussian(torch.zeros(2), torch.ones(2))
    return Chain(start, list(kernels), GeometricPath(start.log_prob, log_density, linear_alphas(len(kernels))))


def log_q(chain: Chain, z: torch.Tensor) -> torch.Tensor:
    """The density of z_T, by going back."""
    back = chain.sample_reverse(z)
    return back.log_q0 - sum(back.log_ratio)


# --- the kernel


@pytest.mark.parametrize("reverse", [False, True])
def test_the_log_determinant_is_that_of_the_jacobian(reverse, generator):
    kernel = autoregressive(5, 16, context_dim=3, reverse=reverse)
    with torch.no_grad():
        kernel.transform.hyper[-1].weight.normal_(generator=generator)
    z, context = torch.randn(4, 5, generator=generator), torch.randn(4, 3, generator=generator)
    moved, log_det = kernel(z, None, context)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda one: kernel(one, None, context[i])[0], z[i])  # noqa: B023
        assert log_det[i].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-10)
        triangle = jacobian.flip(0, 1) if reverse else jacobian
        assert torch.equal(triangle, triangle.tril()), "an autoregressive map"
    back, same = kernel.reverse(moved, None, context)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(same, log_det)


def test_a_transform_of_torch_is_a_kernel(generator):
    """Determinants for each coordinate are summed; composed, inverted and constant ones too."""
    z = torch.randn(6, 2, generator=generator)
    scale = torch.tensor([2.0, 0.5])
    for transform, exact in (
        (AffineTransform(1.0, scale), torch.zeros(6)),
        (AffineTransform(1.0, 3.0), torch.full((6,), 2 * math.log(3.0))),
        (TanhTransform(), (1 - z.tanh().square()).log().sum(-1)),
        (ComposeTransform([AffineTransform(1.0, 3.0), AffineTransform(-1.0, 1 / 3)]), torch.zeros(6)),
    ):
        kernel = Flow(transform)
        moved, log_det = kernel(z, None, None)
        torch.testing.assert_close(log_det, exact)
        back, same = kernel.reverse(moved, None, None)
        torch.testing.assert_close(back, z)
        torch.testing.assert_close(same, log_det)


def test_the_parameters_of_a_lazy_transform_are_the_kernels():
    lazy = zuko.flows.spline.MonotonicRQSTransform
    spline = zuko.flows.autoregressive.MaskedAutoregressiveTransform(
        2, univariate=lazy, shapes=[(5,), (5,), (4,)], hidden_features=(8,)
    )
    z = torch.randn(7, 2)
    for transform in (spline, spline.inv):
        kernel = Flow(transform)
        assert len(list(kernel.parameters())) == 4
        moved, log_det = kernel(z, None, None)
        back, same = kernel.reverse(moved, None, None)
        torch.testing.assert_close(back, z)
        torch.testing.assert_close(same, log_det)


def test_autoregressive_steps_start_near_the_identity(generator):
    z = torch.randn(100, 40, generator=generator)
    moved, log_det = autoregressive(40, 40, context_dim=9)(z, None, torch.randn(100, 9, generator=generator))
    assert (moved - z).abs().max() < 0.1 and log_det.abs().max() < 0.5


@pytest.mark.parametrize("context_dim", [0, 2])
def test_a_latent_of_one_dimension_has_a_flow(context_dim, generator):
    kernel = autoregressive(1, 8, context_dim=context_dim)
    z, context = torch.randn(5, 1, generator=generator), torch.randn(5, 2, generator=generator)
    moved, log_det = kernel(z, None, context)
    assert moved.shape == (5, 1) and log_det.shape == (5,) and (moved - z).abs().max() < 0.2
    torch.testing.assert_close(kernel.reverse(moved, None, context)[0], z)


class Cut(Transform):
    """Loses a coordinate."""

    domain = codomain = constraints.real_vector
    bijective = True

    def _call(self, z):
        return z[..., :1]

    def log_abs_det_jacobian(self, x, y):
        return x.new_zeros(x.shape[:-1])


class OneNumber(Cut):
    """Has one determinant for all points."""

    def _call(self, z):
        return z

    def log_abs_det_jacobian(self, x, y):
        return x.new_zeros(())


def test_what_is_no_flow_is_refused():
    z = torch.zeros(3, 2)
    with pytest.raises(TypeError, match=r"a function of the context that gives one, not 7"):
        Flow(7)
    with pytest.raises(ValueError, match=r"takes points \(3, 2\).*but Cut gives \(3, 1\) and \(3,\)"):
        Flow(Cut())(z, None, None)
    with pytest.raises(ValueError, match=r"OneNumber gives \(3, 2\) and \(\)"):
        Flow(OneNumber())(z, None, None)
    with pytest.raises(ValueError, match="AbsTransform has no inverse"):
        Flow(AbsTransform()).reverse(z, None, None)
    with pytest.raises(ValueError, match="OneNumber has no inverse"):
        Flow(OneNumber()).reverse(z, None, None)
    with pytest.raises(FloatingPointError, match="inverse of TanhTransform leaves the finite numbers"):
        Flow(TanhTransform()).reverse(z + 1.5, None, None)
    with pytest.raises(FloatingPointError, match="AffineTransform leaves the finite numbers"):
        Flow(AffineTransform(0.0, torch.inf))(z + 1, None, None)


def test_without_zuko_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.flows.autoregressive", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[flows\]'"):
        autoregressive(2, 4)


# --- against zuko and against quadrature


def test_the_density_is_zukos_own(generator):
    """Both know the density of z_T; zuko's flow is built from data to base, and gets the inverses."""
    kernels = wild()
    reference = zuko.flows.Flow(
        [kernel.transform.inv for kernel in reversed(kernels)],
        zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, torch.zeros(2), torch.ones(2)),
    )
    chain = chain_of(kernels)
    trajectory = chain.sample((200,), generator=generator)
    expected = reference().log_prob(trajectory.z[-1])
    forwards = trajectory.log_q0 - sum(trajectory.log_ratio)
    torch.testing.assert_close(forwards, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_q(chain, trajectory.z[-1]), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(trajectory.log_w(), SKEWED.log_density(trajectory.z[-1]) - expected, atol=1e-9, rtol=0)


def grid(box: float, points: int) -> tuple[torch.Tensor, float]:
    axis = torch.linspace(-box, box, points)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]).item() ** 2


@pytest.mark.parametrize("name", ENERGIES)
def test_the_bound_is_the_divergence_of_the_samples(name, generator):
    """E log w = log Z − KL(q_T || f/Z), with the divergence from quadrature and the mean from draws."""
    target, chain = energy(name), chain_of(wild(2, spread=0.3), energy(name).log_density)
    z, area = grid(14.0, 701)
    with torch.no_grad():
        log_density = log_q(chain, z)
        mass = area * log_density.exp().sum().item()
        kl = area * (log_density.exp() * (log_density - target.log_density(z) + target.log_z)).sum().item()
        log_w = chain.sample((200_000,), generator=generator).log_w()
    assert mass == pytest.approx(1, abs=1e-4) and kl > 0.2
    assert_mean(log_w, target.log_z - kl, resolution=0.02 * kl + 0.01)


def test_the_slack_is_zero_for_flows_and_not_for_others(generator):
    """One reverse trajectory closes the sandwich around log f − log q_T, for it is the one that came."""
    chain = chain_of([*wild(2), Householder(2)])
    trajectory = chain.sample((50,), generator=generator)
    for bound in marginal_bounds(chain, trajectory, 3, generator=generator):
        torch.testing.assert_close(bound, trajectory.log_w(), atol=1e-9, rtol=0)
    gated = chain_of([GatedKernel(2, 8), GatedKernel(2, 8)])
    trajectory = gated.sample((50,), generator=generator)
    lower, _ = marginal_bounds(gated, trajectory, 3, generator=generator)
    assert (lower - trajectory.log_w()).abs().mean() > 0.1


# --- AVO


def test_each_step_gets_the_gradient_of_its_own_target(generator):
    """Log v_t with z_{t−1} held constant: the gradient of log f_t(z_t) + log|det| and of nothing else."""
    kernels = wild()
    chain = chain_of(kernels)
    trajectory = chain.sample((64,), detach=True, generator=generator)
    parameters = [list(kernel.parameters()) for kernel in kernels]
    found = torch.autograd.grad(avo(trajectory).mean(), [p for part in parameters for p in part])
    expected = []
    for t, kernel in enumerate(kernels, start=1):
        z, log_det = kernel(trajectory.z[t - 1].detach(), None, None)
        own = (chain.path.log_density(t, z) + log_det).mean()
        expected += torch.autograd.grad(own, parameters[t - 1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(avo(trajectory), elbo(trajectory))


def gaussian_path(T: int) -> tuple[Chain, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """From N(0, I) to a correlated Gaussian with log Z = 1.7, by the steps that follow it exactly."""
    mean, covariance = torch.tensor([1.5, -0.5]), torch.tensor([[0.5, 0.3], [0.3, 0.4]])
    target = torch.distributions.MultivariateNormal(mean, covariance)
    alphas, precision = linear_alphas(T), covariance.inverse()
    covariances = [((1 - a) * torch.eye(2) + a * precision).inverse() for a in alphas]
    means = [S @ (a * precision @ mean) for a, S in zip(alphas, covariances)]
    roots = [torch.linalg.cholesky(S) for S in covariances]
    matrices = [after @ before.inverse() for before, after in pairwise(roots)]
    kernels = [Flow(Triangular(A, m - A @ m0)) for A, m0, m in zip(matrices, means, means[1:])]
    chain = chain_of(kernels, lambda z: 1.7 + target.log_prob(z))
    log_z = [
        (chain.path.log_density(t, means[t]) + math.log(2 * math.pi) + roots[t].diagonal().log().sum())
        for t in range(T + 1)
    ]
    return chain, torch.stack(log_z), means, covariances


def test_a_family_that_contains_the_maps_follows_the_path_without_variance(generator):
    chain, log_z, means, _ = gaussian_path(4)
    assert log_z[0].item() == pytest.approx(0, abs=1e-12) and log_z[-1].item() == pytest.approx(1.7, abs=1e-12)
    trajectory = chain.sample((500,), generator=generator)
    expected = (log_z[1:] - log_z[:-1])[:, None].expand(-1, 500)
    torch.testing.assert_close(trajectory.log_v(), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(trajectory.log_w(), torch.full((500,), 1.7), atol=1e-9, rtol=0)
    assert_mean(trajectory.z[2], means[2], resolution=0.05)


def nodes() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights under which means of polynomials of low degree over N(0, I) are exact."""
    x, weight = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(5))
    return torch.cartesian_prod(x, x), torch.cartesian_prod(weight, weight).prod(-1) / weight.sum() ** 2


def test_avos_gradient_vanishes_on_the_path_and_only_there():
    """The ELBO's vanishes too at the path, but also where only the whole map is right."""
    chain, *_ = gaussian_path(3)
    points, weight = nodes()
    parameters = [p for kernel in chain.kernels for p in kernel.parameters()]

    def steepness(annealed: bool) -> float:
        fixed = Chain(Nodes(points), chain.kernels, chain.path)
        trajectory = fixed.sample(detach=annealed)
        value = (weight * (avo if annealed else elbo)(trajectory)).sum()
        return max(part.abs().max().item() for part in torch.autograd.grad(value, parameters))

    assert steepness(True) < 1e-9 and steepness(False) < 1e-9
    with torch.no_grad():  # what step 1 adds step 2 takes away
        first, second = (kernel.transform for kernel in chain.kernels[:2])
        second.shift -= second(None).matrix @ torch.tensor([0.3, 0.1])
        first.shift += torch.tensor([0.3, 0.1])
    assert steepness(False) < 1e-9 and steepness(True) > 0.1


class Nodes:
    """A proposal that draws the given points of N(0, I)."""

    def __init__(self, points: torch.Tensor) -> None:
        self.points = points

    def sample(self, shape, *, generator):
        return self.points, log_normal(self.points)

    def log_prob(self, z):
        return log_normal(z)


def test_avo_climbs_to_the_path(generator):
    """From the identity, by Adam on the exact objective: every marginal is its target's, to a millionth."""
    exact, log_z, *_ = gaussian_path(3)
    kernels = [Flow(Triangular(torch.eye(2), torch.zeros(2))) for _ in range(3)]
    points, weight = nodes()
    chain = Chain(Nodes(points), kernels, exact.path)
    for t, kernel in enumerate(kernels):  # a step learns from where the one before has come to rest
        optimiser = torch.optim.LBFGS(kernel.parameters(), max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-16)

        def loss(t=t, optimiser=optimiser):
            optimiser.zero_grad()
            value = -(weight * chain.sample(detach=True).log_v()[t]).sum()
            value.backward()
            return value

        for _ in range(3):
            optimiser.step(loss)
    for learned, best in zip(kernels, exact.kernels):
        torch.testing.assert_close(learned.transform(None).matrix, best.transform(None).matrix, atol=1e-6, rtol=0)
        torch.testing.assert_close(learned.transform(None).shift, best.transform(None).shift, atol=1e-6, rtol=0)
    found = Chain(exact.proposal, kernels, exact.path).sample((50,), generator=generator).log_v()
    torch.testing.assert_close(found, (log_z[1:] - log_z[:-1])[:, None].expand(-1, 50), atol=1e-5, rtol=0)


# --- Householder


def test_a_householder_chain_keeps_its_entropy_and_the_path_does_not():
    """Of a Gaussian: the covariance is turned, never stretched; the targets' shrinks."""
    torch.manual_seed(3)
    std = torch.tensor([1.4, 0.6, 1.0])
    kernels = [Householder(3) for _ in range(4)]
    covariance = std.square().diag()
    entropies = []
    for kernel in kernels:
        jacobian = torch.autograd.functional.jacobian(lambda z: kernel(z, None, None)[0], torch.zeros(3))  # noqa: B023
        covariance = jacobian @ covariance @ jacobian.T
        entropies.append(0.5 * torch.linalg.slogdet(covariance)[1].item())
        torch.testing.assert_close(torch.linalg.eigvalsh(covariance), std.square().sort()[0])
    assert entropies == pytest.approx([std.log().sum().item()] * 4, abs=1e-12)


def test_householder_reaches_the_best_rotation_and_no_further():
    """KL(N(0, S) || N(0, C)) with S of fixed eigenvalues is least where they pair with C's in order: a closed form."""
    generator = torch.Generator().manual_seed(5)
    std, eigenvalues = torch.tensor([1.5, 0.5]), torch.tensor([2.0, 0.25])
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    C = turn @ eigenvalues.diag() @ turn.T
    ratio = std.square() / eigenvalues
    best = 0.5 * (ratio - 1 - ratio.log()).sum().item()
    kernel = Householder(2)
    optimiser = torch.optim.Adam(kernel.parameters(), 0.02)
    points = nodes()[0] * std
    weight = nodes()[1]
    target = torch.distributions.MultivariateNormal(torch.zeros(2), C)
    for _ in range(600):
        z, log_ratio = kernel(points, None, None)
        kl = (weight * (log_normal(points, 0.0, std) - log_ratio - target.log_prob(z))).sum()
        optimiser.zero_grad()
        kl.backward()
        optimiser.step()
    assert kl.item() == pytest.approx(best, abs=1e-6)
    q, _ = torch.linalg.qr(torch.randn(500, 2, 2, generator=generator))
    S = q @ std.square().diag() @ q.transpose(-1, -2)
    others = 0.5 * ((C.inverse() @ S).diagonal(dim1=-2, dim2=-1).sum(-1) - 2 - ratio.log().sum())
    assert others.min() > best - 1e-12


@pytest.mark.parametrize("objective", [ELBO(), AVO(1.0)])
def test_a_vae_with_flows_trains_its_encoder_or_leaves_it(objective, generator):
    from avo_lib.models import VAE, VAEConfig

    model = VAE(VAEConfig(pixels=6, hidden=(8,), latent=3, T=2, kernel="autoregressive", batch_norm=False))
    assert [kernel.transform.order.tolist() for kernel in model.kernels] == [[0, 1, 2], [2, 1, 0]]
    x = (torch.rand(5, 6, generator=generator) < 0.5).double()
    objective(model, x, generator=generator).sum().backward()
    reached = model.encoder[0].weight.grad is not None
    assert reached == isinstance(objective, ELBO)
    assert all(p.grad.abs().sum() > 0 for name, p in model.kernels.named_parameters() if "bias" not in name)


@pytest.mark.parametrize("make", [lambda t: t, lambda t: torch.distributions.ComposeTransform([t])])
def test_a_point_that_the_flow_cannot_reach_comes_from_nowhere(make):
    """Torch's inverse of a sigmoid clamps in place of failing."""
    flow = Flow(make(torch.distributions.SigmoidTransform()))
    z, _ = flow.reverse(torch.tensor([[0.9], [0.001]]), None, None)
    torch.testing.assert_close(z.sigmoid(), torch.tensor([[0.9], [0.001]]))
    with pytest.raises(FloatingPointError, match="does not reach"):
        flow.reverse(torch.tensor([[0.5], [5.0]]), None, None)
