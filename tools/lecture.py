"""Takes the book apart for a lecture: python tools/lecture.py [folder], by default _build/lecture.

Every figure becomes a file, with its caption in ``figures.md``; the exercises stand in one file and their solutions in
another. All come from the stored notebooks: nothing is run.
"""

from __future__ import annotations

import base64
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.avo_book import captions

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"<!--.*?-->")  # the name of a number of the run
LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")  # leads nowhere outside the book


def chapters() -> Iterator[tuple[int, Path]]:
    """Yields the numbered chapters that are notebooks, as the book counts them."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    pages = [ROOT / f"{page['file']}.ipynb" for part in parts if part.get("numbered") for page in part["chapters"]]
    return enumerate(pages, start=1)


def plain(text: str) -> str:
    """Returns a chapter's Markdown as it reads by itself."""
    return re.sub(r"\n{3,}", "\n\n", LINK.sub(r"\1", MARK.sub("", text))).strip()


def figures(notebook: nbformat.NotebookNode) -> Iterator[tuple[bytes, str]]:
    """Yields each picture with its caption."""
    for cell, caption in captions.figures(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                text = caption.source.removeprefix(captions.MARK) if caption else ""
                yield base64.b64decode(output["data"]["image/png"]), plain(text)


def exercises(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """Returns the exercises and their solutions, both with the exercises' titles."""
    texts: dict[str, list[str]] = {"exercise": [], "solution": []}
    titles: dict[str, str] = {}
    place = inside = ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # What an exercise folds is plumbing that checks; what a solution folds is its code.
            if inside and {"exercise": "hide-input", "solution": "claim"}[inside] not in cell.metadata.get("tags", []):
                texts[inside].append(f"\n```python\n{cell.source}\n```\n")
            continue
        if captions.is_caption(cell):
            continue
        for line in cell.source.splitlines():
            begun = re.match(r":::\{(exercise|solution(?:-start)?)\}\s*(.*)", line)
            if begun and begun[1] == "exercise":
                place, title, inside = "in", begun[2], "exercise"
                texts[inside].append(f"\n### {title}\n")
            elif begun:
                place, inside = "start" if begun[1] == "solution-start" else "in", "solution"
                texts[inside].append(f"\n### {titles[begun[2].strip()]}\n")
            elif line.startswith(":label:") and inside == "exercise":
                titles[line.removeprefix(":label:").strip()] = title
            elif line.startswith(":::{solution-end}"):
                place = "in"
            elif line == ":::":
                # The body of a solution with code lies between two empty blocks; an exercise's code comes after it.
                place, inside = (
                    ("between", inside) if place == "start" else ("", "" if inside == "solution" else inside)
                )
            elif line.startswith("## "):
                place = inside = ""
            elif place and not line.startswith(":class:"):
                texts[inside].append(line)
    return plain("\n".join(texts["exercise"])), plain("\n".join(texts["solution"]))


def write(folder: Path) -> None:
    """Writes all files into a folder of their own, in place of those that it wrote there before.

    Raises:
        FileExistsError: If the folder holds anything, but not what a call before has written.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "figures.md").is_file():
        raise FileExistsError(f"{folder} holds something else than a lecture. Choose another folder, or empty it")
    if (folder / "figures").exists():
        shutil.rmtree(folder / "figures")
    (folder / "figures").mkdir(parents=True)
    lists: dict[str, list[str]] = {name: [f"# {name.title()}"] for name in ("figures", "exercises", "solutions")}
    for number, path in chapters():
        notebook = nbformat.read(path, as_version=4)
        heading = f"## {number}. {notebook.cells[0].source.splitlines()[0].removeprefix('# ')}"
        drawn = []
        for count, (picture, caption) in enumerate(figures(notebook), start=1):
            name = f"{number:02d}-{path.stem}-{count}.png"
            (folder / "figures" / name).write_bytes(picture)
            drawn.append(f"![](figures/{name})\n\n{caption}")
        for name, text in zip(lists, ("\n\n".join(drawn), *exercises(notebook)), strict=True):
            if text:
                lists[name] += [heading, text]
    for name, texts in lists.items():
        (folder / f"{name}.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "lecture"
    write(target)
    print(f"Figures, exercises and solutions: {target}")
