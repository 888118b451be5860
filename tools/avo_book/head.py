"""What search engines and bookmarks read of a page: a description, and a title that says each name once."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Describes a page by its first paragraph, which in a chapter says what it finds."""
    lead = next((one for one in doctree.findall(nodes.paragraph) if one.astext()), None) if doctree else None
    if lead:
        text = html.escape(plain(lead))
        context["metatags"] = context.get("metatags", "") + f'<meta name="description" content="{text}" />'
    if page == app.config.root_doc:
        context["title"] = "A book you can run"  # its heading is the book's title, which follows anyway


def plain(paragraph: nodes.Element) -> str:
    """Returns the words of a paragraph in one line, with letters in place of TeX's names."""
    seen = [one for one in paragraph.findall(nodes.Text) if not isinstance(one.parent, (nodes.comment, nodes.raw))]
    texts = [_spelled(one) if isinstance(one.parent, nodes.math) else one for one in seen]
    return " ".join("".join(texts).split())


def _spelled(formula: str) -> str:
    r"""Writes a short formula without TeX.

    >>> _spelled(r"\log Z"), _spelled(r"\alpha = 1/\beta")
    ('log Z', 'α = 1/β')
    """

    def letter(name: re.Match[str]) -> str:
        try:
            return unicodedata.lookup(f"GREEK SMALL LETTER {name[1]}")
        except KeyError:
            return name[1]

    return re.sub(r"\\([A-Za-z]+)", letter, formula)
