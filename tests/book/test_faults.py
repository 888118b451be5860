"""The runs behind the post-mortem, on a few images."""

import json

import pytest
import run_faults

pytestmark = pytest.mark.usefixtures("float32")


@pytest.mark.parametrize("name", ["grey", "encoder_base_cut"])
def test_a_recipe_is_run_and_judged_once(name, tmp_path, monkeypatch):
    monkeypatch.setattr(run_faults, "RESULTS", tmp_path)
    monkeypatch.setattr(run_faults, "IMAGES", 128)
    monkeypatch.setattr(run_faults, "JUDGED", 3)
    run_faults.run(name, 1)
    file = tmp_path / f"{name}-seed1.json"
    found, written = json.loads(file.read_bytes()), file.stat().st_mtime_ns
    assert found["fault"] == name and len(found["curve"]) == run_faults.EPOCHS
    assert found["settings"] == {"images": 128, "epochs": run_faults.EPOCHS, "judged": 3}
    assert ("grey_encoder" in found) == (name == "grey") and found["test"]["nll"] > 0
    run_faults.run(name, 1)
    assert file.stat().st_mtime_ns == written
    monkeypatch.setattr(run_faults, "JUDGED", 4)
    with pytest.raises(ValueError, match="other settings"):
        run_faults.run(name, 1)
