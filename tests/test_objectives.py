"""What AVO changes, and what it does not: gradients compared under the same noise."""

from dataclasses import replace

import pytest
import torch

from avo_lib.chain import Chain, Gaussian
from avo_lib.controls import NoisyEncoder, RestingEncoder
from avo_lib.kernels import GatedKernel
from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_bernoulli, log_mean_exp, log_normal
from avo_lib.objectives import AVO, ELBO, IWAE, avo, elbo, iwae, toss
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


def test_a_detached_trajectory_trains_by_avo_alone(generator):
    """The ELBO's gradient along a cut chain would be nobody's: its value is left, and nothing to go back through."""
    chain, _ = toy_chain(3)
    trajectory = chain.sample((6,), detach=True, generator=seeded())
    assert avo(trajectory).requires_grad
    assert not (elbo(trajectory).requires_grad or iwae(trajectory).requires_grad)
    torch.testing.assert_close(elbo(trajectory), avo(trajectory).detach())


def test_a_copy_of_the_proposal_keeps_it_out_of_the_path():
    """What the docstring of ``avo`` advises where f_0 is a proposal that learns."""
    mean = torch.zeros(2, requires_grad=True)
    for f0, moved in ((Gaussian(mean, torch.ones(2)), True), (Gaussian(mean.detach(), torch.ones(2)), False)):
        kernels = [GatedKernel(2, 4) for _ in range(3)]
        path = GeometricPath(f0.log_prob, energy("b").log_density, linear_alphas(3))
        value = avo(Chain(Gaussian(mean, torch.ones(2)), kernels, path).sample((9,), detach=True, generator=seeded()))
        (grad,) = torch.autograd.grad(value.sum(), mean, materialize_grads=True, allow_unused=True)
        assert grad.any() == moved


def small_vae(T: int = 3, batch_norm: bool = False) -> VAE:
    return VAE(VAEConfig(pixels=12, hidden=(9, 7), latent=3, T=T, kernel_hidden=5, batch_norm=batch_norm))


@pytest.fixture
def x(generator) -> torch.Tensor:
    return (torch.rand(16, 12, generator=generator) < 0.4).double()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_amortised_avo_does_not_leak(batch_norm, x):
    """The decoder gets the ELBO's gradient, q_0 none, and with its features detached the encoder none either."""
    model = small_vae(batch_norm=batch_norm)
    bound = elbo_of(model, x, AVO(1.0))
    of_elbo = gradients(model, bound)
    value = AVO(1.0)(model, x, generator=seeded())
    torch.testing.assert_close(value, bound)
    of_avo = gradients(model, value)
    for name in of_elbo:
        if name.startswith(("encoder", "q0")):
            assert of_avo[name].abs().sum() == 0 < of_elbo[name].abs().sum(), name
        elif name.startswith(("decoder", "kernels.2")) or ".r." in name:
            assert close(of_elbo[name], of_avo[name]), name
        else:
            assert of_avo[name].abs().sum() > 0 and not close(of_elbo[name], of_avo[name]), name


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_step_of_a_model_learns_from_its_own_target_alone(batch_norm, x):
    """With batch norm too, whose statistics would tie stations that are decoded in one call."""
    model = small_vae(T=4, batch_norm=batch_norm).train()
    for t in range(4):
        log_v = model.chain(x).sample(detach=True, generator=seeded()).log_v()[t]
        got = {name: grad.abs().sum() > 0 for name, grad in gradients(model, log_v).items() if ".q." in name}
        assert all(moved == name.startswith(f"kernels.{t}.") for name, moved in got.items())


def elbo_of(model, x, objective):
    """The bound on the noise that an objective of one seed draws: after its coin, if it tosses one."""
    generator = seeded()
    if hasattr(objective, "share"):
        torch.rand((), generator=generator)
    return elbo(model.chain(x).sample(generator=generator))


PARTS = ("encoder", "q0", "decoder", "kernels")
LEARN = {  # what a step that is surely annealed, or surely at rest, trains
    ELBO(): PARTS,
    IWAE(3): PARTS,
    NoisyEncoder(std=0.3): PARTS,
    NoisyEncoder(flips=0.1): PARTS,
    RestingEncoder(1.0): ("decoder", "kernels"),
    RestingEncoder(0.0): PARTS,
    AVO(0.0): PARTS,
    AVO(1.0): ("decoder", "kernels"),
    AVO(1.0, also=("decoder",)): ("decoder", "kernels"),
    AVO(1.0, also=("features",)): ("encoder", "decoder", "kernels"),
    AVO(1.0, also=("proposal",)): PARTS,
    AVO(1.0, joint=True): PARTS,
    AVO(1.0, also=("decoder", "features", "proposal")): PARTS,
}


@pytest.mark.parametrize("objective", LEARN, ids=repr)
def test_each_objective_trains_what_it_says(objective, x):
    model = small_vae()
    objective(model, x, generator=seeded()).mean().backward()
    for name, parameter in model.named_parameters():
        learns = name.startswith(LEARN[objective])
        assert (parameter.grad is not None) == learns, f"{name}: Adam moves on zeros, and rests on None"
        assert not learns or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("objective", [one for one in LEARN if not isinstance(one, (IWAE, NoisyEncoder))], ids=repr)
def test_the_value_is_the_bound_whatever_learns(objective, x):
    model = small_vae()
    torch.testing.assert_close(objective(model, x, generator=seeded()), elbo_of(model, x, objective))


