"""What a training step costs: ``results/cost.json``, in milliseconds of one core, by ``benchmarks/cost.py``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from avo_lib.controls import NoisyEncoder, RestingEncoder
from avo_lib.experiments.protocols import Experiment, find
from avo_lib.experiments.results import RESULTS
from avo_lib.models.vae import VAEConfig
from avo_lib.objectives import AVO, ELBO, Objective


def mean_step(experiment: str, method: str, folder: Path | str = RESULTS) -> float:
    """The mean cost of a method's training steps, in steps of a VAE with N(0, I) and otherwise the same settings.

    AVO takes its annealed steps in their share. What does not decide the cost of a step may differ from what was
    measured: images, epochs, beta, the start of the kernels. Noise and rests of an encoder are taken to cost nothing.

    >>> mean_step("report", "vae_cyclical")
    1.0

    Raises:
        ValueError: If there is no such method, or no step like its was measured.
    """
    setup = find(experiment, method)
    measured: dict[str, dict[str, float]] = json.loads((Path(folder) / "cost.json").read_bytes())

    def milliseconds(model: VAEConfig, objective: Objective) -> float:
        wanted = _decisive(replace(setup, model=model, train=replace(setup.train, objective=objective)))
        for protocol, methods in measured.items():
            for name, value in methods.items():
                if _decisive(find(protocol, name)) == wanted:
                    return value
        raise ValueError(f"no step like those of {method!r} in {experiment} was measured: see benchmarks/cost.py")

    objective = setup.train.objective
    own = milliseconds(setup.model, objective)
    if isinstance(objective, AVO):
        own = objective.share * own + (1 - objective.share) * milliseconds(setup.model, ELBO())
    return own / milliseconds(replace(setup.model, T=0, kernel=VAEConfig.kernel, pseudo_inputs=0), ELBO())


def _decisive(setup: Experiment) -> tuple[VAEConfig, int, Objective]:
    """What decides the cost of a step; of AVO an annealed one."""
    objective: Objective = setup.train.objective
    if isinstance(objective, AVO):
        objective = replace(objective, share=1.0)
    elif isinstance(objective, NoisyEncoder | RestingEncoder):
        objective = ELBO()
    return replace(setup.model, std_init=VAEConfig.std_init), setup.train.batch_size, objective
