"""What cannot be trained, and says so before the first step: models, their sizes, and objectives."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from avo_lib.axes import check_own_draws
from avo_lib.chain import Chain
from avo_lib.checks import check_count
from avo_lib.data import Dataset
from avo_lib.estimate import check_enough
from avo_lib.objectives import Model, Objective


def try_chain(model: nn.Module, x: Tensor) -> None:
    """Let a model that does not fit the data say so itself; it is left in evaluation mode.

    Args:
        model: What is to be trained.
        x: Some of the data ``(images, ...)``.

    Raises:
        TypeError: If the model has no ``chain``, or one that gives something else.
        ValueError: If the proposal has no row for each datum.
    """
    if not callable(getattr(model, "chain", None)):
        raise TypeError(f"only a model with chain(x) can be trained, not {type(model).__name__}")
    with torch.no_grad():
        chain = model.eval().chain(x)  # type: ignore[operator]
    if not isinstance(chain, Chain):
        raise TypeError(f"chain(x) must give an avo_lib.Chain, not {type(chain).__name__}")
    with torch.no_grad():
        z, _ = chain.proposal.sample((), generator=torch.Generator(x.device))
    check_own_draws(x.shape[:1], z)


def check_registered(model: nn.Module, x: Tensor) -> None:
    """Refuse what a gradient of the chain reaches, but no optimiser of the model's parameters.

    Args:
        model: What is to be trained.
        x: Some of the data ``(images, ...)``.

    Raises:
        ValueError: If the proposal, the path or a kernel takes its values from a tensor that could learn and is no
            parameter of the model.
    """
    known = {id(parameter) for parameter in model.parameters()}
    once, again = _sources(model, x), _sources(model, x)
    for name, found in once.items():
        lasting = found.keys() & again.get(name, {}).keys()  # leaves that chain(x) makes for itself are new every time
        if lasting - known:
            raise ValueError(
                f"{name} is not registered with the model, so it would neither learn nor be saved: make it an "
                "attribute of the model, keep kernels in torch.nn.ModuleList, and freeze what should not learn"
            )


def _sources(model: nn.Module, x: Tensor) -> dict[str, dict[int, Tensor]]:
    """For each part of a chain, the tensors to which its gradient leads."""
    generator = torch.Generator(x.device).manual_seed(0)
    with torch.enable_grad():
        chain: Chain = model.chain(x)  # type: ignore[operator]
        z, log_q = chain.proposal.sample((), generator=generator)
        z, drawn = z.detach(), z
        found = {"the proposal": _leaves(drawn, log_q, chain.proposal.log_prob(z))}
        targets = range(len(chain.kernels) + 1)
        found["the path"] = _leaves(*(chain.path.log_density(t, z) for t in targets))
        for t, kernel in enumerate(chain.kernels, start=1):
            z, log_ratio = kernel.forward(z, chain.target(t), chain.context, generator=generator)
            found[f"kernel {t}"] = _leaves(z, log_ratio)
            z = z.detach()
    return found


def _leaves(*values: Tensor) -> dict[int, Tensor]:
    """The tensors that values are computed from and that could learn, by their identity."""
    seen, ahead = set(), [(1 * value).grad_fn for value in values]  # a leaf itself has no grad_fn
    while ahead:
        if (node := ahead.pop()) is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
    return {id(one): one for node in seen if (one := getattr(node, "variable", None)) is not None}


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


def check_judgeable(model: nn.Module, data: Dataset, samples: int | None) -> None:
    """Refuse what could be trained, but not judged and published.

    Args:
        model: What is to be trained.
        data: Its data.
        samples: Number of samples for each test image; None, if the test images are not looked at.

    Raises:
        ValueError: If there are fewer than two training or test images, no sample, or a state that is no tensor.
    """
    check_enough(len(data.train), "training images")
    if samples is not None:
        check_count("samples", samples)
        check_enough(len(data.held_out()), "test images")
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is no tensor, and nothing else is published of a model: keep it out of its state")


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
