"""What a learned drift buys: six ways to move along a path, on landmarks, at equal numbers of gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avo_lib.chain import Chain, Gaussian
from avo_lib.checks import check_counts, check_positive
from avo_lib.counting import Counted
from avo_lib.experiments.ascent import maximise, shorten_by_seed
from avo_lib.experiments.records import load_weights, once
from avo_lib.experiments.results import RESULTS, versions
from avo_lib.kernels import Controlled, Drift, GatedKernel, Langevin, LearnedReverse, Underdamped, tune_step_sizes
from avo_lib.landmarks import LANDMARKS, regions
from avo_lib.momentum import add_momentum, with_momentum
from avo_lib.numerics import log_mean_exp
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import Target

METHODS = ("mala", "hvi", "ula", "uha", "mcd", "cmcd")
STEPS = (4, 8, 16, 32)
LONG = 144  # kernels of the AIS that spends on sampling about what training and judging CMCD with 32 kernels takes
BASE_STD = {"ring": 5.0, "funnel": 1.0, "many-well": 1.0}
FIRST_STEP = {"ring": 0.3, "funnel": 0.05, "many-well": 0.03}
CLIP = 100.0  # length to which drifts are shortened; without it chains diverge on the funnel and between quartic walls
PILOT_CHAINS, ADAPTATIONS = 100, 10
SAMPLES = 1000  # weights in one estimate of log Z
DRAWN = 8  # kernels of the fits that chapters draw: the weights of these are kept


@dataclass(frozen=True)
class DynamicsConfig:
    """One way to move from N(0, s² I) to a landmark along the geometric path with equal steps, judged with all seeds.

    Attributes:
        target: One of :data:`avo_lib.landmarks.LANDMARKS`.
        method: ``"mala"``, annealed importance sampling with one leapfrog step and a test, tuned in a pilot run;
            ``"hvi"``, gated kernels that see no gradient; or ``"ula"``, ``"uha"``, ``"mcd"``, ``"cmcd"``.
        T: Number of kernels.
        hidden: Width of the networks.
        batch: Number of trajectories in an update, for each seed.
        updates: Number of Adam steps on E log w, at a rate that falls to zero along a cosine.
        lr: Initial learning rate of Adam.
        seeds: Number of independent chains, trained side by side.

    Raises:
        ValueError: If there is no such target or method, a count is below 1, or the rate is not positive.
    """

    target: str
    method: str
    T: int
    hidden: int = 64
    batch: int = 32
    updates: int = 600
    lr: float = 1e-2
    seeds: int = 5

    def __post_init__(self) -> None:
        """Refuse what does not exist."""
        if self.target not in LANDMARKS or self.method not in METHODS:
            raise ValueError(
                f"need a target of {', '.join(LANDMARKS)} and a method of {', '.join(METHODS)}, not {self.target!r} "
                f"and {self.method!r}"
            )
        check_counts(self, "T", "hidden", "batch", "updates", "seeds")
        check_positive(self, "lr")

    def landmark(self) -> Target:
        """The target."""
        return LANDMARKS[self.target]()

    def base(self, points: int) -> Gaussian:
        """The proposal, with ``points`` draws for each seed."""
        shape = self.seeds, points, self.landmark().dim
        return Gaussian(torch.zeros(shape), torch.full(shape, BASE_STD[self.target]))

    def chain(
        self, kernels: nn.ModuleList, points: int, log_density: Callable[[Tensor], Tensor] | None = None
    ) -> Chain:
        """The chain of given kernels: its draws are (seeds, points, dim), or twice dim with a momentum."""
        base = self.base(points)
        path = GeometricPath(base.log_prob, log_density or self.landmark().log_density, linear_alphas(self.T))
        chain = Chain(base, list(kernels), path)  # type: ignore[arg-type]
        return with_momentum(chain) if self.method == "uha" else chain


def build(config: DynamicsConfig, *, seed: int = 0) -> nn.ModuleList:
    """Kernels for all seeds, at first Langevin or half as wide as a base; a ValueError for MALA, where none learn."""
    if config.method == "mala":
        raise ValueError("mala has no kernels that learn: evaluate(config, None) tunes its steps, and runs it")
    dim, step, batch = config.landmark().dim, FIRST_STEP[config.target], (config.seeds,)
    options: dict[str, Any] = {"clip": CLIP, "batch": batch}
    times = linear_alphas(config.T).tolist()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        drift = Drift(dim, config.hidden, batch=batch)
        make: dict[str, Callable[[int], nn.Module]] = {
            "hvi": lambda t: GatedKernel(dim, config.hidden, std_init=BASE_STD[config.target] / 2, batch=batch),
            "ula": lambda t: Langevin(step, **options),
            "uha": lambda t: Underdamped(math.sqrt(2 * step), 0.8, **options),
            "mcd": lambda t: LearnedReverse(step, drift, (times[t], times[t + 1]), **options),
            "cmcd": lambda t: Controlled(step, drift, (times[t], times[t + 1]), **options),
        }
        return nn.ModuleList(make[config.method](t) for t in range(config.T))


def train(config: DynamicsConfig, *, seed: int = 0) -> nn.ModuleList:
    """Maximise E log w of all seeds as one batched run; methods see the same noise as far as they draw alike.

    Raises:
        FloatingPointError: If the objective is not finite.
        ValueError: If the method is ``"mala"``.
    """
    kernels, generator = build(config, seed=seed), torch.Generator().manual_seed(seed)
    chain, parameters = config.chain(kernels, config.batch), list(kernels.parameters())
    maximise(
        lambda: chain.sample(generator=generator).log_w().mean(-1).sum(),
        parameters,
        config.updates,
        config.lr,
        lambda: shorten_by_seed(parameters),
    )
    return kernels.requires_grad_(False)


def evaluate(
    config: DynamicsConfig, kernels: nn.ModuleList | None, *, rounds: int = 4, seed: int = 1
) -> dict[str, Any]:
    """Judge all seeds, with ``rounds`` times :data:`SAMPLES` trajectories each; without kernels, tune and run MALA.

    Returns:
        The ``gradients`` of the target that a trajectory takes, and under ``seeds`` a row for each seed. In nats,
        ``gap`` is log Z minus the mean of log w; ``error`` the mean of estimates from SAMPLES weights minus log Z,
        below 0 on average; ``upper`` the mean of log w on the way back from exact draws minus log Z, above 0 on
        average. ``astray`` is the total variation between the shares of z_T in eight regions and the exact ones.
    """
    generator, landmark = torch.Generator().manual_seed(seed), config.landmark()
    counted, dim = Counted(landmark.log_density), landmark.dim
    if kernels is None:
        singles = [replace(config, seeds=1) for _ in range(config.seeds)]
        chains = [one.chain(_tuned(one, generator), SAMPLES, counted) for one in singles]
    else:
        chains = [config.chain(kernels, SAMPLES, counted)]
    counted.gradients = 0
    rows: dict[str, list[Tensor]] = {"gap": [], "error": [], "upper": [], "astray": []}
    for chain in chains:
        log_w, ends = [], []
        with torch.no_grad():
            for _ in range(rounds):
                drawn = chain.sample(generator=generator)
                log_w.append(drawn.log_w().double())
                ends.append(drawn.z[-1][..., :dim])
            forward = counted.gradients
            exact = landmark.sample(len(log_w[0]) * SAMPLES, generator=generator).reshape(-1, SAMPLES, dim)
            exact = add_momentum(exact, generator=generator) if config.method == "uha" else exact
            upper = chain.sample_reverse(exact, generator=generator).log_w().double()
        counted.gradients = forward
        weights = torch.stack(log_w)  # (rounds, seeds, SAMPLES)
        rows["gap"].append(landmark.log_z - weights.mean((0, 2)))
        rows["error"].append(log_mean_exp(weights, -1).mean(0) - landmark.log_z)
        rows["upper"].append(upper.mean(-1) - landmark.log_z)
        where, shares = regions(config.target, torch.cat(ends, -2))
        found = nn.functional.one_hot(where, 8).double().mean(-2)
        rows["astray"].append(0.5 * (found - shares).abs().sum(-1))
    columns = {name: torch.cat(parts).tolist() for name, parts in rows.items()}
    return {
        "gradients": counted.gradients / (rounds * SAMPLES * config.seeds),
        "seeds": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }


def _tuned(config: DynamicsConfig, generator: torch.Generator) -> Any:
    path = config.chain(nn.ModuleList([nn.Identity()] * config.T), 1).path
    return tune_step_sizes(
        path,
        lambda: config.base(PILOT_CHAINS).sample((), generator=generator)[0],
        leapfrog_steps=1,
        step_size=math.sqrt(2 * FIRST_STEP[config.target]),
        acceptance=0.6,
        adaptations=ADAPTATIONS,
        generator=generator,
    )


CONFIGS = tuple(
    DynamicsConfig(target, method, T)
    for target in LANDMARKS
    for T in (*STEPS, LONG)
    for method in (METHODS if T in STEPS else ("mala",))
)


def training_gradients(config: DynamicsConfig) -> int:
    """Gradients of the target that training or tuning takes for one seed, on the way forwards."""
    if config.method == "mala":
        return 2 * config.T * PILOT_CHAINS * ADAPTATIONS
    return 0 if config.method == "hvi" else 2 * config.T * config.batch * config.updates


def dynamics_file(config: DynamicsConfig, folder: Path | str = RESULTS) -> Path:
    """The file of a fit's result, three folders deep, apart from the results of models."""
    return Path(folder) / "toys" / "dynamics" / f"{config.target}-{config.method}-T{config.T}.json"


