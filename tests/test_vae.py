"""The model's own promises: shapes, likelihood, refusals."""

import pytest
import torch

from avo_lib.kernels import GatedKernel
from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_normal
from avo_lib.objectives import AVO, avo, elbo

SMALL = {"pixels": 12, "hidden": (9, 7), "latent": 3, "kernel_hidden": 5}
CONFIGS = {
    "plain": VAEConfig(**SMALL),
    "householder": VAEConfig(**SMALL, T=3, kernel="householder"),
    "autoregressive": VAEConfig(**SMALL, T=3, kernel="autoregressive"),
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


def test_a_part_without_layers_is_ones_own_too():
    """An empty ``nn.Sequential``, which passes everything on, counts as false."""
    empty = torch.nn.Sequential()
    model = VAE(VAEConfig(**SMALL | {"hidden": (12,), "latent": 12, "batch_norm": False}), encoder=empty, decoder=empty)
    assert model.encoder is empty and model.decoder is empty
    assert model.chain(torch.ones(4, 12)).sample().log_w().shape == (4,)
    assert GatedKernel(2, 4, activation=empty).q.activation is empty


@every_config
def test_no_images_are_a_batch_too(config):
    model = VAE(config).eval()
    assert model.chain(torch.zeros(0, 12)).sample((4,)).log_w().shape == (4, 0)
    assert model.chain(torch.zeros(2, 12)).sample((0,)).log_w().shape == (0, 2)
    assert model.sample_images(0).shape == (0, 12)


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


@pytest.mark.parametrize("form", ["HVI, report", "HVI, paper"])
def test_kernels_start_near_the_identity_by_default(form, x, generator):
    """Standard deviation 0.05 and gates of sigmoid(-3), in both directions, though the configuration says neither."""
    model, z = VAE(CONFIGS[form]), torch.randn(8, 3, generator=generator)
    chain = model.chain(x)
    for kernel in model.kernels:
        for way in (kernel.q, kernel.r):
            _, std = way(z, chain.context)
            assert bool(((std - 0.05).abs() < 0.01).all())
            assert bool((way.heads.shift[..., 3:6] == -3).all())


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
        ({"kernel": "iaf"}, "gated, householder, autoregressive"),
        ({"conditioning": "film"}, "concat, weight_norm"),
        ({"std_init": 1000.0}, "0 < std_init < 700"),
        ({"layers": "gated"}, "batch_norm=False"),
        ({"hidden": ()}, "at least one hidden layer"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        VAEConfig(**change)


def linear_model() -> VAE:
    """A decoder of one matrix and Gaussian noise: x is Gaussian, so its density is known."""
    config = VAEConfig(pixels=6, hidden=(8,), latent=2, likelihood="gaussian", batch_norm=False)
    return VAE(config, decoder=torch.nn.Linear(2, 6)).eval()


def test_a_gaussian_likelihood_gives_the_exact_density(generator):
    model = linear_model().requires_grad_(False)
    model.likelihood.log_std.fill_(0.5)
    x = torch.randn(20, 6, generator=generator)
    W, std = model.decoder.weight, model.likelihood.log_std.exp()
    exact = torch.distributions.MultivariateNormal(model.decoder.bias, W @ W.T + std**2 * torch.eye(6)).log_prob(x)
    axis = torch.linspace(-8, 8, 201)
    grid = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 20, -1)
    found = model.chain(x).target(0)(grid).logsumexp(0) + 2 * (axis[1] - axis[0]).log()
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=0)
    drawn = model.likelihood.sample(torch.zeros(50_000, 2, dtype=x.dtype), generator=generator)
    assert abs(drawn.std() / std - 1) < 0.02 and model.likelihood.mean(x) is x


def test_annealed_steps_hold_the_noise_constant(generator):
    """The scale of the noise belongs to the model: it learns from the last target alone, as the decoder does."""
    config = VAEConfig(pixels=6, hidden=(8,), latent=2, likelihood="gaussian", batch_norm=False, T=3)
    model, x = VAE(config), torch.randn(5, 6, generator=generator)
    trajectory = model.chain(x).sample(detach=True, generator=generator)
    first, *_, last = trajectory.log_v().sum(-1)
    parameters = [model.likelihood.log_std, *model.decoder.parameters()]
    assert not any(g.any() for g in torch.autograd.grad(first, parameters, retain_graph=True))
    assert all(g is not None and g.abs().sum() > 0 for g in torch.autograd.grad(last, parameters))


class Poisson(torch.nn.Module):
    """A likelihood of counts, as a user writes it."""

    maps: int = 1

    def check(self, x):
        if not bool(((x >= 0) & (x == x.round())).all()):
            raise ValueError("counts, please")

    def forward(self, x, log_rate):
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).sum(-1)

    def mean(self, log_rate):
        return log_rate.exp()


