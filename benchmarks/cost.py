"""What a training step of each method costs under each protocol; the book's chapters read the result.

    python benchmarks/cost.py
    python benchmarks/cost.py flows
    python benchmarks/cost.py pathwise
    python benchmarks/cost.py stronger
    python benchmarks/cost.py readings

One thread, process CPU time, medians of steps in which the methods take turns; writes results/cost.json, or for some
methods and what they are compared with results/cost_flows.json and so on. Absolute times belong to the machine, the
ratios less so.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from avo_lib.data import binarise
from avo_lib.experiments.protocols import Experiment, find
from avo_lib.experiments.results import RESULTS
from avo_lib.files import write_atomically
from avo_lib.objectives import AVO

METHODS = ("vae", "iwae", "householder", "hvi", "avo")
GROUPS = {
    "flows": ("report", ("vae", "householder", "iaf", "avo_iaf", "hvi", "avo")),
    "pathwise": ("report", ("vae", "iwae", "dreg")),
    "stronger": ("stronger", ("vae_normal", "vae", "hvi", "avo")),
    "readings": (
        "paper",
        ("vae", "hvi", "avo", "avo_proposal", "avo_joint", "avo_proposal_features", "avo_everything"),
    ),
}
ROUNDS, WARM_UP = 60, 5


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


def milliseconds(protocol: str, methods: Sequence[str] = METHODS) -> dict[str, float]:
    """An AVO step costs more than an ELBO step of the same model, which is HVI's; ``avo`` is the former."""
    steps = {method: training_step(find(protocol, method)) for method in methods}
    times: dict[str, list[float]] = {method: [] for method in methods}
    for i in range(ROUNDS + WARM_UP):
        for method, step in steps.items():
            start = time.process_time()
            step()
            if i >= WARM_UP:
                times[method].append(time.process_time() - start)
    return {method: round(1e3 * statistics.median(values), 2) for method, values in times.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if group := "".join(sys.argv[1:]):
        protocol, methods = GROUPS[group]
        file, found = f"cost_{group}.json", {protocol: milliseconds(protocol, methods)}
    else:
        file, found = "cost.json", {protocol: milliseconds(protocol) for protocol in ("report", "paper")}
    write_atomically(RESULTS / file, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(found, indent=1))
