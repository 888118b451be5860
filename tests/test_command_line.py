"""The command line: what the user can mend ends in one line that says how."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from avo_lib.__main__ import main
from avo_lib.experiments import campaign, commands, toy_commands
from avo_lib.experiments import command_line as cli
from avo_lib.experiments.mnist import DataError
from avo_lib.experiments.protocols import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the command line in this process; returns exit status, standard output and the error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["avo_lib", *arguments])
        status, message = 0, ""
        try:
            cli.main()
        except SystemExit as stop:
            # A text is what the interpreter prints on standard error before it exits with 1.
            status, message = (1, stop.code) if isinstance(stop.code, str) else (stop.code or 0, "")
        printed = capsys.readouterr()
        return status, printed.out, printed.err + message

    return command


@pytest.fixture
def tiny(monkeypatch):
    setup = EXPERIMENTS["miniature"]["avo"]
    model = replace(setup.model, hidden=(20,), latent=4, T=2)
    small = replace(setup, model=model, train=replace(setup.train, epochs=1), images=100, samples=20)
    monkeypatch.setitem(EXPERIMENTS, "miniature", {"avo": small})


def folders(tmp_path: Path) -> list[str]:
    return ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]


def test_as_a_program():
    """Once through the interpreter; the other tests call main(), which is quicker."""
    command = [sys.executable, "-m", "avo_lib", "run", "--experiment", "cifar", "--method", "vae"]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr == f"error: no experiment 'cifar'; there are {', '.join(EXPERIMENTS)}\n"


def test_list_names_every_experiment_and_method(call):
    listed = "".join(f"{name}: {', '.join(methods)}\n" for name, methods in EXPERIMENTS.items())
    assert call("list") == (0, listed, "")


def test_run_evaluate_show_and_sweep(call, tiny, tmp_path):
    status, out, _ = call("run", "--experiment", "miniature", "--method", "avo", "--device", "cpu", *folders(tmp_path))
    header, row = out.splitlines()
    assert status == 0 and "test NLL" in header and row.split()[:3] == ["miniature", "avo", "1"]
    nll = json.loads((tmp_path / "results" / "miniature" / "avo-seed0.json").read_text())["test"]["nll"]
    results = ["--results", str(tmp_path / "results")]
    few = ["--images", "3", "--simulated", "3", "--chains", "2", "--T", "3", "--samples", "5"]
    results += ["--device", "cpu"]
    status, verdict, _ = call("referee", "--experiment", "miniature", "--methods", "avo", *few, *results)
    assert status == 0 and verdict.startswith("miniature avo: test NLL by IS ")
    assert call("show", *results[:2]) == (0, out, "")
    status, evaluated, _ = call("evaluate", "--experiment", "miniature", "--method", "avo", "--samples", "20", *results)
    assert status == 0 and evaluated.startswith(f"test NLL: {nll:.2f} ±") and "nats" in evaluated
    status, swept, _ = call("sweep", "--experiment", "miniature", "--seeds", "0", "--jobs", "1", *folders(tmp_path))
    assert (status, swept) == (0, out)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "--experiment", "cifar", "--method", "vae"], "no experiment 'cifar'; there are report, report_fixed"),
        (["run", "--experiment", "report", "--method", "gan"], "no method 'gan' in report; there are vae, vae_con"),
        (["sweep", "--experiment", "cifar"], "no experiment 'cifar'; there are report, report_fixed"),
        (["sweep", "--experiment", "report", "--methods", "gan"], "no method 'gan' in report; there are vae, vae_con"),
        (["evaluate", "--experiment", "report", "--method", "avo", "--seed", "77"], "make it with: python -m avo_lib"),
        (["run", "--experiment", "report", "--method", "vae", "--device", "abacus"], "cpu, cuda"),
        (["run", "--experiment", "report", "--method", "vae", "--threads", "0"], "positive integer"),
        (["energies", "--ramps", "1"], "ramp is a share of the updates, at least 0 and below 1, not 1.0"),
        (["run", "--experiment", "report", "--method", "vae", "--device", "meta"], "cannot compute on meta"),
        (["sweep", "--experiment", "report", "--device", "meta"], "cannot compute on meta"),
        (["evaluate", "--experiment", "report", "--method", "vae", "--device", "meta"], "cannot compute on meta"),
        (["referee", "--experiment", "report", "--device", "meta"], "cannot compute on meta"),
        pytest.param(
            ["run", "--experiment", "report", "--method", "vae", "--device", "mps"],
            "cannot compute on mps",
            marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine can"),
        ),
        (["run", "--experiment", "report", "--method", "vae", "--seed", str(2**70)], "a seed must be a whole number"),
        (["run", "--experiment", "report", "--method", "vae", "--seed", "-3"], "a seed must be a whole number"),
        (["sweep", "--experiment", "report", "--seeds", "0", "-3"], "a seed must be a whole number"),
        (["evaluate", "--experiment", "report", "--method", "vae", "--seed", "-3"], "a seed must be a whole number"),
        (["referee", "--experiment", "report", "--seed", str(2**70)], "a seed must be a whole number"),
        (["evaluate", "--experiment", "report", "--method", "vae", "--samples", str(10**15)], "not enough memory: ask"),
        (["evaluate", "--experiment", "report", "--method", "vae", "--samples", str(10**21)], "not enough memory: ask"),
        (["ring", "--seeds", str(10**15), "--updates", "1", "--results", "."], "not enough memory: ask for fewer"),
        (["modes", "--seeds", str(10**15), "--updates", "1", "--results", "."], "not enough memory: ask for"),
        (["ring", "--seeds", str(10**21), "--updates", "1", "--results", "."], "not enough memory: ask for fewer"),
        (["sweep", "--experiment", "report", "--seeds", "0", "--seeds", "1"], "--seeds comes twice. Give all its"),
        (["gaps", "--experiment", "report", "--seeds=0", "--seeds", "1"], "--seeds comes twice. Give all its"),
        (["sweep", "--experiment", "report", "--seeds"], "--seeds needs a value"),
        (["dynamics", "--targets", "--updates", "1"], "--targets needs a value"),
        (["ring", "--updates", "0", "--results", "."], "updates must be a whole number of at least 1, not 0"),
        (["gaps", "--experiment", "report", "--samples", "3"], "samples come in pairs"),
        (["referee", "--experiment", "report", "--images", "1"], "images must be a whole number of at least 2, not 1"),
        (["show", "--results", "."], "make one with: python -m avo_lib run --experiment report --method vae"),
    ],
)
def test_what_the_user_can_mend_is_said_in_one_line(arguments, message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no results
    status, out, error = call(*arguments)
    assert status == 1 and out == ""
    assert error.startswith("error: ") and message in error and "\n" not in error and "Traceback" not in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["fly"], ["fly", "run, sweep, evaluate, referee, gaps, energies, ring,"]),
        (["run", "--experiment", "report", "--method", "vae", "--colour", "red"], ["--colour", "--help"]),
        (["run", "--experiment", "report"], ["--method"]),
        (["run", "--experiment", "report", "--method", "vae", "--seed", "one"], ["--seed", "'one'"]),
        (["energies", "--ramps", "long"], ["--ramps", "'long'"]),
    ],
)
def test_what_cannot_be_parsed_is_shown(arguments, message, call):
    status, out, error = call(*arguments)
    assert status == 2 and "Traceback" not in out + error
    said = " ".join((out + error).replace("│", " ").split())  # a box, broken into lines
    assert all(part in said for part in message)


def test_the_repositorys_results_are_found_from_any_working_directory(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call("show")
    assert status == 0 and "report_fixed" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["benchmark", "--methods", "HVI", "FOO"], "targets are "),
        (["benchmark", "--targets", "ring", "moon", "--methods", "HVI"], "targets are "),
        (["energies", "--ramps", "0", "1.5"], "ramp is a share of the updates"),
        (["referee", "--experiment", "report", "--methods", "vae", "gan"], "no method 'gan' in report"),
        (["gaps", "--experiment", "report", "--methods", "vae", "gan"], "no method 'gan' in report"),
        (["gaps", "--experiment", "report", "--methods", "vae", "--seeds", "0", "-3"], "a seed must be a whole number"),
    ],
)
def test_every_name_is_checked_before_the_first_is_worked_on(arguments, message, call, tmp_path, monkeypatch):
    for module, name in ((toy_commands.bench, "run"), (toy_commands.fits, "run"), (commands, "judge")):
        monkeypatch.setattr(module, name, None)  # were it called, a TypeError
    monkeypatch.setattr(commands, "inference_gaps", None)
    status, out, error = call(*arguments, "--results", str(tmp_path))
    assert (status, out) == (1, "") and error.startswith(f"error: {message}") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["gaps", "--seeds", "0"], ["referee"]])
def test_missing_weights_are_told_before_the_first_are_judged(command, call, tmp_path, monkeypatch):
    def load(experiment, method, seed=0, **_):
        if method == "hvi":
            raise FileNotFoundError("no weights of hvi")

    monkeypatch.setattr(commands.campaign, "load_model", load)
    monkeypatch.setattr(commands, "judge", None)  # were it called, a TypeError
    monkeypatch.setattr(commands, "inference_gaps", None)
    arguments = [*command, "--experiment", "miniature", "--methods", "vae", "hvi", "--results", str(tmp_path)]
    assert call(*arguments) == (1, "", "error: no weights of hvi")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_letters_gets_question_marks(encoding, tmp_path):
    """The table has a minus sign, which the encodings of many locales lack."""
    command = [sys.executable, "-m", "avo_lib", "show"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert shown.returncode == 0 and b"train ?ELBO" in shown.stdout, shown.stderr.decode()


@pytest.mark.parametrize(
    "command",
    ["run", "sweep", "evaluate", "referee", "energies", "ring", "modes", "dynamics", "benchmark", "show", "list"],
)
def test_every_command_has_help(command, call):
    status, out, _ = call(command, "--help")
    assert status == 0 and f"python -m avo_lib {command}" in out


def test_a_broken_result_is_named(call, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "avo-seed0.json").write_text("{")
    status, _, error = call("show", "--results", str(tmp_path))
    assert status == 1 and error.startswith("error: ") and "toy/avo-seed0.json is not a result" in error


def test_an_unwritable_folder(call, tiny, tmp_path):
    (tmp_path / "runs").touch()
    status, _, error = call("run", "--experiment", "miniature", "--method", "avo", *folders(tmp_path))
    assert status == 1 and error.startswith("error: cannot write to ") and "runs/miniature/avo-seed0" in error


def test_an_unwritable_folder_of_results(call, tiny, tmp_path):
    (tmp_path / "results").touch()
    status, _, error = call("run", "--experiment", "miniature", "--method", "avo", *folders(tmp_path))
    assert (status, error) == (
        1,
        f"error: cannot write to {tmp_path}/results/miniature: Not a directory. Choose a writable folder",
    )
    assert not (tmp_path / "runs").exists(), "nothing has been trained"


def test_what_a_terminal_would_obey_is_not_printed(call, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "\x1b[2J\r-seed0.json").write_text("{}")
    status, _, error = call("show", "--results", str(tmp_path))
    assert status == 1 and error.startswith(f"error: {tmp_path}/toy/ [2J -seed0.json is not a result: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_disk_too_full_to_print_on(call, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "argv", ["avo_lib", "list"])
        with pytest.raises(SystemExit, match=r"^error: .*No space left on device$"):
            cli.main()


def test_a_reader_that_has_seen_enough(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "argv", ["avo_lib", "list"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 141  # as the shell has it for those that die of it
    assert capsys.readouterr().err == ""


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "run", interrupt)
    monkeypatch.setattr(sys, "argv", ["avo_lib", "run", "--experiment", "report", "--method", "vae"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on from what is finished\n"


def test_an_interrupt_while_torch_is_imported(tmp_path):
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "avo_lib", "list"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True, preexec_fn=heard) as child:
        assert child.stdout is not None and child.stdout.readline() == "importing\n"
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert (child.returncode, said) == (130, "interrupted: the same command goes on from what is finished\n")


@pytest.mark.parametrize(
    "trouble",
    [
        DataError("MNIST is damaged"),
        FloatingPointError("the objective is nan"),
        BrokenExecutor("a worker died, perhaps of too much memory"),
    ],
)
def test_trouble_on_the_way_is_said_in_one_line(trouble, call, monkeypatch):
    def fail(*_, **__):
        raise trouble

    monkeypatch.setattr(campaign, "run", fail)
    status, _, error = call("run", "--experiment", "report", "--method", "vae")
    assert (status, error) == (1, f"error: {trouble}")


@pytest.mark.parametrize("mistake", [TypeError("not callable"), RuntimeError("mat1 and mat2 cannot be multiplied")])
def test_a_mistake_in_the_library_keeps_its_traceback(mistake, call, monkeypatch):
    def fail(*_, **__):
        raise mistake

    monkeypatch.setattr(campaign, "run", fail)
    with pytest.raises(type(mistake)):
        call("run", "--experiment", "report", "--method", "vae")


def test_a_scheduler_without_dask(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)  # what an import then says is what it says without it
    status, _, error = call(
        "sweep", "--experiment", "miniature", "--scheduler", "tcp://127.0.0.1:1", *folders(tmp_path)
    )
    assert (status, error) == (1, "error: a scheduler needs dask: pip install '.[cluster]'")


def test_the_version_is_printed(call):
    assert call("--version")[1].startswith("avo_lib 0.")
