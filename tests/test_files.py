"""The repository is found from anywhere; a reader finds the old file or the new one, and nothing else."""

import os
import stat

import pytest

from avo_lib import files
from avo_lib.files import repository, write_atomically


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


def test_others_may_read_it(tmp_path):
    """A temporary file is private, and a result is not."""
    write_atomically(tmp_path / "file", b"")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    """Else a power cut may leave the new name on an empty file."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: calls.append(name) or real(*args))
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "chmod", "replace"])
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


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to .*file/below: .*Choose a writable folder"):
        write_atomically(tmp_path / "file" / "below" / "name", b"")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(OSError, match=rf"cannot write to {tmp_path}: Permission denied"):
        write_atomically(tmp_path / "name", b"")
