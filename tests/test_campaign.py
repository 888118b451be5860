"""Named experiments: what they are, and that a run leaves all that it should."""

import io
import json
import math
import shutil
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch

import avo_lib
from avo_lib.data import Dataset
from avo_lib.estimate import Estimate
from avo_lib.experiments import campaign, omniglot, protocols, results
from avo_lib.experiments.campaign import load_model, log_likelihood_of_test, run, sweep
from avo_lib.experiments.mnist import load_mnist
from avo_lib.experiments.protocols import EXPERIMENTS, find
from avo_lib.experiments.results import load_results, result_file, table
from avo_lib.files import SEAL, seal
from avo_lib.models import VAEConfig
from avo_lib.objectives import AVO, ELBO, IWAE
from avo_lib.schedules import Constant, Cyclical, WarmUp

METHODS = ["vae", "vae_constant", "vae_cyclical", "iwae", "householder", "hvi", "avo", "avo_half"]
KEYS = "experiment method seed config versions seconds epochs best_epoch curve train valid test".split()


pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The miniature experiment, smaller still."""
    small = {}
    for name, setup in EXPERIMENTS["miniature"].items():
        model = replace(setup.model, hidden=(20,), latent=4, T=min(setup.model.T, 2))
        small[name] = replace(setup, model=model, train=replace(setup.train, epochs=1), images=200, samples=20)
    monkeypatch.setitem(EXPERIMENTS, "miniature", small)
    monkeypatch.setitem(protocols.DATASETS, "mnist", cache(load_mnist))


@pytest.mark.parametrize("method", ["vae", "iwae", "householder", "hvi", "avo"])
def test_a_run_writes_its_result_and_weights(method, folders):
    state = torch.get_rng_state()
    result = run("miniature", method, 3, device="cpu", **folders)
    assert torch.equal(torch.get_rng_state(), state)
    file = result_file("miniature", method, 3, folders["results"])
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name, f"{method}-seed3.safetensors"]
    assert json.loads(file.read_text()) == result
    assert list(result) == KEYS
    assert (result["experiment"], result["method"], result["seed"]) == ("miniature", method, 3)
    assert result["versions"]["avo_lib"] == avo_lib.__version__ and result["versions"]["device"] == "cpu"
    assert result["config"]["model"]["hidden"] == [20] and result["config"]["images"] == 200
    assert result["config"]["train"]["beta"] == "WarmUp(start=0.2, rate=0.002)"
    assert result["epochs"] == len(result["curve"]) == 1 and result["seconds"] >= 0
    assert set(result["train"]) == set(result["valid"]) == {"elbo", "kl"}
    test = result["test"]
    assert set(test) == {"elbo", "kl", "nll", "stderr", "samples", "images", "ess", "nll_by_samples"}
    assert (test["samples"], test["images"]) == (20, 200) and list(test["nll_by_samples"]) == ["1", "10", "20"]
    assert test["nll_by_samples"]["20"] == pytest.approx(test["nll"])
    assert 1 <= test["ess"] <= 20 and 0 < test["kl"] < -test["elbo"]
    # More samples bring the estimate closer; one sample is the ELBO, up to other noise.
    assert test["nll"] < test["nll_by_samples"]["10"] < test["nll_by_samples"]["1"]
    assert test["nll_by_samples"]["1"] == pytest.approx(-test["elbo"], rel=0.02)


def test_published_weights_give_the_published_likelihood(folders):
    setup, result = find("miniature", "avo"), run("miniature", "avo", device="cpu", **folders)
    model = load_model("miniature", "avo", results=folders["results"])
    assert not model.training
    again = log_likelihood_of_test(model, setup.data(), setup.samples)
    assert again.nll.value == result["test"]["nll"] and again.nll.stderr == result["test"]["stderr"]


def test_the_same_command_gives_the_same_result(folders, tmp_path):
    first = run("miniature", "hvi", device="cpu", **folders)
    for folder in folders.values():
        shutil.rmtree(folder)
    again = run("miniature", "hvi", device="cpu", **folders)
    assert first | {"seconds": 0} == again | {"seconds": 0}
    other = run("miniature", "hvi", 1, device="cpu", **folders)
    assert other["test"]["nll"] != first["test"]["nll"]


@pytest.mark.parametrize("weights", [True, False])
def test_a_finished_run_is_read(weights, folders, monkeypatch):
    """Not trained again where there is no checkpoint, as in a fresh clone, which lacks most weights too."""
    first = run("miniature", "vae", device="cpu", **folders)
    shutil.rmtree(folders["runs"])
    file = result_file("miniature", "vae", 0, folders["results"])
    if not weights:
        file.with_suffix(".safetensors").unlink()
    before = file.stat().st_mtime_ns
    monkeypatch.setattr(campaign, "fit", None)  # were it called, a TypeError
    assert run("miniature", "vae", device="cpu", **folders) == first and file.stat().st_mtime_ns == before


def test_a_seed_fixes_the_initial_weights_alone():
    setup, state = find("miniature", "avo"), torch.get_rng_state()
    one, same, other = (setup.build(seed).state_dict()["q0.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_missing_weights_name_the_command_that_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m avo_lib run --experiment report --method avo --seed 2"):
        load_model("report", "avo", 2, results=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "another architecture"])
def test_weights_that_do_not_fit_are_named(damage, folders):
    run("miniature", "vae", device="cpu", **folders)
    file = result_file("miniature", "vae", 0, folders["results"]).with_suffix(".safetensors")
    method = "vae" if damage == "cut" else "avo"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        file.rename(file.with_name("avo-seed0.safetensors"))
    with pytest.raises(ValueError, match=rf"{method}-seed0\.safetensors is damaged or of another configuration"):
        load_model("miniature", method, results=folders["results"])


def test_a_sweep_runs_what_is_missing_and_nothing_else(folders):
    run("miniature", "vae", device="cpu", **folders)
    kept = result_file("miniature", "vae", 0, folders["results"])
    marked = kept.read_text() + "\n"
    kept.write_text(marked)
    files = sweep("miniature", ["vae", "avo"], [0, 1], jobs=1, **folders)
    assert [file.name for file in files] == [
        f"{method}-seed{seed}.json" for seed in (0, 1) for method in ("vae", "avo")
    ]
    assert all(file.is_file() for file in files)
    assert kept.read_text() == marked
    assert list(table(load_results(folders["results"]))["seeds"]) == [2, 2]


def test_a_sweep_refuses_results_of_other_settings(folders):
    run("miniature", "vae", device="cpu", **folders)
    file = result_file("miniature", "vae", 0, folders["results"])
    result = json.loads(file.read_text())
    del result["config"]["train"]["lr_drop"]  # as if written before there was such an option
    file.write_text(json.dumps(result))
    assert sweep("miniature", ["vae"], jobs=1, **folders) == [file]
    result["config"]["train"]["lr"] = 0.5
    file.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"vae-seed0\.json has other settings than miniature vae has now"):
        sweep("miniature", ["vae"], jobs=1, **folders)


@pytest.mark.parametrize("samples", [None, 30])
def test_a_result_judged_with_other_samples_is_not_taken_for_this_one(samples, folders):
    """How a model is judged is no part of how it was trained, and yet of what its result says."""
    setup = find("miniature", "vae")
    sweep("miniature", {"vae": setup}, jobs=1, **folders)
    with pytest.raises(ValueError, match="has other settings than miniature vae has now"):
        sweep("miniature", {"vae": replace(setup, samples=samples)}, jobs=1, **folders)


@pytest.mark.parametrize("start", [partial(sweep, methods=["vae"], jobs=1), partial(run, method="vae")])
def test_a_damaged_result_is_named(start, folders):
    file = result_file("miniature", "vae", 0, folders["results"])
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(ValueError, match=r"vae-seed0\.json is not a result: .*Expecting value"):
        start("miniature", **folders)


@pytest.mark.parametrize("config", [{}, {"train": [], "model": {}}, {"train": {"samples": "two"}, "model": 7}])
def test_settings_of_another_kind_are_other_settings(config, folders):
    result = run("miniature", "vae", device="cpu", **folders)
    file = result_file("miniature", "vae", 0, folders["results"])
    file.write_text(json.dumps(result | {"config": config}))
    with pytest.raises(ValueError, match="has other settings than miniature vae has now"):
        sweep("miniature", ["vae"], jobs=1, **folders)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_damaged_weights_are_not_published(spoilt, folders):
    """Nor what they give, if a finished checkpoint is whole, but its weights are not."""
    run("miniature", "vae", device="cpu", **folders)
    shutil.rmtree(folders["results"])
    file = folders["runs"] / "miniature" / "vae-seed0" / "checkpoint.pt"
    parts = torch.load(io.BytesIO(file.read_bytes()[SEAL:]), weights_only=True)
    next(iter(parts["run"]["best_weights"].values())).view(-1)[0] = spoilt
    torch.save(parts, buffer := io.BytesIO())
    file.write_bytes(seal(buffer.getvalue()))
    with pytest.raises(FloatingPointError, match=r"vae-seed0\.json is not written: not all weights are finite in enc"):
        run("miniature", "vae", device="cpu", **folders)
    assert not [path for path in folders["results"].rglob("*") if path.is_file()]


def test_the_results_folder_is_tried_before_the_training(folders, monkeypatch):
    folders["results"].touch()
    monkeypatch.setattr(campaign, "fit", None)  # were it called, a TypeError
    with pytest.raises(OSError, match=r"cannot write to .*/results/miniature: Not a directory"):
        run("miniature", "vae", device="cpu", **folders)


def test_settings_from_numpy_are_published(folders, monkeypatch):
    setup = find("miniature", "vae")
    numpy = replace(
        setup,
        images=np.int64(200),
        model=replace(setup.model, latent=np.int64(4)),
        train=replace(setup.train, epochs=np.int64(1), lr=np.float64(1e-3)),
    )
    monkeypatch.setitem(EXPERIMENTS["miniature"], "vae", numpy)
    (file,) = sweep("miniature", ["vae"], np.arange(1), jobs=1, **folders)
    monkeypatch.setitem(EXPERIMENTS["miniature"], "vae", setup)
    assert sweep("miniature", ["vae"], jobs=1, **folders) == [file]


@pytest.mark.parametrize("experiment", ["report", "report_fixed", "paper", "search", "screening"])
def test_the_committed_results_have_the_settings_of_today(experiment):
    """Written when the objective was four options, they are neither run again nor refused."""
    files = sorted((results.RESULTS / experiment).glob("*.json"))
    assert files
    for file in files:
        method, _, seed = file.stem.rpartition("-seed")
        assert campaign.is_finished(experiment, method, int(seed), results.RESULTS, find(experiment, method)), file.name


def test_a_result_from_before_an_option_had_its_default(folders, monkeypatch):
    run("miniature", "avo", device="cpu", **folders)
    file = result_file("miniature", "avo", 0, folders["results"])
    result = json.loads(file.read_text())
    del result["config"]["train"]["lr_drop"]
    file.write_text(json.dumps(result))
    setup = find("miniature", "avo")
    attached = replace(setup, train=replace(setup.train, lr_drop=0.5))
    monkeypatch.setitem(EXPERIMENTS["miniature"], "avo", attached)
    for start in (partial(sweep, methods=["avo"], jobs=1), partial(run, method="avo", device="cpu")):
        with pytest.raises(ValueError, match="has other settings than miniature avo has now"):
            start("miniature", **folders)


def test_a_diverging_run_does_not_stop_the_others(folders, monkeypatch):
    done = []

    def stub(experiment, method, seed, **_):
        if method == "vae":
            raise FloatingPointError("the objective is nan at step 7")
        done.append(method)

    monkeypatch.setattr(campaign, "run", stub)
    with pytest.raises(FloatingPointError, match="vae seed 0: the objective is nan at step 7"):
        sweep("miniature", ["vae", "avo", "hvi"], jobs=1, **folders)
    assert done == ["avo", "hvi"]


def test_a_sweep_runs_equal_seeds_once_and_gives_the_threads_back(folders, monkeypatch):
    done, threads = [], torch.get_num_threads()
    monkeypatch.setattr(campaign, "run", lambda _, method, seed, **__: done.append((method, seed)))
    torch.set_num_threads(2)
    try:
        files = sweep("miniature", ["vae", "avo"], (3, 3, np.int64(3)), jobs=1, **folders)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert done == [("vae", 3), ("avo", 3)] and len(files) == 2


def test_a_sweep_without_methods_means_all(folders, monkeypatch):
    monkeypatch.setattr(campaign, "run", lambda *_, **__: None)
    files = sweep("miniature", jobs=1, **folders)
    assert [file.name for file in files] == [f"{method}-seed0.json" for method in METHODS]


def test_a_sweep_checks_every_name_first(folders, monkeypatch):
    monkeypatch.setattr(campaign, "run", None)  # were it called, a TypeError
    with pytest.raises(ValueError, match="no method 'gan' in miniature; there are vae, vae_constant"):
        sweep("miniature", ["vae", "gan"], jobs=1, **folders)
    with pytest.raises(
        ValueError,
        match="no experiment 'cifar'; there are report, report_fixed, report_long, paper, screening, ",
    ):
        sweep("cifar", jobs=1, **folders)


def test_unknown_names_list_the_known():
    with pytest.raises(
        ValueError,
        match="no experiment 'cifar'; there are report, report_fixed, report_long, paper, screening, ",
    ):
        find("cifar", "vae")
    with pytest.raises(
        ValueError, match="no method 'gan' in report; there are vae, vae_constant, vae_cyclical, iwae, "
    ):
        find("report", "gan")


def protocols_of_all_methods():
    """Without the search, and without the readings that follow the eight methods of the paper's protocol."""
    every = {name: dict(list(methods.items())[:8]) for name, methods in EXPERIMENTS.items()}
    some = ("search", "fashion", "omniglot", "stronger", "report_long")
    return {name: methods for name, methods in every.items() if name not in some}


