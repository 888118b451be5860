"""The assertions themselves: they fail when they should, which is all that they are for."""

import math

import pytest
import torch
from torch.nn import functional

from avo_lib.estimate import Estimate
from avo_lib.numerics import log_normal
from avo_lib.testing import assert_bracket, assert_log_density, assert_mean, assert_unbiased_weights, claim


def test_a_true_mean_passes(generator):
    assert_mean(3.0 + torch.randn(10_000, 4, generator=generator), 3.0, resolution=0.02)
    assert_mean(
        torch.randn(10_000, 2, generator=generator) + torch.tensor([1.0, 2.0]),
        torch.tensor([1.0, 2.0]),
        resolution=0.02,
    )


def test_a_wrong_mean_fails(generator):
    with pytest.raises(AssertionError, match=r"standard errors from 3\.1"):
        assert_mean(3.0 + torch.randn(10_000, generator=generator), 3.1, resolution=0.02)


def test_one_wrong_entry_among_many_fails(generator):
    x = torch.randn(10_000, 50, generator=generator)
    x[:, 17] += 0.1
    with pytest.raises(AssertionError, match="standard errors from"):
        assert_mean(x, 0.0, resolution=0.02)


def test_the_mean_of_few_draws_says_nothing(generator):
    with pytest.raises(AssertionError, match=r"no power: standard error 0\.\d+, need less than 0\.02"):
        assert_mean(torch.randn(100, generator=generator), 0.0, resolution=0.02)


def test_draws_without_noise_must_be_right():
    assert_mean(torch.full((10,), 2.0), 2.0, resolution=0.1)
    with pytest.raises(AssertionError):
        assert_mean(torch.full((10,), 2.0), 2.0 + 1e-9, resolution=0.1)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_mean_that_is_no_number_fails(broken, generator):
    x = torch.randn(10_000, generator=generator)
    x[3] = broken
    with pytest.raises(AssertionError):
        assert_mean(x, 0.0, resolution=0.02)


def test_unbiased_weights(generator):
    log_w = 4.0 + 0.5 * torch.randn(20_000, generator=generator) - 0.125  # E w = exp(4)
    assert_unbiased_weights(log_w, 4.0, resolution=0.01)
    with pytest.raises(AssertionError, match="standard errors"):
        assert_unbiased_weights(log_w, 4.1, resolution=0.01)
    with pytest.raises(AssertionError, match="no power"):
        assert_unbiased_weights(log_w[:100], 4.0, resolution=0.01)


def bracket(low: float, high: float, stderr: float = 0.01) -> tuple[Estimate, Estimate]:
    return Estimate(low, stderr, "lower"), Estimate(high, stderr, "upper")


def check(bounds: tuple[Estimate, Estimate], truth: float, width: float = 1.0) -> None:
    assert_bracket(bounds[0], truth, bounds[1], width=width)


def test_a_bracket_around_the_truth_passes():
    check(bracket(1.0, 1.5), 1.2)
    check(bracket(1.24, 1.5), 1.2)  # within five standard errors
    check(bracket(1.0, 1.16), 1.2)


@pytest.mark.parametrize("low, high", [(1.26, 1.5), (1.0, 1.14)])
def test_a_bound_on_the_wrong_side_fails(low, high):
    with pytest.raises(AssertionError, match="is not between"):
        check(bracket(low, high), 1.2)


@pytest.mark.parametrize("bounds", [bracket(0.5, 1.45), bracket(1.0, 1.4, stderr=0.1)])
def test_a_wide_bracket_fails(bounds):
    with pytest.raises(AssertionError, match="no power: the bracket"):
        check(bounds, 1.2)


def test_a_bracket_needs_one_bound_of_each_kind():
    lower, upper = bracket(1.0, 1.5)
    for bounds in ((upper, lower), (lower, lower), (upper, upper)):
        with pytest.raises(AssertionError, match="need a lower and an upper bound"):
            check(bounds, 1.2)


COUNTS = torch.tensor([[1.0, 0.0], [2.0, 5.0]])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z: -0.5 * z.square().sum() + 0 * z[..., 0],
        lambda z: log_normal(z) - functional.poisson_nll_loss(z, COUNTS[0].expand_as(z)),  # a mean, by default
        lambda z: log_normal(z) * torch.nan,
    ],
    ids=["sum", "loss", "NaN"],
)
def test_a_density_that_mixes_its_points_fails(wrong, generator):
    with pytest.raises(AssertionError, match=r"z\[0\] alone has log f = .*among the others"):
        assert_log_density(wrong, torch.randn(5, 2, generator=generator))


def test_a_log_density_of_each_point_passes(generator):
    z = 30 * torch.randn(5, 2, generator=generator)
    assert_log_density(log_normal, z.float())
    assert_log_density(lambda z: torch.where(z[..., 0] > 0, log_normal(z), -torch.inf), z)
    data = lambda z: -functional.poisson_nll_loss(z, COUNTS.expand_as(z), reduction="none").sum(-1)  # noqa: E731
    assert_log_density(data, torch.randn(5, 2, 2, generator=generator))  # of two data
    for few in (z[:1], z[0]):
        with pytest.raises(ValueError, match="at least two points"):
            assert_log_density(log_normal, few)
    with pytest.raises(ValueError, match="one log density for each point"):
        assert_log_density(lambda z: z[..., :1], z)


def test_a_claim_that_holds_is_printed(capsys):
    claim("one is less than two", torch.tensor(1) < torch.tensor(2))
    assert capsys.readouterr().out == "✓ one is less than two\n"


@pytest.mark.parametrize("holds", [False, torch.tensor(False), torch.tensor(math.nan) > 0])
def test_a_claim_that_does_not_hold_fails(holds, capsys):
    with pytest.raises(AssertionError, match="does not hold: pigs fly"):
        claim("pigs fly", holds)
    assert capsys.readouterr().out == ""


def test_a_bracket_of_nan_fails():
    nan = float("nan")
    with pytest.raises(AssertionError):
        assert_bracket(Estimate(nan, 0.1, "lower"), 0.0, Estimate(1.0, 0.1, "upper"), width=5.0)
    with pytest.raises(AssertionError):
        assert_bracket(Estimate(-1.0, 0.1, "lower"), nan, Estimate(1.0, 0.1, "upper"), width=5.0)
