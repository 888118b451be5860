"""The runs that a GPU takes side by side are those of the training loop: here one by one, on the CPU."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avo_lib.controls import RestingEncoder
from avo_lib.data import Dataset
from avo_lib.experiments.campaign import is_finished
from avo_lib.experiments.protocols import EXPERIMENTS, find
from avo_lib.objectives import AVO, ELBO, IWAE
from avo_lib.training import fit

FILE = Path(__file__).resolve().parents[1] / "tools" / "on_gpu.py"
spec = importlib.util.spec_from_file_location("on_gpu", FILE)
on_gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(on_gpu)


pytestmark = pytest.mark.usefixtures("float32")


def small(experiment, method, epochs=3):
    setup = find(experiment, method)
    return replace(setup, images=200, train=replace(setup.train, epochs=epochs, batch_size=50), samples=20)


@pytest.mark.parametrize(
    "experiment, method", [("paper", "vae_noise15"), ("report", "hvi"), ("screening", "vae_beta125")]
)
def test_the_steps_are_those_of_the_training_loop(experiment, method, tmp_path):
    """Bit for bit, where no coin is tossed."""
    setup = small(experiment, method)
    data, model = setup.data(), setup.build(3)
    finished = fit(model, data, setup.train, seed=3, device="cpu")
    run = on_gpu.Run(setup, 3, data, tmp_path, "cpu")
    on_gpu.train([run])
    assert [row["valid"] for row in run.run.curve] == [row["valid"] for row in finished.curve]
    assert [row["train"] for row in run.run.curve] == pytest.approx([row["train"] for row in finished.curve])
    assert all(torch.equal(run.run.best_weights[name], value) for name, value in model.state_dict().items())


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    setup = small("paper", "avo")
    data = setup.data()
    whole = on_gpu.Run(setup, 1, data, tmp_path / "whole", "cpu")
    (tmp_path / "whole").mkdir()
    on_gpu.train([whole])
    (tmp_path / "parts").mkdir()
    for epochs in (1, 2, 3):
        part = on_gpu.Run(setup, 1, data, tmp_path / "parts", "cpu")
        on_gpu.train([part], -1.0 if epochs < 3 else 60.0)
        if epochs < 3:
            assert part.run.epoch == epochs - 1  # late from the start, so nothing moves but by hand
            while part.advance() and part.run.epoch < epochs:
                pass
            part.checkpoint.save()
    assert part.run.curve == whole.run.curve and part.run.epoch == 3


def test_a_finished_run_has_no_step_left_to_capture(tmp_path, monkeypatch):
    """Nor has one that was stopped in its evaluation and is restored."""
    setup = small("paper", "vae", epochs=1)
    monkeypatch.setattr(on_gpu.Run, "_captured", lambda run, objective: objective)
    run = on_gpu.Run(setup, 0, setup.data(), tmp_path, "cpu")
    assert run._capture() == [ELBO()]
    on_gpu.train([run])
    again = on_gpu.Run(setup, 0, setup.data(), tmp_path, "cpu")
    assert again.finished and again._capture() == [] and not again.advance()


def test_a_run_that_diverges_stops_no_other(tmp_path):
    """It keeps its last checkpoint, or none."""
    setup = small("paper", "vae", epochs=2)
    data = setup.data()
    bad = on_gpu.Run(replace(setup, train=replace(setup.train, lr=1e30)), 0, data, tmp_path / "bad", "cpu")
    good = on_gpu.Run(setup, 0, data, tmp_path / "good", "cpu")
    diverged = on_gpu.train([bad, good])
    assert list(diverged) == [bad] and "not finite in epoch 1" in str(diverged[bad])
    assert good.finished and good.checkpoint.file.is_file() and not bad.checkpoint.file.exists()


def test_what_is_stopped_by_force_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    setup = small("paper", "vae")
    data = setup.data()
    whole, stopped = (on_gpu.Run(setup, 1, data, tmp_path / name, "cpu") for name in ("whole", "parts"))
    on_gpu.train([whole])
    monkeypatch.setattr(on_gpu, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(stopped, "_step", Stop(stopped._step, after=10))
    with pytest.raises(KeyboardInterrupt):
        on_gpu.train([stopped])
    again = on_gpu.Run(setup, 1, data, tmp_path / "parts", "cpu")
    assert (again.run.epoch, again.run.step) == (2, 8)
    on_gpu.train([again])
    assert again.run.curve == whole.run.curve


class Stop:
    """Steps, until somebody presses Ctrl-C."""

    def __init__(self, step, after):
        self.step, self.left = step, after

    def __call__(self, objective):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.step(objective)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["vae_noise15", "avo_proposal", "hvi_resting"])
def test_a_graph_takes_the_steps_that_it_captured(method, tmp_path, monkeypatch):
    setup = small("paper", method)
    one = setup.data()
    data = Dataset(one.train.cuda(), one.valid.cuda())
    graph = on_gpu.Run(setup, 2, data, tmp_path / "graph", "cuda")
    for module in ("objectives", "controls"):  # as in a graph, where what is certain is not tossed
        monkeypatch.setattr(f"avo_lib.{module}.toss", lambda share, generator: share == 1)
    monkeypatch.setattr(on_gpu.Run, "_captured", lambda run, objective: Steps(run, objective))
    steps = on_gpu.Run(setup, 2, data, tmp_path / "steps", "cuda")
    for run in (graph, steps):
        run.checkpoint.file.parent.mkdir()
        on_gpu.train([run])
    assert graph.run.curve == steps.run.curve


class Steps:
    """In place of a graph: the step itself."""

    def __init__(self, run, objective):
        self.replay = lambda: run._step(objective)


def test_coins_are_tossed_beforehand_and_fair(tmp_path):
    assert on_gpu.kinds(AVO(0.2, also=("proposal",))) == (0.2, (ELBO(), AVO(1.0, also=("proposal",))))
    assert on_gpu.kinds(RestingEncoder(0.3)) == (0.3, (ELBO(), RestingEncoder(1.0)))
    assert on_gpu.kinds(IWAE(5)) == (0.0, (IWAE(5),)) and on_gpu.kinds(AVO(1.0)) == (0.0, (AVO(1.0),))
    setup = small("paper", "avo", epochs=1000)
    run = on_gpu.Run(setup, 0, setup.data(), tmp_path, "cpu")
    share, n = sum(run.kind) / run.steps, run.steps
    assert n == 4000 and abs(share - 0.2) < 5 * (0.2 * 0.8 / n) ** 0.5 < 0.05


def test_what_no_graph_can_hold_is_refused(tmp_path):
    setup = small("paper", "vae")
    for wrong in (replace(setup.train, batch_size=64), replace(setup.train, patience=3)):
        with pytest.raises(ValueError, match="batches of one size"):
            on_gpu.Run(replace(setup, train=wrong), 0, setup.data(), tmp_path, "cpu")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on a miniature of one epoch, on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def call(*seeds, **train):
        setup = small("miniature", "vae", epochs=1)
        setup = replace(setup, train=replace(setup.train, **train))
        monkeypatch.setitem(EXPERIMENTS, "miniature", {"vae": setup})
        folders = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", ["on_gpu.py", "miniature", "vae", *folders, "--seeds", *map(str, seeds)])
        on_gpu.main()
        return setup

    return call


def test_the_command_writes_what_a_sweep_would(command, tmp_path, capsys):
    setup = command(0, 0)
    assert re.fullmatch(r"vae 0: validation bound .* nats\n", capsys.readouterr().out), "each seed once"
    assert is_finished("miniature", "vae", 0, tmp_path / "results", setup)
    written = json.loads((tmp_path / "results" / "miniature" / "vae-seed0.json").read_text())
    assert set(written) >= {"versions", "seconds", "epochs", "best_epoch", "curve", "train", "valid", "test"}
    command(0)
    assert capsys.readouterr().out == "", "what is finished is not trained again"
    with pytest.raises(ValueError, match="has other settings"):
        command(0, lr=0.5)


def test_the_command_says_what_diverged(command, capsys):
    with pytest.raises(SystemExit, match="1"):
        command(0, lr=1e30)
    assert capsys.readouterr().out.startswith("vae 0: diverged, ")


def test_results_that_cannot_be_written_are_refused_before_the_training(command, tmp_path, monkeypatch):
    (tmp_path / "results").touch()
    monkeypatch.setattr(on_gpu, "train", None)
    with pytest.raises(OSError, match="Choose a writable folder"):
        command(0)
