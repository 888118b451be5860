"""Builds the book once for the tests that read its pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ["build", ".", "-W", "-n", "--keep-going"]


@pytest.fixture(scope="session")
def built_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of the built pages.

    The build is a fresh one, outside the working tree: Sphinx repeats no warning for a page that it finds
    unchanged, so a second build in place would hide them.
    """
    tool = shutil.which("jupyter-book", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if tool is None:
        pytest.fail("jupyter-book is not installed beside this Python: pip install -e '.[book,test]'", pytrace=False)
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
