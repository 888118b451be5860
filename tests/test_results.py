"""Reading finished runs, and the table made of them."""

import inspect
import json
import math
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pandas as pd
import pytest

import avo_lib
from avo_lib.experiments import energies, inference
from avo_lib.experiments.results import PAPER, RESULTS, committed, load_results, result_file, table


def write(folder: Path, method: str, seed: int, nll: float, *, epochs: int = 2, device: str = "cpu") -> None:
    file = result_file("toy", method, seed, folder)
    file.parent.mkdir(exist_ok=True)
    bounds = {"elbo": -nll - 1, "kl": 20.0}
    test = bounds | {"nll": nll, "stderr": 0.5, "samples": 10, "images": 4, "ess": 2.5}
    result = {"experiment": "toy", "method": method, "seed": seed, "seconds": 6.0, "epochs": epochs, "config": {}}
    result["versions"] = {"device": device}
    file.write_text(json.dumps(result | {"train": bounds, "valid": bounds, "test": test}))


def folders_asked_for() -> dict[str, object]:
    """The annotation of every folder that a function for users takes; the command line makes paths itself."""
    modules = [module.name for module in walk_packages(avo_lib.__path__, "avo_lib.")]
    found = [
        function
        for module in modules
        if not module.endswith(("commands", "command_line", "files"))
        for name, function in inspect.getmembers(import_module(module), inspect.isfunction)
        if function.__module__ == module and not name.startswith("_")
    ]
    return {
        f"{function.__module__}.{function.__name__}({name})": parameter.annotation
        for function in found
        for name, parameter in inspect.signature(function).parameters.items()
        if "Path" in str(parameter.annotation) and name in ("folder", "results", "runs", "root")
    }


def test_a_folder_may_be_named_by_a_string(tmp_path, monkeypatch):
    asked = folders_asked_for()
    assert len(asked) > 20 and [what for what, kind in asked.items() if not str(kind).startswith("Path | str")] == []
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "vae", 0, 90.0)
    config = energies.CONFIGS[0]
    monkeypatch.chdir(tmp_path)
    for folder in (Path("deep"), "deep"):
        assert [found["method"] for found in load_results(folder)] == ["vae"]
        assert inference.gaps_file("toy", "vae", 0, folder) == Path("deep/gaps/toy/vae-seed0.json")
        assert energies.toy_file(config, folder).parent == Path("deep/toys/energies")
    assert load_results("nowhere") == []


def test_results_come_in_the_order_of_their_names(tmp_path):
    for method, seed in (("vae", 1), ("avo", 0), ("vae", 0)):
        write(tmp_path, method, seed, 90.0)
    assert [(found["method"], found["seed"]) for found in load_results(tmp_path)] == [
        ("avo", 0),
        ("vae", 0),
        ("vae", 1),
    ]


def test_a_result_without_a_divergence_is_read(tmp_path):
    """As of a model whose path is that of an energy; see average_bound."""
    write(tmp_path, "avo", 0, 90.0)
    file = result_file("toy", "avo", 0, tmp_path)
    result = json.loads(file.read_text())
    del result["test"]["kl"]
    file.write_text(json.dumps(result))
    (row,) = table(load_results(tmp_path)).to_dict("records")
    assert math.isnan(row["KL"]) and row["test NLL"] == 90.0


def test_what_is_hidden_is_no_result(tmp_path):
    """As an editor's copies of files that it shows."""
    write(tmp_path, "avo", 0, 90.0)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for hidden in (".ipynb_checkpoints/avo-seed0-checkpoint.json", "toy/._avo-seed0.json"):
        (tmp_path / hidden).touch()
    assert len(load_results(tmp_path)) == 1


def test_a_folder_without_results(tmp_path):
    assert load_results(tmp_path) == load_results(tmp_path / "missing") == []


