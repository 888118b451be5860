"""Eight modes: an exact log Z, copies that do not meet, ways that differ in what they say, files written once."""

import dataclasses
import math

import pytest
import torch

from avo_lib.experiments.eight_modes import (
    CENTRES,
    CONFIGS,
    LOG_Z,
    Eight,
    EightConfig,
    ResidualKernel,
    eight_file,
    evaluate,
    load_eight,
    log_target,
    run,
    train,
)
from avo_lib.numerics import log_normal, quadrature_log_z

SMALL = EightConfig(2, budget=30, hidden=8, updates=4, seeds=3)


@pytest.fixture
def model() -> Eight:
    torch.manual_seed(0)
    return Eight(SMALL)


def perturbed(kernel: ResidualKernel, generator) -> ResidualKernel:
    with torch.no_grad():
        for weight in kernel.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return kernel


def test_the_target_is_the_papers():
    assert quadrature_log_z(log_target) == pytest.approx(LOG_Z, abs=1e-6)
    assert {round(math.hypot(*centre), 9) for centre in CENTRES} == {10.0}
    at = log_target(torch.tensor(CENTRES))
    assert at.tolist() == pytest.approx([-math.log(2 * math.pi * 0.5)] * 8)


def test_the_settings_are_the_papers():
    """288 points an update, shared by K = T + 1 targets, and one layer of 50 (arXiv 2106.11302, and its code)."""
    assert [EightConfig(T).samples for T in (1, 3, 5, 7)] == [144, 72, 48, 36]
    assert len(CONFIGS) == 13 and {(c.hidden, c.budget, c.seeds) for c in CONFIGS} == {(50, 288, 5)}
    assert len({config.name for config in CONFIGS}) == 13


def test_kernels_start_as_standard_normal_steps(model, generator):
    z, log_ratio = model.kernels[0].forward(torch.zeros(20_000, 3, 2), None, None, generator=generator)
    assert (z.mean(0).abs() < 5 / 20_000**0.5).all() and (z.std(0) - 1).abs().max() < 0.03
    assert log_ratio.abs().max() < 1e-6


def test_copies_do_not_meet(generator):
    """A kernel of three is three kernels, for any leading axes."""
    kernel = perturbed(ResidualKernel(3, 8), generator)
    z = torch.randn(4, 5, 3, 2, generator=generator)
    mean, std = kernel.q(z)
    for i in range(3):
        one = ResidualKernel(1, 8)
        one.load_state_dict({name: value[i : i + 1] for name, value in kernel.state_dict().items()})
        for mine, all_ in zip(one.q(z[..., i : i + 1, :]), (mean, std), strict=True):
            torch.testing.assert_close(mine[..., 0, :], all_[..., i, :])


def test_log_ratios_are_those_of_the_densities(generator):
    kernel = perturbed(ResidualKernel(3, 8), generator)
    start = torch.randn(7, 3, 2, generator=generator)
    there, forth = kernel.forward(start, None, None, generator=generator)
    back, home = kernel.reverse(start, None, None, generator=generator)
    for before, after, ratio in ((start, there, forth), (back, start, home)):
        expected = log_normal(before, *kernel.r(after)) - log_normal(after, *kernel.q(before))
        torch.testing.assert_close(ratio, expected)


def test_with_one_kernel_all_ways_are_one():
    fits = [
        train(dataclasses.replace(SMALL, T=1, particles=particles, learned=learned))
        for particles, learned in (("equal", False), ("weighted", False), ("resampled", True))
    ]
    for other in fits[1:]:
        for mine, yours in zip(fits[0].kernels.parameters(), other.kernels.parameters(), strict=True):
            torch.testing.assert_close(mine, yours)


def test_what_learns():
    before = Eight(dataclasses.replace(SMALL, particles="weighted", learned=True)).path.alphas
    after = train(dataclasses.replace(SMALL, particles="weighted", learned=True)).path.alphas
    assert (after - before)[1].abs().min() > 1e-4 and after.shape == (3, 3)
    assert train(SMALL).path is None


def test_judgement_of_untrained_kernels(model):
    rows = evaluate(model, runs=150, samples=50)
    assert len(rows) == 3
    for row in rows:
        assert row["alphas"] == [0, 0.5, 1] and sum(row["masses"]) == pytest.approx(1, abs=1e-4)
        assert row["elbo"] < row["log_z"] < LOG_Z + 0.2 and 0 < row["ess"] < row["ess_resampled"] < 1


def test_a_judgement_of_no_runs_is_refused(model):
    with pytest.raises(ValueError, match="runs must be a whole number of at least 1, not 0"):
        evaluate(model, runs=0)


def test_results_are_written_once_and_read_again(tmp_path):
    config = dataclasses.replace(SMALL, particles="resampled", learned=True)
    found = run(config, tmp_path)
    assert run(config, tmp_path) == found and len(found["copies"]) == 3
    with pytest.raises(ValueError, match="another configuration"):
        run(dataclasses.replace(config, updates=5), tmp_path)
    chain, model = load_eight(config, tmp_path), train(config)
    z = torch.randn(6, 1, 2, generator=torch.Generator().manual_seed(2))
    for t, kernel in enumerate(chain.kernels):
        torch.testing.assert_close(kernel.q(z)[0], model.kernels[t].q(z.expand(6, 3, 2))[0][:, :1])
    torch.testing.assert_close(chain.path.alphas[:, 0], model.path.alphas[:, 0])
    assert chain.sample((4,)).z[-1].shape == (4, 1, 2)
    with pytest.raises(FileNotFoundError, match="avo_lib modes"):
        load_eight(SMALL, tmp_path)
    assert not eight_file(SMALL, tmp_path).exists()


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="need particles of"):
        dataclasses.replace(SMALL, particles="heavy")
    with pytest.raises(ValueError, match=f"budget must be a whole number of at least {2 * SMALL.T + 2}, not"):
        dataclasses.replace(SMALL, budget=2 * SMALL.T + 1)


def test_an_objective_that_is_not_finite_stops_the_run(monkeypatch):
    monkeypatch.setattr("avo_lib.experiments.eight_modes.nested", lambda *args, **kwargs: torch.full((3,), math.nan))
    with pytest.raises(FloatingPointError, match="at update 0"):
        train(SMALL)
