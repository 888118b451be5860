"""Annealed importance sampling against its peers in JAX; a section of ``benchmarks/speed.py``.

The same work for each: a mixture of eight Gaussians, 100 temperatures, one HMC transition of five leapfrog steps at
each, float32. JAX compiles before the clock starts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch

from avo_lib.chain import Chain, Gaussian
from avo_lib.evaluation import ais
from avo_lib.kernels import HMC
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import GaussianMixture

MEANS = tuple((4 * math.cos(math.pi * k / 4), 4 * math.sin(math.pi * k / 4)) for k in range(8))
WIDTH, BASE, STEP, LEAPFROG, TEMPERATURES = 0.5, 3.0, 0.3, 5, 100


def ours(chains: int) -> Callable[[], float]:
    """This library; gives its estimate of log Z, which is 0."""
    target = GaussianMixture((1 / 8,) * 8, MEANS, WIDTH)
    base = Gaussian(torch.zeros(2), torch.full((2,), BASE))
    path = GeometricPath(base.log_prob, target.log_density, linear_alphas(TEMPERATURES))
    chain = Chain(base, [HMC(STEP, LEAPFROG)] * TEMPERATURES, path)
    return lambda: ais(chain, chains).log_z.value


def densities() -> tuple[Any, Any]:
    """Log densities of one point under the base and under the mixture, for JAX."""
    import jax.numpy as jnp
    from jax.scipy.special import logsumexp

    def normal(z: Any, mean: Any, std: float) -> Any:
        return (-0.5 * ((z - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)).sum(-1)

    means = jnp.array(MEANS)
    return lambda z: normal(z, 0.0, BASE), lambda z: logsumexp(normal(z, means, WIDTH)) - math.log(8)


def plain_jax(chains: int) -> Callable[[], float]:
    """The shortest program in JAX: one chain as a scan over temperatures, mapped over chains."""
    import jax
    import jax.numpy as jnp

    log_base, log_target = densities()

    def transition(carry: Any, step: Any) -> Any:
        z, log_w = carry
        key, before, after = step
        log_w += (after - before) * (log_target(z) - log_base(z))
        value_and_grad = jax.value_and_grad(lambda z: (1 - after) * log_base(z) + after * log_target(z))
        noise, coin = jax.random.split(key)
        momentum = jax.random.normal(noise, z.shape)
        old, gradient = value_and_grad(z)

        def leapfrog(state: Any, _: None) -> Any:
            z, p, _, gradient = state
            p += 0.5 * STEP * gradient
            z += STEP * p
            value, gradient = value_and_grad(z)
            return (z, p + 0.5 * STEP * gradient, value, gradient), None

        (end, p, new, _), _ = jax.lax.scan(leapfrog, (z, momentum, old, gradient), None, LEAPFROG)
        log_accept = new - old + 0.5 * (momentum**2).sum() - 0.5 * (p**2).sum()
        accepted = jnp.log(jax.random.uniform(coin)) < log_accept
        return (jnp.where(accepted, end, z), log_w), None

    @jax.jit
    def run(key: Any) -> Any:
        start, moves = jax.random.split(key)
        alphas = jnp.linspace(0, 1, TEMPERATURES + 1)

        def chain(z: Any, key: Any) -> Any:
            steps = (jax.random.split(key, TEMPERATURES), alphas[:-1], alphas[1:])
            return jax.lax.scan(transition, (z, 0.0), steps)[0][1]

        z = BASE * jax.random.normal(start, (chains, 2))
        log_w = jax.vmap(chain)(z, jax.random.split(moves, chains))
        return jax.scipy.special.logsumexp(log_w) - math.log(chains)

    return lambda: run(jax.random.key(0)).item()


def blackjax_smc(chains: int) -> Callable[[], float]:
    """BlackJAX's tempered sequential Monte Carlo: the same moves, with resampling at each temperature."""
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import extend_params
    from blackjax.smc.resampling import systematic

    log_base, log_target = densities()
    settings = {"step_size": STEP, "inverse_mass_matrix": jnp.ones(2), "num_integration_steps": LEAPFROG}
    smc = blackjax.tempered_smc(
        log_base,
        lambda z: log_target(z) - log_base(z),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        extend_params(settings),
        systematic,
        num_mcmc_steps=1,
    )

    @jax.jit
    def run(key: Any) -> Any:
        start, moves = jax.random.split(key)

        def step(state: Any, given: Any) -> Any:
            key, alpha = given
            state, info = smc.step(key, state, alpha)
            return state, info.log_likelihood_increment

        alphas = jnp.linspace(0, 1, TEMPERATURES + 1)[1:]
        state = smc.init(BASE * jax.random.normal(start, (chains, 2)))
        return jax.lax.scan(step, state, (jax.random.split(moves, TEMPERATURES), alphas))[1].sum()

    return lambda: run(jax.random.key(0)).item()


def variants(chains: int) -> dict[str, Callable[[], float]]:
    """All that is installed."""
    found = {"this library": ours(chains)}
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    for name, make in (("plain JAX", plain_jax), ("BlackJAX, tempered SMC", blackjax_smc)):
        try:
            found[name] = make(chains)
        except ImportError:
            continue
    return found
