"""How fast the library is, against floors and peers: ``python benchmarks/speed.py``, or with the names of sections.

One thread; process CPU time; variants interleaved in one run, so that ratios hold on a busy machine; medians.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import annealing
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import datasets, transforms

from avo_lib.chain import Chain, Gaussian
from avo_lib.data import binarise
from avo_lib.evaluation import log_likelihood
from avo_lib.experiments.mnist import default_root, load_mnist
from avo_lib.experiments.protocols import find
from avo_lib.kernels import GatedKernel
from avo_lib.models import VAE, VAEConfig
from avo_lib.objectives import AVO, ELBO, avo
from avo_lib.paths import GeometricPath, linear_alphas
from avo_lib.targets import energy
from avo_lib.training import TrainConfig, fit

SHAPES = ((784, 300), (300, 300), (300, 80), (40, 300), (300, 300), (300, 784))


def interleaved(variants: dict[str, Callable[[], object]], rounds: int, warm_up: int = 5) -> dict[str, float]:
    """Median seconds of CPU time of each variant, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + warm_up):
        for name, call in variants.items():
            start = time.process_time()
            call()
            if i >= warm_up:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(model: VAE, x: Tensor, detach: bool = False) -> Callable[[], object]:
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        bound = (AVO(1.0) if detach else ELBO())(model, x).mean()
        optimiser.zero_grad()
        (-bound).backward()
        optimiser.step()

    return step


def matrix_products(rows: int) -> Callable[[], object]:
    """The products of one step alone: forward, gradient of the weights, gradient of the inputs."""
    xs = [(torch.randn(rows, i), torch.randn(i, o), torch.randn(rows, o)) for i, o in SHAPES]

    def step() -> None:
        for k, (x, w, g) in enumerate(xs):
            x @ w
            x.t() @ g
            if k:  # the images need no gradient
                g @ w.t()

    return step


def steps() -> list[str]:
    lines = ["## Training step", "", "VAE 784-300-300-40, batch norm, fused Adam.", ""]
    lines += ["| batch | matrix products alone | VAE step | share of the floor's speed |", "|---|---|---|---|"]
    for rows in (64, 256):
        x = binarise(torch.rand(rows, 784))
        found = interleaved(
            {"floor": matrix_products(rows), "step": training_step(VAE(VAEConfig(batch_norm=False)), x)}, 60
        )
        share = found["floor"] / found["step"]
        lines.append(f"| {rows} | {found['floor'] * 1e3:.2f} ms | {found['step'] * 1e3:.2f} ms | {share:.0%} |")
    x = binarise(torch.rand(128, 784))
    variants = {
        "VAE": training_step(VAE(VAEConfig()), x),
        "HVI": training_step(VAE(VAEConfig(T=5)), x),
        "AVO": training_step(VAE(VAEConfig(T=5)), x, detach=True),
    }
    found = interleaved(variants, 60)
    lines += ["", "At batch 128, T = 5:", "", "| step | time | against |", "|---|---|---|"]
    lines.append(f"| VAE | {found['VAE'] * 1e3:.1f} ms | |")
    lines.append(f"| HVI | {found['HVI'] * 1e3:.1f} ms | {found['HVI'] / found['VAE']:.2f} × VAE |")
    lines.append(f"| AVO | {found['AVO'] * 1e3:.1f} ms | {found['AVO'] / found['HVI']:.2f} × HVI |")
    return lines


