"""Biased noise as an experiment: five ways to learn the noise of the ring, at three levels, judged by quadrature."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avo_lib.checks import check_count
from avo_lib.evaluation import marginal_bounds
from avo_lib.experiments.records import load_weights, once
from avo_lib.experiments.results import RESULTS, versions
from avo_lib.models.ring import ETA, METHODS, Ring, RingConfig, line, posterior

CONFIGS = (*(RingConfig(method) for method in METHODS), RingConfig("avo", (0.1,), updates=10_000, lr=1e-3))
ANGLES = tuple(range(-171, 172, 19))  # degrees around the circle, 0 at the top
CURVE = (0, 250, 500, 1000, 2000, 3000, 4000, 6000, 8000)  # numbers of updates after which the model is judged


def log_likelihoods(ring: Ring, x: Tensor, points: int = 1201) -> tuple[Tensor, Tensor]:
    """Log p_θ(x) of the learned models and log p*(x) of the true one, by quadrature.

    Args:
        ring: The learned models.
        x: Data of each copy, ``(copies, points, 2)``.
        points: Number of latents on the grid, which goes from −6 to 6.

    Returns:
        Both ``(copies, points)`` in nats. On data of the true model the mean of log p* − log p_θ is KL(p* ‖ p_θ).
    """
    z, config = line(points, 6.0), ring.config
    with torch.no_grad():
        stds = ring.std(z.to(x.dtype).expand(config.copies, -1, 1)).double().mT
    learned = [posterior(one, z, std)[1] for one, std in zip(x.double(), stds, strict=True)]
    true = [posterior(one, z, config.stds[i // config.seeds])[1] for i, one in enumerate(x.double())]
    return torch.stack(learned), torch.stack(true)


def train(config: RingConfig, *, seed: int = 0) -> tuple[Ring, dict[int, list[float]]]:
    """Train all copies as one batched run; methods of equal shapes see the same initial weights, data and noise.

    Args:
        config: What to fit and how.
        seed: Seed of the initial weights, the data and the noise.

    Returns:
        The model, and its divergence from the true one after given numbers of updates, in nats for each copy.

    Raises:
        FloatingPointError: If the objective is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        ring = Ring(config)
    generator = torch.Generator().manual_seed(seed)
    held_out = config.simulate(500, generator=torch.Generator().manual_seed(seed + 1))
    optimiser, curve = torch.optim.Adam(ring.parameters(), config.lr, fused=True), {}
    for update in range(config.updates):
        if update in CURVE:
            learned, true = log_likelihoods(ring, held_out, 801)
            curve[update] = (true - learned).mean(-1).tolist()
        x = config.simulate(config.batch, generator=generator)
        value = ring.bound(x, training=True, generator=generator).mean(-1).sum()
        if not math.isfinite(value.item()):
            raise FloatingPointError(f"the objective is {value.item()} at update {update} of {config}")
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
    return ring, curve


def evaluate(ring: Ring, *, points: int = 2000, samples: int = 100, seed: int = 2) -> list[dict[str, Any]]:
    """Judge each copy on held-out data of the true model, in nats.

    Args:
        ring: Trained model, from :func:`train`.
        points: Number of data for each copy, at least two, in blocks of 100; the sandwich takes every fourth block.
        samples: Reverse trajectories drawn for each point of a chain; see
            :func:`avo_lib.evaluation.marginal_bounds`.
        seed: Seed of the data and the noise.

    Returns:
        For each copy its ``std`` and ``seed``; ``log_p``, the method's ``bound``, ``model_kl`` = KL(p* ‖ p_θ) and
        ``gap`` = log p_θ − bound, both with standard errors; for chains ``kl_lower`` and ``kl_upper``, which bracket
        KL(q_T ‖ p_θ(z|x)) and have the ``kl_stderr`` of one of them; and the learned ``noise`` at :data:`ANGLES`.

    Raises:
        ValueError: If there are fewer than two points, or no samples.
    """
    check_count("points", points, least=2)
    config, generator = ring.config, torch.Generator().manual_seed(seed)
    angles = torch.tensor(ANGLES) / 180
    parts, quarter = [], []
    with torch.no_grad():
        for done in range(0, points, 100):
            x = config.simulate(min(100, points - done), generator=generator)
            learned, true = log_likelihoods(ring, x)
            bound = ring.bound(x, generator=generator).double()
            parts.append(torch.stack([learned, bound, true - learned, learned - bound]))
            if ring.kernels and done % 400 == 0:
                chain = ring.chain(x)
                bounds = marginal_bounds(chain, chain.sample(generator=generator), samples, generator=generator)
                quarter.append(learned - torch.stack(bounds[::-1]).double())
        noise = ring.std((angles.atanh() / ETA)[:, None].expand(config.copies, -1, 1))[..., 0]
    values = torch.cat(parts, -1)
    columns = dict(zip(("log_p", "bound", "model_kl", "gap"), values.mean(-1), strict=True))
    columns |= dict(zip(("model_kl_stderr", "gap_stderr"), _stderr(values[2:]), strict=True))
    if quarter:
        bracket = torch.cat(quarter, -1)
        columns |= dict(
            zip(("kl_lower", "kl_upper", "kl_stderr"), [*bracket.mean(-1), _stderr(bracket[1])], strict=True)
        )
    columns["noise"] = noise
    rows = zip(*(part.double().round(decimals=5).tolist() for part in columns.values()), strict=True)
    which = [{"std": std, "seed": seed} for std in config.stds for seed in range(config.seeds)]
    return [one | dict(zip(columns, row, strict=True)) for one, row in zip(which, rows, strict=True)]


def _stderr(values: Tensor) -> Tensor:
    stderr: Tensor = values.std(-1) / values.shape[-1] ** 0.5
    return stderr


def ring_file(config: RingConfig, folder: Path | str = RESULTS) -> Path:
    """The file of a fit's result, three folders deep, apart from the results of models."""
    rate = "" if config.lr == RingConfig.lr else f"-lr{config.lr:g}"
    return Path(folder) / "toys" / "ring" / f"{config.method}{rate}.json"


def run(config: RingConfig, folder: Path | str = RESULTS) -> dict[str, Any]:
    """Train and judge one method, and write its result and the weights at the middle noise; a finished one is read.

    Raises:
        ValueError: If the file there is damaged or belongs to another configuration.
        FloatingPointError: If the objective, a weight or a number in the result is not finite.
    """
    kinds = {"copies.*.std": float, "copies.*.model_kl": float}
    return once(ring_file(config, folder), asdict(config), lambda: _fitted(config), kinds)


def _fitted(config: RingConfig) -> tuple[dict[str, Any], dict[str, Tensor]]:
    started = time.monotonic()
    ring, curve = train(config)
    seconds = round(time.monotonic() - started, 1)
    first = len(config.stds) // 2 * config.seeds
    middle = {name: value[first : first + config.seeds].clone() for name, value in ring.state_dict().items()}
    return {"versions": versions(), "seconds": seconds, "curve": curve, "copies": evaluate(ring)}, middle


def load_ring(config: RingConfig, folder: Path | str = RESULTS) -> Ring:
    """The published copies of a method at the middle noise level, for all seeds.

    Raises:
        FileNotFoundError: If these weights are not there; the message says which command makes them.
        ValueError: If they are damaged.
    """
    ring = Ring(replace(config, stds=config.stds[len(config.stds) // 2 :][:1]))
    load_weights(ring, ring_file(config, folder).with_suffix(".safetensors"), "ring")
    return ring.requires_grad_(False)