def test_every_protocol_compares_the_same_methods():
    for protocol in protocols_of_all_methods().values():
        assert list(protocol) == METHODS
        base = protocol["vae"]
        for name, setup in protocol.items():  # the methods differ in what makes them, and in nothing else
            assert setup.binarisation == base.binarisation and setup.samples == base.samples
            own = ["objective", "beta"] if name in ("vae_constant", "vae_cyclical") else ["objective"]
            assert replace(setup.train, **{part: getattr(base.train, part) for part in own}) == base.train, name
            assert replace(setup.model, T=0, kernel="gated") == replace(base.model, T=0), name
            share = {"avo": 0.2, "avo_half": 0.5}.get(name)
            expected = IWAE(5) if name == "iwae" else ELBO() if share is None else AVO(share)
            assert setup.train.objective == expected
            assert (setup.model.T == 0) == (name.startswith("vae") or name == "iwae")
            assert (setup.model.kernel == "householder") == (name == "householder")


def test_the_long_report_differs_in_its_epochs_alone():
    """Its cycles, four in either, are longer; its warm-up is not."""
    for name, setup in EXPERIMENTS["report_long"].items():
        short = find("report", name)
        beta = replace(short.train.beta, period=19_550) if name == "vae_cyclical" else short.train.beta
        assert setup == replace(short, train=replace(short.train, epochs=100, beta=beta))


