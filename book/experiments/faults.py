"""Faults of a reproduction, one at a time on top of a correct AVO-VAE."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, cast

import torch
from avo_lib.chain import Chain, Gaussian
from avo_lib.data import Dataset, binarise
from avo_lib.evaluation import average_bound
from avo_lib.experiments.protocols import find
from avo_lib.models.parts import Bernoulli
from avo_lib.models.vae import VAE
from avo_lib.objectives import avo, elbo
from avo_lib.paths import AmortisedPath, LogDensity
from torch import Generator, Tensor
from torch.nn import functional

EPOCHS, SEEDS = 10, range(4)


class Correct:
    """Loss-calibrated AVO; a fault overrides one method."""

    method, grey = "avo", False  # of the report protocol; on grey pixels?
    start: ClassVar[dict[str, float]] = {}  # of the kernels, if not ours

    def order(self, images: int, noise: Generator) -> Tensor:
        return torch.randperm(images, generator=noise)

    def beta(self, done: float) -> float:
        return min(1.0, 0.2 + 4 * done)  # done: share of the training

    def pixels(self, grey: Tensor, noise: Generator) -> Tensor:
        return binarise(grey, generator=noise)

    def chain(self, model: VAE, x: Tensor, fixed: bool) -> Chain:
        return held(model.chain(x), fixed)

    def path(self, path: AmortisedPath, chain: Chain) -> AmortisedPath:
        return path

    def avo_step(
        self, chain: Chain, beta: float, noise: Generator
    ) -> Tensor:
        path = self.path(cast(AmortisedPath, chain.path), chain)
        chain = replace(chain, path=path)
        return avo(chain.sample(detach=True, generator=noise), beta)


class BatchSum(Correct):
    """Each image's AVO term holds the likelihood of the whole batch."""

    def path(self, path: AmortisedPath, chain: Chain) -> AmortisedPath:
        def total(log_p: LogDensity) -> LogDensity:
            return lambda z: log_p(z).sum(-1, True).expand(z.shape[:-1])

        path = super().path(path, chain)
        one, frozen = path.log_likelihood, path.log_likelihood_frozen
        parts = path.log_prior, total(one), total(frozen)
        return AmortisedPath(*parts, path.alphas)


class CrossEntropy(Bernoulli):
    """The formula of a Bernoulli, for pixels of any value."""

    def check(self, x: Tensor) -> None:
        """The model's own likelihood refuses grey pixels here."""

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        return (x * logits - functional.softplus(logits)).sum(-1)


class Grey(Correct):
    """Grey pixels under a cross-entropy."""

    grey = True

    def pixels(self, grey: Tensor, noise: Generator) -> Tensor:
        return grey

    def chain(self, model: VAE, x: Tensor, fixed: bool) -> Chain:
        model.likelihood = CrossEntropy()
        return super().chain(model, x, fixed)


class EncoderPath(AmortisedPath):
    """From the encoder's own Gaussian, with gradients, to p(z) p(x|z)."""

    def __init__(self, path: AmortisedPath, log_q0: LogDensity) -> None:
        parts = path.log_likelihood, path.log_likelihood_frozen
        super().__init__(path.log_prior, *parts, path.alphas)
        self.log_q0 = log_q0

    def log_density(self, t: int, z: Tensor, beta: float = 1) -> Tensor:
        base = self.log_q0(z) - beta * self.log_prior(z)
        right = super().log_density(t, z, beta)
        return right + (1 - self.alphas[t]) * base

    def log_ladder(self, zs: Tensor, beta: float = 1) -> Tensor:
        base = self.log_q0(zs) - beta * self.log_prior(zs)
        right = super().log_ladder(zs, beta)
        return right + (1 - self.alphas[1:, None]) * base


class EncoderBase(Correct):
    """The path starts at the encoder's Gaussian, not at the prior."""

    def path(self, path: AmortisedPath, chain: Chain) -> AmortisedPath:
        path = super().path(path, chain)
        return EncoderPath(path, chain.proposal.log_prob)


class EncoderBaseCut(EncoderBase):
    """The same path, without its gradient into the encoder."""

    def path(self, path: AmortisedPath, chain: Chain) -> AmortisedPath:
        q0 = cast(Gaussian, chain.proposal)
        cut = Gaussian(q0.mean.detach(), q0.std.detach())
        return super().path(path, replace(chain, proposal=cut))


