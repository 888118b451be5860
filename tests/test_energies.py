"""Chains of which every number is known, what both objectives share, and files that are written once."""

import dataclasses
import json
import math

import pytest
import torch

from avo_lib.experiments import energies, toy_commands
from avo_lib.experiments.energies import ToyConfig, evaluate, load_chain, mode_masses, train
from avo_lib.experiments.results import load_results
from avo_lib.numerics import log_normal
from avo_lib.targets import GaussianMixture, energy
from avo_lib.testing import assert_mean

WITHIN = 1 - math.exp(-(2.5**2) / 2)  # of a Gaussian's mass in the plane, up to 2.5 standard deviations
SMALL = ToyConfig("e", T=2, hidden=4, batch=8, updates=3, seeds=2)


class Independent:
    """Draws z from a mixture whatever z_prev is; the exact reversal is then the base itself."""

    def __init__(self, mixture: GaussianMixture):
        self.mixture = mixture

    def forward(self, z_prev, log_f, context, *, generator=None):
        z = self.mixture.sample(z_prev[..., 0].numel(), generator=generator).reshape(z_prev.shape)
        return z, log_normal(z_prev) - self.mixture.log_density(z)

    def reverse(self, z, log_f, context, *, generator=None):
        z_prev = torch.randn(z.shape, generator=generator)
        return z_prev, log_normal(z_prev) - self.mixture.log_density(z)


def four_modes(variant: str) -> tuple[GaussianMixture, tuple[float, ...]]:
    radius, variance = (2.0, 0.2) if variant == "paper" else (2.5, 0.375)
    weights = (0.1, 0.3, 0.4, 0.2)
    means = ((-radius, 0.0), (radius, 0.0), (0.0, radius), (0.0, -radius))
    return GaussianMixture(weights, means, math.sqrt(variance)), weights


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_an_exact_chain_has_no_divergence(variant):
    config = ToyConfig("d", variant, T=1, seeds=3)
    mixture, weights = four_modes(variant)
    rows = evaluate(config, config.chain([Independent(mixture)], 1), points=200, samples=3)
    assert len(rows) == 3
    for row in rows:
        assert row["elbo"] == pytest.approx(energy("d", variant).log_z, abs=1e-9)
        assert max(abs(row[name]) for name in ("kl", "kl_lower", "kl_upper", "stderr")) < 1e-9
    # 3 × 2000 draws; the modes barely reach into each other's discs (by less than 1e-3)
    masses = torch.tensor([row["mode_masses"] for row in rows]).mean(0)
    shares = WITHIN * torch.tensor(weights)
    assert bool(((masses - shares).abs() < 5 * (shares * (1 - shares) / 6000).sqrt() + 1e-3).all())


def test_one_mode_of_four_costs_minus_log_of_its_weight():
    config = ToyConfig("d", T=1, seeds=2)
    top = GaussianMixture((1.0,), ((0.0, 2.5),), math.sqrt(0.375))
    for row in evaluate(config, config.chain([Independent(top)], 1), points=500, samples=2):
        assert row["kl"] == pytest.approx(-math.log(0.4), abs=0.03) and row["stderr"] < 0.01
        assert row["mode_masses"][2] == pytest.approx(WITHIN, abs=5 * 0.003)
        assert max(row["mode_masses"][i] for i in (0, 1, 3)) < 0.002
        assert sum(row["sectors"]) == pytest.approx(1) and sum(row["sectors"][8:10]) > 0.9  # 60 to 120 degrees
        assert row["std"] == pytest.approx([math.sqrt(0.375)] * 2, rel=0.06)


def test_every_point_is_judged(monkeypatch):
    """The last block is shorter than a hundred; a mean of no points is refused, and so is the error of one."""
    judged, bounds = [], energies.marginal_bounds
    monkeypatch.setattr(
        energies, "marginal_bounds", lambda *a, **k: judged.append(a[1].z[-1].shape[1]) or bounds(*a, **k)
    )
    chain = train(dataclasses.replace(SMALL, updates=0))
    evaluate(SMALL, chain, points=250, samples=2)
    assert judged == [100, 100, 50]
    for points in (0, 1, 2.5):
        with pytest.raises(ValueError, match="points must be a whole number of at least 2"):
            evaluate(SMALL, chain, points=points)


def test_mode_masses_of_exact_draws(generator):
    z = energy("d").sample(40_000, generator=generator)
    in_discs = torch.stack([mode_masses(part) for part in z.split(100)])
    assert_mean(in_discs, WITHIN * torch.tensor((0.1, 0.3, 0.4, 0.2)), resolution=0.003, z=5.5)


def test_with_one_kernel_both_objectives_train_the_same_chain():
    """And with two they do not: the comparison shares weights and noise, and nothing else."""
    for T, equal in ((1, True), (2, False)):
        chains = [train(dataclasses.replace(SMALL, T=T, objective=name)) for name in energies.OBJECTIVES]
        a, b = (chain.kernels[0].q.hidden.direction for chain in chains)
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12) == equal


