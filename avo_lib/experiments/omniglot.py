"""OMNIGLOT (Lake et al. 2015) at 28 × 28 pixels, in a split like that of the papers.

Burda et al. (2016, arXiv 1509.00519) made the file on which bounds are usually reported: 24,345 images to train and
8,070 to test. Torchvision does not offer it, so the drawings themselves are shrunk and split here: bounds are
of the same kind and size as published ones, but not of the very same images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.datasets import Omniglot
from torchvision.transforms.functional import pil_to_tensor

from avo_lib.data import Dataset, binarise
from avo_lib.experiments.mnist import BINARISATION_SEED, BINARISATIONS, DataError, cache_folder

DRAWINGS = 32_460
SHUFFLE_SEED = 2015
TRAIN_IMAGES, VALIDATION_IMAGES = 23_000, 1345  # of the papers' 24,345; all others are for testing


def load_omniglot(binarisation: str = "dynamic", root: Path | str | None = None) -> Dataset:
    """OMNIGLOT, whose ink is 1: 23,000 training images, 1,345 to validate, the other 8,115 to test.

    Args:
        binarisation: As for :func:`avo_lib.experiments.mnist.load_mnist`.
        root: Folder of torchvision's ``omniglot-py``, by default in your cache; downloaded if it is missing.

    Returns:
        Three sets of float32 ``(images, 784)``.

    Raises:
        ValueError: If there is no such binarisation.
        DataError: If the drawings are missing or damaged, and cannot be obtained.
    """
    if binarisation not in BINARISATIONS:
        raise ValueError(f"binarisation must be one of {', '.join(BINARISATIONS)}, not {binarisation!r}")
    grey = _read(cache_folder("omniglot") if root is None else Path(root))
    grey = grey[torch.randperm(len(grey), generator=torch.Generator().manual_seed(SHUFFLE_SEED))]
    binary = binarise(grey, generator=torch.Generator().manual_seed(BINARISATION_SEED))
    dynamic = binarisation == "dynamic"
    train = (grey if dynamic else binary)[:TRAIN_IMAGES]
    rest = binary[TRAIN_IMAGES:]
    return Dataset(train, rest[:VALIDATION_IMAGES], rest[VALIDATION_IMAGES:], dynamic)


def _read(root: Path) -> Tensor:
    """The share of ink in each of 28 × 28 squares of every drawing ``(images, 784)``."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        parts = [Omniglot(root, background=background, transform=pil_to_tensor) for background in (True, False)]
    except RuntimeError:
        parts = _download(root)
    except OSError as error:
        raise DataError(f"OMNIGLOT has no place: {error}") from error
    if (found := sum(map(len, parts))) != DRAWINGS:
        raise DataError(f"{root} has {found:,} drawings of OMNIGLOT's {DRAWINGS:,}. Delete it and start again")
    try:
        ink = [adaptive_avg_pool2d(1 - image.float() / 255, 28) for part in parts for image, _ in part]
    except (OSError, SyntaxError) as error:  # the latter is Pillow's for a damaged PNG
        raise DataError(
            f"a drawing of OMNIGLOT cannot be read ({error}). If it is damaged, delete {root} and start again"
        ) from error
    return torch.cat(ink).flatten(1)


def _download(root: Path) -> list[Omniglot]:
    try:
        return [Omniglot(root, background, transform=pil_to_tensor, download=True) for background in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(f"OMNIGLOT is not in {root} and could not be downloaded: {error}") from error
