"""The first use of a glossary's term on a page leads to its entry; the chapters themselves need no mark for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PAGE = "book/reference/glossary"
# Entries, not prose.
NO_TEXT = (PAGE, *(f"book/reference/{name}" for name in ("api", "bibliography", "experiments", "notation")))
CLOSED = (nodes.reference, nodes.literal, nodes.math, nodes.title, nodes.raw)


def name_terms(app: Sphinx, doctree: nodes.document) -> None:
    """Gives every term of the glossary an anchor."""
    if app.env.docname == PAGE:
        for term in doctree.findall(nodes.term):
            term["ids"] = ["term-" + nodes.make_id(term.astext())]


def pages_to_rewrite(app: Sphinx, env: BuildEnvironment) -> set[str]:
    """Returns all pages if the glossary has other terms than at the last build, and else none."""
    terms = {term.astext() for term in env.get_doctree(PAGE).findall(nodes.term)} if PAGE in env.found_docs else set()
    before, env.avo_terms = getattr(env, "avo_terms", None), terms
    return set() if terms == before else env.found_docs


def link_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Links each term where the running text of a page first uses it."""
    if app.builder.format != "html" or page in NO_TEXT or PAGE not in app.env.found_docs:
        return
    address = app.builder.get_relative_uri(page, PAGE)
    terms = app.env.get_doctree(PAGE).findall(nodes.term)
    for term in sorted(terms, key=lambda term: -len(term.astext())):  # "gap" is not what "amortisation gap" speaks of
        use = _use(term.astext())
        for text in list(_running(doctree)):
            if found := use.search(text.astext()):
                _link(text, found, f"{address}#{term['ids'][0]}")
                break


def _running(doctree: nodes.document) -> Iterator[nodes.Text]:
    for paragraph in doctree.findall(nodes.paragraph):
        for text in paragraph.findall(nodes.Text):
            above: nodes.Element | None = text.parent
            while above is not None and not isinstance(above, CLOSED):
                above = above.parent
            if above is None:
                yield text


def _use(name: str) -> re.Pattern[str]:
    """Matches a term as a word, in the plural and at the start of a sentence too; capitals are a part of it.

    >>> [bool(_use("sandwich").search(text)) for text in ("Sandwiches close", "a sandwich.", "sandwiched")]
    [True, True, False]
    >>> [bool(_use("AVO").search(text)) for text in ("AVO's bound", "avo_lib", "AVO-flow")]
    [True, False, False]
    """
    first = name[0]
    start = f"[{first}{first.upper()}]" if first.islower() else re.escape(first)
    return re.compile(rf"(?<![\w-]){start}{re.escape(name[1:])}(?:e?s)?(?![\w-])")


def _link(text: nodes.Text, found: re.Match[str], address: str) -> None:
    before, after = text.astext()[: found.start()], text.astext()[found.end() :]
    link = nodes.reference("", found[0], internal=True, refuri=address, classes=["avo-term"])
    parts = [nodes.Text(before), link, nodes.Text(after)]
    text.parent.replace(text, [part for part in parts if part.astext()])
