"""The order in which files are handed to workers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_longest_files_come_first(request: pytest.FixtureRequest) -> None:
    """Else `make test` waits for the one worker that got a long file last."""
    conftest = request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    assert all((ROOT / path).is_file() for path in conftest.FIRST)
    first, second = conftest.FIRST[:2]
    longest, *_, shortest = sorted(conftest.SECONDS, key=conftest.SECONDS.__getitem__, reverse=True)
    names = [first, second, f"book/{longest}.ipynb", f"book/{shortest}.ipynb", "book/new.ipynb", "tests/a.py"]
    expected = [f"{name}::{test}" for name in names for test in ("b", "a")]
    items = [SimpleNamespace(nodeid=expected[place]) for place in (10, 8, 11, 6, 2, 7, 9, 4, 0, 3, 1, 5)]
    conftest.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == expected
    # pytest-xdist's own order is by the number of tests in a file, which says little about their time.
    assert "--dist loadfile --no-loadscope-reorder" in (ROOT / "Makefile").read_text()
