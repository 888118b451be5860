"""Training improves, resumes bit for bit, and stops when it must."""

import dataclasses
import functools
import io
import json
import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import AffineTransform, Independent, Normal

from avo_lib import training
from avo_lib.balance import LogVariance, TrajectoryBalance, Widened
from avo_lib.chain import Chain, Drawn, Gaussian
from avo_lib.data import Dataset, digest
from avo_lib.estimate import Estimate
from avo_lib.files import SEAL, seal
from avo_lib.kernels import Flow, GatedKernel
from avo_lib.models import VAE, VAEConfig
from avo_lib.numerics import log_normal
from avo_lib.objectives import AVO, ELBO, IWAE
from avo_lib.paths import AmortisedPath, GeometricPath, linear_alphas
from avo_lib.schedules import Constant, Cyclical, WarmUp
from avo_lib.settings import by_value, settings, settings_of_parts
from avo_lib.training import TrainConfig, fit

MODEL = VAEConfig(pixels=12, hidden=(10, 8), latent=3, T=2, kernel_hidden=5)  # with batch norm
OBJECTIVES = {
    "elbo": TrainConfig(epochs=3, batch_size=16, beta=WarmUp(0.5, 0.05)),
    "iwae": TrainConfig(epochs=3, batch_size=16, objective=IWAE(3)),
    "avo": TrainConfig(epochs=3, batch_size=16, objective=AVO(0.5), beta=WarmUp(0.5, 0.05)),
}
BATCHES = 4  # of 16 among 60 images: the last one is smaller


def tiny_data(images: int = 60, *, dynamic: bool = True) -> Dataset:
    """Images of two kinds, mirrored, so that there is something to learn."""
    generator = torch.Generator().manual_seed(5)
    kind = torch.randint(2, (3 * images, 1), generator=generator)
    grey = 0.15 + 0.7 * (torch.arange(12) % 2 == kind).double()
    binary = (torch.rand(grey.shape, generator=generator) < grey).double()
    train, valid, test = (binary.split(images)[i] for i in range(3))
    train = grey[:images] if dynamic else train
    return Dataset(train, valid, test, dynamic)


def new_model(config: VAEConfig = MODEL) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return VAE(config)


def train(config: TrainConfig, **kwargs) -> tuple[VAE, training.Progress]:
    model = new_model()
    return model, fit(model, tiny_data(), config, seed=7, device="cpu", **kwargs)


def assert_same_run(one: tuple[VAE, training.Progress], other: tuple[VAE, training.Progress]) -> None:
    """Bit for bit: no tolerance."""
    weights, others = one[0].state_dict(), other[0].state_dict()
    assert weights.keys() == others.keys()
    for name in weights:
        assert torch.equal(weights[name], others[name]), name
    for field in ("epoch", "step", "curve", "best_epoch", "best_bound"):
        assert getattr(one[1], field) == getattr(other[1], field), field


@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_default_dtype(torch.float64)  # a module's fixture comes before the one of each test
    return {name: train(config) for name, config in OBJECTIVES.items()}


class PowerCut(BaseException):
    """Like a signal, it is no Exception that a well-meaning handler could swallow."""


@pytest.fixture
def cut_power(monkeypatch):
    """Makes the n-th mini-batch from now on fail, as it is drawn; a fresh call moves the cut."""
    real = training.binarise

    def cut_at(n: int) -> None:
        left = iter(range(n))

        def binarise(x, *, generator):
            if next(left, None) is None:
                raise PowerCut
            return real(x, generator=generator)

        monkeypatch.setattr(training, "binarise", binarise)

    return cut_at


def saved(folder: Path) -> dict:
    content = (folder / "checkpoint.pt").read_bytes()
    return torch.load(io.BytesIO(content[SEAL:]), weights_only=True)


def save(parts: object, file: Path) -> None:
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    file.write_bytes(seal(buffer.getvalue()))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_improves_the_validation_bound(objective, uninterrupted):
    _, run = train(dataclasses.replace(OBJECTIVES[objective], epochs=40, lr=2e-2))
    bounds = [row["valid"] for row in run.curve]
    assert run.best_bound == max(bounds) > bounds[0] + 0.5
    # Better than a model that knows nothing, and not better than the truth: two kinds, each pixel with its own noise.
    # (60 images have their mean log probability within 0.3 nats, and five times that is allowed.)
    entropy = math.log(2) - 12 * (0.85 * math.log(0.85) + 0.15 * math.log(0.15))
    assert -12 * math.log(2) < run.best_bound < -entropy + 1.5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_folder_changes_nothing(objective, uninterrupted, tmp_path):
    run = train(OBJECTIVES[objective], folder=tmp_path, checkpoint_seconds=0)
    assert_same_run(run, uninterrupted[objective])
    assert json.loads((tmp_path / "log.json").read_text()) == run[1].curve
    assert run[1].epoch == 3 and run[1].step == 3 * BATCHES
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "log.json"}


