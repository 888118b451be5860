"""Annealed variational inference: one importance weight, and every method that follows from it.

A method is a choice of *path* (:mod:`avo_lib.paths`), *proposal* and *kernels* (:mod:`avo_lib.chain`,
:mod:`avo_lib.kernels`) and *objective* (:mod:`avo_lib.objectives`). Start with :mod:`avo_lib.chain`. What makes the
book's results is in :mod:`avo_lib.experiments`, what draws in :mod:`avo_lib.show`; each has an extra of its own.
"""

from avo_lib.chain import Chain, Drawn, Gaussian, Trajectory
from avo_lib.data import Dataset
from avo_lib.estimate import Estimate
from avo_lib.evaluation import ais, kl_sandwich, log_likelihood, reverse_ais
from avo_lib.kernels import HMC, Flow, GatedKernel, Householder, autoregressive
from avo_lib.models import VAE, VAEConfig
from avo_lib.objectives import AVO, ELBO, IWAE, avo, elbo, iwae
from avo_lib.paths import AmortisedPath, GeometricPath, linear_alphas
from avo_lib.training import TrainConfig, fit

__version__ = "0.1.0"
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
]
