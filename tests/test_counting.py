"""The price of a chain, counted."""

import pytest
import torch

from avo_lib.chain import Chain, Gaussian
from avo_lib.counting import Counted
from avo_lib.evaluation import ais
from avo_lib.kernels import HMC, Controlled, Drift, GatedKernel, Langevin, LearnedReverse, Underdamped
from avo_lib.momentum import with_momentum
from avo_lib.numerics import log_normal
from avo_lib.paths import GeometricPath, linear_alphas

KERNELS = {
    "langevin": (lambda: Langevin(0.1), 2),
    "controlled": (lambda: Controlled(0.1, Drift(2, 4), (0.0, 1.0)), 2),
    "learned reverse": (lambda: LearnedReverse(0.1, Drift(2, 4), (0.0, 1.0)), 2),
    "underdamped": (lambda: Underdamped(0.1, 0.5), 2),
    "one leapfrog step and a test": (lambda: HMC(0.1, 1), 2),
    "ten leapfrog steps and a test": (lambda: HMC(0.1, 10), 11),
    "gated": (lambda: GatedKernel(2, 4), 0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_of_a_step(name, generator):
    """All one-step dynamics take two; a learned kernel none."""
    make, gradients = KERNELS[name]
    base = Gaussian(torch.zeros(2), torch.ones(2))
    counted = Counted(lambda z: log_normal(z, 1.0))
    chain = Chain(base, [make()] * 5, GeometricPath(base.log_prob, counted, linear_alphas(5)))
    ais(with_momentum(chain) if name == "underdamped" else chain, 30, generator=generator)
    assert counted.gradients == 30 * 5 * gradients
    assert counted.values == counted.gradients + 30


def test_values_without_gradients():
    counted = Counted(log_normal)
    counted(torch.zeros(4, 3, 2))
    assert (counted.values, counted.gradients) == (12, 0)
