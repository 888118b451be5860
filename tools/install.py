"""Installs into .venv what the Makefile's targets need, unless it is there: python tools/install.py, for any Python.

A .venv that was moved, copied or emptied, or whose Python has gone, is made anew: its scripts and its avo_lib are those
of another place. Two calls at once take turns.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys

VENV = ".venv"
PYTHON = VENV + "/bin/python"
STAMP = VENV + "/.installed"
OURS = "import avo_lib, os, sys; sys.exit(not os.path.samefile(avo_lib.__path__[0], 'avo_lib'))"
# Of the reader's settings for pip, those that say where packages come from; the others say where they go, or which.
SOURCES = """
    CACHE_DIR CERT CLIENT_CERT CONFIG_FILE DEFAULT_TIMEOUT EXTRA_INDEX_URL FIND_LINKS INDEX_URL KEYRING_PROVIDER
    NO_CACHE_DIR NO_INDEX PROXY RETRIES TIMEOUT TRUSTED_HOST USE_FEATURE
""".split()


def is_ours():
    """Whether .venv runs and has this folder's avo_lib."""
    try:
        return subprocess.call([PYTHON, "-I", "-c", OURS], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def is_current():
    """Whether nothing has been asked for since the last installation."""
    made = os.path.getmtime(STAMP) if os.path.exists(STAMP) else 0
    return all(os.path.getmtime(name) < made for name in ("pyproject.toml", "constraints.txt"))


def remove():
    """Removes .venv; of a link to another's, the link."""
    if os.path.islink(VENV):
        os.unlink(VENV)
    else:
        shutil.rmtree(VENV)


def install():
    """Makes .venv if need be and installs; what the reader can mend is said in one line."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(sys.executable + " has no venv module: on Debian and Ubuntu install the package python3-venv")
    # The Python that runs may be that of .venv itself, which cannot make itself anew.
    subprocess.check_call([sys._base_executable, "-m", "venv", VENV])
    print("Installing into .venv, which takes a few minutes ...", flush=True)
    environment = {k: v for k, v in os.environ.items() if k[:4] != "PIP_" or k[4:] in SOURCES}
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    command = [
        PYTHON,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-user",
        "--editable",
        ".[book,cluster,experiments,flows,lab,show,test]",
    ]
    subprocess.check_call([*command, "--constraint", "constraints.txt"], env=environment)
    if not is_ours():
        sys.exit("pip has put the packages elsewhere than into .venv; see " + PYTHON + " -m pip config list")
    with open(STAMP, "w"):
        pass


def main():
    """Does it all; returns the exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(sys.executable + " is older than Python 3.11: name another, as in make PYTHON=python3.11 book")
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open("pyproject.toml") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it, however this ends
        try:
            if os.path.exists(STAMP) and not is_ours():
                print(".venv is not, or no longer, that of this folder, and is made anew.", flush=True)
                remove()
            if not is_current():
                install()
        except subprocess.CalledProcessError as error:
            return error.returncode  # it has said why
        except OSError as error:
            sys.exit(".venv cannot be made: " + str(error))
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
