"""Schedules of beta, at the steps where they bend."""

from __future__ import annotations

from avo_lib.schedules import Constant, Cyclical, WarmUp


def test_beta_schedules():
    assert [Constant(0.5)(step) for step in (0, 10)] == [0.5, 0.5]
    assert [round(WarmUp(0.2, 2e-4)(step), 6) for step in (0, 2000, 4000, 9999)] == [0.2, 0.6, 1, 1]
    cyclical = Cyclical(period=100, ramp=0.5, cycles=2)
    assert [cyclical(step) for step in (0, 25, 50, 99, 100, 125, 199, 200, 225)] == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 1]
