"""MNIST and Fashion-MNIST: find them, verify them, read what was verified, split and binarise."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from avo_lib.data import Dataset, binarise
from avo_lib.files import CLONE, write_atomically

BINARISATIONS = ("dynamic", "fixed")
BINARISATION_SEED = 2018  # seed of the one draw that evaluation and fixed binarisation use
TRAIN_IMAGES = 50_000


@dataclass(frozen=True)
class Source:
    """Four IDX files of one data set.

    Attributes:
        name: Name of the folder in the cache.
        reader: Torchvision's data set, which can download the files.
        sha256: Checksums of the unpacked files, by name.
        shipped: Folder of the packed files in this repository, if it has them.
    """

    name: str
    reader: type[datasets.MNIST]
    sha256: Mapping[str, str] = field(compare=False)
    shipped: Path | None = None

    @property
    def title(self) -> str:
        """The name that torchvision gives it."""
        return self.reader.__name__

    def raw(self, root: Path) -> Path:
        """Where torchvision looks for unpacked files."""
        return root / self.title / "raw"


MNIST = Source(
    "mnist",
    datasets.MNIST,
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    CLONE and CLONE / "data" / "mnist",
)
FASHION = Source(
    "fashion_mnist",
    datasets.FashionMNIST,
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)


class DataError(RuntimeError):
    """A data file is missing or not what it should be; the message says which, and what to do."""


def default_root(source: Source | None = None) -> Path:
    """Where a data set is unpacked: the repository's ``data/mnist`` if it is shipped there and yours, else your cache.

    Raises:
        DataError: If the cache is needed and there is no home folder for it.
    """
    source = source or MNIST
    if source.shipped and source.shipped.is_dir():
        raw = source.raw(source.shipped)
        nearest = next(folder for folder in (raw, *raw.parents) if folder.exists())
        if all((raw / name).exists() for name in source.sha256) or os.access(nearest, os.W_OK):
            return source.shipped
    return cache_folder(source.name)


def cache_folder(name: str) -> Path:
    """The folder for data that no repository ships.

    Raises:
        DataError: If there is no home folder for it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the specification of these variables: unset, empty and relative are the same
        try:
            cache = Path.home() / ".cache"
        except RuntimeError as error:
            raise DataError(f"there is no home folder to unpack {name} in: set XDG_CACHE_HOME to a folder") from error
    return cache / "avo_lib" / name


def load_mnist(binarisation: str = "dynamic", root: Path | str | None = None) -> Dataset:
    """MNIST in one protocol, from disk: 50,000 training images, 10,000 to validate and 10,000 to test.

    Validation and test images are one seeded draw in both protocols, so that a bound is the same number every time.

    Args:
        binarisation: ``"dynamic"`` (training images are drawn anew at every visit) or ``"fixed"`` (one seeded draw of
            everything). Results under the two differ by several nats and cannot be compared.
        root: Folder with the four gzipped IDX files; downloaded by torchvision if they are missing.

    Returns:
        Three sets of float32 ``(images, 784)``; the last 10,000 of MNIST's training images are for validation.

    Raises:
        ValueError: If there is no such binarisation.
        DataError: If a file is missing and cannot be obtained, or is damaged.
    """
    return _load(MNIST, binarisation, root)


def load_fashion_mnist(binarisation: str = "dynamic", root: Path | str | None = None) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), in the form in which :func:`load_mnist` gives the digits.

    Not shipped: torchvision downloads it, unless the four gzipped files lie in ``root`` or in the cache.
    """
    return _load(FASHION, binarisation, root)


def _load(source: Source, binarisation: str, root: Path | str | None) -> Dataset:
    if binarisation not in BINARISATIONS:
        raise ValueError(f"binarisation must be one of {', '.join(BINARISATIONS)}, not {binarisation!r}")
    train, _, test, _ = _read(source, *_folders(source, root))
    drawn = torch.Generator().manual_seed(BINARISATION_SEED)
    binary, binary_test = binarise(train, generator=drawn), binarise(test, generator=drawn)
    dynamic = binarisation == "dynamic"
    chosen = train.clone() if dynamic else binary
    return Dataset(chosen[:TRAIN_IMAGES], binary[TRAIN_IMAGES:], binary_test, dynamic)


def load_labels(root: Path | str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The digits in the three sets of :func:`load_mnist`, each ``(images,)``."""
    _, train, _, test = _read(MNIST, *_folders(MNIST, root))
    return train[:TRAIN_IMAGES].clone(), train[TRAIN_IMAGES:].clone(), test.clone()


def _folders(source: Source, root: Path | str | None) -> tuple[Path, Path]:
    """Where the files are unpacked, and where they may lie packed."""
    if root is not None:
        return Path(root), Path(root)
    cache = default_root(source)
    return cache, source.shipped or cache


@lru_cache(maxsize=1)
def _read(source: Source, root: Path, packed: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grey images in [0, 1] and labels, for training and test."""
    for name in source.sha256:
        _ensure(source, root, packed / f"{name}.gz", name)
    images = [read_image_file(str(source.raw(root) / name)) for name in source.sha256 if "images" in name]
    labels = [read_label_file(str(source.raw(root) / name)) for name in source.sha256 if "labels" in name]
    grey = [part.flatten(1).float().div_(255) for part in images]
    return grey[0], labels[0], grey[1], labels[1]


def _ensure(source: Source, root: Path, packed: Path, name: str) -> None:
    """Leave a verified unpacked file in place. Any number of processes may do so at once."""
    unpacked = source.raw(root) / name
    if not unpacked.exists():
        if packed.exists():
            try:
                content = gzip.decompress(packed.read_bytes())
            except (EOFError, OSError, zlib.error) as error:
                raise _damaged(packed) from error
            _verify(source, content, name, packed)
            _write(unpacked, content)
        else:
            _download(source, root)
    _verify(source, unpacked.read_bytes(), name, unpacked)


def _verify(source: Source, content: bytes, name: str, file: Path) -> None:
    if hashlib.sha256(content).hexdigest() != source.sha256[name]:
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
        raise DataError(f"{file.name} could not be unpacked: {error}") from error


def _download(source: Source, root: Path) -> None:
    """Let torchvision download into a folder of its own, then move what it brought into place."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as folder:
            source.reader(folder, download=True)
            for name, checksum in source.sha256.items():
                content = (source.raw(Path(folder)) / name).read_bytes()
                if hashlib.sha256(content).hexdigest() != checksum:
                    raise DataError(
                        f"the download brought a damaged {name}. Start again, or copy the four files to {root}"
                    )
                _write(source.raw(root) / name, content)
    except (OSError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source.title} is not in {root} and could not be downloaded: {error}") from error
