"""Tables of pandas as a reader expects them: one row of names above the numbers, and minus signs for hyphens."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup, Tag
from docutils import nodes
from sphinx.application import Sphinx

TABLE = re.compile(r'<table\b[^>]*\bclass="dataframe".*?</table>', re.DOTALL)
TEXT = re.compile(r">[^<]+<")
NEGATIVE = re.compile(r"(?<![\w.)-])-(?=\.?\d)")  # no range, no exponent, no part of a name


def draw(app: Sphinx, doctree: nodes.document) -> None:
    """Draws every table of pandas."""
    for node in list(doctree.findall(nodes.raw)):
        text = node.astext()
        if 'class="dataframe"' in text:
            drawn = TABLE.sub(lambda table: one_head(minus_signs(table[0])), text)
            node.replace_self(nodes.raw("", drawn, format="html"))


def minus_signs(table: str) -> str:
    """Returns the HTML of a table with minus signs in its texts.

    >>> minus_signs('<td style="margin: -1px">-0.12</td><th>bias -5</th><td>1e-05</td><td>2018-19</td>')
    '<td style="margin: -1px">−0.12</td><th>bias −5</th><td>1e-05</td><td>2018-19</td>'
    """
    return TEXT.sub(lambda text: NEGATIVE.sub("−", text[0]), table)


def one_head(table: str) -> str:
    """Returns the HTML of a table whose columns have one row of names, below a row of groups if there are groups.

    pandas gives the names of the index a row of their own. They move into the corner above them. What stood there, the
    name of the columns, becomes the table's caption. The first column of each group is marked.
    """
    soup = BeautifulSoup(table, "html.parser")
    head = soup.thead.find_all("tr") if soup.thead else []
    keys = len(soup.tbody.tr.find_all("th")) if soup.tbody and soup.tbody.tr else 0
    if len(head) > 1 and not any(cell.get_text(strip=True) for cell in head[-1].find_all("th")[keys:]):
        _join(soup, head[-2], head[-1])
    for group in head[0].find_all("th", colspan=True) if head else []:
        _mark(soup, _width(group.find_previous_siblings("th")))
        _wrap(soup, group)
    return str(soup)


def _join(soup: BeautifulSoup, columns: Tag, names: Tag) -> None:
    for column, name in zip(columns.find_all("th"), names.find_all("th"), strict=True):
        if not name.get_text(strip=True):
            continue
        if column.get_text(strip=True):
            caption = soup.new_tag("caption")
            caption.extend(list(column.contents))
            _wrap(soup, caption)
            soup.table.insert(0, caption)
        column.replace_with(name)
    names.decompose()


def _wrap(soup: BeautifulSoup, cell: Tag) -> None:
    """Puts a cell's text into a box of its own, which can stay in sight while its columns scroll."""
    label = soup.new_tag("span")
    label.extend(list(cell.contents))
    cell.append(label)


def _mark(soup: BeautifulSoup, column: int) -> None:
    """Marks the cells that begin at a column; a row below an index that spans rows lacks cells on its left."""
    rows = [row.find_all(["th", "td"]) for row in soup.find_all("tr")]
    for cells in rows:
        end = _width(rows[0])
        for cell in reversed(cells):
            end -= _width([cell])
            if end == column:
                cell["class"] = "avo-group"


def _width(cells: list[Tag]) -> int:
    return sum(int(str(cell.get("colspan", 1))) for cell in cells)
