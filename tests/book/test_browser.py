"""The built book in a real browser, from disk; every request that would leave the machine is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import axe_playwright_python
import matplotlib.pyplot as plt
import pytest
import torch
import yaml
from visit import RAW_TEX, Visit

from avo_lib.show.explore import start_picker

ROOT = Path(__file__).resolve().parents[2]
AXE_CORE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
SCHEMES = ["light", "dark"]
WIDTHS = [390, 1440]
SPOKEN = "document.querySelector('.avo-frames input').getAttribute('aria-valuetext').replaceAll('\\u00a0', ' ')"
# What no reader can see: right of the page, or cut by a box that does not scroll.
CLIPPED = """() => [...document.querySelectorAll('article :is(mjx-container > svg, table, pre, img)')]
  .filter(thing => {
    const right = thing.getBoundingClientRect().right - 1;
    for (let box = thing.parentElement; box; box = box.parentElement) {
      const overflow = getComputedStyle(box).overflowX;
      if (overflow === 'auto' || overflow === 'scroll') return false;
      if (overflow !== 'visible' && right > box.getBoundingClientRect().right) return true;
    }
    return right > innerWidth;
  }).map(thing => `${thing.tagName} ${thing.parentElement.textContent.trim().slice(0, 60)}`)"""
# Words that scroll sideways are not read; on small screens numbers scroll below what says whose they are.
SCROLLING = """() => [...document.querySelectorAll('article .avo-scroll')]
  .filter(box => box.scrollWidth > box.clientWidth + 1)
  .filter(box => innerWidth >= 1000 || !box.querySelector('table.dataframe.avo-held, img'))
  .map(box => box.textContent.trim().slice(0, 60))"""
# Half a formula says nothing: a set one breaks its lines for a phone, to the tenth that hangs on the machine's fonts.
# One between words that is longer has to be set.
HALF = """() => [...document.querySelectorAll('article :is(div.math mjx-container, .avo-wide)')]
  .filter(formula => formula.scrollWidth > 1.1 * formula.clientWidth)
  .map(formula => formula.closest('div').id || formula.querySelector('mjx-assistive-mml').textContent.slice(0, 60))"""
# A number and what it lies in, and a formula and what it is equal to; a mark or a link may stand between them.
PARTED = """() => [...document.querySelectorAll('article :is(p, li, td, dd):not(:has(pre))')].flatMap(text => [
  ...text.textContent.match(/\\d[ \\n]±.{0,9}|±[ \\n]\\d+/g) ?? [],
  ...[...text.querySelectorAll('mjx-container:not([display])')]
    .filter(formula => /[=≈<>≤≥]$/.test(formula.querySelector('mjx-assistive-mml').textContent))
    .filter(formula => !formula.closest('.avo-tied')).map(formula => formula.parentElement.parentElement.textContent),
])"""
TWICE = """() => {
  const names = [...document.querySelectorAll('[id]')].map(thing => thing.id);
  return names.filter((name, i) => names.indexOf(name) < i);
}"""
# Letters are drawn 14 pixels high; below 7.5 nobody reads them.
TINY = """() => [...document.querySelectorAll('article .cell_output img')]
  .filter(picture => picture.offsetParent && picture.clientWidth < 0.54 * picture.naturalWidth)
  .map(picture => picture.alt)"""
LOST = """table => {
  const box = table.parentElement, sides = box.getBoundingClientRect();
  box.scrollLeft = box.scrollWidth;
  return [...table.querySelectorAll('tbody th:last-of-type')].map(name => name.getBoundingClientRect())
    .filter(name => !box.scrollLeft || name.left < sides.left - 1 || name.right > sides.right).length;
}"""
# axe walks every element, of which most are formulas, tokens of code and the API's members: one of a kind is enough.
THIN_OUT = """() => {
  document.querySelectorAll('mjx-container > svg').forEach(drawing => drawing.replaceChildren());
  document.querySelectorAll('mjx-assistive-mml').forEach(text => text.remove());
  [...document.querySelectorAll('dl.py')].slice(20).forEach(member => member.remove());
  const seen = new Set();
  for (const token of document.querySelectorAll('pre span')) {
    const kind = token.className + Boolean(token.closest('.cell_output'));
    if (seen.has(kind)) token.replaceWith(...token.childNodes);
    seen.add(kind);
  }
  // The switch of the scheme fades, and axe would measure the colours half way.
  const style = document.createElement('style');
  style.textContent = '* {transition: none !important}';
  document.head.append(style);
}"""
AXE = """async only => {
  const options = {preload: false, resultTypes: ['violations'], ...(only && {runOnly: only})};
  const found = (await axe.run(document, options)).violations;
  return found.filter(one => ['serious', 'critical'].includes(one.impact))
    .flatMap(one => one.nodes.slice(0, 3).map(node => `${one.id}: ${node.target} ${node.failureSummary}`));
}"""


def _documents() -> list[str]:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return [contents["root"], *chapters, "genindex", "prf-prf", "search"]


@pytest.fixture(scope="session")
def widget_pages(pages: list[Path]) -> list[Path]:
    """Returns the pages with a slider of `avo_lib.show.explore`."""
    found = [page for page in pages if 'class="avo-frames"' in page.read_text(encoding="utf-8")]
    assert found, "no page of the book has a widget"
    return found


@pytest.mark.parametrize("document", _documents())
def test_page(browser: Any, built_book: Path, document: str) -> None:
    """Quiet, typeset, within the screen and accessible, on a phone and on a desk, by day and by night."""
    with Visit(browser, built_book / f"{document}.html") as visit:
        page = visit.page
        formulas = page.locator("article .math").count()
        assert not page.evaluate(RAW_TEX), "raw TeX"
        assert page.locator("article [data-mml-node='merror']").count() == 0, "formulas that MathJax cannot read"
        assert page.locator("article mjx-container").count() >= formulas, "formulas that are not typeset"
        assert not page.evaluate(PARTED), "parted by a line's end"
        assert not page.evaluate(TWICE), "anchors that stand twice"
        for width in (*WIDTHS, 820):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(100)  # the scripts of the page answer a change of its size
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"sideways scroll at {width} px"
            assert not page.evaluate(CLIPPED), f"cut off at {width} px"
            assert not page.evaluate(SCROLLING), f"scrolls sideways at {width} px"
            assert not page.evaluate(HALF), f"formulas that scroll sideways at {width} px"
            assert not page.evaluate(TINY), f"too small to read at {width} px"
            for table in page.locator("table.avo-held").all():
                assert table.evaluate(LOST) == 0, f"names of rows that scroll away at {width} px"
            assert page.locator("table.avo-list .avo-empty:visible").count() == 0, f"names of nothing at {width} px"
            lists = page.locator("table.avo-list").count()
            assert width < 1440 or not lists, "a list in place of a table on a desk"
        assert not visit.requests
        assert not visit.errors
        page.evaluate(THIN_OUT)
        page.evaluate(AXE_CORE.read_text(encoding="utf-8"))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            for scheme in SCHEMES:
                page.evaluate("scheme => void (document.documentElement.dataset.theme = scheme)", scheme)
                only = None if scheme == "light" else ["color-contrast"]  # nothing else hangs on it
                assert not page.evaluate(AXE, only), f"{scheme} at {width} px"


def test_no_heading_is_bolder_than_those_above_it(browser: Any, built_book: Path) -> None:
    weight = "heading => getComputedStyle(heading).fontWeight"
    with Visit(browser, built_book / "book/experiments/gain.html") as visit:
        weights = [int(visit.page.locator(f"article {level}").first.evaluate(weight)) for level in ("h1", "h2", "h3")]
    assert weights == sorted(weights, reverse=True)


def test_a_proof_has_the_margins_of_its_statement(browser: Any, built_book: Path) -> None:
    margin = "text => text.getBoundingClientRect().left - text.closest('.proof').getBoundingClientRect().left"
    with Visit(browser, built_book / "book/foundations/vae.html") as visit:
        for width in WIDTHS:
            visit.page.set_viewport_size({"width": width, "height": 900})
            kinds = ("div.proposition > section > p", "div.proof:not(:has(> .admonition-title)) > p")
            statement, proof = (visit.page.locator(kind).first.evaluate(margin) for kind in kinds)
            assert statement == pytest.approx(proof, abs=1) and proof > 0


def test_buttons_say_what_they_do_and_where_the_keyboard_is(browser: Any, built_book: Path) -> None:
    with Visit(browser, built_book / "book/foundations/vae.html") as visit:
        page = visit.page
        assert page.locator("summary[aria-label]").count() == 0, "a name in place of what stands there"
        assert page.get_by_role("button", name="Solution to Exercise 3.2", exact=True).count() == 1
        page.keyboard.press("Tab")  # so that the browser takes what follows for the keyboard's
        buttons = page.locator(".bd-header-article .btn:visible").all()
        assert len(buttons) > 2
        for button in buttons:
            button.focus()
            assert button.evaluate("button => parseFloat(getComputedStyle(button).outlineWidth)") >= 2
            assert button.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"


def test_long_names_break_behind_an_underscore(browser: Any, built_book: Path) -> None:
    for page, names in (("book/reference/api.html", ".sig-name"), ("genindex.html", ".indextable a")):
        with Visit(browser, built_book / page) as visit:
            name = visit.page.locator(names, has_text="effective_sample_size").first
            assert "effective_<wbr>sample_<wbr>size" in name.inner_html()


def test_paper_has_no_sliders(browser: Any, widget_pages: list[Path]) -> None:
    with Visit(browser, widget_pages[0]) as visit:
        visit.page.emulate_media(media="print")
        assert visit.page.locator(".avo-controls").count() > 0
        assert visit.page.locator(".avo-controls:visible").count() == 0


def test_slider_obeys_the_keyboard(browser: Any, widget_pages: list[Path]) -> None:
    for path in widget_pages:
        with Visit(browser, path) as visit:
            before = visit.frame()
            assert before["count"] == visit.page.locator(".avo-frames").count(), "one frame shows for each slider"
            assert before["label"] in before["alt"]
            slider = visit.page.get_by_role("slider").first
            slider.focus()
            visit.page.keyboard.press("ArrowRight")
            after = visit.frame_other_than(before["label"])
            assert after["source"] != before["source"]
            assert visit.page.evaluate(SPOKEN) == after["label"]
            visit.page.keyboard.press("Home")
            assert visit.frame_other_than(after["label"]) == before


@pytest.mark.parametrize("width", WIDTHS)
def test_a_frame_is_as_wide_as_drawn_or_as_the_column(browser: Any, widget_pages: list[Path], width: int) -> None:
    """As static figures are: enlarged it would be soft, and shrunk to a phone's width it could not be read."""
    for path in widget_pages:
        with Visit(browser, path) as visit:
            visit.page.set_viewport_size({"width": width, "height": 900})
            visit.page.wait_for_timeout(200)  # as above
            frame = visit.frame()
            assert 200 < frame["column"] <= width
            shown, fitting = frame["width"], min(frame["drawn"], frame["column"])
            assert abs(shown - fitting) <= 1 or shown == pytest.approx(0.625 * frame["drawn"], abs=1), path.name
            assert fitting - 1 <= shown <= frame["drawn"], path.name


