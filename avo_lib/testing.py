"""Statistical assertions and checked claims, for tests and chapters alike."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from avo_lib.axes import check_axes
from avo_lib.estimate import Estimate


def assert_mean(x: Tensor, truth: Tensor | float, *, resolution: float, z: float = 5.0) -> None:
    """Assert that draws have the given mean: a z-test that also asserts its own power.

    At z = 5 a true statement fails once in two million comparisons. A test without power passes everything, so the
    standard error must also be below ``resolution``, the smallest error that would matter.

    Args:
        x: Independent draws ``(n, ...)``; every entry of the trailing axes is a comparison.
        truth: The claimed mean, broadcastable to the trailing axes.
        resolution: Upper limit on the standard error.
        z: Allowed distance in standard errors.

    Raises:
        AssertionError: If the mean is off, or if the test could not have told.

    >>> import torch
    >>> assert_mean(torch.randn(10_000, generator=torch.Generator().manual_seed(0)), 0.0, resolution=0.02)
    """
    mean, stderr = x.mean(0), x.std(0) / len(x) ** 0.5
    if not bool((stderr < resolution).all()):
        raise AssertionError(f"no power: standard error {stderr.max().item():.3g}, need less than {resolution:.3g}")
    distance = ((mean - truth).abs() / (stderr + 1e-12)).max().item()
    if not distance < z:
        raise AssertionError(f"mean {mean.tolist()} is {distance:.1f} standard errors from {truth}")


def assert_unbiased_weights(log_w: Tensor, log_z: float, *, resolution: float, z: float = 5.0) -> None:
    """Assert E w = Z; only for weights with a small variance, else order bounds with :func:`assert_bracket`.

    Args:
        log_w: Independent log weights ``(n,)`` in nats.
        log_z: The exact log Z in nats.
        resolution: Upper limit on the standard error of the mean of w / Z.
        z: Allowed distance in standard errors.

    Raises:
        AssertionError: As for :func:`assert_mean`.
    """
    assert_mean((log_w - log_z).exp(), 1.0, resolution=resolution, z=z)


def assert_log_density(log_f: Callable[[Tensor], Tensor], z: Tensor, *, tolerance: float = 1e-4) -> None:
    """Assert that a log density gives each point alone what it gives it in company.

    A sum or a mean over all points, as the losses of ``torch.nn.functional`` take by default, broadcasts back to them
    and passes for a log density: every weight is wrong in the same way, and its standard error is zero.

    Args:
        log_f: Log density in nats, ``(..., dim)`` to ``(...)``.
        z: At least two points that differ, ``(n, ..., dim)``, such as draws of the proposal.
        tolerance: Allowed difference, relative and in nats.

    Raises:
        AssertionError: If it does not, or is NaN.
        ValueError: If there are fewer than two points, or log f gives no number for each.

    >>> import torch
    >>> z = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> assert_log_density(lambda z: -0.5 * z.square().sum(-1), z)
    >>> assert_log_density(lambda z: z[..., 0] - 0.5 * z.square().sum(), z)
    Traceback (most recent call last):
    ...
    AssertionError: z[0] alone has log f = -0.5, among the others -7: sum over the last axis only, .sum(-1)
    """
    if z.dim() < 2 or len(z) < 2:
        raise ValueError(f"need at least two points (n, ..., dim), got {tuple(z.shape)}")
    together = check_axes("log_f", log_f(z), z)
    for i, point in enumerate(z.split(1)):
        alone, here = log_f(point)[0], together[i]
        if not bool(alone.isclose(here, rtol=tolerance, atol=tolerance).all()):
            told = "log f = {}, among the others {}".format(*(f"{one.flatten()[0].item():g}" for one in (alone, here)))
            raise AssertionError(f"z[{i}] alone has {told}: sum over the last axis only, .sum(-1)")


def assert_bracket(lower: Estimate, truth: float, upper: Estimate, *, width: float, z: float = 5.0) -> None:
    """Assert lower ≤ truth ≤ upper in units of standard error, in a bracket no wider than ``width``.

    Raises:
        AssertionError: If a bound lies on the wrong side, or if the bracket says too little.
    """
    if lower.kind != "lower" or upper.kind != "upper":
        raise AssertionError(f"need a lower and an upper bound, got {lower.kind} and {upper.kind}")
    if not upper.value - lower.value + z * (lower.stderr + upper.stderr) <= width:  # not: NaN must fail
        raise AssertionError(f"no power: the bracket [{lower}, {upper}] is wider than {width}")
    if not (lower.value - truth <= z * lower.stderr + 1e-12 and truth - upper.value <= z * upper.stderr + 1e-12):
        raise AssertionError(f"{truth} is not between {lower} and {upper}")


def claim(sentence: str, holds: bool | Tensor) -> None:
    """Print a sentence with a tick, or fail: every empirical statement of a chapter has one.

    Args:
        sentence: What is claimed.
        holds: Whether the sentence is true in this run.

    Raises:
        AssertionError: If it is not true.

    >>> claim("two and two make four", 2 + 2 == 4)
    ✓ two and two make four
    """
    if not bool(holds):
        raise AssertionError(f"does not hold: {sentence}")
    print(f"✓ {sentence}")


def restate(sentence: str, holds: bool | Tensor) -> None:
    """Print a sentence that is read off stored results or typed numbers, with ≡ for a tick, or fail.

    No run of the chapter could have made it false: it says that the text matches the data, and no more.

    Args:
        sentence: What is stated.
        holds: Whether the data say so.

    Raises:
        AssertionError: If the data do not say so.

    >>> restate("a dozen is twelve", 12 == 12)
    ≡ a dozen is twelve
    """
    if not bool(holds):
        raise AssertionError(f"the data do not say so: {sentence}")
    print(f"≡ {sentence}")
