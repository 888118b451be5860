"""The six energies of Huang et al. 2018 as an experiment: all seeds of a fit as one batched run, judged in nats."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avo_lib.chain import Chain, Gaussian
from avo_lib.checks import check_count, check_counts, check_positive
from avo_lib.evaluation import marginal_bounds
from avo_lib.experiments.records import load_weights, once
from avo_lib.experiments.results import RESULTS, versions
from avo_lib.kernels import GatedKernel
from avo_lib.numerics import log_normal
from avo_lib.objectives import avo, elbo
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.schedules import BetaSchedule, Constant, WarmUp
from avo_lib.targets import ENERGIES, energy

OBJECTIVES = ("elbo", "avo")
FOUR_MODES = {"paper": (2.0, 0.2), "released": (2.5, 0.375)}  # of energy d: distance from the origin, variance
SECTORS = 12
FIRST_BETA = 0.01
MODE_WEIGHTS = (0.1, 0.3, 0.4, 0.2)  # left, right, top, bottom


@dataclass(frozen=True)
class ToyConfig:
    """One fit of a chain of gated kernels to one energy, from N(0, I).

    Attributes:
        energy: ``"a"`` to ``"f"``.
        variant: ``"released"`` or ``"paper"``; see :func:`avo_lib.targets.energy`.
        objective: ``"elbo"`` or ``"avo"``.
        T: Number of kernels.
        hidden: Width of the kernels' hidden layers.
        batch: Number of trajectories in an update, for each seed.
        updates: Number of Adam steps.
        lr: Learning rate of Adam.
        seeds: Number of independent chains, trained side by side.
        ramp: Share of the updates in which beta rises; see :meth:`beta`. A fit is judged at beta = 1 all the same.

    Raises:
        ValueError: If there is no such energy, variant or objective, a count is below 1 (``updates`` may be 0, for an
            untrained fit), the rate is not positive, or the ramp is not a share below 1.
    """

    energy: str
    variant: str = "released"
    objective: str = "avo"
    T: int = 10
    hidden: int = 64
    batch: int = 64
    updates: int = 2000
    lr: float = 1e-3
    seeds: int = 10
    ramp: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        energy(self.energy, self.variant)
        if self.objective not in OBJECTIVES:
            raise ValueError(f"need an objective of {OBJECTIVES}, not {self.objective!r}")
        check_counts(self, "T", "hidden", "batch", "seeds")
        check_counts(self, "updates", least=0)
        check_positive(self, "lr")
        if not 0 <= self.ramp < 1:
            raise ValueError(f"ramp is a share of the updates, at least 0 and below 1, not {self.ramp}")

    def beta(self) -> BetaSchedule:
        """The weight of the kernels' log ratios: 1, or rising linearly from 0.01 (appendix D of the paper).

        >>> schedule = ToyConfig("d", updates=2000, ramp=0.8).beta()
        >>> [round(schedule(update), 3) for update in (0, 800, 1600, 1999)]
        [0.01, 0.505, 1.0, 1.0]
        """
        rise = self.ramp * self.updates
        return WarmUp(FIRST_BETA, (1 - FIRST_BETA) / rise) if rise else Constant()

    def chain(self, kernels: Sequence[Any], points: int) -> Chain:
        """The chain of given kernels, with ``points`` trajectories for each seed: draws are (seeds, points, 2)."""
        path = GeometricPath(log_normal, energy(self.energy, self.variant).log_density, linear_alphas(self.T))
        return Chain(_base(self.seeds, points), kernels, path)


def _base(seeds: int, points: int) -> Gaussian:
    return Gaussian(torch.zeros(seeds, points, 2), torch.ones(seeds, points, 2))


def _kernels(config: ToyConfig, seed: int = 0) -> nn.ModuleList:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.ModuleList(GatedKernel(2, config.hidden, batch=(config.seeds,)) for _ in range(config.T))


def train(config: ToyConfig, *, seed: int = 0) -> Chain:
    """Train all seeds of a fit as one batched run, from the authors' released initialisation.

    Both objectives see the same initial weights and the same noise, so their fits are compared in pairs.

    Args:
        config: What to fit and how.
        seed: Seed of the initial weights and of the noise of all ``config.seeds`` chains.

    Returns:
        The trained chain, with a proposal of shape ``(seeds, batch, 2)``.

    Raises:
        FloatingPointError: If the objective is not finite.
    """
    kernels = _kernels(config, seed)
    chain = config.chain(list(kernels), config.batch)
    generator, beta = torch.Generator().manual_seed(seed), config.beta()
    optimiser = torch.optim.Adam(kernels.parameters(), config.lr, fused=True)
    for update in range(config.updates):
        trajectory = chain.sample(detach=config.objective == "avo", generator=generator)
        objective = avo if config.objective == "avo" else elbo
        # A sum over seeds: each gets the gradient that it would get alone.
        value = objective(trajectory, beta(update)).mean(-1).sum()
        if not math.isfinite(value.item()):
            raise FloatingPointError(f"the objective is {value.item()} at update {update} of {config}")
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
    return chain


def mode_masses(z: Tensor, variant: str = "released") -> Tensor:
    """The share of points within 2.5 standard deviations of each mode of energy d: left, right, top, bottom.

    Exact draws have 0.956 times the weights there, and the rest outside.

    Args:
        z: Points ``(..., points, 2)``.
        variant: Variant of energy d.

    Returns:
        Shares ``(..., 4)``.

    >>> mode_masses(torch.tensor([[-2.5, 0.0], [0.0, 2.0], [0.0, 0.0], [9.0, 9.0]])).tolist()
    [0.25, 0.0, 0.25, 0.0]
    """
    radius, variance = FOUR_MODES[variant]
    centres = radius * torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=z.dtype)
    near = (z[..., None, :] - centres).square().sum(-1) < 2.5**2 * variance
    return near.to(z.dtype).mean(-2)


def evaluate(
    config: ToyConfig, chain: Chain, *, points: int = 1000, samples: int = 100, seed: int = 0
) -> list[dict[str, Any]]:
    """Judge each seed of a trained chain: its ELBO, its marginal KL between two bounds, its mode masses.

    Args:
        config: Configuration of the chain.
        chain: Trained chain, from :func:`train`.
        points: Number of trajectories of each seed over which the KL is averaged, at least two, in blocks of 100; the
            rest takes ten times as many.
        samples: Number K of reverse trajectories for each point; see :func:`avo_lib.evaluation.marginal_bounds`.
        seed: Seed of the noise.

    Returns:
        For each seed ``elbo``, ``kl_lower``, ``kl_upper``, their middle ``kl`` and the ``stderr`` of a bound, in nats;
        of the points z_T their ``std`` along each axis and their shares in twelve ``sectors`` around the origin,
        counted anticlockwise from the left; for energy d also ``mode_masses``.

    Raises:
        ValueError: If there are fewer than two points, or no samples.
    """
    check_count("points", points, least=2)
    generator, log_z = torch.Generator().manual_seed(seed), energy(config.energy, config.variant).log_z
    with torch.no_grad():
        many = replace(chain, proposal=_base(config.seeds, 10 * points)).sample(generator=generator)
        sizes = [min(100, points - done) for done in range(0, points, 100)]
        blocks = [replace(chain, proposal=_base(config.seeds, size)) for size in sizes]
        draws = [block.sample(generator=generator) for block in blocks]
        bounds = [
            marginal_bounds(block, draw, samples, generator=generator)
            for block, draw in zip(blocks, draws, strict=True)
        ]
    upper, lower = (log_z - torch.cat(part, -1).double() for part in zip(*bounds, strict=True))
    rows = {
        "elbo": many.log_w().double().mean(-1),
        "kl_lower": lower.mean(-1),
        "kl_upper": upper.mean(-1),
        "kl": (lower + upper).mean(-1) / 2,
        "stderr": upper.std(-1) / upper.shape[-1] ** 0.5,
    }
    z = many.z[-1].double()
    sector = ((torch.atan2(z[..., 1], z[..., 0]) / math.pi + 1) * SECTORS / 2).long().clamp(max=SECTORS - 1)
    rows |= {"std": z.std(-2), "sectors": nn.functional.one_hot(sector, SECTORS).double().mean(-2)}
    if config.energy == "d":
        rows["mode_masses"] = mode_masses(z, config.variant)
    return [dict(zip(rows, row, strict=True)) for row in zip(*(part.tolist() for part in rows.values()), strict=True)]


CONFIGS = tuple(
    ToyConfig(name, variant, objective)
    for name in ENERGIES
    for variant in (("released", "paper") if name in "bd" else ("released",))
    for objective in OBJECTIVES
)


def toy_file(config: ToyConfig, folder: Path | str = RESULTS) -> Path:
    """The file of a fit's result, three folders deep, apart from the results of models."""
    ramp = f"-ramp{config.ramp:g}" if config.ramp else ""
    return Path(folder) / "toys" / "energies" / f"{config.energy}-{config.variant}-{config.objective}{ramp}.json"