def test_a_run_stopped_at_its_last_log_writes_it_when_called_again(tmp_path, monkeypatch):
    write, written = training.write_atomically, []

    def stopped(file: Path, content: bytes) -> None:
        written.append(file)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(file, content)

    monkeypatch.setattr(training, "write_atomically", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(OBJECTIVES["elbo"], folder=tmp_path)
    run = train(OBJECTIVES["elbo"], folder=tmp_path)[1]
    assert json.loads((tmp_path / "log.json").read_text()) == run.curve and len(run.curve) == 3


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 3600.0])
@pytest.mark.parametrize("cut", [0, 1, BATCHES - 1, BATCHES, BATCHES + 2, 3 * BATCHES - 1])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_interrupted_anywhere_it_ends_the_same(
    objective, cut, checkpoint_seconds, uninterrupted, tmp_path, cut_power, monkeypatch
):
    with monkeypatch.context():
        cut_power(cut)
        with pytest.raises(PowerCut):
            train(OBJECTIVES[objective], folder=tmp_path, checkpoint_seconds=checkpoint_seconds)
    # With no time between checkpoints not a step is lost, else those since the last epoch.
    assert saved(tmp_path)["run"]["step"] == (cut if checkpoint_seconds == 0 else cut // BATCHES * BATCHES)
    cut_power(10**6)
    again = train(OBJECTIVES[objective], folder=tmp_path, checkpoint_seconds=checkpoint_seconds)
    assert_same_run(again, uninterrupted[objective])


def test_interrupted_again_and_again_it_ends_the_same(uninterrupted, tmp_path, cut_power):
    for _ in range(3 * BATCHES // 2 - 1):  # two batches at each attempt, and the last attempt is not cut
        cut_power(2)
        with pytest.raises(PowerCut):
            train(OBJECTIVES["avo"], folder=tmp_path, checkpoint_seconds=0)
    cut_power(2)
    assert_same_run(train(OBJECTIVES["avo"], folder=tmp_path, checkpoint_seconds=0), uninterrupted["avo"])


def test_interrupted_in_validation_it_ends_the_same(uninterrupted, tmp_path, monkeypatch):
    def cut(*args, **kwargs):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(training, "average_bound", cut)
        with pytest.raises(PowerCut):
            train(OBJECTIVES["elbo"], folder=tmp_path, checkpoint_seconds=0)
    assert_same_run(train(OBJECTIVES["elbo"], folder=tmp_path), uninterrupted["elbo"])


KILLED = """
import os, sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
import test_training
real, calls = os.fsync, iter(range(7))
def fsync(descriptor):
    if next(calls, None) is None:
        print("in the middle of a checkpoint", flush=True)
        time.sleep(600)
    real(descriptor)
os.fsync = fsync
test_training.train(test_training.OBJECTIVES["avo"], folder=Path(sys.argv[2]), checkpoint_seconds=0)
"""


def test_killed_while_it_writes_a_checkpoint_it_ends_the_same(uninterrupted, tmp_path):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in the middle of a checkpoint\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    at = saved(tmp_path)["run"]
    assert 0 < at["batch"] < BATCHES and at["epoch"] >= 1, "the kill was to come in mid-epoch"
    assert_same_run(train(OBJECTIVES["avo"], folder=tmp_path, checkpoint_seconds=0), uninterrupted["avo"])


def with_dropout(**kwargs) -> tuple[VAE, training.Progress]:
    encoder = torch.nn.Sequential(new_model().encoder, torch.nn.Dropout(0.3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = VAE(MODEL, encoder=encoder)
    return model, fit(model, tiny_data(), OBJECTIVES["elbo"], seed=7, device="cpu", **kwargs)


@pytest.mark.parametrize("cut", [0, BATCHES + 2])
def test_dropout_is_seeded_and_goes_on_too(cut, tmp_path, cut_power, monkeypatch):
    """It draws from torch's global stream alone, which the caller finds as it was."""
    torch.manual_seed(1)
    state, whole = torch.get_rng_state(), with_dropout()
    assert torch.equal(torch.get_rng_state(), state)
    with monkeypatch.context():
        cut_power(cut)
        with pytest.raises(PowerCut):
            with_dropout(folder=tmp_path, checkpoint_seconds=0)
    assert torch.equal(torch.get_rng_state(), state)
    cut_power(10**6)
    torch.manual_seed(2)
    assert_same_run(with_dropout(folder=tmp_path), whole)


def test_a_checkpoint_from_before_dropout_was_seeded_goes_on(uninterrupted, tmp_path, cut_power):
    cut_power(BATCHES + 1)
    with pytest.raises(PowerCut):
        train(OBJECTIVES["elbo"], folder=tmp_path)
    save({name: part for name, part in saved(tmp_path).items() if name != "streams"}, tmp_path / "checkpoint.pt")
    cut_power(10**6)
    assert_same_run(train(OBJECTIVES["elbo"], folder=tmp_path), uninterrupted["elbo"])


def test_a_finished_run_is_not_trained_again(uninterrupted, tmp_path, cut_power):
    train(OBJECTIVES["elbo"], folder=tmp_path)
    cut_power(0)
    assert_same_run(train(OBJECTIVES["elbo"], folder=tmp_path), uninterrupted["elbo"])


def test_a_seed_is_another_run(uninterrupted):
    model = new_model()
    run = fit(model, tiny_data(), OBJECTIVES["elbo"], seed=8, device="cpu")
    assert run.curve != uninterrupted["elbo"][1].curve


@pytest.mark.parametrize(
    "name, was, now, change",
    [
        ("lr", "0.001", "0.002", {"config": {"lr": 2e-3}}),
        ("beta", "WarmUp", "Constant", {"config": {"beta": Constant()}}),
        ("objective", r"AVO\(share=0.5", r"AVO\(share=0.1", {"config": {"objective": AVO(0.1)}}),
        ("latent", "3", "4", {"model": {"latent": 4}}),
        ("seed", "7", "8", {"seed": 8}),
        ("data", "'[0-9a-f]+'", "'[0-9a-f]+'", {"images": 50}),
        ("dynamic", "True", "False", {"dynamic": False}),
    ],
)
def test_another_configuration_is_refused(name, was, now, change, tmp_path):
    config = OBJECTIVES["avo"]
    train(config, folder=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    model = new_model(dataclasses.replace(MODEL, **change.get("model", {})))
    data = tiny_data(change.get("images", 60), dynamic=change.get("dynamic", True))
    config = dataclasses.replace(config, **change.get("config", {}))
    with pytest.raises(ValueError, match=rf"another configuration \({name} was {was}.*, is {now}.*Use another folder"):
        fit(model, data, config, seed=change.get("seed", 7), folder=tmp_path, device="cpu")
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"no checkpoint at all"),
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: torch.save(saved(file.parent), file),
        lambda file: file.write_bytes(seal(b"no checkpoint at all")),
        lambda file: save({"weights": torch.zeros(2)}, file),
        lambda file: save([1, 2], file),
        lambda file: save({key: value for key, value in saved(file.parent).items() if key != "optimiser"}, file),
        lambda file: save(saved(file.parent) | {"identity": ["lr"]}, file),
        lambda file: save(saved(file.parent) | {"model": [torch.zeros(2)]}, file),
        lambda file: save(saved(file.parent) | {"optimiser": {}}, file),
        lambda file: save(saved(file.parent) | {"generator": torch.zeros(3)}, file),
        lambda file: save(saved(file.parent) | {"run": 7}, file),
    ],
    ids=(
        "empty|text|cut|without a seal|sealed text|other dictionary|list|without its optimiser|other identity|"
        "other weights|other optimiser|other generator|other run"
    ).split("|"),
)
def test_a_corrupt_checkpoint_is_refused(damage, tmp_path):
    train(OBJECTIVES["elbo"], folder=tmp_path)
    damage(tmp_path / "checkpoint.pt")
    with pytest.raises(
        ValueError, match=r"^\S*checkpoint\.pt is damaged or not a checkpoint of this library\. Delete it"
    ):
        train(OBJECTIVES["elbo"], folder=tmp_path)


def test_a_flipped_bit_is_noticed(tmp_path, cut_power):
    """Most of a running checkpoint is numbers, among which one is as good as another."""
    cut_power(BATCHES + 1)
    with pytest.raises(PowerCut):
        train(OBJECTIVES["avo"], folder=tmp_path, checkpoint_seconds=0)
    file = tmp_path / "checkpoint.pt"
    content = file.read_bytes()
    for place in range(5, len(content), len(content) // 24):
        flipped = bytearray(content)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match="is damaged or not a checkpoint"):
            train(OBJECTIVES["avo"], folder=tmp_path)


def test_settings_are_compared_by_their_values(uninterrupted, tmp_path, cut_power):
    """And what numpy makes of them can be read again."""
    cut_power(BATCHES + 1)
    wide = dataclasses.replace(MODEL, hidden=[np.int64(10), 8], latent=np.int32(3))
    config = dataclasses.replace(
        OBJECTIVES["avo"],
        epochs=np.int64(3),
        batch_size=np.int64(16),
        lr=np.float64(1e-3),
        objective=AVO(np.float64(0.5)),
        beta=WarmUp(np.float64(0.5), np.float64(0.05)),
    )
    with pytest.raises(PowerCut):
        fit(new_model(wide), tiny_data(), config, seed=np.int64(7), folder=tmp_path, device="cpu")
    cut_power(10**6)
    assert_same_run(train(OBJECTIVES["avo"], folder=tmp_path), uninterrupted["avo"])


class Tempered:
    """An objective as users write it, without a repr of its own."""

    def __init__(self, w):
        self.w = w

    def __call__(self, *args, **kwargs):
        return self.w * ELBO()(*args, **kwargs)


class TemperedModule(torch.nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = w


def tempered(w):
    return lambda *args, **kwargs: w * ELBO()(*args, **kwargs)


itself = Tempered(1)
itself.w = itself


@pytest.mark.parametrize(
    "one, other, equal",
    [
        (0, 0.0, True),
        (0.1, np.float64(0.1), True),
        (0.1, np.float32(0.1), False),
        ((300, 300), [300, np.int64(300)], True),
        ((300, 300), np.array([300, 300.0]), True),
        (WarmUp(0, 1), WarmUp(0.0, 1.0), True),
        (WarmUp(0, 1), WarmUp(0.0, 1.5), False),
        (Constant(), ELBO(), False),
        ({"a": 1, "b": (2,)}, {"b": [2.0], "a": 1}, True),
        ("0", 0, False),
        (None, 0, False),
        (np.float32, np.float64, False),
        ({"a", "b"}, {"b", "a"}, True),
        (Tempered(1), Tempered(1.0), True),
        (Tempered(1), Tempered(100), False),
        ([Tempered(1)], [Tempered(100)], False),
        (TemperedModule(1), TemperedModule(1.0), True),
        (TemperedModule(1), TemperedModule(100), False),
        (partial(ELBO, Tempered(1)), partial(ELBO, Tempered(1)), True),
        (partial(ELBO, Tempered(1)), partial(ELBO, Tempered(100)), False),
        (partial(ELBO, beta=1), partial(IWAE, beta=1), False),
        (tempered(1), tempered(1.0), True),
        (tempered(1), tempered(100), False),
        (lambda w=1: w, lambda w=2: w, False),
        (torch.compile(IWAE(5)), torch.compile(IWAE(6)), False),
        (torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.ones(2)), True),
        (torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3)), False),
        (torch.zeros(2000), torch.ones(2000), False),
        (itself, itself, True),
    ],
)
def test_a_setting_is_its_value(one, other, equal):
    assert (by_value(one) == by_value(other)) == equal


