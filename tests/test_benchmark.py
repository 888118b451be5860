"""The benchmark: kernels that can be exact, a judge that knows what is wrong, and budgets that are spent and kept."""

import math
from dataclasses import replace

import pytest
import torch

from avo_lib.chain import Chain, Gaussian
from avo_lib.experiments import benchmark, toy_commands
from avo_lib.experiments.benchmark import METHODS, TARGETS, BenchmarkConfig, judge, measure, run
from avo_lib.experiments.contestants import LEARNED, Affine, Contestant, OnePerSeed, shorten_gradients
from avo_lib.landmarks import LANDMARKS
from avo_lib.paths import GeometricPath, linear_alphas

SMALL = BenchmarkConfig("ring", "CMCD", budget=4_000, samples=20, batch=8, seeds=2)


def correlated(z):
    """Log of 7 N(z; 1, S), where S has a correlation of 0.8."""
    factor = torch.tensor([[2.0, 0.0], [1.6, 1.2]])
    noise = torch.linalg.solve_triangular(factor, (z - 1).mT, upper=False).mT
    return math.log(7) - 0.5 * noise.square().sum(-1) - math.log(2 * math.pi) - math.log(2.4)


def contestant(method, seeds=2, dim=2, log_density=correlated):
    start = torch.zeros(seeds, 1, dim)
    return Contestant(method, log_density, dim, Gaussian(start, start + 1), 0.01)


def test_a_full_gaussian_is_exact_on_a_gaussian():
    kernel = Affine(2, diagonal=False, batch=(3,))
    with torch.no_grad():
        kernel.shift.fill_(1.0)
        kernel.log_scale.copy_(torch.tensor([2.0, 1.2]).log())
        kernel.below[:, 1, 0] = 1.6
    base = Gaussian(torch.zeros(3, 10, 2), torch.ones(3, 10, 2))
    chain = Chain(base, [kernel], GeometricPath(base.log_prob, correlated, linear_alphas(1)))
    forward = chain.sample()
    torch.testing.assert_close(forward.log_w(), torch.full((3, 10), math.log(7)))
    back = chain.sample_reverse(forward.z[-1])
    torch.testing.assert_close(back.z[0], forward.z[0])
    torch.testing.assert_close(back.log_w(), forward.log_w())


@pytest.mark.parametrize(("method", "gap"), [("mean-field", -0.5 * math.log(1 - 0.8**2)), ("full Gaussian", 0.0)])
def test_proposals_reach_their_optimum(method, gap, monkeypatch):
    """The best mean field of a Gaussian has the conditional variances: it misses the mutual information."""
    monkeypatch.setitem(
        TARGETS, "ring", lambda: replace(LANDMARKS["ring"](), log_density=correlated, log_z=math.log(7))
    )
    found = measure(BenchmarkConfig("ring", method, budget=60_000, samples=1000, seeds=2))
    for row in found["seeds"]:
        assert row["gap"] == pytest.approx(gap, abs=0.15 if gap else 0.01)


@pytest.mark.parametrize("method", LEARNED)
def test_each_seed_has_its_own_copy(method):
    """What one seed learns moves its own points alone."""
    torch.manual_seed(0)
    one = contestant(method)
    kernels = one.kernels()
    assert len(kernels) == LEARNED[method]
    chain = one.chain(kernels, 5)
    before = chain.sample(generator=torch.Generator().manual_seed(1)).z[-1]
    with torch.no_grad():
        for kernel in kernels:
            single = isinstance(kernel, OnePerSeed)
            for parameter in (kernel.kernels[1] if single else kernel).parameters():
                (parameter if single else parameter[1]).add_(0.1)
    after = chain.sample(generator=torch.Generator().manual_seed(1)).z[-1]
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1])


def test_local_methods_keep_kernels_apart():
    """With AVO a kernel's gradient does not know of later kernels; with HVI and plain flows it does."""
    for method, local in (("AVO", True), ("AVO flow", True), ("HVI", False), ("flow", False)):
        gradients = []
        for stretch in (1.0, 3.0):
            torch.manual_seed(0)
            one = contestant(method)
            kernels = one.kernels()
            with torch.no_grad():
                for parameter in kernels[-1].parameters():
                    parameter.mul_(stretch)
            one.objective(kernels, None, 8, torch.Generator().manual_seed(1))().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in kernels[0].parameters() if p.grad is not None]))
        assert torch.allclose(*gradients) is local


