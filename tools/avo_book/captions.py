"""Captions of figures: in a notebook a paragraph that any viewer shows, in the book the figure's own.

A figure is a code cell with ``mystnb.figure`` in its metadata. Its caption is the Markdown cell right below, which
begins with ``**Figure.**``; the book writes the figure's number in place of that word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nbformat
from sphinx.application import Sphinx

MARK = "**Figure.** "


def figures(notebook: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the cell of each figure, and the cell of its caption, or None where there is none."""
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if "figure" in cell.metadata.get("mystnb", {}):
            yield cell, below if below is not None and is_caption(below) else None


def is_caption(cell: Any) -> bool:
    """Tells whether a cell is the caption of the figure above it."""
    return cell.cell_type == "markdown" and cell.source.startswith(MARK)


def move(app: Sphinx, page: str, source: list[str]) -> None:
    """Moves the captions to where MyST-NB looks for them, before it reads the notebook."""
    if app.env.doc2path(page).endswith(".ipynb"):
        notebook = nbformat.reads(source[0], as_version=4)
        for figure, caption in figures(notebook):
            if caption is not None:
                figure.metadata.mystnb.figure.caption = caption.source.removeprefix(MARK)
                caption.source = ""  # the cell stays, so that warnings count the cells as the notebook does
        source[0] = nbformat.writes(notebook)
