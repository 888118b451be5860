"""Outputs that hang on the arithmetic are found, and honest ones are not."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tools import arithmetic as tool
from tools import notebooks

# As if another instruction set moved a sum's last digits: SHIFT is what a setting adds.
SETUP = """
import os
import numpy as np
import pandas as pd
shift = float(os.environ["SHIFT"])
"""
HONEST = """
print(f"{1.2345 + shift:.2f}", round(0.7312 + shift, 2), "{:.1e}".format(1234.5 + shift), f"{17:d} {'word':>6}")
pd.DataFrame({"a": [1.231 + shift], "b": [2]}).round(2)
"""


SOURCES = (
    SETUP,
    HONEST,
    "print(f'{0.165 - 2e-6 + shift:.2f}')",  # prints something else there
    "print(round(0.3 + 100 * shift, 3))",  # moves by 0.4 of the last digit, and prints the same
    "np.array([0.16499 + shift]).round(2)",  # moves a little, near to where the rounding turns
    "pd.DataFrame({'a': [1.0, 0.3 + 100 * shift]}).round({'a': 3}).iloc[:1]",  # rounded, if not printed
    "'{:.3f}'.format(0.3 + 100 * shift)",
    "pd.DataFrame({'a': [0.3 + shift]})",  # shown with six digits
    "assert shift == 0",
)


def test_what_hangs_on_the_arithmetic_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = {"SHIFT": "0"}, {"SHIFT": "4e-6"}
    path = tmp_path / "chapter.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in SOURCES])
    nbformat.write(notebook, path)
    for cell, ran in zip(notebook.cells, tool.execute(path, here, timeout=60)):
        cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": text}) for text in ran.outputs]
    nbformat.write(notebook, path)
    before = path.read_bytes()

    monkeypatch.setattr(tool, "SETTINGS", {"here": here})
    assert notebooks.main(["arithmetic", str(path)]) == 0
    assert "Cell" not in capsys.readouterr().out

    monkeypatch.setattr(tool, "SETTINGS", {"here": here, "there": there})
    assert notebooks.main(["arithmetic", str(path)]) == 1
    assert path.read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    printed = ("  Cell 2 there: - 0.16", "  Cell 2 there: + 0.17", "  Cell 8 there: + AssertionError")
    unrounded = ("0.16", "0.300", "0.16", "0.300", "0.300", "0.300000")
    expected = [*printed, *(f"  Cell {cell}: {text} from " for cell, text in enumerate(unrounded, start=2))]
    found = [line for line in lines if line.startswith("  Cell")]
    assert all(any(line.startswith(start) for line in found) for start in expected), found
    assert not [line for line in found if line.startswith(("  Cell 0", "  Cell 1"))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.16", 0.01), (" -12", 1), ("1.2e-05", 1e-6), ("1,234.5", 0.1), ("12.5%", 0.001), ("nan", 0), ("word", 0)],
)
def test_unit_of_the_last_digit(text: str, expected: float) -> None:
    assert tool.unit(text) == pytest.approx(expected)
