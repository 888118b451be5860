"""Train and judge every fault of faults.py, at every seed.

python book/experiments/run_faults.py makes what is missing in
results/toys/post_mortem, about a minute each. It can be interrupted.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import avo_lib
import torch
from avo_lib.chain import Chain, Gaussian
from avo_lib.collapse import active_units
from avo_lib.evaluation import log_likelihood
from avo_lib.experiments.mnist import default_root, load_mnist
from avo_lib.files import write_atomically
from avo_lib.models.vae import VAE
from avo_lib.numerics import log_bernoulli, log_normal
from avo_lib.objectives import elbo
from avo_lib.paths import AmortisedPath, linear_alphas
from faults import (
    EPOCHS,
    RECIPES,
    SEEDS,
    All,
    BatchSum,
    Correct,
    bounds,
    train,
)
from torch import Generator, Tensor
from torchvision import datasets

RESULTS = Path(__file__).parents[2] / "results" / "toys" / "post_mortem"
IMAGES, JUDGED = 10_000, 500


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
        return self.model.chain(judged, seen=seen)


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
    settings = {"images": IMAGES, "epochs": EPOCHS, "judged": JUDGED}
    if file.is_file():
        if json.loads(file.read_bytes())["settings"] != settings:
            raise ValueError(f"{file} has other settings: move it away")
        return
    whole, recipe = load_mnist("dynamic"), RECIPES[name]()
    few = whole.first(JUDGED)
    data = replace(few, train=whole.train[:IMAGES])
    raw = datasets.MNIST(default_root(), train=False).data[:JUDGED]
    model, curve = train(recipe, seed, data)
    judged = judge(recipe, model, few.test, raw.flatten(1) / 255)
    if seed:
        del judged["pictures"]  # one row of samples is enough
    versions = {"avo_lib": avo_lib.__version__, "torch": torch.__version__}
    result = {"fault": name, "seed": seed, "settings": settings}
    result |= {"versions": versions, "curve": curve, **judged}
    write_atomically(file, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed in SEEDS:
        for name in RECIPES:
            run(name, seed)
