"""The normal form of notebooks, and running them in place."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tools import notebooks as tool
from tools.widgets import STATE, VIEW


def model(name: str, **state: Any) -> dict[str, Any]:
    return {
        "model_name": name,
        "model_module": "@jupyter-widgets/controls",
        "model_module_version": "2.0.0",
        "state": state,
    }


def widget_notebook(ids: dict[str, str], *, shuffle: int | None = None) -> nbformat.NotebookNode:
    """A box with a slider and two pictures, linked; ``ids`` names the models."""
    ref = {key: f"IPY_MODEL_{value}" for key, value in ids.items()}
    state = {
        ids["box"]: model("VBoxModel", children=[ref["slider"], ref["stack"]], layout=ref["layout"]),
        ids["slider"]: model("IntSliderModel", max=1, description="ids stay text"),
        ids["stack"]: model("StackModel", children=[ref["first"], ref["second"]]),
        ids["first"]: model("HTMLModel", value="first"),
        ids["second"]: model("HTMLModel", value="second"),
        ids["layout"]: model("LayoutModel"),
        ids["link"]: model("LinkModel", source=[ref["slider"], "value"], target=[ref["stack"], "selected_index"]),
        ids["link2"]: model("LinkModel", source=[ref["stack"], "selected_index"], target=[ref["slider"], "value"]),
    }
    if shuffle is not None:
        items = list(state.items())
        random.Random(shuffle).shuffle(items)
        state = dict(items)
    output = nbformat.v4.new_output("display_data", {VIEW: {"model_id": ids["box"], "version_major": 2}})
    cell = nbformat.v4.new_code_cell("widget", outputs=[output], execution_count=1, id="cell-1")
    cell.metadata = nbformat.from_dict(
        {
            "tags": ["figure"],
            "execution": {"iopub.busy": "now"},
            "scrolled": True,
            "mystnb": {"image": {"alt": "a"}},
        }
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "mine", "display_name": "Mine", "language": "python"},
            "language_info": {"name": "python", "version": "3.11.2"},
            "toc": {},
            "widgets": {STATE: {"state": state, "version_major": 2, "version_minor": 0}},
        }
    )
    return notebook


NAMES = ("box", "slider", "stack", "first", "second", "layout", "link", "link2")


def random_ids(seed: int) -> dict[str, str]:
    source = random.Random(seed)
    return {name: f"{source.getrandbits(128):032x}" for name in NAMES}


def state_of(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    state: dict[str, Any] = notebook.metadata.widgets[STATE]["state"]
    return state


def test_two_runs_give_one_text() -> None:
    first = tool.dumps(tool.normalised(widget_notebook(random_ids(1))))
    second = tool.dumps(tool.normalised(widget_notebook(random_ids(2), shuffle=3)))
    assert first == second
    assert not set(random_ids(1).values()) & set(json.loads(first)["metadata"]["widgets"][STATE]["state"])


def test_ids_follow_the_reader_and_links_come_last() -> None:
    state = state_of(tool.normalised(widget_notebook(random_ids(1))))
    assert list(state) == [f"{number:032x}" for number in range(1, 9)]
    assert [entry["model_name"] for entry in state.values()] == [
        "VBoxModel",
        "IntSliderModel",
        "StackModel",
        "HTMLModel",
        "HTMLModel",
        "LayoutModel",
        "LinkModel",
        "LinkModel",
    ]
    link = state[f"{7:032x}"]["state"]
    assert link["source"] == [f"IPY_MODEL_{2:032x}", "value"]
    assert link["target"] == [f"IPY_MODEL_{3:032x}", "selected_index"]


def test_normalising_twice_changes_nothing() -> None:
    once = tool.normalised(widget_notebook(random_ids(1)))
    assert tool.dumps(tool.normalised(once)) == tool.dumps(once)


def test_ids_are_replaced_in_one_pass() -> None:
    """After a partial re-run old counters stand in the wrong place; replaced in turn, models would merge."""
    counters = [f"{number:032x}" for number in range(1, len(NAMES) + 1)]
    for seed in range(20):
        mixed = counters[: len(NAMES) // 2] + list(random_ids(seed).values())[len(NAMES) // 2 :]
        random.Random(seed).shuffle(mixed)
        notebook = tool.normalised(widget_notebook(dict(zip(NAMES, mixed, strict=True))))
        assert len(state_of(notebook)) == len(NAMES)
        assert tool.dumps(notebook) == tool.dumps(tool.normalised(widget_notebook(random_ids(99))))


def test_metadata_that_differs_between_machines_goes() -> None:
    notebook = tool.normalised(widget_notebook(random_ids(1)))
    assert set(notebook.metadata) == {"kernelspec", "language_info", "widgets"}
    assert notebook.metadata.kernelspec == tool.KERNELSPEC
    assert notebook.metadata.language_info == {"name": "python"}
    cell = notebook.cells[0]
    assert cell.metadata == {"tags": ["figure"], "mystnb": {"image": {"alt": "a"}}}
    assert (cell.id, cell.execution_count, len(cell.outputs)) == ("cell-1", 1, 1)


def test_the_argument_is_left_alone() -> None:
    notebook = widget_notebook(random_ids(1))
    before = tool.dumps(notebook)
    tool.normalised(notebook)
    assert tool.dumps(notebook) == before


def test_check_reports_and_normalise_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chapter.ipynb"
    path.write_text(tool.dumps(widget_notebook(random_ids(1))), encoding="utf-8")
    before = path.read_bytes()
    assert tool.main(["check", str(path)]) == 1
    assert path.read_bytes() == before
    assert str(path) in capsys.readouterr().out
    assert tool.main(["normalise", str(path)]) == 0
    assert tool.main(["check", str(path)]) == 0
    assert path.read_bytes().endswith(b"}\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["chapter.ipynb"]


def test_unchanged_file_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "chapter.ipynb"
    path.write_text(tool.dumps(tool.normalised(widget_notebook(random_ids(1)))), encoding="utf-8")
    stamp = path.stat().st_mtime_ns
    assert tool.main(["normalise", str(path)]) == 0
    assert path.stat().st_mtime_ns == stamp


def test_letters_beyond_ascii_stay_readable() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("α heats, β cools", id="m")])
    assert "α heats, β cools" in tool.dumps(tool.normalised(notebook))


def test_missing_notebook_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["check", "nowhere.ipynb"])
    assert "no such notebook: nowhere.ipynb" in capsys.readouterr().err


def test_run_fills_in_the_outputs(tmp_path: Path) -> None:
    path = tmp_path / "chapter.ipynb"
    sources = [
        "import os",
        "print(1 + 1)",
        "print(os.environ['OMP_NUM_THREADS'], os.path.basename(os.getcwd()))",
    ]
    cells = [nbformat.v4.new_code_cell(source, id=f"c{number}") for number, source in enumerate(sources)]
    path.write_text(tool.dumps(nbformat.v4.new_notebook(cells=cells)), encoding="utf-8")
    assert tool.main(["run", str(path)]) == 0
    done = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in done.cells] == [1, 2, 3]
    assert [cell.id for cell in done.cells] == ["c0", "c1", "c2"]
    assert done.cells[1].outputs[0].text == "2\n"
    assert done.cells[2].outputs[0].text == f"1 {tmp_path.name}\n"
    assert tool.main(["check", str(path)]) == 0


def test_failing_cell_is_named_and_the_file_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chapter.ipynb"
    cells = [
        nbformat.v4.new_markdown_cell("# Title", id="m"),
        nbformat.v4.new_code_cell("x = 1", id="a"),
        nbformat.v4.new_code_cell("raise RuntimeError('the bound is above log Z')", id="b"),
    ]
    path.write_text(tool.dumps(nbformat.v4.new_notebook(cells=cells)), encoding="utf-8")
    before = path.read_bytes()
    assert tool.main(["run", str(path)]) == 1
    assert path.read_bytes() == before
    message = capsys.readouterr().err
    assert f"{path}: cell 2 (nbval's Cell 1) failed" in message
    assert "the bound is above log Z" in message


@pytest.mark.parametrize("action", ["run", "normalise", "check"])
def test_a_comment_behind_no_number_is_told_before_a_run_and_the_others_are_handled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    ran = []
    monkeypatch.setattr(tool.NotebookClient, "execute", lambda client: ran.append(client.nb.cells[0].source))
    paths = [tmp_path / "first.ipynb", tmp_path / "second.ipynb"]
    for path, text in zip(paths, ("some text <!-- todo -->", "none"), strict=True):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), path)
    before = [path.read_bytes() for path in paths]
    assert tool.main([action, *map(str, paths)]) == 1
    assert f"{paths[0]}: a comment that follows no number: <!-- todo -->" in capsys.readouterr().err
    assert [path.read_bytes() == old for path, old in zip(paths, before, strict=True)] == [True, action == "check"]
    assert ran == (["none"] if action == "run" else [])


@pytest.mark.parametrize(
    ("tags", "expected", "folded"),
    [
        (["claim"], ["claim", "hide-input"], True),
        (["hide-input"], ["hide-input"], True),
        (["remove-cell"], ["remove-cell"], False),
    ],
)
def test_cells_that_check_fold_in_the_book_and_in_jupyterlab(
    tags: list[str], expected: list[str], folded: bool
) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", metadata={"tags": tags})])
    cell = tool.normalised(notebook).cells[0]
    assert cell.metadata["tags"] == expected
    assert cell.metadata.get("jupyter", {}).get("source_hidden", False) is folded