def usual_epoch(images: int, batch: int) -> Callable[[], object]:
    """The loop that most tutorials have: PIL transforms item by item, torch.distributions, default Adam."""
    load_mnist()
    tensor = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: torch.bernoulli(x).flatten())])
    dataset = torch.utils.data.Subset(datasets.MNIST(default_root(), transform=tensor), range(images))
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)
    encoder = nn.Sequential(nn.Linear(784, 300), nn.LeakyReLU(), nn.Linear(300, 300), nn.LeakyReLU())
    head = nn.Linear(300, 80)
    decoder = nn.Sequential(
        nn.Linear(40, 300), nn.LeakyReLU(), nn.Linear(300, 300), nn.LeakyReLU(), nn.Linear(300, 784)
    )
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters(), *decoder.parameters()], 1e-3)
    prior = torch.distributions.Normal(torch.zeros(40), torch.ones(40))

    def epoch() -> None:
        for x, _ in loader:
            mean, std = head(encoder(x)).chunk(2, -1)
            posterior = torch.distributions.Normal(mean, functional.softplus(std) + 1e-4)
            z = posterior.rsample()
            likelihood = torch.distributions.Bernoulli(logits=decoder(z)).log_prob(x).sum(-1)
            loss = -(likelihood + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return epoch


def pythae_epoch(images: Tensor, batch: int) -> Callable[[], object] | None:
    """Pythae's VAE of the same shape and batch with its own trainer; None where pythae is not installed."""
    try:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE as PythaeVAE
        from pythae.models import VAEConfig as PythaeConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
    except ImportError:
        return None

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(784, 300), nn.LeakyReLU(), nn.Linear(300, 300), nn.LeakyReLU())
            self.mean, self.log_var = nn.Linear(300, 40), nn.Linear(300, 40)

        def forward(self, x: Tensor) -> ModelOutput:
            h = self.trunk(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(40, 300), nn.LeakyReLU(), nn.Linear(300, 300), nn.LeakyReLU(), nn.Linear(300, 784)
            )

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.layers(z).sigmoid())

    config = PythaeConfig(input_dim=(784,), latent_dim=40, reconstruction_loss="bce")
    model = PythaeVAE(config, encoder=Encoder(), decoder=Decoder())
    folder = tempfile.mkdtemp()
    trainer = BaseTrainer(
        model=model,
        train_dataset=BaseDataset(images, torch.zeros(len(images))),
        training_config=BaseTrainerConfig(
            output_dir=folder, num_epochs=1, per_device_train_batch_size=batch, learning_rate=1e-3, no_cuda=True
        ),
    )
    trainer.prepare_training()
    return lambda: trainer.train_step(epoch=1)


def epochs() -> list[str]:
    images, batch, data = 10_000, 64, load_mnist("dynamic").first(10_000)
    x = data.train
    order, binary = torch.randperm(images), binarise(x)

    def pipeline() -> None:
        for index in order.split(batch):
            binarise(x.index_select(0, index))

    model, config = VAE(VAEConfig(batch_norm=False)), TrainConfig(epochs=1, batch_size=batch)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def epoch(images: Tensor, dynamic: bool) -> None:
        for index in order.split(batch):
            chosen = images.index_select(0, index)
            bound = ELBO()(model, binarise(chosen) if dynamic else chosen).mean()
            optimiser.zero_grad()
            (-bound).backward()
            optimiser.step()

    variants: dict[str, Callable[[], object]] = {
        "data pipeline alone": pipeline,
        "this library, binarising at every visit": lambda: epoch(x, True),
        "this library, binary images": lambda: epoch(binary, False),
        "this library's fit, with validation": lambda: fit(model, data, config),
        "the usual loop, binarising at every visit": usual_epoch(images, batch),
    }
    peer = pythae_epoch(binary, batch)
    if peer is not None:
        variants["pythae, binary images"] = peer
    found = interleaved(variants, 5, warm_up=1)
    lines = ["## Epoch", "", "10,000 images, batch 64, the same layers without batch norm.", ""]
    lines += ["| way | s | times this library on the same images |", "|---|---|---|"]
    for name, value in found.items():
        ours = found["this library, " + ("binary images" if "binary" in name else "binarising at every visit")]
        lines.append(f"| {name} | {value:.2f} | {value / ours:.2f} |")
    if peer is None:
        lines += ["", "Pythae is not installed here; `pip install pythae` adds its row."]
    return lines


