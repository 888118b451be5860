"""Records: what an experiment has found, in files that are written whole and read strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor, nn

from avo_lib.files import ensure_writable, write_atomically


def plain(value: Any) -> Any:
    """The value as it will be read again: lists for tuples, and Python's numbers for numpy's.

    Raises:
        ValueError: If a number is not finite.
        TypeError: If something is not a plain value.
    """
    try:
        return json.loads(json.dumps(value, default=_listed, allow_nan=False))
    except ValueError as error:
        raise ValueError(f"a number is not finite in {value!r:.500}. Give None or a text in its place") from error


def _listed(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"a result holds plain values, and {value!r:.60} is none")
    return value.tolist()


def publish(
    file: Path, result: Mapping[str, Any], weights: Mapping[str, Tensor], buffers: Container[str] = ()
) -> dict[str, Any]:
    """Write a result and, beside it, the weights that it belongs to, if there are any.

    Args:
        file: Where to write the result.
        result: Plain values.
        weights: The weights by name.
        buffers: Names of weights that may be infinite, such as the mask of an attention.

    Returns:
        The result as it will be read.

    Raises:
        FloatingPointError: If a number or a weight is not finite: nothing is written then.
        OSError: If they cannot be written.
    """
    if spoilt := _spoilt(weights, buffers):
        raise FloatingPointError(f"{file} is not written: not all weights are finite in {', '.join(spoilt)}")
    try:
        content = json.dumps(result, indent=1, default=_listed, allow_nan=False)
    except ValueError as error:
        raise FloatingPointError(f"{file} is not written: a number in it is not finite") from error
    if weights:
        # Copies, because weights that share memory, as tied ones do, would be refused when they are written.
        on_cpu = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in weights.items()}
        write_atomically(file.with_suffix(".safetensors"), save(on_cpu))
    write_atomically(file, f"{content}\n".encode())
    return plain(result)  # type: ignore[no-any-return]


def _spoilt(weights: Mapping[str, Tensor], buffers: Container[str]) -> list[str]:
    bad = {name: value.isnan() if name in buffers else ~value.isfinite() for name, value in weights.items()}
    return [name for name, where in bad.items() if bool(where.any())]


def load_weights(model: nn.Module, file: Path, command: str) -> None:
    """Give a model its published weights.

    Raises:
        FileNotFoundError: If they are not there; the message says which command makes them.
        ValueError: If they are damaged or of another architecture.
        OSError: If they cannot be read.
    """
    result = file.with_suffix(".json")  # while it is there, nothing is made
    if not file.is_file():
        where = f", in another folder by --results, or in this one once {result.name} is deleted: it is not made again"
        kept = where if result.is_file() else ""
        raise FileNotFoundError(f"{file} does not exist; make it with: python -m avo_lib {command}{kept}")
    try:
        weights = load_file(file)
        if _spoilt(weights, {name for name, _ in model.named_buffers()}):
            raise ValueError("not all weights are finite")
        model.load_state_dict(weights)
    except (OSError, MemoryError):  # which say nothing about the content
        raise
    except Exception as error:  # the reader's own type of error, or torch's about what does not fit
        raise ValueError(
            f"{file} is damaged or of another configuration. Delete it and {result.name}, and run that again"
        ) from error


def read(file: Path, check: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What was published in a file.

    Raises:
        ValueError: If a number is not finite, or ``check`` raises; the message names the file.
        OSError: If it cannot be read.
    """
    try:
        result = json.loads(file.read_bytes(), parse_int=_finite, parse_float=_finite, parse_constant=_finite)
        check(result)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is not a result: {error!r}. Delete it and run that experiment again") from error
    return result  # type: ignore[no-any-return]


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits:.20} is not finite")
    return int(digits) if digits.lstrip("-").isdigit() else value


def expect(result: dict[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise a KeyError or TypeError if something is missing or of another kind.

    Args:
        result: The result as read.
        kinds: The type that each dotted name leads to, with ``*`` for every row of a list; a ``float`` may be whole.
    """
    for name, kind in kinds.items():
        found: list[Any] = [result]
        for key in name.split("."):
            found = [row for part in found for row in (part if key == "*" else [part[key]])]
        if wrong := [part for part in found if type(part) not in ((float, int) if kind is float else (kind,))]:
            raise TypeError(f"{name} is {wrong[0]!r:.60}")
        if not found:
            raise KeyError(name)


def once(
    file: Path,
    config: Mapping[str, Any],
    make: Callable[[], tuple[dict[str, Any], Mapping[str, Tensor]]],
    kinds: Mapping[str, type],
) -> dict[str, Any]:
    """Read the result if it is finished; else make it and publish it.

    Args:
        file: File of the result.
        config: Settings of the result.
        make: Function that gives the rest of the result, and its weights.
        kinds: What must be in the result; see :func:`expect`.

    Raises:
        ValueError: If the file is damaged or of other settings, or a setting is not finite.
        OSError: If no file can be written there, which is checked first.
    """
    settings = plain(config)
    if file.is_file():
        result = read(file, lambda result: expect(result, {"config": dict, **kinds}))
        if result["config"] != settings:
            raise ValueError(f"{file} belongs to another configuration. Use another folder, or delete it")
        return result
    ensure_writable(file.parent)
    result, weights = make()
    return publish(file, {"config": settings, **result}, weights)
