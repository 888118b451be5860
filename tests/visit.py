"""A page of the built book in a browser; every request that would leave the machine is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Which frame is on show: its text, and the picture that the browser really drew.
VISIBLE_FRAME = """() => {
  const shown = [...document.querySelectorAll('.avo-frame')].filter(frame => frame.offsetParent !== null);
  const frame = shown[0], picture = frame.querySelector('img');
  return {count: shown.length, alt: picture.alt,
          label: frame.querySelector('figcaption').textContent.replaceAll('\\u00a0', ' '),
          source: picture.src, width: picture.clientWidth, drawn: picture.naturalWidth,
          column: frame.parentElement.clientWidth};
}"""
RAW_TEX = r"""[...document.querySelectorAll('article .math')]
  .map(formula => formula.textContent).filter(text => /\\[(\[]/.test(text))"""
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
        # Milliseconds: beside other work a page may take more than the usual 30 s.
        self.page.set_default_timeout(120_000)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route("**/*", self._route)
        self.page.goto(path.as_uri(), wait_until="load")
        self.page.wait_for_function(TYPESET)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

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
