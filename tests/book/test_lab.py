"""The notebooks in a real JupyterLab: what a reader sees with the extension and without, and a widget that is live."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import notebooks as tool

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "annealing/avo.ipynb"
LIVE = """
import matplotlib.pyplot as plt
from avo_lib.show.explore import frame_slider

frames = [plt.figure(figsize=(2, 1)) for _ in range(3)]
frame_slider(frames, labels=["first", "second", "third"], name="step", alt="Empty")
"""

PICKED = """
import torch
from avo_lib.show.explore import start_picker

_, axes = plt.subplots(figsize=(3, 2))
there = torch.tensor([[[0.2, 0.2], [0.8, 0.2]], [[0.2, 0.8], [0.8, 0.8]]])
start_picker(axes, {"plain": ("#000000", there)}, name="Pick a start", alt="Empty")
"""


class Lab:
    """A JupyterLab of its own: no setting of the reader's, no token, one folder."""

    def __init__(self, folder: Path, home: Path, *, extension: bool) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        (home / "labconfig").mkdir(parents=True)
        if not extension:
            (home / "labconfig" / "page_config.json").write_text('{"disabledExtensions": {"jupyterlab-myst": true}}')
        places = {
            "JUPYTER_CONFIG_DIR": "",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "spaces",
        }
        places |= {"JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
        command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--IdentityProvider.token="]
        self.log = home / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, f"--port={self.url.rpartition(':')[2]}", f"--notebook-dir={folder}", "--LabApp.news_url="],
                env={**os.environ, **{key: str(home / place) for key, place in places.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.url}/api/status", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.25)
        raise AssertionError(f"JupyterLab did not start:\n{self.log.read_text()}")


@pytest.fixture
def open_lab(tmp_path: Path) -> Iterator[Any]:
    started: list[Lab] = []

    def start(folder: Path, *, extension: bool) -> Lab:
        started.append(Lab(folder, tmp_path / f"home{len(started)}", extension=extension))
        started[-1].wait()
        return started[-1]

    yield start
    for lab in started:
        lab.process.kill()
        lab.process.wait()


@pytest.mark.parametrize("extension", [True, False], ids=["with MyST", "plain"])
def test_a_chapter_reads_well(browser: Any, open_lab: Any, extension: bool) -> None:
    lab = open_lab(ROOT / "book", extension=extension)
    page = browser.new_page(viewport={"width": 1300, "height": 1500})
    page.goto(f"{lab.url}/lab/tree/{CHAPTER}?reset")
    opening = page.locator(".jp-MarkdownCell", has_text="After this chapter you can").first
    # A cell shows its source until it is rendered, and a reference of the source is a link of the text.
    opening.locator("a", has_text="Annealed importance sampling").wait_for(timeout=90_000)
    assert opening.locator("aside.admonition, aside").count() == int(extension), "the box is drawn by the extension"
    text = opening.inner_text()
    assert "predict which gradients differ" in text
    assert "{doc}" not in text
    page.close()


def test_make_lab_shows_the_sliders_before_anything_has_run(browser: Any, open_lab: Any, tmp_path: Path) -> None:
    """JupyterLab draws a stored widget only where it trusts the notebook; the cells of a fresh clone it does not."""
    planned = subprocess.run(["make", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = [line for line in planned.splitlines() if " trust " in line]
    lab = open_lab(ROOT / "book", extension=True)
    data = {"JUPYTER_DATA_DIR": str(lab.log.parent / "data")}
    subprocess.run(["sh", "-c", command.lstrip("@")], cwd=ROOT, env={**os.environ, **data}, check=True)
    page = browser.new_page(viewport={"width": 1300, "height": 1500})
    slider = page.locator(".jp-OutputArea .noUi-handle").first
    for _ in range(2):  # the first page of a server that has just started may miss its widgets: a reader reloads it
        page.goto(f"{lab.url}/lab/tree/{CHAPTER}?reset")
        deadline = time.monotonic() + 90
        while not slider.is_visible() and time.monotonic() < deadline:
            page.wait_for_timeout(500)
        if slider.is_visible():
            break
    assert slider.is_visible()
    assert not page.get_by_text("VBox(children=").count()
    page.close()


def test_a_notebook_runs_and_its_widgets_are_live(browser: Any, open_lab: Any, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = new_notebook(
        cells=[new_code_cell(LIVE), new_code_cell(PICKED)], metadata={"kernelspec": tool.KERNELSPEC}
    )
    nbformat.write(notebook, folder / "live.ipynb")
    lab = open_lab(folder, extension=True)
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.goto(f"{lab.url}/lab/tree/live.ipynb?reset")
    page.get_by_text("| Idle").wait_for(timeout=90_000)  # without a kernel JupyterLab runs a cell to no effect
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    handle = page.locator(".jp-OutputArea .noUi-handle").first
    handle.wait_for(timeout=90_000)
    assert page.locator(".jp-OutputArea").get_by_text("first").is_visible()
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.locator(".jp-OutputArea").get_by_text("second").wait_for(timeout=10_000)
    assert not page.locator(".jp-OutputArea").get_by_text("first").is_visible()
    page.locator(".jp-Notebook .cm-content").nth(1).click()
    page.keyboard.press("Shift+Enter")
    page.get_by_role("radio").nth(1).check(timeout=30_000)
    assert page.locator(".avo-starts g:visible").get_attribute("class") == "avo-start-1"
    page.close()
