"""Run a named experiment, or sweep many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config

from avo_lib.checkpoint import Progress
from avo_lib.data import Dataset, binarise
from avo_lib.evaluation import LogLikelihood, average_bound, log_likelihood
from avo_lib.experiments.protocols import EXPERIMENTS, Experiment, Setup, find
from avo_lib.experiments.records import load_weights, plain, publish
from avo_lib.experiments.results import RESULTS, read_result, result_file, versions
from avo_lib.files import CLONE, ensure_writable
from avo_lib.models.vae import VAEConfig
from avo_lib.objectives import AVO, ELBO, IWAE
from avo_lib.training import TrainConfig, fit
from avo_lib.trial import check_judgeable

RUNS = (CLONE or Path()) / "runs"
EVALUATION_SEED = 0
BOUND_IMAGES = 10_000  # number of training images behind the training bound


def run(
    experiment: str,
    method: str,
    seed: int = 0,
    *,
    setup: Setup | None = None,
    results: Path | str = RESULTS,
    runs: Path | str = RUNS,
    device: str | None = None,
) -> dict[str, Any]:
    """Train, evaluate and write one result with its weights; a finished one is read, an interrupted one resumed.

    Args:
        experiment: Name of the protocol, e.g. ``"report"``.
        method: Method within the protocol, e.g. ``"avo"``.
        seed: Seed of the initial weights, the order and the noise.
        setup: Setup to run under these names, where the names are your own.
        results: Folder of the results.
        runs: Folder of the checkpoints.
        device: Torch device; by default a GPU if there is one.

    Returns:
        The result as written, whether its weights were kept or not.

    Raises:
        ValueError: If there is no such experiment or method, a setting is not finite, or a result there is damaged or
            has other settings.
        FloatingPointError: If the objective, a weight or a number in the result is not finite; nothing is published.
        OSError: If a folder cannot be written to, which is checked first.
    """
    setup = find(experiment, method) if setup is None else setup
    file, config = result_file(experiment, method, seed, results), plain(setup.described())
    if is_finished(experiment, method, seed, results, setup):
        return read_result(file)
    ensure_writable(file.parent)
    data, model = setup.data(), setup.build(seed)
    check_judgeable(model, data, setup.samples)  # after hours of training it would be too late
    folder = Path(runs) / experiment / f"{method}-seed{seed}"
    finished = fit(model, data, setup.train, seed=seed, folder=folder, device=device)
    names = {"experiment": experiment, "method": method, "seed": seed, "config": config}
    buffers = {name for name, _ in model.named_buffers()}
    return publish(file, names | judged(setup, model, data, finished), model.state_dict(), buffers)


def judged(setup: Setup, model: Any, data: Dataset, finished: Progress) -> dict[str, Any]:
    """What a result says of a trained model: how it was made, its curve, its bounds and its test likelihood."""
    where = next(model.parameters()).device.type
    result: dict[str, Any] = {
        "versions": versions() | {"device": where},
        "seconds": round(finished.seconds, 1),
        "epochs": finished.epoch,
        "best_epoch": finished.best_epoch,
        "curve": finished.curve,
        "train": _bound(model, data.train[:BOUND_IMAGES], data.dynamic),
        "valid": _bound(model, data.valid, False),
    }
    if setup.samples is not None:
        test = log_likelihood_of_test(model, data, setup.samples)
        result["test"] = _bound(model, data.held_out(), False) | {
            "nll": test.nll.value,
            "stderr": test.nll.stderr,
            "samples": setup.samples,
            "images": len(data.held_out()),
            "ess": test.ess.mean().item(),
            "nll_by_samples": {str(k): value for k, value in test.nll_by_samples.items()},
        }
    return result


def place_of(device: str | None) -> torch.device:
    """The device of that name; by default a GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def log_likelihood_of_test(model: Any, data: Dataset, samples: int) -> LogLikelihood:
    """The test log-likelihood with the noise that every result uses."""
    generator, place = torch.Generator().manual_seed(EVALUATION_SEED), next(model.parameters()).device
    rows = 1000 if place.type == "cpu" else 100_000  # what fits a cache, or what keeps a GPU busy
    return log_likelihood(model, data.held_out().to(place), samples, rows=rows, generator=generator)


def _bound(model: Any, images: torch.Tensor, dynamic: bool) -> dict[str, float]:
    where = next(model.parameters()).device
    generator = torch.Generator(where).manual_seed(EVALUATION_SEED)
    x = binarise(images.to(where), generator=generator) if dynamic else images.to(where)
    bound, kl = average_bound(model, x, generator=generator)
    return {"elbo": bound.value} | ({} if math.isnan(kl) else {"kl": kl})


def load_model(
    experiment: str, method: str, seed: int = 0, *, setup: Setup | None = None, results: Path | str = RESULTS
) -> Any:
    """A trained model from its published weights, in evaluation mode; ``setup`` as for :func:`run`.

    Raises:
        FileNotFoundError: If these weights are not there; the message says which command makes them.
        ValueError: If they are damaged or of another architecture.
    """
    file = result_file(experiment, method, seed, results).with_suffix(".safetensors")
    model = (find(experiment, method) if setup is None else setup).build(seed)
    load_weights(model, file, f"run --experiment {experiment} --method {method} --seed {seed}")
    return model.eval()


