"""Many runs of the campaign on one GPU, side by side, each training step one replay of a CUDA graph.

A step of these small models is some hundreds of kernels of a few microseconds, and starting them one by one costs more
than they do. Captured once, a step is started as a whole, and the steps of other runs go on beside it. On one H100 six
runs of the paper's protocol took 80 seconds, where a core takes 17 minutes for one. ::

    .venv/bin/python tools/on_gpu.py paper vae vae_noise15 --seeds 3 4 5 --minutes 8

trains, evaluates and writes what ``python -m avo_lib sweep`` would. The noise differs, for a GPU has streams of its own
and the coins of AVO are tossed beforehand. When the minutes are over, runs that are not finished are kept, and the same
command goes on with them; a run that is stopped in another way loses less than half a minute and an epoch.
"""

from __future__ import annotations

import argparse
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from avo_lib.checkpoint import Checkpoint, Progress
from avo_lib.controls import RestingEncoder
from avo_lib.data import Dataset, binarise, digest
from avo_lib.evaluation import average_bound
from avo_lib.experiments.campaign import RUNS, is_finished, judged
from avo_lib.experiments.protocols import Experiment, find
from avo_lib.experiments.records import plain, publish
from avo_lib.experiments.results import RESULTS, result_file
from avo_lib.files import ensure_writable
from avo_lib.objectives import AVO, ELBO, Objective
from avo_lib.training import TrainConfig

WARM_UP = 3  # steps before a capture, which cuBLAS and the allocator need
CHECKPOINT_SECONDS = 30.0  # between checkpoints, which are taken at the end of an epoch


def kinds(objective: Objective) -> tuple[float, tuple[Objective, ...]]:
    """How often a step is of the second kind, and the kinds: within a graph no coin can be tossed."""
    if isinstance(objective, AVO | RestingEncoder) and 0 < objective.share < 1:
        return objective.share, (ELBO(), replace(objective, share=1.0))
    return 0.0, (objective,)