@pytest.mark.parametrize(
    "content", [b"", b'{"test": ', b"\xff\xfe", b"[1, 2]", b"3", b"{}", b'{"test": {"nll": 90.0}}']
)
def test_a_file_that_is_no_result_is_named(content, tmp_path):
    write(tmp_path, "avo", 0, 90.0)
    (tmp_path / "toy" / "broken.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"toy/broken\.json is not a result.*Delete it and run that experiment again"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "other"},
        {"method": "vae"},
        {"method": "./avo"},
        {"method": 7},
        {"seed": 1},
        {"seed": 0.0},
        {"seed": True},
        {"config": None},
        {"epochs": 2.5},
        {"seconds": "6"},
        {"train": [{"elbo": -91.0}]},
        {"valid": {"elbo": math.nan}},
        {"test": {"elbo": -91.0}},
        {"test": None},
    ],
    ids=str,
)
def test_a_result_that_is_damaged_or_anothers_is_named(change, tmp_path):
    write(tmp_path, "avo", 0, 90.0)
    file = result_file("toy", "avo", 0, tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=r"toy/avo-seed0\.json is not a result"):
        load_results(tmp_path)


def test_a_name_that_a_terminal_would_obey_is_refused(tmp_path):
    write(tmp_path, "avo", 0, 90.0)
    file = result_file("toy", "avo", 0, tmp_path)
    named = json.loads(file.read_text()) | {"method": "\x1b[2Javo"}
    file.rename(file.with_name("\x1b[2Javo-seed0.json")).write_text(json.dumps(named))
    with pytest.raises(ValueError, match=r"is not a result: ValueError\(.it says that it is toy/\\x1b"):
        load_results(tmp_path)


@pytest.mark.parametrize("at", ["", "toy"])
def test_a_folder_that_cannot_be_read_is_not_empty(at, tmp_path, monkeypatch):
    """Refused by hand: whoever may do everything would be let in."""
    write(tmp_path, "avo", 0, 90.0)
    real = Path.iterdir

    def iterdir(folder):
        if folder == tmp_path / at:
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(PermissionError, match=str(tmp_path / at)):
        load_results(tmp_path)


def test_every_committed_result_is_one():
    assert len(load_results()) == len(list(RESULTS.glob("*/*.json"))) > 50


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70, 0.5, 1.0, True])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match=r"a seed must be a whole number .*, not"):
        result_file("toy", "avo", seed)


@pytest.mark.parametrize("name", ["", ".", "..", ".avo", "a/b", "../avo", "a\\b", "a\tb", "a\0b"])
def test_a_name_that_is_no_files_is_refused(name):
    """What would be trained under it could not be read again, or would lie elsewhere."""
    for names in ((name, "avo"), ("toy", name)):
        with pytest.raises(ValueError, match=r"names no file: take letters that can be printed, no slash"):
            result_file(*names, 0)


def test_the_table_has_means_over_seeds(tmp_path):
    for seed, nll in enumerate((90.0, 92.0, 97.0)):
        write(tmp_path, "avo", seed, nll)
    write(tmp_path, "vae", 0, 95.0)
    rows = table(load_results(tmp_path)).set_index("method")
    assert list(rows["seeds"]) == [3, 1]
    assert rows.loc["avo", "test NLL"] == pytest.approx(93.0)
    assert rows.loc["avo", "test −ELBO"] == rows.loc["avo", "train −ELBO"] == pytest.approx(94.0)
    assert rows.loc["avo", "ESS/K"] == pytest.approx(0.25) and rows.loc["avo", "K"] == 10
    assert rows.loc["avo", "s/epoch"] == pytest.approx(3.0)
    # Between three seeds: a sample standard deviation of sqrt(13) over sqrt(3). Of one model: over test images.
    assert rows.loc["avo", "± s.e."] == pytest.approx(math.sqrt(13 / 3))
    assert rows.loc["vae", "± s.e."] == 0.5


