"""Reading finished runs, and the table made of them."""

import json
import math
from pathlib import Path

import pytest

from avo_lib.results import load_results, result_file, table


def write(folder: Path, method: str, seed: int, nll: float, *, epochs: int = 2) -> None:
    file = result_file("toy", method, seed, folder)
    file.parent.mkdir(exist_ok=True)
    bounds = {"elbo": -nll - 1, "kl": 20.0}
    test = bounds | {"nll": nll, "stderr": 0.5, "samples": 10, "images": 4, "ess": 2.5}
    result = {"experiment": "toy", "method": method, "seed": seed, "seconds": 6.0, "epochs": epochs}
    file.write_text(json.dumps(result | {"train": bounds, "valid": bounds, "test": test}))


def test_results_come_in_the_order_of_their_names(tmp_path):
    for method, seed in (("vae", 1), ("avo", 0), ("vae", 0)):
        write(tmp_path, method, seed, 90.0)
    assert [(found["method"], found["seed"]) for found in load_results(tmp_path)] == [
        ("avo", 0),
        ("vae", 0),
        ("vae", 1),
    ]


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


def test_experiments_are_kept_apart(tmp_path):
    write(tmp_path, "avo", 0, 90.0)
    (tmp_path / "other").mkdir()
    other = json.loads(result_file("toy", "avo", 0, tmp_path).read_text()) | {"experiment": "other"}
    (tmp_path / "other" / "avo-seed0.json").write_text(json.dumps(other))
    assert list(table(load_results(tmp_path))["experiment"]) == ["other", "toy"]
