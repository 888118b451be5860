"""Numbers for the text: what is stored is what the text can show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from avo_lib.show import numbers
from tools import prose


@pytest.fixture
def kept(monkeypatch):
    """What was stored, by name."""
    stored: dict[str, str] = {}
    monkeypatch.setattr(numbers, "glue", lambda name, value, display: stored.update({name: value}))
    return stored


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.3, 2, "0.30"),
        (-1.005, 1, "−1.0"),
        (-0.001, 2, "0.00"),
        (12.0, 0, "12"),
        (torch.tensor(0.126), 2, "0.13"),
        (torch.tensor([[7]]), 0, "7"),
    ],
)
def test_the_text_shows_what_is_kept(kept, value, digits, expected):
    numbers.keep("gap", value, digits)
    assert prose.shown(kept["gap"], None) == expected


@pytest.mark.parametrize("value", [math.nan, -math.inf, torch.tensor(math.inf)])
def test_what_no_text_can_show_is_refused(kept, value):
    with pytest.raises(ValueError, match=r"'gap' is .*finite numbers only"):
        numbers.keep("gap", value)
    assert not kept


def normal(n, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def width(interval):
    return (interval.high - interval.low) / 2


def test_of_one_group_and_of_two_it_is_students_interval():
    one, other = normal(4, 1), 3 + normal(7, 2)
    paired = stats.ttest_1samp(one, 0).confidence_interval()
    pooled = stats.ttest_ind(one, other, equal_var=True).confidence_interval()
    assert numbers.half_width(one) == pytest.approx(width(paired))
    assert numbers.half_width(one, other) == pytest.approx(width(pooled)) == numbers.half_width(other, one)


def test_of_four_groups_it_holds_their_interaction_in_nineteen_of_twenty():
    draws = normal(4 * 4000 * 3, 3).reshape(4, 4000, 3).numpy()
    a, b, c, d = draws.mean(2)
    hits = np.mean([abs(e) < numbers.half_width(*draws[:, i]) for i, e in enumerate(a - b - c + d)])
    error = math.sqrt(0.95 * 0.05 / 4000)
    assert abs(hits - 0.95) < 5 * error < 0.02  # one group's freedom would hold .997, a Gaussian's factor .914


def test_a_spread_among_more_groups_than_are_compared_holds_in_nineteen_of_twenty():
    draws = normal(4 * 4000 * 3, 4).reshape(4, 4000, 3).numpy()
    a, b = draws[:2].mean(2)
    hits = np.mean([abs(e) < numbers.half_width(*draws[:2, i], among=draws[:, i]) for i, e in enumerate(a - b)])
    error = math.sqrt(0.95 * 0.05 / 4000)
    assert abs(hits - 0.95) < 5 * error < 0.02  # the sum of all four would have an interval wider by √2, and hold .99


def test_what_shares_the_spread_is_refused_without_one():
    with pytest.raises(ValueError, match="vectors with a spread"):
        numbers.half_width([1.0, 2.0], among=[[1.0], [2.0]])
    with pytest.raises(ValueError, match="vectors with a spread"):
        numbers.half_width(among=[[1.0, 2.0]])


@pytest.mark.parametrize("groups", [(), ([1.0],), ([1.0], [2.0]), ([1.0, 2.0], []), (np.zeros((2, 3)),), (3.0,)])
def test_no_interval_without_a_spread(groups):
    with pytest.raises(ValueError, match="vectors with a spread, not shapes"):
        numbers.half_width(*groups)


def test_holm_decides_by_luck_in_one_family_of_twenty():
    """Nineteen effects of nothing beside one that is there: in either place a simpler rule would show."""
    rng, trials = np.random.default_rng(4), 4000
    chances = np.column_stack([np.full(trials, 1e-9), rng.uniform(size=(trials, 19))])
    stands = np.array([numbers.holm(row) for row in chances])
    wrong = stands[:, 1:].any(1).mean()
    expected = 1 - (1 - 0.05 / 19) ** 19  # of the smallest of nineteen uniform numbers, since the twentieth stands
    error = math.sqrt(expected * (1 - expected) / trials)
    assert stands[:, 0].all()
    assert abs(wrong - expected) < 5 * error < 0.02  # without a correction .62


@pytest.mark.parametrize("chances", [0.01, [0.01, 1.2], [math.nan], [[0.01]]])
def test_holm_takes_probabilities_only(chances):
    with pytest.raises(ValueError, match="a vector of p-values from 0 to 1"):
        numbers.holm(chances)
