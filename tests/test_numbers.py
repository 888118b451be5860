"""Numbers for the text: what is stored is what the text can show."""

from __future__ import annotations

import math

import pytest
import torch

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
