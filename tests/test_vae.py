"""The model's own promises: shapes, likelihood, refusals."""

import pytest
import torch

from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_normal
from avo_lib.objectives import elbo

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
    bound = elbo(model.chain(x).sample((4,), generator=generator))
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
    trajectory = model.chain(x).sample(generator=generator)
    z = trajectory.z[-1]
    likelihood = torch.distributions.Bernoulli(logits=model.decode(z)).log_prob(x).sum(-1)
    expected = log_normal(z) + likelihood - trajectory.log_q0 + sum(trajectory.log_ratio)
    torch.testing.assert_close(trajectory.log_w(), expected)
    torch.testing.assert_close(trajectory.log_w(beta=0.0), likelihood)


def test_frozen_decoding_leaves_batch_norm_alone(x, generator):
    model = VAE(CONFIGS["HVI, report"])
    trajectory = model.chain(x).sample(detach=True, generator=generator)
    before = {name: value.clone() for name, value in model.decoder.named_buffers()}
    trajectory.path.log_likelihood_frozen(trajectory.z[1])
    assert all(torch.equal(before[name], value) for name, value in model.decoder.named_buffers())


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
