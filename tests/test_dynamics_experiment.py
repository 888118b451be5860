"""What a learned drift buys: chains of which every number is known, seeds that stay apart, files written once."""

import math
from dataclasses import replace

import pytest
import torch

from avo_lib.chain import Gaussian
from avo_lib.experiments import ascent, dynamics, toy_commands
from avo_lib.experiments.dynamics import (
    CONFIGS,
    LONG,
    METHODS,
    SAMPLES,
    DynamicsConfig,
    build,
    evaluate,
    load_dynamics,
    train,
    training_gradients,
)
from avo_lib.landmarks import LANDMARKS, regions
from avo_lib.numerics import log_normal

SMALL = DynamicsConfig("ring", "cmcd", 4, hidden=4, batch=8, updates=3, seeds=2)


class Exact(torch.nn.Module):
    """Draws z from a landmark whatever z_prev is; the exact reversal is the base."""

    def __init__(self, config):
        super().__init__()
        self.landmark, self.base = config.landmark(), dynamics.BASE_STD[config.target]

    def forward(self, z_prev, log_f, context, *, generator=None):
        z = self.landmark.sample(z_prev[..., 0].numel(), generator=generator).reshape(z_prev.shape)
        log_q = self.landmark.log_density(z) - self.landmark.log_z
        return z, log_normal(z_prev, 0.0, self.base) - log_q

    def reverse(self, z, log_f, context, *, generator=None):
        z_prev = self.base * torch.randn(z.shape, generator=generator)
        return z_prev, log_normal(z_prev, 0.0, self.base) - self.landmark.log_density(z) + self.landmark.log_z


@pytest.mark.parametrize("target", LANDMARKS)
def test_an_exact_chain_misses_nothing(target):
    config = DynamicsConfig(target, "ula", 1, seeds=2)
    found = evaluate(config, torch.nn.ModuleList([Exact(config)]))
    assert len(found["seeds"]) == 2 and found["gradients"] == 0
    for row in found["seeds"]:
        assert max(abs(row[name]) for name in ("gap", "error", "upper")) < 1e-9
        # Half the sum of eight deviations of a share: below 0.018 on average at 4,000 draws, with equal shares.
        assert 0 < row["astray"] < 0.04


def test_what_is_astray_is_counted():
    """A chain that fills one mode of eight is astray by 7/8, its gap is log 8, and from above it pays without end."""
    config = DynamicsConfig("ring", "ula", 1, seeds=1)
    one = Gaussian(torch.tensor([10.0, 0.0]), torch.full((2,), math.sqrt(0.5)))

    class OneMode(Exact):
        def forward(self, z_prev, log_f, context, *, generator=None):
            z, log_q = one.sample(z_prev.shape[:-1], generator=generator)
            return z, log_normal(z_prev, 0.0, self.base) - log_q

        def reverse(self, z, log_f, context, *, generator=None):
            z_prev = self.base * torch.randn(z.shape, generator=generator)
            return z_prev, log_normal(z_prev, 0.0, self.base) - one.log_prob(z)

    (row,) = evaluate(config, torch.nn.ModuleList([OneMode(config)]))["seeds"]
    assert row["astray"] == pytest.approx(7 / 8) and row["gap"] == pytest.approx(math.log(8), abs=1e-6)
    assert row["error"] == pytest.approx(-math.log(8), abs=1e-6) and row["upper"] > 50
    assert regions("ring", one.mean)[0].item() == 0


@pytest.mark.parametrize("method", METHODS)
def test_equal_numbers_of_gradients(method):
    config = replace(SMALL, method=method)
    found = evaluate(config, None if method == "mala" else build(config), rounds=1)
    assert found["gradients"] == (0 if method == "hvi" else 2 * config.T)
    assert all(math.isfinite(value) for row in found["seeds"] for value in row.values())


def test_the_long_run_spends_no_more_than_training_and_judging():
    learned, long = DynamicsConfig("ring", "cmcd", 32), DynamicsConfig("ring", "mala", LONG)
    spent = [training_gradients(one) + 4 * SAMPLES * 2 * one.T for one in (learned, long)]
    assert 0.9 * spent[0] < spent[1] < spent[0]
    assert long in CONFIGS and sum(one.target == "ring" for one in CONFIGS) == 25
    assert training_gradients(DynamicsConfig("ring", "hvi", 4)) == 0


