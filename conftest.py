"""All tests, notebook cells among them, run apart from the reader's shell; nbval's kernels doubt every claim."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tools import worlds
from tools.shell import put_aside

put_aside()


def pytest_configure(config: pytest.Config) -> None:
    """Sets up the kernels of nbval, which come from this process."""
    folder = Path(tempfile.mkdtemp(prefix="worlds-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ.update(worlds.startup(folder))
