"""Doubts every claim of the book: in the nearest world in which its sentence is false, its condition must be false.

``tests/worlds/<chapter>.toml`` has an entry for each claim: what that world is, in words, and the Python that makes it
from the cell's own names, just before the claim is checked and on a copy of them. Dictionaries and lists are copied to
any depth; whatever else the code changes in place it has to copy itself:

    ["on average AVO's bound is not better by more than 0.1 nats"]
    world = "AVO's bound is better by 0.2 nats"
    code = "bound_avo = bound_elbo + 0.2"

Whenever the tests or ``notebooks.py doubt`` run a chapter, its kernel evaluates the condition there once more. A
condition that still holds has not noticed that its sentence became false: it checks less than it says, and the cell
fails.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
WORLDS = ROOT / "tests" / "worlds"
NAMES = ("claim", "restate")


def key(sentence: ast.expr) -> str:
    """Returns the sentence as the record has it: the fields of an f-string stay in braces."""
    if isinstance(sentence, ast.Constant):
        return str(sentence.value)
    if isinstance(sentence, ast.JoinedStr):
        parts = [key(part.value if isinstance(part, ast.FormattedValue) else part) for part in sentence.values]
        fields = [isinstance(part, ast.FormattedValue) for part in sentence.values]
        return "".join(f"{{{part}}}" if field else part for part, field in zip(parts, fields, strict=True))
    return ast.unparse(sentence)


def is_claim(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", None) in NAMES and len(node.args) == 2


def claims(path: Path) -> Iterator[str]:
    """Yields the sentence of every claim of a notebook."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            calls = [node for node in ast.walk(ast.parse(cell.source)) if is_claim(node)]
            yield from (key(call.args[0]) for call in calls if isinstance(call, ast.Call))


def recorded(path: Path) -> dict[str, dict[str, str]]:
    """Returns the worlds on record for a notebook, by sentence."""
    record = WORLDS / f"{path.stem}.toml"
    return tomllib.loads(record.read_text(encoding="utf-8")) if record.exists() else {}


# --- in the kernel


def copied(value: Any, copies: dict[int, Any]) -> Any:
    """Returns a copy of a dictionary or a list, to any depth, and anything else itself; ``copies`` has those by id."""
    if type(value) not in (dict, list):
        return value
    if id(value) not in copies:
        copies[id(value)] = copy = type(value)()
        if isinstance(value, dict):
            copy.update((name, copied(part, copies)) for name, part in value.items())
        else:
            copy.extend(copied(part, copies) for part in value)
    return copies[id(value)]


class Doubter(ast.NodeTransformer):
    """Has every claim of a cell pass its condition through `doubted`."""

    NAME = "__doubter__"

    def __init__(self, worlds: Mapping[str, Mapping[str, str]]) -> None:
        self.worlds = worlds

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Wraps the condition of a claim."""
        self.generic_visit(node)
        if is_claim(node):
            sentence, holds = node.args
            scopes = [ast.Call(ast.Name(name, ast.Load()), [], []) for name in ("globals", "locals")]
            source = [ast.Constant(key(sentence)), ast.Constant(ast.unparse(holds))]
            function = ast.Attribute(ast.Name(self.NAME, ast.Load()), "doubted", ast.Load())
            node.args[1] = ast.Call(function, [holds, *source, *scopes], [])
        return node

    def doubted(self, holds: Any, sentence: str, condition: str, *scopes: dict[str, Any]) -> Any:
        """Returns the condition's value here, once it was seen to be false in its false world."""
        if sentence in self.worlds and bool(holds):
            scope = copied({name: value for names in scopes for name, value in names.items()}, {})
            exec(self.worlds[sentence]["code"], scope)
            if bool(eval(condition, scope)):
                world = self.worlds[sentence]["world"]
                raise AssertionError(f"does not notice its false world: {sentence}\n(the world: {world})")
        return holds


def on_record() -> dict[str, dict[str, str]]:
    """Returns the worlds of all chapters; a kernel does not know which one it runs."""
    worlds: dict[str, dict[str, str]] = {}
    for record in sorted(WORLDS.glob("*.toml")):
        worlds |= tomllib.loads(record.read_text(encoding="utf-8"))
    return worlds


def watch(shell: Any, worlds: Mapping[str, Mapping[str, str]]) -> None:
    """Begins to doubt in the kernel of ``shell``."""
    shell.user_ns[Doubter.NAME] = doubter = Doubter(worlds)
    shell.ast_transformers.append(doubter)


# --- outside


def startup(folder: Path) -> dict[str, str]:
    """Returns the variables under which every kernel doubts; ``folder``, an empty one, is to hold its profile."""
    scripts = folder / "profile_default" / "startup"
    scripts.mkdir(parents=True)
    start = f"import runpy\nhook = runpy.run_path({__file__!r})\nhook['watch'](get_ipython(), hook['on_record']())\n"
    (scripts / "doubt.py").write_text(start, encoding="utf-8")
    return {"IPYTHONDIR": str(folder)}
