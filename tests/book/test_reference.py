"""The reference pages: mistakes that tests notice, terms that pages lead to, and what lecturers take away."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from sphinx.application import Sphinx

from avo_lib.experiments.protocols import EXPERIMENTS
from tools import lecture, prose
from tools.avo_book import captions, glossary

ROOT = Path(__file__).resolve().parents[2]
MISTAKES = (ROOT / "book/reference/what_goes_wrong.md").read_text(encoding="utf-8")
ENTRIES = re.split(r"^### ", MISTAKES, flags=re.MULTILINE)[1:]


def test_nineteen_mistakes_in_order() -> None:
    assert [entry.split(".")[0] for entry in ENTRIES] == [str(number) for number in range(1, 20)]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.split("\n")[0])
def test_a_mistake_is_shown_and_noticed(entry: str) -> None:
    shown = re.search(r"Shown\s+in\s+\[[^]]+\]\(\S+\.ipynb", entry)
    assert shown, "no chapter makes it on purpose"
    noticed = re.findall(r"`(tests/\w+\.py)::(\w+)`", entry)
    assert noticed or "held to the claims" in entry
    for file, test in noticed:
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_the_table_of_protocols_has_each_with_its_epochs() -> None:
    page = (ROOT / "book/reference/experiments.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page, flags=re.MULTILINE))
    assert rows.keys() == EXPERIMENTS.keys()
    for name, row in rows.items():
        epochs = {setup.train.epochs for setup in EXPERIMENTS[name].values()}
        assert {str(number) for number in epochs} <= {*re.findall(r"\d+", row)}, f"{name} has {epochs} epochs"


def test_the_numbers_of_a_page_are_those_of_their_chapters() -> None:
    values = {
        f"{path.stem}.{name}": value
        for path in (ROOT / "book").rglob("*.ipynb")
        for name, value in prose.glued(nbformat.read(path, as_version=4)).items()
    }
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "book").rglob("*.md")]
    assert sum(len(prose.NUMBER.findall(page)) for page in pages) >= 5
    for page in pages:
        assert prose.refreshed(page, values) == page


def test_the_glossary_is_sorted_and_says_something_of_each_term() -> None:
    text = (ROOT / "book/reference/glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\S.*)\n: ", text, flags=re.MULTILINE)
    assert len(terms) > 30
    assert terms == sorted(terms, key=str.casefold)
    everyday = {"bracket", "collapse", "control", "flow", "gap", "reading", "share", "start", "work"}
    assert not everyday & {*terms}, "the page's first use of such a word, in whatever sense, would lead to the entry"


def test_the_first_use_of_a_term_leads_to_the_glossary(built_book: Path) -> None:
    page = (built_book / "book/annealing/avo.html").read_text(encoding="utf-8")
    links = re.findall(r'<a class="[^"]*avo-term[^"]*" href="([^"]+)">([^<]+)</a>', page)
    assert ("../reference/glossary.html#term-elbo", "ELBO") in links
    assert len({target for target, _ in links}) == len(links) > 5
    page = (built_book / "book/experiments/inference.html").read_text(encoding="utf-8")
    links = re.findall(r'<a class="[^"]*avo-term[^"]*" href="([^"]+)">([^<]+)</a>', page)
    assert ("../reference/glossary.html#term-generalisation-gap", "generalisation gap") in links, "the longer term wins"
    glossary = (built_book / "book/reference/glossary.html").read_text(encoding="utf-8")
    assert 'id="term-elbo"' in glossary
    assert "avo-term" not in glossary
    for name in ("api", "bibliography", "experiments", "notation"):
        assert "avo-term" not in (built_book / f"book/reference/{name}.html").read_text(encoding="utf-8")
    assert re.search(r'glossary\.html#term-elbo": "<dt', (built_book / "_static/tips-text.js").read_text("utf-8"))


def test_a_renamed_term_leaves_no_dead_link(tmp_path: Path) -> None:
    """Sphinx writes changed pages alone, and the page that uses a term has not changed."""
    source = tmp_path / "source"
    terms = source / f"{glossary.PAGE}.rst"
    terms.parent.mkdir(parents=True)
    (source / "index.rst").write_text(f"Book\n====\n\n.. toctree::\n\n   {glossary.PAGE}\n   page\n")
    (source / "page.rst").write_text("Page\n====\n\nA gap is wide.\n")
    for term, linked in (("gap", True), ("rift", False)):
        terms.write_text(f"Glossary\n========\n\n{term}\n   Something between two bounds.\n")
        app = Sphinx(source, None, tmp_path / "html", tmp_path / "trees", "html", {"html_theme": "basic"}, None, None)
        app.connect("doctree-read", glossary.name_terms)
        app.connect("env-updated", glossary.pages_to_rewrite)
        app.connect("doctree-resolved", glossary.link_terms)
        app.build()
        page = (tmp_path / "html" / "page.html").read_text(encoding="utf-8")
        assert ("glossary.html#term-gap" in page) == linked


def test_a_lecture_has_every_figure_and_every_exercise_with_its_solution(tmp_path: Path) -> None:
    lecture.write(tmp_path / "lecture")
    names = {file.name for file in (tmp_path / "lecture" / "figures").iterdir()}
    texts = {file.stem: file.read_text(encoding="utf-8") for file in (tmp_path / "lecture").glob("*.md")}
    assert sorted(texts) == ["exercises", "figures", "solutions"]
    assert names == set(re.findall(r"\(figures/([^)]+)\)", texts["figures"]))
    asked, answered = (re.findall("^### .*", texts[name], re.MULTILINE) for name in ("exercises", "solutions"))
    assert asked == answered
    for number, path in lecture.chapters():
        notebook = nbformat.read(path, as_version=4)
        pictures = [
            out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})
        ]
        assert len([name for name in names if name.startswith(f"{number:02d}-")]) == len(pictures)
        for _, caption in captions.figures(notebook):
            text = lecture.plain(caption.source).removeprefix(captions.MARK)
            assert [text in texts[name] for name in sorted(texts)] == [False, True, False]
        source = "\n".join(cell.source for cell in notebook.cells)
        assert all(f"### {title}" in asked for title in re.findall(r"^:::\{exercise\} (.*)", source, re.MULTILINE))
    everything = "".join(texts.values())
    assert not re.search(r":::|<!--|\.ipynb", everything)


def test_a_lecture_replaces_nothing_but_a_lecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lecture, "chapters", lambda: iter(()))
    lecture.write(tmp_path / "lecture")
    (tmp_path / "lecture" / "slides.tex").touch()
    (tmp_path / "lecture" / "figures" / "99-gone-1.png").touch()
    lecture.write(tmp_path / "lecture")
    names = {file.name for file in (tmp_path / "lecture").rglob("*")}
    assert names == {"slides.tex", "figures", "figures.md", "exercises.md", "solutions.md"}
    (tmp_path / "talk" / "figures").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="holds something else"):
        lecture.write(tmp_path / "talk")
    assert (tmp_path / "talk" / "figures").is_dir()