def test_the_proposal_learns_from_the_prior(x):
    """As a step 0 with the target f_0: its gradient is that of −KL(q_0 || p), and no kernel's changes."""
    model = small_vae()
    found = gradients(model, AVO(1.0, also=("proposal",))(model, x, generator=seeded()))
    usual = gradients(model, AVO(1.0)(model, x, generator=seeded()))
    generator = seeded()
    torch.rand((), generator=generator)
    z, log_q0 = model.chain(x).proposal.sample(generator=generator)
    expected = gradients(model, log_normal(z) - log_q0)
    for name in found:
        other = expected[name] if name.startswith(("encoder", "q0")) else usual[name]
        assert close(found[name], other), name


def test_a_joint_first_step_is_a_hierarchy_on_the_first_target(x):
    """q_0 and q_1 get the gradient of log f_1(z_1) + log r_1/q_1 − log q_0(z_0); later kernels AVO's."""
    model = small_vae()
    found = gradients(model, AVO(1.0, joint=True)(model, x, generator=seeded()))
    usual = gradients(model, AVO(1.0)(model, x, generator=seeded()))
    generator = seeded()
    torch.rand((), generator=generator)
    chain = model.chain(x)
    chain = replace(chain, context=chain.context.detach())
    z, log_q0 = chain.proposal.sample(generator=generator)
    z, log_ratio = chain.kernels[0].forward(z, chain.target(1), chain.context, generator=generator)
    expected = gradients(model, chain.path.log_density(1, z) + log_ratio - log_q0)
    for name in found:
        first = name.startswith(("encoder", "q0", "kernels.0"))
        if not name.startswith("decoder"):
            assert close(found[name], expected[name] if first else usual[name]), name


def test_the_decoder_learns_from_every_target_if_asked(x):
    """Its gradient is that of the sum of alpha_t log p(x|z_t), else of log p(x|z_T) alone."""
    model = small_vae()
    for also in ((), ("decoder",)):
        generator = seeded()
        torch.rand((), generator=generator)
        zs = model.chain(x).sample(detach=True, generator=generator).z
        weights = model.alphas if also else (model.alphas == 1).double()
        each = torch.stack([log_bernoulli(x, model.decode(z.detach())) for z in zs])
        expected = gradients(model, (weights[:, None] * each).sum(0))
        found = gradients(model, AVO(1.0, also)(model, x, generator=seeded()))
        assert all(close(found[name], expected[name]) for name in found if name.startswith("decoder"))


def test_a_decoder_that_is_not_there_is_not_trained_in_silence(x):
    chain, _ = toy_chain(2)

    class Toy:
        def chain(self, x):
            return chain

    with pytest.raises(ValueError, match="only an AmortisedPath has a decoder to train, not a GeometricPath"):
        AVO(1.0, also=("decoder",))(Toy(), x, generator=seeded())


def test_noise_reaches_the_encoder_and_not_the_likelihood(x):
    seen = []

    class Spy(torch.nn.Module):
        def chain(self, x, *, seen):
            self.x, self.seen = x, seen
            return small_vae().chain(x, seen=seen)

    spy = Spy()
    for objective in (NoisyEncoder(std=0.3), NoisyEncoder(flips=0.25)):
        objective(spy, x.repeat(500, 1), generator=seeded())
        noise = spy.seen - spy.x
        assert torch.equal(spy.x, x.repeat(500, 1))
        seen.append(noise.std() if objective.std else noise.abs().mean())
    assert abs(seen[0] - 0.3) < 0.01 and abs(seen[1] - 0.25) < 0.01


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AVO(1.5), "between 0 and 1"),
        (lambda: AVO(float("nan")), "between 0 and 1"),
        (lambda: RestingEncoder(-0.1), "between 0 and 1"),
        (lambda: AVO(0.2, also=("encoder",)), "also names some of"),
        (lambda: AVO(0.2, also=("proposal", "decoder")), "in that order"),
        (lambda: AVO(0.2, also=("proposal",), joint=True), "not from both"),
        (lambda: NoisyEncoder(), "not both 0"),
        (lambda: NoisyEncoder(std=float("nan")), "std >= 0"),
        (lambda: NoisyEncoder(flips=1.0), "flips < 1"),
    ],
)
def test_impossible_objectives_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


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
    tosses = [toss(0.2, generator) for _ in range(2000)]
    assert abs(sum(tosses) / 2000 - 0.2) < 5 * (0.16 / 2000) ** 0.5


def test_misuse_is_refused(generator):
    chain, _ = toy_chain(2)
    with pytest.raises(ValueError, match="detach=True"):
        avo(chain.sample((3,), generator=generator))
    with pytest.raises(ValueError, match="between 0 and 1"):
        AVO(1.5)


def test_a_certain_coin_is_tossed_all_the_same(monkeypatch):
    """Or results that are committed could not be made again; a graph, which cannot wait for it, goes without."""
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert toss(1.0, generator) and not toss(0.0, generator)
    assert not torch.equal(generator.get_state(), before)
    monkeypatch.setattr("avo_lib.objectives.traced", lambda: True)
    before = generator.get_state()
    assert toss(1.0, generator) is True and toss(0.0, generator) is False
    assert torch.equal(generator.get_state(), before)


def test_a_coin_takes_no_seed_for_a_generator():
    with pytest.raises(TypeError, match="0 is a seed"):
        toss(0.5, 0)


def test_avo_teaches_no_schedule():
    """The gradient of its value by alpha changes with the unknown log Z: a constant on log f_T would turn its sign."""
    base, kernels = Gaussian(torch.zeros(2), torch.ones(2)), [GatedKernel(2, 4) for _ in range(2)]
    alphas = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    chain = Chain(base, kernels, GeometricPath(base.log_prob, energy("b").log_density, alphas))
    with pytest.raises(ValueError, match="cannot teach a schedule"):
        avo(chain.sample((5,), detach=True))
    held = replace(chain, path=GeometricPath(base.log_prob, energy("b").log_density, alphas.detach()))
    assert avo(held.sample((5,), detach=True)).requires_grad
