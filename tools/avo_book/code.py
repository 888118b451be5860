"""Links from the code of the chapters to the API, and back: which name of avo_lib is used where."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

INPUT = re.compile(r'<div class="cell_input.*?</pre>', re.DOTALL)
# A name with at most one attribute; neither itself an attribute, nor an argument's keyword.
NAME = re.compile(
    r'(?<!<span class="o">\.</span>)<span class="n">(\w+)</span>'
    r'(?:<span class="o">\.</span><span class="n">(\w+)</span>)?(?!<span class="o">=</span>)'
)


def pages_to_rewrite(app: Sphinx, env: BuildEnvironment) -> set[str]:
    """Returns the pages of the API, which hang on the code of all chapters."""
    return {entry.docname for entry in _documented(env).values()}


def link_code(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Links the names in a page's cells to where the API explains them."""
    names = _imported(doctree) if doctree else {}
    if not names:
        return
    entries = _documented(app.env)

    def link(found: re.Match[str]) -> str:
        name = names.get(found[1], "")
        for full in (f"{name}.{found[2]}", name):
            if full in entries:
                entry = entries[full]
                uri = app.builder.get_relative_uri(page, entry.docname)
                return f'<a class="avo-code" href="{uri}#{entry.node_id}">{found[0]}</a>'
        return found[0]

    context["body"] = INPUT.sub(lambda cell: NAME.sub(link, cell[0]), context["body"])


def list_uses(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Adds to each entry of the API the chapters that use it."""
    if page not in pages_to_rewrite(app, app.env):
        return
    uses: dict[str, list[str]] = {}
    chapters = [name for name in app.env.found_docs if app.env.toc_secnumbers.get(name, {}).get("")]
    for chapter in sorted(chapters, key=lambda name: app.env.toc_secnumbers[name][""]):
        for name in sorted(_used(app.env.get_doctree(chapter))):
            uses.setdefault(name, []).append(chapter)
    for entry in doctree.findall(addnodes.desc):
        signature, content = entry.children[0], entry.children[-1]
        users = uses.get(signature["ids"][0] if signature["ids"] else "", [])
        if users:
            line = nodes.paragraph("", "Used in ", classes=["avo-uses"])
            for chapter in users:
                line += nodes.Text(", " if chapter != users[0] else "")
                line += nodes.reference(
                    "",
                    app.env.titles[chapter].astext(),
                    refuri=app.builder.get_relative_uri(page, chapter),
                    internal=True,
                )
            content += line


def _documented(env: BuildEnvironment) -> dict[str, Any]:
    return {name: entry for name, entry in env.domaindata["py"]["objects"].items() if entry.objtype != "module"}


def _trees(doctree: nodes.document) -> Iterator[ast.Module]:
    """Yields the code of the cells."""
    for cell in doctree.findall(nodes.container):
        if "cell_input" in cell["classes"]:
            yield ast.parse(cell.astext())


def _imported(doctree: nodes.document) -> dict[str, str]:
    """Returns what the cells import from avo_lib: from the name in the chapter to the full one."""
    names = {}
    for tree in _trees(doctree):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "avo_lib":
                names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _used(doctree: nodes.document) -> set[str]:
    """Returns the full names that a chapter imports, or reaches through a module that it imports."""
    names = _imported(doctree)
    used = set(names.values())
    for tree in _trees(doctree):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
                used.add(f"{names[node.value.id]}.{node.attr}")
    return used