def run(config: ToyConfig, folder: Path | str = RESULTS) -> dict[str, Any]:
    """Train and judge one fit, and write its result and the weights of its first seed; a finished one is read.

    Raises:
        ValueError: If the file there is damaged or belongs to another configuration.
        FloatingPointError: If the objective, a weight or a number in the result is not finite.
    """
    return once(toy_file(config, folder), asdict(config), lambda: _fitted(config), {"seeds.*.kl": float})


def _fitted(config: ToyConfig) -> tuple[dict[str, Any], dict[str, Tensor]]:
    started = time.monotonic()
    chain = train(config)
    seconds = round(time.monotonic() - started, 1)
    modules = nn.ModuleList(kernel for kernel in chain.kernels if isinstance(kernel, nn.Module))
    first = {name: value[:1].clone() for name, value in modules.state_dict().items()}
    return {"versions": versions(), "seconds": seconds, "seeds": evaluate(config, chain)}, first


def load_chain(config: ToyConfig, points: int, folder: Path | str = RESULTS) -> Chain:
    """The published chain of a fit's first seed, with ``points`` trajectories: draws are ``(1, points, 2)``.

    Raises:
        FileNotFoundError: If these weights are not there; the message says which command makes them.
        ValueError: If they are damaged.
    """
    one = replace(config, seeds=1)
    kernels = _kernels(one)
    file = toy_file(config, folder).with_suffix(".safetensors")
    load_weights(kernels, file, f"energies --ramps {config.ramp:g}")
    return one.chain(list(kernels.requires_grad_(False)), points)
