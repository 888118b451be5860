"""Keeps the numbers in a notebook's prose equal to those of its run.

A chapter stores a number, ``keep("gap", 0.1234)``, and its text says ``0.12<!-- gap -->`` nats; behind the name may
stand another format, ``0.1<!-- gap:.1f -->``. Any viewer of notebooks shows the number; none shows the comment. An
alternative text cannot hide a comment, so one with numbers stands in the cell's metadata as ``alt``, with its comments,
and ``mystnb.image.alt`` is made from it.
"""

from __future__ import annotations

import ast
import re
from typing import Any

VALUE = r"−?\d[\d,]*(?:\.\d+)?(?:e[−+]?\d+)?"
NUMBER = re.compile(rf"(?P<shown>{VALUE})<!-- (?P<name>[\w.-]+)(?::(?P<spec>[^ ]+))? -->")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


class NumberError(Exception):
    """A number in the text that no cell of the notebook has glued, or that cannot be refreshed."""


def glued(notebook: Any) -> dict[str, Any]:
    """Returns the values that the cells of a notebook have glued, by name.

    Raises:
        NumberError: If one is no plain value of Python, or a name is glued twice.
    """
    values = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                if name in values:
                    raise NumberError(f"{name!r} is glued twice")
                text = next(iter(output["data"].values()))
                try:
                    values[name] = ast.literal_eval(text)
                except (ValueError, SyntaxError) as error:
                    raise NumberError(f"{name!r} is glued as {text:.60}, which is no plain value") from error
    return values


def refresh(notebook: Any) -> None:
    """Writes the values of the run into texts and alternative texts, in place.

    Raises:
        NumberError: If a text names a value that no cell glues or that is no number, or has a comment that stands
            behind no number.
    """
    values = glued(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = refreshed(cell.source, values)
        elif "alt" in cell.metadata:
            cell.metadata["alt"] = refreshed(cell.metadata["alt"], values)
            image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
            image["alt"] = COMMENT.sub("", cell.metadata["alt"])


def check(notebook: Any) -> None:
    """Refuses comments that stand behind no number, which needs no run.

    Raises:
        NumberError: If there is one in a text or an alternative text.
    """
    for cell in notebook.cells:
        check_comments(cell.source if cell.cell_type == "markdown" else cell.metadata.get("alt", ""))


def check_comments(text: str) -> None:
    """Raises a NumberError for the first comment of a text that stands behind no number."""
    if strange := COMMENT.findall(NUMBER.sub("", text)):
        raise NumberError(f"a comment that follows no number: {strange[0]}")


def refreshed(text: str, values: dict[str, Any]) -> str:
    """Returns the text with every number that has a name set to the value of that name."""
    check_comments(text)

    def replace(match: re.Match[str]) -> str:
        name, spec = match["name"], match["spec"]
        if name not in values:
            raise NumberError(f"the text shows {match['shown']} as {name!r}, which no cell glues")
        return shown(values[name], spec) + match.group().removeprefix(match["shown"])

    return NUMBER.sub(replace, text)


def shown(value: Any, spec: str | None) -> str:
    """Returns the value as the text shows it, with a true minus sign."""
    try:
        text = format(float(value), spec) if spec else str(value)
    except (TypeError, ValueError) as error:
        raise NumberError(f"{value!r} is no number that a text can show as {spec!r}") from error
    text = text.replace("-", "−")
    if not re.fullmatch(VALUE, text):
        raise NumberError(f"{text!r} is no number that a text can show")
    return text