@dataclasses.dataclass
class Own:
    """A configuration of a user's model, some of whose names are those of the training too."""

    lr: float = 7.0
    seed: int = 1


@pytest.mark.parametrize(
    ("own", "changes", "message"),
    [
        (Own(), {"lr": 0.5}, r"\(lr was 0\.001, is 0\.5\)"),
        (Own(lr=8.0), {}, r"\(Own\.lr was 7, is 8\)"),
        (Own(seed=2), {}, r"\(Own\.seed was 1, is 2\)"),
        (Own(), {"objective": Tempered(100)}, r"\(objective was .*Tempered.*\(w=1\), is .*\(w=100\)\)"),
    ],
)
def test_no_name_hides_another(own, changes, message, tmp_path):
    model, x, config = Shift(), torch.zeros(4, 1), TrainConfig(epochs=1, objective=Tempered(1))
    model.config = Own()
    fit(model, Dataset(x, x), config, device="cpu", folder=tmp_path)
    model.config = own
    with pytest.raises(ValueError, match=message):
        fit(model, Dataset(x, x), dataclasses.replace(config, **changes), device="cpu", folder=tmp_path)


def test_a_checkpoint_from_before_an_option_had_its_default(tmp_path, uninterrupted, cut_power, monkeypatch):
    with monkeypatch.context():
        cut_power(BATCHES + 1)
        with pytest.raises(PowerCut):
            train(OBJECTIVES["avo"], folder=tmp_path)
    kept = saved(tmp_path)
    del kept["identity"]["lr_drop"], kept["identity"]["device"]
    save(kept, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"lr_drop was 0\.2, is 0\.5"):
        train(dataclasses.replace(OBJECTIVES["avo"], lr_drop=0.5), folder=tmp_path)
    cut_power(10**6)
    assert_same_run(train(OBJECTIVES["avo"], folder=tmp_path), uninterrupted["avo"])


@pytest.mark.parametrize("size", [59, 1])
def test_a_last_batch_of_one_is_refused_under_batch_norm(size):
    with pytest.raises(ValueError, match=f"60 images in batches of {size} leave a last batch of one"):
        train(TrainConfig(epochs=1, batch_size=size))


def test_an_unwritable_folder_fails_before_the_first_step(tmp_path, cut_power):
    (tmp_path / "file").touch()
    cut_power(0)
    with pytest.raises(OSError, match=r"cannot write to .*file/run/checkpoint.pt: .*Choose a writable folder"):
        train(OBJECTIVES["elbo"], folder=tmp_path / "file" / "run")


