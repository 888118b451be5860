"""MNIST is what it should be, or an error says which file is not and what to do.

Damage is done to tiny copies, so that nothing waits for 60,000 images: the checks do not know the difference.
"""

import gzip
import hashlib
import math
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from avo_lib.data import binarise
from avo_lib.experiments import mnist as data
from avo_lib.experiments.mnist import BINARISATIONS, DataError, load_fashion_mnist, load_labels, load_mnist

TRAIN, TEST = 40, 20  # images of a tiny copy
IMAGES = "train-images-idx3-ubyte"


@pytest.fixture(scope="module")
def mnist():
    return {binarisation: load_mnist(binarisation) for binarisation in BINARISATIONS}


def idx(items: torch.Tensor) -> bytes:
    """The IDX format: two zero bytes, the type (8: unsigned bytes), the number of axes, their sizes, the entries."""
    return bytes([0, 0, 8, items.dim()]) + struct.pack(f">{items.dim()}I", *items.shape) + items.numpy().tobytes()


def tiny_files(seed: int, train: int = TRAIN, test: int = TEST) -> dict[str, bytes]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, below: int) -> bytes:
        return idx(torch.randint(below, shape, generator=generator).to(torch.uint8))

    return {
        IMAGES: random(train, 28, 28, below=256),
        "train-labels-idx1-ubyte": random(train, below=10),
        "t10k-images-idx3-ubyte": random(test, 28, 28, below=256),
        "t10k-labels-idx1-ubyte": random(test, below=10),
    }


def pack(root: Path, files: dict[str, bytes]) -> None:
    root.mkdir(parents=True)
    for name, content in files.items():
        (root / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    """The unpacked files of a tiny MNIST, whose checksums the library takes for the right ones."""
    found = tiny_files(seed=1)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    for name in ("MNIST", "FASHION"):
        monkeypatch.setattr(data, name, replace(getattr(data, name), sha256=checksums))
    monkeypatch.setattr(data, "TRAIN_IMAGES", 30)
    data._read.cache_clear()  # it keeps the images of the last root
    yield found
    data._read.cache_clear()


@pytest.fixture
def root(tmp_path, files) -> Path:
    pack(tmp_path / "mnist", files)
    return tmp_path / "mnist"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(self):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def test_the_checksums_are_those_of_the_shipped_list():
    lines = (data.default_root() / "SHA256SUMS").read_text().splitlines()
    assert data.MNIST.sha256 == {name: checksum for checksum, name in (line.split() for line in lines)}


@pytest.mark.parametrize("binarisation", BINARISATIONS)
def test_splits(mnist, binarisation):
    splits = mnist[binarisation]
    for split, size in ((splits.train, 50_000), (splits.valid, 10_000), (splits.test, 10_000)):
        assert split.shape == (size, 784) and split.dtype == torch.float32
    assert splits.dynamic == (binarisation == "dynamic")


def test_only_dynamic_training_images_are_grey(mnist):
    fixed, dynamic = mnist["fixed"], mnist["dynamic"]
    for images in (fixed.train, fixed.valid, fixed.test, dynamic.valid):
        assert bool(((images == 0) | (images == 1)).all())
    grey, drawn = dynamic.train[:2000], fixed.train[:2000]
    assert ((grey > 0) & (grey < 1)).any() and grey.min() == 0 and grey.max() == 1
    # Pixels that are surely black or white are so in the draw, and the others are right on average.
    assert bool((drawn[grey == 0] == 0).all()) and bool((drawn[grey == 1] == 1).all())
    assert (drawn - grey).double().mean().abs() < 5 * (grey * (1 - grey)).double().sum().sqrt() / grey.numel()


def test_protocols_share_the_images_that_judge_them(mnist):
    fixed, dynamic = mnist["fixed"], mnist["dynamic"]
    assert torch.equal(fixed.valid, dynamic.valid)
    assert torch.equal(fixed.test, dynamic.test)


def test_every_call_draws_the_same(root):
    first, state = load_mnist("fixed", root), torch.get_rng_state()
    data._read.cache_clear()
    again = load_mnist("fixed", str(root))
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.test, again.test)
    assert torch.equal(state, torch.get_rng_state())


def test_the_last_training_images_validate(root, files):
    splits = load_mnist("dynamic", root)
    grey = torch.tensor(list(files[IMAGES][16:])).reshape(TRAIN, 784) / 255
    torch.testing.assert_close(splits.train, grey[:30].float(), rtol=0, atol=0)
    assert len(splits.valid) == TRAIN - 30 and len(splits.test) == TEST
    held_out = grey[30:]
    assert bool((splits.valid[held_out == 0] == 0).all()) and bool((splits.valid[held_out == 1] == 1).all())
    train, valid, test = load_labels(root)
    assert [*train.tolist(), *valid.tolist()] == list(files["train-labels-idx1-ubyte"][8:])
    assert test.tolist() == list(files["t10k-labels-idx1-ubyte"][8:])


