"""The ring: quadrature against calculus, copies that do not meet, and files that are written once."""

import dataclasses
import json
import math

import pytest
import torch

from avo_lib.experiments import biased_noise as experiment
from avo_lib.experiments import toy_commands
from avo_lib.experiments.biased_noise import evaluate, load_ring, log_likelihoods, train
from avo_lib.experiments.results import load_results
from avo_lib.models.parts import STD_FLOOR
from avo_lib.models.ring import ETA, METHODS, Ring, RingConfig, line, mean, posterior, simulate
from avo_lib.numerics import log_normal
from avo_lib.objectives import avo, elbo
from avo_lib.testing import assert_mean, assert_unbiased_weights

SMALL = RingConfig("avo", stds=(0.1, 0.2), seeds=2, T=3, samples=7, hidden=5, batch=4, updates=2)
BOTTOM = torch.tensor([[0.0, -1.0]], dtype=torch.float64)


def small(method: str, **changes) -> Ring:
    return Ring(dataclasses.replace(SMALL, method=method, **changes)).requires_grad_(False)


def with_noise(ring: Ring, std: float) -> Ring:
    """The same with a constant noise."""
    ring.noise[-1].weight.zero_()
    ring.noise[-1].bias.fill_(math.log(math.expm1(std - STD_FLOOR)))
    return ring


@pytest.mark.parametrize("std", [0.05, 0.1, 0.2])
def test_the_modes_at_the_bottom_are_where_calculus_has_them(std):
    z = line()
    log_posterior, _ = posterior(BOTTOM, z, std)
    right = z[log_posterior[0].where(z[:, 0] > 0, -math.inf).argmax(), 0]

    def slope(z: torch.Tensor) -> torch.Tensor:
        """Of log p(z) + log p(x|z)."""
        angle = math.pi * torch.tanh(ETA * z)
        return -z + angle.sin() * math.pi * ETA / torch.cosh(ETA * z) ** 2 / std**2

    assert slope(right - 0.005) > 0 > slope(right + 0.005)
    torch.testing.assert_close(log_posterior, log_posterior.flip(-1))
    assert log_posterior.exp().sum() * 0.005 == pytest.approx(1, abs=1e-12)


def test_the_posterior_of_data_in_single_precision(generator):
    """As the model's own draws and latents are, by default."""
    x = simulate((5,), 0.1, generator=generator).float()
    assert torch.equal(posterior(x, line(), 0.1)[1], posterior(x.double(), line(), 0.1)[1])


def test_the_posterior_is_bayes_rule_with_a_noise_that_varies(generator):
    z = line(101)
    std, x = 0.1 + torch.rand(101, generator=generator), torch.randn(3, 2, generator=generator)
    log_posterior, log_p = posterior(x, z, std)
    log_joint = log_normal(z) + log_normal(x[:, None], mean(z), std[:, None])
    torch.testing.assert_close(log_posterior + log_p[:, None], log_joint)


def test_log_p_is_the_mean_of_weights_from_the_prior(generator):
    ring = small("iwae", stds=(0.3,), seeds=1)
    x = ring.config.simulate(3, generator=generator)
    log_w = ring.chain(x).sample((100_000,), generator=generator).log_w()[:, 0]
    learned, _ = log_likelihoods(ring, x)
    for weights, log_p in zip(log_w.T, learned[0]):
        assert_unbiased_weights(weights, log_p.item(), resolution=0.03)


def test_data_have_the_mean_and_the_noise_of_the_model(generator):
    x = simulate((200_000,), 0.3, generator=generator)
    assert_mean(x.square().sum(-1), 1 + 2 * 0.3**2, resolution=0.01)
    z = line()
    centre = (log_normal(z).softmax(0)[:, None] * mean(z)).sum(0)
    assert_mean(x, centre, resolution=0.01)
    assert mean(line(9)).square().sum(-1).allclose(torch.ones(9))


def test_the_noise_is_the_same_for_every_layout_of_z(generator):
    ring = small("vae")
    z = torch.randn(6, 4, 5, 1, generator=generator)
    torch.testing.assert_close(ring.std(z), torch.stack([ring.std(one) for one in z]))


@pytest.mark.parametrize("method", METHODS)
def test_copies_are_independent(method, generator):
    ring = Ring(dataclasses.replace(SMALL, method=method))
    x = ring.config.simulate(5, generator=generator)
    ring.bound(x, training=True, generator=generator)[1].sum().backward()
    for name, weight in ring.named_parameters():
        others = torch.ones(4, dtype=torch.bool).index_fill(0, torch.tensor(1), False)
        assert weight.grad is None or not weight.grad[others].any(), name
    assert ring.noise[0].weight.grad[1].any()


def test_avo_has_the_value_and_the_noise_gradient_of_the_elbo():
    ring = Ring(dataclasses.replace(SMALL, method="avo"))
    x = ring.config.simulate(5, generator=torch.Generator().manual_seed(1))
    found = {}
    for cut in (False, True):
        trajectory = ring.chain(x).sample(detach=cut, generator=torch.Generator().manual_seed(2))
        value = (avo if cut else elbo)(trajectory)
        gradient = torch.autograd.grad(value.sum(), [*ring.noise.parameters(), *ring.kernels[0].q.parameters()])
        found[cut] = value, gradient
    torch.testing.assert_close(found[False][0], found[True][0])
    count = len(list(ring.noise.parameters()))
    for one, other in zip(found[False][1][:count], found[True][1][:count]):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(found[False][1][-1], found[True][1][-1])


def test_the_true_noise_has_no_divergence():
    ring = with_noise(small("vae", stds=(0.25,)), 0.25)
    for row in evaluate(ring, points=200):
        assert row["model_kl"] == pytest.approx(0, abs=1e-5) and row["noise"] == pytest.approx([0.25] * 19, abs=1e-5)


