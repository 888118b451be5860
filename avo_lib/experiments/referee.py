"""A second opinion on a trained VAE: AIS, BDMC on simulated images, the units and kernels in use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avo_lib import estimate
from avo_lib.chain import Chain, Gaussian
from avo_lib.checks import check_counts
from avo_lib.collapse import active_units
from avo_lib.data import Dataset
from avo_lib.estimate import Estimate
from avo_lib.evaluation import ais, log_likelihood, reverse_ais
from avo_lib.experiments.campaign import EVALUATION_SEED, load_model, place_of
from avo_lib.experiments.protocols import find
from avo_lib.experiments.records import once
from avo_lib.experiments.results import RESULTS, result_file, versions
from avo_lib.kernels import HMC, tune_step_sizes
from avo_lib.models.vae import VAE
from avo_lib.numerics import log_mean_exp
from avo_lib.paths import GeometricPath, sigmoidal_alphas

BLOCK = 25  # images at a time
PILOT_IMAGES, PILOT_CHAINS, ADAPTATIONS = 20, 2, 3
ACTIVITY_DRAWS = 256
ACTIVITY_IMAGES = 500  # at a time; memory only


@dataclass(frozen=True)
class RefereeConfig:
    """How to judge.

    Attributes:
        images: Number of test images.
        simulated: Number of images drawn from the model.
        chains: Number of AIS chains for each image.
        T: Number of stations of the path, on a sigmoidal schedule.
        leapfrog_steps: Number of leapfrog steps of each Hamiltonian kernel.
        samples: Number K of samples of the importance sampling beside AIS, with the noise of the published result.

    Raises:
        ValueError: If a number is below two, or there is no leapfrog step.
    """

    images: int = 500
    simulated: int = 200
    chains: int = 16
    T: int = 100
    leapfrog_steps: int = 5
    samples: int = 1000

    def __post_init__(self) -> None:
        """Refuse what cannot be judged."""
        check_counts(self, "images", "simulated", "chains", "T", "samples", least=2)
        check_counts(self, "leapfrog_steps")


def encoder_chain(model: VAE, x: Tensor, kernels: list[HMC]) -> Chain:
    """The path from the encoder's Gaussian q_0(z|x) to p(z) p(x|z), a chain for each image ``(images, pixels)``.

    It starts near its end, so it needs fewer stations than the path from the prior (Wu et al. 2017, arXiv 1611.04273).
    If a model's kernels carry the latents far from q_0, it does not: the bracket on simulated images tells, and
    :func:`avo_lib.gaps.measure_gaps` starts where the chain ends.
    """
    own = model.chain(x)
    path = GeometricPath(own.proposal.log_prob, own.target(len(own.kernels)), sigmoidal_alphas(len(kernels)))
    return Chain(own.proposal, kernels, path)


def referee_file(experiment: str, method: str, seed: int, folder: Path | str = RESULTS) -> Path:
    """The file of a verdict, three folders deep, apart from the results that it judges."""
    return result_file(experiment, method, seed, Path(folder) / "referee")


def referee(
    experiment: str,
    method: str,
    seed: int = 0,
    config: RefereeConfig | None = None,
    *,
    results: Path | str = RESULTS,
    device: str | None = None,
) -> dict[str, Any]:
    """Judge published weights on test images and on images that the model itself has drawn; a finished verdict is read.

    On test images AIS and importance sampling are both lower bounds of log p(x) in expectation, so the higher is the
    better. On simulated images reverse chains from the true z bound it from above: what AIS and importance sampling
    miss is then known (BDMC, Grosse et al. 2015, arXiv 1511.02543).

    Args:
        experiment: Name of the protocol.
        method: Method within the protocol.
        seed: Seed of the trained model.
        config: How to judge.
        results: Folder of the weights and of the verdict.
        device: Torch device; by default a GPU if there is one.

    Returns:
        The dictionary as written. Under ``test`` the mean NLL by ``is`` and by ``ais``, ``excess`` of AIS's log p over
        that of importance sampling, and ``log_p`` of each image by AIS, to compare models in pairs. Under ``simulated``
        the ``gap`` between reverse and forward AIS, and by how much importance sampling lies ``below`` forward AIS. All
        in nats, each mean with its ``stderr`` over images. Then ``active_units``, and for each kernel of a chain
        ``moved``, the root mean square of its step in standard deviations of q_0.

    Raises:
        FileNotFoundError: If the weights are not there.
        ValueError: If there is no such experiment or method, there are fewer test images, or the file there is damaged
            or holds a verdict of another configuration.
    """
    find(experiment, method)  # no folder is made for an unknown name
    config = config or RefereeConfig()
    kinds = {"test.is.value": float, "test.ais.value": float}
    file = referee_file(experiment, method, seed, results)
    place = place_of(device)

    def make() -> tuple[dict[str, Any], dict[str, Tensor]]:
        model = load_model(experiment, method, seed, results=results).requires_grad_(False).to(place)
        return _judged(model, experiment, find(experiment, method).data(), config, place), {}

    return once(file, asdict(config), make, kinds)


def _judged(model: VAE, experiment: str, data: Dataset, config: RefereeConfig, place: torch.device) -> dict[str, Any]:
    generator = torch.Generator(place).manual_seed(EVALUATION_SEED)
    if config.images > (there := len(data.held_out())):
        raise ValueError(f"{experiment} has {there} test images, not {config.images}: ask for no more images")
    pilot = encoder_chain(model, data.valid[:PILOT_IMAGES].to(place), [HMC(0.1)] * config.T)
    kernels = tune_step_sizes(
        pilot.path,
        lambda: pilot.proposal.sample((PILOT_CHAINS,), generator=generator)[0],
        leapfrog_steps=config.leapfrog_steps,
        adaptations=ADAPTATIONS,
        generator=generator,
    )
    x = data.held_out()[: config.images].to(place)
    simulated, z = model.simulate(config.simulated, generator=generator)
    by_is, by_ais = _both(model, x, kernels, config, generator)
    drawn_is, drawn_ais = _both(model, simulated, kernels, config, generator)
    above = _reverse(model, simulated, z, kernels, config, generator)
    return {
        "versions": versions() | {"device": place.type},
        "test": {
            "is": _row(estimate.mean(-by_is, "upper")),
            "ais": _row(estimate.mean(-by_ais, "upper")),
            "excess": _row(estimate.mean(by_ais - by_is, "exact")),
            "log_p": [round(value, 3) for value in by_ais.tolist()],
        },
        "simulated": {
            "gap": _row(estimate.mean(above - drawn_ais, "exact")),
            "below": _row(estimate.mean(drawn_ais - drawn_is, "exact")),
        },
        "step_size": [round(kernel.step_size, 4) for kernel in (kernels[0], kernels[-1])],
    } | _activity(model, x)


def _both(
    model: VAE, x: Tensor, kernels: list[HMC], config: RefereeConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Log p(x) of each image by importance sampling, with the noise of the published result, and by AIS."""
    published = torch.Generator().manual_seed(EVALUATION_SEED)
    sampled = log_likelihood(model, x, config.samples, generator=published).log_p
    annealed = [
        ais(encoder_chain(model, part, kernels), config.chains, generator=generator).log_w for part in x.split(BLOCK)
    ]
    return sampled, log_mean_exp(torch.cat(annealed, 1)).double().cpu()


