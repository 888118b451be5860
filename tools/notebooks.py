"""Runs the book's notebooks in place and keeps them in one normal form.

    python tools/notebooks.py run [NOTEBOOK ...]        execute, then normalise
    python tools/notebooks.py normalise [NOTEBOOK ...]  normalise only
    python tools/notebooks.py check [NOTEBOOK ...]      exit with 1 if normalising would change anything
    python tools/notebooks.py arithmetic [NOTEBOOK ...] exit with 1 if an output depends on the processor
    python tools/notebooks.py doubt [NOTEBOOK ...]      exit with 1 if a claim holds in its false world, or has none

Without arguments, every notebook under book/ is taken. The normal form keeps outputs, execution counts and
widgets, which are part of the book, and drops what differs from run to run: a second run gives no diff. The numbers in
its prose are those of its run.
"""

from __future__ import annotations

import argparse
import atexit
import copy
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools import prose, widgets
from tools.shell import put_aside

BOOK = Path(__file__).resolve().parents[1] / "book"
VOLATILE = ("execution", "ExecuteTime", "collapsed", "scrolled")
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


class NotebookError(Exception):
    """A notebook that could not be run, with what a reader needs to find the cell."""


# --- the normal form


def normalised(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Returns a copy in the normal form; applied twice it changes nothing more."""
    notebook = copy.deepcopy(notebook)
    kept = {key: notebook.metadata[key] for key in ("widgets", "jupytext") if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}, **kept})
    for cell in notebook.cells:
        for key in VOLATILE:
            cell.metadata.pop(key, None)
        _fold(cell)
    widgets.renumber(notebook)
    prose.refresh(notebook)
    return notebook


def _fold(cell: nbformat.NotebookNode) -> None:
    """Folds cells that check and cells tagged so: in the book by the tag, in JupyterLab by its own mark."""
    tags = cell.metadata.get("tags", [])
    if "claim" in tags and "hide-input" not in tags:
        tags.append("hide-input")
    if "hide-input" in tags:
        cell.metadata["jupyter"] = {"source_hidden": True}
    else:
        cell.metadata.pop("jupyter", None)


# --- files


def dumps(notebook: nbformat.NotebookNode) -> str:
    """Returns the text of the file: UTF-8 JSON, indented by one, keys sorted, with a final newline."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def normalise(path: Path, *, write: bool = True) -> bool:
    """Normalises the file and says whether that changes it; without ``write`` it only says."""
    old = path.read_text(encoding="utf-8")
    new = dumps(normalised(nbformat.reads(old, as_version=4)))
    if new != old and write:
        _replace(path, new)
    return new != old


def _replace(path: Path, text: str) -> None:
    """Writes beside the file and renames: an interrupted run leaves the old notebook whole."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def run(path: Path, *, timeout: float) -> None:
    """Executes the notebook in place, in its own folder as Jupyter and nbval do, and normalises it.

    Raises:
        NotebookError: If a cell fails, takes too long or kills the kernel. The file is then left as it was.
        NumberError: If its prose cannot show the numbers; for a comment behind no number before anything is run.
    """
    notebook = nbformat.read(path, as_version=4)
    prose.check(notebook)
    notebook.metadata.pop("widgets", None)  # models of widgets that a cell no longer makes would stay for ever
    current = 0

    def started(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal current
        current = cell_index

    client = NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,  # chance decides how printed lines fall into messages
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=started,
    )
    # Without a folder to look for kernels in, one is left: that of the Python that runs this.
    client.km = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    try:
        client.execute()
    except (CellControlSignal, DeadKernelError) as error:
        code_cell = sum(cell.cell_type == "code" for cell in notebook.cells[:current])
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        raise NotebookError(
            f"cell {current} (nbval's Cell {code_cell}) failed, the file is unchanged\n{reason}"
        ) from error
    except (RuntimeError, OSError) as error:  # from nbclient, if a kernel did not start
        atexit.unregister(client._cleanup_kernel)  # it would fail for want of a kernel
        raise NotebookError(f"the kernel of {sys.executable} did not start: {error}") from error
    _replace(path, dumps(normalised(notebook)))


def arithmetic(path: Path, *, timeout: float) -> bool:
    """Prints what hangs on the processor's arithmetic, and says whether anything does."""
    from tools.arithmetic import report

    return report(path, timeout=timeout)


def doubt(path: Path, *, timeout: float) -> bool:
    """Prints the claims that no false world on record can shake, and says whether there are any."""
    from tools import arithmetic, worlds

    missing = set(worlds.claims(path)) - set(worlds.recorded(path))
    found = [f"no false world on record: {sentence}" for sentence in sorted(missing)]
    with tempfile.TemporaryDirectory() as folder:
        variables = worlds.startup(Path(folder) / "ipython")
        cells = arithmetic.execute(path, variables, timeout=timeout)
    stored = arithmetic.code_cells(nbformat.read(path, as_version=4))
    for number, (old, new) in enumerate(zip(stored, cells, strict=True)):
        if lines := arithmetic.differing(arithmetic.compared(old), new.outputs):
            found.append("\n  ".join([f"Cell {number}:", *lines]))
    print(f"{path}: {len(found)} complaints", *found, sep="\n", flush=True)
    return bool(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "normalise", "check", "arithmetic", "doubt"))
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook under book/")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one cell (default: %(default)s)")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted(p for p in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not paths:
        parser.error(f"no notebooks under {BOOK}")
    for path in paths:
        if not path.is_file():
            parser.error(f"no such notebook: {path}")
    put_aside()
    changed = failed = False
    for path in paths:
        try:
            if options.action == "run":
                print(f"running {path}", file=sys.stderr, flush=True)
                run(path, timeout=options.timeout)
            elif options.action in ("arithmetic", "doubt"):
                failed |= {"arithmetic": arithmetic, "doubt": doubt}[options.action](path, timeout=options.timeout)
            elif normalise(path, write=options.action == "normalise"):
                changed = True
                print(f"{'normalised' if options.action == 'normalise' else 'not in the normal form:'} {path}")
        except (NotebookError, prose.NumberError) as error:
            failed = True
            print(f"{path}: {error}", file=sys.stderr)
    if options.action == "check" and changed:
        print("run: python tools/notebooks.py normalise")
    return int(failed or (options.action == "check" and changed))


if __name__ == "__main__":
    raise SystemExit(main())
