"""The built book in a real browser, from disk; every request that would leave the machine is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

HARMLESS = (
    "Identifier 'THEBE_JS_URL' has already been declared",  # the theme registers an unused extension twice
    "Got invalid theme mode: . Resetting to auto.",  # the theme's greeting to a browser that is new to it
)
WIDGET_DATA = "application/vnd.jupyter.widget-view+json"
SCHEMES = ["light", "dark"]
# Which frame is on show: its text, and the picture that the browser really drew.
VISIBLE_FRAME = """() => {
  const shown = [...document.querySelectorAll('.avo-frame')].filter(frame => frame.offsetParent !== null);
  const frame = shown[0], picture = frame.querySelector('img');
  return {count: shown.length, label: frame.querySelector('figcaption').textContent, alt: picture.alt,
          source: picture.src, width: picture.naturalWidth};
}"""


RAW_TEX = r"""[...document.querySelectorAll('article .math')]
  .map(formula => formula.textContent).filter(text => /\\[(\[]/.test(text))"""
LUMINANCES = """() => {
  const of = (selector, key) => getComputedStyle(document.querySelector(selector))[key]
    .match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3;
  return [of('body', 'backgroundColor'), of('.widget-label', 'color'),
          of('.widget-subarea', 'backgroundColor'), of('.avo-frame img', 'backgroundColor')];
}"""


# The first page only redirects, and a page that has MathJax's script may not have run it yet.
TYPESET = """async () => {
    if (document.querySelector('meta[http-equiv="refresh" i]')) return false;
    if (!document.querySelector('script[src*="tex-svg"]')) return true;
    return Boolean(await window.MathJax?.startup?.promise?.then(() => true));
}"""


class Visit:
    """One page, opened from disk, with what it complained about and whom it asked."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light") -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self._complain(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self._complain(str(error)))
        self.page.route("**/*", self._route)
        self.page.goto(path.as_uri(), wait_until="load")
        self.page.wait_for_function(TYPESET)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def _complain(self, text: str) -> None:
        if not any(known in text for known in HARMLESS):
            self.errors.append(text)

    def _route(self, route: Any) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def frame(self) -> dict[str, Any]:
        """Returns the visible frame of the first widget."""
        shown: dict[str, Any] = self.page.evaluate(VISIBLE_FRAME)
        return shown

    def frame_other_than(self, label: str) -> dict[str, Any]:
        """Waits until another frame shows, and returns it."""
        self.page.wait_for_function(f"label => ({VISIBLE_FRAME})().label !== label", arg=label, timeout=10_000)
        return self.frame()


@pytest.fixture(scope="session")
def widget_pages(pages: list[Path]) -> list[Path]:
    """Returns the pages with a slider of `avo_lib.explore`."""
    found = [page for page in pages if WIDGET_DATA in page.read_text(encoding="utf-8")]
    assert found, "no page of the book has a widget"
    return found


def test_every_page_is_quiet_and_typeset(browser: Any, pages: list[Path]) -> None:
    for path in (page for page in pages if "_modules" not in page.parts):  # listings of source, all of one kind
        with Visit(browser, path) as visit:
            formulas = visit.page.locator("article .math").count()
            typeset = visit.page.locator("article mjx-container").count()
            raw = visit.page.evaluate(RAW_TEX)
            faulty = visit.page.locator("article [data-mml-node='merror']").count()
            assert not visit.requests, f"{path.name} asks the network"
            assert not visit.errors, f"{path.name} complains"
            assert not raw, f"{path.name} shows raw TeX"
            assert faulty == 0, f"{path.name} has formulas that MathJax cannot read"
            assert typeset >= formulas, f"{path.name}: {typeset} of {formulas} formulas are typeset"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_slider_obeys_the_keyboard(browser: Any, widget_pages: list[Path], scheme: str) -> None:
    for path in widget_pages:
        with Visit(browser, path, scheme) as visit:
            handle = visit.page.locator(".noUi-handle").first
            handle.wait_for(timeout=20_000)
            before = visit.frame()
            assert before["count"] == visit.page.locator(".noUi-handle").count(), "one frame shows for each slider"
            assert before["width"] > 100
            assert before["label"] in before["alt"]
            handle.focus()
            visit.page.keyboard.press("ArrowRight")
            after = visit.frame_other_than(before["label"])
            assert after["source"] != before["source"]
            visit.page.keyboard.press("ArrowLeft")
            assert visit.frame_other_than(after["label"]) == before
            assert not visit.requests
            assert not visit.errors


@pytest.mark.parametrize("scheme", SCHEMES)
def test_play_runs_through_the_frames(browser: Any, widget_pages: list[Path], scheme: str) -> None:
    for path in widget_pages:
        with Visit(browser, path, scheme) as visit:
            button = visit.page.locator(".widget-play button").first
            button.wait_for(timeout=20_000)
            first = visit.frame()
            button.click()
            second = visit.frame_other_than(first["label"])
            third = visit.frame_other_than(second["label"])
            assert len({first["source"], second["source"], third["source"]}) == 3
            assert not visit.errors


def test_dark_mode_is_dark_and_figures_stay_white(browser: Any, widget_pages: list[Path]) -> None:
    with Visit(browser, widget_pages[0], "dark") as visit:
        visit.page.locator(".noUi-handle").first.wait_for(timeout=20_000)
        assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark"
        body, text, paper, figure = visit.page.evaluate(LUMINANCES)
        assert body < 60
        assert text < 100 < 255 == paper, "the slider's label needs to be dark on white"
        assert figure == 255