def test_beta_rises_over_its_share_of_the_updates():
    for ramp in (0.2, 0.8, 0.9):
        beta = ToyConfig("d", updates=2000, ramp=ramp).beta()
        end = round(2000 * ramp)
        assert beta(0) == 0.01 and beta(end - 1) < 0.9999 and beta(end + 1) == beta(1999) == 1
        assert beta(end // 2) == pytest.approx(0.505) and beta(end) == pytest.approx(1, abs=1e-12)
    assert ToyConfig("d").beta()(0) == 1


@pytest.mark.parametrize("name", energies.OBJECTIVES)
def test_a_ramp_reaches_the_objective_and_nothing_else(name, monkeypatch):
    """Every update gets its beta, 1 without a ramp; and a fit is judged at beta = 1 whatever the ramp."""
    config, seen = dataclasses.replace(SMALL, objective=name, updates=4), []
    objective = getattr(energies, name)
    monkeypatch.setattr(energies, name, lambda draw, beta: seen.append(beta) or objective(draw, beta))
    plain, ramped = train(config), train(dataclasses.replace(config, ramp=0.5))
    assert seen == pytest.approx([1, 1, 1, 1, 0.01, 0.505, 1, 1])
    assert not torch.equal(plain.kernels[0].q.heads.shift, ramped.kernels[0].q.heads.shift)
    rows = [evaluate(dataclasses.replace(config, ramp=ramp), ramped, points=20, samples=3) for ramp in (0.0, 0.5)]
    assert rows[0] == rows[1] and all(math.isfinite(row["kl"]) for row in rows[0])


def test_training_improves_every_seed():
    config = ToyConfig("a", T=2, hidden=16, updates=0, lr=1e-2, seeds=3)
    trained = dataclasses.replace(config, updates=150)
    before, after = (evaluate(one, train(one), points=200, samples=50) for one in (config, trained))
    for first, last in zip(before, after):
        assert last["kl_upper"] < first["kl_lower"] - 0.5
        assert last["kl_lower"] <= last["kl_upper"] + 5 * last["stderr"]
        assert energy("a").log_z - last["elbo"] > last["kl_lower"] - 5 * last["stderr"]


def test_training_leaves_the_global_stream_alone_and_repeats():
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    a, b = (train(SMALL).kernels[1].r.heads.shift for _ in range(2))
    assert torch.rand(()) == expected and torch.equal(a, b)
    assert not torch.equal(a, train(SMALL, seed=1).kernels[1].r.heads.shift)
    assert not torch.equal(a[0], a[1])


def test_a_divergence_of_training_is_reported(monkeypatch):
    monkeypatch.setattr(energies, "elbo", lambda trajectory, beta: trajectory.log_w(beta) / 0)
    with pytest.raises(FloatingPointError, match="update 0"):
        train(dataclasses.replace(SMALL, objective="elbo"))


def test_a_run_is_written_once_and_can_be_loaded(tmp_path, monkeypatch, generator):
    result = energies.run(SMALL, tmp_path)
    assert json.loads(energies.toy_file(SMALL, tmp_path).read_bytes()) == result
    assert result["config"] == dataclasses.asdict(SMALL) and len(result["seeds"]) == 2
    assert load_results(tmp_path) == []  # these are no results of models, and must not be taken for them

    both, first = train(SMALL), load_chain(SMALL, 5, tmp_path)
    z = torch.randn(2, 5, 2, generator=generator)
    for one, other in zip(first.kernels, both.kernels):
        for ours, theirs in zip(one.q(z[:1], None), other.q(z, None)):
            torch.testing.assert_close(ours[0], theirs[0])
    assert first.sample(generator=generator).log_w().shape == (1, 5)

    monkeypatch.setattr(energies, "train", None)  # a second call must not need it
    assert energies.run(SMALL, tmp_path) == result
    with pytest.raises(ValueError, match="another configuration"):
        energies.run(dataclasses.replace(SMALL, updates=4), tmp_path)
    assert energies.toy_file(dataclasses.replace(SMALL, ramp=0.8)).name == "e-released-avo-ramp0.8.json"
    with pytest.raises(FileNotFoundError, match=r"python -m avo_lib energies --ramps 0\.8"):
        load_chain(dataclasses.replace(SMALL, ramp=0.8), 5, tmp_path)


def test_a_damaged_result_or_weights_are_named(tmp_path):
    result = energies.run(SMALL, tmp_path)
    file = energies.toy_file(SMALL, tmp_path)
    for damaged in ("", json.dumps(result | {"seeds": []}), json.dumps(result).replace('"kl"', '"lk"')):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=r"\.json is not a result"):
            energies.run(SMALL, tmp_path)
    file.with_suffix(".safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.safetensors is damaged"):
        load_chain(SMALL, 5, tmp_path)


def test_the_command_line_fits_every_configuration(tmp_path, monkeypatch, capsys):
    assert len(energies.CONFIGS) == 16 and len({energies.toy_file(config) for config in energies.CONFIGS}) == 16
    monkeypatch.setattr(energies, "CONFIGS", energies.CONFIGS[2:6])
    toy_commands.energies((0.0, 0.5), ("released",), updates=1, seeds=1, results=tmp_path)
    assert capsys.readouterr().out.count("KL") == 4
    names = ["b-released-avo-ramp0.5", "b-released-avo", "b-released-elbo-ramp0.5", "b-released-elbo"]
    assert [file.stem for file in sorted(tmp_path.glob("toys/energies/*.json"))] == names


@pytest.mark.parametrize("ramp", [-0.1, 1.0, math.nan])
def test_a_ramp_that_never_ends_is_refused(ramp):
    with pytest.raises(ValueError, match="ramp is a share"):
        dataclasses.replace(SMALL, ramp=ramp)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"objective": "iwae"}, "need an objective"),
        ({"energy": "z"}, "'z'"),
        ({"variant": "third"}, "'third'"),
    ],
)
def test_what_does_not_exist_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
