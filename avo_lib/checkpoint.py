"""Checkpoints of training: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avo_lib.data import digest
from avo_lib.files import SEAL, seal, write_atomically
from avo_lib.settings import by_value, settings_of_parts, settled


@dataclass(eq=False)
class Progress:
    """How far a run has come; with model, optimiser and random streams it is the state that a checkpoint holds."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    total: float = 0.0  # sum of the objective over this epoch's images
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long), repr=False)
    curve: list[dict[str, float]] = field(default_factory=list)
    best_bound: float = -math.inf
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict, repr=False)  # a notebook shows what fit returns
    seconds: float = 0.0


def global_streams(device: torch.device) -> list[torch.Generator]:
    """Torch's own random streams, from which dropout on that device draws: it cannot be given another."""
    if device.type != "cuda":
        return [torch.default_generator]
    current = torch.cuda.current_device()  # this makes the streams, if need be
    return [torch.default_generator, torch.cuda.default_generators[current if device.index is None else device.index]]


class Checkpoint:
    """A run's state, kept in a file that is replaced as a whole and carries its own SHA-256.

    Args:
        folder: Folder for ``checkpoint.pt``.
        model: Model whose weights are saved and restored in place, as are the states of the next three arguments.
        optimiser: Optimiser of the model.
        generator: Source of the run's noise, on the model's device; dropout's streams there are saved too.
        run: Progress of the run.
        configs: Dataclasses whose fields must agree for a run to be the same run.
        others: Other values that must agree. So must the device, because its random streams are its own, the frozen
            parameters, the model's ``repr``, and what its parts keep under the names of the arguments that they were
            made with: whatever else makes a layer should stand in its ``extra_repr``. What code does is not compared.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
        run: Progress,
        configs: Sequence[Any],
        **others: Any,
    ) -> None:
        self.file, self.run = folder / "checkpoint.pt", run
        self.model, self.optimiser, self.generator = model, optimiser, generator
        self.defaults: dict[str, str] = {}
        self.older: dict[str, str] = {}
        self.identity = {name: by_value(value) for name, value in (others | {"device": generator.device.type}).items()}
        for config in configs:
            for item in fields(config):  # a name already taken is kept apart
                name = f"{type(config).__name__}.{item.name}" if item.name in self.identity else item.name
                self.identity[name] = by_value(getattr(config, item.name))
                self.defaults[name] = by_value(item.default)
                self.older[name] = settled(getattr(config, item.name))  # as in files from before settings were told
        self.identity |= settings_of_parts(model, configs)
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        self.identity["frozen parameters"] = by_value(frozen)
        self.start: str | None = digest(*(part for part in model.state_dict().values() if isinstance(part, Tensor)))
        self.identity["layers of the model"] = hashlib.sha256(settled(model).encode()).hexdigest()[:16]

    def save(self) -> None:
        """Write the checkpoint; an earlier one stays until the new one is complete."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimiser")}
        parts |= {"generator": self.generator.get_state(), "identity": self.identity, "run": vars(self.run)}
        parts |= {"start": self.start, "streams": [one.get_state() for one in global_streams(self.generator.device)]}
        buffer = io.BytesIO()
        torch.save(parts, buffer)
        write_atomically(self.file, seal(buffer.getvalue()))

    def restore(self) -> None:
        """Go back to the saved state, if there is one; a run of which no step was saved gives way to another.

        The run goes on with its own weights, whatever the model has now; a warning tells if it began with others. That
        is no error: a call may be repeated after an interrupt, and a model need not be seeded.

        Raises:
            ValueError: If the file is damaged, or of a run with other options or parameters, which the message names.
        """
        if not self.file.is_file():
            return
        content = self.file.read_bytes()
        try:
            if seal(content[SEAL:]) != content:
                raise ValueError("its SHA-256 is another")
            saved = torch.load(io.BytesIO(content[SEAL:]), map_location=self.generator.device, weights_only=True)
            # An option added later had its default, which changes nothing.
            was = self.identity | self.defaults | saved["identity"]
            differing = [name for name, now in self.identity.items() if was[name] not in (now, self.older.get(name))]
            there, here = (
                {name: tuple(part.shape) for name, part in state.items() if isinstance(part, Tensor)}
                for state in (saved["model"], self.model.state_dict())
            )
            fits, begun = not differing and there == here, saved["run"]["step"] > 0
            if fits:
                self.model.load_state_dict(saved["model"])
                self.optimiser.load_state_dict(saved["optimiser"])
                self.generator.set_state(saved["generator"].cpu())
                streams = global_streams(self.generator.device)
                for stream, state in zip(streams, saved.get("streams", []), strict=False):  # older files have none
                    stream.set_state(state.cpu())
                vars(self.run).update(saved["run"])
        except Exception as error:  # what torch.load may raise is not documented, and its messages fill a screen
            message = f"{self.file} is damaged or not a checkpoint of this library. Delete it to start anew"
            raise ValueError(message) from error
        if fits:
            given, self.start = self.start, saved.get("start")  # older files have none
            if self.start not in (None, given):
                warnings.warn(
                    f"{self.file} holds a run that began with other weights than this model has: it goes on with its "
                    "own. For a new run use another folder; a model seeded before it is built begins as it did before",
                    stacklevel=4,  # where fit is called
                )
        elif differing and begun:
            changes = ", ".join(f"{name} was {was[name]}, is {self.identity[name]}" for name in differing)
            raise ValueError(
                f"{self.file} belongs to another configuration ({changes}). Use another folder, or delete it"
            )
        elif begun:
            (name, shape), *_ = there.items() - here.items() or here.items() - there.items()
            raise ValueError(
                f"{self.file} belongs to a model with other parameters: only one has {name} {shape}. Use another folder"
            )
