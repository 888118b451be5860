"""The one weight, exactly."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from exact import linear_gaussian_chain

from avo_lib.balance import weigh
from avo_lib.chain import Chain, Drawn, Gaussian
from avo_lib.kernels import HMC, GatedKernel
from avo_lib.numerics import log_normal
from avo_lib.objectives import iwae
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import ENERGIES, VARIANTS, GaussianMixture, energy
from avo_lib.testing import assert_mean, assert_unbiased_weights


@pytest.mark.parametrize("rho", [-0.7, 0.0, 0.5])
def test_exact_couplings_have_zero_variance(rho, generator):
    """Any coupling of neighbouring targets with its two conditionals is optimal: the optimum is not unique."""
    chain, log_z = linear_gaussian_chain(rho=rho)
    trajectory = chain.sample((50,), generator=generator)
    steps = torch.tensor(log_z).diff()
    torch.testing.assert_close(trajectory.log_v(), steps[:, None].expand(-1, 50), rtol=0, atol=1e-9)
    torch.testing.assert_close(trajectory.log_w(), torch.full((50,), log_z[-1]), rtol=0, atol=1e-9)
    assert log_z[-1] == pytest.approx(1.7)


def test_reverse_trajectories_have_the_same_weight(generator):
    chain, log_z = linear_gaussian_chain()
    back = chain.sample_reverse(torch.randn(50, 1, generator=generator), generator=generator)
    torch.testing.assert_close(back.log_w(), torch.full((50,), log_z[-1]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("detach", [False, True])
def test_increments_telescope_to_the_weight(detach, generator):
    target = energy("a")
    base = Gaussian(torch.ones(2), torch.full((2,), 2.0))  # not f_0: the first term must count
    path = GeometricPath(lambda z: -0.5 * z.square().sum(-1), target.log_density, linear_alphas(4))
    chain = Chain(base, [GatedKernel(2, 8) for _ in range(4)], path)
    trajectory = chain.sample((20,), detach=detach, generator=generator)
    for beta in (1.0, 0.3):
        start = path.log_density(0, trajectory.z[0], beta) - beta * trajectory.log_q0
        torch.testing.assert_close(start + trajectory.log_v(beta).sum(0), trajectory.log_w(beta))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ENERGIES)
def test_untrained_kernels_are_unbiased(name, variant, generator):
    """E w = Z_T for any kernels. The base is wide and the kernels near the identity, to keep the variance small."""
    target = energy(name, variant)
    base = Gaussian(torch.zeros(2), torch.full((2,), 3.0))
    path = GeometricPath(base.log_prob, target.log_density, linear_alphas(3))
    kernels = [GatedKernel(2, 16, std_init=0.5, gate_bias=-6.0) for _ in range(3)]
    chain = Chain(base, kernels, path)
    with torch.no_grad():
        for kernel in kernels:  # far out a random gate may open, and a few weights then carry all
            for operator in (kernel.q, kernel.r):
                operator.heads.scale *= 0.1
        log_w = chain.sample((200_000,), generator=generator).log_w()
    assert_unbiased_weights(log_w, target.log_z, resolution=0.02)


def test_hmc_increments_are_neals(generator):
    """With kernels that leave f_t invariant, log v_t = log f_t(z_{t−1}) − log f_{t−1}(z_{t−1})."""
    target = GaussianMixture((0.3, 0.7), ((-2.0, 0.0), (2.0, 1.0)), 0.7)
    base = Gaussian(torch.zeros(2), torch.full((2,), 2.0))
    path = GeometricPath(base.log_prob, target.log_density, linear_alphas(5))
    trajectory = Chain(base, [HMC(0.4, 3)] * 5, path).sample((30,), generator=generator)
    neal = [
        path.log_density(t, trajectory.z[t - 1]) - path.log_density(t - 1, trajectory.z[t - 1]) for t in range(1, 6)
    ]
    torch.testing.assert_close(trajectory.log_v(), torch.stack(neal))


def test_no_kernels_is_plain_variational_inference(generator):
    base = Gaussian(torch.zeros(2), torch.ones(2))
    path = GeometricPath(base.log_prob, lambda z: base.log_prob(z) + 0.7, linear_alphas(0))
    torch.testing.assert_close(Chain(base, [], path).sample((9,), generator=generator).log_w(), torch.full((9,), 0.7))


def test_axes_and_seeds_are_leading(generator):
    """(samples, seeds, points, dim): a set of seeds is one batched run."""
    base = Gaussian(torch.zeros(7, 2), torch.ones(7, 2))
    path = GeometricPath(base.log_prob, energy("d").log_density, linear_alphas(2))
    kernels = [GatedKernel(2, 8, batch=(3,)) for _ in range(2)]
    trajectory = Chain(base, kernels, path).sample((5, 3), generator=generator)
    assert trajectory.log_w().shape == (5, 3, 7)
    assert trajectory.log_v().shape == (2, 5, 3, 7)


def test_a_path_of_another_length_is_refused():
    base = Gaussian(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="3 kernels need 4 alphas, but the path has 3"):
        Chain(base, [HMC(0.1)] * 3, GeometricPath(base.log_prob, base.log_prob, linear_alphas(2)))
    with pytest.raises(TypeError, match=r"such as \[kernel\] \* T, not HMC"):
        Chain(base, HMC(0.5), GeometricPath(base.log_prob, base.log_prob, linear_alphas(1)))


def test_a_gaussian_without_an_axis_is_refused():
    """Its draws would be summed over their number, as over coordinates."""
    with pytest.raises(ValueError, match="needs a last axis"):
        Gaussian(torch.tensor(0.0), torch.tensor(1.0))


def test_a_gaussian_around_whole_numbers_is_refused():
    with pytest.raises(ValueError, match=r"floating-point numbers, not torch\.int64: mean\.float\(\)"):
        Gaussian(torch.tensor([0, 1]), torch.ones(2))
    assert Gaussian(torch.zeros(2), torch.tensor([1, 2])).sample((3,))[0].shape == (3, 2)


@pytest.mark.parametrize("T, detach", [(3, 4), (3, -1), (1, 3)])
def test_steps_that_do_not_exist_are_not_held(T, detach):
    """From step 2 on, a chain of one step learns as a whole; where nothing is held, AVO would be the ELBO."""
    base = Gaussian(torch.zeros(2), torch.ones(2))
    chain = Chain(base, [HMC(0.1)] * T, GeometricPath(base.log_prob, base.log_prob, linear_alphas(T)))
    assert chain.sample(detach=max(T, 2)).detached == max(T, 2)
    with pytest.raises(ValueError, match=f"{T} kernels cannot be held constant from step {detach} on"):
        chain.sample(detach=detach)


def test_increments_of_no_steps_are_refused():
    base = Gaussian(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="without kernels has no increments"):
        Chain(base, [], GeometricPath(base.log_prob, base.log_prob, linear_alphas(0))).sample().log_v()


def test_a_shared_mean_shares_no_noise(generator):
    z, log_q = Gaussian(torch.zeros(2), torch.ones(5, 2)).sample((3,), generator=generator)
    assert z.shape == (3, 5, 2) and log_q.shape == (3, 5) and len(z.unique()) == z.numel()


def test_gaussian_draws_match_their_density(generator):
    proposal = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
    z, log_q = proposal.sample((100_000,), generator=generator)
    torch.testing.assert_close(log_q, proposal.log_prob(z))
    assert_mean(z, proposal.mean, resolution=0.01)
    assert_mean((z - proposal.mean).square(), proposal.std.square(), resolution=0.05)


def test_any_distribution_is_a_proposal(generator):
    """A full-covariance Gaussian that is the target gives exact weights, and learns; a generator repeats its draws."""
    mean = torch.tensor([1.0, -2.0], requires_grad=True)
    normal = torch.distributions.MultivariateNormal(mean, torch.tensor([[2.0, 0.7], [0.7, 1.0]]))
    target = torch.distributions.MultivariateNormal(mean.detach(), normal.covariance_matrix)
    path = GeometricPath(normal.log_prob, lambda z: target.log_prob(z) + 3, linear_alphas(0))
    chain, state = Chain(Drawn(normal), [], path), torch.get_rng_state()
    draws = chain.sample((7, 5), generator=generator)
    torch.testing.assert_close(draws.log_w(), torch.full((7, 5), 3.0))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(draws.z[0], chain.sample((7, 5), generator=generator).z[0])
    draws.z[0].sum().backward()
    assert mean.grad.tolist() == [35.0, 35.0]
    with pytest.raises(ValueError, match="log_prob of the distribution"):
        Drawn(torch.distributions.Normal(torch.zeros(2), torch.ones(2))).sample((5,))


class Slow(torch.distributions.MultivariateNormal):
    """It counts the threads that draw at one time."""

    now, most = 0, 0

    def rsample(self, shape=()):
        type(self).now += 1
        type(self).most = max(self.most, self.now)
        time.sleep(0.05)
        type(self).now -= 1
        return super().rsample(shape)


def test_threads_that_seed_the_same_stream_take_turns():
    proposal, state = Drawn(Slow(torch.zeros(2), torch.eye(2))), torch.get_rng_state()
    draw = lambda seed: proposal.sample((5,), generator=torch.Generator().manual_seed(seed))[0]  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, range(4)))
    assert Slow.most == 1 and all(map(torch.equal, together, map(draw, range(4))))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "distribution",
    [
        torch.distributions.Independent(torch.distributions.Poisson(torch.ones(2)), 1),
        torch.distributions.Multinomial(3, torch.ones(2)),
    ],
    ids=["Poisson", "Multinomial"],
)
def test_a_distribution_of_whole_numbers_is_no_proposal(distribution):
    """Kernels leave the whole numbers, and the weights of a Poisson proposal gave log Z = −0.28 for 0."""
    with pytest.raises(ValueError, match="draws from a discrete set: a proposal needs a density"):
        Drawn(distribution)


@pytest.mark.parametrize("K", [1, 5])
def test_what_cannot_follow_its_draws_learns_by_balance_alone(K, generator):
    """At fixed points −∇log q has mean zero under q: by the ELBO the parameters of a mixture would walk at random."""
    logits, mean = torch.zeros(2, requires_grad=True), torch.tensor([[-1.0], [1.0]], requires_grad=True)
    normal = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
    mixture = Drawn(torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), normal))
    chain = Chain(mixture, [], GeometricPath(mixture.log_prob, lambda z: log_normal(z, 1.0), linear_alphas(0)))
    draws = chain.sample((K,), generator=generator)
    assert not iwae(draws).requires_grad
    torch.testing.assert_close(draws.log_w(), weigh(chain, draws.z).log_w())
    weigh(chain, draws.z).log_w().square().sum().backward()
    assert logits.grad.any() and mean.grad.any()


def test_own_draws_that_carry_a_gradient_are_followed():
    """Whatever their method is called: a flow of one's own may have ``sample`` alone."""

    class Shift(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = torch.nn.Parameter(torch.zeros(2))

        def sample(self, shape):
            return self.mean + torch.randn(*shape, 2)

        def log_prob(self, z):
            return log_normal(z, self.mean)

    shift = Shift()
    z, log_q = Drawn(shift).sample((5,))
    (log_normal(z, 3.0) - log_q).sum().backward()
    torch.testing.assert_close(shift.mean.grad, (3 - z).sum(0).detach())
