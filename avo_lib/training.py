"""One training loop: interrupt it anywhere, start it again, and it ends bit for bit where it would have."""

from __future__ import annotations

import io
import json
import math
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from avo_lib.data import MNIST, binarise
from avo_lib.evaluation import average_bound
from avo_lib.files import write_atomically
from avo_lib.models.vae import VAE
from avo_lib.objectives import calibrated_avo, elbo, iwae
from avo_lib.paths import BetaSchedule, Constant

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class TrainConfig:
    """How to train: the objective and the optimiser.

    The objective is the ELBO; with ``samples`` > 1 it is IWAE, with ``avo_share`` > 0 loss-calibrated AVO.

    Attributes:
        epochs: Passes through the training images.
        batch_size: Images in a mini-batch.
        lr: Adam's learning rate.
        lr_drop: Factor on it for the last fifth of the epochs.
        samples: K of IWAE.
        avo_share: Probability a of an AVO step.
        attach_features: Let AVO steps train the encoder through the features that the kernels see.
        attach_decoder: Let AVO steps train the decoder on every annealed target, not on the last alone.
        beta: Schedule of the Kullback-Leibler part's weight, by step.
        patience: Stop after so many epochs at beta = 1 without a better validation bound; None never stops.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 1e-3
    lr_drop: float = 0.2
    samples: int = 1
    avo_share: float = 0.0
    attach_features: bool = False
    attach_decoder: bool = False
    beta: BetaSchedule = Constant()
    patience: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.epochs, self.batch_size, self.samples) < 1 or self.lr <= 0:
            raise ValueError("epochs, batch_size and samples must be at least 1 and lr positive")
        if self.lr_drop <= 0 or (self.patience is not None and self.patience < 1):
            raise ValueError("lr_drop must be positive, and patience at least 1 or None")
        if not 0 <= self.avo_share <= 1:
            raise ValueError(f"avo_share is a probability, between 0 and 1, not {self.avo_share}")
        if self.samples > 1 and self.avo_share > 0:
            raise ValueError("choose IWAE (samples > 1) or AVO (avo_share > 0), not both")


@dataclass
class Progress:
    """Where a run is; with model, optimiser and generator it is all that a checkpoint holds."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    total: float = 0.0  # of the objective over this epoch's images
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    curve: list[dict[str, float]] = field(default_factory=list)
    best_bound: float = -math.inf
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def fit(
    model: VAE,
    data: MNIST,
    config: TrainConfig,
    *,
    seed: int = 0,
    folder: Path | None = None,
    device: str | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Progress:
    """Train a model, validate it after every epoch at beta = 1, and leave it with the best epoch's weights.

    With a folder the run is checkpointed (at every epoch, and at least every minute) and logged to ``log.json``. The
    same call with the same folder goes on where it stopped, and ends bit-identical to a run never interrupted.

    Args:
        model: Trained in place, left in evaluation mode.
        data: Training and validation images.
        config: How to train.
        seed: Of the order, the noise and the coin; the model's own initialisation is the caller's.
        folder: For the checkpoint and the log; None keeps nothing.
        device: Torch device; by default a GPU if there is one.
        checkpoint_seconds: Time between checkpoints inside an epoch.

    Returns:
        The finished run: learning curve, best epoch and its validation bound, seconds.

    Raises:
        FloatingPointError: If the objective is not finite; the last checkpoint stays.
        ValueError: If the folder holds a run of another configuration.
        OSError: If the folder cannot be written to.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(place)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    generator = torch.Generator(place).manual_seed(seed)
    run = Progress()
    identity = _identity(model, data, config, seed)
    if folder is not None:
        _restore(folder, identity, model, optimiser, generator, run)
        _save(folder, identity, model, optimiser, generator, run)  # an unwritable folder fails now, not in an hour

    train, valid = data.train.images.to(place), data.valid.images.to(place)
    batches = math.ceil(len(train) / config.batch_size)
    bar = tqdm(total=config.epochs * batches, initial=run.step, unit="step", disable=None)
    started = saved = time.monotonic() - run.seconds
    while run.epoch < config.epochs and not _out_of_patience(run, config):
        model.train()
        if run.batch == 0:
            run.order = torch.randperm(len(train), generator=generator, device=place)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * (config.lr_drop if run.epoch >= 0.8 * config.epochs else 1.0)
        for index in run.order.split(config.batch_size)[run.batch :]:
            x = train.index_select(0, index)
            if data.dynamic:
                x = binarise(x, generator=generator)
            bound = _objective(model, x, config, config.beta(run.step), generator)
            value = bound.mean()
            _check_finite("objective", value.item(), run, folder)
            optimiser.zero_grad()
            (-value).backward()
            optimiser.step()
            run.total += value.item() * len(x)
            run.batch, run.step = run.batch + 1, run.step + 1
            bar.update()
            run.seconds = time.monotonic() - started
            if folder is not None and run.batch < batches and time.monotonic() - saved >= checkpoint_seconds:
                # A gradient can overflow where the objective does not: the next step says so, this one is not kept.
                if all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
                    _save(folder, identity, model, optimiser, generator, run)
                saved = time.monotonic()
        _finish_epoch(model, run, config, len(train), valid, seed, folder)
        bar.set_postfix(epoch=run.epoch, valid=f"{run.curve[-1]['valid']:.2f}")
        if folder is not None:
            _save(folder, identity, model, optimiser, generator, run)
            write_atomically(folder / "log.json", json.dumps(run.curve, indent=1).encode())
    bar.close()
    model.load_state_dict(run.best_weights)
    model.eval()
    return run


def _objective(model: VAE, x: Tensor, config: TrainConfig, beta: float, generator: torch.Generator) -> Tensor:
    if config.samples > 1:
        return iwae(model.sample_trajectory(x, (config.samples,), generator=generator), beta)
    if config.avo_share == 0:
        return elbo(model.sample_trajectory(x, generator=generator), beta)

    attach = {"attach_features": config.attach_features, "attach_decoder": config.attach_decoder}

    def draw(detach: bool) -> Any:
        return model.sample_trajectory(x, detach=detach, generator=generator, **attach)

    return calibrated_avo(draw, config.avo_share, beta, generator=generator)


def _check_finite(what: str, value: float, run: Progress, folder: Path | None) -> None:
    if not math.isfinite(value):
        kept = f"the last good checkpoint is in {folder}" if folder else "no checkpoint was asked for"
        raise FloatingPointError(f"the {what} is {value} at step {run.step}; {kept}")


def _finish_epoch(
    model: VAE, run: Progress, config: TrainConfig, images: int, valid: Tensor, seed: int, folder: Path | None
) -> None:
    """Validate with the same noise every time, note the epoch, keep the best."""
    model.eval()
    bound, _ = average_bound(model, valid, generator=torch.Generator(valid.device).manual_seed(seed))
    _check_finite("validation bound", bound.value, run, folder)
    run.epoch, run.batch = run.epoch + 1, 0
    beta = config.beta(run.step)
    run.curve.append({"epoch": run.epoch, "beta": beta, "train": run.total / images, "valid": bound.value})
    run.total = 0.0
    if bound.value > run.best_bound:
        run.best_bound, run.best_epoch = bound.value, run.epoch
        run.best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}


def _out_of_patience(run: Progress, config: TrainConfig) -> bool:
    """Epochs count only once beta is 1: before, the validation bound is not what is being trained."""
    waited = [row for row in run.curve if row["epoch"] > run.best_epoch and row["beta"] == 1]
    return config.patience is not None and len(waited) >= config.patience


def _identity(model: VAE, data: MNIST, config: TrainConfig, seed: int) -> dict[str, str]:
    """What must agree for a run to be the same run."""
    parts: dict[str, Any] = {"seed": seed, "images": len(data.train), "dynamic": data.dynamic}
    for part in (config, model.config):
        parts |= {item.name: getattr(part, item.name) for item in fields(part)}
    return {name: repr(value) for name, value in parts.items()}


def _save(
    folder: Path,
    identity: dict[str, str],
    model: VAE,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    run: Progress,
) -> None:
    buffer = io.BytesIO()
    parts = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "generator": generator.get_state()}
    torch.save(parts | {"identity": identity, "run": vars(run)}, buffer)
    write_atomically(folder / "checkpoint.pt", buffer.getvalue())


def _restore(
    folder: Path,
    identity: dict[str, str],
    model: VAE,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    run: Progress,
) -> None:
    file = folder / "checkpoint.pt"
    if not file.is_file():
        return
    try:
        saved = torch.load(file, map_location=next(model.parameters()).device, weights_only=True)
        differing = [name for name in identity if identity[name] != saved["identity"].get(name)]
        parts = [saved[name] for name in ("model", "optimiser", "generator", "run")]
    except Exception as error:  # what torch.load may raise is not documented, and its messages fill a screen
        raise ValueError(f"{file} is damaged or not a checkpoint of this library. Delete it to start anew") from error
    if differing:
        changes = ", ".join(f"{name} was {saved['identity'].get(name)}, is {identity[name]}" for name in differing)
        raise ValueError(f"{file} belongs to another configuration ({changes}). Use another folder, or delete it")
    model.load_state_dict(parts[0])
    optimiser.load_state_dict(parts[1])
    generator.set_state(parts[2].cpu())
    vars(run).update(parts[3])
