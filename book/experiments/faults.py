"""Faults of a reproduction, one at a time on top of a correct AVO-VAE.

python book/experiments/faults.py trains and judges what is missing in
results/toys/post_mortem, about a minute each. It can be interrupted.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import avo_lib
import torch
from avo_lib.chain import Chain, Gaussian
from avo_lib.collapse import active_units
from avo_lib.data import Dataset, binarise
from avo_lib.evaluation import average_bound, log_likelihood
from avo_lib.experiments.mnist import default_root, load_mnist
from avo_lib.experiments.protocols import find
from avo_lib.files import write_atomically
from avo_lib.models.vae import STD_FLOOR, VAE
from avo_lib.numerics import log_bernoulli, log_normal
from avo_lib.objectives import avo, elbo
from avo_lib.paths import AmortisedPath, LogDensity, linear_alphas
from torch import Generator, Tensor
from torch.func import functional_call
from torch.nn import functional
from torchvision import datasets

RESULTS = Path(__file__).parents[2] / "results" / "toys" / "post_mortem"
IMAGES, EPOCHS, JUDGED, SEEDS = 10_000, 10, 500, range(4)


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


class Grey(Correct):
    """Grey pixels under the cross-entropy of a Bernoulli."""

    grey = True

    def pixels(self, grey: Tensor, noise: Generator) -> Tensor:
        return grey

    def chain(self, model: VAE, x: Tensor, fixed: bool) -> Chain:
        return grey_chain(model, x, x, fixed)  # model.chain refuses grey


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


def grey_chain(model: VAE, seen: Tensor, x: Tensor, fixed: bool) -> Chain:
    """The encoder sees one image; the cross-entropy is that of another."""
    features, net = model.encoder(seen), model.decoder
    mean, std = model.q0(features).chunk(2, dim=-1)

    def score(logits: Tensor) -> Tensor:
        return (x * logits - functional.softplus(logits)).sum(-1)

    def frozen(z: Tensor) -> Tensor:
        parts = {n: p.detach() for n, p in net.named_parameters()}
        parts |= {n: b.clone() for n, b in net.named_buffers()}
        logits = functional_call(net, parts, (z.flatten(0, -2),))
        return score(logits.reshape(*z.shape[:-1], -1))

    parts = log_normal, lambda z: score(model.decode(z)), frozen
    proposal = Gaussian(mean, functional.softplus(std) + STD_FLOOR)
    path, kernels = AmortisedPath(*parts, model.alphas), list(model.kernels)
    chain = Chain(proposal, cast(Any, kernels), path, features)
    return held(chain, fixed)


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


@dataclass(frozen=True)
class Fitted:
    """A decoder, judged with a Gaussian of its own for each image."""

    model: VAE

    def chain(self, x: Tensor) -> Chain:
        """For mean, standard deviation and image side by side."""
        d = self.model.config.latent
        mean, std, x = x.split((d, d, x.shape[1] - 2 * d), dim=-1)

        def log_p(z: Tensor) -> Tensor:
            return log_bernoulli(x, self.model.decode(z))

        path = AmortisedPath(log_normal, log_p, log_p, linear_alphas(0))
        return Chain(Gaussian(mean, std), [], path)


def fitted(model: VAE, x: Tensor, steps: int = 400) -> Tensor:
    """Each image beside the Gaussian that fits its posterior best."""
    noise = Generator().manual_seed(0)
    with torch.no_grad():
        mean = model.chain(x).sample((16,), generator=noise).z[-1].mean(0)
    log_std = torch.full_like(mean, math.log(0.2)).requires_grad_()
    adam = torch.optim.Adam([mean.requires_grad_(), log_std], lr=0.03)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 0.03 * (1 - step / steps)
        chain = Fitted(model).chain(torch.cat([mean, log_std.exp(), x], 1))
        adam.zero_grad()
        (-elbo(chain.sample(generator=noise)).sum()).backward()
        adam.step()
    return torch.cat([mean, log_std.exp(), x], 1).detach()


@dataclass(frozen=True)
class Pairs:
    """A model that is shown one image and judged on another."""

    model: VAE

    def chain(self, x: Tensor) -> Chain:
        """For both images side by side, ``(images, 2 * 784)``."""
        seen, judged = x.chunk(2, dim=-1)
        return grey_chain(self.model, seen, judged, False)


def judge(recipe: Correct, model: VAE, x: Tensor, grey: Tensor) -> Any:
    """The truth on binary test images, and what would be reported."""
    pairs = {"test": (x, x)}
    result: dict[str, Any] = {}
    if recipe.grey:  # a proposal that has seen the grey image is as valid
        pairs |= {"reported": (grey, grey), "grey_encoder": (grey, x)}
    views: dict[str, tuple[Fitted | Pairs, Tensor]] = {
        name: (Pairs(model), torch.cat(pair, 1))
        for name, pair in pairs.items()
    }
    if type(recipe) in (Correct, BatchSum, All):  # and the decoder alone
        views["fitted"] = Fitted(model), fitted(model, x)
    for name, (view, images) in views.items():
        samples = 100 if name == "reported" else 1000
        noise = Generator().manual_seed(0)
        found = log_likelihood(view, images, samples, generator=noise)
        parts = {"nll": found.nll.value, "stderr": found.nll.stderr}
        parts |= {"elbo": found.elbo.mean().item()}
        parts |= {"ess": found.ess.mean().item()}
        result[name] = parts | {"nll_by_samples": found.nll_by_samples}
    noise = Generator().manual_seed(0)
    with torch.no_grad():
        z = model.chain(x).sample((32,), generator=noise).z[-1]
        drawn = (255 * model.sample_images(16, generator=noise)).round()
    result["test"] |= {"kl": bounds(model, x)["kl"]}
    result["active"] = (
        active_units(z[:16].mean(0), z[16:].mean(0)).sum().item()
    )
    small = zlib.compress(drawn.to(torch.uint8).numpy().tobytes(), 9)
    return result | {"pictures": base64.b64encode(small).decode()}


def run(name: str, seed: int) -> None:
    """Train and judge one recipe, unless its result exists."""
    file = RESULTS / f"{name}-seed{seed}.json"
    if file.is_file():
        return
    whole, recipe = load_mnist("dynamic"), RECIPES[name]()
    few = whole.first(JUDGED)
    data = replace(few, train=whole.train[:IMAGES])
    raw = datasets.MNIST(default_root(), train=False).data[:JUDGED]
    model, curve = train(recipe, seed, data)
    judged = judge(recipe, model, few.test, raw.flatten(1) / 255)
    if seed:
        del judged["pictures"]  # one row of samples is enough
    settings = {"images": IMAGES, "epochs": EPOCHS, "judged": JUDGED}
    versions = {"avo_lib": avo_lib.__version__, "torch": torch.__version__}
    result = {"fault": name, "seed": seed, "settings": settings}
    result |= {"versions": versions, "curve": curve, **judged}
    write_atomically(file, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed in SEEDS:
        for name in RECIPES:
            run(name, seed)
