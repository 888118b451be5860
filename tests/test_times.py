"""The measurements behind the page of running times."""

import json

import nbformat
import pytest

from tools import times

WORK = """import time
ballast = bytearray(600 * 2**20)
while time.process_time() < 3:
    pass
time.sleep(2)"""


def test_every_notebook_but_the_page_itself_is_measured():
    assert set(json.loads(times.FILE.read_text())) == {times.stem(path) for path in times.notebooks()}
    assert times.PAGE.is_file()


def test_what_jupyter_leaves_is_no_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "BOOK", tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in ("one.ipynb", ".ipynb_checkpoints/one-checkpoint.ipynb"):
        (tmp_path / name).touch()
    assert [times.stem(path) for path in times.notebooks()] == ["one"]


@pytest.mark.parametrize("name", ["README.md", "book/gone.ipynb", "book/reference/running_times.ipynb"])
def test_what_is_not_measured_is_refused_before_anything_is(name, monkeypatch):
    monkeypatch.setattr(times, "measure", None)
    with pytest.raises(SystemExit, match=name):
        times.main([str(times.notebooks()[0]), str(times.ROOT / name)])


def test_a_measurement_replaces_the_file_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "FILE", tmp_path / "times.json")
    monkeypatch.setattr(times, "measure", lambda path: {"seconds": 1})
    path = times.notebooks()[0]
    times.FILE.write_text('{"other": {}}')
    times.main([str(path)])
    other = tmp_path / "linked"
    other.hardlink_to(times.FILE)
    old = other.read_text()
    monkeypatch.setattr(times, "measure", lambda path: {"seconds": 2})
    times.main([str(path)])
    assert other.read_text() == old, "not written into"
    assert json.loads(times.FILE.read_text())[times.stem(path)]["seconds"] == 2
    assert json.loads(old).keys() == {"other", times.stem(path)}


def test_processor_time_and_memory_are_those_of_the_kernel(tmp_path):
    path = tmp_path / "work.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WORK)]), path)
    before = path.read_bytes()
    ballast = bytearray(1800 * 2**20)  # what measures may be larger than what it measures
    found = times.measure(path)
    assert found["seconds"] in (3, 4), "not the time on the wall, in which it sleeps"
    assert 0.6 <= found["memory"] <= 1.2 < len(ballast) / 2**30
    assert path.read_bytes() == before
