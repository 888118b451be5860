"""Densities and weights against closed forms and torch's own distributions."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from avo_lib.numerics import (
    check_binary,
    effective_sample_size,
    log_bernoulli,
    log_mean_exp,
    log_normal,
    quadrature_log_z,
    standard_normal,
    sum_last,
    symmetric_axis,
)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 40])
def test_sum_last_is_the_sum(dim, generator):
    x = torch.randn(3, 7, dim, generator=generator, requires_grad=True)
    torch.testing.assert_close(sum_last(x), x.sum(-1))
    weight = torch.randn(3, 7, generator=generator)
    (sum_last(x) * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight[..., None].expand_as(x))


def test_sum_over_no_entries_is_zero():
    assert sum_last(torch.zeros(3, 0)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_log_normal_is_the_density(dim, generator):
    z, mean = torch.randn(2, 5, 4, dim, generator=generator)
    std = 0.1 + torch.rand(4, dim, generator=generator)
    torch.testing.assert_close(log_normal(z, mean, std), Normal(mean, std).log_prob(z).sum(-1))
    torch.testing.assert_close(log_normal(z, 2.0, 0.5), Normal(2.0, 0.5).log_prob(z).sum(-1))
    torch.testing.assert_close(log_normal(z), Normal(0.0, 1.0).log_prob(z).sum(-1))


def test_log_bernoulli_is_the_probability_summed_over_pixels(generator):
    logits = 3 * torch.randn(5, 9, generator=generator)
    x = (torch.rand(5, 9, generator=generator) < 0.5).double()
    torch.testing.assert_close(log_bernoulli(x, logits), Bernoulli(logits=logits).log_prob(x).sum(-1))
    assert log_bernoulli(x, torch.zeros(2, 5, 9)).shape == (2, 5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_log_bernoulli_takes_whole_numbers(dtype, generator):
    """Twice a byte less one would wrap, and 0 count as 255."""
    x, logits = torch.tensor([0.0, 1.0, 0.0]), torch.randn(4, 3, generator=generator)
    assert torch.equal(log_bernoulli(x.to(dtype), logits), log_bernoulli(x, logits))


def test_log_bernoulli_survives_certainty():
    """A probability of exactly 0 or 1 in floating point must give neither infinity nor NaN, and a gradient."""
    logits = torch.tensor([800.0, -800.0, 800.0, -800.0], requires_grad=True)
    value = log_bernoulli(torch.tensor([1.0, 0.0, 0.0, 1.0]), logits)
    value.backward()
    assert value.item() == pytest.approx(-1600.0)
    assert logits.grad.tolist() == pytest.approx([0.0, 0.0, -1.0, 1.0])


@pytest.mark.parametrize("wrong", [0.5, -1.0, 2.0, math.nan, math.inf, 1 - 1e-9])
def test_pixels_that_are_not_binary_are_refused(wrong):
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    check_binary(x)
    x[1, 1] = wrong
    with pytest.raises(ValueError, match=r"exactly 0 or 1.*Binarise first"):
        check_binary(x)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_pixels_that_are_no_floating_point_numbers_are_refused(dtype):
    with pytest.raises(ValueError, match=r"floating-point numbers, not torch\.\w+: use x\.float"):
        check_binary(torch.ones(2, 2, dtype=dtype))


def test_log_mean_exp_is_the_log_of_the_mean(generator):
    log_w = torch.randn(6, 3, generator=generator)
    torch.testing.assert_close(log_mean_exp(log_w), log_w.exp().mean(0).log())
    torch.testing.assert_close(log_mean_exp(log_w, dim=1), log_w.exp().mean(1).log())


def test_the_mean_of_no_weights_is_refused():
    with pytest.raises(ValueError, match="no weights"):
        log_mean_exp(torch.zeros(3, 0), dim=1)


def test_log_mean_exp_is_stable():
    assert log_mean_exp(torch.tensor([-2000.0, -2000.0])).item() == -2000.0
    assert log_mean_exp(torch.tensor([2000.0, -math.inf])).item() == pytest.approx(2000.0 - math.log(2))
    assert log_mean_exp(torch.tensor([-math.inf, -math.inf])).item() == -math.inf


def test_one_sample_is_its_own_mean():
    assert log_mean_exp(torch.tensor([-3.5])).item() == -3.5


def test_the_effective_sample_size_of_small_weights_in_single_precision():
    log_w = torch.tensor([-1e5, -1e5 - 1], dtype=torch.float32)  # exactly representable, e⁻¹ apart
    exact = (1 + math.exp(-1)) ** 2 / (1 + math.exp(-2))
    assert effective_sample_size(log_w).item() == pytest.approx(exact, rel=1e-9)


def test_effective_sample_size(generator):
    assert effective_sample_size(torch.full((8,), -1234.5)).item() == pytest.approx(8.0)
    assert effective_sample_size(torch.tensor([0.0] + [-1000.0] * 7)).item() == pytest.approx(1.0)
    assert effective_sample_size(torch.tensor([0.0, 0.0, -1000.0])).item() == pytest.approx(2.0)
    log_w = torch.randn(9, 4, generator=generator)
    w = log_w.exp()
    torch.testing.assert_close(effective_sample_size(log_w), w.sum(0).square() / w.square().sum(0))
    torch.testing.assert_close(effective_sample_size(log_w.T, dim=1), effective_sample_size(log_w))


def seeded(seeds: range) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_datum_draws_the_same_noise_in_any_company():
    together = standard_normal(torch.zeros(7, 5, 3), seeded(range(5)))
    assert together.shape == (7, 5, 3)
    assert torch.equal(together[:, 2:4], standard_normal(torch.zeros(7, 2, 3), seeded(range(2, 4))))
    assert not torch.equal(together[:, 0], together[:, 1])


def test_noise_has_the_type_of_its_model():
    for dtype in (torch.float32, torch.float64):
        like = torch.zeros(2, 3, dtype=dtype)
        assert standard_normal(like).dtype == standard_normal(like, seeded(range(2))).dtype == dtype


def test_one_generator_is_the_only_source(generator):
    state = torch.get_rng_state()
    one = standard_normal(torch.zeros(4, 2), torch.Generator().manual_seed(1))
    standard_normal(torch.zeros(4, 2), seeded(range(4)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, standard_normal(torch.zeros(4, 2), torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("shape", [(4, 2), (3,), (3, 7, 4, 2)])
def test_another_number_of_generators_is_refused(shape):
    with pytest.raises(ValueError, match=r"3 generators for a tensor of shape .* axis -2 must match"):
        standard_normal(torch.zeros(shape), seeded(range(3)))


def test_nan_has_no_integral():
    with pytest.raises(ValueError, match="log f is NaN on the square of side 40"):
        quadrature_log_z(lambda z: z[..., 0].log(), points=11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_axis_is_its_own_mirror_image(dtype):
    for box in (3.0, 4.5, 14.0):
        for points in (81, 101, 401):
            axis = symmetric_axis(box, points, dtype=dtype)
            assert torch.equal(axis, -axis.flip(0))
            torch.testing.assert_close(axis, torch.linspace(-box, box, points, dtype=dtype))
