"""The commands of the command line: one function for each, whose docstring is its help."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch
import tyro

from avo_lib.experiments import campaign
from avo_lib.experiments.inference import gaps_file, inference_gaps
from avo_lib.experiments.protocols import EXPERIMENTS, find
from avo_lib.experiments.referee import RefereeConfig, referee_file
from avo_lib.experiments.referee import referee as judge
from avo_lib.experiments.results import RESULTS, load_results, table
from avo_lib.gaps import GapConfig


class _Verdict(RefereeConfig):
    def __post_init__(self) -> None:
        """Leave refusing to the command: the parser would put its own names into the message."""


class _Gaps(GapConfig):
    def __post_init__(self) -> None:
        """As above."""


def run(
    experiment: str,
    method: str,
    seed: int = 0,
    results: Path = RESULTS,
    runs: Path = campaign.RUNS,
    device: str | None = None,
    threads: int = 1,
) -> None:
    """Train and evaluate one method; the same command resumes an interrupted run, and reads a finished one.

    Args:
        experiment: Name of the protocol; see ``list``.
        method: Method within the protocol.
        seed: Seed of the initial weights, the order and the noise.
        results: Folder for the result and the weights.
        runs: Folder for checkpoints.
        device: Torch device; by default a GPU if there is one.
        threads: Number of torch threads; more than one helps only on an idle machine with large batches.
    """
    prepare(threads, device)
    result = campaign.run(experiment, method, seed, results=results, runs=runs, device=device)
    _print_results([result])


def sweep(
    experiment: str,
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    jobs: int = -1,
    scheduler: str | None = None,
    results: Path = RESULTS,
    runs: Path = campaign.RUNS,
    device: str | None = None,
) -> None:
    """Run methods × seeds in parallel; finished runs are skipped.

    Args:
        experiment: Name of the protocol; see ``list``.
        methods: Methods within the protocol; all if none are named.
        seeds: Seeds of the runs of each method.
        jobs: Number of processes at a time; -1 for one per core.
        scheduler: Address of a dask scheduler to run on (the ``cluster`` extra).
        results: Folder for results.
        runs: Folder for checkpoints.
        device: Torch device of every run; by default a GPU if there is one.
    """
    prepare(torch.get_num_threads(), device)
    folders = {"results": results, "runs": runs}
    campaign.sweep(experiment, methods, seeds, jobs=jobs, scheduler=scheduler, device=device, **folders)
    show(results)


def evaluate(
    experiment: str,
    method: str,
    seed: int = 0,
    samples: int = 1000,
    results: Path = RESULTS,
    device: str | None = None,
    threads: int = 1,
) -> None:
    """Estimate the test log-likelihood of published weights anew.

    Args:
        experiment: Name of the protocol; see ``list``.
        method: Method within the protocol.
        seed: Seed of the trained model.
        samples: Number of importance samples for each image.
        results: Folder of the weights.
        device: Torch device; by default a GPU if there is one.
        threads: Number of torch threads.
    """
    prepare(threads, device)
    model = campaign.load_model(experiment, method, seed, results=results).to(campaign.place_of(device))
    found = campaign.log_likelihood_of_test(model, find(experiment, method).data(), samples)
    print(f"test NLL: {found.nll} nats")
    print(f"by number of samples: { {k: round(value, 2) for k, value in found.nll_by_samples.items()} }")
    print(f"ESS/K: {found.ess.mean().item() / samples:.3f}")


def referee(
    experiment: str,
    methods: tuple[str, ...] = (),
    seed: int = 0,
    config: tyro.conf.OmitArgPrefixes[_Verdict] = _Verdict(),  # noqa: B008
    results: Path = RESULTS,
    device: str | None = None,
    threads: int = 1,
) -> None:
    """Judge published weights by AIS, on test images and on simulated ones; finished verdicts are read.

    Args:
        experiment: Name of the protocol; see ``list``.
        methods: Methods within the protocol; all if none are named.
        seed: Seed of the trained models.
        config: How to judge.
        results: Folder of the weights; verdicts go to ``referee`` in it.
        device: Torch device; by default a GPU if there is one.
        threads: Number of torch threads.
    """
    prepare(threads, device)
    settings, asked = RefereeConfig(**vars(config)), _known(experiment, methods)
    for method in asked:
        if not referee_file(experiment, method, seed, results).is_file():
            campaign.load_model(experiment, method, seed, results=results)
    for method in asked:
        verdict = judge(experiment, method, seed, settings, results=results, device=device)
        test = verdict["test"]
        print(
            f"{experiment} {method}: test NLL by IS {test['is']['value']:.2f}, by AIS {test['ais']['value']:.2f} nats",
            flush=True,
        )


def gaps(
    experiment: str,
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    images: int = 1000,
    simulated: int = 200,
    config: tyro.conf.OmitArgPrefixes[_Gaps] = _Gaps(),  # noqa: B008
    results: Path = RESULTS,
    device: str | None = None,
    threads: int = 1,
) -> None:
    """Separate decoder and inference of published weights, on training and test images; finished measurements are read.

    Args:
        experiment: Name of the protocol; see ``list``.
        methods: Methods within the protocol; all if none are named.
        seeds: Seeds of the trained models.
        images: Number of images from each set.
        simulated: Number of images drawn from the model, to check AIS from both sides.
        config: How to measure.
        results: Folder of the weights; what is found goes to ``gaps`` in it.
        device: Torch device; by default a GPU if there is one.
        threads: Number of torch threads.
    """
    prepare(threads, device)
    settings, sizes = GapConfig(**vars(config)), {"images": images, "simulated": simulated}
    asked = list(product(_known(experiment, methods), seeds))
    files = [gaps_file(experiment, method, seed, results) for method, seed in asked]
    for (method, seed), file in zip(asked, files, strict=True):
        if not file.is_file():  # missing weights would be told after hours of work, as an impossible seed would
            campaign.load_model(experiment, method, seed, results=results)
    for method, seed in asked:
        found = inference_gaps(experiment, method, seed, settings, **sizes, results=results, device=device)
        for part in ("train", "test"):
            log_p, lost = (found[part][name]["value"] for name in ("log_p", "inference"))
            print(f"{experiment} {method} {seed} {part}: log p {log_p:.2f}, of which inference loses {lost:.2f} nats")


def show(results: Path = RESULTS) -> None:
    """Print a table of finished results, in nats.

    Args:
        results: Folder of the results.

    Raises:
        ValueError: If the folder has none; the message says how to make one.
    """
    found = load_results(results)
    if not found:
        raise ValueError(
            f"no results in {results}; make one with: python -m avo_lib run --experiment report --method vae"
        )
    _print_results(found)


def list_experiments() -> None:
    """List experiments and their methods."""
    for name, methods in EXPERIMENTS.items():
        print(f"{name}: {', '.join(methods)}")


def prepare(threads: int, device: str | None = None) -> None:
    """Set the number of threads, and try the device.

    Raises:
        ValueError: If the number of threads is impossible, or there is no such device.
    """
    try:
        torch.set_num_threads(threads)
        torch.ones((), device=device).item()  # the device "meta" computes nothing
    except (RuntimeError, AssertionError) as error:  # torch's errors for an impossible number or device
        raise ValueError(f"cannot compute on {device or 'this machine'} with threads = {threads}: {error}") from error


def _known(experiment: str, methods: tuple[str, ...]) -> tuple[str, ...]:
    """All methods if none are named; a ValueError if one does not exist, before the first is judged for an hour."""
    methods = methods or tuple(EXPERIMENTS.get(experiment, ("",)))
    for method in methods:
        find(experiment, method)
    return methods


def _print_results(results: list[dict[str, object]]) -> None:
    print(table(results).to_string(index=False, float_format="{:.2f}".format))
