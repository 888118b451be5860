"""Where the repository is, and files that are never half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_ABOVE = Path(__file__).resolve().parent.parent
CLONE = _ABOVE if (_ABOVE / "pyproject.toml").is_file() else None  # none if avo_lib was installed without one


def repository(name: str) -> Path:
    """A file or folder of the repository, whatever the working directory is.

    Args:
        name: Its path from the repository's root, e.g. ``"results"``.

    Raises:
        FileNotFoundError: If it is not there, or ``avo_lib`` is not that of a clone; the message says what is needed.

    >>> repository("results").is_absolute()
    True
    """
    if CLONE is None:
        raise FileNotFoundError(
            f"{name} is read from the book's repository, and this avo_lib ({_ABOVE}) is not that of a clone. "
            "Clone the repository, call make in it, and run this with its .venv"
        )
    if not (CLONE / name).exists():
        raise FileNotFoundError(f"{CLONE} has no {name}. It comes back with: git checkout {name}")
    return CLONE / name


def write_atomically(file: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then rename: readers see the old file or the new one.

    Args:
        file: Where to write; its folder is made if need be.
        content: What to write.

    Raises:
        OSError: If the folder cannot be made or written to; the message says which, and an old file stays.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except OSError as error:
        raise OSError(f"cannot write to {file.parent}: {error.strerror}. Choose a writable folder") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
