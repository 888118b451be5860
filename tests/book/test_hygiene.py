"""What every chapter owes its readers, read from the stored notebooks; nothing is executed here."""

from __future__ import annotations

import ast
import base64
import itertools
import json
import re
import statistics
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from pybtex.database import parse_file

from avo_lib.experiments.results import PAPER
from tools import notebooks as tool
from tools.avo_book import captions
from tools.widgets import VIEW

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(path for path in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
PAGES = sorted([*BOOK.rglob("*.md"), *NOTEBOOKS])
PAGES = [path for path in PAGES if "_static" not in path.parts and ".ipynb_checkpoints" not in path.parts]

REQUIRED = ("After this chapter you can", "What goes wrong", "Summary", "Exercises", "Further reading")
HEADING = re.compile(r"^(?:#{1,6}|[`:]{3,}\{admonition\})\s*(.+?)\s*$", re.MULTILINE)
DIRECTIVE = re.compile(r"^[`:]{3,}\{(exercise|solution)(?:-start)?\}[ \t]*(.*)\n((?::[\w-]+:.*\n)*)", re.MULTILINE)
CITATION = re.compile(r"\[([^\]]+)\]\([^)\s]*bibliography\.md#([\w-]+)\)")
# What a viewer of notebooks without MyST would show as source.
SOURCE_ONLY = {
    "a role": re.compile(r"\{[a-z][\w:+-]*\}`"),
    "a directive in backticks": re.compile(r"^[ \t]*`{3,}\{", re.MULTILINE),
    "a target": re.compile(r"^[ \t]*\([\w-]+\)=[ \t]*$", re.MULTILINE),
    "a substitution": re.compile(r"(?<![\\{])\{\{\s*\w+\s*\}\}"),
    "a macro": re.compile(r"\\(?:E|KL)(?![A-Za-z])"),
    "an empty link": re.compile(r"(?<!!)\[\]\("),
    "an option glued to the text": re.compile(r"^:[a-z-]+:.*\n(?!:[a-z-]+:|\s*$|:{3,}\s*$)", re.MULTILINE),
}
KILOBYTE = 1000


def name(path: Path) -> str:
    return path.relative_to(BOOK).as_posix()


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
REFERENCE = BOOK / "reference"  # to look things up in: whole cells of code, no story and no exercises
TEACHING = [path for path in NOTEBOOKS if path.parent not in (BOOK, REFERENCE)]
every_chapter = pytest.mark.parametrize("path", TEACHING, ids=name)
every_page = pytest.mark.parametrize("path", PAGES, ids=name)


@cache
def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs(path: Path) -> list[tuple[int, Any]]:
    """Returns each output with the number of its code cell, counted as nbval counts."""
    return [(number, output) for number, cell in enumerate(code_cells(path)) for output in cell.outputs]


def markdown(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown") + "\n"


@cache
def bibliography() -> Any:
    return parse_file(BOOK / "references.bib").entries


def test_nothing_is_listed_that_nothing_cites() -> None:
    """A page links to each entry of the bibliography, or the library's documentation names it."""
    pages = "".join(map(markdown, PAGES))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "avo_lib").rglob("*.py"))
    idle = []
    for key in bibliography():
        who, year = authors_and_year(key)
        documented = re.search(rf"{re.escape(who.split()[0])}[^;()]{{0,40}}\s\(?{year}", code)
        if f"bibliography.md#{key}" not in pages and not documented:
            idle.append(key)
    assert not idle


def authors_and_year(key: str) -> tuple[str, str]:
    entry = bibliography()[key]
    names = [
        " ".join(part.render_as("text") for part in [*person.rich_prelast_names, *person.rich_last_names])
        for person in entry.persons["author"]
    ]
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return who, entry.fields["year"]


def table_of_contents() -> set[str]:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return {contents["root"], *chapters}


