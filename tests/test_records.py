"""Records: nothing that is not finite is written, nothing damaged is read, and nothing is made twice."""

import json
import math

import numpy as np
import pytest
import torch

from avo_lib.experiments import records
from avo_lib.experiments.records import expect, load_weights, once, plain, publish, read


def linear(weight: float = 1.0) -> torch.nn.Linear:
    model = torch.nn.Linear(2, 3)
    torch.nn.init.constant_(model.weight, weight)
    return model


def test_what_is_published_is_read_again(tmp_path):
    file = tmp_path / "new" / "one.json"
    result = publish(file, {"kl": np.float64(0.5), "stds": (1, np.int64(2)), "curve": {0: 1e-3}}, linear().state_dict())
    assert result == {"kl": 0.5, "stds": [1, 2], "curve": {"0": 1e-3}} == read(file, lambda _: None)
    again = linear(7.0)
    load_weights(again, file.with_suffix(".safetensors"), "")
    assert torch.equal(again.weight, linear().weight)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, np.float64("nan"), [{"kl": -math.inf}]])
def test_no_number_that_is_not_finite_is_published(spoilt, tmp_path):
    with pytest.raises(FloatingPointError, match=r"one\.json is not written: a number in it is not finite"):
        publish(tmp_path / "one.json", {"kl": spoilt}, linear().state_dict())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_no_weight_that_is_not_finite_is_published(spoilt, tmp_path):
    with pytest.raises(FloatingPointError, match=r"one\.json is not written: not all weights are finite in weight$"):
        publish(tmp_path / "one.json", {"kl": 0.5}, linear(spoilt).state_dict())
    assert not list(tmp_path.iterdir())


def test_weights_that_share_memory_are_published(tmp_path):
    tied = torch.nn.ModuleList([linear()] * 2)
    publish(tmp_path / "one.json", {}, tied.state_dict() | {"one": tied[0].weight, "rows": linear().weight.mT})
    again = torch.nn.ModuleList([linear(7.0), linear(7.0)])
    again.one, again.rows = torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(2, 3))
    load_weights(again, tmp_path / "one.safetensors", "")
    assert torch.equal(again[0].weight, linear().weight) and torch.equal(again[1].weight, linear().weight)


def test_settings_that_cannot_be_written_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"a number is not finite in {'clip': inf}\. Give None or a text"):
        once(tmp_path / "one.json", {"clip": math.inf}, None, {})


def test_what_is_no_value_is_refused():
    with pytest.raises(TypeError, match="a result holds plain values, and Linear"):
        plain({"objective": linear()})


def test_weights_that_are_damaged_or_others_are_refused(tmp_path):
    file = tmp_path / "one.safetensors"
    with pytest.raises(FileNotFoundError, match=r"does not exist; make it with: python -m avo_lib ring"):
        load_weights(linear(), file, "ring")
    publish(file.with_suffix(".json"), {}, linear().state_dict())
    good = file.read_bytes()
    with pytest.raises(ValueError, match=r"one\.safetensors is damaged or of another configuration"):
        load_weights(torch.nn.Linear(3, 3), file, "ring")
    at = good.index(linear().weight.detach().numpy().tobytes())
    nan = torch.tensor(math.nan).numpy().tobytes()
    for damaged in (b"", good[:-1], b"\xff" + good[1:], good[:at] + nan + good[at + len(nan) :]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"one\.safetensors is damaged or of another configuration"):
            load_weights(linear(), file, "ring")


def test_the_advice_about_weights_brings_them_back(tmp_path):
    """A result that is there is not made again, so it has to go with its weights."""
    file = tmp_path / "one.json"
    weights = file.with_suffix(".safetensors")

    def make():
        return {"kl": 0.5}, linear().state_dict()

    once(file, {}, make, {})
    weights.write_bytes(b"")
    with pytest.raises(ValueError, match=r"Delete it and one\.json, and run that again"):
        load_weights(linear(7.0), weights, "ring")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"avo_lib ring, in another folder by --results, .* once one\.json is"):
        load_weights(linear(7.0), weights, "ring")
    file.unlink()
    once(file, {}, make, {})
    load_weights(again := linear(7.0), weights, "ring")
    assert torch.equal(again.weight, linear().weight)


@pytest.mark.parametrize("trouble", [PermissionError(13, "Permission denied"), MemoryError()])
def test_weights_that_cannot_be_read_are_not_called_damaged(trouble, tmp_path, monkeypatch):
    def fail(_):
        raise trouble

    publish(tmp_path / "one.json", {}, linear().state_dict())
    monkeypatch.setattr(records, "load_file", fail)
    with pytest.raises(type(trouble)):
        load_weights(linear(), tmp_path / "one.safetensors", "ring")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b'{"kl": ', b"\xff\xfe", b'{"kl": NaN}', b'{"kl": -Infinity}', b'{"kl": 1e999}'),
        *(b'{"kl": 1' + b"0" * 400 + b"}", b"[" * 100_000, b"[]", b'[{"kl": 1}]', b"3", b"null"),
        *(b"{}", b'{"kl": "1"}', b'{"kl": true}', b'{"kl": [1]}'),
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_a_file_that_is_no_result_is_named(content, tmp_path):
    file = tmp_path / "one.json"
    file.write_bytes(content)
    message = r"one\.json is not a result: .{,120}\. Delete it and run that experiment again$"
    with pytest.raises(ValueError, match=message):
        read(file, lambda result: expect(result, {"kl": float}))


@pytest.mark.parametrize(
    "result, wrong",
    [
        ({"rows": [{"kl": 1}, {"kl": 0.5}]}, None),
        ({"rows": [{"kl": 1}, {"kl": "0.5"}]}, TypeError),
        ({"rows": [{"kl": 1}, {}]}, KeyError),
        ({"rows": []}, KeyError),
        ({"rows": {"kl": 1}}, TypeError),
        ({"rows": 7}, TypeError),
        ({}, KeyError),
    ],
)
def test_every_row_is_checked(result, wrong):
    if wrong is None:
        expect(result, {"rows.*.kl": float})
        return
    with pytest.raises(wrong):
        expect(result, {"rows.*.kl": float})


def test_a_finished_result_is_read_and_others_are_refused(tmp_path):
    file, kinds = tmp_path / "one.json", {"kl": float}
    made = once(file, {"stds": (0.1, 1)}, lambda: ({"kl": 0.5}, {}), kinds)
    assert made == {"config": {"stds": [0.1, 1]}, "kl": 0.5} == json.loads(file.read_bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
    for same in ((0.1, 1), [np.float64(0.1), 1.0]):
        assert once(file, {"stds": same}, None, kinds) == made  # were anything made, a TypeError
    with pytest.raises(ValueError, match="belongs to another configuration"):
        once(file, {"stds": (0.1, 2)}, None, kinds)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is not a result"):
        once(file, {"stds": (0.1, 1)}, None, kinds)


def test_a_folder_is_tried_before_anything_is_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to .*/file/below"):
        once(tmp_path / "file" / "below" / "one.json", {}, None, {})
