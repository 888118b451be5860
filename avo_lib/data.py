"""Data of any kind: three sets of tensors, and the draw that makes grey pixels binary."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from avo_lib.checks import check_count
from avo_lib.numerics import traced


@dataclass(frozen=True, eq=False)
class Dataset:
    """The data that a model is trained on, chosen by and judged by.

    Attributes:
        train: Training data ``(images, ...)``, floating-point numbers; grey pixels in [0, 1] if ``dynamic``.
        valid: Validation data like ``train``, never binarised: already binary if the likelihood is of binary pixels.
        test: Test data like ``valid``, for the last word, or None.
        dynamic: Whether training data are probabilities, from which every visit draws binary pixels anew.

    Raises:
        TypeError: If a set is no tensor.
        ValueError: If shapes or types differ, a number is not finite, or a probability is not in [0, 1].

    >>> data = Dataset(train=torch.rand(50, 64), valid=torch.rand(10, 64).round(), dynamic=True)
    >>> len(data.first(5).train)
    5
    """

    train: Tensor
    valid: Tensor
    test: Tensor | None = None
    dynamic: bool = False

    def __post_init__(self) -> None:
        """Refuse data that no model can be trained on, before an hour has passed."""
        for name, part in self._parts().items():
            if not isinstance(part, Tensor):
                raise TypeError(f"{name} must be a tensor, not {type(part).__name__}: use torch.as_tensor({name})")
            if not part.is_floating_point() or part.dim() < 2:
                raise ValueError(
                    f"{name} must be floating-point numbers (images, ...), not {part.dtype} {tuple(part.shape)}"
                )
            if part.shape[1:] != self.train.shape[1:] or part.dtype != self.train.dtype:
                raise ValueError(
                    f"{name} is {part.dtype} {tuple(part.shape)}, but train is {self.train.dtype} "
                    f"{tuple(self.train.shape)}"
                )
            if not bool(part.isfinite().all()):
                raise ValueError(f"{name} holds numbers that are not finite")
        if self.dynamic and len(self.train) and not 0 <= self.train.min() <= self.train.max() <= 1:
            raise ValueError("train holds the probabilities of binary pixels if dynamic: all must lie in [0, 1]")

    def _parts(self) -> dict[str, Tensor]:
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def held_out(self) -> Tensor:
        """The test data.

        Raises:
            ValueError: If there are none.
        """
        if self.test is None:
            raise ValueError("these data have no test set")
        return self.test

    def first(self, n: int) -> Dataset:
        """The first n of each set, or all of a validation or test set that has fewer.

        Raises:
            ValueError: If n is not a whole number of at least 1, or there are fewer training images.
        """
        if check_count("n", n) > len(self.train):
            raise ValueError(f"there are {len(self.train)} training images: take no more of them, not {n}")
        return Dataset(**{name: part[:n] for name, part in self._parts().items()}, dynamic=self.dynamic)


def binarise(grey: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw each pixel as a Bernoulli outcome with its grey value as probability.

    Raises:
        ValueError: If a value is not in [0, 1], or the values are not floating-point numbers.

    >>> binarise(torch.tensor([0.0, 1.0])).tolist()
    [0.0, 1.0]
    """
    if not grey.is_floating_point():
        raise ValueError(f"grey values must be floating-point numbers, not {grey.dtype}: use x.float(), bytes by 255")
    if not traced() and not bool(((grey >= 0) & (grey <= 1)).all()):
        raise ValueError("grey values are probabilities: all must lie in [0, 1]. Divide bytes by 255")
    # Comparing uniforms is several times faster than torch.bernoulli.
    exact = torch.promote_types(grey.dtype, torch.float32)  # uniforms of half precision are coarse
    uniform = torch.rand(grey.shape, dtype=exact, device=grey.device, generator=generator)
    return (uniform < grey).to(grey.dtype)


def digest(*tensors: Tensor) -> str:
    """A hash that tells data from other data of the same size.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(2)) != digest(torch.ones(2))
    True
    """
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return found.hexdigest()[:16]