def test_the_map_knows_order_titles_minutes_and_needs() -> None:
    """The landing page tells a reader what each chapter takes, as the chapter itself does."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in contents["parts"] if part.get("numbered") for chapter in part["chapters"]]
    chapters = [ROOT / f"{file}.ipynb" for file in files if (ROOT / f"{file}.ipynb") in NOTEBOOKS]
    expected = []
    for number, path in enumerate(chapters, start=1):
        opening = read(path).cells[0].source
        title, minutes = re.search(r"^# (.+)", opening), re.search(r"Reading takes (\d+)\s+minutes", opening)
        assert title and minutes, f"{name(path)} does not say how long reading takes"
        needs = re.search(r"\*\*Needs\*\*(.*?)Reading takes", opening, re.DOTALL)
        links = re.findall(r"\]\(([^)#]+\.ipynb)", needs[1]) if needs else []
        numbers = sorted({chapters.index((path.parent / link).resolve()) + 1 for link in links})
        link = f"{number}. [{title[1]}]({name(path)})"
        expected.append((link, minutes[1], ", ".join(map(str, numbers)) or "–"))
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in markdown(BOOK / "intro.md").splitlines()]
    assert [(row[1], row[3], row[4]) for row in rows if len(row) == 5 and re.match(r"\d+\. ", row[1])] == expected
    assert not [row for row in rows if len(row) == 5 and not row[3]], "a row that is no chapter's widens the columns"


def test_the_book_has_notebooks() -> None:
    assert NOTEBOOKS


def test_table_of_contents_and_files_agree() -> None:
    assert table_of_contents() == {path.relative_to(ROOT).with_suffix("").as_posix() for path in PAGES}


@every_notebook
def test_every_cell_has_run_in_order(path: Path) -> None:
    """nbval compares no cell without a count, so an unrun notebook would pass it."""
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_an_exercise_that_checks_itself_says_so(path: Path) -> None:
    marked, checked, title = set(), set(), ""
    for cell in read(path).cells:
        for title in re.findall(r"\{exercise\} (.+)", cell.source):
            marked |= {title} if title.endswith(" (checks itself)") else set()
        if any(output.get("text", "").startswith("No answer yet") for output in cell.get("outputs", [])):
            checked.add(title)
    assert marked == checked


@every_notebook
def test_no_errors_and_nothing_on_stderr(path: Path) -> None:
    for number, output in outputs(path):
        assert output.output_type != "error", f"Cell {number} stores an error"
        assert output.get("name") != "stderr", f"Cell {number} writes to stderr: {output.get('text', '')[:200]}"


@every_notebook
def test_sizes(path: Path) -> None:
    for number, output in outputs(path):
        picture = output.get("data", {}).get("image/png", "")
        size = len(base64.b64decode(picture)) / KILOBYTE
        assert size <= 200, f"Cell {number} stores a picture of {size:.0f} kB"
    assert path.stat().st_size <= 1000 * KILOBYTE, "GitHub shows no larger notebooks"
    widgets = len(json.dumps(read(path).metadata.get("widgets", {}))) / KILOBYTE
    assert widgets <= 250, f"the widgets of this page take {widgets:.0f} kB"


@every_notebook
def test_every_picture_has_alternative_text(path: Path) -> None:
    for number, cell in enumerate(code_cells(path)):
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if any(kind.startswith("image/") for kind in kinds):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) >= 10, f"Cell {number} shows a picture and metadata.mystnb.image.alt is {alt!r}"


@every_notebook
def test_every_picture_has_a_caption_that_any_viewer_shows(path: Path) -> None:
    """A caption in the metadata would be seen in the built book alone."""
    figures = list(captions.figures(read(path)))
    for figure, caption in figures:
        options = figure.metadata.mystnb.figure
        assert caption, f"below {options.name} there is no Markdown cell that begins with {captions.MARK!r}"
        assert list(options) == ["name"], f"{options.name} has metadata that no viewer of notebooks shows"
        assert not re.search(r"\n|\s$", caption.source), f"the caption of {options.name} is no single paragraph"
    cells = read(path).cells
    pictures = [
        cell for cell in cells if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    ]
    assert pictures == [figure for figure, _ in figures], "a picture without mystnb.figure.name"
    assert [cell for cell in cells if captions.is_caption(cell)] == [caption for _, caption in figures], (
        "below no figure"
    )


@every_notebook
def test_letters_in_figures_can_be_read_on_a_phone(path: Path) -> None:
    """A figure as wide as a page shrinks to some six tenths there."""
    small = [found for cell in code_cells(path) for found in re.findall(r"fontsize=[0-8]\b.*", cell.source)]
    assert not small, f"letters below 9 points: {small}"


@every_notebook
def test_every_widget_has_a_static_figure_above(path: Path) -> None:
    """GitHub, paper, screen readers and untrusted notebooks show no widget."""
    above = False
    for number, cell in enumerate(code_cells(path)):
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert above or VIEW not in kinds, f"Cell {number} shows a widget before any figure"
        above = above or "image/png" in kinds


@every_chapter
def test_anatomy(path: Path) -> None:
    headings = HEADING.findall(markdown(path))
    for required in REQUIRED:
        assert any(required in heading for heading in headings), f"no heading or box {required!r} in {headings}"


@every_chapter
def test_exercises_have_folded_solutions(path: Path) -> None:
    exercises: list[str] = []
    solutions: dict[str, str] = {}
    for kind, argument, options in DIRECTIVE.findall(markdown(path)):
        if kind == "exercise":
            label = re.search(r"^:label:\s*(\S+)", options, re.MULTILINE)
            assert label, f"exercise {argument!r} has no :label:"
            exercises.append(label.group(1))
        else:
            solutions[argument.strip()] = options
    assert 4 <= len(exercises) <= 6
    assert sorted(solutions) == sorted(exercises)
    for label, options in solutions.items():
        assert re.search(r"^:class:.*\bdropdown\b", options, re.MULTILINE), f"solution {label} is not folded"


def lengths_of_visible_cells(path: Path) -> list[int]:
    cells = [cell for cell in code_cells(path) if "hide-input" not in cell.metadata.get("tags", [])]
    return [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in cells]


@every_notebook
def test_visible_cells_have_one_idea(path: Path) -> None:
    """What draws, loads or checks is folded."""
    lines = lengths_of_visible_cells(path)
    assert max(lines, default=0) <= 25
    assert statistics.median(lines or [0]) <= 10


@every_chapter
def test_visible_code_teaches(path: Path) -> None:
    texts = [cell.source for cell in read(path).cells if cell.cell_type == "markdown" and not captions.is_caption(cell)]
    prose = re.sub(r"<!--.*?-->|\]\([^)]*\)", "", "\n\n".join(texts))
    lines = lengths_of_visible_cells(path)
    assert len(prose.split()) >= 10 * sum(lines), "at least ten words a line of visible code"


def cut(text: str) -> list[str]:
    """Lines of the indented and fenced blocks of a text that are wider than their box."""
    fenced = re.findall(r"^(`{3,})(?!\{)[^\n]*\n(.*?)^\1", text, re.MULTILINE | re.DOTALL)
    indented = [part for part in re.split(r"\n\s*\n", text) if re.fullmatch(r"( {4}.*\n?)+", part)]
    blocks = [*(block for _, block in fenced), *indented]
    return [line for block in blocks for line in block.splitlines() if len(line) > 96]


@every_page
def test_commands_are_seen_whole(path: Path) -> None:
    """The box of a command is about a hundred characters wide; what is longer hides behind its edge."""
    assert not cut(markdown(path)), "break these lines by a backslash"


def test_the_detector_of_cut_commands() -> None:
    long = 90 * "x"
    assert len(cut(f"Text {long}{long}\n\n    python {long}\n      --more {long}\n\n```\n$ make {long}\n```\n")) == 3


@every_notebook
def test_chapters_run_from_any_folder(path: Path) -> None:
    """A kernel may start anywhere; ``avo_lib.files.repository`` knows where the results are."""
    for number, cell in enumerate(code_cells(path)):
        assert not re.search(r"""["']\.\.?/""", cell.source), f"Cell {number} takes a path from the working directory"