def evaluation() -> list[str]:
    x, samples = load_mnist("fixed").test[:10], 500
    model = find("report", "vae").build(0).eval()
    rows = [torch.randn(1000, i) for i in (40, 300, 300)]
    weights = [torch.randn(i, o) for i, o in SHAPES[3:]]

    def floor() -> None:
        for _ in range(len(x) * samples // 1000):
            for row, weight in zip(rows, weights, strict=True):
                row @ weight

    with torch.inference_mode():
        found = interleaved({"floor": floor, "nll": lambda: log_likelihood(model, x, samples)}, 20)
    per_draw = {name: value / (len(x) * samples) * 1e6 for name, value in found.items()}
    return [
        "## Importance-sampled NLL",
        "",
        "| | µs for each image and sample |",
        "|---|---|",
        f"| the decoder's matrix products alone | {per_draw['floor']:.1f} |",
        f"| the whole estimate | {per_draw['nll']:.1f} ({per_draw['nll'] / per_draw['floor']:.2f} ×) |",
        "",
        f"Peak memory of a process that evaluates 20 images: {peak_memory(100)} MB with K = 100 and "
        f"{peak_memory(5000)} MB with K = 5000, importing PyTorch included.",
    ]


MEMORY = """
import sys, torch
from avo_lib.evaluation import log_likelihood
from avo_lib.experiments.protocols import find
torch.set_num_threads(1)
log_likelihood(find("report", "vae").build(0).eval(), (torch.rand(20, 784) < 0.2).float(), int(sys.argv[1]))
# Not ru_maxrss: a child inherits its parent's. VmHWM is this program's own peak.
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_memory(samples: int) -> int:
    """Megabytes that a fresh process needs for an estimate with so many samples."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(samples)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def toy_step(seeds: int) -> Callable[[], object]:
    base = Gaussian(torch.zeros(seeds, 64, 2), torch.ones(seeds, 64, 2))
    kernels = nn.ModuleList(GatedKernel(2, 64, batch=(seeds,)) for _ in range(5))
    path = GeometricPath(base.log_prob, energy("d").log_density, linear_alphas(5))
    optimiser = torch.optim.Adam(kernels.parameters(), 1e-3, fused=True)
    chain = Chain(base, list(kernels), path)

    def step() -> None:
        bound = avo(chain.sample(detach=True)).mean(-1).sum()
        optimiser.zero_grad()
        (-bound).backward()
        optimiser.step()

    return step


def toys() -> list[str]:
    found = interleaved({"one": toy_step(1), "sixteen": toy_step(16)}, 100, warm_up=20)
    return [
        "## Many seeds in one run",
        "",
        "One AVO step on energy d, T = 5, 64 hidden units, 64 points a seed.",
        "",
        "| seeds | ms | times one seed |",
        "|---|---|---|",
        f"| 1 | {found['one'] * 1e3:.2f} | |",
        f"| 16 | {found['sixteen'] * 1e3:.2f} | {found['sixteen'] / found['one']:.2f} |",
    ]


def annealed() -> list[str]:
    lines = [
        "## Annealed importance sampling",
        "",
        "A mixture of eight Gaussians, 100 temperatures, five leapfrog steps; JAX without its compilation.",
        "",
        "| chains | way | s | times this library | log Z, exactly 0 |",
        "|---|---|---|---|---|",
    ]
    for chains in (1000, 10_000):
        ways = annealing.variants(chains)
        found = interleaved(ways, 7, warm_up=2)
        ratio = found["this library"]
        for name, way in ways.items():
            lines.append(f"| {chains:,} | {name} | {found[name]:.2f} | {found[name] / ratio:.2f} | {way():.2f} |")
    if len(ways) < 3:
        lines += ["", "JAX or BlackJAX is not installed here; `pip install jax blackjax` adds their rows."]
    return lines


SECTIONS = (steps, toys, evaluation, annealed, epochs)


def main() -> None:
    torch.set_num_threads(1)
    wanted = [part for part in SECTIONS if part.__name__ in sys.argv[1:] or len(sys.argv) == 1]
    parts = [part() for part in wanted]
    report = "\n\n".join("\n".join(part) for part in parts)
    print(report)
    page = Path(__file__).with_name("README.md")
    head, _, old = page.read_text(encoding="utf-8").partition("<!-- figures -->")
    sections = {text.splitlines()[0]: text.strip() for text in re.split(r"^(?=## )", old, flags=re.MULTILINE)[1:]}
    sections |= {part[0]: "\n".join(part) for part in parts}
    page.write_text(f"{head}<!-- figures -->\n\n" + "\n\n".join(sections.values()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