def test_seconds_of_two_kinds_of_device_have_no_mean(tmp_path):
    for seed, device in enumerate(("cpu", "cuda", "cuda")):
        write(tmp_path, "avo", seed, 90.0, device=device)
        write(tmp_path, "vae", seed, 90.0, device="cuda")
    rows = table(load_results(tmp_path)).set_index("method")
    assert math.isnan(rows.loc["avo", "s/epoch"]) and rows.loc["vae", "s/epoch"] == 3


def test_experiments_are_kept_apart(tmp_path):
    write(tmp_path, "avo", 0, 90.0)
    (tmp_path / "other").mkdir()
    other = json.loads(result_file("toy", "avo", 0, tmp_path).read_text()) | {"experiment": "other"}
    (tmp_path / "other" / "avo-seed0.json").write_text(json.dumps(other))
    assert list(table(load_results(tmp_path))["experiment"]) == ["other", "toy"]


# --- what a chapter shows

LIVE = pd.DataFrame({"value": [1 / 3, math.nan], "draws": [7, 8]}, index=pd.Index([0.1, 2.0], name="rate"))


@pytest.fixture
def clone(tmp_path, monkeypatch):
    monkeypatch.setattr("avo_lib.files.CLONE", tmp_path)
    (tmp_path / "results").mkdir()
    return tmp_path


@pytest.mark.parametrize("live", [LIVE, LIVE.T, LIVE.agg(["mean", "sem"]), LIVE.groupby("rate").agg(["min", "max"])])
def test_a_missing_file_is_written_and_read_to_the_last_bit(live, clone):
    for _ in range(2):
        pd.testing.assert_frame_equal(committed("toy/rates", live, within=0), live, check_exact=True)
    assert [file.relative_to(clone).as_posix() for file in clone.rglob("*.json")] == ["results/chapters/toy/rates.json"]
    assert load_results(clone / "results") == []


@pytest.mark.parametrize(
    "within", [0.1, pd.Series({"value": 0.1, "draws": 0}), pd.DataFrame({"value": 0.1, "draws": 0}, LIVE.index)]
)
def test_what_agrees_is_shown_as_it_was(within, clone):
    committed("toy/rates", LIVE, within=0)
    near, far = (LIVE.replace(1 / 3, 1 / 3 + step) for step in (0.09, 0.11))
    pd.testing.assert_frame_equal(committed("toy/rates", near, within=within), LIVE)
    message = r"rates\.json\nrow 0\.1, column 'value': 0\.44\d+ here, 0\.33\d+ committed, which may differ by 0\.1$"
    with pytest.raises(AssertionError, match=message):
        committed("toy/rates", far, within=within)


@pytest.mark.parametrize("other", [LIVE.fillna(1.0), LIVE + math.nan])
def test_a_number_and_none_do_not_agree(other, clone):
    committed("toy/rates", LIVE, within=0)
    with pytest.raises(AssertionError, match="nan"):
        committed("toy/rates", other, within=math.inf)


@pytest.mark.parametrize("other", [LIVE[::-1], LIVE[["draws", "value"]], LIVE[:1], LIVE.rename(columns={"draws": "n"})])
def test_other_rows_or_columns_do_not_agree(other, clone):
    committed("toy/rates", LIVE, within=0)
    with pytest.raises(AssertionError, match=r"other rows or columns.*Delete it to renew it"):
        committed("toy/rates", other, within=math.inf)


def test_the_papers_table_has_the_gaps_that_the_paper_prints():
    """The paper prints each gap beside the columns that it follows from: a mistyped figure breaks one of them."""
    generalisation = PAPER["test −ELBO"] - PAPER["train −ELBO"]
    variational = PAPER["test −ELBO"] - PAPER["test NLL"]
    assert generalisation.round(2).tolist() == [7.71, 7.97, 3.86, 3.24]
    assert variational.round(2).tolist() == [4.90, 4.86, 3.95, 4.14]