@pytest.mark.parametrize("method", ["HVI", "flow"])
def test_seeds_are_shortened_apart(method):
    torch.manual_seed(0)
    kernels = contestant(method).kernels()
    for kernel in kernels:
        for parameter in kernel.parameters():
            parameter.grad = torch.full_like(parameter, 1e-6)
        first = kernel.kernels[0].parameters() if method == "flow" else [p.grad[0] for p in kernel.parameters()]
        for part in first:
            (part.grad if method == "flow" else part).fill_(1e6)
    shorten_gradients(kernels)
    for s, longest in ((0, 5.0), (1, None)):
        parts = [
            p.grad if method == "flow" else p.grad[s]
            for kernel in kernels
            for p in (kernel.kernels[s] if method == "flow" else kernel).parameters()
        ]
        squares = sum(part.square().sum().item() for part in parts)
        untouched = 1e-12 * sum(part.numel() for part in parts)
        assert squares == pytest.approx(longest**2 if longest else untouched, rel=1e-4)


@pytest.mark.parametrize("method", ["HVI", "flow"])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_without_a_length_is_zero_and_leaves_the_other_seed_alone(method, bad):
    torch.manual_seed(0)
    kernels = contestant(method).kernels()
    for parameter in kernels.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    parts = lambda s: [  # noqa: E731
        p.grad if method == "flow" else p.grad[s]
        for k in kernels
        for p in (k.kernels[s] if method == "flow" else k).parameters()
    ]
    parts(0)[0].flatten()[0] = bad
    shorten_gradients(kernels)
    assert all(bool((part == 0).all()) for part in parts(0))
    assert all(bool((part == 1e-3).all()) for part in parts(1))


def test_the_judge_of_exact_draws_and_of_one_mode():
    ring, generator = LANDMARKS["ring"](), torch.Generator().manual_seed(0)
    exact, flat = ring.sample(4000, generator=generator)[:, None], torch.full((4000, 1), ring.log_z).double()
    (row,) = judge("ring", ring.log_z, flat, exact, flat.T)
    assert max(abs(row[name]) for name in ("gap", "error", "upper")) < 1e-12
    assert row["ess"] == pytest.approx(1) and row["astray"] < 0.04
    (row,) = judge("ring", ring.log_z, flat - math.log(8), torch.tensor([10.0, 0.0]).expand(4000, 1, 2), None)
    assert row["error"] == pytest.approx(-math.log(8)) and row["astray"] == pytest.approx(7 / 8) and "upper" not in row
    # Weights count: the same points, of which all weight is in one mode.
    where = (exact[:, 0] - torch.tensor([10.0, 0.0])).square().sum(-1) < 9
    (row,) = judge("ring", ring.log_z, torch.where(where, 0.0, -99.0)[:, None].double(), exact, None)
    assert row["astray"] == pytest.approx(7 / 8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["ring", "ionosphere"])
def test_the_budget_is_spent_and_kept(method, target):
    torch.set_default_dtype(torch.float32)
    config = replace(SMALL, target=target, method=method, budget=20_000 if method in ("AIS", "SMC") else SMALL.budget)
    found = measure(config)
    assert 0.85 * config.budget < found["gradients"] <= config.budget
    assert found["values"] >= 0.5 * found["gradients"] and len(found["seeds"]) == config.seeds
    assert all(math.isfinite(value) for row in found["seeds"] for value in row.values())
    assert ("upper" in found["seeds"][0]) is (target == "ring" and method in LEARNED)
    assert ("astray" in found["seeds"][0]) is (target == "ring")


def test_a_finished_result_is_read(tmp_path, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    made = run(SMALL, tmp_path)
    monkeypatch.setattr(benchmark, "measure", None)
    assert run(SMALL, tmp_path) == made
    with pytest.raises(ValueError, match="another configuration"):
        run(replace(SMALL, seeds=3), tmp_path)


def test_the_command_prints_each_error(tmp_path, capsys):
    torch.set_default_dtype(torch.float32)
    methods = ("mean-field", "NVI*")
    toy_commands.benchmark(targets=("ring",), methods=methods, budget=8_000, seeds=2, results=tmp_path)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[1]) for line in lines] == [("ring", "mean-field"), ("ring", "NVI*")]
    assert all(math.isfinite(float(number)) for line in lines for number in line[-2:])
    assert sorted(file.stem for file in tmp_path.glob("toys/benchmark/*.json")) == ["ring-NVI", "ring-mean-field"]


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="ring, many-well, funnel, ionosphere, sonar"):
        BenchmarkConfig("banana", "ULA")
    with pytest.raises(ValueError, match="mean-field, full Gaussian"):
        BenchmarkConfig("ring", "NUTS")
    with pytest.raises(ValueError, match="samples must be a whole number of at least 2"):
        replace(SMALL, samples=1)
    with pytest.raises(ValueError, match="budget"):
        measure(replace(SMALL, budget=100))
    with pytest.raises(ValueError, match="budget"):
        measure(replace(SMALL, method="AIS", budget=100))


def test_another_seed_is_another_result(tmp_path):
    run(SMALL, tmp_path)
    with pytest.raises(ValueError):
        run(SMALL, tmp_path, seed=1)
