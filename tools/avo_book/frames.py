"""Widgets without a kernel: the stored state of those of `avo_lib.show.explore` as plain HTML.

A notebook keeps its widgets as ipywidgets saved them, once, and JupyterLab shows them from there. A page needs none
of ipywidgets' scripts: the frames become figures, of which a reader without JavaScript sees the first, and
`frames.js` puts a slider above them. A `start_picker` is plain HTML already.
"""

from __future__ import annotations

import html
import json
from typing import Any

from docutils import nodes
from myst_nb.core.render import WIDGET_VIEW_MIMETYPE
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.application import Sphinx
from sphinx.util import logging

REFERENCE = "IPY_MODEL_"
logger = logging.getLogger(__name__)


def draw(app: Sphinx, doctree: nodes.document) -> None:
    """Puts the frames where the page has the views of widgets, and keeps the widgets' state out of the page."""
    scripts = NbMetadataCollector.get_js_files(app.env, app.env.docname)
    _, script = scripts.pop("ipywidgets_state", (None, {"body": '{"state": {}}'}))
    models = json.loads(script["body"])["state"]
    opening = f'<script type="{WIDGET_VIEW_MIMETYPE}">'
    for node in list(doctree.findall(nodes.raw)):
        if not node.astext().startswith(opening):
            continue
        view = json.loads(node.astext().removeprefix(opening).removesuffix("</script>"))
        try:
            page = page_of(models, view["model_id"])
        except (KeyError, StopIteration):
            logger.warning(
                "a widget that is neither frame_slider nor start_picker, which a page cannot show",
                location=node,
            )
            continue
        node.replace_self(nodes.raw("", page, format="html"))


def page_of(models: dict[str, Any], model_id: str) -> str:
    """Returns the HTML of one slider, all frames with the first visible, or of one picker.

    Raises:
        KeyError, StopIteration: If the model is not what `avo_lib.show.explore` makes.
    """
    if models[model_id]["model_name"] == "HTMLModel":
        return str(models[model_id]["state"]["value"])
    name = next(_found(models, model_id, "IntSliderModel"))["description"]
    first, *others = [frame["value"] for frame in _found(models, model_id, "HTMLModel")]
    hidden = [frame.replace('<div class="avo-frame"', '<div class="avo-frame" hidden', 1) for frame in others]
    return f'<div class="avo-frames" role="group" aria-label="{html.escape(name)}">{first}{"".join(hidden)}</div>'


def _found(models: dict[str, Any], model_id: str, kind: str) -> Any:
    """Yields the states of all models of the kind at and below the given one, in the order of the page."""
    model = models[model_id]
    if model["model_name"] == kind:
        yield model["state"]
    for child in model["state"].get("children", ()):
        yield from _found(models, child.removeprefix(REFERENCE), kind)
