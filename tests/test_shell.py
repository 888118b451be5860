"""The reader's shell does not matter: what it sets is put aside, or one line says what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]

# --- notebooks

SOURCES = [
    "import os, sys\nfrom importlib.util import find_spec\nfrom pathlib import Path\nimport matplotlib.pyplot as plt",
    "print(__debug__, 'started' in globals(), sys.warnoptions, sys.stdout.encoding, os.environ['OMP_NUM_THREADS'])",
    "print('foreign' in find_spec('torch').origin, Path.cwd().name, plt.rcParams['lines.linewidth'])",
    "plt.figure(figsize=(1, 1))\nplt.plot([0, 1])\nplt.show()",
]
PRINTED = ["True False [] UTF-8 1\n", "False book 1.5\n"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What is needed of the repository, with one notebook that tells its surroundings."""
    root = tmp_path / "a clone"
    (root / "book").mkdir(parents=True)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "avo_lib").symlink_to(ROOT / "avo_lib")
    cells = [nbformat.v4.new_code_cell(source, id=f"c{number}") for number, source in enumerate(SOURCES)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "book" / "chapter.ipynb")
    return root


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """A shell full of settings, each of which once changed an output or ended in a traceback."""
    foreign = tmp_path / "foreign"
    profile = foreign / "profile_default"
    kernel = foreign / "kernels" / "python3"
    for folder in (profile / "startup", kernel):
        folder.mkdir(parents=True)
    (foreign / "torch.py").write_text("raise ImportError('not the torch that you want')")
    (foreign / "startup.py").write_text("started = True")
    shutil.copy(foreign / "startup.py", profile / "startup" / "00-first.py")
    (profile / "ipython_kernel_config.py").write_text("c.InlineBackend.figure_formats = {'svg'}")
    (foreign / "matplotlibrc").write_text("lines.linewidth: 9")
    dies = {"argv": ["false", "{connection_file}"], "display_name": "dies", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(dies))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "nowhere"),
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "",
        "LC_ALL": "C",
        "MPLBACKEND": "agg",
        "MATPLOTLIBRC": str(foreign),
        "OMP_NUM_THREADS": "2",
        "IPYTHONDIR": str(foreign),
        **dict.fromkeys(("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"), str(foreign)),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(foreign),
        "PYTHONSTARTUP": str(foreign / "startup.py"),
        "PYTHONWARNINGS": "always",
    }


def outputs(notebook: Path) -> list[str]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [output.text for cell in cells for output in cell.outputs if output.output_type == "stream"]


def test_notebooks_run_alike_in_every_shell(clone, hostile):
    notebook = clone / "book" / "chapter.ipynb"
    command = [sys.executable, clone / "tools" / "notebooks.py", "run", "book/chapter.ipynb"]
    done = subprocess.run(command, cwd=clone, env={**hostile, "PYTHONOPTIMIZE": "2"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert outputs(notebook) == PRINTED
    assert "image/png" in nbformat.read(notebook, as_version=4).cells[-1].outputs[0].data
    assert not (clone / "cache").exists() and not (clone / "book" / "cache").exists()

    # And what has been stored is what nbval finds, in the same shell.
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "book/chapter.ipynb"]
    done = subprocess.run(command, cwd=clone, env=hostile, capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(SOURCES)} passed" in done.stdout, done.stdout + done.stderr


def test_a_kernel_that_dies_is_one_line_and_later_notebooks_run(tmp_path):
    paths = [tmp_path / "first" / "chapter.ipynb", tmp_path / "second" / "chapter.ipynb"]
    for path in paths:
        path.parent.mkdir()
        cell = nbformat.v4.new_code_cell("print('ran')", id="c")
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    (paths[0].parent / "ipykernel_launcher.py").write_text("raise SystemExit(1)")
    command = [sys.executable, ROOT / "tools" / "notebooks.py", "run", *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and [outputs(path) for path in paths] == [[], ["ran\n"]]
    said = [line for line in done.stderr.splitlines() if not line.startswith(("running ", "[IPKernelApp]"))]
    assert len(said) == 1 and f"{paths[0]}: the kernel of {sys.executable} did not start: Kernel died" in said[0]


# --- a clone


def test_every_clone_has_the_same_line_ends(tmp_path):
    """Carriage returns kill .ci/run; Git gives them where core.autocrlf is set and .gitattributes says nothing."""
    command = ["git", "-c", "core.autocrlf=true", "checkout-index", f"--prefix={tmp_path}/"]
    files = [".ci/run", "Makefile", "tools/notebooks.py", "data/mnist/SHA256SUMS", "book/conclusion.ipynb"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    assert [name for name in files if b"\r" in (tmp_path / name).read_bytes()] == []
