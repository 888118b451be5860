"""What the pages need beyond Jupyter Book: sliders, a search, links that tell, and no script that nobody calls."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx_proof.domain import ProofDomain

from . import captions, code, frames, glossary, head, search, statements, tables, tips


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the parts to the build."""
    app.connect("config-inited", _drop_thebe, priority=900)  # when every other extension has connected its own
    app.connect("source-read", captions.move)
    app.connect("doctree-read", frames.draw)
    app.connect("doctree-read", glossary.name_terms)
    app.connect("doctree-read", tables.draw)
    app.connect("build-finished", search.write)
    app.connect("build-finished", tips.write)
    app.connect("env-updated", code.pages_to_rewrite)
    app.connect("env-updated", glossary.pages_to_rewrite)
    app.connect("doctree-resolved", code.list_uses)
    app.connect("doctree-resolved", glossary.link_terms)
    app.connect("doctree-resolved", statements.drop_ids)
    app.connect("html-page-context", code.link_code)
    app.connect("html-page-context", head.describe)
    app.connect("html-page-context", _mend_bibliography)
    app.connect("html-page-context", statements.use_template)
    ProofDomain.indices = {statements.Statements}
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _drop_thebe(app: Sphinx, config: Config) -> None:
    """Disconnects sphinx-thebe, which Jupyter Book always loads.

    It writes the address of a script host into every page, twice, and the second time is a script error.
    """
    for listeners in app.events.listeners.values():
        for listener in [one for one in listeners if one.handler.__module__ == "sphinx_thebe"]:
            app.disconnect(listener.id)
    app.registry.css_files = [entry for entry in app.registry.css_files if entry[0] != "sphinx-thebe.css"]


def _mend_bibliography(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: object,
) -> None:
    """Takes a role away that docutils gives to a bibliography, and that its own entries may not stand in."""
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation-list">',
            '<div class="citation-list">',
        )
