"""MNIST: find it, verify it, read it once, split it and binarise it."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from avo_lib.files import CLONE, write_atomically

SHIPPED = CLONE and CLONE / "data" / "mnist"  # the packed files of the repository
BINARISATIONS = ("dynamic", "fixed")
BINARISATION_SEED = 2018  # of the one draw that evaluation, and fixed binarisation, use
TRAIN_IMAGES = 50_000
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class DataError(RuntimeError):
    """A data file is missing or not what it should be; the message says which, and what to do."""


@dataclass(frozen=True)
class Split:
    """Binary images, or grey ones that are binarised anew at every visit.

    Attributes:
        images: ``(images, 784)`` float32 in [0, 1].
        labels: ``(images,)`` digits, for figures only.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def first(self, n: int) -> Split:
        """The first n images."""
        return Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class MNIST:
    """The three splits of one protocol: the last 10,000 training images validate.

    Attributes:
        train: 50,000 images, grey under dynamic binarisation, else binary.
        valid: 10,000 images, binary.
        test: 10,000 images, binary.
        dynamic: Whether training images are binarised anew at every visit.
    """

    train: Split
    valid: Split
    test: Split
    dynamic: bool

    def first(self, n: int) -> MNIST:
        """The first n images of each split."""
        return MNIST(self.train.first(n), self.valid.first(n), self.test.first(n), self.dynamic)


def binarise(grey: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw each pixel as a Bernoulli outcome with its grey value as probability.

    >>> binarise(torch.tensor([0.0, 1.0])).tolist()
    [0.0, 1.0]
    """
    # Comparing uniforms is several times faster than torch.bernoulli.
    uniform = torch.rand(grey.shape, dtype=grey.dtype, device=grey.device, generator=generator)
    return (uniform < grey).to(grey.dtype)


def default_root() -> Path:
    """Where MNIST is unpacked: the repository's ``data/mnist`` if this is a clone and yours, else your cache.

    Raises:
        DataError: If the cache is needed and there is no home to have it in.
    """
    if SHIPPED and SHIPPED.is_dir():
        raw = _raw(SHIPPED)
        nearest = next(folder for folder in (raw, *raw.parents) if folder.exists())
        if all((raw / name).exists() for name in SHA256) or os.access(nearest, os.W_OK):
            return SHIPPED
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the specification of these variables: unset, empty and relative are the same
        try:
            cache = Path.home() / ".cache"
        except RuntimeError as error:
            raise DataError("there is no home folder to unpack MNIST in: set XDG_CACHE_HOME to a folder") from error
    return cache / "avo_lib" / "mnist"


def _raw(root: Path) -> Path:
    """Where torchvision looks for unpacked files."""
    return root / "MNIST" / "raw"


def load_mnist(binarisation: str = "dynamic", root: Path | None = None) -> MNIST:
    """MNIST in one protocol, from disk.

    Validation and test images are one seeded draw in both protocols, so that a bound is the same number twice.

    Args:
        binarisation: ``"dynamic"`` (training images are drawn anew at every visit) or ``"fixed"`` (one seeded draw of
            everything). Results under the two differ by several nats and do not compare.
        root: Folder with the four gzipped IDX files; downloaded by torchvision if they are missing.

    Returns:
        The splits.

    Raises:
        ValueError: If there is no such binarisation.
        DataError: If a file is missing and cannot be had, or is damaged.
    """
    if binarisation not in BINARISATIONS:
        raise ValueError(f"binarisation must be one of {', '.join(BINARISATIONS)}, not {binarisation!r}")
    train, train_labels, test, test_labels = _read(root or default_root(), root or SHIPPED or default_root())
    drawn = torch.Generator().manual_seed(BINARISATION_SEED)
    binary, binary_test = binarise(train, generator=drawn), binarise(test, generator=drawn)
    dynamic = binarisation == "dynamic"
    return MNIST(
        Split((train.clone() if dynamic else binary)[:TRAIN_IMAGES], train_labels[:TRAIN_IMAGES].clone()),
        Split(binary[TRAIN_IMAGES:], train_labels[TRAIN_IMAGES:].clone()),
        Split(binary_test, test_labels.clone()),
        dynamic,
    )


@lru_cache(maxsize=1)
def _read(root: Path, packed: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grey images in [0, 1] and labels, for training and test."""
    for name in SHA256:
        _ensure(root, packed / f"{name}.gz", name)
    parts: list[Tensor] = []
    for train in (True, False):
        dataset = datasets.MNIST(root, train=train)
        parts += [dataset.data.flatten(1).float().div_(255), dataset.targets]
    return parts[0], parts[1], parts[2], parts[3]


def _ensure(root: Path, packed: Path, name: str) -> None:
    """Leave a verified unpacked file in place. Any number of processes may do so at once."""
    unpacked = _raw(root) / name
    if not unpacked.exists():
        if packed.exists():
            try:
                content = gzip.decompress(packed.read_bytes())
            except (EOFError, OSError, zlib.error) as error:
                raise _damaged(packed) from error
            _verify(content, name, packed)
            _write(unpacked, content)
        else:
            _download(root)
    _verify(unpacked.read_bytes(), name, unpacked)


def _verify(content: bytes, name: str, file: Path) -> None:
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise _damaged(file)


def _damaged(file: Path) -> DataError:
    return DataError(
        f"{file} is damaged (its SHA-256 is wrong). Delete it and start again: it is then unpacked or downloaded "
        "anew. A file of the repository comes back with git checkout."
    )


def _write(file: Path, content: bytes) -> None:
    try:
        write_atomically(file, content)
    except OSError as error:
        raise DataError(f"MNIST could not be unpacked: {error}") from error


def _download(root: Path) -> None:
    """Let torchvision download into a folder of its own, then move what it brought into place."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as folder:
            datasets.MNIST(folder, download=True)
            for name in SHA256:
                content = (_raw(Path(folder)) / name).read_bytes()
                if hashlib.sha256(content).hexdigest() != SHA256[name]:
                    raise DataError(
                        f"the download brought a damaged {name}. Start again, or copy the four files to {root}"
                    )
                _write(_raw(root) / name, content)
    except (OSError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"MNIST is not in {root} and could not be downloaded: {error}") from error