def test_fashion_is_the_screening_on_other_images(monkeypatch):
    for name, setup in EXPERIMENTS["fashion"].items():
        assert replace(setup, dataset="mnist", samples=None) == find("screening", name)
    monkeypatch.setitem(
        protocols.DATASETS, "fashion_mnist", lambda binarisation: Dataset(*3 * [torch.zeros(20_000, 784)])
    )
    assert len(find("fashion", "vae").data().train) == 10_000


def test_omniglot_is_the_paper_protocol_on_other_images():
    """Its epochs have 230 steps, not 500, and beta is 1 after half of them all the same."""
    for name, setup in EXPERIMENTS["omniglot"].items():
        paper, beta = find("paper", name), setup.train.beta
        assert setup.dataset == "omniglot" and setup.model == replace(paper.model, latent=200)
        assert replace(setup.train, beta=paper.train.beta) == paper.train
        steps = -(-omniglot.TRAIN_IMAGES // setup.train.batch_size)
        assert beta(0) == 0.2 and beta(99 * steps) < 1 == beta(100 * steps) and setup.train.epochs == 200
    cycles = protocols._methods(find("omniglot", "vae"))["vae_cyclical"].train.beta
    assert cycles.period * 4 == 200 * steps, "the last cycle ends with the training"


def test_the_stronger_autoencoder_differs_from_the_report_protocol_in_its_layers_and_prior():
    stronger = {"layers": "gated", "batch_norm": False, "pseudo_inputs": 100}
    for name, setup in EXPERIMENTS["stronger"].items():
        base = find("report", name.removesuffix("_normal"))
        changes = stronger | ({"pseudo_inputs": 0} if name == "vae_normal" else {})
        assert setup == replace(base, model=replace(base.model, **changes))


def test_the_flows_of_the_report_protocol_differ_in_their_kernels():
    chain, flow, annealed = (find("report", method) for method in ("hvi", "iaf", "avo_iaf"))
    assert flow == replace(chain, model=replace(chain.model, kernel="autoregressive"))
    assert annealed == replace(flow, train=replace(flow.train, objective=AVO(0.2)))


@pytest.mark.parametrize("method", ["iaf", "avo_iaf"])
def test_a_flow_runs_and_its_weights_come_back(method, folders):
    miniature = find("miniature", "hvi" if method == "iaf" else "avo")
    setup = replace(miniature, model=replace(miniature.model, kernel="autoregressive"))
    result = run("miniature", method, setup=setup, device="cpu", **folders)
    model = load_model("miniature", method, setup=setup, results=folders["results"])
    again = log_likelihood_of_test(model, setup.data(), setup.samples)
    assert again.nll.value == result["test"]["nll"] < result["test"]["nll_by_samples"]["1"]


def test_the_schedules_of_beta_fit_the_training():
    for protocol in ("report", "report_fixed", "paper"):
        assert find(protocol, "vae_constant").train.beta == Constant()
        setup = find(protocol, "vae_cyclical")
        cycles, batches = setup.train.beta, -(-len(load_mnist("fixed").train) // setup.train.batch_size)
        assert isinstance(cycles, Cyclical) and cycles.cycles == 4
        steps = setup.train.epochs * batches
        assert 0 <= cycles.period * 4 - steps < 4, "the last cycle ends with the training"


def test_the_search_leaves_the_test_set_alone(folders, monkeypatch):
    assert all(setup.samples is None for setup in EXPERIMENTS["search"].values())
    monkeypatch.setitem(EXPERIMENTS, "search", {"vae": replace(find("miniature", "vae"), samples=None)})
    result = run("search", "vae", device="cpu", **folders)
    assert list(result) == [key for key in KEYS if key != "test"]
    shown = table(load_results(folders["results"]))
    assert shown["valid −ELBO"][0] == -result["valid"]["elbo"] and shown["test NLL"].isna().all()


def test_the_search_gives_every_method_the_same_grid():
    grid = [name.split("_", 1) for name in EXPERIMENTS["search"] if "_lr" in name]
    cells = {method: {cell for other, cell in grid if other == method} for method, _ in grid}
    assert set(cells) == {"vae", "hvi", "avo"} and len({frozenset(found) for found in cells.values()}) == 1
    paper = find("paper", "avo")
    for name, setup in EXPERIMENTS["search"].items():
        changed = replace(setup.model, T=5, std_init=paper.model.std_init)
        assert changed == paper.model and setup.binarisation == "fixed", name


def test_the_report_protocol():
    """The settings of the 2020 report."""
    setup = EXPERIMENTS["report"]["avo"]
    model, train = setup.model, setup.train
    assert (model.hidden, model.layers, model.batch_norm, model.latent) == ((300, 300), "leaky_relu", True, 40)
    assert (model.T, model.kernel, model.kernel_hidden) == (5, "gated", 40)
    assert (train.epochs, train.batch_size, train.lr, train.objective) == (25, 64, 1e-3, AVO(0.2))
    assert train.beta == WarmUp(start=0.2, rate=2e-4) and train.patience is None
    assert (setup.binarisation, setup.images, setup.samples) == ("dynamic", None, 1000)


def test_the_paper_protocol():
    setup = EXPERIMENTS["paper"]["avo"]
    model, train = setup.model, setup.train
    assert (model.hidden, model.layers, model.batch_norm, model.latent) == ((300, 300), "gated", False, 40)
    assert (model.T, model.kernel, model.conditioning) == (5, "gated", "weight_norm")
    steps = 50_000 // train.batch_size
    assert train.beta(99 * steps) < 1 == train.beta(100 * steps) and train.epochs == 200  # it warms up for half of them
    assert (setup.binarisation, setup.images, setup.samples) == ("fixed", None, 1000)
    assert VAEConfig().pixels == model.pixels == 784


def test_a_divergence_that_the_path_does_not_tell_is_left_out(monkeypatch):
    """A result holds finite numbers, and one without it is still a result."""
    monkeypatch.setattr(campaign, "average_bound", lambda *_, **__: (Estimate(-1.0, 0.1, "lower"), math.nan))
    assert campaign._bound(torch.nn.Linear(1, 1), torch.zeros(2, 3), False) == {"elbo": -1.0}
