"""Runs notebooks under several settings of the arithmetic and lists what depends on them: `notebooks.py arithmetic`.

A reader's processor sums in another order than ours. So a stored output must not depend on a tie or on the last digits
of a sum. Two things are reported for each setting and cell: an output that is not the stored one; and a printed number
whose unrounded values differ by more than a tenth of its last digit, or lie so that some other processor may round them
the other way, even where a tag tells the tests not to compare. The notebooks are run in memory; no file changes.
"""

from __future__ import annotations

import ast
import difflib
import os
import string
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbclient import NotebookClient

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
TORCH, MKL = {"ATEN_CPU_CAPABILITY": "default"}, {"MKL_CBWR": "COMPATIBLE"}
ONEDNN = {"ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41"}
NUMPY = {"NPY_DISABLE_CPU_FEATURES": "X86_V3", "OPENBLAS_CORETYPE": "Prescott"}
SETTINGS: dict[str, dict[str, str]] = {
    "native": ONE_THREAD,
    "torch": ONE_THREAD | TORCH,
    "mkl": ONE_THREAD | MKL,
    "onednn": ONE_THREAD | ONEDNN,
    "threads": dict.fromkeys(ONE_THREAD, "2"),
    "lowest": ONE_THREAD | TORCH | MKL | ONEDNN | NUMPY,
}
NUMBERS = "application/x-unrounded+json"
UNCOMPARED = {"image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json", NUMBERS}  # as nbval does


class Number(NamedTuple):
    """A printed number: as it is printed, its unrounded value, the unit of its last digit, and the code that rounds."""

    text: str
    value: float
    unit: float
    source: str


class Cell(NamedTuple):
    """What a code cell gave: the outputs that tests compare, one text for each, and the numbers that it rounded."""

    outputs: list[str]
    numbers: list[Number]


# --- in the kernel