class Run:
    """One run, which advances step by step on a stream of its own; without a GPU it takes the same steps one by one."""

    def __init__(self, setup: Experiment, seed: int, data: Dataset, folder: Path, device: str) -> None:
        self.data, self.seed, self.setup = data, seed, setup
        self.config: TrainConfig = setup.train
        self.place, self.graphed = torch.device(device), device == "cuda"
        self.batches, rest = divmod(len(data.train), self.config.batch_size)
        if rest or self.config.patience is not None:
            raise ValueError("a graph needs batches of one size, and a run of known length")
        self.steps = self.batches * self.config.epochs
        self.model: Any = setup.build(seed).to(self.place)
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=self.config.lr, fused=True, capturable=self.graphed
        )
        share, self.objectives = kinds(self.config.objective)
        tossed = torch.rand(self.steps, generator=torch.Generator().manual_seed(seed))
        self.kind = tossed.lt(share).long().tolist()
        self.betas = torch.tensor([float(self.config.beta(i)) for i in range(self.steps)], device=self.place)
        self.generator, self.run = torch.Generator(self.place).manual_seed(seed), Progress()
        what = {"seed": seed, "data": digest(data.train, data.valid), "coins": "beforehand"}
        self.checkpoint = Checkpoint(
            folder, self.model, self.optimiser, self.generator, self.run, (self.config, self.model.config), **what
        )
        self.checkpoint.restore()
        if self.graphed:  # where the graph reads it, whatever the checkpoint brought
            for group in self.optimiser.param_groups:
                group["lr"] = torch.tensor(self.config.lr, device=self.place)
        self.at = torch.tensor([self.run.step], device=self.place)
        self.order = torch.arange(len(data.train), device=self.place).view(self.batches, -1)
        self.total = torch.zeros((), dtype=torch.double, device=self.place)
        self.stream = torch.cuda.Stream() if self.graphed else None
        self.graphs = self._capture() if self.graphed else []

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.run.epoch == self.config.epochs

    def _capture(self) -> list[torch.cuda.CUDAGraph]:
        """The graph of each kind of step; a finished run, stopped in its evaluation, has no beta for one more."""
        return [] if self.finished else [self._captured(one) for one in self.objectives]

    def _step(self, objective: Objective) -> None:
        x = self.data.train.index_select(0, self.order.index_select(0, self.at % self.batches)[0])
        if self.data.dynamic:
            x = binarise(x, generator=self.generator)
        beta = self.betas.index_select(0, self.at)[0]
        value = objective(self.model, x, beta=beta, generator=self.generator).mean()  # type: ignore[arg-type]
        self.optimiser.zero_grad()
        (-value).backward()
        self.optimiser.step()
        self.total += value.detach() * len(x)
        self.at += 1

    def _state(self) -> list[torch.Tensor]:
        optimiser = [value for state in self.optimiser.state.values() for value in state.values()]
        return [*self.model.state_dict().values(), *optimiser, self.at, self.total]

    def _captured(self, objective: Objective) -> torch.cuda.CUDAGraph:
        """One step as a graph; model, optimiser and noise are left as they were."""
        if not self.optimiser.state:  # Adam begins with zeros
            for parameter in self.model.parameters():
                self.optimiser.state[parameter] = {
                    "step": torch.zeros((), device=self.place),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        noise, before = self.generator.get_state(), [value.clone() for value in self._state()]
        self.model.train()
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                self._step(objective)
        torch.cuda.synchronize()
        self.optimiser.zero_grad()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, stream=self.stream):
            self._step(objective)
        self.optimiser.zero_grad()  # the next graph allocates its own
        with torch.no_grad():
            for value, kept in zip(self._state(), before, strict=True):
                value.copy_(kept)
        self.generator.set_state(noise)
        torch.cuda.synchronize()
        return graph

    def advance(self) -> bool:
        """One step, and at the end of an epoch the validation; False once the run is finished."""
        if self.finished:
            return False
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            if self.run.batch == 0:
                self._begin_epoch()
            kind = self.kind[self.run.step]
            if self.graphed:
                self.graphs[kind].replay()
            else:
                self._step(self.objectives[kind])
            self.run.batch, self.run.step = self.run.batch + 1, self.run.step + 1
            if self.run.batch == self.batches:
                self._finish_epoch()
        return True

    def save(self) -> None:
        """Keep it as it is at the end of an epoch: what it has of one is in no checkpoint."""
        if self.stream:
            self.stream.synchronize()
        self.checkpoint.save()

    def _begin_epoch(self) -> None:
        self.model.train()
        order = torch.randperm(len(self.data.train), generator=self.generator, device=self.place)
        self.order.copy_(order.view_as(self.order))
        lr = self.config.lr * (self.config.lr_drop if self.run.epoch >= 0.8 * self.config.epochs else 1.0)
        for group in self.optimiser.param_groups:
            if self.graphed:
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _finish_epoch(self) -> None:
        self.model.eval()
        noise, valid = torch.Generator(self.place).manual_seed(self.seed), self.data.valid
        bound, _ = average_bound(self.model, valid, rows=len(valid), generator=noise)
        run, train = self.run, self.total.item() / len(self.data.train)
        if not math.isfinite(bound.value + train):
            raise FloatingPointError(f"a run of seed {self.seed} is not finite in epoch {run.epoch + 1}")
        self.total.zero_()
        run.epoch, run.batch = run.epoch + 1, 0
        beta = float(self.config.beta(run.step))
        run.curve.append({"epoch": run.epoch, "beta": beta, "train": train, "valid": bound.value})
        if bound.value > run.best_bound:
            run.best_bound, run.best_epoch = bound.value, run.epoch
            run.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def train(runs: list[Run], seconds: float = math.inf) -> dict[Run, FloatingPointError]:
    """Advance all runs in turn until each is finished, or stands at the end of an epoch after so many seconds.

    Returns:
        Those that diverged, and how; the others have not waited for them.
    """
    started, going = time.monotonic(), list(runs)
    before, saved = {run: run.run.seconds for run in runs}, dict.fromkeys(runs, started)
    diverged = {}
    while going:
        late = time.monotonic() - started > seconds
        for run in list(going):
            try:
                goes_on = not (late and run.run.batch == 0) and run.advance()
            except FloatingPointError as error:
                diverged[run] = error
                going.remove(run)
                continue
            now = time.monotonic()
            run.run.seconds = before[run] + now - started
            if not goes_on:
                going.remove(run)
            if run.run.batch == 0 and (not goes_on or now - saved[run] >= CHECKPOINT_SECONDS):
                run.save()
                saved[run] = now
    return diverged


def main() -> None:
    """Train what is missing, then evaluate and publish what is finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop training then; the next call goes on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=RUNS)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data: dict[tuple[Any, ...], Dataset] = {}
    runs = {}
    for method, seed in dict.fromkeys(product(options.methods, options.seeds)):
        setup = find(options.experiment, method)
        if is_finished(options.experiment, method, seed, options.results, setup):
            continue
        key = (setup.dataset, setup.binarisation, setup.images)
        if key not in data:
            one = setup.data()
            data[key] = Dataset(one.train.to(device), one.valid.to(device), one.held_out().to(device), one.dynamic)
        folder = options.runs / "on_gpu" / options.experiment / f"{method}-seed{seed}"
        for place in (folder, result_file(options.experiment, method, seed, options.results).parent):
            ensure_writable(place)
        runs[method, seed] = Run(setup, seed, data[key], folder, device)
    diverged = train([*runs.values()], options.minutes * 60)
    for (method, seed), run in runs.items():
        if not run.finished:
            end = f"diverged, {diverged[run]}" if run in diverged else f"{run.run.epoch} of {run.config.epochs} epochs"
            print(f"{method} {seed}: {end}")
            continue
        run.model.load_state_dict(run.run.best_weights)
        run.model.eval()
        names = {"experiment": options.experiment, "method": method, "seed": seed}
        names["config"] = plain(run.setup.described())
        found = names | judged(run.setup, run.model, run.data, run.run)
        publish(result_file(options.experiment, method, seed, options.results), found, run.model.state_dict())
        print(f"{method} {seed}: validation bound {found['valid']['elbo']:.2f} nats", flush=True)
    if diverged:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
