"""One training loop: interrupt it anywhere, start it again, and it ends bit for bit where it would have."""

from __future__ import annotations

import json
import math
import time
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from operator import index
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from avo_lib.checkpoint import Checkpoint, Progress, global_streams
from avo_lib.checks import check_counts, check_positive
from avo_lib.data import Dataset, binarise, digest
from avo_lib.evaluation import average_bound
from avo_lib.files import write_atomically
from avo_lib.objectives import ELBO, Objective, avo, elbo, iwae
from avo_lib.schedules import BetaSchedule, Constant
from avo_lib.settings import by_value, plainly, settings, settled, storable
from avo_lib.trial import check_learnable, check_registered, draws, try_chain


@dataclass(frozen=True)
class TrainConfig:
    """How to train: the objective and the optimiser.

    Attributes:
        epochs: Number of passes through the training images.
        batch_size: Number of images in a mini-batch.
        lr: Adam's learning rate.
        lr_drop: Factor on the learning rate for the last fifth of the epochs.
        objective: Objective that is maximised.
        beta: Schedule of the Kullback-Leibler part's weight, by step.
        patience: Stop after this many epochs at beta = 1 without a better validation bound; None never stops early.

    Raises:
        ValueError: If a number is not positive, or patience comes with a beta that does not end at 1.
        TypeError: If the objective or beta cannot be called, or is a class, or the objective is one of a trajectory.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 1e-3
    lr_drop: float = 0.2
    objective: Objective = ELBO()
    beta: BetaSchedule = Constant()
    patience: int | None = None

    def described(self) -> dict[str, Any]:
        """The settings as plain values, for results; the objective comes with what it was made with."""
        objective = plainly(self.objective)
        name = getattr(objective, "__qualname__", type(objective).__name__)  # a function has its own
        return {item.name: storable(getattr(self, item.name)) for item in fields(self)} | {
            "beta": settled(self.beta) if is_dataclass(self.beta) else by_value(self.beta),
            "objective": {"name": name, **storable(settings(objective))},
        }

    def __post_init__(self) -> None:
        """Turn numpy's numbers into Python's, and refuse what cannot be trained."""
        for item in fields(self):
            if isinstance(value := getattr(self, item.name), np.generic):
                object.__setattr__(self, item.name, value.item())
        check_counts(self, "epochs", "batch_size")
        check_positive(self, "lr", "lr_drop")
        for name, example in (("objective", "ELBO()"), ("beta", "Constant(1.0)")):
            if isinstance(value := getattr(self, name), type) or not callable(value):
                raise TypeError(f"{name} must be a function or an object to call, such as {example}, not {value!r}")
        if isinstance(self.objective, FunctionType) and self.objective in (elbo, iwae, avo):
            name = self.objective.__name__
            raise TypeError(f"{name} takes a trajectory, an objective a model and data: give {name.upper()}()")
        if self.patience is not None:
            check_counts(self, "patience")
            if self.beta(2**62) != 1:
                raise ValueError(f"patience counts epochs at beta = 1, at which {self.beta} does not end: use None")


def fit(
    model: nn.Module,
    data: Dataset,
    config: TrainConfig,
    *,
    seed: int = 0,
    folder: Path | str | None = None,
    device: str | None = None,
    checkpoint_seconds: float = 60.0,
) -> Progress:
    """Train a model, validate it after every epoch at beta = 1, and leave it with the best epoch's weights.

    With a folder the run is checkpointed (at every epoch, and at least every minute) and logged to ``log.json``. The
    same call with the same folder goes on where it stopped, with a warning if that run began with other weights, and
    ends as if never interrupted, bit for bit. A call with other settings, data or layers is refused, and so is a model
    whose parts keep other values under the names of the arguments that they were made with. What the code of ``chain``
    or of an objective does is not compared: after a change of code use another folder. Torch's own streams, which
    dropout draws from, are seeded and restored.

    Args:
        model: Any module with ``chain(x)``; trained in place, left in evaluation mode. Its parameters alone learn: a
            ``log_z`` of the objective that is not registered with the model stays as it is.
        data: Training and validation data; test data are not used, but refused here if the model refuses them.
        config: How to train.
        seed: Seed of the order, the noise, the coin and dropout; the model's own initialisation is left to the caller.
        folder: Folder for the checkpoint and the log; None keeps nothing.
        device: Torch device; by default a GPU if there is one.
        checkpoint_seconds: Time in seconds between checkpoints within an epoch.

    Returns:
        The finished run, with its learning curve, best epoch, that epoch's validation bound, and duration in seconds.

    Raises:
        FloatingPointError: If the objective or a validation bound is not finite; the last checkpoint stays.
        ValueError: If the seed is out of range, there are too few images, the model refuses them or shares the draws of
            one proposal among them, a part of its chain is not registered with it, the folder holds a run with another
            configuration or other data, a last batch of one image meets batch norm, nothing can learn, or the
            objective is not one value with a gradient for each image.
        TypeError: If the model has no ``chain`` that gives a :class:`Chain <avo_lib.chain.Chain>`.
        OSError: If the folder cannot be written to.
    """
    seed = index(seed)
    if not 0 <= seed < 2**32 or len(data.train) == 0 or len(data.valid) < 2:  # a CPU takes 32 bits of a seed
        raise ValueError(
            f"need a seed from 0 to 2**32 - 1, images to train on and two to validate on, got seed {seed}, "
            f"{len(data.train)} and {len(data.valid)} images"
        )
    folder = None if folder is None else Path(folder)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    streams = global_streams(place)
    states = [stream.get_state() for stream in streams]
    try:
        return _fit(model, data, config, seed, folder, place, checkpoint_seconds)
    finally:
        for stream, state in zip(streams, states, strict=True):
            stream.set_state(state)


def _fit(
    model: nn.Module,
    data: Dataset,
    config: TrainConfig,
    seed: int,
    folder: Path | None,
    place: torch.device,
    checkpoint_seconds: float,
) -> Progress:
    first = data.valid[:1].to(place)
    try_chain(model.to(place), first)
    check_registered(model, first)
    check_learnable(model, len(data.train), config.batch_size)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    generator = torch.Generator(place).manual_seed(seed)
    run = Progress()
    checkpoint = None
    if folder is not None:
        what = {"seed": seed, "dynamic": data.dynamic, "data": digest(data.train, data.valid)}
        configs = (config, *([model.config] if is_dataclass(getattr(model, "config", None)) else []))
        checkpoint = Checkpoint(folder, model, optimiser, generator, run, configs, **what)
        checkpoint.restore()
    train, valid = data.train.to(place), data.valid.to(place)
    if run.step == 0:  # a folder once used with refused data would not take the mended ones
        for part in (valid, *([] if data.dynamic else [train]), *([] if data.test is None else [data.test])):
            for x in part.split(1000):  # the test set too: an hour later it would be too late
                try_chain(model, x.to(place))
        for stream in global_streams(place):
            stream.manual_seed((seed + 0x9E3779B97F4A7C15) % 2**63)  # other numbers than the generator draws
    if checkpoint:
        checkpoint.save()  # an unwritable folder fails now, not in an hour
    batches = math.ceil(len(train) / config.batch_size)
    bar = tqdm(total=config.epochs * batches, initial=run.step, unit="step", disable=None)
    started, saved = time.monotonic() - run.seconds, time.monotonic()
    while run.epoch < config.epochs and not _out_of_patience(run, config):
        model.train()
        if run.batch == 0:
            run.order = torch.randperm(len(train), generator=generator, device=place)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * (config.lr_drop if run.epoch >= 0.8 * config.epochs else 1.0)
        for images in run.order.split(config.batch_size)[run.batch :]:
            x = train.index_select(0, images)
            if data.dynamic:
                x = binarise(x, generator=generator)
            value = draws(model, x, config.objective, config.beta(run.step), generator).mean()
            _check_finite("objective", value.item(), run, folder)
            optimiser.zero_grad()
            (-value).backward()
            optimiser.step()
            run.total += value.item() * len(x)
            run.batch, run.step = run.batch + 1, run.step + 1
            bar.update()
            run.seconds = time.monotonic() - started
            if checkpoint and run.batch < batches and time.monotonic() - saved >= checkpoint_seconds:
                # A gradient can overflow where the objective does not: the next step says so, this one is not kept.
                if all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
                    checkpoint.save()
                saved = time.monotonic()
        _finish_epoch(model, run, config, len(train), valid, seed, folder)
        bar.set_postfix(epoch=run.epoch, valid=f"{run.curve[-1]['valid']:.2f}")
        if folder and checkpoint:
            write_atomically(folder / "log.json", json.dumps(run.curve, indent=1).encode())
            checkpoint.save()  # last: a run that is stopped between the two writes its log again
    bar.close()
    model.load_state_dict(run.best_weights)
    model.eval()
    return run


def _check_finite(what: str, value: float, run: Progress, folder: Path | None) -> None:
    if not math.isfinite(value):
        kept = f"the last good checkpoint is in {folder}" if folder else "no checkpoint was asked for"
        raise FloatingPointError(f"the {what} is {value} at step {run.step}; {kept}")


def _finish_epoch(
    model: Any, run: Progress, config: TrainConfig, images: int, valid: Tensor, seed: int, folder: Path | None
) -> None:
    """Validate with the same noise every time, record the epoch, and keep the best."""
    model.eval()
    bound, _ = average_bound(model, valid, generator=torch.Generator(valid.device).manual_seed(seed))
    _check_finite("validation bound", bound.value, run, folder)
    run.epoch, run.batch = run.epoch + 1, 0
    beta = float(config.beta(run.step))
    run.curve.append({"epoch": run.epoch, "beta": beta, "train": run.total / images, "valid": bound.value})
    run.total = 0.0
    if bound.value > run.best_bound:
        run.best_bound, run.best_epoch = bound.value, run.epoch
        run.best_weights = deepcopy(model.state_dict())


def _out_of_patience(run: Progress, config: TrainConfig) -> bool:
    """Epochs count only once beta is 1: before, the validation bound is not what is being trained."""
    waited = [row for row in run.curve if row["epoch"] > run.best_epoch and row["beta"] == 1]
    return config.patience is not None and len(waited) >= config.patience