@pytest.mark.parametrize("method", ["ula", "uha", "mcd", "cmcd"])
def test_training_raises_the_bound(method):
    config = DynamicsConfig("ring", method, 4, hidden=16, updates=60, seeds=2)
    before, after = (evaluate(config, kernels, rounds=1)["seeds"] for kernels in (build(config), train(config)))
    assert all(b["gap"] > a["gap"] + 0.3 for b, a in zip(before, after))


def test_seeds_are_independent():
    """The second seed learns the same whatever the first does: its gradient is shortened on its own."""
    kernels = build(replace(SMALL, seeds=2))
    parameters = list(kernels.parameters())
    for one in parameters:
        one.grad = torch.ones_like(one)
        one.grad[0] *= 1e6
    ascent.shorten_by_seed(parameters)
    lengths = torch.stack([one.grad.flatten(1).square().sum(1) for one in parameters]).sum(0).sqrt()
    torch.testing.assert_close(lengths, torch.full((2,), ascent.LONGEST_GRADIENT))
    for one in parameters:
        one.grad = torch.full_like(one, 1e-3)
    ascent.shorten_by_seed(parameters)
    assert all(bool((one.grad == 1e-3).all()) for one in parameters)
    for bad in (math.nan, math.inf):
        parameters[0].grad[0].flatten()[0] = bad
        ascent.shorten_by_seed(parameters)
        assert all(bool((one.grad[0] == 0).all() and (one.grad[1] == 1e-3).all()) for one in parameters)


def test_a_number_for_each_seed_is_shortened_too():
    one = torch.nn.Parameter(torch.zeros(2))
    one.grad = torch.tensor([1e6, 1e-3])
    ascent.shorten_by_seed([one])
    torch.testing.assert_close(one.grad, torch.tensor([ascent.LONGEST_GRADIENT, 1e-3]))


def test_a_finished_fit_is_read_and_its_chain_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics, "DRAWN", 4)
    torch.set_default_dtype(torch.float32)
    made = dynamics.run(SMALL, tmp_path)
    monkeypatch.setattr(dynamics, "train", None)
    assert dynamics.run(SMALL, tmp_path) == made
    chain = load_dynamics(SMALL, 7, tmp_path)
    assert chain.sample().z[-1].shape == (1, 7, 2)
    with pytest.raises(ValueError, match="another configuration"):
        dynamics.run(replace(SMALL, updates=4), tmp_path)


def test_the_command_prints_each_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dynamics, "CONFIGS", (SMALL, replace(SMALL, method="mala"), replace(SMALL, target="funnel")))
    torch.set_default_dtype(torch.float32)
    toy_commands.dynamics(targets=("ring",), updates=3, results=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines] == [["ring", "cmcd", "T", "4"], ["ring", "mala", "T", "4"]]
    assert sorted(file.stem for file in tmp_path.glob("toys/dynamics/*.json")) == ["ring-cmcd-T4", "ring-mala-T4"]


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="ring, many-well, funnel"):
        DynamicsConfig("banana", "ula", 4)
    with pytest.raises(ValueError, match="mala, hvi, ula, uha, mcd, cmcd"):
        DynamicsConfig("ring", "nuts", 4)


@pytest.mark.parametrize("find", [build, train, lambda config: load_dynamics(config, 5)])
def test_mala_has_no_kernels_that_learn(find):
    with pytest.raises(ValueError, match="mala has no kernels that learn"):
        find(DynamicsConfig("ring", "mala", dynamics.DRAWN))


@pytest.mark.parametrize("change", [{"target": "funnel"}, {"T": 4}])
def test_weights_that_are_not_kept_are_not_promised(change):
    with pytest.raises(ValueError, match="weights are kept of the ring with T = 8, not of"):
        load_dynamics(replace(DynamicsConfig("ring", "ula", 8), **change), 5)