@pytest.fixture
def poison(monkeypatch):
    """Spoils a weight in the n-th step, as a gradient that overflows does: the objective is still finite then."""
    real = torch.optim.Adam.step

    def in_step(n: int) -> None:
        left = iter(range(n))

        def step(self, *args, **kwargs):
            real(self, *args, **kwargs)
            if next(left, None) is None:
                with torch.no_grad():
                    self.param_groups[0]["params"][0][0, 0] = math.nan

        monkeypatch.setattr(torch.optim.Adam, "step", step)

    return in_step


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 3600.0])
@pytest.mark.parametrize("step", [1, BATCHES - 1, BATCHES + 1, 3 * BATCHES - 1])
def test_nan_stops_the_run_and_leaves_a_good_checkpoint(
    step, checkpoint_seconds, uninterrupted, tmp_path, poison, monkeypatch
):
    with monkeypatch.context():
        poison(step)
        with pytest.raises(FloatingPointError, match=f"is nan at step {step + 1}; the last good checkpoint is in"):
            train(OBJECTIVES["elbo"], folder=tmp_path, checkpoint_seconds=checkpoint_seconds)
    kept = saved(tmp_path)
    assert all(bool(value.isfinite().all()) for value in kept["model"].values())
    assert kept["run"]["step"] == (step if checkpoint_seconds == 0 else step // BATCHES * BATCHES)
    poison(10**6)
    assert_same_run(train(OBJECTIVES["elbo"], folder=tmp_path), uninterrupted["elbo"])


def test_nan_without_a_folder_says_so(poison):
    poison(2)
    with pytest.raises(FloatingPointError, match=r"is nan at step 3; no checkpoint was asked for"):
        train(OBJECTIVES["elbo"])


def bounds_per_epoch(monkeypatch, values: list[float]) -> None:
    """Let validation find these bounds, one an epoch."""
    found = iter(values)
    monkeypatch.setattr(training, "average_bound", lambda *_, **__: (Estimate(next(found), 0.1, "lower"), 0.0))


def test_early_stopping_leaves_the_best_epochs_weights(monkeypatch):
    bounds_per_epoch(monkeypatch, [-5.0, -3.0, -4.0, -3.5, -9.0])
    config = TrainConfig(epochs=5, batch_size=16, patience=2)
    stopped, run = train(config)
    assert (run.epoch, run.best_epoch, run.best_bound) == (4, 2, -3.0)
    bounds_per_epoch(monkeypatch, [-5.0, -3.0])
    shorter, _ = train(dataclasses.replace(config, epochs=2, lr_drop=1.0))
    for name, value in shorter.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]), name
    assert not stopped.training


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_a_seed_that_would_stand_for_another_is_refused(seed):
    """A CPU's generator takes the lowest 32 bits."""
    assert torch.equal(*(torch.rand(3, generator=torch.Generator().manual_seed(one)) for one in (5, 2**32 + 5)))
    with pytest.raises(ValueError, match=r"a seed from 0 to 2\*\*32 - 1"):
        fit(new_model(), tiny_data(), OBJECTIVES["elbo"], seed=seed, device="cpu")


def test_one_image_to_validate_on_is_refused_before_the_first_epoch():
    data = tiny_data()
    with pytest.raises(ValueError, match=r"two to validate on.*60 and 1 images"):
        fit(new_model(), dataclasses.replace(data, valid=data.valid[:1]), OBJECTIVES["elbo"], device="cpu")


def test_patience_begins_when_beta_is_one(monkeypatch):
    """Beta is 1 from the 12th step on, which ends the third epoch of four steps."""
    bounds_per_epoch(monkeypatch, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])
    _, run = train(TrainConfig(epochs=6, batch_size=16, patience=2, beta=WarmUp(0.4, 0.05)))
    assert [row["beta"] == 1 for row in run.curve] == [False, False, True, True]
    assert (run.epoch, run.best_epoch) == (4, 1)


def test_without_patience_every_epoch_is_trained(monkeypatch):
    bounds_per_epoch(monkeypatch, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])
    _, run = train(TrainConfig(epochs=6, batch_size=16))
    assert (run.epoch, run.best_epoch) == (6, 1)


def test_the_learning_rate_drops_for_the_last_fifth(monkeypatch):
    real, seen = torch.optim.Adam.step, []

    def step(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train(TrainConfig(epochs=10, batch_size=60, lr=1e-3, lr_drop=0.1))
    assert seen == pytest.approx([1e-3] * 8 + [1e-4] * 2)


def test_the_schedule_of_beta_counts_steps():
    seen = []

    def objective(model, x, *, beta, generator):
        seen.append(beta)
        return ELBO()(model, x, beta=beta, generator=generator)

    train(TrainConfig(epochs=2, batch_size=16, beta=Cyclical(period=4, cycles=2), objective=objective))
    assert seen == [0.0, 0.5, 1.0, 1.0] * 2


def test_dynamic_binarisation_draws_anew_at_every_visit(monkeypatch):
    seen, real = [], training.binarise

    def binarise(x, *, generator):
        seen.append(real(x, generator=generator))
        return seen[-1]

    monkeypatch.setattr(training, "binarise", binarise)
    train(TrainConfig(epochs=2, batch_size=60))
    assert len(seen) == 2 and not torch.equal(seen[0].sum(0), seen[1].sum(0))
    fit(new_model(), tiny_data(dynamic=False), TrainConfig(epochs=1, batch_size=60), device="cpu")
    assert len(seen) == 2


def test_every_image_is_visited_once_an_epoch(monkeypatch):
    data = tiny_data(dynamic=False)
    marked = data.train.clone()
    marked[:, :6] = (torch.arange(60)[:, None] >> torch.arange(6) & 1).double()  # an image carries its own number
    data = dataclasses.replace(data, train=marked)
    model, seen = new_model(), []
    real = model.chain

    def chain(x):
        if model.training:
            seen.extend((x[:, :6] @ (2.0 ** torch.arange(6))).int().tolist())
        return real(x)

    monkeypatch.setattr(model, "chain", chain)
    fit(model, data, TrainConfig(epochs=2, batch_size=16), device="cpu")
    assert sorted(seen[:60]) == sorted(seen[60:]) == list(range(60))
    assert seen[:60] != seen[60:] and seen[:60] != list(range(60))


def test_the_curve_holds_the_mean_over_images(monkeypatch):
    """The smaller last batch must not weigh as much as the others."""
    batches = iter([1.0, 1.0, 1.0, 5.0])
    parameter = torch.nn.Parameter(torch.zeros(()))

    def objective(model, x, **_):
        return (next(batches) + 0 * parameter).expand(len(x))

    _, run = train(TrainConfig(epochs=1, batch_size=16, objective=objective))
    assert run.curve[0]["train"] == pytest.approx((48 * 1.0 + 12 * 5.0) / 60)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_global_random_state_is_left_alone(objective, tmp_path):
    model, data, state = new_model(), tiny_data(), torch.get_rng_state()
    fit(model, data, OBJECTIVES[objective], device="cpu", folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)  # nor does it come from there
    again = new_model()
    fit(again, data, OBJECTIVES[objective], device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_grey_pixels_are_refused():
    data = dataclasses.replace(tiny_data(dynamic=True), dynamic=False)
    with pytest.raises(ValueError, match=r"exactly 0 or 1.*binarise"):
        fit(new_model(), data, OBJECTIVES["elbo"], device="cpu")


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_one_grey_image_is_refused_before_the_folder_knows_the_data(part, tmp_path):
    data = tiny_data(dynamic=False)
    data = dataclasses.replace(data, test=data.valid)
    grey = getattr(data, part).clone()
    grey[-1] = 0.5
    with pytest.raises(ValueError, match=r"exactly 0 or 1.*[Bb]inarise"):
        fit(new_model(), dataclasses.replace(data, **{part: grey}), OBJECTIVES["elbo"], device="cpu", folder=tmp_path)
    assert fit(new_model(), data, OBJECTIVES["elbo"], device="cpu", folder=tmp_path).epoch == 3


def test_images_of_another_size_are_refused():
    model = new_model(dataclasses.replace(MODEL, pixels=9))
    with pytest.raises(ValueError, match=r"\(images, 9\), got \(1, 12\)"):
        fit(model, tiny_data(), OBJECTIVES["elbo"], device="cpu")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"lr": 0.0}, "lr must be one number, positive"),
        ({"lr": -1e-3}, "lr must be one number, positive"),
        ({"patience": 0}, "patience"),
        ({"lr_drop": 0.0}, "lr_drop"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"epochs": 1} | wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"layers": "relu"}, "'relu' is not one of leaky_relu, gated"),
        ({"kernel": "planar"}, "'planar' is not one of gated, householder, autoregressive"),
        ({"layers": "gated"}, "batch_norm=False"),
        ({"hidden": (300, 2.5)}, "a width in hidden"),
        ({"hidden": ()}, "at least one hidden layer"),
    ],
)
def test_impossible_architectures_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        VAEConfig(**wrong)