def test_play_runs_through_the_frames_and_pauses(browser: Any, widget_pages: list[Path]) -> None:
    with Visit(browser, widget_pages[0]) as visit:
        first = visit.frame()
        visit.page.get_by_role("button", name="Play").first.click()
        second = visit.frame_other_than(first["label"])
        third = visit.frame_other_than(second["label"])
        assert len({first["source"], second["source"], third["source"]}) == 3
        visit.page.get_by_role("button", name="Pause").click()
        paused = visit.frame()
        visit.page.wait_for_timeout(1000)
        assert visit.frame() == paused
        assert not visit.errors


def test_figures_stay_white_in_the_dark(browser: Any, widget_pages: list[Path]) -> None:
    with Visit(browser, widget_pages[0], "dark") as visit:
        paper = "getComputedStyle(document.querySelector('.avo-frame img')).backgroundColor"
        assert visit.page.evaluate(paper) == "rgb(255, 255, 255)"
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 18, 18)"


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_in_a_table_stand_apart(browser: Any, built_book: Path, width: int) -> None:
    with Visit(browser, built_book / "book" / "experiments" / "mnist.html") as visit:
        visit.page.set_viewport_size({"width": width, "height": 900})
        style = visit.page.evaluate("""() => [...document.querySelectorAll('table.dataframe td')].map(cell => {
          const style = getComputedStyle(cell);
          return [style.textAlign, style.fontVariantNumeric, parseFloat(style.paddingLeft) >= 8];
        })""")
        assert style
        assert all(cell == ["right", "tabular-nums", True] for cell in style)