def run(config: DynamicsConfig, folder: Path | str = RESULTS) -> dict[str, Any]:
    """Train and judge one fit, and write its result; a finished one is read.

    Raises:
        ValueError: If the file there is damaged or belongs to another configuration.
        FloatingPointError: If the objective, a weight or a number in the result is not finite.
    """
    kinds = {"gradients": float, "seeds.*.gap": float, "seeds.*.astray": float}
    return once(dynamics_file(config, folder), asdict(config), lambda: _fitted(config), kinds)


def _fitted(config: DynamicsConfig) -> tuple[dict[str, Any], dict[str, Tensor]]:
    started = time.monotonic()
    kernels = None if config.method == "mala" else train(config)
    seconds = round(time.monotonic() - started, 1)
    kept = kernels.state_dict() if kernels is not None and (config.target, config.T) == ("ring", DRAWN) else {}
    first = {name: value[:1].clone() for name, value in kept.items()}
    found = evaluate(config, kernels)
    return {"versions": versions(), "seconds": seconds, "training_gradients": training_gradients(config)} | found, first


def load_dynamics(config: DynamicsConfig, points: int, folder: Path | str = RESULTS) -> Chain:
    """The published chain of a fit's first seed, with ``points`` trajectories: draws are ``(1, points, dim)``.

    Raises:
        FileNotFoundError: If these weights are not there; the message says which command makes them.
        ValueError: If they are damaged, or none are kept for such a fit.
    """
    if (config.target, config.T) != ("ring", DRAWN):
        raise ValueError(f"weights are kept of the ring with T = {DRAWN}, not of {config.target} with T = {config.T}")
    one = replace(config, seeds=1)
    kernels = build(one)
    load_weights(kernels, dynamics_file(config, folder).with_suffix(".safetensors"), "dynamics")
    return one.chain(kernels.requires_grad_(False), points)
