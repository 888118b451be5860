"""Eight modes in a circle, the task of Zimmermann et al. 2021 (arXiv 2106.11302): AVO, and learned paths."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from avo_lib.chain import Chain, Gaussian
from avo_lib.checks import check_count, check_counts, check_positive
from avo_lib.experiments.records import load_weights, once
from avo_lib.experiments.results import RESULTS, versions
from avo_lib.nested import LearnedPath, Stand, nested
from avo_lib.numerics import Noise, log_mean_exp, log_normal, standard_normal
from avo_lib.paths import GeometricPath, LogDensity, linear_alphas
from avo_lib.smc import smc
from avo_lib.targets import GaussianMixture

MODES = 8
LOG_Z = math.log(MODES)
RADIUS, STD, START = 10.0, math.sqrt(0.5), 5.0
ANGLES = tuple(2 * math.pi * k / MODES for k in range(MODES))
CENTRES = tuple((RADIUS * math.sin(angle), RADIUS * math.cos(angle)) for angle in ANGLES)
MIXTURE = GaussianMixture((1 / MODES,) * MODES, CENTRES, STD)


def log_target(z: Tensor) -> Tensor:
    """The sum of eight Gaussians, ``(..., 2)`` to ``(...)``, with log Z = log 8."""
    return MIXTURE.log_density(z) + LOG_Z


@dataclass(frozen=True)
class EightConfig:
    """One way to bring N(0, 25 I) to eight modes at distance 10 with variance 0.5, in independent copies.

    Attributes:
        T: Number of kernels.
        particles: How particles stand for a target; see :func:`avo_lib.nested.nested`. ``"equal"`` is AVO.
        learned: Whether the path learns; it starts from the linear one.
        budget: Number of points in an update, z_0 and all others: budget // (T + 1) trajectories, as in the paper.
        hidden: Width of every hidden layer.
        updates: Number of Adam steps; the paper takes twice as many.
        lr: Learning rate of Adam.
        seeds: Number of copies, trained side by side.

    Raises:
        ValueError: If there are no such particles, a count is too small, or the rate is not positive.
    """

    T: int
    particles: Stand = "equal"
    learned: bool = False
    budget: int = 288
    hidden: int = 50
    updates: int = 10_000
    lr: float = 1e-3
    seeds: int = 5

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.particles not in get_args(Stand):
            raise ValueError(f"need particles of {get_args(Stand)}, not {self.particles!r}")
        check_counts(self, "T", "hidden", "updates", "seeds")
        check_counts(self, "budget", least=2 * (self.T + 1))  # for two trajectories
        check_positive(self, "lr")

    @property
    def samples(self) -> int:
        """Number of trajectories in an update."""
        return self.budget // (self.T + 1)

    @property
    def name(self) -> str:
        """Name of the result's file; the paper counts K = T + 1 targets."""
        return f"{self.particles}{'-learned' if self.learned else ''}-T{self.T}"


WAYS: tuple[tuple[Stand, bool], ...] = (("equal", False), ("weighted", False), ("weighted", True), ("resampled", True))
CONFIGS = (EightConfig(1), *(EightConfig(T, *way) for way in WAYS for T in (3, 5, 7)))  # with one kernel all agree


