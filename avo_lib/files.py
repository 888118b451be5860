"""Where the repository is, and files that are never half written."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from contextlib import suppress
from glob import escape
from pathlib import Path
from tempfile import TemporaryFile

_ABOVE = Path(__file__).resolve().parent.parent
CLONE = _ABOVE if (_ABOVE / "pyproject.toml").is_file() else None  # None if avo_lib was installed without one
ABANDONED = 3600.0  # seconds after which nobody is still writing a file
SEAL = hashlib.sha256().digest_size


def repository(name: str) -> Path:
    """A file or folder of the repository, whatever the working directory is.

    Args:
        name: Path of the file or folder from the repository's root, e.g. ``"results"``.

    Raises:
        FileNotFoundError: If it is not there, or ``avo_lib`` is not from a clone; the message says what is needed.

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
        file: Where to write; its folder is made if need be. What is left of writes to it that were killed an hour
            ago or earlier is removed.
        content: What to write.

    Raises:
        OSError: If it cannot be written; the message says which file and why, and an old file stays.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for left in file.parent.glob(f".{escape(file.name)}.{'[0-9a-z_]' * 8}"):
            with suppress(OSError):  # another process may be as tidy, and another user's file may stay
                if left.stat().st_mtime < time.time() - ABANDONED:
                    left.unlink()
        try:
            with temporary.open("xb") as stream:  # readable for whom the umask says: tempfile's are private
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot write to {file}: {error.strerror}. Choose a writable folder") from error


def ensure_writable(folder: Path) -> None:
    """Make a folder if need be and try to write to it, before there is an hour's work to lose.

    Raises:
        OSError: If nothing can be written there; the message says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}. Choose a writable folder") from error


def seal(payload: bytes) -> bytes:
    """The payload preceded by its SHA-256, :data:`SEAL` bytes, so that a flipped bit is noticed."""
    return hashlib.sha256(payload).digest() + payload
