"""The index of definitions and propositions by chapter, number and title; sphinx-proof lists their labels."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx_proof.domain import ProofDomain, ProofIndex

# sphinx-proof and sphinx-exercise give these to every proof, statement, exercise and solution of a page.
COPIES = {"proof", "proof-content", "exercise-content", "solution-content"}
PAGE = f"{ProofDomain.name}-{ProofIndex.name}"


class Statements(ProofIndex):
    """One group for each chapter, in the order of the book."""

    localname = "Definitions and propositions"

    def generate(self, docnames: object = None) -> tuple[list[tuple[str, list[Any]]], bool]:
        """Returns chapters with their entries, in the shape that Sphinx asks of an index."""
        env = self.domain.env
        numbers = {page: sections.get("", ()) for page, sections in env.toc_secnumbers.items()}
        groups = []
        for page in sorted((page for page in numbers if numbers[page]), key=lambda page: numbers[page]):
            entries = []
            for node in env.get_doctree(page).findall(lambda node: "realtype" in getattr(node, "attributes", ())):
                anchor = node["ids"][0]
                number = env.toc_fignumbers.get(page, {}).get(node["countertype"], {}).get(anchor)
                if number:
                    name = f"{node['realtype'].title()} {'.'.join(map(str, number))}"
                    entries.append((name, 0, page, anchor, _title(node), "", ""))
            if entries:
                groups.append((f"{'.'.join(map(str, numbers[page]))}. {env.titles[page].astext()}", entries))
        return groups, False


def drop_ids(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Drops the anchors that a page would have more than once."""
    for node in doctree.findall(nodes.Element):
        if COPIES & {*node.get("ids", ())}:
            node["ids"] = [name for name in node["ids"] if name not in COPIES]


def use_template(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> str | None:
    """Lists the statements, where Sphinx makes a table of code."""
    return "statements.html" if page == PAGE else None


def _title(node: nodes.Element) -> str:
    """Returns the title without the brackets that sphinx-proof puts around it."""
    return node[0].astext().strip().removeprefix("(").removesuffix(")")
