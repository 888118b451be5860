"""Files that are never half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
