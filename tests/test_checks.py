"""Every configuration refuses at once what counts nothing, and keeps whole numbers in Python's own type."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil

import numpy as np
import pytest
import torch

import avo_lib
from avo_lib.balance import LogVariance, Widened
from avo_lib.checks import check_count, is_positive
from avo_lib.controls import NoisyEncoder, RestingEncoder
from avo_lib.experiments.benchmark import BenchmarkConfig
from avo_lib.experiments.dynamics import DynamicsConfig
from avo_lib.experiments.eight_modes import EightConfig
from avo_lib.experiments.energies import ToyConfig
from avo_lib.experiments.protocols import find
from avo_lib.experiments.referee import RefereeConfig
from avo_lib.gaps import GapConfig
from avo_lib.kernels import HMC
from avo_lib.models import VAEConfig
from avo_lib.models.ring import RingConfig
from avo_lib.objectives import AVO, IWAE
from avo_lib.pathwise import DReG
from avo_lib.schedules import Constant, Cyclical, Scaled, WarmUp
from avo_lib.training import TrainConfig

SETTINGS = [
    TrainConfig(epochs=2, patience=3),
    VAEConfig(T=3, batch_norm=False, pseudo_inputs=5),
    RingConfig("avo"),
    GapConfig(),
    RefereeConfig(),
    ToyConfig("a"),
    EightConfig(3),
    DynamicsConfig("ring", "mala", 4),
    BenchmarkConfig("ring", "AIS"),
    dataclasses.replace(find("report", "vae"), images=100),
    AVO(),
    IWAE(),
    DReG(),
    LogVariance(),
    Widened(1.0),
    RestingEncoder(),
    NoisyEncoder(0.1, 0.1),
    HMC(0.5),
    Constant(),
    WarmUp(0.2, 0.1),
    Cyclical(10),
    Scaled(Constant(), 1.25),
]
NO_SETTINGS = {"Progress", "Estimate", "Trajectory", "Target", "GaussianMixture", "Contestant"}  # found or exact


def numbers(config, kind=("int", "float")):
    """The names of a dataclass's fields that are annotated as numbers of this kind."""
    return [field.name for field in dataclasses.fields(config) if str(field.type).removesuffix(" | None") in kind]


def test_no_configuration_is_forgotten():
    modules = [m.name for m in pkgutil.walk_packages(avo_lib.__path__, "avo_lib.") if not m.name.endswith("__main__")]
    classes = {one for name in modules for one in vars(importlib.import_module(name)).values() if inspect.isclass(one)}
    found = {one.__name__ for one in classes if dataclasses.is_dataclass(one) and numbers(one)}
    found = {name for name in found if not name.startswith("_")}  # the parser's, whose numbers a command checks
    assert found == {type(config).__name__ for config in SETTINGS} | NO_SETTINGS


@pytest.mark.parametrize("config, name", [(config, name) for config in SETTINGS for name in numbers(config)])
def test_what_is_no_number_is_refused(config, name):
    for wrong in (math.nan, math.inf, -math.inf, -2 if name != "gate_bias" else math.nan):
        with pytest.raises(ValueError):
            dataclasses.replace(config, **{name: wrong})


@pytest.mark.parametrize("config, name", [(config, name) for config in SETTINGS for name in numbers(config, ("int",))])
def test_a_count_is_a_whole_number(config, name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least [0-9]+, not 2.5"):
        dataclasses.replace(config, **{name: 2.5})
    with pytest.raises(ValueError, match="not True"):
        dataclasses.replace(config, **{name: True})
    for whole in (np.int64(8), torch.tensor(8)):
        kept = getattr(dataclasses.replace(config, **{name: whole}), name)
        assert type(kept) is int and kept == 8


@pytest.mark.parametrize("config, name", [(config, name) for config in SETTINGS for name in numbers(config, ("int",))])
def test_what_counts_nothing_is_refused(config, name):
    """Only ``T`` and ``pseudo_inputs`` of a VAE may be 0, for none of them, and a toy's updates, for the untrained."""
    may = isinstance(config, VAEConfig) and name in ("T", "pseudo_inputs")
    if may or (isinstance(config, ToyConfig) and name == "updates"):
        assert getattr(dataclasses.replace(config, **{name: 0}), name) == 0
    else:
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            dataclasses.replace(config, **{name: 0})


@pytest.mark.parametrize("change", [{"binarisation": "grey"}, {"dataset": "cifar"}])
def test_an_experiment_without_data_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        dataclasses.replace(find("report", "vae"), **change)


@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True)])
def test_a_truth_value_is_no_number(value):
    with pytest.raises(ValueError, match="whole number"):
        check_count("T", value)
    assert not is_positive(value)
