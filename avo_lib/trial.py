"""What cannot be trained, and says so before the first step: models, their sizes, and objectives."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from avo_lib.axes import check_own_draws
from avo_lib.chain import Chain
from avo_lib.objectives import Model, Objective


def try_chain(model: nn.Module, x: Tensor) -> None:
    """Let a model that does not fit the data say so itself; it is left in evaluation mode.

    Args:
        model: What is to be trained.
        x: Some of the data ``(images, ...)``.

    Raises:
        TypeError: If the model has no ``chain``, or one that gives something else.
        ValueError: If a part of the chain could learn, but is not registered with the model, or the proposal has no row
            for each datum.
    """
    if not callable(getattr(model, "chain", None)):
        raise TypeError(f"only a model with chain(x) can be trained, not {type(model).__name__}")
    with torch.no_grad():
        chain = model.eval().chain(x)  # type: ignore[operator]
    if not isinstance(chain, Chain):
        raise TypeError(f"chain(x) must give an avo_lib.Chain, not {type(chain).__name__}")
    check_registered(model, chain)
    with torch.no_grad():
        z, _ = chain.proposal.sample((), generator=torch.Generator(x.device))
    check_own_draws(x.shape[:1], z)


def check_registered(model: nn.Module, chain: Chain) -> None:
    """Refuse parts of a chain that could learn, but that the model does not know: no optimiser would reach them.

    Args:
        model: What is to be trained.
        chain: A chain of the model.

    Raises:
        ValueError: If a kernel, the proposal or the path is or holds a module or parameter that is not the model's.
    """
    known = {id(parameter) for parameter in model.parameters()}
    parts = {f"kernel {t}": kernel for t, kernel in enumerate(chain.kernels, start=1)}
    for name, part in ({"the proposal": chain.proposal, "the path": chain.path} | parts).items():
        for held in (part, *getattr(part, "__dict__", {}).values()):
            learns = held.parameters() if isinstance(held, nn.Module) else [held] if isinstance(held, Tensor) else []
            if any(one.is_leaf and one.requires_grad and id(one) not in known for one in learns):
                raise ValueError(
                    f"{name} is not registered with the model, so it would neither learn nor be saved: make it an "
                    "attribute of the model, and keep kernels in torch.nn.ModuleList"
                )


def check_learnable(model: nn.Module, images: int, batch_size: int) -> None:
    """Refuse a model of which nothing can learn, or a last batch that its batch norm cannot normalise.

    Args:
        model: What is to be trained.
        images: Number of training images.
        batch_size: Number of images in a mini-batch.

    Raises:
        ValueError: If all parameters are frozen, gradients are switched off, or batch norm meets a batch of one.
    """
    if not (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())):
        raise ValueError("nothing can learn: every parameter of the model is frozen, or gradients are switched off")
    alone = (images - 1) % batch_size == 0
    if alone and any(isinstance(part, nn.BatchNorm1d) for part in model.modules()):
        raise ValueError(
            f"{images} images in batches of {batch_size} leave a last batch of one, which batch norm cannot "
            "normalise: choose another batch_size"
        )


def draws(model: nn.Module, x: Tensor, objective: Objective, beta: float, generator: torch.Generator) -> Tensor:
    """The objective of a mini-batch ``(images,)``, whose mean is one over images and teaches something.

    Raises:
        ValueError: If the objective is not one value for each image, or has no gradient.
    """
    value = objective(cast(Model, model), x, beta=beta, generator=generator)
    if (shape := getattr(value, "shape", ())) != x.shape[:1]:
        raise ValueError(f"the objective must give one value for each of {len(x)} images, not shape {tuple(shape)}")
    if not value.requires_grad:
        raise ValueError("the objective has no gradient: compute it from the model without detach or torch.no_grad()")
    return value
