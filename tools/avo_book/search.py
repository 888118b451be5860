"""The text of the book for its search page, as a script: a page that lies on a disk may not fetch anything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

UNREADABLE = (nodes.raw, nodes.comment, nodes.math_block, nodes.literal_block, nodes.image, nodes.system_message)


def write(app: Sphinx, error: Exception | None) -> None:
    """Writes `_static/search-text.js`: a list of pages, each with its sections and API members."""
    if error or app.builder.name != "html":
        return
    pages = []
    for name in sorted(app.env.found_docs):
        sections = list(_sections(app.env.get_doctree(name)))
        if sections:
            url = app.builder.get_target_uri(name)
            pages.append({"url": url, "title": app.env.titles[name].astext(), "sections": sections})
    script = f"window.avoPages = {json.dumps(pages, ensure_ascii=False)};\n"
    (Path(app.outdir) / "_static" / "search-text.js").write_text(script, encoding="utf-8")


def _sections(doctree: nodes.document) -> Iterator[tuple[str, str, str]]:
    """Yields anchor, heading and text of each section, and of each documented name."""
    for section in doctree.findall(_is_section):
        yield section["ids"][0], section[0].astext(), _text(section)
    for entry in doctree.findall(addnodes.desc):
        signature = entry.next_node(addnodes.desc_signature)
        if signature["ids"]:
            yield signature["ids"][0], signature["ids"][0], _text(entry.next_node(addnodes.desc_content))


def _is_section(node: nodes.Node) -> bool:
    """Says whether the node is a section with a heading; the bodies of proofs and exercises have none."""
    return isinstance(node, nodes.section) and isinstance(node.children[0], nodes.title)


def _text(node: nodes.Element) -> str:
    """Returns the words of a node, without those of the sections and documented names in it."""
    words: list[str] = []
    for child in node.children:
        if isinstance(child, nodes.math):
            words.append("…")
        elif isinstance(child, nodes.Text):
            words.append(child.astext())
        elif not (_is_section(child) or isinstance(child, (nodes.title, addnodes.desc, *UNREADABLE))):
            space = "" if isinstance(child, nodes.Inline) else " "
            words.append(space + _text(child) + space)
    return " ".join("".join(words).split())