def test_what_another_program_left_is_not_read(root, files):
    """torchvision prefers the files that its versions before 0.9 wrote, which nobody has verified."""
    left = root / "MNIST" / "processed"
    left.mkdir(parents=True)
    nothing = torch.zeros(TRAIN, 28, 28, dtype=torch.uint8), torch.zeros(TRAIN, dtype=torch.long)
    for name in ("training.pt", "test.pt"):
        torch.save(nothing, left / name)
    assert load_mnist("dynamic", root).train.max() > 0


def test_the_first_images_of_each_split(root):
    splits = load_mnist("dynamic", root)
    few = splits.first(3)
    assert [len(split) for split in (few.train, few.valid, few.test)] == [3, 3, 3]
    assert torch.equal(few.valid, splits.valid[:3]) and few.dynamic
    for wrong in (len(splits.train) + 1, 0, 2.5):
        with pytest.raises(ValueError, match=r"training images: take no more|n must be a whole number"):
            splits.first(wrong)


def test_binarise_draws_with_the_given_probability(generator):
    draws = binarise(torch.full((100_000,), 0.3), generator=generator)
    assert set(draws.tolist()) == {0.0, 1.0}
    assert abs(draws.mean().item() - 0.3) < 5 * (0.21 / 100_000) ** 0.5


@pytest.mark.parametrize("wrong", [-0.01, 1.01, 255.0, math.nan])
def test_what_is_no_probability_is_not_binarised(wrong):
    with pytest.raises(ValueError, match=r"\[0, 1\]. Divide bytes by 255"):
        binarise(torch.tensor([0.0, 1.0, wrong]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_what_is_no_floating_point_number_is_not_binarised(dtype):
    with pytest.raises(ValueError, match=r"floating-point numbers, not torch\.\w+: use x\.float\(\)"):
        binarise(torch.ones(2, dtype=dtype))


def test_small_probabilities_are_binarised_in_half_precision(generator):
    """Its own uniforms are multiples of 1/256: one in 256 pixels would be lit at any probability below."""
    draws = binarise(torch.full((1_000_000,), 1e-4, dtype=torch.bfloat16), generator=generator)
    assert draws.dtype == torch.bfloat16 and 50 < draws.float().sum() < 150


def test_an_unknown_binarisation_is_refused():
    with pytest.raises(ValueError, match="one of dynamic, fixed, not 'static'"):
        load_mnist("static")


@pytest.mark.parametrize("damage", [cut, lambda file: flip(file, 300), lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", tiny_files(seed=1))
def test_a_damaged_packed_file_is_named(root, name, damage):
    damage(root / f"{name}.gz") if name == IMAGES else cut(root / f"{name}.gz")
    with pytest.raises(DataError, match=rf"{name}\.gz is damaged.*Delete it and start again.*git checkout"):
        load_mnist(root=root)
    assert not (root / "MNIST" / "raw" / name).exists()


def test_a_packed_file_with_other_content_is_named(root):
    (root / f"{IMAGES}.gz").write_bytes(gzip.compress(b"sound, but another file"))
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz is damaged"):
        load_mnist(root=root)


@pytest.mark.parametrize("damage", [cut, lambda file: flip(file, 5000)])
def test_a_damaged_unpacked_file_is_named_and_mended_as_told(root, damage):
    whole = load_mnist(root=root).train
    unpacked = root / "MNIST" / "raw" / IMAGES
    damage(unpacked)
    data._read.cache_clear()
    with pytest.raises(DataError, match=rf"MNIST/raw/{IMAGES} is damaged.*Delete it") as raised:
        load_mnist(root=root)
    assert ".gz" not in str(raised.value)
    unpacked.unlink()
    assert torch.equal(load_mnist(root=root).train, whole)


def test_missing_files_without_a_network(tmp_path, files, no_network):
    with pytest.raises(DataError, match=r"MNIST is not in .*nowhere and could not be downloaded: Error downloading"):
        load_mnist(root=tmp_path / "nowhere")
    assert not list((tmp_path / "nowhere").iterdir())


def test_one_missing_file_without_a_network(root, no_network):
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="could not be downloaded"):
        load_mnist(root=root)


def fake_download(monkeypatch, brought: dict[str, bytes]) -> None:
    def download(self):
        folder = Path(self.raw_folder)
        folder.mkdir(parents=True)
        for name, content in brought.items():
            (folder / name).write_bytes(content)

    monkeypatch.setattr(datasets.MNIST, "download", download)


def test_missing_files_are_downloaded(tmp_path, files, monkeypatch):
    fake_download(monkeypatch, files)
    assert len(load_mnist(root=tmp_path / "new").test) == TEST
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"MNIST"}  # nothing temporary stays
    assert {path.name for path in (tmp_path / "new" / "MNIST" / "raw").iterdir()} == set(files)


def test_a_damaged_download_is_refused_and_not_kept(tmp_path, files, monkeypatch):
    other = tiny_files(seed=3)
    fake_download(monkeypatch, files | {IMAGES: other[IMAGES]})
    with pytest.raises(DataError, match=f"download brought a damaged {IMAGES}.*Start again, or copy .* to .*new"):
        load_mnist(root=tmp_path / "new")
    assert not list((tmp_path / "new").rglob(f"{IMAGES}*"))


def test_a_folder_that_cannot_be_written_to(root):
    (root / "MNIST").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"could not be unpacked: cannot write to .*raw.*Choose a writable folder"):
        load_mnist(root=root)


@pytest.fixture
def read_only(root, tmp_path, monkeypatch) -> Path:
    """A clone that belongs to somebody else, and a home: where files may be unpacked."""
    monkeypatch.setattr(data, "MNIST", replace(data.MNIST, shipped=root))
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(root))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return root


