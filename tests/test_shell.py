"""The reader's shell does not matter: what it sets is put aside, or one line says what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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


# --- make

# `python -m` finds these two first, in the folder where it runs: .venv without pip, and a pip that needs no network.
VENV = """
import os, sys
os.execv(sys.executable, [sys.executable, "-I", "-m", "venv", "--without-pip", sys.argv[1]])
"""
PIP = """
import os, sys, sysconfig
from pathlib import Path
assert "--no-user" in sys.argv and "PIP_NO_INDEX" in os.environ, "whence packages come is the reader's choice"
assert not {"PIP_USER", "PIP_TARGET"} & set(os.environ), "and whither they go is not"
print("installed")
Path(sysconfig.get_path("purelib"), "avo_lib.pth").write_text(os.getcwd())
script = Path(sys.executable).with_name("pytest")
script.write_text(f"#!/bin/sh\\nexec '{sys.executable}' -c 'import json, os; print(json.dumps(dict(os.environ)))'")
script.chmod(0o755)
"""
INSTALLING = "Installing into .venv, which takes a few minutes ..."
ANEW = ".venv is not, or no longer, that of this folder, and is made anew."
BASE = getattr(sys, "_base_executable", sys.executable)


def make(root: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--silent", f"PYTHON={BASE}", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def make_test(root: Path, environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """What was said, and the environment that came through to pytest."""
    done = make(root, environment, "test")
    assert done.returncode == 0, done.stdout + done.stderr
    *said, surroundings = done.stdout.splitlines()
    return said, json.loads(surroundings)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile, a package that needs a moment and no network to install, and a pytest that tells its shell."""
    root = tmp_path / "the project"
    (root / "avo_lib").mkdir(parents=True)
    (root / "avo_lib" / "__init__.py").touch()
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", root)
    for name, text in {"constraints.txt": "", "pyproject.toml": "", "venv.py": VENV, "pip.py": PIP}.items():
        (root / name).write_text(text)
    return root


@pytest.fixture
def shell(hostile) -> dict[str, str]:
    """As hostile to make."""
    pip = {"PIP_USER": "1", "PIP_TARGET": "elsewhere", "PIP_NO_INDEX": "1"}
    return {**hostile, **pip, "PYTHONHOME": "/nonexistent", "PYTHONOPTIMIZE": "2", "PYTEST_ADDOPTS": "--bogus"}


def test_make_in_every_shell(project, shell):
    said, found = make_test(project, shell)
    assert said == [INSTALLING, "installed"]
    assert found["PYTHONUTF8"] == "1" and os.access(found["HOME"], os.W_OK)
    foreign = {name for name in found if name.startswith(("PY", "MPL", "MATPLOTLIB", "IPY", "JUPYTER", "XDG", "OMP"))}
    assert foreign == {"PYTHONUTF8"}
    assert make_test(project, shell)[0] == []


def test_two_at_once_take_turns(project, shell):
    with ThreadPoolExecutor() as pool:
        both = pool.map(make_test, [project] * 2, [shell] * 2)
    assert sorted(said for said, _ in both) == [[], [INSTALLING, "installed"]]


def test_an_emptied_venv_is_made_anew(project, shell):
    make_test(project, shell)
    subprocess.run("rm -r .venv/*", shell=True, cwd=project, check=True)
    assert (project / ".venv" / ".installed").exists()
    assert make_test(project, shell)[0] == [ANEW, INSTALLING, "installed"]


@pytest.mark.parametrize("transport", [Path.rename, partial(shutil.copytree, symlinks=True)], ids=["moved", "copied"])
def test_the_venv_of_another_place_is_made_anew(transport, project, shell, tmp_path):
    make_test(project, shell)
    transport(project, tmp_path / "other")
    assert make_test(tmp_path / "other", shell)[0] == [ANEW, INSTALLING, "installed"]
    assert str(tmp_path / "other") in (tmp_path / "other" / ".venv" / "bin" / "pytest").read_text()


def test_the_venv_of_another_is_left_alone(project, shell, tmp_path):
    """A link to the .venv of another folder gives way, not what it leads to."""
    make_test(project, shell)
    shutil.copytree(project, tmp_path / "other", ignore=shutil.ignore_patterns(".venv"))
    (tmp_path / "other" / ".venv").symlink_to(project / ".venv")
    assert make_test(tmp_path / "other", shell)[0] == [ANEW, INSTALLING, "installed"]
    assert make_test(project, shell)[0] == []


def test_a_venv_of_the_readers_own_making_is_kept(project, shell):
    """As README has it: with a CPU-only torch in it, before make is called."""
    subprocess.run([BASE, "-I", "-m", "venv", "--without-pip", ".venv"], cwd=project, check=True)
    (project / ".venv" / "torch").touch()
    assert make_test(project, shell)[0] == [INSTALLING, "installed"]
    assert (project / ".venv" / "torch").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["PYTHON=python-of-nobody", "test"], "There is no python-of-nobody"),
        (["--file", "the project/Makefile", "--directory", "..", "test"], "Call make in the folder of its Makefile"),
        (["test"], "Unable to create directory"),
    ],
)
def test_make_says_in_a_line_what_is_wrong(arguments, message, project, hostile):
    (project / ".venv").touch()
    done = make(project, hostile, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2, done.stderr  # make adds that the target failed


def test_ci_runs_alike_in_every_shell(shell, tmp_path):
    stubs, root, decoy = tmp_path / "bin", tmp_path / "root", tmp_path / "decoy"
    for folder in (stubs, root / ".ci", decoy / ".ci"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", root / ".ci")
    told = '#!/bin/sh\necho "$1 in $PWD with flags $MAKEFLAGS, CI=$CI, home $PYTHONHOME"\n'
    for name, text in {
        "make": told,
        "python3": "#!/bin/sh\nexit ${PYTHONHOME:+1}\n",
        "chromium": "#!/bin/sh\n",
    }.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    environment = {**shell, "PATH": f"{stubs}:{os.defpath}", "CDPATH": str(decoy), "MAKEFLAGS": "-n"}
    done = subprocess.run(["bash", ".ci/run"], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == "".join(
        f"{goal} in {root} with flags , CI=true, home \n" for goal in ("book", "test", "plain")
    )


# --- a clone


def test_every_clone_has_the_same_line_ends(tmp_path):
    """Carriage returns kill .ci/run; Git gives them where core.autocrlf is set and .gitattributes says nothing."""
    command = ["git", "-c", "core.autocrlf=true", "checkout-index", f"--prefix={tmp_path}/"]
    files = [".ci/run", "Makefile", "tools/notebooks.py", "data/mnist/SHA256SUMS", "book/conclusion.ipynb"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    subprocess.run([*command, *files], cwd=ROOT, check=True)
    assert [name for name in files if b"\r" in (tmp_path / name).read_bytes()] == []
