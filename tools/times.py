"""Measures what running each chapter takes, for the page of running times: `python tools/times.py [NOTEBOOK ...]`.

These are the processor time and peak memory of a notebook's kernel and its children, on one thread. Unlike wall-clock
time, neither counts the wait for a processor; but what runs on the other thread of the same core slows each instruction
down, by a quarter up to as much again, so measure on a quiet machine. They are written to `results/times.json`, which
keeps what is not measured anew. The page that reads it is not measured.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from avo_lib.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
BOOK, FILE = ROOT / "book", ROOT / "results" / "times.json"
PAGE = BOOK / "reference" / "running_times.ipynb"
# A process starts with the `ru_maxrss` of the one that launched it; on Linux the kernel's own peak stands in `VmHWM`.
ASK = """import json, pathlib, resource, sys
me, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
seconds = me.ru_utime + me.ru_stime + children.ru_utime + children.ru_stime
if sys.platform == "darwin":
    peak = max(me.ru_maxrss, children.ru_maxrss)
else:
    status = pathlib.Path("/proc/self/status").read_text()
    peak = 1024 * max(int(status.partition("VmHWM:")[2].split()[0]), children.ru_maxrss)
print(json.dumps([seconds, peak]))"""


def measure(path: Path) -> dict[str, float]:
    """Runs the notebook in memory and returns its processor time in seconds and its peak memory in GB."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    places = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=places).execute(
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    )
    seconds, memory = json.loads(notebook.cells[-1].outputs[0].text)
    return {"seconds": round(seconds), "memory": round(memory / 2**30, 1)}


def processor() -> str:
    """Returns the name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def stem(path: Path) -> str:
    """Returns how a notebook is called in the file: its path in the book, without the ending."""
    return path.resolve().relative_to(BOOK).with_suffix("").as_posix()


def notebooks() -> list[Path]:
    """Returns all that is measured; what Jupyter leaves beside an open notebook is none."""
    found = (path for path in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    return sorted(path for path in found if path != PAGE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the named notebooks, or all of the book's."""
    names = sys.argv[1:] if arguments is None else arguments
    paths = [Path(name).resolve() for name in names] or notebooks()
    if strange := [str(path) for path in paths if path not in notebooks()]:
        raise SystemExit(f"no notebooks of the book that are measured: {', '.join(strange)}")
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for path in paths:
        known[stem(path)] = measure(path) | {"processor": processor()}
        print(stem(path), known[stem(path)], flush=True)
        write_atomically(FILE, f"{json.dumps(known, indent=1, sort_keys=True)}\n".encode())


if __name__ == "__main__":
    main()
