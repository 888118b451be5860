"""What an alternative text counts is what the picture has: panels by its stored output, the rest by the run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

BOOK = Path(__file__).resolve().parents[2] / "book"
NOTEBOOKS = sorted(path for path in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
NUMBER = {word: number for number, word in enumerate(WORDS, start=1)}
PANELS = r"(?:\w+ )?(?:panels|maps|heat maps|contour maps|contour plots)\b"
GRID = re.compile(rf"(\w+) rows of (\w+) {PANELS}")
ROW = re.compile(rf"(\w+) {PANELS}")
AXES = re.compile(r"with (\d+) Axes")
# Sets that grow with the results. "Each" and "every" need no count.
COUNTED = re.compile(
    rf"\b(?:{'|'.join(WORDS[1:])}|\d+)\s+(?:\w+ )?(?:rows of points|bars|methods|settings|runs|seeds|targets)\b",
    re.IGNORECASE,
)


def alternative(cell: Any) -> str:
    """As it is written, with the marks of its numbers if it has any."""
    options = cell.metadata.get("mystnb", {}).get("image", {})
    return cell.metadata.get("alt", options.get("alt", ""))


def panels(text: str) -> int | None:
    """How many panels an alternative text speaks of, if it does."""
    if match := GRID.search(text):
        return NUMBER[match[1].lower()] * NUMBER[match[2].lower()]
    if match := ROW.match(text):
        return NUMBER.get(match[1].lower())
    if text.startswith("Left"):
        opening = " ".join(text.split(".")[:2])
        return 3 if re.search("middle[:,]", opening, re.IGNORECASE) else 2
    return None


def axes_of(cell: Any) -> list[int]:
    """Of each picture of a cell, the axes without those of colour bars."""
    texts = [output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    return [int(count) - cell.source.count(".colorbar(") for text in texts for count in AXES.findall(text)]


def wrong(cell: Any) -> str:
    text, found = alternative(cell), axes_of(cell)
    said = panels(text)
    if said is not None and found and set(found) != {said}:
        return f"speaks of {said} panels, and the picture has {found}"
    if (typed := COUNTED.search(text)) and "<!--" not in typed[0]:
        return f"{typed[0]!r} is typed: leave the count out, or mark it"
    return ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_alternative_text_counts_what_the_picture_has(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not {cell.id: fault for cell in cells if (fault := wrong(cell))}


@pytest.mark.parametrize(
    ("text", "axes", "source", "fault"),
    [
        ("Five panels of lines.", 5, "", ""),
        ("Five panels of lines.", 6, "", "speaks of 5 panels"),
        ("Five heat maps.", 6, "figure.colorbar(image)", ""),
        ("Two rows of three square panels.", 6, "", ""),
        ("Two rows of three panels.", 5, "", "speaks of 6 panels"),
        ("Left: a curve. Right: a bar.", 2, "", ""),
        ("Left and middle: curves. Right: a bar.", 2, "", "speaks of 3 panels"),
        ("A curve that three bars cross.", 1, "", "'three bars' is typed"),
        ("Bars of 22 settings.", 1, "", "'22 settings' is typed"),
        ("Bars of 22<!-- many --> settings.", 1, "", ""),
    ],
)
def test_a_wrong_count_is_found(text: str, axes: int, source: str, fault: str) -> None:
    output = {"data": {"text/plain": f"<Figure size 1x1 with {axes} Axes>"}}
    cell = nbformat.NotebookNode(source=source, outputs=[output], metadata={"mystnb": {"image": {"alt": text}}})
    assert wrong(cell).startswith(fault) and bool(wrong(cell)) == bool(fault)
