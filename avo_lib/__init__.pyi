"""The names that `avo_lib` exports, and where they are at home: `__init__.py` reads this file."""

from .chain import Chain, Drawn, Gaussian, Trajectory
from .data import Dataset
from .estimate import Estimate
from .evaluation import ais, kl_sandwich, log_likelihood, reverse_ais
from .kernels import HMC, Flow, GatedKernel, Householder, Langevin, autoregressive, tune_step_sizes
from .models import VAE, VAEConfig
from .objectives import AVO, ELBO, IWAE, avo, elbo, iwae
from .paths import AmortisedPath, GeometricPath, linear_alphas
from .training import TrainConfig, fit

__version__: str
__all__ = [
    "AVO",
    "ELBO",
    "HMC",
    "IWAE",
    "VAE",
    "AmortisedPath",
    "Chain",
    "Dataset",
    "Drawn",
    "Estimate",
    "Flow",
    "GatedKernel",
    "Gaussian",
    "GeometricPath",
    "Householder",
    "Langevin",
    "TrainConfig",
    "Trajectory",
    "VAEConfig",
    "ais",
    "autoregressive",
    "avo",
    "elbo",
    "fit",
    "iwae",
    "kl_sandwich",
    "linear_alphas",
    "log_likelihood",
    "reverse_ais",
    "tune_step_sizes",
]
