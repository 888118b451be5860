"""The whole book on paper: every chapter, every figure, and nothing beyond the margins."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from bs4 import BeautifulSoup
from pypdf import PdfReader

from tools.pdf import headings

ROOT = Path(__file__).resolve().parents[2]
A4 = (595, 842)  # points
MARGIN = 51  # points, 18 mm
TOOL = [sys.executable, "tools/pdf.py"]


@pytest.fixture(scope="module")
def printed(browser: Any, built_book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book's PDF; without a browser the fixture of that name says so."""
    path = tmp_path_factory.mktemp("pdf") / "book.pdf"
    subprocess.run([*TOOL, str(built_book), str(path)], cwd=ROOT, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def documents(built_book: Path) -> list[BeautifulSoup]:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])]
    return [BeautifulSoup((built_book / f"{name}.html").read_text(encoding="utf-8"), "html.parser") for name in names]


def plain(text: str) -> str:
    """Words with single spaces, and without the ligatures that a print has."""
    return " ".join(unicodedata.normalize("NFKC", text.removesuffix("#")).split())


def test_outline_and_contents_name_every_chapter(printed: Path, documents: list[BeautifulSoup]) -> None:
    chapters = [(title, number) for level, title, number in headings(printed) if level == 2]
    assert [title for title, _ in chapters] == [plain(document.article.h1.get_text()) for document in documents]
    reader = PdfReader(printed)
    listed = plain(" ".join(page.extract_text() for page in reader.pages[1 : chapters[0][1] - 1]))
    for title, number in chapters:
        assert f"{title} {number}" in listed
        assert plain(title) in plain(reader.pages[number - 1].extract_text())


def test_every_figure_is_there(printed: Path, documents: list[BeautifulSoup]) -> None:
    expected = [picture for document in documents for picture in document.article.select("img:not([hidden] img)")]
    drawn = 0
    for page in PdfReader(printed).pages:
        objects = page["/Resources"].get("/XObject", {}).values()
        drawn += sum(thing.get_object()["/Subtype"] == "/Image" for thing in objects)
    assert drawn == len(expected) > 50


def test_nothing_is_wider_than_the_paper(printed: Path) -> None:
    """Chromium shrinks a page that does not fit: so the text has its size, and stands between the margins."""
    pages = PdfReader(printed).pages
    assert {(round(page.mediabox.width), round(page.mediabox.height)) for page in pages} == {A4}
    sizes, places, text = set(), [], ""

    def look(words: str, outer: list[float], inner: list[float], font: object, size: float) -> None:
        if words.strip():
            sizes.add(round(outer[0] * inner[0] * size, 1))
            places.append(outer[0] * inner[4] + outer[4])

    for page in pages[5::10]:  # all would take minutes
        text += page.extract_text(visitor_text=look)
    assert 10.5 in sizes
    assert min(places) >= MARGIN - 1
    assert max(places) <= A4[0] - MARGIN
    assert not re.findall(r"\\[(\[]|\\[a-z]+\{", text), "raw TeX"


def test_without_chromium_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "book.pdf"
    done = subprocess.run(
        [*TOOL, str(tmp_path), str(path)], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("There is no Chromium")
    assert done.stderr.count("\n") == 1
