"""The order in which files are handed to workers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_longest_files_come_first(request: pytest.FixtureRequest) -> None:
    """Else `make test` waits for the one worker that got a long file last."""
    conftest = request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    assert [path for path in conftest.LONGEST if not (ROOT / path).is_file()] == []
    first, second = conftest.LONGEST[:2]
    expected = [f"{first}::a", f"{second}::b", "book/new.ipynb::Cell 1", "book/new.ipynb::Cell 0", "tests/a.py::c"]
    items = [SimpleNamespace(nodeid=expected[place]) for place in (4, 2, 1, 3, 0)]
    conftest.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == expected
    # pytest-xdist's own order is by the number of tests in a file, which says little about their time.
    assert "--dist loadfile --no-loadscope-reorder" in (ROOT / "Makefile").read_text()
