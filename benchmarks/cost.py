"""What a training step of each method costs under each protocol; the book's chapters read the result.

    python benchmarks/cost.py

One thread, process CPU time, medians of steps in which the methods of a protocol take turns; writes results/cost.json
in about two minutes. Absolute times belong to the machine, the ratios less so.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from avo_lib.data import binarise
from avo_lib.experiments.protocols import Experiment, find
from avo_lib.experiments.results import RESULTS
from avo_lib.files import write_atomically
from avo_lib.objectives import AVO

METHODS = {
    "report": ("vae", "iwae", "dreg", "householder", "iaf", "avo_iaf", "hvi", "avo"),
    "paper": (
        *("vae", "iwae", "householder", "hvi", "avo"),
        *("avo_proposal", "avo_joint", "avo_proposal_features", "avo_everything"),
    ),
    "stronger": ("vae_normal", "vae", "hvi", "avo"),
}
ROUNDS, WARM_UP = 200, 5


def training_step(setup: Experiment) -> Callable[[], object]:
    model, config = setup.build(seed=0), setup.train
    objective = config.objective
    if isinstance(objective, AVO):
        objective = replace(objective, share=1.0)  # the annealed step itself
    optimiser = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    x = binarise(torch.rand(config.batch_size, setup.model.pixels))

    def step() -> None:
        optimiser.zero_grad()
        (-objective(model, x).mean()).backward()
        optimiser.step()

    return step


def milliseconds(protocol: str) -> dict[str, float]:
    """An AVO step costs more than an ELBO step of the same model, which is HVI's; ``avo`` is the former."""
    steps = {method: training_step(find(protocol, method)) for method in METHODS[protocol]}
    times: dict[str, list[float]] = {method: [] for method in steps}
    for i in range(ROUNDS + WARM_UP):
        for method, step in steps.items():
            start = time.process_time()
            step()
            if i >= WARM_UP:
                times[method].append(time.process_time() - start)
    return {method: round(1e3 * statistics.median(values), 2) for method, values in times.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {protocol: milliseconds(protocol) for protocol in METHODS}
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(RESULTS / "cost.json", text.encode())
    print(text)
