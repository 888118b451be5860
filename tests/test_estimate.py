"""Estimates know which side of the truth they are on, and how far they may be."""

import math

import pytest
import torch

from avo_lib.estimate import Bracket, Estimate, bennett, log_mean, mean
from avo_lib.numerics import log_mean_exp
from avo_lib.testing import assert_mean


def test_a_negated_lower_bound_is_an_upper_bound():
    lower = Estimate(-90.0, 0.2, "lower")
    assert -lower == Estimate(90.0, 0.2, "upper")
    negated = -lower
    assert -negated == lower
    assert -Estimate(1.0, 0.1, "exact") == Estimate(-1.0, 0.1, "exact")


def test_a_constant_moves_the_value_alone():
    lower = Estimate(-90.0, 0.2, "lower")
    assert 5.0 + lower == lower + 5.0 == lower - -5.0 == Estimate(-85.0, 0.2, "lower")


def test_a_constant_minus_a_lower_bound_is_an_upper_bound():
    lower = Estimate(-90.0, 0.2, "lower")
    assert -85.0 - lower == Estimate(5.0, 0.2, "upper") == -(lower - -85.0)
    assert 1 - (1 - lower) == lower and (2.0 - Estimate(0.5, 0.1, "exact")).kind == "exact"


def test_two_estimates_are_not_added():
    """Their errors may hang together, and a lower bound minus a lower bound bounds nothing."""
    lower = Estimate(-90.0, 0.2, "lower")
    for wrong in (lambda: lower + lower, lambda: lower - lower):
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong()


def test_it_is_printed_with_its_direction():
    assert str(Estimate(-90.004, 0.2, "lower")) == "-90.00 ± 0.20 (lower bound)"
    assert str(Estimate(1.0, 0.0, "exact")) == "1.00 ± 0.00 (exact)"


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="one of exact, lower, upper, not 'about'"):
        Estimate(1.0, 0.1, "about")


def test_an_error_below_zero_is_refused():
    with pytest.raises(ValueError, match="at least 0, not -1"):
        Estimate(math.nan, -1.0, "lower")


def test_a_bracket_knows_its_sides():
    lower, upper, exact = (Estimate(0.0, 0.1, kind) for kind in ("lower", "upper", "exact"))
    assert Bracket(exact, exact).gap == Bracket(lower, upper).gap == 0
    for sides in ((upper, upper), (lower, lower), (upper, lower)):
        with pytest.raises(ValueError, match="a lower and an upper bound, in this order"):
            Bracket(*sides)


def test_mean_has_the_standard_error_of_the_mean():
    found = mean(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), "lower")
    assert found.value == 3.0 and found.kind == "lower"
    assert found.stderr == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3) / 2)


@pytest.mark.parametrize("shape", [(1,), (0,), ()])
def test_too_few_draws_are_refused(shape):
    with pytest.raises(ValueError, match="at least two draws"):
        mean(torch.zeros(shape), "exact")


def test_equal_weights_are_exact():
    found = log_mean(torch.full((10,), -700.0))
    assert (found.value, found.kind) == (pytest.approx(-700.0), "lower")
    assert found.stderr == pytest.approx(0.0, abs=1e-12)


def log_normal_weights(sigma: float, K: int, repetitions: int, generator: torch.Generator) -> torch.Tensor:
    """Log weights with E w = 1, so that what is estimated is zero."""
    return sigma * torch.randn(repetitions, K, generator=generator) - sigma**2 / 2


def test_the_log_of_a_mean_has_the_right_standard_error(generator):
    """Many repetitions show the error that each of them estimates."""
    found = [log_mean(log_w) for log_w in log_normal_weights(0.5, 400, 3000, generator)]
    values, errors = (torch.tensor([getattr(one, name) for one in found]) for name in ("value", "stderr"))
    exact = math.sqrt(math.expm1(0.25) / 400)  # the limit of the delta method
    assert errors.mean().item() == pytest.approx(exact, rel=0.02)
    assert values.std().item() == pytest.approx(exact, rel=0.08)  # five standard errors of a standard deviation


def test_the_log_of_a_mean_is_too_small_on_average(generator):
    """By Jensen's inequality, and by about half the variance of the mean: that makes it a lower bound."""
    found = [log_mean(log_w) for log_w in log_normal_weights(1.0, 20, 4000, generator)]
    values = torch.tensor([one.value for one in found])
    assert values.mean() + 5 * values.std() / math.sqrt(len(values)) < 0
    assert {one.kind for one in found} == {"lower"}


def test_a_direction_can_be_given():
    assert log_mean(torch.zeros(3), "upper").kind == "upper"


def test_one_weight_has_no_standard_error():
    with pytest.raises(ValueError, match="two weights"):
        log_mean(torch.zeros(1))


def crooks_pair(spread: float, log_z: float, shape: tuple[int, ...], generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and reverse log weights that obey Crooks' identity: Gaussians, spread²/2 below and above log Z."""
    forward = log_z - spread**2 / 2 + spread * torch.randn(shape, generator=generator)
    return forward, log_z + spread**2 / 2 + spread * torch.randn(shape, generator=generator)


def test_bennett_is_exact_where_weights_do_not_vary():
    found = bennett(torch.full((5,), 0.7), torch.full((3,), 0.7))
    assert abs(found.value - 0.7) < 1e-9
    assert found.stderr < 1e-6


@pytest.mark.parametrize("few", [100, 400])
def test_bennett_finds_log_z_and_knows_its_error(few, generator):
    """400 repetitions: no bias beyond the second order, and a spread as predicted, with unequal sides too."""
    forward, reverse = crooks_pair(2.0, 3.0, (400, 400), generator)
    found = [bennett(f, r) for f, r in zip(forward[:, :few], reverse, strict=True)]
    values = torch.tensor([one.value for one in found])
    assert_mean(values, 3.0, resolution=0.01)
    predicted = torch.tensor([one.stderr for one in found]).mean()
    assert 0.85 < values.std() / predicted < 1.15  # four standard errors of a spread from 400


def test_bennett_beats_either_side_alone(generator):
    forward, reverse = crooks_pair(3.0, 3.0, (400, 400), generator)
    below, above = log_mean_exp(forward, 1), -log_mean_exp(-reverse, 1)
    values = torch.tensor([bennett(f, r).value for f, r in zip(forward, reverse, strict=True)])
    error = {name: (one - 3.0).square().mean().sqrt().item() for name, one in zip("bfr", (values, below, above))}
    assert error["b"] < 0.5 * min(error["f"], error["r"])


def test_bennett_does_not_hang_on_names_or_units(generator):
    """Turned round and negated the sides trade places; a constant moves the estimate."""
    forward, reverse = crooks_pair(1.5, 0.0, (200,), generator)
    found = bennett(forward[:50], reverse)
    turned = bennett(-reverse, -forward[:50])
    assert abs(found.value + turned.value) < 1e-9 and abs(found.stderr - turned.stderr) < 1e-9
    assert abs(bennett(forward[:50] + 1e4, reverse + 1e4).value - found.value - 1e4) < 1e-6


def test_bennett_without_overlap_says_that_it_knows_nothing():
    found = bennett(torch.full((4,), -2000.0), torch.full((4,), 2000.0))
    assert found.stderr > 1e6


@pytest.mark.parametrize(
    "sides",
    [
        (torch.zeros(0), torch.zeros(3)),
        (torch.zeros(3), torch.tensor([math.inf, 0.0])),
        (torch.zeros(3), torch.zeros(1)),
    ],
)
def test_bennett_refuses_what_is_no_weight(sides):
    with pytest.raises(ValueError, match="finite log weights"):
        bennett(*sides)
