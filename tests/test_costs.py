"""What a step costs, from steps that were measured."""

import json

import pytest

from avo_lib.experiments.costs import mean_step
from avo_lib.experiments.protocols import EXPERIMENTS
from avo_lib.experiments.results import RESULTS
from benchmarks import cost

MEASURED = {
    "report": {"vae": 10.0, "iwae": 20.0, "dreg": 21.0, "hvi": 30.0, "avo": 50.0, "iaf": 15.0, "avo_iaf": 25.0},
    "paper": {"vae": 100.0, "hvi": 200.0, "avo": 400.0, "avo_everything": 600.0},
    "stronger": {"vae_normal": 1000.0, "vae": 1500.0, "hvi": 2000.0},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cost.json").write_text(json.dumps(MEASURED))
    return tmp_path


@pytest.mark.parametrize(
    ("experiment", "method", "steps"),
    [
        ("report", "vae", 1.0),
        ("report", "vae_constant", 1.0),
        ("report", "dreg", 2.1),
        ("report", "avo", 0.8 * 3 + 0.2 * 5),
        ("report", "avo_half", 0.5 * 3 + 0.5 * 5),
        ("report", "avo_iaf", 0.8 * 1.5 + 0.2 * 2.5),
        ("report_fixed", "hvi", 3.0),
        ("report_long", "iaf", 1.5),
        ("paper", "vae_noise15", 1.0),
        ("paper", "hvi_very_wide", 2.0),
        ("screening", "hvi_resting", 2.0),
        ("screening", "avo_everything_half_wide", 0.5 * 2 + 0.5 * 6),
        ("fashion", "avo", 0.8 * 2 + 0.2 * 4),
        ("stronger", "vae", 1.5),
        ("stronger", "hvi", 2.0),
    ],
)
def test_a_step_is_measured_in_steps_of_the_plain_autoencoder(folder, experiment, method, steps):
    assert mean_step(experiment, method, folder) == pytest.approx(steps)


@pytest.mark.parametrize(
    ("experiment", "method"),
    [("report", "householder"), ("paper", "avo_joint"), ("paper", "iwae"), ("stronger", "avo"), ("omniglot", "vae")],
)
def test_no_other_step_is_taken_for_one_that_was_not_measured(folder, experiment, method):
    with pytest.raises(ValueError, match=f"no step like those of '{method}' in {experiment} was measured"):
        mean_step(experiment, method, folder)


def test_every_method_that_a_chapter_shows_has_a_cost():
    """Those of Omniglot and one of the stronger model were never run."""
    assert list(json.loads((RESULTS / "cost.json").read_bytes())) == list(cost.METHODS)
    for experiment in ("report", "report_fixed", "report_long", "paper", "screening", "fashion"):
        assert all(mean_step(experiment, method) >= 1 for method in EXPERIMENTS[experiment])
    assert mean_step("stronger", "avo") > mean_step("stronger", "hvi") > mean_step("stronger", "vae") > 1