@pytest.mark.parametrize(
    ("query", "first", "place"), [("AVO", "Annealed variational objectives", 1), ("importance samp", "Annealed", 2)]
)
def test_search_finds_chapters_first_with_a_line_of_text(
    browser: Any, built_book: Path, query: str, first: str, place: int
) -> None:
    """A chapter whose file is named so comes before titles that mention the word."""
    with Visit(browser, built_book / "search.html") as visit:
        visit.page.goto((built_book / "search.html").as_uri() + f"?q={query}")
        assert all(title.is_visible() for title in visit.page.locator("#search-results h2").all())
        titles = visit.page.locator("#search-results h2").all_inner_texts()
        assert any(title.startswith(first) for title in titles[:place])
        links = [link.get_attribute("href") for link in visit.page.locator("#search-results h2 a").all()]
        late = ["/reference/" in link for link in links]
        assert len(links) == len(titles) and late == sorted(late) and late[-1], "reference pages come last"
        lines = visit.page.locator("#search-results li p").all_inner_texts()
        assert sum(len(line) > 40 for line in lines) > len(lines) / 2
        for link in visit.page.locator("#search-results a").all()[:5]:
            target, _, anchor = (link.get_attribute("href") or "").partition("#")
            assert f'id="{anchor}"' in (built_book / target).read_text(encoding="utf-8") or not anchor
        assert not visit.errors


