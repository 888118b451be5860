"""The gaps of a trained model on training and on test images: how much of its overfitting is the decoder's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avo_lib import estimate
from avo_lib.checks import check_count
from avo_lib.data import binarise
from avo_lib.experiments.campaign import EVALUATION_SEED, load_model, place_of
from avo_lib.experiments.protocols import find
from avo_lib.experiments.records import once
from avo_lib.experiments.results import RESULTS, result_file, versions
from avo_lib.gaps import GapConfig, Gaps, measure_bracket, measure_gaps
from avo_lib.models.vae import VAE

PILOT_IMAGES = 20
DECIMALS = 4  # of what is kept of each image, far below its noise


def gaps_file(experiment: str, method: str, seed: int, folder: Path | str = RESULTS) -> Path:
    """The file of a run's gaps, three folders deep, apart from the results."""
    return result_file(experiment, method, seed, Path(folder) / "gaps")


def inference_gaps(
    experiment: str,
    method: str,
    seed: int = 0,
    config: GapConfig | None = None,
    *,
    images: int = 1000,
    simulated: int = 200,
    results: Path | str = RESULTS,
    device: str | None = None,
) -> dict[str, Any]:
    """Measure the gaps of published weights on the first images of two sets; a finished measurement is read.

    Args:
        experiment: Name of the protocol.
        method: Method within the protocol.
        seed: Seed of the trained model.
        config: How to measure.
        images: Number of training images, and as many test images.
        simulated: Number of images drawn from the model, on which AIS is checked from both sides.
        results: Folder of the weights and of what is found.
        device: Torch device; by default a GPU if there is one.

    Returns:
        The dictionary as written. Under ``train`` and ``test`` the means of ``bound``, ``local`` and ``log_p`` (see
        :class:`avo_lib.gaps.Gaps`), of the ``approximation`` and ``amortisation`` gap and of their sum ``inference``,
        each with its ``stderr`` over images; under ``bracket`` what AIS misses at most on simulated images; under
        ``each`` the three numbers of every image, to compare models in pairs. In nats.

    Raises:
        FileNotFoundError: If the weights are not there.
        ValueError: If there is no such experiment or method, the images asked for are fewer than two or more than there
            are, or the file there is damaged or belongs to other settings.
    """
    setup, config = find(experiment, method), config or GapConfig()
    images, simulated = check_count("images", images, 2), check_count("simulated", simulated, 2)

    def make() -> tuple[dict[str, Any], dict[str, Tensor]]:
        place = place_of(device)
        model = load_model(experiment, method, seed, results=results).requires_grad_(False).to(place)
        data, generator = setup.data(), torch.Generator(place).manual_seed(EVALUATION_SEED)
        if images > (there := min(len(data.train), len(data.held_out()))):
            raise ValueError(f"{experiment} has {there} images in a set, not {images}: ask for no more images")
        pilot = data.valid[:PILOT_IMAGES].to(place)
        found: dict[str, Any] = {"versions": versions() | {"device": place.type}}
        each: dict[str, dict[str, list[float]]] = {}
        for name, part in (("train", data.train), ("test", data.held_out())):
            x = part[:images].to(place)
            if data.dynamic and name == "train":
                x = binarise(x, generator=generator)
            gaps = measure_gaps(model, x, pilot, config, generator=generator)
            found[name] = _rows(gaps)
            each[name] = {key: value.round(decimals=DECIMALS).tolist() for key, value in vars(gaps).items()}
        return found | {"bracket": _bracket(model, simulated, pilot, config, generator), "each": each}, {}

    settings = asdict(config) | {"images": images, "simulated": simulated}
    kinds = {"train.inference.value": float, "test.inference.value": float, "bracket.value": float}
    return once(gaps_file(experiment, method, seed, results), settings, make, kinds)


def _rows(gaps: Gaps) -> dict[str, Any]:
    every = {"bound": gaps.bound, "local": gaps.local, "log_p": gaps.log_p}
    every |= {"approximation": gaps.log_p - gaps.local, "amortisation": gaps.local - gaps.bound}
    return {name: _row(value) for name, value in (every | {"inference": gaps.log_p - gaps.bound}).items()}


def _bracket(model: VAE, n: int, pilot: Tensor, config: GapConfig, generator: torch.Generator) -> dict[str, float]:
    with torch.no_grad():
        x, z = model.simulate(n, generator=generator)
    return _row(measure_bracket(model, x, z, pilot, config, generator=generator))


def _row(values: Tensor) -> dict[str, float]:
    found = estimate.mean(values, "exact")
    return {"value": found.value, "stderr": found.stderr}
