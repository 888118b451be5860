"""AVO against an independent implementation: `coix` (jax-ml, in JAX), on the same trajectories."""

import pytest
import torch

from avo_lib.experiments.energies import ToyConfig, train
from avo_lib.objectives import avo

# Not in the test extra: an optional referee, with a stack of its own (pip install coix; jax and numpyro come with it).
coix = pytest.importorskip("coix", reason="coix is not installed; with `pip install coix` AVO is compared with its AVO")
jax = pytest.importorskip("jax", reason="coix needs jax")
numpyro = pytest.importorskip("numpyro", reason="this comparison uses coix's numpyro backend")

import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend
T, POINTS = 3, 16


class Drawn(dist.Normal):
    """A Gaussian that uses the noise it is given, so that both libraries see the same trajectories."""

    def __init__(self, mean, std, noise):
        self.noise = noise
        super().__init__(mean, std)

    def sample(self, key, sample_shape=()):
        return self.loc + self.scale * self.noise


class Density(dist.Distribution):
    """A density of which only the logarithm is known; it is evaluated and never drawn from."""

    support = dist.constraints.real_vector

    def __init__(self, log_density):
        self.log_density = log_density
        super().__init__((POINTS,), (2,))

    def log_prob(self, value):
        return self.log_density(value)


def log_standard_normal(z):
    return -0.5 * (z**2).sum(-1) - jnp.log(2 * jnp.pi)


def log_energy_e(z):
    return -0.5 * ((z[..., 1] - jnp.sin(0.5 * jnp.pi * z[..., 0])) / 0.4) ** 2 - 0.1 * z[..., 0] ** 2


def layer(parameters, name, z):
    """A weight-normalised linear layer, from the torch parameters of seed 0."""
    direction, scale, shift = (parameters[f"{name}.{part}"][0] for part in ("direction", "scale", "shift"))
    return scale * (z @ (direction / jnp.linalg.norm(direction, axis=0))) + shift


def gated(parameters, name, z):
    """Mean and standard deviation of the refinement operator, written anew."""
    heads = layer(parameters, f"{name}.heads", jax.nn.relu(layer(parameters, f"{name}.hidden", z)))
    m, gate, std = jnp.split(heads, 3, axis=-1)
    gate = jax.nn.sigmoid(gate)
    return gate * m + (1 - gate) * z, jax.nn.softplus(std) + 1e-6


def coix_loss(parameters, noise):
    """Coix's AVO of the chain: the sum over steps of the mean of -log v_t."""

    def start():
        return (numpyro.sample("z", Drawn(jnp.zeros((POINTS, 2)), 1.0, noise[0]).to_event(1)),)

    def target(t):
        alpha = t / T
        density = Density(lambda z: alpha * log_energy_e(z) + (1 - alpha) * log_standard_normal(z))
        return lambda *_: (numpyro.sample("z", density),)

    def forward(t):
        return lambda z: (numpyro.sample("z", Drawn(*gated(parameters, f"{t - 1}.q", z), noise[t]).to_event(1)),)

    def reverse(t):
        return lambda z: (numpyro.sample("z", dist.Normal(*gated(parameters, f"{t - 1}.r", z)).to_event(1)),)

    steps = range(1, T + 1)
    program = coix.algo.nvi_avo([start, *map(target, steps)], [forward(t) for t in steps], [reverse(t) for t in steps])
    return coix.traced_evaluate(program, seed=jax.random.PRNGKey(0))()[2]["loss"]


@pytest.mark.parametrize("updates", [0, 300], ids=["untrained", "trained"])
def test_losses_and_gradients_agree_with_coix(updates):
    config = ToyConfig("e", T=T, hidden=8, batch=POINTS, updates=updates, lr=1e-2, seeds=1)
    chain = train(config)
    kernels = torch.nn.ModuleList(chain.kernels)
    generator = torch.Generator().manual_seed(1)
    loss = -avo(chain.sample(detach=True, generator=generator)).mean()
    kernels.zero_grad()
    loss.backward()

    generator.manual_seed(1)  # the chain's own noise once more, in the order in which it is drawn
    noise = [torch.randn(1, POINTS, 2, generator=generator)[0] for _ in range(T + 1)]
    with jax.enable_x64(True):
        theirs, gradient = jax.value_and_grad(coix_loss)(
            {name: jnp.asarray(value.detach().numpy()) for name, value in kernels.named_parameters()},
            [jnp.asarray(one.numpy()) for one in noise],
        )
    assert loss.item() == pytest.approx(float(theirs), abs=1e-6)
    for name, value in kernels.named_parameters():
        torch.testing.assert_close(value.grad, torch.tensor(gradient[name].tolist()), rtol=1e-6, atol=1e-8)