def test_avo_without_kernels_is_refused():
    model = new_model(dataclasses.replace(MODEL, T=0))
    with pytest.raises(ValueError, match="at least one kernel"):
        fit(model, tiny_data(), dataclasses.replace(OBJECTIVES["avo"], objective=AVO(1.0)), device="cpu")


def test_a_model_without_a_chain_is_refused():
    with pytest.raises(TypeError, match=r"only a model with chain\(x\) can be trained, not Linear"):
        fit(torch.nn.Linear(12, 1), tiny_data(), TrainConfig(epochs=1), device="cpu")


@pytest.mark.parametrize("given", [None, 5.0])
def test_a_chain_that_is_none_is_refused(given):
    model = torch.nn.Linear(12, 1)
    model.chain = lambda x: given
    with pytest.raises(TypeError, match=r"must give an avo_lib\.Chain, not"):
        fit(model, tiny_data(), TrainConfig(epochs=1), device="cpu")


class Shift(torch.nn.Module):
    """p(z) = N(0, 1), p(x|z) = N(x; z + b, 1): the marginal of x is N(b, 2), and the posterior is known."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.scale = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))

    def chain(self, x):
        path = AmortisedPath(
            log_normal,
            lambda z: log_normal(x, z + self.b),
            lambda z: log_normal(x, z + self.b.detach()),
            linear_alphas(0),
        )
        return Chain(Gaussian((x - self.b.detach()) / 2, self.scale.exp().expand_as(x)), [], path)


def test_any_model_with_a_chain_is_trained_on_any_data(generator, tmp_path):
    x = 3 + 2**0.5 * torch.randn(4000, 1, generator=generator)
    model, data = Shift(), Dataset(x[:3000], x[3000:])
    fit(model, data, TrainConfig(epochs=10, batch_size=100, lr=0.03), device="cpu", folder=tmp_path)
    # The deviation of the posterior is √½; the shift has the standard error of a mean, and Adam's own wandering.
    assert abs(model.b.item() - 3) < 0.15 and abs(model.scale.exp().item() - 0.5**0.5) < 0.05
    other = dataclasses.replace(data, train=data.train + 1)
    with pytest.raises(ValueError, match=r"another configuration \(data was"):
        fit(Shift(), other, TrainConfig(epochs=10, batch_size=100, lr=0.03), device="cpu", folder=tmp_path)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x: Dataset(x.long(), x), "train must be floating-point"),
        (lambda x: Dataset(x[0], x), "train must be floating-point numbers"),
        (lambda x: Dataset(x, x[:, :5]), r"valid is torch.float64 \(60, 5\), but train"),
        (lambda x: Dataset(x, x.float()), "valid is torch.float32"),
        (lambda x: Dataset(x, x, x.log() / 0), "test holds numbers that are not finite"),
        (lambda x: Dataset(x * 2, x, dynamic=True), r"all must lie in \[0, 1\]"),
        (lambda x: Dataset(x - 0.01, x, dynamic=True), r"all must lie in \[0, 1\]"),
        (lambda x: Dataset(x, x).held_out(), "no test set"),
    ],
)
def test_data_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_data(dynamic=False).train)


@pytest.mark.parametrize(
    "decoder",
    [
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 12)),
        torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ELU(), torch.nn.Linear(5, 12)),
    ],
    ids=["other activation", "other width"],
)
def test_a_checkpoint_of_other_networks_is_refused(decoder, tmp_path):
    """They are not part of the model's configuration, and weights of the same shapes would be taken in silence."""
    own = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ELU(), torch.nn.Linear(4, 12))
    config = dataclasses.replace(OBJECTIVES["elbo"], epochs=1)
    fit(VAE(MODEL, decoder=own), tiny_data(), config, device="cpu", folder=str(tmp_path))
    with pytest.raises(ValueError, match=r"another configuration \(layers of the model was"):
        fit(VAE(MODEL, decoder=decoder.double()), tiny_data(), config, device="cpu", folder=tmp_path)


