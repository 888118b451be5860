"""Builds the book once for the tests that read its pages, and opens a browser once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BUILD = ["build", ".", "-W", "-n", "--keep-going"]


@pytest.fixture(scope="session")
def built_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of the built pages.

    The build is a fresh one, outside the working tree: Sphinx repeats no warning for a page that it finds
    unchanged, so a second build in place would hide them.
    """
    tool = shutil.which("jupyter-book", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if tool is None:
        pytest.fail("jupyter-book is not installed beside this Python: make .venv/.installed", pytrace=False)
    output = tmp_path_factory.mktemp("book")
    done = subprocess.run(
        [tool, *BUILD, "--path-output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
    if done.returncode:
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        complaints = [line for line in text.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
        listed = "\n".join(complaints) or "no warning was printed"
        command = f"jupyter-book {' '.join(BUILD)}"
        pytest.fail(f"{command} failed:\n{listed}\n\nWhole output:\n{text}", pytrace=False)
    return output / "_build" / "html"


@pytest.fixture(scope="session")
def pages(built_book: Path) -> list[Path]:
    """Returns every page of the built book."""
    # The theme leaves a template of its own among the static files.
    found = sorted(page for page in built_book.rglob("*.html") if "_static" not in page.parts)
    assert len(found) >= 5, f"only {len(found)} pages in {built_book}"
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system; where there is none, the tests say so, and in CI they fail."""
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        message = f"no Chromium on this machine ({', '.join(BROWSERS)}): the pages are not tried in a browser"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield chromium
        chromium.close()
