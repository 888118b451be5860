"""What AVO changes, and what it does not: gradients compared under the same noise."""

import pytest
import torch

from avo_lib.chain import Chain, Gaussian, Trajectory
from avo_lib.kernels import GatedKernel
from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_mean_exp
from avo_lib.objectives import avo, calibrated_avo, elbo, iwae
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import energy


def toy_chain(T: int) -> tuple[Chain, torch.nn.ModuleList]:
    base = Gaussian(torch.zeros(2), torch.ones(2))
    path = GeometricPath(base.log_prob, energy("b").log_density, linear_alphas(T))
    kernels = torch.nn.ModuleList(GatedKernel(2, 8) for _ in range(T))
    return Chain(base, list(kernels), path), kernels


def gradients(module: torch.nn.Module, bound: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    bound.mean().backward()
    return {n: (torch.zeros_like(p) if p.grad is None else p.grad.clone()) for n, p in module.named_parameters()}


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_one_step_avo_is_the_elbo(generator):
    chain, kernels = toy_chain(1)
    of_elbo = gradients(kernels, elbo(chain.sample((40,), generator=seeded())))
    of_avo = gradients(kernels, avo(chain.sample((40,), detach=True, generator=seeded())))
    assert all(close(of_elbo[name], of_avo[name]) for name in of_elbo)


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_avo_has_the_value_of_the_elbo(beta, generator):
    chain, _ = toy_chain(5)
    torch.testing.assert_close(
        avo(chain.sample((40,), detach=True, generator=seeded()), beta),
        elbo(chain.sample((40,), generator=seeded()), beta),
    )


def test_only_the_earlier_forward_kernels_differ(generator):
    """All reverse kernels and the last forward kernel have equal gradients; every earlier forward kernel has not."""
    chain, kernels = toy_chain(4)
    of_elbo = gradients(kernels, elbo(chain.sample((40,), generator=seeded())))
    of_avo = gradients(kernels, avo(chain.sample((40,), detach=True, generator=seeded())))
    for name in of_elbo:
        earlier_forward = ".q." in name and not name.startswith("3.")
        assert close(of_elbo[name], of_avo[name]) != earlier_forward, name


def test_a_step_learns_from_its_own_target_alone(generator):
    """The gradient of each log v_t reaches kernel t and no other."""
    chain, kernels = toy_chain(3)
    for t in range(3):
        log_v = chain.sample((40,), detach=True, generator=seeded()).log_v()[t]
        reached = {name[0] for name, grad in gradients(kernels, log_v).items() if grad.abs().sum() > 0}
        assert reached == {str(t)}


def test_the_authors_form_has_the_same_gradients(generator):
    """Their released loss, sum of alpha log f_T + (1 − alpha) log f_0 + log r − log q, in form (A)."""
    chain, kernels = toy_chain(4)
    of_avo = gradients(kernels, avo(chain.sample((40,), detach=True, generator=seeded())))
    trajectory = chain.sample((40,), detach=True, generator=seeded())
    reached = trajectory.path.log_ladder(torch.stack(trajectory.z[1:]))
    of_theirs = gradients(kernels, (reached + torch.stack(trajectory.log_ratio)).sum(0))
    assert all(close(of_avo[name], of_theirs[name]) for name in of_avo)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_amortised_avo_does_not_leak(batch_norm, generator):
    """The decoder gets the ELBO's gradient, q_0 none, and with its features detached the encoder none either."""
    model = VAE(VAEConfig(pixels=12, hidden=(9, 7), latent=3, T=3, kernel_hidden=5, batch_norm=batch_norm))
    x = (torch.rand(16, 12, generator=generator) < 0.4).double()
    of_elbo = gradients(model, elbo(model.sample_trajectory(x, generator=seeded())))
    value = avo(model.sample_trajectory(x, detach=True, generator=seeded()))
    torch.testing.assert_close(value, elbo(model.sample_trajectory(x, generator=seeded())))
    of_avo = gradients(model, value)
    for name in of_elbo:
        if name.startswith(("encoder", "q0")):
            assert of_avo[name].abs().sum() == 0 < of_elbo[name].abs().sum(), name
        elif name.startswith(("decoder", "kernels.2")) or ".r." in name:
            assert close(of_elbo[name], of_avo[name]), name
        else:
            assert of_avo[name].abs().sum() > 0 and not close(of_elbo[name], of_avo[name]), name


def test_iwae_of_one_sample_is_the_elbo(generator):
    chain, _ = toy_chain(2)
    trajectory = chain.sample((1, 10), generator=generator)
    torch.testing.assert_close(iwae(trajectory), elbo(trajectory)[0])
    many = chain.sample((8, 10), generator=generator)
    torch.testing.assert_close(iwae(many), log_mean_exp(many.log_w()))
    assert bool((iwae(many) >= elbo(many).mean(0)).all())


def test_elbo_gradient_matches_finite_differences(generator):
    chain, kernels = toy_chain(3)
    parameter = kernels[0].q.heads.shift
    exact = gradients(kernels, elbo(chain.sample((40,), generator=seeded())))["0.q.heads.shift"]
    for i in range(parameter.shape[-1]):
        values = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                parameter[0, i] += step
            values.append(elbo(chain.sample((40,), generator=seeded())).mean().item())
        with torch.no_grad():
            parameter[0, i] += 1e-6
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(exact[0, i].item(), rel=1e-5, abs=1e-7)


def test_the_coin_has_the_given_share(generator):
    chain, _ = toy_chain(2)
    tosses = []

    def draw(detach: bool) -> Trajectory:
        tosses.append(detach)
        return chain.sample((1,), detach=detach, generator=generator)

    for _ in range(2000):
        calibrated_avo(draw, 0.2, generator=generator)
    assert abs(sum(tosses) / 2000 - 0.2) < 5 * (0.16 / 2000) ** 0.5


def test_misuse_is_refused(generator):
    chain, _ = toy_chain(2)
    with pytest.raises(ValueError, match="detach=True"):
        avo(chain.sample((3,), generator=generator))
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrated_avo(lambda detach: chain.sample((3,), detach=detach), 1.5)
