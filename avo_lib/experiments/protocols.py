"""Named experiments: each method under each protocol, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from avo_lib.checks import check_counts
from avo_lib.controls import NoisyEncoder, RestingEncoder
from avo_lib.data import Dataset
from avo_lib.experiments import mnist, omniglot
from avo_lib.models.vae import VAE, VAEConfig
from avo_lib.objectives import AVO, IWAE
from avo_lib.pathwise import DReG
from avo_lib.schedules import Constant, Cyclical, Scaled, WarmUp
from avo_lib.training import TrainConfig


class Setup(Protocol):
    """What can be run, swept and resumed: :class:`Experiment` is one, and your own class may be another."""

    @property
    def train(self) -> TrainConfig:
        """Objective and optimiser."""
        ...

    @property
    def samples(self) -> int | None:
        """Number K of samples for the test log-likelihood; None leaves the test set alone."""
        ...

    def data(self) -> Dataset:
        """The data to train on."""
        ...

    def build(self, seed: int) -> nn.Module:
        """The untrained model, with ``chain(x)``."""
        ...

    def described(self) -> dict[str, Any]:
        """All settings as plain values: a result of other settings is never taken for this one."""
        ...


DATASETS = {"mnist": mnist.load_mnist, "fashion_mnist": mnist.load_fashion_mnist, "omniglot": omniglot.load_omniglot}
TRAIN_IMAGES = dict.fromkeys(DATASETS, mnist.TRAIN_IMAGES) | {"omniglot": omniglot.TRAIN_IMAGES}


@dataclass(frozen=True)
class Experiment:
    """One method under one protocol.

    Attributes:
        model: Architecture.
        train: Objective and optimiser.
        binarisation: ``"dynamic"`` or ``"fixed"``; see :mod:`avo_lib.experiments.mnist`.
        images: Number of images to keep of each split, the first ones; None for all.
        samples: Number K of samples for the test log-likelihood; None leaves the test set alone, as a search must.
        dataset: ``"mnist"``, ``"fashion_mnist"`` or ``"omniglot"``.

    Raises:
        ValueError: If there is no such dataset or binarisation, or images or samples are not whole numbers above 0.
    """

    model: VAEConfig
    train: TrainConfig
    binarisation: str
    images: int | None = None
    samples: int | None = 1000
    dataset: str = "mnist"

    def __post_init__(self) -> None:
        """Refuse data that do not exist before anything is trained on them."""
        for value, valid in ((self.dataset, DATASETS), (self.binarisation, mnist.BINARISATIONS)):
            if value not in valid:
                raise ValueError(f"{value!r} is not one of {', '.join(valid)}")
        check_counts(self, *(name for name in ("images", "samples") if getattr(self, name) is not None))

    def data(self) -> Dataset:
        """The images of this experiment."""
        data = DATASETS[self.dataset](self.binarisation)
        return data if self.images is None else data.first(self.images)

    def build(self, seed: int) -> VAE:
        """The model with its initial weights, without touching the caller's random state."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            return VAE(self.model)

    def described(self) -> dict[str, Any]:
        """All settings as plain values, as a result has them."""
        return {
            "model": asdict(self.model),
            "train": self.train.described(),
            "binarisation": self.binarisation,
            "images": self.images,
            "dataset": self.dataset,
        }


def _methods(base: Experiment, T: int = 5) -> dict[str, Experiment]:
    """The eight methods compared under one protocol; ``base`` is the plain VAE."""
    chain = replace(base, model=replace(base.model, T=T))
    return {
        "vae": base,
        "vae_constant": _train(base, beta=Constant()),
        "vae_cyclical": _train(base, beta=Cyclical(period=math.ceil(base.train.epochs * _steps(base) / 4))),
        "iwae": _train(base, objective=IWAE(5)),
        "householder": replace(chain, model=replace(chain.model, kernel="householder")),
        "hvi": chain,
        "avo": _train(chain, objective=AVO(0.2)),
        "avo_half": _train(chain, objective=AVO(0.5)),
    }


def _report(base: Experiment, T: int = 5) -> dict[str, Experiment]:
    """The eight, inverse autoregressive flows of the same depth and width, and IWAE's other gradient."""
    iaf = replace(base, model=replace(base.model, T=T, kernel="autoregressive"))
    flows = {"iaf": iaf, "avo_iaf": _train(iaf, objective=AVO(0.2))}
    return _methods(base, T) | flows | {"dreg": _train(base, objective=DReG(5))}


def _steps(base: Experiment) -> int:  # steps in an epoch
    return math.ceil((base.images or TRAIN_IMAGES[base.dataset]) / base.train.batch_size)


def _train(base: Experiment, **changes: Any) -> Experiment:
    return replace(base, train=replace(base.train, **changes))


_REPORT = Experiment(VAEConfig(), TrainConfig(epochs=25, beta=WarmUp(0.2, 2e-4)), "dynamic")
_PAPER = Experiment(
    VAEConfig(layers="gated", batch_norm=False, conditioning="weight_norm"),
    TrainConfig(epochs=200, batch_size=100, lr=5e-4, beta=WarmUp(0.2, 1.6e-5)),  # beta is 1 after 100 epochs
    "fixed",
)
_SMALL = VAEConfig(hidden=(200,), latent=20)
_MINIATURE = Experiment(_SMALL, TrainConfig(epochs=20, beta=WarmUp(0.2, 2e-3)), "dynamic", images=2000, samples=100)


def _some(methods: dict[str, Experiment], *names: str) -> dict[str, Experiment]:
    return {name: methods[name] for name in names}


def _wide(base: Experiment, std: float = 0.2) -> Experiment:
    """Kernels that start with another standard deviation, as a rule four times the usual one."""
    return replace(base, model=replace(base.model, std_init=std))