class _Layer(nn.Module):
    """Independent copies of a linear layer, on axis 0: ``(copies, points, in)`` to ``(copies, points, out)``."""

    def __init__(self, copies: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(copies, in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies, 1, out_dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class _Step(nn.Module):
    """Mean z + m(z) and standard deviation of a Gaussian step; at the start a standard normal step."""

    def __init__(self, copies: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.heads = _Layer(copies, 2, hidden), _Layer(copies, hidden, 4)
        with torch.no_grad():
            self.heads.weight.zero_()
            self.heads.bias.zero_()[..., 2:] = math.log(math.expm1(1.0))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.flatten(0, -3).transpose(0, 1)  # one product for each copy
        move, raw = self.heads(self.hidden(flat).relu()).transpose(0, 1).reshape(*z.shape[:-1], 4).chunk(2, -1)
        return z + move, functional.softplus(raw).sqrt()


class ResidualKernel(nn.Module):
    """The paper's Gaussian kernels, forwards and backwards: a residual mean, and a covariance that is a softplus.

    Args:
        copies: Number of independent copies, on the last axis but one of the points.
        hidden: Width of the single hidden layer.

    >>> z, log_ratio = ResidualKernel(3, 8).forward(torch.zeros(7, 3, 2), None, None)
    >>> z.shape, log_ratio.shape
    (torch.Size([7, 3, 2]), torch.Size([7, 3]))
    """

    def __init__(self, copies: int, hidden: int) -> None:
        super().__init__()
        self.q, self.r = _Step(copies, hidden), _Step(copies, hidden)

    def forward(
        self, z_prev: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`avo_lib.kernels.Kernel`."""
        mean, std = self.q(z_prev)
        z = mean + std * standard_normal(mean, generator)
        return z, log_normal(z_prev, *self.r(z)) - log_normal(z, mean, std)

    def reverse(
        self, z: Tensor, log_f: LogDensity | None, context: Tensor | None, *, generator: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`avo_lib.kernels.Kernel`."""
        mean, std = self.r(z)
        z_prev = mean + std * standard_normal(mean, generator)
        return z_prev, log_normal(z_prev, mean, std) - log_normal(z, *self.q(z_prev))


class Eight(nn.Module):
    """Copies of the kernels and, if the path learns, of the path."""

    def __init__(self, config: EightConfig) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(ResidualKernel(config.seeds, config.hidden) for _ in range(config.T))
        self.start = Gaussian(torch.zeros(config.seeds, 2), torch.full((2,), START))
        self.path = LearnedPath(self.start.log_prob, log_target, config.T, (config.seeds,)) if config.learned else None

    def chain(self) -> Chain:
        """The chain, whose draws are ``(K, seeds, 2)``."""
        path = self.path or GeometricPath(self.start.log_prob, log_target, linear_alphas(len(self.kernels)))
        return Chain(self.start, list(self.kernels), path)  # type: ignore[arg-type]


def _built(config: EightConfig, seed: int = 0) -> Eight:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Eight(config)


def train(config: EightConfig, *, seed: int = 0) -> Eight:
    """Train all copies as one batched run; all ways with one T see the same initial weights and the same noise.

    Raises:
        FloatingPointError: If the objective is not finite.
    """
    model, generator = _built(config, seed), torch.Generator().manual_seed(seed)
    chain, optimiser = model.chain(), torch.optim.Adam(model.parameters(), config.lr, fused=True)
    for update in range(config.updates):
        value = nested(chain, config.samples, config.particles, generator=generator).sum()
        if not math.isfinite(value.item()):
            raise FloatingPointError(f"the objective is {value.item()} at update {update} of {config}")
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
    return model


def evaluate(model: Eight, *, runs: int = 1000, samples: int = 100, seed: int = 1) -> list[dict[str, Any]]:
    """Judge each copy by ``runs`` estimates from ``samples`` particles each; a ValueError if ``runs`` is below 1.

    Returns:
        For each copy the mean ``elbo`` of a trajectory; the mean ``log_z`` of the estimates and the mean ``ess`` of the
        last weights as a share, without resampling and, with the suffix ``_resampled``, with resampling after every
        step; the shares of all trajectories nearest to each centre, ``masses``; and the ``alphas``.
    """
    generator, chain = torch.Generator().manual_seed(seed), model.chain()
    copies = len(model.start.mean)
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        alphas = chain.path.alphas.reshape(len(model.kernels) + 1, -1).expand(-1, copies)
        for done in range(0, check_count("runs", runs), 100):
            many = replace(chain, proposal=Gaussian(torch.zeros(min(100, runs - done), copies, 2), model.start.std))
            for suffix, threshold in (("", 0.0), ("_resampled", 1.0)):
                found = smc(many, samples, threshold=threshold, generator=generator)
                parts.setdefault(f"log_z{suffix}", []).append(log_mean_exp(found.log_w.double()))
                parts.setdefault(f"ess{suffix}", []).append(found.ess[-1] / samples)
                if not threshold:
                    parts.setdefault("elbo", []).append(found.log_w.double().mean(0))
                    nearest = (found.z[..., None, :] - torch.tensor(CENTRES)).square().sum(-1).argmin(-1)
                    parts.setdefault("masses", []).append(functional.one_hot(nearest, MODES).double().mean(0))
    columns = {name: torch.cat(part).mean(0) for name, part in parts.items()} | {"alphas": alphas.T}
    rows = zip(*(column.double().round(decimals=5).tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def run(config: EightConfig, folder: Path | str = RESULTS) -> dict[str, Any]:
    """Train and judge one way, and write its result and the weights of its first copy; a finished one is read.

    Raises:
        ValueError: If the file there is damaged or belongs to another configuration.
        FloatingPointError: If the objective, a weight or a number in the result is not finite.
    """
    return once(eight_file(config, folder), asdict(config), lambda: _fitted(config), {"copies.*.log_z": float})


def eight_file(config: EightConfig, folder: Path | str = RESULTS) -> Path:
    """The file of a fit's result, three folders deep, apart from the results of models."""
    return Path(folder) / "toys" / "eight_modes" / f"{config.name}.json"


def _fitted(config: EightConfig) -> tuple[dict[str, Any], dict[str, Tensor]]:
    started = time.monotonic()
    model = train(config)
    seconds = round(time.monotonic() - started, 1)
    state = model.state_dict()
    first = {name: value[:, :1] if name.startswith("path") else value[:1] for name, value in state.items()}
    return {"versions": versions(), "seconds": seconds, "copies": evaluate(model)}, first


def load_eight(config: EightConfig, folder: Path | str = RESULTS) -> Chain:
    """The published chain of a fit's first copy: draws are ``(K, 1, 2)``.

    Raises:
        FileNotFoundError: If these weights are not there; the message says which command makes them.
        ValueError: If they are damaged.
    """
    model = Eight(replace(config, seeds=1))
    load_weights(model, eight_file(config, folder).with_suffix(".safetensors"), "modes")
    return model.requires_grad_(False).chain()