def sweep(
    experiment: str,
    methods: Sequence[str] | Mapping[str, Setup] = (),
    seeds: Sequence[int] = (0,),
    *,
    jobs: int = -1,
    scheduler: str | None = None,
    results: Path | str = RESULTS,
    runs: Path | str = RUNS,
    device: str | None = None,
) -> list[Path]:
    """Run methods × seeds, one process per core; results that exist are skipped.

    Args:
        experiment: Name of the protocol.
        methods: Methods within the protocol, all of them if none are named; or your own, as named setups.
        seeds: Seeds of the runs of each method.
        jobs: Number of processes at a time; -1 for one per core.
        scheduler: Address of a dask scheduler to run on instead (the ``cluster`` extra).
        results: Folder of the results.
        runs: Folder of the checkpoints.
        device: Torch device of every run; by default a GPU if there is one, which all processes then share.

    Returns:
        The files of all results asked for.

    Raises:
        ValueError: If there is no such experiment or method, a setting is not finite, or a result there is damaged or
            has other settings. It is raised before anything is trained.
        ImportError: If a scheduler is given and dask is not installed.
        FloatingPointError: If runs diverged, after all others have finished; the message names them.
    """
    if not isinstance(methods, Mapping):
        methods = {name: find(experiment, name) for name in methods or EXPERIMENTS.get(experiment, ("",))}
    wanted = [(method, seed) for seed in dict.fromkeys(seeds) for method in methods]  # once each: two would share files
    missing = [one for one in wanted if not is_finished(experiment, *one, results, methods[one[0]])]
    backend: dict[str, Any] = {"backend": "loky", "n_jobs": jobs, "inner_max_num_threads": 1}
    if scheduler is not None:
        try:
            from dask.distributed import Client
        except ImportError as error:
            raise ImportError("a scheduler needs dask: pip install '.[cluster]'") from error
        Client(scheduler)  # registers itself as joblib's dask backend
        backend = {"backend": "dask"}
    dtype = torch.get_default_dtype()  # a new process starts with torch's own
    with parallel_config(**backend):
        ends = Parallel()(
            delayed(_attempt)(
                run, dtype, experiment, *one, setup=methods[one[0]], results=results, runs=runs, device=device
            )
            for one in missing
        )
    if diverged := [f"{method} seed {seed}: {end}" for (method, seed), end in zip(missing, ends, strict=True) if end]:
        raise FloatingPointError("; ".join(diverged))
    return [result_file(experiment, *one, results) for one in wanted]


def is_finished(experiment: str, method: str, seed: int, results: Path | str, setup: Setup) -> bool:
    """Whether there is a result of this run, with these settings.

    Raises:
        ValueError: If there is one with other settings.
    """
    file, config = result_file(experiment, method, seed, results), plain(setup.described())
    if not file.is_file():
        return False
    result = read_result(file)
    found, judged_with = result["config"], result.get("test", {}).get("samples")
    if isinstance(setup, Experiment):  # an option added later had its default, which changes nothing
        defaults = Experiment(VAEConfig(), TrainConfig(epochs=1), setup.binarisation).described()
        found.setdefault("dataset", defaults["dataset"])
        with suppress(KeyError, TypeError, ValueError):  # settings of another kind differ
            found["train"] = _with_objective(found["train"])
            for part in ("model", "train"):
                found[part] = defaults[part] | found[part]
    if found != config or judged_with != setup.samples:
        raise ValueError(
            f"{file} has other settings than {experiment} {method} has now. Use another folder, or delete it"
        )
    return True


def _with_objective(train: dict[str, Any]) -> dict[str, Any]:
    """The training settings with the objective as a value; in older results it was four options."""
    if "objective" in train:
        return train
    options = {"samples": 1, "avo_share": 0.0, "attach_features": False, "attach_decoder": False}
    old = options | train
    also = tuple(part for part in ("decoder", "features") if old[f"attach_{part}"])
    objective: Any = ELBO()
    if old["samples"] > 1:
        objective = IWAE(old["samples"])
    elif old["avo_share"]:
        objective = AVO(old["avo_share"], also)
    config = TrainConfig(epochs=1, objective=objective).described()["objective"]
    kept = {key: value for key, value in train.items() if key not in options}
    return kept | {"objective": plain(config)}


def _attempt(function: Callable[..., Any], dtype: torch.dtype, *args: Any, **kwargs: Any) -> str | None:
    """Run on one thread, and say how it diverged, if it did: it would each time, and others must not wait for it."""
    threads = torch.get_num_threads()  # the caller's, if there is one job
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    try:
        function(*args, **kwargs)
    except FloatingPointError as error:
        return str(error)
    finally:
        torch.set_num_threads(threads)
    return None
