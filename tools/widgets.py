"""Gives a notebook's widgets the ids of a count: ipywidgets draws new random ones in every run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import nbformat

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
REFERENCE = "IPY_MODEL_"


def renumber(notebook: nbformat.NotebookNode) -> None:
    """Renumbers the widgets in place, wherever one is shown or refers to another."""
    saved = notebook.metadata.get("widgets", {}).get(STATE, {})
    state = saved.get("state", {})
    views = list(_views(notebook))
    table = _new_ids(state, [view["model_id"] for view in views])
    if not table:
        return
    # All at once: one after the other, an old counter and a new one might meet, and two models become one.
    pattern = re.compile("|".join(map(re.escape, table)))

    def rename(text: str) -> str:
        return pattern.sub(lambda match: table[match.group()], text)

    for view in views:
        view["model_id"] = rename(view["model_id"])
    if state:
        models = {rename(key): _map_references(model, rename) for key, model in state.items()}
        saved["state"] = {key: models[key] for key in sorted(models)}


def _views(notebook: nbformat.NotebookNode) -> Iterator[dict[str, Any]]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if VIEW in output.get("data", {}):
                yield output["data"][VIEW]


def _new_ids(state: dict[str, Any], shown: Sequence[str]) -> dict[str, str]:
    """Maps old ids to counters, in the order in which a reader meets the widgets; unseen models come last."""
    order: dict[str, None] = {}

    def visit(model_id: str) -> None:
        if model_id not in order:
            order[model_id] = None
            for child in _references(state.get(model_id, {})):
                visit(child)

    for model_id in shown:
        visit(model_id)
    reached = {model_id: f"{number:08d}" for number, model_id in enumerate(order)}

    def sort_key(model_id: str) -> tuple[list[str], str, str]:
        model = state[model_id]
        targets = [reached.get(child, "unreached") for child in _references(model)]
        own = {key: value for key, value in model.get("state", {}).items() if not list(_references(value))}
        return targets, model.get("model_name", ""), json.dumps(own, sort_keys=True)

    for model_id in sorted((key for key in state if key not in order), key=sort_key):
        visit(model_id)
    return {model_id: f"{number:032x}" for number, model_id in enumerate(order, start=1)}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.startswith(REFERENCE):
            yield value.removeprefix(REFERENCE)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _references(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _map_references(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return rename(value) if value.startswith(REFERENCE) else value
    if isinstance(value, dict):
        return {key: _map_references(item, rename) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_references(item, rename) for item in value]
    return value
