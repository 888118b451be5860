"""The built book asks nothing of the network: what the files themselves say."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "book" / "_static" / "vendor"

LOADING_TAG = re.compile(r"<(?:script|link|img|iframe|source|video)\b[^>]*>", re.IGNORECASE)
REMOTE = re.compile(r"""\b(?:src|href)\s*=\s*["'](?:https?:)?//""", re.IGNORECASE)
CANONICAL = re.compile(r"""\brel\s*=\s*["']canonical["']""", re.IGNORECASE)
REMOTE_CSS = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"';]*""", re.IGNORECASE)
SUM = re.compile(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", re.MULTILINE)


def remote_tags(html: str) -> list[str]:
    """Returns the tags that would load something from another host; ordinary links are allowed."""
    tags = (match.group() for match in LOADING_TAG.finditer(html))
    return [tag[:160] for tag in tags if REMOTE.search(tag) and not CANONICAL.search(tag)]


@pytest.mark.parametrize(
    ("html", "count"),
    [
        ('<script src="https://cdn.example/x.js"></script>', 1),
        ("<LINK rel=stylesheet href='//cdn.example/x.css'>", 1),
        ('<img alt="a" src="http://example.org/a.png">', 1),
        ('<link rel="canonical" href="https://example.org/">', 0),
        ('<a href="https://arxiv.org/abs/1809.01818">paper</a>', 0),
        ('<img src="data:image/png;base64,AA//AA=="><script src="../_static/x.js"></script>', 0),
    ],
)
def test_the_detector(html: str, count: int) -> None:
    assert len(remote_tags(html)) == count


def test_no_page_loads_from_another_host(pages: list[Path]) -> None:
    found = {page.name: tags for page in pages if (tags := remote_tags(page.read_text(encoding="utf-8")))}
    assert not found


def test_no_page_names_another_host_but_in_a_link(pages: list[Path]) -> None:
    found = {}
    for page in pages:
        markup = re.sub(
            r"<a\b[^>]*>|<pre>.*?</pre>|base64,[^\"]*", "", page.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        if hosts := re.findall(r"<[a-z][^<>]*[\"'](?:https?:)?//[^<>]*|<script\b[^>]*>[^<]*https?://[^<]*", markup):
            found[page.name] = [host[:160] for host in hosts]
    assert not found


def test_no_page_weighs_more_than_two_megabytes(built_book: Path, pages: list[Path]) -> None:
    """Without MathJax and the icons' font, which is a script too; a browser loads both once for all pages."""
    weights = {}
    for page in pages:
        sources = set(re.findall(r'(?:src|href)="([^":?#]+\.(?:js|css|png|svg))', page.read_text(encoding="utf-8")))
        loaded = [page.parent / source for source in sources if not re.search("tex-svg|fontawesome", source)]
        weights[page.relative_to(built_book).as_posix()] = sum(path.stat().st_size for path in (page, *loaded)) / 1e6
    print(*(f"{weight:.2f} MB {page}" for page, weight in weights.items()), sep="\n")
    assert max(weights.values()) < 2


def test_no_style_sheet_loads_from_another_host(built_book: Path) -> None:
    sheets = sorted(built_book.rglob("*.css"))
    assert sheets
    found = {sheet.name: hits for sheet in sheets if (hits := REMOTE_CSS.findall(sheet.read_text(encoding="utf-8")))}
    assert not found


def test_vendored_files_are_what_they_say() -> None:
    sums = dict(SUM.findall((VENDOR / "README.md").read_text(encoding="utf-8")))
    vendored = [path for path in VENDOR.glob("*") if path.is_file() and path.name != "README.md"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendored} == sums