class Widths(torch.nn.Module):
    """A layer that does not tell its size, as users write them."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(shape))

    def forward(self, z):
        return torch.zeros(len(z), 12) + self.weight.sum()


@pytest.mark.parametrize(("was", "now"), [((3,), (5,)), ((3,), (3, 1)), ((), (1,))])
def test_a_checkpoint_of_other_parameters_is_not_damaged(was, now, tmp_path):
    config = dataclasses.replace(OBJECTIVES["elbo"], epochs=1)
    fit(VAE(MODEL, decoder=Widths(*was)), tiny_data(), config, device="cpu", folder=tmp_path)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    message = r"belongs to a model with other parameters: only one has decoder\.weight \(.*\. Use another folder$"
    with pytest.raises(ValueError, match=message):
        fit(VAE(MODEL, decoder=Widths(*now)), tiny_data(), config, device="cpu", folder=tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept


class Scaled(Shift):
    """A model with a plain constant, which no layer and no repr tells, and with a counter."""

    def __init__(self, width, inner=None):
        super().__init__()
        self.width, self.inner, self.calls = width, inner, 0

    def chain(self, x):
        self.calls += 1
        return super().chain(x / self.width)


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        (lambda: Scaled(1.0), lambda: Scaled(0.3), r"\(model\.width was 1, is 0\.3\)"),
        (lambda: Scaled(1.0, Scaled(2)), lambda: Scaled(1.0, Scaled(3)), r"\(model\.inner\.width was 2, is 3\)"),
        (lambda: Scaled(1.0, tempered(1)), lambda: Scaled(1.0, tempered(2)), r"\(model\.inner was .*\[1\].*\[2\]"),
    ],
    ids=["its own", "a part's", "a function's"],
)
def test_a_checkpoint_of_another_constant_is_refused(was, now, message, tmp_path):
    """It gave the bound of the other model, without a word."""
    x, config = torch.arange(4.0)[:, None], TrainConfig(epochs=1)
    model = was()
    first = fit(model, Dataset(x, x), config, device="cpu", folder=tmp_path)
    assert model.calls > 0
    with pytest.raises(ValueError, match=message):
        fit(now(), Dataset(x, x), config, device="cpu", folder=tmp_path)
    assert fit(was(), Dataset(x, x), config, device="cpu", folder=tmp_path).curve == first.curve
    model.load_state_dict(was().state_dict())
    assert fit(model, Dataset(x, x), config, device="cpu", folder=tmp_path).curve == first.curve
    kept = saved(tmp_path)
    kept["identity"] = {name: value for name, value in kept["identity"].items() if not name.startswith("model.")}
    save(kept, tmp_path / "checkpoint.pt")
    fit(was(), Dataset(x, x), config, device="cpu", folder=tmp_path)  # a file from before constants were told


def test_settings_of_parts_leave_torchs_own_out():
    """A new PyTorch may give its layers more of them, and what compiles a model closes over its own machinery."""
    parts = torch.nn.ModuleList([torch.nn.Linear(1, 2), torch.nn.LSTM(2, 2), torch.compile(TemperedModule(0.5))])
    assert settings_of_parts(parts) == {"model.2._orig_mod.w": "0.5"}
    model = VAE(MODEL)
    assert settings_of_parts(model, [model.config]) == {}


class Listed(Shift):
    """A model of one kernel, which is kept in a container of some kind."""

    def __init__(self, kernel, container=list):
        super().__init__()
        self.kernels = container([kernel])

    def chain(self, x):
        one = super().chain(x)
        path = AmortisedPath(one.path.log_prior, *[one.path.log_likelihood] * 2, linear_alphas(1))
        return Chain(one.proposal, list(self.kernels), path)


class Around:
    """A kernel that is no module, around one that is."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.forward, self.reverse = kernel.forward, kernel.reverse


@pytest.mark.parametrize("wrap", [lambda kernel: kernel, Around], ids=["a module", "around a module"])
def test_a_kernel_that_is_not_registered_is_refused(wrap, tmp_path):
    """In a plain list it would keep its first weights for ever, and no checkpoint would have them."""
    x, kernel = torch.arange(4.0)[:, None], GatedKernel(1, 2)
    go = lambda model: fit(model, Dataset(x, x), TrainConfig(epochs=1), device="cpu", folder=tmp_path)  # noqa: E731
    with pytest.raises(ValueError, match=r"kernel 1 is not registered with the model.*torch\.nn\.ModuleList"):
        go(Listed(wrap(kernel)))
    assert not list(tmp_path.iterdir())
    before = [one.clone() for one in kernel.parameters()]
    go(Listed(kernel, torch.nn.ModuleList))
    assert not all(map(torch.equal, kernel.parameters(), before))
    fit(Listed(wrap(kernel.requires_grad_(False))), Dataset(x, x), TrainConfig(epochs=1), device="cpu")  # it rests


def test_a_proposal_that_is_not_registered_is_refused():
    model, x, mean = Shift(), torch.zeros(4, 1), torch.nn.Parameter(torch.zeros(1))
    model.chain = lambda x: dataclasses.replace(
        Shift.chain(model, x), proposal=Gaussian(mean.expand(len(x), 1), torch.ones(len(x), 1))
    )
    with pytest.raises(ValueError, match="the proposal is not registered with the model"):
        fit(model, Dataset(x, x), TrainConfig(epochs=1), device="cpu")


class Apart(Shift):
    """A model with a tensor of its own, or one that is not its own, in a part of the chain."""

    def __init__(self, kind, own=False):
        super().__init__()
        tensor = torch.nn.Parameter(torch.zeros(1))
        self.kind, self.apart = kind, tensor if own else [tensor]

    def chain(self, x):
        one, apart = super().chain(x), self.apart[0]
        proposal, kernels, last = one.proposal, [], one.path.log_likelihood
        if self.kind == "the proposal":
            proposal = Drawn(Independent(Normal(proposal.mean, apart.exp().expand_as(x)), 1))
        elif self.kind == "the path":
            last = lambda z: log_normal(x, z + apart)  # noqa: E731
        else:
            kernels = [Flow(AffineTransform(apart, torch.ones(1)))]
        return Chain(proposal, kernels, GeometricPath(log_normal, last, linear_alphas(len(kernels))))


@pytest.mark.parametrize("name", ["the proposal", "the path", "kernel 1"])
def test_what_a_gradient_reaches_is_the_model_s(name):
    """However deep it lies: in a distribution, in a closure, in a transform."""
    x, config = torch.zeros(4, 1), TrainConfig(epochs=1)
    with pytest.raises(ValueError, match=f"{name} is not registered with the model"):
        fit(Apart(name), Dataset(x, x), config, device="cpu")
    frozen, own = Apart(name), Apart(name, own=True)
    frozen.apart[0].requires_grad_(False)
    for model in (frozen, own):
        fit(model, Dataset(x, x), config, device="cpu")
    assert own.apart != 0 == frozen.apart[0]