def test_a_likelihood_of_ones_own(generator):
    """Counts of rates that do not hang on z: the last target is the prior times their probability."""
    model = VAE(VAEConfig(3, (4,), 2, T=2, batch_norm=False), likelihood=Poisson())
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    x = torch.tensor([[0.0, 3.0, 5.0], [1.0, 1.0, 9.0]])
    exact = torch.distributions.Poisson(torch.tensor([0.0, 1.0, 2.0]).exp()).log_prob(x).sum(-1)
    chain = model.eval().chain(x)
    trajectory = chain.sample((5,), detach=True, generator=generator)
    torch.testing.assert_close(chain.target(2)(trajectory.z[-1]) - log_normal(trajectory.z[-1]), exact.expand(5, 2))
    torch.testing.assert_close(avo(trajectory), elbo(trajectory))  # by way of the frozen likelihood
    with pytest.raises(ValueError, match="counts, please"):
        model.chain(x - 0.5)
    assert model.sample_images(2, generator=generator).shape == (2, 3)
    with pytest.raises(TypeError, match="Poisson has no sample"):
        model.simulate(2)


def test_simulated_data_belong_to_their_latents(generator):
    """With a certain decoder the pixels tell the latent that they were drawn with."""
    model = VAE(VAEConfig(2, (2,), 2, batch_norm=False), decoder=Thousandfold()).eval()
    x, z = model.simulate(50, generator=generator)
    assert torch.equal(x, (z > 0).float())
    assert 0 < x.mean() < 1


class Thousandfold(torch.nn.Module):
    """A decoder that is sure of the sign of each latent."""

    def forward(self, z):
        return 1e6 * z


@pytest.mark.parametrize("wrong", ["poisson", Poisson, torch.nn.Identity(), torch.distributions.Poisson(1.0)])
def test_what_is_no_likelihood_is_refused(wrong):
    with pytest.raises(TypeError, match=r"Module with maps, check, forward and mean.*VAEConfig\(likelihood=...\)"):
        VAE(VAEConfig(3, (4,), 2), likelihood=wrong)


@pytest.mark.parametrize(
    "x, told",
    [
        (torch.full((3, 6), float("nan")), "pixels must be finite, but 18 are NaN or infinite"),
        (torch.ones(3, 6, dtype=torch.long), r"floating-point numbers, not torch\.int64"),
    ],
)
def test_a_gaussian_likelihood_refuses_what_is_no_number(x, told):
    with pytest.raises(ValueError, match=told):
        linear_model().chain(x)


def test_own_networks_are_used_and_checked(generator):
    config = VAEConfig(pixels=64, hidden=(32,), latent=4, T=2, batch_norm=False)
    encoder = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)), torch.nn.Conv2d(1, 2, 3, stride=2, padding=1), torch.nn.Flatten()
    )
    decoder = torch.nn.Sequential(
        torch.nn.Linear(4, 32),
        torch.nn.Unflatten(1, (2, 4, 4)),
        torch.nn.ConvTranspose2d(2, 1, 4, stride=2, padding=1),
        torch.nn.Flatten(),
    )
    x = (torch.rand(5, 64, generator=generator) < 0.3).to(torch.get_default_dtype())
    model = VAE(config, encoder=encoder, decoder=decoder)
    AVO(1.0, also=("features", "proposal"))(model, x, generator=generator).mean().backward()
    assert all(p.grad is not None for part in (encoder, decoder, model.kernels) for p in part.parameters())
    with pytest.raises(ValueError, match=r"the encoder should give \(5, 32\) features, but gives \(5, 16\)"):
        VAE(config, encoder=torch.nn.Linear(64, 16)).chain(x)
    with pytest.raises(ValueError, match=r"the decoder should give \(5, 64\) numbers, but gives \(5, 63\)"):
        VAE(config, decoder=torch.nn.Linear(4, 63)).chain(x).sample().log_w()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_either_precision_whatever_the_default(dtype, generator):
    model = VAE(VAEConfig(pixels=6, hidden=(5,), latent=2, T=2, batch_norm=False)).to(dtype)
    images = torch.ones(4, 6)
    assert model.sample_images(3, generator=generator).dtype == dtype
    assert model.chain(images.to(dtype)).sample(generator=generator).log_w().dtype == dtype
    other = torch.float32 if dtype == torch.float64 else torch.float64
    with pytest.raises(ValueError, match=rf"images are {other}, but the model is {dtype}: use model.to\({other}\)"):
        model.chain(images.to(other))


@pytest.mark.parametrize("T", [0, 2])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_loss_compiles_into_one_graph(T, likelihood, generator):
    """With ``fullgraph`` a part that cannot be compiled is an error."""
    torch.compiler.reset()
    config = VAEConfig(pixels=6, hidden=(5,), latent=2, T=T, batch_norm=False, likelihood=likelihood)
    model = VAE(config)

    def bound(x):
        return elbo(model.chain(x).sample()).mean()

    def annealed(x):
        return avo(model.chain(x).sample(detach=True)).mean()

    losses = [(bound, bound)]
    if T:  # in a graph an objective that is surely annealed tosses no coin
        losses += [(annealed, annealed), (lambda x: AVO(1.0)(model, x).mean(), annealed)]
    for loss, reference in losses:
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
        for x in (torch.ones(4, 6), torch.zeros(7, 6)):  # from the second size on, sizes are symbols
            torch.manual_seed(0)
            plain = reference(x)
            torch.manual_seed(0)
            torch.testing.assert_close(compiled(x), plain)