class EveryTarget(Correct):
    """The decoder learns from the intermediate targets too."""

    def path(self, path: AmortisedPath, chain: Chain) -> AmortisedPath:
        path = super().path(path, chain)
        one = path.log_likelihood  # also in place of the frozen one
        return AmortisedPath(path.log_prior, one, one, path.alphas)


class FixedOrder(Correct):
    """The same mini-batches in the same order in every epoch."""

    def order(self, images: int, noise: Generator) -> Tensor:
        return torch.arange(images)


class SlowBeta(Correct):
    """Beta starts at one half, and moves once an epoch."""

    rise = 1 / 8  # 1 after 4 of 10 epochs, as after 40 of the report's 100

    def beta(self, done: float) -> float:
        return min(1.0, 0.5 + self.rise * math.floor(done * EPOCHS))


class All(EncoderBase, BatchSum, EveryTarget, Grey, FixedOrder, SlowBeta):
    """All of them together."""


class AllButBatchSum(EncoderBase, EveryTarget, Grey, FixedOrder, SlowBeta):
    """All but the sum over the batch."""


class RawKernels(Correct):
    """Kernels as fresh linear layers make them: broad, half open gates."""

    start: ClassVar[dict[str, float]] = {
        "std_init": math.log(2),  # softplus(0)
        "gate_bias": 0.0,
    }


class PlainVAE(Correct):
    """For scale: no kernels."""

    method = "vae"


class HVI(Correct):
    """For scale: the same kernels, but no AVO steps."""

    method = "hvi"


RECIPES: dict[str, type[Correct]] = {
    "correct": Correct,
    "all": All,
    "batch_sum": BatchSum,
    "grey": Grey,
    "encoder_base": EncoderBase,
    "encoder_base_cut": EncoderBaseCut,
    "every_target": EveryTarget,
    "fixed_order": FixedOrder,
    "slow_beta": SlowBeta,
    "raw_kernels": RawKernels,
    "all_but_batch_sum": AllButBatchSum,
    "vae": PlainVAE,
    "hvi": HVI,
}


def held(chain: Chain, fixed: bool) -> Chain:
    """With the encoder's features constant for the kernels, if so."""
    context = chain.context
    if fixed and context is not None:
        context = context.detach()
    return replace(chain, context=context)


def train(
    recipe: Correct, seed: int, data: Dataset, epochs: int = EPOCHS
) -> tuple[VAE, list[dict[str, float]]]:
    """The model after its last epoch, and its learning curve."""
    setup = find("report", recipe.method)
    setup = replace(setup, model=replace(setup.model, **recipe.start))
    config, model, grey = setup.train, setup.build(seed), data.train
    share = getattr(config.objective, "share", 0.0)
    noise, curve, step = Generator().manual_seed(seed), [], 0
    adam = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    steps = epochs * math.ceil(len(grey) / config.batch_size)
    for epoch in range(1, epochs + 1):
        drop = config.lr_drop if epoch > 0.8 * epochs else 1.0
        adam.param_groups[0]["lr"] = config.lr * drop
        printed: dict[str, list[float]] = {
            "avo_steps": [],
            "elbo_steps": [],
        }
        for at in recipe.order(len(grey), noise).split(config.batch_size):
            beta = recipe.beta(step / steps)
            x = recipe.pixels(grey[at], noise)
            coin = torch.rand((), generator=noise).item() < share
            chain = recipe.chain(model.train(), x, coin)
            if coin:
                value = recipe.avo_step(chain, beta, noise).mean()
            else:
                value = elbo(chain.sample(generator=noise), beta).mean()
            adam.zero_grad()
            (-value).backward()
            adam.step()
            printed["avo_steps" if coin else "elbo_steps"].append(
                value.item()
            )
            step += 1
        row = {k: sum(v) / len(v) for k, v in printed.items() if v}
        row |= {"epoch": epoch, "beta": beta}
        curve.append(row | bounds(model.eval(), data.valid))
    return model, curve


def bounds(model: VAE, x: Tensor) -> dict[str, float]:
    """The ELBO on binary images and its KL part."""
    noise = Generator().manual_seed(0)
    bound, kl = average_bound(model, x, generator=noise)
    return {"elbo": bound.value, "kl": kl}
