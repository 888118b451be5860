"""Every link of the built book leads somewhere: the page exists, and the anchor on it too."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


class Anchors(HTMLParser):
    """Collects the names that a link may end with, and the links of the page's own text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value for key, value in attrs if value}
        self.ids.update(given[key] for key in ("id", "name") if key in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


@cache
def read(page: Path) -> Anchors:
    return Anchors(page.read_text(encoding="utf-8"))


def broken(page: Path) -> list[str]:
    """Returns the links of a page that lead nowhere on this disk; other hosts are not asked."""
    found = []
    for link in read(page).links:
        url = urlsplit(link)
        if url.scheme or url.netloc or link in {"#", "javascript:void(0)"}:
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page
        is_page = target.suffix == ".html"
        if not target.exists() or (is_page and url.fragment and unquote(url.fragment) not in read(target).ids):
            found.append(link)
    return found


@pytest.mark.parametrize(
    ("link", "count"),
    [("#here", 0), ("#nowhere", 1), ("other.html", 1), ("page.html#here", 0), ("https://example.org/#x", 0)],
)
def test_the_detector(tmp_path: Path, link: str, count: int) -> None:
    page = tmp_path / "page.html"
    page.write_text(f'<p id="here"><a href="{link}">a link</a></p>')
    read.cache_clear()
    assert len(broken(page)) == count


def test_every_link_leads_somewhere(pages: list[Path]) -> None:
    found = {page.name: sorted(set(links)) for page in pages if (links := broken(page))}
    assert not found


def test_no_link_leads_to_a_source(pages: list[Path]) -> None:
    """A link to a source file is one that Sphinx did not recognise; the theme offers the page's own for download."""

    def is_source(link: str) -> bool:
        return re.search(r"\.(md|ipynb)(#|$)", link) is not None and "_sources/" not in link

    found = {page.name: links for page in pages if (links := [link for link in read(page).links if is_source(link)])}
    assert not found
