"""What a link shows before it is followed: statements, exercises, equations, captions, works and terms, as a script.

A page that lies on a disk may not read another one, so the texts of all that is linked lie in one file, which
`tips.js` loads when a reader first points at a link.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

ARTICLE = re.compile(r"<article.*?</article>", re.DOTALL)
LINK = re.compile(r'<a\b(?![^>]*headerlink)[^>]*\bhref="([^"#:]*)#([^"]+)"')
SHOWN = re.compile(r'^<figure\b|^<dt\b[^>]*\bid="term-|^<div\b[^>]*\bclass="(?:proof|exercise|math|citation)\b')
# Pictures would make the file heavy, and links could not be reached: their words stay.
DROPPED = re.compile(
    r'<a class="headerlink".*?</a>|<span class="backrefs">.*?</span>|<img\b[^>]*>|</?a\b[^>]*>| (?:id|role)="[^"]*"',
    re.DOTALL,
)


def write(app: Sphinx, error: Exception | None) -> None:
    """Writes `_static/tips-text.js`: from page and anchor to HTML."""
    if error or app.builder.name != "html":
        return
    names = [app.builder.get_target_uri(name) for name in sorted(app.env.found_docs)]
    pages = {name: _article(Path(app.outdir) / name) for name in names}
    linked = {
        (posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name, anchor)
        for name, text in pages.items()
        for path, anchor in LINK.findall(text)
    }
    tips = {}
    for name, anchor in sorted(linked):
        text = _element(pages.get(name, ""), anchor)
        if SHOWN.search(text):
            caption = re.search(r"<figcaption>.*</figcaption>", text, re.DOTALL)
            tips[f"{name}#{anchor}"] = DROPPED.sub("", caption[0] if caption else text)
    script = f"window.avoTips = {json.dumps(tips, ensure_ascii=False)};\n"
    (Path(app.outdir) / "_static" / "tips-text.js").write_text(script, encoding="utf-8")


def _article(path: Path) -> str:
    found = ARTICLE.search(path.read_text(encoding="utf-8"))
    return found[0] if found else ""


def _element(text: str, anchor: str) -> str:
    """Returns the HTML of the element with this anchor, or nothing."""
    start = re.search(rf'<(\w+)\b[^>]*\bid="{re.escape(anchor)}"[^>]*>', text)
    if start is None:
        return ""
    depth = 0
    for tag in re.compile(rf"<(/?){start[1]}\b").finditer(text, start.start()):
        depth += -1 if tag[1] else 1
        if depth == 0:
            end = text.index(">", tag.end()) + 1
            if start[1] == "dt":  # what is said of a term stands beside it
                end = text.index("</dd>", end) + len("</dd>")
            return text[start.start() : end]
    return ""