def _reverse(
    model: VAE, x: Tensor, z: Tensor, kernels: list[HMC], config: RefereeConfig, generator: torch.Generator
) -> Tensor:
    """Log p(x) of each image from above, from the z that it was drawn with."""
    blocks = zip(x.split(BLOCK), z.split(BLOCK), strict=True)
    log_w = [
        reverse_ais(encoder_chain(model, part, kernels), start.expand(config.chains, -1, -1), generator=generator)[1]
        for part, start in blocks
    ]
    return -log_mean_exp(-torch.cat(log_w, 1)).double().cpu()


def _activity(model: VAE, x: Tensor) -> dict[str, Any]:
    """Activity, from enough draws: an idle unit's noise, about 2 / (draws √images), stays far below the threshold."""
    generator, half = torch.Generator(x.device).manual_seed(EVALUATION_SEED), ACTIVITY_DRAWS // 2
    means, moves = [], []
    with torch.no_grad():
        for part in x.split(ACTIVITY_IMAGES):
            chain = model.chain(part)
            assert isinstance(chain.proposal, Gaussian)
            zs = chain.sample((ACTIVITY_DRAWS,), generator=generator).z
            means.append(torch.stack([zs[-1][:half].mean(0), zs[-1][half:].mean(0)]))
            moves.append([((b - a) / chain.proposal.std).square().mean((0, 2)) for a, b in pairwise(zs)])
    moved = [torch.cat(step).mean().sqrt().item() for step in zip(*moves, strict=True)]
    return {"active_units": int(active_units(*torch.cat(means, 1)).sum()), "moved": moved}


def _row(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "stderr": found.stderr}
