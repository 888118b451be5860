"""A small benchmark: thirteen methods on five targets with known log Z, at equal numbers of gradient evaluations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avo_lib.chain import Chain, Gaussian
from avo_lib.checks import check_counts, check_positive
from avo_lib.counting import Counted
from avo_lib.experiments import dynamics
from avo_lib.experiments.ascent import maximise
from avo_lib.experiments.contestants import LEARNED, PROPOSALS, Affine, Contestant, shorten_gradients
from avo_lib.experiments.records import once
from avo_lib.experiments.regressions import regression
from avo_lib.experiments.results import RESULTS, versions
from avo_lib.kernels import HMC, tune_step_sizes
from avo_lib.landmarks import LANDMARKS, regions
from avo_lib.momentum import add_momentum
from avo_lib.numerics import effective_sample_size, log_mean_exp
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.smc import smc
from avo_lib.targets import Target

TARGETS: dict[str, Callable[[], Target]] = LANDMARKS | {
    name: partial(regression, name) for name in ("ionosphere", "sonar")
}
METHODS = (*LEARNED, "AIS", "SMC")
BASE_STD = dynamics.BASE_STD | {"ionosphere": 1.0, "sonar": 1.0}
FITTED, FITTED_SHARE = ("ionosphere", "sonar"), 8  # their chains start from a mean-field fit: an eighth of the budget
FIRST_STEP = dynamics.FIRST_STEP | {"ionosphere": 0.002, "sonar": 0.002}
LEAPFROG, PILOT_CHAINS, ADAPTATIONS = 3, 50, 4  # settings of AIS and SMC


@dataclass(frozen=True)
class BenchmarkConfig:
    """One method on one target, judged by one estimate of log Z for each seed.

    Chains move along the geometric path with equal steps, those of NVI* and NVIR* along learned paths. They start on
    landmarks from N(0, s² I), with s given, and on regressions from a mean-field fit, for an eighth of the budget.

    Attributes:
        target: One of :data:`TARGETS`.
        method: One of :data:`METHODS`.
        budget: Number of points at which the target's gradient is taken for each seed, in training or tuning and in
            the estimate together. AIS and SMC spend it on kernels, the others on updates. Differentiating through a
            gradient is not counted again; one update and one estimate that only serve to count are.
        samples: Number of weights in the estimate.
        batch: Number of trajectories in an update, for each seed.
        lr: Initial learning rate of Adam.
        seeds: Number of independent runs.

    Raises:
        ValueError: If there is no such target or method, a number is not positive, samples is below 2, or a budget
            that pays for a mean-field fit too is below 8.
    """

    target: str
    method: str
    budget: int = 2**18
    samples: int = 1000
    batch: int = 64
    lr: float = 1e-2
    seeds: int = 5

    def __post_init__(self) -> None:
        """Refuse what does not exist."""
        if self.target not in TARGETS or self.method not in METHODS:
            raise ValueError(
                f"targets are {', '.join(TARGETS)} and methods {', '.join(METHODS)}, not {self.target!r} and "
                f"{self.method!r}"
            )
        share = FITTED_SHARE if self.target in FITTED and self.method not in PROPOSALS else 1
        check_counts(self, "budget", least=share)  # an eighth of which is a budget too
        check_counts(self, "batch", "seeds")
        check_counts(self, "samples", least=2)
        check_positive(self, "lr")


def measure(config: BenchmarkConfig, *, seed: int = 0) -> dict[str, Any]:
    """Train and judge all seeds of one method on one target.

    Returns:
        The ``gradients`` and ``values`` of the target that a seed took, counted point by point; the number of updates
        in its training; the seconds that all took; the versions; and under ``seeds`` a row for each, see :func:`judge`.
    """
    started, target = time.monotonic(), TARGETS[config.target]()
    counted = Counted(target.log_density)
    start = torch.zeros(config.seeds, 1, target.dim)
    base = Gaussian(start, torch.full_like(start, BASE_STD[config.target]))
    if config.target in FITTED and config.method not in PROPOSALS:
        base = _mean_field(
            replace(config, method="mean-field", budget=config.budget // FITTED_SHARE), base, counted, seed
        )
    play = _by_learning if config.method in LEARNED else _by_tuning
    updates, rows = play(config, target, base, counted, seed)
    cost = {"gradients": counted.gradients / config.seeds, "values": counted.values / config.seeds}
    seconds = round(time.monotonic() - started, 1)
    return {"versions": versions(), "seconds": seconds, "updates": updates, **cost, "seeds": rows}


def _mean_field(config: BenchmarkConfig, base: Gaussian, counted: Counted, seed: int) -> Gaussian:
    """The mean-field fit as the base of other methods, which pay for it."""
    kernel = _trained(config, base, counted, seed)[0].kernels[0]
    assert isinstance(kernel, Affine)
    return Gaussian(kernel.shift + 0 * base.mean, kernel.log_scale.exp() * base.std)


def _trained(config: BenchmarkConfig, base: Gaussian, counted: Counted, seed: int) -> tuple[Chain, int]:
    """A trained chain with ``samples`` draws per seed, and its number of updates, of which the first only counts."""
    contestant = Contestant(config.method, counted, base.mean.shape[-1], base, FIRST_STEP[config.target])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        kernels, path = contestant.kernels(), contestant.learned_path()
    generator, chain = torch.Generator().manual_seed(seed), contestant.chain(kernels, config.samples)
    value = contestant.objective(kernels, path, config.batch, generator)
    before = counted.gradients
    (-value()).backward()  # counts what an update takes
    an_update = counted.gradients - before
    with torch.no_grad():
        chain.sample(generator=generator)  # and what the estimate will take
    estimate = counted.gradients - before - an_update
    updates = (config.budget * config.seeds - before - 2 * estimate) // an_update
    if updates < 1:
        raise ValueError(f"a budget of {config.budget} gradients is not enough for one update and an estimate")
    parameters = [*kernels.parameters(), *(path.parameters() if path else ())]
    maximise(value, parameters, updates - 1, config.lr, partial(shorten_gradients, kernels))
    kernels.requires_grad_(False)
    return chain, updates


def run(config: BenchmarkConfig, folder: Path | str = RESULTS, *, seed: int = 0) -> dict[str, Any]:
    """Train and judge one method on one target, and write its result; a finished one is read.

    Raises:
        ValueError: If the file there is damaged or belongs to another configuration.
        FloatingPointError: If the objective or a number in the result is not finite.
    """
    kinds = {"gradients": float, "values": float, "seeds.*.error": float}
    settings = asdict(config) | ({"seed": seed} if seed else {})
    return once(benchmark_file(config, folder), settings, lambda: (measure(config, seed=seed), {}), kinds)


def benchmark_file(config: BenchmarkConfig, folder: Path | str = RESULTS) -> Path:
    """The file of a result, three folders deep, apart from the results of models."""
    method = config.method.replace(" ", "-").replace("*", "")
    return Path(folder) / "toys" / "benchmark" / f"{config.target}-{method}.json"


def _by_learning(
    config: BenchmarkConfig, target: Target, base: Gaussian, counted: Counted, seed: int
) -> tuple[int, list[dict[str, float]]]:
    chain, updates = _trained(config, base, counted, seed)
    generator, upper = torch.Generator().manual_seed(seed + 1), None
    with torch.no_grad():
        drawn = chain.sample(generator=generator)
        ends = drawn.z[-1][..., : target.dim]
        if target.sampler:  # the way back is a check that needs exact draws of the target, so nobody pays for it
            exact = target.sample(config.seeds * config.samples, generator=generator).reshape(ends.shape)
            exact = add_momentum(exact, generator=generator) if config.method == "UHA" else exact
            spent = counted.gradients, counted.values
            upper = chain.sample_reverse(exact, generator=generator).log_w()
            counted.gradients, counted.values = spent
    return updates, judge(config.target, target.log_z, drawn.log_w().double().T, ends.transpose(0, 1), upper)


def _by_tuning(
    config: BenchmarkConfig, target: Target, base: Gaussian, counted: Counted, seed: int
) -> tuple[int, list[dict[str, float]]]:
    """AIS and SMC, with as many Hamiltonian kernels as the budget allows after a pilot run has tuned them."""
    generator, rows = torch.Generator().manual_seed(seed + 1), []
    left = config.budget - counted.gradients / config.seeds
    T = int(left / ((config.samples + PILOT_CHAINS * ADAPTATIONS) * (LEAPFROG + 1)))
    if T < 1:
        raise ValueError(f"a budget of {config.budget} gradients is not enough for one kernel")
    threshold = 0.5 if config.method == "SMC" else 0.0
    for mean, std in zip(base.mean[:, 0], base.std[:, 0], strict=True):
        one = Gaussian(mean, std)
        path = GeometricPath(one.log_prob, counted, linear_alphas(T))
        kernels: list[HMC] = tune_step_sizes(
            path,
            lambda: one.sample((PILOT_CHAINS,), generator=generator)[0],  # noqa: B023
            leapfrog_steps=LEAPFROG,
            step_size=math.sqrt(2 * FIRST_STEP[config.target]),
            adaptations=ADAPTATIONS,
            generator=generator,
        )
        found = smc(Chain(one, kernels, path), config.samples, threshold=threshold, generator=generator)
        row = judge(config.target, target.log_z, found.log_w.double()[:, None], found.z[:, None], None)[0]
        rows.append({name: value for name, value in row.items() if not (threshold and name in ("gap", "ess"))})
    return 0, rows


def judge(name: str, log_z: float, log_w: Tensor, ends: Tensor, upper: Tensor | None) -> list[dict[str, float]]:
    """What the estimate of each seed says.

    Args:
        name: Name of the target.
        log_z: Log Z of the target, in nats.
        log_w: Log weights ``(samples, seeds)``.
        ends: Last points ``(samples, seeds, dim)``.
        upper: Log weights ``(seeds, samples)`` of the way back from exact draws, where there are any.

    Returns:
        A row for each seed. In nats, ``gap`` is log Z minus the mean of log w; ``error`` the log of the mean weight
        minus log Z, below 0 on average; ``upper`` the mean of log w on the way back minus log Z, above 0 on average.
        ``ess`` is the effective sample size as a share; neither it nor the gap means anything after resampling.
        ``astray``, for landmarks alone, is the total variation between the weighted shares of eight regions and the
        exact ones.
    """
    columns = {
        "gap": log_z - log_w.mean(0),
        "error": log_mean_exp(log_w) - log_z,
        "ess": effective_sample_size(log_w) / len(log_w),
    }
    if upper is not None:
        columns["upper"] = upper.double().mean(1) - log_z
    if name in LANDMARKS:
        where, shares = regions(name, ends)
        found = (nn.functional.one_hot(where, len(shares)) * log_w.softmax(0)[..., None]).sum(0)
        columns["astray"] = 0.5 * (found - shares).abs().sum(-1)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