def test_every_point_is_judged(monkeypatch):
    """The last block is shorter than a hundred; a mean of no points is refused, and so is the error of one."""
    judged, quadrature = [], experiment.log_likelihoods
    monkeypatch.setattr(experiment, "log_likelihoods", lambda ring, x: judged.append(x.shape[1]) or quadrature(ring, x))
    evaluate(small("avo"), points=250, samples=2)
    assert judged == [100, 100, 50]
    for points in (0, 1, 2.5):
        with pytest.raises(ValueError, match="points must be a whole number of at least 2"):
            evaluate(small("avo"), points=points)


def test_the_gap_of_a_gaussian_is_its_divergence(generator):
    ring = with_noise(small("vae", seeds=1, stds=(0.5,)), 0.5)
    x = ring.config.simulate(1, generator=generator)
    z, proposal = line(2401, 6.0), ring.chain(x).proposal
    log_q = log_normal(z, proposal.mean, proposal.std)
    divergence = (log_q.exp() * (log_q - posterior(x[0], z, 0.5)[0])).sum() * 0.005
    bound = ring.bound(x.expand(1, 40_000, 2), generator=generator)
    assert_mean(log_likelihoods(ring, x)[0] - bound[0][:, None], divergence, resolution=0.05)


def test_the_sandwich_is_ordered_and_below_the_gap():
    ring = small("hvi", stds=(0.4,), seeds=3)
    for row in evaluate(ring, points=1000, samples=50):
        error = 5 * (row["kl_stderr"] + row["gap_stderr"])
        assert 0 < row["kl_lower"] < row["kl_upper"] < row["gap"] + error
        assert row["log_p"] - row["bound"] == pytest.approx(row["gap"], abs=1e-4)


def test_training_raises_the_bound_and_both_chains_start_alike():
    fits = {}
    for method in ("hvi", "avo"):
        fits[method], curve = train(RingConfig(method, (0.3,), 2, T=2, hidden=8, updates=1, lr=1e-30))
        assert list(curve) == [0] and len(curve[0]) == 2
    for one, other in zip(fits["hvi"].parameters(), fits["avo"].parameters()):
        torch.testing.assert_close(one, other)
    _, curve = train(RingConfig("vae", (0.3,), 2, hidden=8, updates=501, lr=0.01))
    assert all(after < before / 2 for before, after in zip(curve[0], curve[500]))


@pytest.mark.parametrize("method", ["vae", "avo"])
def test_a_run_is_written_once_and_can_be_loaded(method, tmp_path, monkeypatch, generator):
    config = dataclasses.replace(SMALL, method=method)
    result = experiment.run(config, tmp_path)
    assert json.loads(experiment.ring_file(config, tmp_path).read_bytes()) == result
    assert len(result["copies"]) == 4 and list(result["curve"]) == ["0"]
    assert load_results(tmp_path) == []  # these are no results of models, and must not be taken for them

    all_copies, middle = train(config)[0], load_ring(config, tmp_path)
    z = torch.randn(4, 5, 1, generator=generator)
    torch.testing.assert_close(middle.std(z[2:]), all_copies.std(z)[2:])
    assert middle.config.stds == (0.2,) and middle.bound(middle.config.simulate(6)).shape == (2, 6)

    monkeypatch.setattr(experiment, "train", None)  # a second call must not need it
    assert experiment.run(config, tmp_path) == result
    with pytest.raises(ValueError, match="another configuration"):
        experiment.run(dataclasses.replace(config, updates=4), tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m avo_lib ring"):
        load_ring(dataclasses.replace(config, method="iwae"), tmp_path)


def test_a_damaged_result_or_weights_are_named(tmp_path):
    result = experiment.run(SMALL, tmp_path)
    file = experiment.ring_file(SMALL, tmp_path)
    for damaged in ("", json.dumps(result | {"copies": []}), json.dumps(result).replace('"model_kl"', '"lk"')):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=r"\.json is not a result"):
            experiment.run(SMALL, tmp_path)
    file.with_suffix(".safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.safetensors is damaged"):
        load_ring(SMALL, tmp_path)


def test_the_command_line_fits_every_method(tmp_path, monkeypatch, capsys):
    assert [config.method for config in experiment.CONFIGS] == [*METHODS, "avo"]
    assert len({experiment.ring_file(config) for config in experiment.CONFIGS}) == 6
    small_ones = [dataclasses.replace(SMALL, method=method) for method in ("vae", "hvi")]
    monkeypatch.setattr(experiment, "CONFIGS", small_ones)
    toy_commands.ring(updates=1, seeds=1, results=tmp_path)
    assert capsys.readouterr().out.count("KL") == 4  # two methods at two noise levels
    assert len(list(tmp_path.glob("toys/ring/*.json"))) == 2


def test_the_count_of_decodings():
    assert [RingConfig(method).decodings for method in METHODS] == [1, 500, 1, 10, 5.5]


def test_a_latent_has_one_coordinate():
    with pytest.raises(ValueError, match=r"the ring takes points \(\.\.\., 1\), not \(5, 2\)"):
        mean(torch.zeros(5, 2))


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="need a method"):
        dataclasses.replace(SMALL, method="gan")
    for stds in ((), (0.1, 0.0), (0.1, math.nan)):
        with pytest.raises(ValueError, match="stds must be positive"):
            dataclasses.replace(SMALL, stds=stds)


def test_a_single_deviation_is_no_list_of_them():
    with pytest.raises(ValueError, match="stds must be positive"):
        RingConfig("avo", stds=0.1)
