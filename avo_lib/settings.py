"""Settings told by value: as strings that a checkpoint compares, and as plain values that a result keeps."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import signature
from reprlib import recursive_repr
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from avo_lib.data import digest

MANY = 1000  # in a setting, a tensor with more numbers than this is told by its digest


def settled(value: Any) -> str:
    """A value's ``repr`` without the addresses in it, which differ in every process.

    >>> settled(math.sqrt), settled(object())
    ('<built-in function sqrt>', '<object object>')
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def plainly(value: Any) -> Any:
    """What ``torch.compile`` was given: what it returns closes over its own machinery."""
    return getattr(value, "_orig_mod", getattr(value, "_torchdynamo_orig_callable", value))


def settings(value: Any) -> dict[str, Any]:
    """What something was made with: its fields or attributes, arguments bound to it, or what a function closes over.

    >>> settings(partial(round, ndigits=2))
    {'function': <built-in function round>, 'arguments': (), 'keywords': {'ndigits': 2}}
    """
    if is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in fields(value) if item.init}
    if isinstance(value, partial):
        return {"function": value.func, "arguments": value.args, "keywords": value.keywords}
    if isinstance(value, MethodType):
        return {"self": value.__self__}
    if not isinstance(value, FunctionType):
        return _made_with(value)
    closed = {"closure": [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]}
    given = {"arguments": value.__defaults__, "keywords": value.__kwdefaults__}
    return vars(value) | {name: one for name, one in (given | closed).items() if one}


def _made_with(value: Any) -> dict[str, Any]:
    """Its constructor's arguments, not what it has counted or kept since; all that it holds, if one cannot be found."""
    slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    names = [name for one in slots for name in ([one] if isinstance(one, str) else one)]
    held = {name: getattr(value, name) for name in names if name[:2] != "__" and hasattr(value, name)} | getattr(
        value, "__dict__", {}
    )
    try:
        given = signature(type(value)).parameters
    except ValueError:  # types written in C do not tell their arguments
        return held
    under = {name: name if name in held else f"_{name}" for name in given}  # a private name is as good
    told = {name: held[kept] for name, kept in under.items() if kept in held}
    return told if len(told) == len(given) or isinstance(value, nn.Module) else held


def settings_of_parts(model: nn.Module, besides: Sequence[Any] = ()) -> dict[str, str]:
    """What each part of a model was made with, by value, such as the constant of a likelihood.

    Args:
        model: The model. Torch's own layers are left out: their ``repr`` tells what makes them.
        besides: Settings that are told elsewhere.

    Returns:
        For each setting's name, which begins with ``model``, its value.

    >>> class Noise(nn.Module):
    ...     def __init__(self, std):
    ...         super().__init__()
    ...         self.std = std
    >>> settings_of_parts(nn.Sequential(Noise(0.5), nn.ReLU()))
    {'model.0.std': '0.5'}
    """
    told: dict[str, str] = {}
    for name, part in model.named_modules():
        if not type(part).__module__.startswith("torch."):
            kept = {one: value for one, value in settings(part).items() if not any(value is other for other in besides)}
            told |= {".".join(filter(None, ("model", name, one))): by_value(value) for one, value in kept.items()}
    return told


def numbers(array: Any) -> Any:
    """Numbers of torch or numpy as Python's; a parameter that learns as its shape alone, a large tensor as a digest.

    >>> import torch
    >>> numbers(torch.ones(2)), numbers(nn.Parameter(torch.ones(2)))
    ([1.0, 1.0], 'parameter (2,)')
    """
    if isinstance(array, nn.Parameter) and array.requires_grad:
        return f"parameter {tuple(array.shape)}"
    array = array if isinstance(array, Tensor) else np.asarray(array)
    if math.prod(array.shape) <= MANY:
        return array.tolist()
    return digest(array) if isinstance(array, Tensor) else hashlib.sha256(array.tobytes()).hexdigest()[:16]


@recursive_repr("...")
def by_value(setting: Any) -> str:
    """A string that tells a setting from another by value, whatever types they are written in.

    A callable object is represented by what it was made with (:func:`settings`), not by what its code does.

    >>> by_value((0.0, 1e-3)) == by_value([0, 1e-3])
    True
    """
    if isinstance(setting, type):
        return repr(setting)
    if hasattr(setting, "to_numpy"):  # a table, whose repr leaves rows out
        setting = setting.to_numpy()
    if hasattr(setting, "tolist"):  # numpy's numbers and arrays, and tensors
        setting = numbers(setting)
    if isinstance(setting, dict | set | frozenset):
        setting = sorted(setting.items() if isinstance(setting, dict) else setting, key=repr)
    if isinstance(setting, list | tuple):
        return f"[{', '.join(map(by_value, setting))}]"
    if is_dataclass(setting) or isinstance(setting, partial):
        return _called(type(setting).__name__, settings(setting))
    setting = plainly(setting)
    told = settled(int(setting) if isinstance(setting, float) and setting.is_integer() else setting)
    shown: Any = type(setting).__repr__
    silent = shown in (object.__repr__, nn.Module.__repr__, FunctionType.__repr__, MethodType.__repr__)
    return _called(told, hidden) if silent and (hidden := settings(setting)) else told


def _called(name: str, options: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{option}={by_value(value)}' for option, value in options.items())})"


def storable(value: Any) -> Any:
    """A setting in a form that JSON can hold."""
    if hasattr(value, "tolist"):
        return numbers(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {"name": type(value).__name__, **storable(settings(value))}
    if isinstance(value, dict):
        return {str(name): storable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(storable, value))
    return value if value is None or isinstance(value, str | int | float) else by_value(value)
