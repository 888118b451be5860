"""Tables of pandas as a reader expects them: a minus sign, where Python writes a hyphen."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

TABLE = re.compile(r'<table\b[^>]*\bclass="dataframe".*?</table>', re.DOTALL)
TEXT = re.compile(r">[^<]+<")
NEGATIVE = re.compile(r"(?<![\w.)-])-(?=\.?\d)")  # no range, no exponent, no part of a name


def draw_minus_signs(app: Sphinx, doctree: nodes.document) -> None:
    """Puts a minus sign in front of every negative number of a table."""
    for node in list(doctree.findall(nodes.raw)):
        text = node.astext()
        if 'class="dataframe"' in text:
            node.replace_self(nodes.raw("", TABLE.sub(lambda table: minus_signs(table[0]), text), format="html"))


def minus_signs(table: str) -> str:
    """Returns the HTML of a table with minus signs in its texts.

    >>> minus_signs('<td style="margin: -1px">-0.12</td><th>bias -5</th><td>1e-05</td><td>2018-19</td>')
    '<td style="margin: -1px">−0.12</td><th>bias −5</th><td>1e-05</td><td>2018-19</td>'
    """
    return TEXT.sub(lambda text: NEGATIVE.sub("−", text[0]), table)