def test_a_read_only_clone_is_unpacked_into_the_cache(read_only, tmp_path, monkeypatch):
    before = sorted(read_only.iterdir())
    assert len(load_mnist().test) == TEST
    assert sorted(read_only.iterdir()) == before
    cache = tmp_path / "home" / ".cache" / "avo_lib" / "mnist"
    assert data.default_root() == cache and (cache / "MNIST" / "raw" / IMAGES).is_file()
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert data.default_root() == read_only


def test_a_read_only_clone_that_is_unpacked_needs_no_cache(read_only):
    load_mnist(root=read_only)
    assert data.default_root() == read_only


@pytest.mark.parametrize("setting", ["", "cache", "./cache"])
def test_a_cache_that_is_no_absolute_path_is_none(read_only, setting, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", setting)
    assert data.default_root() == tmp_path / "home" / ".cache" / "avo_lib" / "mnist"


def test_the_cache_is_where_the_user_wants_it(read_only, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert data.default_root() == tmp_path / "mine" / "avo_lib" / "mnist"


@pytest.fixture
def homeless(monkeypatch) -> None:
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_a_clone_needs_no_home(root, homeless, monkeypatch):
    monkeypatch.setattr(data, "MNIST", replace(data.MNIST, shipped=root))
    assert len(load_mnist().test) == TEST


def test_without_a_home_one_line_says_what_to_do(read_only, homeless):
    with pytest.raises(DataError, match="no home folder to unpack mnist in: set XDG_CACHE_HOME"):
        load_mnist()


def test_a_root_below_a_file(tmp_path, files, no_network):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/mnist"):
        load_mnist(root=tmp_path / "file" / "mnist")


STARTERS = """
import hashlib, sys, time
from dataclasses import replace
from pathlib import Path
from avo_lib.experiments import mnist as data
me, other, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
checksums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
data.MNIST = replace(data.MNIST, sha256=checksums)
for root in sorted(folder.glob("root*")):
    (root / me).touch()
    patience = time.monotonic() + 60
    while not (root / other).exists():
        assert time.monotonic() < patience, "the other process has ended"
        time.sleep(1e-4)
    print(hashlib.sha256(data.load_mnist(root=root).train.numpy().tobytes()).hexdigest())
"""


def test_two_processes_may_start_at_once(tmp_path):
    found = tiny_files(seed=2, train=2000, test=200)  # large enough that writing takes a moment
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in found.items()]
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    pack(tmp_path / "packed", found)
    for i in range(12):  # the bad moment is short: without renaming into place, few of these would hit it
        shutil.copytree(tmp_path / "packed", tmp_path / f"root{i:02}", copy_function=os.link)
    commands = [[sys.executable, "-c", STARTERS, *names, str(tmp_path)] for names in (("one", "two"), ("two", "one"))]
    started = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    try:
        ended = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ended
    assert ended[0][0] == ended[1][0] and len(set(ended[0][0].split())) == 1
    assert not list(tmp_path.rglob(".*"))


def test_fashion_has_a_place_of_its_own(root, files, tmp_path, monkeypatch):
    """Never the digits by mistake: another folder, other checksums, torchvision's other reader."""
    found = load_fashion_mnist("fixed", root=root)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [30, 10, TEST] and not found.dynamic
    assert (root / "FashionMNIST" / "raw" / IMAGES).is_file() and not (root / "MNIST").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert data.default_root(data.FASHION) == tmp_path / "mine" / "avo_lib" / "fashion_mnist"


def test_digits_are_no_fashion():
    with pytest.raises(DataError, match="is damaged"):
        load_fashion_mnist(root=data.default_root())


def test_fashion_without_a_network_says_what_is_missing(tmp_path, no_network):
    with pytest.raises(DataError, match=r"FashionMNIST is not in .*nowhere and could not be downloaded"):
        load_fashion_mnist(root=tmp_path / "nowhere")