def test_a_picked_start_shows_its_paths(browser: Any, pages: list[Path]) -> None:
    """By the mouse and by the keyboard; one start shows at a time, and its button says where it leads."""
    found = [page for page in pages if '<fieldset class="avo-starts">' in page.read_text(encoding="utf-8")]
    assert found, "no page of the book has a picker"
    for path in found:
        with Visit(browser, path) as visit:
            for width in WIDTHS:
                visit.page.set_viewport_size({"width": width, "height": 900})
                buttons, shown = visit.page.locator(".avo-starts input"), visit.page.locator(".avo-starts g:visible")
                place = buttons.count() // 2
                buttons.nth(place).click()
                assert shown.count() == 1 and shown.get_attribute("class") == f"avo-start-{place}"
                visit.page.keyboard.press("ArrowRight")
                assert shown.count() == 1 and shown.get_attribute("class") == f"avo-start-{place + 1}"
                assert "ends at" in (buttons.nth(place + 1).get_attribute("aria-label") or "")
                first, button = shown.locator("polyline").first.bounding_box(), buttons.nth(place + 1).bounding_box()
                assert first and button and first["x"] - 2 <= button["x"] + 7 <= first["x"] + first["width"] + 2


def test_pickers_on_one_page_leave_each_other_alone(browser: Any, tmp_path: Path) -> None:
    """Also one that is shown twice."""
    paths = torch.tensor([[[0.2, 0.2], [0.8, 0.2]], [[0.2, 0.8], [0.8, 0.8]]])
    values = [
        start_picker(plt.subplots(figsize=(size, 2))[1], {"a": (colour, paths)}, name="Pick", alt="A plane").value
        for size, colour in ((2, "#0072B2"), (3, "#D55E00"))
    ]
    (tmp_path / "pickers.html").write_text("<!doctype html>" + "".join([*values, values[0]]), encoding="utf-8")
    with Visit(browser, tmp_path / "pickers.html") as visit:
        pickers = visit.page.locator(".avo-starts")
        pickers.nth(1).locator("input").first.click()
        visit.page.keyboard.press("ArrowDown")
        shown = pickers.locator("g:visible")
        assert shown.evaluate_all("all => all.map(one => one.getAttribute('class'))") == [
            f"avo-start-{place}" for place in (0, 1, 0)
        ]
        colours = shown.locator("polyline").evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
        assert colours == ["rgb(0, 114, 178)", "rgb(213, 94, 0)", "rgb(0, 114, 178)"]
        widths = pickers.locator("img").evaluate_all("all => all.map(one => one.clientWidth)")
        assert widths == [200, 300, 200]
