"""The gaps of a run: what is written, read again and refused."""

import json

import pytest

from avo_lib.experiments import command_line
from avo_lib.experiments.inference import gaps_file, inference_gaps
from avo_lib.experiments.results import load_results
from avo_lib.gaps import GapConfig

FEW = GapConfig(draws=5, steps=3, samples=2, chains=2, T=3, leapfrog_steps=1)
SIZES = {"images": 6, "simulated": 5, "device": "cpu"}


def test_what_is_found_is_written_and_read_again(small_run):
    found = inference_gaps("miniature", "avo", config=FEW, **SIZES, results=small_run)
    file = gaps_file("miniature", "avo", 0, small_run)
    assert json.loads(file.read_text()) == found
    assert list(found) == ["config", "versions", "train", "test", "bracket", "each"]
    for part in ("train", "test"):
        value = {name: row["value"] for name, row in found[part].items()}
        assert value["approximation"] == pytest.approx(value["log_p"] - value["local"])
        assert value["amortisation"] == pytest.approx(value["local"] - value["bound"])
        assert value["inference"] == pytest.approx(value["approximation"] + value["amortisation"])
        for name, each in found["each"][part].items():
            assert sum(each) / SIZES["images"] == pytest.approx(value[name], abs=1e-4) and len(set(each)) > 1
    assert found["train"] != found["test"]
    file.write_text(json.dumps(found | {"bracket": {"value": 7.0}}))
    assert inference_gaps("miniature", "avo", config=FEW, **SIZES, results=small_run)["bracket"]["value"] == 7
    with pytest.raises(ValueError, match="another configuration"):
        inference_gaps("miniature", "avo", config=FEW, **SIZES | {"images": 7}, results=small_run)
    assert len(load_results(small_run)) == 1, "gaps are no result of a run"


def test_too_few_images_are_refused_before_anything_is_written(small_run):
    for wrong in ({"images": 1}, {"simulated": 0}, {"images": 6.5}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number of at least 2, not"):
            inference_gaps("miniature", "avo", config=FEW, **SIZES | wrong, results=small_run)
    assert not (small_run / "gaps").exists()


def test_more_images_than_there_are_are_refused(small_run):
    """The file would say that it is of 101."""
    with pytest.raises(ValueError, match="miniature has 100 images in a set, not 101"):
        inference_gaps("miniature", "avo", config=FEW, **SIZES | {"images": 101}, results=small_run)
    assert not gaps_file("miniature", "avo", 0, small_run).exists()


def test_the_command_prints_both_parts(small_run, monkeypatch, capsys):
    options = (
        "--images 6 --simulated 5 --device cpu --draws 5 --steps 3 --samples 2 --chains 2 --T 3 --leapfrog-steps 1"
    )
    arguments = ["avo_lib", "gaps", "--experiment", "miniature", *options.split(), "--results", str(small_run)]
    monkeypatch.setattr("sys.argv", arguments)
    command_line.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["miniature avo 0 train", "miniature avo 0 test"]