class Scored(Apart):
    """What learns shows in the proposal's log density of given points alone."""

    def chain(self, x):
        apart = self.apart[0]

        class Score:
            def sample(self, shape):
                return torch.zeros(*shape, len(x), 1)

            def log_prob(self, z):
                return log_normal(z, apart, 1.0)

        return dataclasses.replace(Shift.chain(self, x), proposal=Drawn(Score()))


def test_what_a_log_density_alone_reaches_is_the_model_s():
    x = torch.zeros(4, 1)
    with pytest.raises(ValueError, match="the proposal is not registered with the model"):
        fit(Scored("the proposal"), Dataset(x, x), TrainConfig(epochs=1), device="cpu")


class Deep(Shift):
    """A chain of another length at every call."""

    def __init__(self):
        super().__init__()
        self.kernels, self.calls = torch.nn.ModuleList(GatedKernel(1, 2) for _ in range(3)), 0

    def chain(self, x):
        one, self.calls = super().chain(x), self.calls + 1
        T = 3 - self.calls % 3
        path = AmortisedPath(one.path.log_prior, *[one.path.log_likelihood] * 2, linear_alphas(T))
        return Chain(one.proposal, list(self.kernels)[:T], path)


def test_a_chain_of_random_length_is_trained():
    x = torch.zeros(4, 1)
    fit(Deep(), Dataset(x, x), TrainConfig(epochs=2), device="cpu")


class Fresh(Shift):
    def chain(self, x):
        one = super().chain(x)
        noise = torch.zeros_like(x, requires_grad=True)  # a leaf of this call alone, as of an inner optimisation
        return dataclasses.replace(one, proposal=Gaussian(one.proposal.mean + noise, one.proposal.std))


def test_a_leaf_that_the_chain_makes_anew_is_no_part_of_the_model():
    x = torch.zeros(4, 1)
    fit(Fresh(), Dataset(x, x), TrainConfig(epochs=1), device="cpu")


class Balanced(Shift):
    def __init__(self):
        super().__init__()
        self.log_z = torch.nn.Parameter(torch.zeros(()))


def test_the_same_call_goes_on_though_its_objective_has_learned(tmp_path):
    model, x = Balanced(), torch.zeros(4, 1)
    config = TrainConfig(epochs=2, objective=TrajectoryBalance(model.log_z))
    first = fit(model, Dataset(x, x), config, device="cpu", folder=tmp_path)
    with pytest.warns(UserWarning, match=r"began with other weights than this model has"):  # which has learned since
        again = fit(model, Dataset(x, x), config, device="cpu", folder=tmp_path)
    assert model.log_z != 0 and first.curve == again.curve


def begin(start: float, objective=OBJECTIVES["elbo"].objective) -> tuple[Shift, partial]:
    """A model with a start of its own, as of one that nobody has seeded, and its run."""
    model, x = Shift(), torch.arange(4.0)[:, None]
    model.b.data.fill_(start)
    return model, partial(fit, model, Dataset(x, x), TrainConfig(epochs=2, objective=objective), device="cpu")


def test_a_run_that_began_elsewhere_goes_on_and_says_so(tmp_path):
    """To refuse would leave whoever did not seed a model, or calls again after Ctrl-C, with a run that cannot end."""
    first, run = begin(0.5)
    run(folder=tmp_path)
    for _ in range(2):  # it is the first start that is remembered
        other, run = begin(0.7)
        with pytest.warns(
            UserWarning, match=r"checkpoint\.pt holds a run that began with other weights.*another folder"
        ):
            run(folder=tmp_path)
        assert torch.equal(other.b, first.b)
    begin(0.5)[1](folder=tmp_path)  # without a warning, which would be an error here
    old = {name: part for name, part in saved(tmp_path).items() if name != "start"}
    old["identity"].pop("frozen parameters")
    save(old, tmp_path / "checkpoint.pt")
    begin(0.7)[1](folder=tmp_path)  # a file from before the start was kept
    assert saved(tmp_path)["start"] is None


def test_a_checkpoint_with_other_frozen_parameters_is_refused(tmp_path):
    begin(0.5)[1](folder=tmp_path)
    model, run = begin(0.5)
    model.scale.requires_grad_(False)
    with pytest.raises(ValueError, match=r"\(frozen parameters was \[\], is \['scale'\]\)"):
        run(folder=tmp_path)


def summed(model, x, **kwargs):
    return ELBO()(model, x, **kwargs).sum()


def cut_off(model, x, **kwargs):
    return ELBO()(model, x, **kwargs).detach()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (summed, r"one value for each of 4 images, not shape \(\)"),
        (lambda *_, **__: 1.0, r"one value for each of 4 images, not shape \(\)"),
        (lambda model, x, **_: ELBO()(model, x)[:, None], r"not shape \(4, 1\)"),
        (cut_off, "the objective has no gradient"),
    ],
)
def test_what_cannot_be_maximised_is_refused_and_leaves_no_trace(objective, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        begin(0.0, objective)[1](folder=tmp_path)
    assert begin(0.0)[1](folder=tmp_path).epoch == 2, "the corrected call"


def test_a_model_that_cannot_learn_is_refused(tmp_path):
    model, run = begin(0.0)
    with torch.no_grad(), pytest.raises(ValueError, match="nothing can learn"):
        run(folder=tmp_path)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing can learn: every parameter of the model is frozen"):
        run(folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"objective": ELBO}, {"objective": "elbo"}, {"beta": 1.0}, {"beta": Constant}])
def test_a_class_or_a_number_is_no_objective_and_no_schedule(wrong):
    with pytest.raises(
        TypeError, match=f"{next(iter(wrong))} must be a function or an object to call, such as .*, not"
    ):
        TrainConfig(epochs=1, **wrong)


