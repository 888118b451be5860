"""The commands of the command line for toys: one function for each, whose docstring is its help."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

from avo_lib.experiments import benchmark as bench
from avo_lib.experiments import biased_noise
from avo_lib.experiments import dynamics as moves
from avo_lib.experiments import eight_modes as eight
from avo_lib.experiments import energies as fits
from avo_lib.experiments.commands import prepare
from avo_lib.experiments.eight_modes import EightConfig
from avo_lib.experiments.results import RESULTS


def energies(
    ramps: tuple[float, ...] = (0.0,),
    variants: tuple[Literal["released", "paper"], ...] = ("released", "paper"),
    updates: int = 2000,
    seeds: int = 10,
    results: Path = RESULTS,
    threads: int = 1,
) -> None:
    """Fit the six energies with both objectives and print the divergences in nats; finished fits are skipped.

    Args:
        ramps: Shares of the updates in which beta rises from 0.01 to 1; 0 is beta = 1 throughout.
        variants: Variants of energies b and d; the others have only the released one.
        updates: Number of Adam steps in each fit.
        seeds: Number of chains trained side by side in each fit.
        results: Folder of the results; they go to ``toys/energies`` in it.
        threads: Number of torch threads.
    """
    prepare(threads)
    chosen = [config for config in fits.CONFIGS if config.variant in variants]
    # A list, so that a number which is refused is refused before the first fit.
    for config in [replace(config, updates=updates, seeds=seeds, ramp=ramp) for ramp, config in product(ramps, chosen)]:
        rows = fits.run(config, results)["seeds"]
        kl = sum(row["kl"] for row in rows) / len(rows)
        print(f"{config.energy} {config.variant:8} {config.objective:4} ramp {config.ramp:g} KL {kl:.3f}", flush=True)


def ring(updates: int | None = None, seeds: int = 8, results: Path = RESULTS, threads: int = 1) -> None:
    """Learn the noise of the ring in five ways and print the models' divergences in nats; finished fits are skipped.

    Args:
        updates: Number of Adam steps in each fit; by default 5,000, twice as many for AVO at half the learning rate.
        seeds: Number of copies at each noise level, trained side by side.
        results: Folder of the results; they go to ``toys/ring`` in it.
        threads: Number of torch threads.
    """
    prepare(threads)
    for config in biased_noise.CONFIGS:
        config = replace(config, updates=config.updates if updates is None else updates, seeds=seeds)
        rows = biased_noise.run(config, results)["copies"]
        for std in config.stds:
            kl = [row["model_kl"] for row in rows if row["std"] == std]
            print(f"{config.method:5} lr {config.lr:<5g} std {std:<4} KL {sum(kl) / len(kl):.3f}", flush=True)


def modes(
    updates: int = EightConfig.updates, seeds: int = EightConfig.seeds, results: Path = RESULTS, threads: int = 1
) -> None:
    """Bring a Gaussian to eight modes with AVO and along learned paths, and print log Z; finished fits are skipped.

    Args:
        updates: Number of Adam steps in each fit.
        seeds: Number of chains trained side by side in each fit.
        results: Folder of the results; they go to ``toys/eight_modes`` in it.
        threads: Number of torch threads.
    """
    prepare(threads)
    for config in eight.CONFIGS:
        rows = eight.run(replace(config, updates=updates, seeds=seeds), results)["copies"]
        log_z = sum(row["log_z"] for row in rows) / len(rows)
        print(f"{config.name:20} log Z {log_z:.3f} of {eight.LOG_Z:.3f}", flush=True)


def dynamics(
    targets: tuple[Literal["ring", "many-well", "funnel"], ...] = ("ring", "many-well", "funnel"),
    updates: int = 600,
    results: Path = RESULTS,
    threads: int = 1,
) -> None:
    """Move along a path in six ways and print what their bounds miss, in nats; finished fits are skipped.

    Args:
        targets: Landmarks to reach.
        updates: Number of Adam steps in each fit.
        results: Folder of the results; they go to ``toys/dynamics`` in it.
        threads: Number of torch threads.
    """
    prepare(threads)
    for config in moves.CONFIGS:
        if config.target in targets:
            rows = moves.run(replace(config, updates=updates), results)["seeds"]
            gap = sum(row["gap"] for row in rows) / len(rows)
            print(f"{config.target:9} {config.method:4} T {config.T:<3} gap {gap:.2f}", flush=True)


def benchmark(
    targets: tuple[str, ...] = tuple(bench.TARGETS),
    methods: tuple[str, ...] = bench.METHODS,
    budget: int = bench.BenchmarkConfig.budget,
    seeds: int = bench.BenchmarkConfig.seeds,
    results: Path = RESULTS,
    threads: int = 1,
) -> None:
    """Estimate log Z of five targets by thirteen methods and print their errors, in nats; finished ones are skipped.

    Several calls, each with methods of its own, share the work.

    Args:
        targets: Names of the targets.
        methods: Names of the methods, in quotation marks where they have a space or a star.
        budget: Number of gradients of the target for each seed, in training and estimate together.
        seeds: Number of independent runs.
        results: Folder of the results; they go to ``toys/benchmark`` in it.
        threads: Number of torch threads.
    """
    prepare(threads)
    pairs = list(product(methods, targets))  # a list, so that a name which is refused is refused before the first
    for config in [bench.BenchmarkConfig(target, method, budget=budget, seeds=seeds) for method, target in pairs]:
        rows = bench.run(config, results)["seeds"]
        errors = " ".join(f"{row['error']:.2f}" for row in rows)
        print(f"{config.target:10} {config.method:13} errors of log Z {errors}", flush=True)
