"""What links tell before they are followed, and the links between code and API, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from visit import RAW_TEX, Visit


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("ais.html#def-ais-path", "Definition"),
        ("#prop-avo-step", "(One step in one line)"),
        ("../reference/bibliography.html#huang2018improving", "Improving explorability"),
    ],
)
def test_a_link_shows_what_it_leads_to(browser: Any, built_book: Path, target: str, words: str) -> None:
    with Visit(browser, built_book / "book" / "annealing" / "avo.html") as visit:
        link, tip = visit.page.locator(f"article a[href='{target}']").first, visit.page.get_by_role("tooltip")
        link.hover()
        tip.wait_for()
        assert words in tip.inner_text()
        assert link.get_attribute("aria-describedby") == tip.get_attribute("id")
        visit.page.wait_for_function(f"!({RAW_TEX}).length", timeout=10_000)
        visit.page.keyboard.press("Escape")
        tip.wait_for(state="hidden")
        visit.page.mouse.move(0, 0)
        visit.page.keyboard.press("Tab")  # so that the browser takes what follows for the keyboard's
        link.focus()
        tip.wait_for()
        visit.page.keyboard.press("Tab")
        tip.wait_for(state="hidden")
        assert not visit.errors


def test_a_finger_gets_no_tip(browser: Any, built_book: Path) -> None:
    page = browser.new_context(has_touch=True).new_page()
    page.goto((built_book / "book" / "annealing" / "avo.html").as_uri())
    page.locator("article a[href='ais.html#def-ais-path']").first.tap()
    page.wait_for_url("**/ais.html#def-ais-path")
    page.context.close()


def test_code_and_api_lead_to_each_other(browser: Any, built_book: Path) -> None:
    with Visit(browser, built_book / "book" / "annealing" / "avo.html") as visit:
        link = visit.page.locator(".cell_input a.avo-code:visible").first
        name = (link.get_attribute("href") or "").partition("#")[2]
        assert name.startswith("avo_lib.")
        link.click()
        visit.page.wait_for_url(f"**/reference/api.html#{name}")
        entry = visit.page.locator("dl.py", has=visit.page.locator(f"[id='{name}']")).last
        entry.locator(".avo-uses a", has_text="Annealed variational objectives").click()
        visit.page.wait_for_url("**/annealing/avo.html")
        assert not visit.errors
