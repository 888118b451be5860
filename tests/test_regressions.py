"""Two regressions: the data as their sources describe them, the posterior's shape, and its evidence by another seed."""

import pytest
import torch

from avo_lib.experiments.regressions import LOG_Z, laplace, load, log_evidence, regression
from avo_lib.numerics import log_normal


@pytest.mark.parametrize(("name", "rows", "weights", "ones"), [("ionosphere", 351, 35, 225), ("sonar", 208, 61, 111)])
def test_the_data(name, rows, weights, ones):
    x, y = load(name)
    assert x.shape == (rows, weights) and y.sum() == ones and set(y.tolist()) == {0.0, 1.0}
    assert bool((x[:, -1] == 1).all())
    moves = x[:, :-1].abs().sum(0) > 0
    assert moves.sum() == weights - 1 - (name == "ionosphere"), "one column of Ionosphere never changes"
    still = torch.zeros(int(moves.sum()), dtype=x.dtype)
    torch.testing.assert_close(x[:, :-1][:, moves].mean(0), still)
    torch.testing.assert_close(x[:, :-1][:, moves].square().mean(0), still + 1)


def test_the_data_are_the_callers_own():
    for part in load("sonar"):
        part.zero_()
    assert load("sonar")[1].sum() == 111 and load("sonar")[0].abs().sum() > 0


@pytest.mark.parametrize("name", LOG_Z)
def test_the_posterior_is_prior_times_likelihood(name):
    target, (x, y) = regression(name), load(name)
    w = 0.3 * torch.randn(4, target.dim)
    likelihood = -torch.nn.functional.binary_cross_entropy_with_logits(w @ x.T, y.expand(4, -1), reduction="none")
    torch.testing.assert_close(
        target.log_density(w), likelihood.sum(1) + log_normal(w, torch.zeros(()), torch.ones(()))
    )


@pytest.mark.parametrize("name", LOG_Z)
def test_the_maximum(name):
    target, (w, covariance) = regression(name), laplace(name)
    assert torch.autograd.functional.jacobian(target.log_density, w).abs().max() < 1e-9
    hessian = torch.autograd.functional.hessian(target.log_density, w)
    torch.testing.assert_close(-hessian @ covariance, torch.eye(len(w)))


@pytest.mark.parametrize("name", LOG_Z)
def test_the_evidence_by_another_seed(name):
    found = log_evidence(name, 100_000, seed=7)
    assert found.stderr < 0.02, "no power to find an error of a tenth of a nat"
    assert abs(found.value - LOG_Z[name]) < 5 * found.stderr


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="ionosphere, sonar"):
        regression("german credit")