@every_notebook
def test_every_output_is_compared(path: Path) -> None:
    """What differs between processors is no output: ``results.committed`` keeps the numbers of one run."""
    for number, cell in enumerate(code_cells(path)):
        assert not {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", [])), f"Cell {number}"
        assert not re.search("NBVAL_(IGNORE_OUTPUT|SKIP)", cell.source), f"Cell {number}"


def definitions(source: str) -> dict[str, str]:
    """Returns the functions and classes of a cell that have more than one statement, by their whole text."""
    found = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return {ast.unparse(node): node.name for node in found if len(node.body) > 1}


def test_no_chapter_writes_what_another_has() -> None:
    """Two chapters that need the same function find it in ``avo_lib``."""
    sources = {name(path): "\n".join(cell.source for cell in code_cells(path)) for path in NOTEBOOKS}
    written = {chapter: definitions(source) for chapter, source in sources.items()}
    for one, other in itertools.combinations(written, 2):
        shared = [written[one][text] for text in written[one].keys() & written[other].keys()]
        assert not shared, f"{one} and {other} both define {', '.join(shared)}"


def test_no_chapter_writes_students_interval() -> None:
    """It is ``half_width`` of ``avo_lib.show.numbers``, which is tested, or scipy's."""
    by_hand = r"t\.ppf\([^()]*(\([^()]*\)[^()]*)*\) \* [^\n]*(\.sem\(|\.std\()"
    typed = r"\b(4\.303|3\.182|2\.776|2\.262|2\.093)\b"
    written = re.compile(f"{by_hand}|{typed}")
    assert written.search("stats.t.ppf(0.975, len(gain) - 1) * gain.sem()") and written.search("4.303 * gain.sem()")
    assert not written.search("stats.t.ppf(0.975, free) * error")  # of a spread that many methods share
    for path in NOTEBOOKS:
        for number, cell in enumerate(code_cells(path)):
            assert not written.search(cell.source), f"{name(path)}, cell {number}"


def test_no_chapter_types_the_papers_table() -> None:
    """Its figures stand in ``avo_lib`` once, checked against each other; every chapter compares with those."""
    typed = re.compile("|".join(rf"\b{value:.2f}\b".replace(".", r"\.") for value in PAPER.to_numpy().flat))
    assert typed.search("loss - 86.06") and not typed.search("186.06, 86.061")
    for path in NOTEBOOKS:
        for number, cell in enumerate(code_cells(path)):
            assert not typed.search(cell.source), f"{name(path)}, cell {number} has {typed.search(cell.source)[0]}"


def test_committed_numbers_are_those_of_the_chapters() -> None:
    """A missing file would be written by any run, which then agrees with itself; an orphan would stay for ever."""
    used = [
        found
        for path in NOTEBOOKS
        for cell in code_cells(path)
        for found in re.findall(r'committed\(\s*"(.+?)"', cell.source)
    ]
    folder = ROOT / "results" / "chapters"
    assert sorted(used) == sorted(file.relative_to(folder).as_posix()[:-5] for file in folder.rglob("*.json"))


@every_notebook
def test_notebook_is_in_the_normal_form(path: Path) -> None:
    assert not tool.normalise(path, write=False), f"run: python tools/notebooks.py normalise {path.relative_to(ROOT)}"


@every_page
def test_citations_name_their_entry(path: Path) -> None:
    """The text of a citation is typed, so that every viewer shows it: it has to say who and when."""
    for text, key in CITATION.findall(markdown(path)):
        who, year = authors_and_year(key)
        assert text in (f"{who} ({year})", f"{who}, {year}", year), f"{text!r} cites {key}"


@every_notebook
def test_plain_viewers_show_the_text(path: Path) -> None:
    for text in [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]:
        for kind, pattern in SOURCE_ONLY.items():
            found = pattern.search(text)
            assert not found, f"{kind}, which only the built book resolves: {text[found.start() :][:60]!r}"


@every_page
def test_no_page_shows_a_role(path: Path) -> None:
    """GitHub shows the reference pages too."""
    assert not SOURCE_ONLY["a role"].search(markdown(path))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{doc}`ais`", "a role"),
        ("```{math}\nx\n```", "a directive in backticks"),
        ("(here)=\n## Heading", "a target"),
        ("$\\KL{q}{p}$", "a macro"),
        ("see [](#eq-x)", "an empty link"),
        (":::{exercise} One\n:label: ex-one\nShow that", "an option glued to the text"),
    ],
)
def test_the_detector_of_source(text: str, kind: str) -> None:
    assert [name for name, pattern in SOURCE_ONLY.items() if pattern.search(text)] == [kind]


@every_page
def test_nothing_names_the_machine_it_was_made_on(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for folder in (ROOT, Path.home(), Path(tempfile.gettempdir())):
        assert folder == Path("/") or f"{folder.as_posix()}/" not in text, f"a path of this machine: {folder}"
    found = re.search(r"(?<![\w.])/(?:home|Users|root|tmp)/\w|site-packages|ipykernel_\d+|\b[A-Z]:\\\\Users", text)
    assert found is None, f"a path of some machine: {found}"
