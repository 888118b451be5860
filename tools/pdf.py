"""Prints the built book as one PDF: python tools/pdf.py [folder of the pages] [file].

The articles of all pages are joined into one, which Chromium prints; its formulas are set by the pages' own MathJax.
Folded code is left out, and of a slider the first frame stays. The book is printed twice, because the contents take
their page numbers from the outline of the first print.
"""

from __future__ import annotations

import html
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader
from pypdf.generic import Destination

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu"]
STYLE = Path(__file__).with_name("pdf.css")
WIDTH = 657  # CSS pixels between the margins of pdf.css, 174 mm
# What has no use on paper, or no reader: folded code, all frames but the first, marks that only a pointer can use.
DROPPED = "details.hide, [hidden], .headerlink, .viewcode-link, .footnote-backref, script, .sd-stretched-link"
TYPESET = "() => window.MathJax?.startup?.promise?.then(() => true)"
# Tables and formulas that are wider than the page shrink to it.
FIT = """() => document.querySelectorAll('table, mjx-container, pre').forEach(thing => {
  const room = thing.parentElement.closest('p, li, dd, td, div, section, figcaption').clientWidth;
  const width = Math.max(thing.scrollWidth, thing.firstElementChild?.getBoundingClientRect().width ?? 0);
  if (room && width > room) thing.style.zoom = room / width;
})"""


@dataclass
class Chapter:
    """A page of the book."""

    name: str  # as _toc.yml has it
    part: str  # the caption of the part that it begins, or nothing
    article: Tag

    @property
    def key(self) -> str:
        """The prefix of its anchors."""
        return self.name.replace("/", "-")


def chapters(pages: Path) -> Iterator[Chapter]:
    """Yields the pages in the order of the book."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [("", contents["root"])]
    for part in contents["parts"]:
        captions = [part["caption"]] + [""] * len(part["chapters"])
        parts += [(caption, chapter["file"]) for caption, chapter in zip(captions, part["chapters"], strict=False)]
    for caption, name in parts:
        soup = BeautifulSoup((pages / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        yield Chapter(name, caption, soup.article)


def text_of(heading: Tag | None) -> str:
    return " ".join(heading.get_text().split()) if heading else ""


def adapt(chapter: Chapter, pages: Path, keys: dict[Path, str]) -> None:
    """Makes the page's anchors its own among all pages', its links lead within the document, and its headings lower."""
    here = (pages / f"{chapter.name}.html").resolve()
    article = chapter.article
    for thing in article.select(DROPPED):
        thing.decompose()
    for cell in article.select("div.cell"):
        if not cell.get_text(strip=True) and not cell.find("img"):
            cell.decompose()
    for thing in article.find_all(id=True):
        thing["id"] = f"{chapter.key}--{thing['id']}"
    for picture in article.find_all("img"):
        if not picture["src"].startswith("data:"):
            picture["src"] = (here.parent / unquote(picture["src"])).resolve().as_uri()
    for link in article.find_all("a", href=True):
        url = urlsplit(link["href"])
        if url.scheme or url.netloc:
            continue
        key = keys.get((here.parent / unquote(url.path)).resolve() if url.path else here)
        if key:
            link["href"] = f"#{key}--{url.fragment}" if url.fragment else f"#{key}"
        else:
            link.unwrap()  # to what is not printed: indices, sources
    for level in range(5, 0, -1):
        for heading in article.find_all(f"h{level}"):
            heading.name = f"h{level + 1}"
    article["id"] = chapter.key
    article["style"] = f"page: {chapter.key}"
    if chapter.part:
        article.insert(0, BeautifulSoup(f"<h1>{html.escape(chapter.part)}</h1>", "html.parser"))


def contents_of(book: list[Chapter]) -> str:
    """Returns the list of parts, chapters and sections, each with room for the number of its page."""
    lines = []
    for chapter in book:
        for heading in chapter.article.find_all(["h1", "h2", "h3"]):
            section = heading.find_parent("section")
            target = chapter.key if heading.name != "h3" or section is None else section["id"]
            link = f'<a href="#{target}">{html.escape(text_of(heading))}</a>'
            lines.append(f'<li class="level-{heading.name[1]}">{link}<span class="page"></span></li>')
    return f'<nav id="contents"><h1>Contents</h1><ol>{"".join(lines)}</ol></nav>'


def join(pages: Path) -> str:
    """Returns the whole book as one page."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    book = list(chapters(pages))
    keys = {(pages / f"{chapter.name}.html").resolve(): chapter.key for chapter in book}
    heads = []
    for chapter in book:
        adapt(chapter, pages, keys)
        heads.append(f"@page {chapter.key} {{ @top-center {{ content: {css_string(text_of(chapter.article.h2))} }} }}")
    first = pages / f"{book[0].name}.html"
    head = BeautifulSoup(first.read_text(encoding="utf-8"), "html.parser").head
    sheets = [
        f'<link rel="stylesheet" href="{(first.parent / urlsplit(link["href"]).path).resolve().as_uri()}">'
        for link in head.find_all("link", rel="stylesheet")
    ]
    mathjax = (pages / "_static" / config["sphinx"]["config"]["mathjax_path"]).resolve().as_uri()
    title = html.escape(config["title"])
    return f"""<!DOCTYPE html>
<html lang="en-GB" data-theme="light" data-mode="light"><head><meta charset="utf-8"><title>{title}</title>
{"".join(sheets)}<style>{STYLE.read_text(encoding="utf-8")}{"".join(heads)}</style>
<script>window.MathJax = {{options: {{processHtmlClass: "math", enableMenu: false}}}}</script>
<script src="{mathjax}"></script></head>
<body><header class="avo-title"><p>{title}</p><p>A book you can run</p>
<p>{html.escape(config["author"])}, {config["copyright"]}</p></header>
{contents_of(book)}<main class="bd-content">{"".join(str(chapter.article) for chapter in book)}</main></body></html>"""


def css_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def headings(pdf: Path) -> list[tuple[int, str, int]]:
    """Returns level, text and number of the page of each entry of the outline."""
    reader = PdfReader(pdf)

    def walk(entries: list[Any], level: int) -> Iterator[tuple[int, str, int]]:
        for entry in entries:
            if isinstance(entry, Destination):
                yield level, str(entry.title), (reader.get_destination_page_number(entry) or 0) + 1
            else:
                yield from walk(entry, level + 1)

    return list(walk(reader.outline, 1))


def draw(page: Page, pdf: Path) -> None:
    page.pdf(path=pdf, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)


def main(pages: Path, pdf: Path) -> None:
    """Prints the built pages into the file."""
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        sys.exit(f"There is no Chromium on this machine ({', '.join(BROWSERS)}), which prints the PDF")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        joined = Path(folder) / "book.html"
        joined.write_text(join(pages), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.set_default_timeout(300_000)
        page.emulate_media(media="print")
        page.goto(joined.as_uri())
        page.wait_for_function(TYPESET)
        page.evaluate(FIT)
        draw(page, pdf)
        numbers = [number for level, _, number in headings(pdf) if level <= 3][1:]  # without that of the contents
        fill = "numbers => document.querySelectorAll('.page').forEach((place, i) => place.textContent = numbers[i])"
        page.evaluate(fill, numbers)
        draw(page, pdf)
        browser.close()
    print(f"Open {pdf}")


if __name__ == "__main__":
    given = [Path(argument).resolve() for argument in sys.argv[1:]]
    defaults = [ROOT / "_build" / "html", ROOT / "_build" / "annealed-variational-inference.pdf"]
    main(*given, *defaults[len(given) :])
