"""The referee against likelihoods that quadrature knows, and what it writes."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from avo_lib.chain import Gaussian
from avo_lib.evaluation import ais
from avo_lib.experiments import inference as of_gaps
from avo_lib.experiments import referee as judge
from avo_lib.experiments.inference import inference_gaps
from avo_lib.experiments.referee import RefereeConfig, encoder_chain, referee_file
from avo_lib.experiments.results import load_results
from avo_lib.gaps import GapConfig
from avo_lib.kernels import HMC
from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_bernoulli, log_normal

referee = partial(judge.referee, device="cpu")
FEW = RefereeConfig(images=6, simulated=5, chains=4, T=8, leapfrog_steps=2, samples=20)


@pytest.fixture
def model():
    """One latent, six pixels, two kernels that do something; in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = VAEConfig(pixels=6, hidden=(8,), latent=1, T=2, batch_norm=False, kernel_hidden=4, std_init=0.5)
        model = VAE(config).double().eval().requires_grad_(False)
    model.decoder[-1].weight *= 3
    return model


def test_the_chain_from_the_encoder_brackets_the_exact_likelihood(model, generator):
    """Drawn pairs (z, x): forwards from the encoder, backwards from z; the kernels' own chain plays no part."""
    z = torch.randn(3, 1, generator=generator, dtype=torch.float64)
    x = torch.bernoulli(model.decode(z).sigmoid(), generator=generator)
    chain = encoder_chain(model, x, [HMC(0.3, 3)] * 30)
    assert isinstance(chain.proposal, Gaussian) and chain.context is None
    _, forwards = ais(chain, 4000, generator=generator)
    grid = torch.linspace(-9, 9, 3601, dtype=torch.float64)[:, None]
    for i in range(3):
        exact = (log_normal(grid) + log_bernoulli(x[i], model.decode(grid))).logsumexp(0) + math.log(18 / 3600)
        weights = (forwards[:, i] - exact).exp()
        stderr = weights.std() / len(weights) ** 0.5
        assert abs(weights.mean() - 1) < 5 * stderr and stderr < 0.05


def test_a_verdict_is_written_and_read_again(small_run):
    verdict = referee("miniature", "avo", config=FEW, results=small_run)
    file = referee_file("miniature", "avo", 0, small_run)
    assert json.loads(file.read_text()) == verdict
    assert list(verdict) == ["config", "versions", "test", "simulated", "step_size", "active_units", "moved"]
    test = verdict["test"]
    assert test["excess"]["value"] == pytest.approx(test["is"]["value"] - test["ais"]["value"])
    assert len(test["log_p"]) == 6 and sum(test["log_p"]) / 6 == pytest.approx(-test["ais"]["value"], abs=1e-3)
    assert 0 <= verdict["active_units"] <= 4 and len(verdict["moved"]) == 2 and min(verdict["moved"]) > 0
    del verdict["versions"]  # as if written before they were
    file.write_text(json.dumps(verdict | {"active_units": -1}))
    assert referee("miniature", "avo", config=FEW, results=small_run)["active_units"] == -1, "not computed twice"
    with pytest.raises(ValueError, match="another configuration"):
        referee("miniature", "avo", config=replace(FEW, T=9), results=small_run)
    file.write_text(json.dumps(verdict | {"test": test | {"ais": math.nan}}))
    with pytest.raises(ValueError, match=r"referee/miniature/avo-seed0\.json is not a result"):
        referee("miniature", "avo", config=FEW, results=small_run)
    assert len(load_results(small_run)) == 1, "a verdict is no result of a run"


def test_the_importance_sampling_is_that_of_the_published_result(small_run):
    """The same images with the same noise: all of them together give the published number."""
    all_images = replace(FEW, images=100)
    known = load_results(small_run)[0]["test"]
    found = referee("miniature", "avo", config=all_images, results=small_run)["test"]["is"]
    assert (found["value"], found["stderr"]) == pytest.approx((known["nll"], known["stderr"]))


def test_more_images_than_there_are_are_refused(small_run):
    """The file would say that it is of 101."""
    with pytest.raises(ValueError, match="miniature has 100 test images, not 101"):
        referee("miniature", "avo", config=replace(FEW, images=101), results=small_run)
    assert not referee_file("miniature", "avo", 0, small_run).exists()


@pytest.mark.parametrize("name", ["images", "simulated", "chains", "T", "samples"])
def test_of_one_there_is_no_spread(name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 2, not 1"):
        replace(FEW, **{name: 1})


def test_simulated_images_are_of_the_models_own_prior(small_run, monkeypatch):
    """A learned prior far from N(0, I): draws of the latter would bound the likelihood of nothing."""
    config = VAEConfig(hidden=(20,), latent=4, T=2, batch_norm=False, pseudo_inputs=3)
    model = VAE(config).float().eval()
    with torch.no_grad():
        model.q0.bias[:4] = 20.0
    seen = []

    def above(model, x, z, *rest, **options):
        seen.append(z)
        return torch.zeros(len(z))

    monkeypatch.setattr(judge, "load_model", lambda *_, **__: model)
    monkeypatch.setattr(judge, "_reverse", above)
    referee("miniature", "avo", config=FEW, results=small_run)
    monkeypatch.setattr(of_gaps, "load_model", lambda *_, **__: model)
    monkeypatch.setattr(of_gaps, "measure_bracket", above)
    few = GapConfig(draws=5, steps=3, samples=2, chains=2, T=3, leapfrog_steps=1)
    inference_gaps("miniature", "avo", config=few, images=6, simulated=5, device="cpu", results=small_run)
    assert [z.shape for z in seen] == [(5, 4), (5, 4)] and all(bool((z > 10).all()) for z in seen)
