"""What the built pages say, beyond what the sources say: signs, types and the index of statements."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pandas as pd
from bs4 import BeautifulSoup

from tools.avo_book.tables import TABLE, minus_signs, one_head

TAG = re.compile(r"<[^>]+>")
PROSE = re.compile(r"[A-Za-z]\w* [a-z]\w*")  # two words: no type has any


def words(markup: str) -> str:
    return html.unescape(TAG.sub("", markup)).strip()


def test_a_minus_sign_stands_before_numbers_only() -> None:
    before = '<td style="margin: -1px">-0.12</td><th>bias -5</th><td>(-.5, -2)</td><td>1e-05</td><td>top-5</td>'
    after = '<td style="margin: -1px">−0.12</td><th>bias −5</th><td>(−.5, −2)</td><td>1e-05</td><td>top-5</td>'
    assert minus_signs(before) == after


def test_negative_numbers_of_tables_have_a_minus_sign(pages: list[Path]) -> None:
    cells = [
        words(cell)
        for page in pages
        for table in TABLE.findall(page.read_text(encoding="utf-8"))
        for cell in re.findall(r"<t[dh]\b.*?</t[dh]>", table, re.DOTALL)
    ]
    assert sum(cell.startswith("−") for cell in cells) > 10
    assert not [cell for cell in cells if re.match(r"-[\d.]", cell)]


def head(table: pd.DataFrame) -> list[list[str]]:
    return [[cell.text for cell in row.find_all("th")] for row in soup(table).thead.find_all("tr")]


def soup(table: pd.DataFrame) -> BeautifulSoup:
    return BeautifulSoup(one_head(table.to_html()), "html.parser")


def test_the_names_of_rows_and_columns_share_a_row() -> None:
    table = pd.DataFrame({"lower": [1.0], "upper": [2.0]}, index=pd.Index(["a"], name="target"))
    assert head(table) == [["target", "lower", "upper"]]
    assert soup(table).caption is None
    named = table.rename_axis(columns="nats")
    assert head(named) == [["target", "lower", "upper"]]
    assert soup(named).caption.text == "nats"
    nameless = table.rename_axis(index=None)
    assert head(nameless) == [["", "lower", "upper"]]


def test_groups_of_columns_keep_their_row() -> None:
    rows = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["target", "K"])
    columns = pd.MultiIndex.from_product([["AVO", "ELBO"], ["mean", "s.e."]])
    table = pd.DataFrame([range(i, i + 4) for i in range(0, 16, 4)], index=rows, columns=columns)
    assert head(table) == [["", "", "AVO", "ELBO"], ["target", "K", *["mean", "s.e."] * 2]]
    begun = [[cell.text for cell in row.select(".avo-group")] for row in soup(table).find_all("tr")]
    assert begun == [["AVO", "ELBO"], ["mean", "mean"], *[[str(i), str(i + 2)] for i in range(0, 16, 4)]]


def test_no_table_has_a_row_of_its_own_for_the_names_of_its_rows(pages: list[Path]) -> None:
    cells = [
        re.findall(r"<th\b.*?</th>", row, re.DOTALL)
        for page in pages
        for table in TABLE.findall(page.read_text(encoding="utf-8"))
        for row in re.findall(r"<tr\b.*?</tr>", table.partition("</thead>")[0], re.DOTALL)
    ]
    assert len(cells) > 80
    assert all(any(words(cell) for cell in row[2:] or row[1:]) for row in cells)


def test_types_in_the_api_are_no_prose(built_book: Path) -> None:
    """A colon in the first sentence of a variable or property makes what stands before it a type."""
    page = "".join((built_book / f"book/reference/{name}.html").read_text("utf-8") for name in ("api", "experiments"))
    fields = re.findall(r"<dt[^>]*>(?:Return type|Type)<.*?</dt>\s*<dd[^>]*>(.*?)</dd>", page, re.DOTALL)
    types = [words(field) for field in fields]
    assert len(types) > 100
    assert not [kind for kind in types if PROSE.search(kind)]


def test_the_detector_of_prose() -> None:
    assert PROSE.search("Where randomness comes from") and PROSE.search("A log density in nats, possibly unnormalised")
    assert not any(map(PROSE.search, ["tuple[torch.Tensor, …]", "int | None", "Literal[‘exact’, ‘lower’]"]))


def test_the_index_lists_statements_by_number_and_title(built_book: Path) -> None:
    page = (built_book / "prf-prf.html").read_text(encoding="utf-8")
    entries = dict(re.findall(r'<li><a href="([^"]*#(?:def|prop|thm)-[^"]*)">(.*?)</li>', page))
    listed = words(entries["book/annealing/ais.html#def-ais-path"])
    assert re.fullmatch(r"Definition \d+\.1 Geometric path", listed), listed
    numbers = [tuple(map(int, number)) for number in re.findall(r"\w+ (\d+)\.(\d+)</a>", "".join(entries.values()))]
    assert len(numbers) == len(entries) > 30
    assert [chapter for chapter, _ in numbers] == sorted(chapter for chapter, _ in numbers)


def test_a_page_describes_itself_and_says_its_name_once(built_book: Path) -> None:
    chapter = (built_book / "book/annealing/ais.html").read_text(encoding="utf-8")
    described = re.findall(r'<meta name="description" content="([^"]*)"', chapter)
    assert len(described) == 1
    assert re.match(r"A weight gathered along .* bounds log Z from below, .* above\.$", described[0])
    assert "<title>11. Annealed importance sampling &#8212; Annealed Variational Inference</title>" in chapter
    first = (built_book / "book/intro.html").read_text(encoding="utf-8")
    assert "<title>A book you can run &#8212; Annealed Variational Inference</title>" in first
    assert re.search(r'name="description" content="A book you can run\. [^"<]*"', first)


def test_captions_stand_under_their_pictures_with_a_number(pages: list[Path]) -> None:
    """In the notebooks each is a paragraph of its own; what a page shows it shows once."""
    texts = [page.read_text(encoding="utf-8") for page in pages]
    figures = [
        figure for text in texts for figure in re.findall(r'<figure\b[^>]*id="fig-.*?</figure>', text, re.DOTALL)
    ]
    assert len(figures) > 80
    for figure in figures:
        assert re.search(
            r"<img\b.*<figcaption>.*caption-number\">Fig\. [\d.]+ .*caption-text\">.{20}", figure, re.DOTALL
        )
    assert not [text for text in texts if "<strong>Figure.</strong>" in text]
