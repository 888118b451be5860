"""A protocol of one's own: swept over processes and over dask, and resumed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avo_lib import AVO, ELBO, VAE, Dataset, TrainConfig, VAEConfig
from avo_lib.experiments import campaign
from avo_lib.experiments.campaign import load_model, run, sweep

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Stripes:
    """Grey images of eight pixels with Gaussian noise, in two kinds."""

    train: TrainConfig
    samples: int | None = 10
    pause: float = 0.0

    def data(self) -> Dataset:
        time.sleep(self.pause)
        generator = torch.Generator().manual_seed(1)
        kind = torch.randint(2, (300, 1), generator=generator)
        x = (torch.arange(8) % 2 == kind) + 0.1 * torch.randn(300, 8, generator=generator)
        return Dataset(*x.split(100))

    def build(self, seed: int) -> VAE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return VAE(VAEConfig(pixels=8, hidden=(6,), latent=2, T=2, batch_norm=False, likelihood="gaussian"))

    def described(self) -> dict:
        return {"stripes": 8, "train": self.train.described()}


METHODS = {
    "elbo": Stripes(TrainConfig(epochs=2, batch_size=10, objective=ELBO())),
    "avo": Stripes(TrainConfig(epochs=2, batch_size=10, objective=AVO(0.5))),
}


pytestmark = pytest.mark.usefixtures("float32")


def test_two_processes_run_what_is_missing(folders):
    files = sweep("stripes", METHODS, seeds=(0, 1), jobs=2, device="cpu", **folders)
    found = [json.loads(file.read_bytes()) for file in files]
    assert [(row["method"], row["seed"]) for row in found] == [("elbo", 0), ("avo", 0), ("elbo", 1), ("avo", 1)]
    assert all(row["experiment"] == "stripes" and row["config"]["stripes"] == 8 for row in found)
    before = [file.stat().st_mtime_ns for file in files]
    as_text = {name: str(folder) for name, folder in folders.items()}
    assert sweep("stripes", METHODS, seeds=(0, 1), jobs=1, **as_text) == files
    assert [file.stat().st_mtime_ns for file in files] == before
    model = load_model("stripes", "avo", 1, setup=METHODS["avo"], results=folders["results"])
    assert not model.training
    other = {"avo": dataclasses.replace(METHODS["avo"], train=TrainConfig(epochs=3))}
    with pytest.raises(ValueError, match="has other settings than stripes avo has now"):
        sweep("stripes", other, **folders)


def test_settings_that_cannot_be_written_are_refused_before_any_training(folders):
    class Endless(Stripes):
        def described(self) -> dict:
            return {"clip": float("inf")}

    with pytest.raises(ValueError, match=r"a number is not finite in \{'clip': inf\}"):
        sweep("stripes", METHODS | {"endless": Endless(TrainConfig(epochs=2))}, jobs=1, device="cpu", **folders)
    assert not folders["results"].exists()


def wait_for(event, process: subprocess.Popen) -> None:
    """Fails when the process that should bring it about has ended, or after two minutes."""
    end = time.monotonic() + 120
    while not event():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)


def test_a_sweep_survives_the_death_of_a_dask_worker(folders, tmp_path):
    """A scheduler and two workers on this machine; one is killed while it works, and the other does its share."""
    pytest.importorskip("distributed")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    options = {"env": environment, "cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    crew = [subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(file)], **options)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--no-nanny", "--nthreads", "1"]
    try:
        wait_for(lambda: file.is_file() and file.read_text().strip(), crew[0])
        address = json.loads(file.read_text())["address"]
        crew += [subprocess.Popen([*worker, address], **options) for _ in range(2)]
        slow = {name: dataclasses.replace(setup, pause=3.0) for name, setup in METHODS.items()}
        script = tmp_path / "sweep.py"
        script.write_text(
            "import sys\nfrom pathlib import Path\nfrom test_own_protocol import METHODS, dataclasses, sweep\n"
            "slow = {name: dataclasses.replace(setup, pause=3.0) for name, setup in METHODS.items()}\n"
            "here = Path(sys.argv[2])\n"
            "sweep('stripes', slow, (0, 1), scheduler=sys.argv[1], results=here / 'results', runs=here / 'runs')\n"
        )
        crew.append(subprocess.Popen([sys.executable, str(script), address, str(tmp_path)], **options))
        wait_for(lambda: list(tmp_path.glob("results/stripes/*.json")), crew[-1])
        crew[1].send_signal(signal.SIGKILL)
        assert crew[-1].wait(120) == 0
        assert len(list(tmp_path.glob("results/stripes/*.json"))) == len(slow) * 2
    finally:
        for process in crew:
            process.kill()
            process.wait()


def test_a_sweep_hands_on_its_device(folders):
    with pytest.raises(Exception, match="nowhere"):
        sweep("stripes", {"elbo": METHODS["elbo"]}, jobs=1, device="nowhere", **folders)


def test_a_sweep_hands_on_its_precision(folders):
    """A new process would compute in torch's own default, single precision."""
    torch.set_default_dtype(torch.float64)
    sweep("stripes", {"elbo": METHODS["elbo"]}, jobs=2, device="cpu", **folders)
    model = load_model("stripes", "elbo", setup=METHODS["elbo"], results=folders["results"])
    weights = load_file(folders["results"] / "stripes" / "elbo-seed0.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float64} == {p.dtype for p in model.parameters()}


class Masked(VAE):
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("mask", torch.nn.Transformer.generate_square_subsequent_mask(3))


class Extra(VAE):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


@dataclasses.dataclass(frozen=True)
class Other(Stripes):
    kind: type = VAE

    def build(self, seed: int) -> VAE:
        return self.kind(VAEConfig(pixels=8, hidden=(6,), latent=2, T=2, batch_norm=False, likelihood="gaussian"))


def test_a_model_with_a_mask_of_infinities_is_published_and_read(folders):
    setup = Other(TrainConfig(epochs=1), kind=Masked)
    run("stripes", "masked", setup=setup, device="cpu", **folders)
    model = load_model("stripes", "masked", setup=setup, results=folders["results"])
    assert model.mask.isinf().any()


@pytest.mark.parametrize(
    "setup, message",
    [
        (Other(TrainConfig(epochs=1), kind=Extra), "_extra_state is no tensor"),
        (Stripes(TrainConfig(epochs=1), samples=0), "samples must be"),
    ],
    ids=["extra state", "no sample"],
)
def test_what_could_not_be_judged_or_published_is_refused_before_it_is_trained(setup, message, folders, monkeypatch):
    monkeypatch.setattr(campaign, "fit", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(ValueError, match=message):
        run("stripes", "one", setup=setup, device="cpu", **folders)
