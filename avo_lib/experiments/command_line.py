"""The command line, ``python -m avo_lib``.

``run|sweep|evaluate|referee|gaps|energies|ring|modes|dynamics|benchmark|show|list``
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from io import TextIOWrapper
from typing import Any

import torch
import tyro

import avo_lib
from avo_lib.experiments import commands, toy_commands
from avo_lib.experiments.mnist import DataError


def main() -> None:
    """Parse the command line; an error that the user can mend ends in one line, not in a traceback."""
    table: dict[str, Callable[..., Any]] = {
        "run": commands.run,
        "sweep": commands.sweep,
        "evaluate": commands.evaluate,
        "referee": commands.referee,
        "gaps": commands.gaps,
        "energies": toy_commands.energies,
        "ring": toy_commands.ring,
        "modes": toy_commands.modes,
        "dynamics": toy_commands.dynamics,
        "benchmark": toy_commands.benchmark,
        "show": commands.show,
        "list": commands.list_experiments,
    }
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # better a question mark than a traceback where a letter is missing
    if sys.argv[1:] == ["--version"]:
        print(f"avo_lib {avo_lib.__version__}, torch {torch.__version__}")
        return
    try:
        try:
            _check(sys.argv[1:])
            tyro.extras.subcommand_cli_from_dict(table, prog="python -m avo_lib")
        finally:
            _flush()
    except BrokenPipeError:  # whoever reads the pipe has seen enough
        sys.exit(141)
    except (ValueError, OSError, DataError, FloatingPointError, ImportError, BrokenExecutor) as error:
        sys.exit(f"error: {_one_line(error)}")
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        absurd = isinstance(error, MemoryError | OverflowError)
        if not absurd and not re.search("allocate memory|out of memory|overflow", str(error), re.IGNORECASE):
            raise
        sys.exit("error: not enough memory: ask for fewer samples, images, chains, seeds or jobs")


def _check(arguments: list[str]) -> None:
    """Refuse what the parser lets pass: of a repeated option it takes the last, of a list without values nothing."""
    names = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    for name, argument, after in zip(names, arguments, [*arguments[1:], "--"], strict=True):
        if name.startswith("--") and name != "--help":
            if names.count(name) > 1:
                raise ValueError(f"{name} comes twice. Give all its values at once, as in: --seeds 0 1 2")
            if "=" not in argument and after.startswith("--"):
                raise ValueError(f"{name} needs a value")


def _flush() -> None:
    """Print what is left; what cannot be printed is dropped, or the interpreter would try again as it ends."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _one_line(error: Exception) -> str:
    """The first line of the error, which says it all, without characters that a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in str(error).partition("\n")[0])