def _search() -> dict[str, Experiment]:
    """The grid on which the paper protocol is chosen, on the validation bound; the same for every method."""
    short = replace(_PAPER, train=replace(_PAPER.train, epochs=60), samples=None)
    methods, rates = _methods(short), {"warm8": 2e-4, "warm40": 4e-5}  # epochs until beta is 1
    grid = {
        f"{name}_lr{lr:g}_{warm}": _train(methods[name], lr=lr, beta=WarmUp(0.2, rates[warm]))
        for lr, warm in ((1e-3, "warm8"), (1e-3, "warm40"), (5e-4, "warm40"))
        for name in ("vae", "hvi", "avo")
    }
    leads = {f"{name}_wide": _wide(grid[f"{name}_lr0.0005_warm40"]) for name in ("hvi", "avo")}
    return grid | leads | {"avo_all_wide": _train(leads["avo_wide"], objective=AVO(0.2, also=("decoder", "features")))}


def _readings(base: Experiment) -> dict[str, Experiment]:
    """What the paper's AVO might have been, and what might look like it; ``base`` is the plain VAE."""
    hvi, avo = (_methods(base)[name] for name in ("hvi", "avo"))
    warm_up = base.train.beta
    assert isinstance(warm_up, WarmUp)
    encoder = AVO(0.2, also=("features", "proposal"))
    everything = AVO(0.2, also=("decoder", "features", "proposal"))
    return {
        "hvi_wide": _wide(hvi),
        "avo_wide": _wide(avo),
        "hvi_resting": _train(hvi, objective=RestingEncoder(0.2)),
        "avo_proposal": _train(hvi, objective=AVO(0.2, also=("proposal",))),
        "avo_proposal_half": _train(hvi, objective=AVO(0.5, also=("proposal",))),
        "avo_proposal_wide": _train(_wide(hvi), objective=AVO(0.2, also=("proposal",))),
        "avo_proposal_features": _train(hvi, objective=encoder),
        "avo_proposal_features_wide": _train(_wide(hvi), objective=encoder),
        "avo_joint": _train(hvi, objective=AVO(0.2, joint=True)),
        "avo_joint_wide": _train(_wide(hvi), objective=AVO(0.2, joint=True)),
        "avo_everything": _train(hvi, objective=everything),
        "avo_everything_wide": _train(_wide(hvi), objective=everything),
        "avo_everything_half_wide": _train(_wide(hvi), objective=replace(everything, share=0.5)),
        "avo_everything_very_wide": _train(_wide(hvi, 1.0), objective=everything),
        "hvi_very_wide": _wide(hvi, 1.0),
        "vae_noise15": _train(base, objective=NoisyEncoder(0.15)),
        "vae_noise30": _train(base, objective=NoisyEncoder(0.3)),
        "vae_noise50": _train(base, objective=NoisyEncoder(0.5)),
        "vae_flips": _train(base, objective=NoisyEncoder(flips=0.05)),
        "hvi_noise15": _train(hvi, objective=NoisyEncoder(0.15)),
        "vae_beta125": _train(base, beta=Scaled(warm_up, 1.25)),
        "vae_beta200": _train(base, beta=Scaled(warm_up, 2.0)),
    }


def _screening(**changes: Any) -> dict[str, Experiment]:
    """A fifth of the paper protocol, which shows overfitting strongly: it chooses what runs at full length."""
    train = replace(_PAPER.train, epochs=100, beta=WarmUp(0.2, 1.6e-4))  # beta is 1 after 50 epochs of 100 steps
    base = replace(_PAPER, train=train, images=10_000, **{"samples": None, **changes})
    return _methods(base) | _readings(base)


def _fashion() -> dict[str, Experiment]:
    """The methods that the first data set left standing, once more on another, in the screening protocol."""
    return _some(_screening(samples=1000, dataset="fashion_mnist"), "vae", "hvi", "avo", "vae_noise15")


def _omniglot() -> dict[str, Experiment]:
    """The second half of the paper's table: its protocol, with 200 latents."""
    paper = replace(_PAPER, model=replace(_PAPER.model, latent=200), dataset="omniglot")
    base = _train(paper, beta=WarmUp(0.2, 0.8 / (100 * _steps(paper))))  # its epochs have fewer steps than MNIST's
    return _some(_methods(base) | _readings(base), "vae", "hvi", "avo", "vae_noise15")


def _stronger() -> dict[str, Experiment]:
    """A better model in the report protocol: gated layers and a learned prior; ``vae_normal`` has N(0, I)."""
    model = VAEConfig(layers="gated", batch_norm=False, pseudo_inputs=100)
    plain = replace(_REPORT, model=replace(model, pseudo_inputs=0))
    return _some(_methods(replace(_REPORT, model=model)), "vae", "iwae", "hvi", "avo") | {"vae_normal": plain}


EXPERIMENTS = {
    "report": _report(_REPORT),
    "report_fixed": _methods(replace(_REPORT, binarisation="fixed")),
    "report_long": _report(_train(_REPORT, epochs=100)),
    "paper": _methods(_PAPER) | _readings(_PAPER),
    "screening": _screening(),
    "fashion": _fashion(),
    "omniglot": _omniglot(),
    "search": _search(),
    "stronger": _stronger(),
    "miniature": _methods(_MINIATURE),
}


def find(experiment: str, method: str) -> Experiment:
    """A named experiment.

    Raises:
        ValueError: If the name is unknown; the message lists those that exist.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"no experiment {experiment!r}; there are {', '.join(EXPERIMENTS)}")
    if method not in EXPERIMENTS[experiment]:
        raise ValueError(f"no method {method!r} in {experiment}; there are {', '.join(EXPERIMENTS[experiment])}")
    return EXPERIMENTS[experiment][method]
