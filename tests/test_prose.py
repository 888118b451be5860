"""Numbers in prose and alternative texts are those of the run."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import prose


def notebook(text: str = "", *, gap: Any = 0.1234, **metadata: Any) -> nbformat.NotebookNode:
    glued = new_output(
        "display_data",
        data={"application/papermill.record/text/plain": repr(gap)},
        metadata={"scrapbook": {"name": "gap", "mime_prefix": "application/papermill.record/"}},
    )
    return new_notebook(cells=[new_markdown_cell(text), new_code_cell(outputs=[glued], metadata=metadata)])


def text_of(book: nbformat.NotebookNode) -> str:
    prose.refresh(book)
    return book.cells[0].source


@pytest.mark.parametrize(
    ("gap", "spec", "expected"),
    [
        (0.1234, ":.2f", "0.12"),
        (-0.1234, ":.2f", "−0.12"),
        ("0.10", "", "0.10"),
        (12345, ":,.0f", "12,345"),
        (7, "", "7"),
    ],
)
def test_a_number_becomes_that_of_the_run(gap: Any, spec: str, expected: str) -> None:
    old = f"It costs (0.99<!-- gap{spec} -->) nats."
    assert text_of(notebook(old, gap=gap)) == f"It costs ({expected}<!-- gap{spec} -->) nats."


def test_refreshing_twice_changes_nothing_more() -> None:
    book = notebook("−3.1e−5<!-- gap:.2f --> and 1,000<!-- gap -->")
    once = text_of(book)
    assert once == "0.12<!-- gap:.2f --> and 0.1234<!-- gap -->"
    assert text_of(book) == once


def test_alternative_texts_too() -> None:
    book = notebook(mystnb={"figure": {"name": "fig-gap"}}, alt="A bar of 2<!-- gap:.3f --> nats")
    prose.refresh(book)
    assert book.cells[1].metadata["mystnb"] == {
        "figure": {"name": "fig-gap"},
        "image": {"alt": "A bar of 0.123 nats"},
    }


@pytest.mark.parametrize(
    ("text", "gap", "complaint"),
    [
        ("0.1<!-- gaps -->", 0.1, "no cell glues"),
        ("many<!-- gap -->", 0.1, "follows no number"),
        ("0.1<!--\ngap -->", 0.1, "follows no number"),
        ("0.1<!-- gap -->", "AVO", "no number"),
        ("0.1<!-- gap:.1f -->", "AVO", "no number"),
        ("0.1<!-- gap:.1q -->", 0.1, "no number"),
        ("0.1<!-- gap:.1f -->", "nan", "no number"),
        ("0.1<!-- gap:.1f -->", float("nan"), "glued as nan, which is no plain value"),
    ],
)
def test_what_cannot_be_refreshed_is_refused(text: str, gap: Any, complaint: str) -> None:
    book = notebook(text, gap=gap)
    with pytest.raises(prose.NumberError, match=complaint):
        prose.refresh(book)


def test_a_name_that_is_glued_twice_is_refused() -> None:
    """The text could show only one of the two, and the book's build stops at it much later."""
    book = notebook("0.1<!-- gap -->")
    book.cells.append(book.cells[1])
    with pytest.raises(prose.NumberError, match="'gap' is glued twice"):
        prose.refresh(book)
