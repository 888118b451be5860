"""The model's own promises: shapes, likelihood, refusals."""

import pytest
import torch

from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_bernoulli, log_normal
from avo_lib.objectives import avo, elbo

SMALL = {"pixels": 12, "hidden": (9, 7), "latent": 3, "kernel_hidden": 5}
CONFIGS = {
    "plain": VAEConfig(**SMALL),
    "householder": VAEConfig(**SMALL, T=3, kernel="householder"),
    "HVI, report": VAEConfig(**SMALL, T=3),
    "HVI, paper": VAEConfig(**SMALL, T=3, layers="gated", batch_norm=False, conditioning="weight_norm"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture
def x(generator) -> torch.Tensor:
    return (torch.rand(8, 12, generator=generator) < 0.4).double()


@every_config
def test_shapes_and_gradients(config, x, generator):
    model = VAE(config)
    bound = elbo(model.sample_trajectory(x, (4,), generator=generator))
    assert bound.shape == (4, 8)
    bound.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert model.decode(torch.zeros(2, 5, 3)).shape == (2, 5, 12)
    assert model.sample_images(6, generator=generator).shape == (6, 12)


@every_config
def test_the_bound_is_what_it_says(config, x, generator):
    """Log w by torch.distributions: p(z) p(x|z) over q_0, and the kernels' ratios."""
    model = VAE(config).eval()
    trajectory = model.sample_trajectory(x, generator=generator)
    z = trajectory.z[-1]
    likelihood = torch.distributions.Bernoulli(logits=model.decode(z)).log_prob(x).sum(-1)
    expected = log_normal(z) + likelihood - trajectory.log_q0 + sum(trajectory.log_ratio)
    torch.testing.assert_close(trajectory.log_w(), expected)
    torch.testing.assert_close(trajectory.log_w(beta=0.0), likelihood)


def test_frozen_decoding_leaves_batch_norm_alone(x, generator):
    model = VAE(CONFIGS["HVI, report"])
    trajectory = model.sample_trajectory(x, detach=True, generator=generator)
    before = {name: value.clone() for name, value in model.decoder.named_buffers()}
    trajectory.path.log_likelihood_frozen(trajectory.z[1])
    assert all(torch.equal(before[name], value) for name, value in model.decoder.named_buffers())


@pytest.mark.parametrize("attach", [False, True])
def test_avo_steps_reach_the_encoder_only_through_attached_features(attach, x, generator):
    """The first kernel's own term, log v_1 given z_0, touches the encoder through its features or not at all."""
    model = VAE(CONFIGS["HVI, report"])
    trajectory = model.sample_trajectory(x, detach=True, attach_features=attach, generator=generator)
    trajectory.log_v()[0].sum().backward()
    assert (model.encoder[0].weight.grad is not None) == attach
    assert model.kernels[0].q.hidden.direction.grad is not None


@pytest.mark.parametrize("attach", [False, True])
def test_the_decoder_learns_from_the_last_target_unless_attached(attach, x, generator):
    """Its gradient in an AVO step is that of log p(x|z_T), or of the sum of alpha_t log p(x|z_t) over all steps."""
    model = VAE(CONFIGS["HVI, paper"])
    trajectory = model.sample_trajectory(x, detach=True, attach_decoder=attach, generator=generator)
    weights = model.alphas if attach else (model.alphas == 1).float()
    each = torch.stack([log_bernoulli(x, model.decode(z.detach())).sum() for z in trajectory.z])
    parameters = list(model.decoder.parameters())
    expected = torch.autograd.grad((weights * each).sum(), parameters)
    found = torch.autograd.grad(avo(trajectory).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_near_identity_kernels_start_as_the_plain_vae(x, generator):
    """As the gates close, the chain's bound becomes that of its proposal."""
    model = VAE(VAEConfig(pixels=12, hidden=(9, 7), latent=3, T=5, batch_norm=False, gate_bias=-12.0)).eval()
    with torch.no_grad():
        chain = model.chain(x)
        start = chain.proposal.sample((500,), generator=generator)
        plain = log_normal(start[0]) + chain.path.log_likelihood(start[0]) - start[1]
        whole = chain.sample((500,), generator=generator).log_w()
    assert abs(plain.mean() - whole.mean()) < 0.2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.ones(12), r"\(images, 12\), got \(12,\)"),
        (torch.ones(3, 13), r"got \(3, 13\)"),
        (torch.ones(1, 3, 4), r"got \(1, 3, 4\)"),
        (torch.full((3, 12), 0.5), "Binarise first"),
        (torch.full((3, 12), torch.nan), "not finite"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        VAE(CONFIGS["plain"]).chain(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": "relu"}, "leaky_relu, gated"),
        ({"kernel": "iaf"}, "gated, householder"),
        ({"layers": "gated"}, "batch_norm=False"),
        ({"T": -1}, "T >= 0"),
        ({"hidden": ()}, "at least one hidden layer"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        VAEConfig(**change)
