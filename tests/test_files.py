"""The repository is found from anywhere; a reader finds the old file or the new one, and nothing else."""

import os
import stat
import time
from pathlib import Path

import pytest

from avo_lib import files
from avo_lib.files import ensure_writable, repository, write_atomically


def test_the_repository_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (repository("results") / "cost.json").is_file()


def test_outside_a_clone_one_line_says_what_is_needed(monkeypatch):
    monkeypatch.setattr(files, "CLONE", None)
    with pytest.raises(FileNotFoundError, match=r"results is read from .*not that of a clone.*make") as raised:
        repository("results")
    assert "\n" not in str(raised.value)


def test_what_a_clone_lacks_is_named():
    with pytest.raises(FileNotFoundError, match="has no resluts"):
        repository("resluts")


def test_it_writes_and_replaces(tmp_path):
    file = tmp_path / "new" / "folder" / "file.bin"
    write_atomically(file, b"old")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read_it(mask, mode, tmp_path):
    """A temporary file is private, and a result is not, unless its owner wants it so."""
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_what_killed_writes_left_is_removed(tmp_path):
    """Of this file alone, and not while the process may still be writing."""
    hour = 3600
    ages = {".a[b].x.0123abcd": 2 * hour, ".a[b].x.fresh_00": 0, ".a[b].y.0123abcd": 2 * hour, ".a[b].x.mine": 2 * hour}
    for name, age in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_atomically(tmp_path / "a[b].x", b"")
    assert {file.name for file in tmp_path.iterdir()} == {"a[b].x", *ages} - {".a[b].x.0123abcd"}


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    """Else a power cut may leave the new name on an empty file."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: calls.append(name) or real(*args))
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file(where, trouble, tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def fail(*_):
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(type(trouble)):
            write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file], "no temporary file stays"


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"cannot write to {tmp_path}/name: No space left on device\. Choose"):
        write_atomically(tmp_path / "name", b"")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to .*file/below/name: Not a directory\. Choose a writable folder"):
        write_atomically(tmp_path / "file" / "below" / "name", b"")
    with pytest.raises(OSError, match=r"cannot write to .*file/below: Not a directory\. Choose a writable folder"):
        ensure_writable(tmp_path / "file" / "below")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    """Refused by hand: whoever may do everything would be let in."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(OSError, match=rf"cannot write to {tmp_path}/name: Permission denied"):
            write_atomically(tmp_path / "name", b"")
    monkeypatch.setattr(files, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=rf"cannot write to {tmp_path}: Permission denied"):
        ensure_writable(tmp_path)


def test_trying_a_folder_leaves_nothing(tmp_path):
    ensure_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new", tmp_path / "new" / "folder"]
