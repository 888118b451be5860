"""Every claim of the book has its nearest false world on record, and the tests look into it."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tools import worlds
from tools.shell import put_aside

NOTEBOOKS = sorted(p for p in (worlds.ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
CLAIMED = {path.stem: list(worlds.claims(path)) for path in NOTEBOOKS}
SMALL = """
import torch
from avo_lib.testing import claim
small, large = 1.0, 2.0
for name, value in {"large": large, "larger": 3.0}.items():
    claim(f"{name} exceeds small", %s)
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_claim_has_its_false_world(path: Path) -> None:
    record = worlds.recorded(path)
    assert sorted(record) == sorted(CLAIMED[path.stem])
    for sentence, entry in record.items():
        assert sorted(entry) == ["code", "world"], sentence
        assert all(entry.values()), sentence


def test_no_sentence_stands_twice() -> None:
    counts = Counter(sentence for sentences in CLAIMED.values() for sentence in sentences)
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_no_record_without_a_chapter() -> None:
    assert {path.stem for path in worlds.WORLDS.glob("*.toml")} <= set(CLAIMED)


def test_the_environment_is_put_aside_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tests of the tools do, before notebooks of the same process."""
    monkeypatch.setenv("HOME", os.environ["HOME"])
    put_aside()


def test_kernels_of_this_run_doubt() -> None:
    scripts = list(Path(os.environ["IPYTHONDIR"]).rglob("startup/*.py"))
    assert [worlds.__file__ in script.read_text() for script in scripts] == [True]


def test_a_world_is_made_on_a_copy() -> None:
    """What it changes in a dictionary is there again for the next claim."""
    live: dict[str, Any] = {"test": [{"excess": 1.0}]}
    live["again"] = live
    world = {"world": "nothing is left", "code": "live['again']['test'][0]['excess'] = 0.0"}
    doubter = worlds.Doubter({"much is left": world})
    assert doubter.doubted(True, "much is left", "live['test'][0]['excess'] > 0", {"live": live}, {})
    assert live["test"] == [{"excess": 1.0}]


@pytest.mark.parametrize(
    ("condition", "code", "complaint"),
    [
        ("value > small", "value = small", ""),
        ("value > small - 1", "value = small", "does not notice its false world: {name} exceeds small"),
        ("value > small", "value = nothing", "name 'nothing' is not defined"),
        ("all(x < value for x in [small])", "value = small - 0.1", ""),
    ],
)
def test_the_tests_doubt(tmp_path: Path, condition: str, code: str, complaint: str) -> None:
    """A notebook of one claim, run as ``pytest --nbval`` runs a chapter."""
    folder = tmp_path / "kernel"
    variables = worlds.startup(folder)
    script = next(folder.rglob("*.py"))
    doubts = f"worlds = {{'{{name}} exceeds small': {{'world': 'as small', 'code': {code!r}}}}}"
    hook = f"import runpy\nhook = runpy.run_path({worlds.__file__!r})\n{doubts}\n"
    script.write_text(hook + "hook['watch'](get_ipython(), worlds)\n")
    cell = nbformat.v4.new_code_cell(SMALL % condition)
    cell.execution_count = 1
    cell.outputs = [nbformat.v4.new_output("stream", text="✓ large exceeds small\n✓ larger exceeds small\n")]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "small.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "small.ipynb"],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert complaint in done.stdout
    assert done.returncode == bool(complaint), done.stdout