class Counting(Shift):
    """A model that keeps more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = {"data": 0}

    def get_extra_state(self):
        return self.seen

    def set_extra_state(self, state):
        self.seen = dict(state)

    def chain(self, x):
        self.seen["data"] += len(x) if self.training else 0
        return super().chain(x)


def test_a_model_with_state_of_its_own_is_trained_and_goes_on(tmp_path):
    x, config = torch.arange(4.0)[:, None], TrainConfig(epochs=3)
    model = Counting()
    run = fit(model, Dataset(x, x), config, device="cpu", folder=tmp_path)
    assert model.seen["data"] == 4 * run.best_epoch, "as it was at the best epoch"
    again = Counting()
    fit(again, Dataset(x, x), config, device="cpu", folder=tmp_path)
    assert again.seen == model.seen and torch.equal(again.b, model.b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.long, torch.bool])
def test_data_of_any_type_have_a_digest(dtype):
    zeros, mixed = torch.zeros(6).to(dtype), torch.arange(6).remainder(2).to(dtype)
    assert digest(mixed) == digest(mixed.clone()) != digest(zeros)
    assert digest(mixed.reshape(2, 3)) != digest(mixed) and digest(zeros[0]) != digest(mixed[1])
    assert digest(mixed.reshape(2, 3).T) == digest(mixed.reshape(2, 3).T.contiguous())


def test_a_digest_is_what_it_was():
    """Checkpoints know their data by it."""
    assert digest(torch.arange(3, dtype=torch.float32)) == "354643f2f5b6d101"


@pytest.mark.parametrize("part", ["objective", "beta"])
def test_functions_are_known_by_their_names(part, tmp_path, cut_power):
    """Their addresses differ in every process: a run would not go on, and a finished one not be recognised."""

    def make(value: float):
        def own(*args, **kwargs):
            return ELBO()(*args, **kwargs) if part == "objective" else value

        return own

    configs = [TrainConfig(epochs=2, batch_size=16, **{part: make(1.0)}) for _ in range(2)]
    assert getattr(configs[0], part) is not getattr(configs[1], part)
    assert configs[0].described() == configs[1].described()
    assert "own" in str(configs[0].described()[part])
    cut_power(6)
    with pytest.raises(PowerCut):
        train(configs[0], folder=tmp_path)
    cut_power(1000)
    assert train(configs[1], folder=tmp_path)[1].epoch == 2


@pytest.mark.parametrize(
    "make",
    [
        tempered,
        Tempered,
        TemperedModule,
        lambda w: partial(tempered, w),
        lambda w: partial(tempered, w=torch.tensor(w)),
        lambda w: LogVariance(5, Widened(w)),
        lambda w: TrajectoryBalance(torch.tensor(w)),
    ],
    ids="closure|object|module|partial|partial of a tensor|dataclass in it|tensor in it".split("|"),
)
def test_a_result_tells_all_settings_of_its_objective(make):
    one, same, other = (json.dumps(TrainConfig(epochs=1, objective=make(w)).described()) for w in (1.0, 1.0, 2.0))
    assert one == same != other


def test_a_result_tells_an_objective_by_plain_values():
    found = TrainConfig(epochs=1, objective=LogVariance(5, Widened(0.1))).described()["objective"]
    assert found == {"name": "LogVariance", "samples": 5, "behaviour": {"name": "Widened", "std": 0.1}}
    learned = TrajectoryBalance(torch.nn.Parameter(torch.zeros(())))  # its value changes while it is trained
    assert TrainConfig(epochs=1, objective=learned).described()["objective"]["log_z"] == "parameter ()"


def test_a_finished_run_shows_no_weights(uninterrupted):
    _, run = uninterrupted["elbo"]
    assert run.best_weights and "tensor" not in repr(run) and f"best_epoch={run.best_epoch}" in repr(run)


class Baseline:
    """An objective that keeps what it has seen."""

    def __init__(self, weight):
        self.weight, self.seen = weight, 0

    def loss(self, model, x, *, beta=1.0, generator=None):
        self.seen += 1
        return self.weight * ELBO()(model, x, beta=beta, generator=generator)

    __call__ = loss


def weighted(weight):
    def change(objective):
        @functools.wraps(objective)
        def changed(model, x, *, beta=1.0, generator=None):
            return weight * objective(model, x, beta=beta, generator=generator)

        return changed

    return change


def test_what_an_objective_has_counted_is_no_setting():
    objective = Baseline(2.0)
    before = by_value(objective)
    objective.seen += 5
    assert by_value(objective) == before != by_value(Baseline(3.0))


class Slotted:
    __slots__ = ("weight",)

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, *args, **kwargs):
        return self.weight * ELBO()(*args, **kwargs)


class Private:
    def __init__(self, weight):
        self._weight = weight
        self.seen = 0


class Renamed:
    def __init__(self, weight):
        self.scale = weight


class Anything:
    def __init__(self, **options):
        self.options = options


@pytest.mark.parametrize("kind", [Private, Renamed, Anything, Slotted])
def test_a_setting_is_told_wherever_its_object_keeps_it(kind):
    """Else a finished result, or a checkpoint, of another setting would be taken for this one."""
    assert by_value(kind(weight=0.5)) == by_value(kind(weight=0.5)) != by_value(kind(weight=0.9))
    assert settings(kind(weight=0.5)) != settings(kind(weight=0.9))


def test_what_is_kept_beside_a_private_setting_is_none():
    one = Private(0.5)
    one.seen = 7
    assert settings(one) == {"weight": 0.5}


@dataclasses.dataclass
class Counted:
    weight: float = 0.5
    seen: int = dataclasses.field(default=0, init=False)
    later: object = dataclasses.field(init=False)


def test_what_a_dataclass_sets_later_is_no_setting():
    one, other = Counted(), Counted()
    one.seen = 3
    assert by_value(one) == by_value(other) != by_value(Counted(0.6))


def test_a_constant_is_told_by_value_and_a_table_whole():
    held = [torch.nn.Parameter(torch.tensor(value), requires_grad=False) for value in (0.0, -20.0)]
    assert by_value(held[0]) != by_value(held[1])
    tables = [pd.DataFrame({"a": np.arange(200)}) for _ in range(2)]
    tables[1].loc[100, "a"] = -1
    assert by_value(tables[0]) != by_value(tables[1])


def test_methods_and_decorated_objectives_tell_what_they_were_made_with():
    assert by_value(Baseline(1.0).loss) != by_value(Baseline(2.0).loss)
    assert by_value(weighted(1.0)(Baseline(1.0).loss)) != by_value(weighted(2.0)(Baseline(1.0).loss))


def test_a_large_array_is_told_by_its_digest():
    large = np.zeros((1000, 100))
    assert len(by_value(large)) < 100 and by_value(large) != by_value(large + 1)


@pytest.mark.parametrize(
    "objective", [Slotted(1.0), functools.lru_cache(weighted), max], ids=["slots", "cache", "builtin"]
)
def test_an_objective_that_tells_nothing_is_still_described(objective):
    assert json.dumps(TrainConfig(1, objective=objective).described()) and by_value(objective)