class Recorder(ast.NodeTransformer):
    """Has every f-string, ``round`` and ``format`` in a cell pass its unrounded numbers on to us."""

    NAME = "__recorder__"

    def __init__(self) -> None:
        self.numbers: list[Number] = []

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        """Formats through `formatted`."""
        source = ast.unparse(node.value)
        self.generic_visit(node)
        if node.conversion == -1:
            spec = node.format_spec or ast.Constant("")
            node = ast.FormattedValue(self._call("formatted", source, node.value, spec), -1, None)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Rounds through `rounded`, whether it is ``round(x, 2)``, ``table.round(2)`` or ``torch.round(x)``."""
        source = ast.unparse(node)
        self.generic_visit(node)
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        if name == "round":
            call = self._call("rounded", source, node.func, *node.args)
            call.keywords = node.keywords
            return call
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Turns ``"{:.2f}".format``, called or handed on, into our `formatter`."""
        self.generic_visit(node)
        if node.attr == "format" and isinstance(node.value, ast.Constant):
            return self._call("formatter", ast.unparse(node), node.value)
        return node

    def _call(self, method: str, source: str, *arguments: ast.expr) -> ast.Call:
        function = ast.Attribute(ast.Name(self.NAME, ast.Load()), method, ast.Load())
        return ast.Call(function, [ast.Constant(source), *arguments], [])

    def formatted(self, source: str, value: Any, spec: str) -> str:
        """``format(value, spec)``."""
        text = format(value, spec)
        self.numbers += [Number(text, number, unit(text), source) for number in floats(value)]
        return text

    def rounded(self, source: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """``function(*arguments, **options)``, a rounding function or the method of what is rounded."""
        owned = floats(getattr(function, "__self__", None))
        value = function.__self__ if owned else arguments[0]  # type: ignore[attr-defined]
        digits = [*options.values(), *(arguments if owned else arguments[1:]), 0][0]
        columns = digits.items() if isinstance(digits, dict) else [(slice(None), digits or 0)]
        for column, places in columns:
            part = value[column] if isinstance(digits, dict) else value
            for number in floats(part):
                self.numbers.append(Number(f"{number:.{max(places, 0)}f}", number, 10.0**-places, source))
        return function(*arguments, **options)

    def formatter(self, source: str, pattern: str) -> Callable[..., str]:
        """``pattern.format``."""
        outer = self

        class Formatter(string.Formatter):
            def format_field(self, value: Any, format_spec: str) -> str:
                return outer.formatted(source, value, format_spec)

        return lambda *arguments, **options: Formatter().vformat(pattern, arguments, options)

    def publish(self, result: Any) -> None:
        """Sends what the cell rounded along with its outputs; a table that was not rounded shows six digits."""
        from IPython.display import publish_display_data

        if not self.numbers and hasattr(result.result, "to_html"):
            self.numbers += [Number(f"{number:.6f}", number, 1e-6, "shown") for number in floats(result.result)]
        if self.numbers:
            publish_display_data({NUMBERS: self.numbers})
        self.numbers = []


def watch(shell: Any) -> None:
    """Begins to record in the kernel of ``shell``, and draws no pictures: they are not compared."""
    from matplotlib_inline.config import InlineBackend

    InlineBackend.instance(parent=shell).figure_formats = set()
    shell.user_ns[Recorder.NAME] = recorder = Recorder()
    shell.ast_transformers.append(recorder)
    shell.events.register("post_run_cell", recorder.publish)


def floats(value: Any) -> list[float]:
    """Returns the finite floating-point numbers in a number, tensor, array or table."""
    import numpy as np

    if hasattr(value, "select_dtypes"):
        value = value.select_dtypes("float")
    if hasattr(value, "detach"):
        value = value.detach()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return []
    return array[np.isfinite(array)].tolist() if array.dtype.kind == "f" else []


def unit(text: str) -> float:
    """Returns the unit of the last digit of a number as it is printed."""
    try:
        exponent = Decimal(text.strip().replace(",", "").replace("_", "").rstrip("%")).as_tuple().exponent
    except InvalidOperation:
        return 0.0
    return 10.0 ** (int(exponent) - 2 * text.endswith("%")) if isinstance(exponent, int) else 0.0


# --- outside


def execute(path: Path, environment: Mapping[str, str], *, timeout: float) -> list[Cell]:
    """Runs the notebook in memory under these variables and returns what each code cell gave, errors included."""
    notebook = nbformat.read(path, as_version=4)
    start = f"import runpy; runpy.run_path({__file__!r})['watch'](get_ipython())"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        allow_errors=True,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute(env={**os.environ, **environment})
    return [Cell(compared(cell), recorded(cell)) for cell in code_cells(notebook)[1:]]


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def compared(cell: nbformat.NotebookNode) -> list[str]:
    """Returns the outputs that are compared with the stored ones."""
    texts = []
    for output in cell.outputs:
        texts += [output[key] for key in ("text", "ename", "evalue") if key in output]
        texts += [str(value) for key, value in sorted(output.get("data", {}).items()) if key not in UNCOMPARED]
    return texts


def recorded(cell: nbformat.NotebookNode) -> list[Number]:
    lists = [output["data"][NUMBERS] for output in cell.outputs if NUMBERS in output.get("data", {})]
    return [Number(*number) for numbers in lists for number in numbers]


def differing(stored: list[str], outputs: list[str]) -> list[str]:
    """Returns the lines that differ, with - those of the stored output."""
    old, new = ("\n".join(texts).splitlines() for texts in (stored, outputs))
    return [line for line in difflib.ndiff(old, new) if line[0] in "-+"]


def unsteady(runs: Mapping[str, list[Number]]) -> Iterator[str]:
    """Yields a line for each printed number that another processor may print differently."""
    if len({len(numbers) for numbers in runs.values()}) > 1:
        yield "another count of numbers: " + ", ".join(f"{len(numbers)} {name}" for name, numbers in runs.items())
        return
    for numbers in zip(*runs.values(), strict=True):
        step, values = numbers[0].unit, [number.value for number in numbers]
        spread = max(values) - min(values)
        if not step or not spread > 0:
            continue
        to_boundary = min(abs(value / step % 1 - 0.5) * step for value in values)
        if spread > step / 10 or spread > to_boundary / 3:
            seen = ", ".join(f"{value:.10g} {name}" for name, value in zip(runs, values, strict=True))
            yield f"{numbers[0].text.strip()} from {numbers[0].source}: {seen}"


def report(path: Path, *, timeout: float) -> bool:
    """Prints what hangs on the arithmetic in one notebook and says whether anything does."""
    cells = code_cells(nbformat.read(path, as_version=4))
    runs: dict[str, list[Cell]] = {}
    lines = []
    for name, environment in SETTINGS.items():
        start = time.monotonic()
        runs[name] = execute(path, environment, timeout=timeout)
        print(f"{path}: {name}, {time.monotonic() - start:.0f} s", flush=True)
        for number, (cell, ran) in enumerate(zip(cells, runs[name], strict=True)):
            lines += [f"  Cell {number} {name}: {line}" for line in differing(compared(cell), ran.outputs)]
    for number in range(len(cells)):
        found = unsteady({name: run[number].numbers for name, run in runs.items()})
        lines += [f"  Cell {number}: {line}" for line in found]
    print(*lines, sep="\n", flush=True)
    return bool(lines)
