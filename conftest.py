"""All tests, notebook cells among them, run apart from the reader's shell; nbval's kernels doubt every claim."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tools import worlds
from tools.shell import put_aside

put_aside()
DOUBTING = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Makes the profile of nbval's kernels, which come from this process."""
    folder = Path(tempfile.mkdtemp(prefix="worlds-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.stash[DOUBTING] = worlds.startup(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Sets it anew for each test: one before may have put the environment aside once more."""
    os.environ.update(item.config.stash[DOUBTING])
