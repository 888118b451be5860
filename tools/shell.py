"""What is run and compared must not depend on the reader's shell: its settings for Python and Jupyter are put aside."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ("PYTHON", "IPYTHON", "JUPYTER", "MPL", "MATPLOTLIB", "OMP_", "MKL_NUM_")


def put_aside() -> None:
    """Gives this process and the kernels that it starts an environment of their own, with this repository's avo_lib."""
    foreign = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [entry for entry in sys.path if Path(entry) not in foreign or Path(entry).is_relative_to(ROOT)]
    for name, value in list(os.environ.items()):
        relative = name.startswith("XDG_") and name.endswith("_HOME") and not Path(value).is_absolute()
        if name.startswith(FOREIGN) or relative:
            del os.environ[name]
    empty = tempfile.mkdtemp(prefix="avo-")  # no profile, start-up file or kernel of the reader's is in it
    atexit.register(shutil.rmtree, empty, ignore_errors=True)
    os.environ |= {
        **dict.fromkeys(("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"), empty),
        "MATPLOTLIBRC": os.devnull,
        "OMP_NUM_THREADS": "1",  # sums depend on it, and the stored outputs are compared digit by digit
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
    }
    if not os.access(os.path.expanduser("~"), os.W_OK):  # no home, or not ours: matplotlib would complain in a cell
        os.environ["HOME"] = empty
    import matplotlib.font_manager  # noqa: F401  # the first import makes a cache, and would say so in a cell
