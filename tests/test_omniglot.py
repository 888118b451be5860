"""OMNIGLOT from made-up drawings: shrunk, inverted, split, drawn, and asked for where it is missing."""

import hashlib

import pytest
import torch
from PIL import Image
from torchvision.datasets import Omniglot

from avo_lib.experiments import omniglot
from avo_lib.experiments.mnist import DataError
from avo_lib.experiments.omniglot import load_omniglot
from avo_lib.experiments.protocols import DATASETS, find

DRAWINGS = 12  # in each of the two parts


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Black strokes on white, 105 × 105, as torchvision unpacks them: drawing i has ink in column i of 28."""
    checksums = {}
    for part, first in (("images_background", 0), ("images_evaluation", DRAWINGS)):
        folder = tmp_path / "omniglot-py" / part / "Alphabet" / "character01"
        folder.mkdir(parents=True)
        for i in range(first, first + DRAWINGS):
            pixels = torch.ones(28, 28, dtype=torch.uint8)
            pixels[:, i] = 0
            drawing = Image.fromarray(255 * pixels.numpy()).resize((105, 105), Image.Resampling.NEAREST)
            drawing.convert("1").save(folder / f"{i:04}_01.png")
        archive = tmp_path / "omniglot-py" / f"{part}.zip"
        archive.write_bytes(part.encode())
        checksums[part] = hashlib.md5(part.encode()).hexdigest()
    monkeypatch.setattr(Omniglot, "zips_md5", checksums)
    monkeypatch.setattr(omniglot, "DRAWINGS", 2 * DRAWINGS)
    monkeypatch.setattr(omniglot, "TRAIN_IMAGES", 16)
    monkeypatch.setattr(omniglot, "VALIDATION_IMAGES", 3)
    return tmp_path


def test_drawings_are_shrunk_inverted_and_split(root):
    found = load_omniglot("fixed", root)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [16, 3, 5] and not found.dynamic
    every = torch.cat([found.train, found.valid, found.test]).reshape(-1, 28, 28)
    columns = every.mean(1)
    assert set(columns.argmax(1).tolist()) == set(range(2 * DRAWINGS)), "each drawing once, its ink where it was"
    assert bool((columns.max(1).values > 0.4).all()) and columns.mean() < 0.1, "ink is 1, paper 0"
    assert set(every.unique().tolist()) == {0.0, 1.0}


def test_both_binarisations_share_the_images_that_judge_them(root):
    fixed, dynamic = load_omniglot("fixed", root), load_omniglot("dynamic", str(root))
    assert dynamic.dynamic and torch.equal(fixed.test, dynamic.test) and torch.equal(fixed.valid, dynamic.valid)
    assert 0 < ((dynamic.train > 0) & (dynamic.train < 1)).double().mean() < 0.2, "grey at the strokes' edges"


def test_what_cannot_be_is_refused(root):
    with pytest.raises(ValueError, match="binarisation must be one of dynamic, fixed"):
        load_omniglot("grey", root)
    drawing = next(root.rglob("0003_01.png"))
    drawing.write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be read \(.*0003_01.png.*\)\. If it is damaged, delete"):
        load_omniglot("fixed", root)
    drawing.unlink()
    with pytest.raises(DataError, match="has 23 drawings of OMNIGLOT's 24"):
        load_omniglot("fixed", root)


def test_missing_drawings_are_downloaded_or_asked_for(tmp_path, monkeypatch):
    asked = []

    def refuse(self):
        asked.append(self.background)
        raise RuntimeError("no network")

    monkeypatch.setattr(Omniglot, "download", refuse)
    with pytest.raises(DataError, match=r"OMNIGLOT is not in .* and could not be downloaded: no network"):
        load_omniglot("fixed", tmp_path)
    assert asked == [True]


def test_the_protocol_takes_these_images(monkeypatch):
    setup = find("omniglot", "avo")
    assert setup.model.T == 5 and setup.binarisation == "fixed"
    monkeypatch.setitem(DATASETS, "omniglot", lambda binarisation: binarisation)
    assert setup.data() == "fixed"
