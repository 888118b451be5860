"""What the project promises about itself: dependencies, order, sizes, documents, commands."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import avo_lib
from avo_lib.schedules import BetaSchedule

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "avo_lib").rglob("*.py"))
# Imports run downwards: a module may import those before it, and within kernels and models their own siblings.
ORDER = """
    files checks numerics axes estimate testing counting targets landmarks paths schedules kernels proposals chain
    momentum objectives controls pathwise balance annealing evaluation smc nested collapse models gaps data settings
    checkpoint trial training
    experiments.mnist experiments.omniglot experiments.records experiments.results experiments.protocols
    experiments.costs experiments.campaign experiments.referee experiments.energies experiments.biased_noise
    experiments.eight_modes experiments.regressions experiments.ascent experiments.dynamics
    experiments.contestants experiments.benchmark
    experiments.inference experiments.commands experiments.toy_commands experiments.command_line
    show.figures show.explore show.numbers
    __main__
""".split()
ROOMS = ("experiments", "show")
COMMANDS = {"experiments.commands", "experiments.toy_commands", "experiments.command_line", "__main__"}
MAX_LINES = 250
CONDA_NAMES = {"pytorch-cpu": "torch"}
DOCUMENTS = [path.name for path in sorted(ROOT.glob("*.md"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_module = pytest.mark.parametrize("path", MODULES, ids=name)


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def tracked() -> list[Path]:
    """All files that are committed or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: nothing says which files are the project's")
    return [path for path in map(ROOT.joinpath, listed.splitlines()) if path.is_file()]


# --- dependencies


def requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    found = {}
    for line in lines:
        parsed = Requirement(line)
        key = canonicalize_name(CONDA_NAMES.get(parsed.name, parsed.name))
        assert key not in found, f"{parsed.name} is declared twice"
        found[key] = parsed.specifier
    return found


def environment() -> tuple[list[str], list[str]]:
    """The lines for conda and those for pip."""
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (line["pip"] for line in lines if isinstance(line, dict))
    return [line for line in lines if isinstance(line, str)], pip


def installed() -> list[str]:
    """What `make` installs: the package and the extras that it names."""
    (named,) = re.findall(r'"\.\[(.+)\]"', (ROOT / "tools" / "install.py").read_text())
    extras = project()["optional-dependencies"]
    return sorted({*project()["dependencies"], *(line for extra in named.split(",") for line in extras[extra])})


def test_conda_and_pip_get_the_same():
    conda, pip = environment()
    declared = requirements([line for line in [*conda, *pip] if line != "pip" and not line.startswith("-")])
    assert declared.pop("python") == SpecifierSet(project()["requires-python"])
    assert declared == requirements(installed())


def test_conda_installs_the_package_itself():
    conda, pip = environment()
    assert "-e ." in pip and "pip" in conda


def test_constraints_fit_the_ranges():
    """Else the pinned installation that `make` gives is impossible."""
    pinned = requirements(
        [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip() and line[0] != "#"]
    )
    for key, allowed in requirements(installed()).items():
        (pin,) = pinned[key]
        assert pin.version in allowed, f"{key} {pin.version} is outside {allowed}"


def test_imports_are_declared():
    """What a room imports is a dependency of that room, not an accident of what the others bring along."""
    brought = {"cycler": "matplotlib", "PIL": "matplotlib"}
    extras = project()["optional-dependencies"]
    for path in MODULES:
        room = path.relative_to(ROOT / "avo_lib").parts[0]
        lines = project()["dependencies"] + (extras[room] if room in ROOMS else [])
        known = {canonicalize_name(Requirement(line).name) for line in lines}
        known |= {"dask"} if room == "experiments" else set()  # of the extra `cluster`; imported where it is asked for
        known |= {"zuko"} if name(path) == "avo_lib/kernels/flow.py" else set()  # of the extra `flows`; likewise
        for module, _ in imports(path):
            package = module.split(".")[0]
            if package not in sys.stdlib_module_names and package != "avo_lib":
                assert canonicalize_name(brought.get(package, package)) in known, f"{name(path)} imports {package}"


# --- the package


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """Every import of a module: where from, and what."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} has a relative import"
            found.append((node.module, [alias.name for alias in node.names]))
    return found


def unit(module: str) -> str:
    """The entry of ORDER for a dotted name below avo_lib: of a module, of a package, or of a module in a room."""
    parts = module.split(".")
    return ".".join(parts[1:3] if parts[1] in ROOMS else parts[1:2])


@every_module
def test_imports_run_downwards(path):
    relative = path.relative_to(ROOT / "avo_lib")
    own = unit(".".join(("avo_lib", *relative.with_suffix("").parts)))
    if own.endswith("__init__") and own != "__init__":
        assert not imports(path)
        return
    order = [*ORDER[: ORDER.index("experiments.mnist")], "__init__", *ORDER] if own == "__init__" else ORDER
    assert own in order, f"give {own} its place in ORDER, and in the README's map"
    for module, names in imports(path):
        if module == "avo_lib" or module.removeprefix("avo_lib.") in ROOMS:
            used = [unit(f"{module}.{one}") for one in names]  # none for the bare `import avo_lib`
        elif module.startswith("avo_lib."):
            used = [unit(module)]
        else:
            continue
        for other in used:
            inside = other == own in ("kernels", "models")
            assert inside or order.index(other) < order.index(own), f"{own} imports {other}, which stands above it"


def test_the_order_has_no_dead_entries():
    names = {unit(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in MODULES}
    assert set(ORDER) == {found for found in names if not found.endswith("__init__")}


def test_the_reference_documents_every_module_in_the_order_of_imports():
    """All but the command line, which documents itself; the folder of models counts as one entry of ORDER."""
    pages = [(ROOT / "book/reference" / page).read_text() for page in ("api.md", "experiments.md")]
    documented = [unit(module) for page in pages for module in re.findall(r"automodule:: (\S+)", page)]
    assert list(dict.fromkeys(documented)) == [entry for entry in ORDER if entry not in COMMANDS]
    models = {path.stem for path in MODULES if path.parent.name == "models"} - {"__init__"}
    assert models == set(re.findall(r"automodule:: avo_lib\.models\.(\w+)", pages[0]))


@every_module
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def public(body: list[ast.stmt], prefix: str = "") -> list[tuple[str, ast.AST]]:
    """Functions, classes and methods that a reader may call."""
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append((prefix + node.name, node))
            if isinstance(node, ast.ClassDef):
                found += public(node.body, f"{prefix}{node.name}.")
    return found


@every_module
def test_everything_public_has_a_docstring(path):
    assert ast.get_docstring(tree(path)), "the module has none"
    missing = [called for called, node in public(tree(path).body) if not ast.get_docstring(node)]
    assert not missing


def untold(node: ast.AST) -> set[str]:
    """Errors that a function makes, or a class when it is made or called, and that its docstring does not name."""
    parts = [node]
    if isinstance(node, ast.ClassDef):
        parts = [one for one in node.body if getattr(one, "name", "") in ("__init__", "__post_init__", "__call__")]
    told = " ".join(ast.get_docstring(one) or "" for one in (node, *parts))
    made = [error.exc for part in parts for error in ast.walk(part) if isinstance(error, ast.Raise)]
    names = {ast.unparse(error.func) for error in made if isinstance(error, ast.Call)}  # with a message, so not caught
    return {name for name in names if name not in told}


@every_module
def test_every_error_is_told_where_its_reader_looks(path):
    assert not {called: errors for called, node in public(tree(path).body) if (errors := untold(node))}


def test_an_error_that_no_docstring_names_is_noticed():
    told = ast.parse('def f():\n    """A ValueError."""\n    raise ValueError("no")')
    silent = ast.parse('class A:\n    """A."""\n    def __init__(self):\n        raise TypeError("no")')
    assert not untold(told.body[0]) and untold(silent.body[0]) == {"TypeError"}


@every_module
def test_nothing_seeds_globally(path):
    """Only a forked state may be seeded; see Experiment.build."""
    text = path.read_text()
    assert "torch.manual_seed" not in text, "it seeds every GPU too, and a forked state does not give that back"
    assert text.count("default_generator.manual_seed") == text.count("fork_rng") <= 1
    assert "np.random" not in text and "import random" not in text


def test_schedules_tell_themselves_apart():
    """A checkpoint knows another configuration by its repr: one that hides a setting would not be noticed."""
    for schedule in get_args(BetaSchedule):
        assert schedule.__dataclass_params__.repr and schedule.__dataclass_params__.frozen


# --- documents


def makefile() -> dict[str, str | None]:
    """Targets to call by name, with their line of help."""
    lines = (ROOT / "Makefile").read_text().splitlines()
    found = (re.match(r"([a-z][\w-]*):(?!=)[^#]*(?:## (.+))?$", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_every_target_has_a_line_of_help():
    targets = makefile()
    assert {"book", "test", "check"} <= set(targets)
    assert [target for target, line in targets.items() if not line] == []
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(phony.split()) == set(targets)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_command_is_a_target(document):
    # Between backticks or at the start of a line: "make" is also a word.
    called = re.findall(r"(?:`|^)make ([a-z]+)", (ROOT / document).read_text(), re.MULTILINE)
    assert set(called) <= set(makefile())
    assert document != "README.md" or {"book", "test"} <= set(called)


def commands() -> dict[str, set[str]]:
    """The command line's commands with their options, read from its source."""
    folder = ROOT / "avo_lib" / "experiments"
    files = (folder / "commands.py", folder / "toy_commands.py")
    functions = {node.name: node for file in files for node in ast.walk(tree(file)) if is_function(node)}
    (table,) = (node for node in ast.walk(tree(folder / "command_line.py")) if isinstance(node, ast.Dict))
    pairs = {key.value: functions[value.attr] for key, value in zip(table.keys, table.values)}
    return {command: {argument.arg for argument in function.args.args} for command, function in pairs.items()}


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_avo_lib_command_exists(document):
    called = re.findall(r"python -m avo_lib (\w+)([^`\n]*)", (ROOT / document).read_text())
    for command, rest in called:
        assert command in commands()
        assert set(re.findall(r"--(\w+)", rest)) <= commands()[command], f"{command}{rest}"
    assert document != "README.md" or {command for command, _ in called} == set(commands())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / document).read_text())
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_the_readmes_map_names_every_module_in_the_order_of_imports():
    lines = re.search(r"\| \[`avo_lib/`\].*?(?=\| \[`tests/`\])", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    room, named = "", []
    for one in re.findall(r"`([a-z_]+/?)`", lines)[1:]:  # the first is the package itself
        if one.strip("/") in ROOMS:
            room = one.replace("/", ".")
        else:
            named.append(room + one.strip("/"))
    assert named == [entry for entry in ORDER if entry not in COMMANDS]


def test_the_readmes_example_runs():
    (example,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    scope = {}
    exec(example, scope)
    assert scope["value"].isfinite() and scope["value"].requires_grad


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = project()["version"]
    assert avo_lib.__version__ == citation["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert " AND ".join(citation["license"]) == project()["license"]
    assert "1809.01818" in citation["references"][0]["url"]


def test_the_licence_covers_code_prose_and_data():
    text = (ROOT / "LICENSE").read_text()
    for part in ("MIT License", "WITHOUT WARRANTY OF ANY KIND", "/licenses/by/4.0/", "/licenses/by-sa/3.0/"):
        assert part in text


# --- all files

# Each pattern is written so that it does not find itself here.
FORBIDDEN = {
    "a mark of unfinished work": r"\b(?:TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b",
    "a path of some machine": r"(?<![\w.:/])/(?:home|Users|root|tmp|work)/\w|\b[A-Z]:\\+Users",
    "a package registry": r"pypi\.[o]rg|pythonhosted\.[o]rg|download\.pytorch\.[o]rg|anaconda\.[o]rg|inde[x]-url",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_has(what):
    pattern, found = re.compile(FORBIDDEN[what]), []
    for path in tracked():
        if "vendor" in path.parts:  # others' scripts, unchanged
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures, weights, data
        text = re.sub(r'"image/png": "[^"]*"', "", text)  # a notebook's pictures may spell anything
        found += [f"{name(path)}: {match[0]}" for match in pattern.finditer(text)]
    assert not found


def test_the_patterns_find_what_they_look_for():
    texts = ["# TO" + "DO: later", "open('/ho" + "me/me/file')", "https://pypi." + "org/simple"]
    for pattern, text in zip(FORBIDDEN.values(), texts):
        assert re.search(pattern, text)


def test_the_library_asks_for_little(tmp_path):
    """Who wants a chain needs no pictures or tables; who then calls the command line is told what it needs."""
    for heavy in ("matplotlib", "pandas", "joblib", "tyro", "torchvision", "ipywidgets", "safetensors", "zuko"):
        (tmp_path / f"{heavy}.py").write_text(f"raise ModuleNotFoundError('no {heavy}', name='{heavy}')")
    light = "import avo_lib, sys; assert all(hasattr(avo_lib, name) for name in avo_lib.__all__)"
    light += "; from avo_lib import HMC, Langevin, tune_step_sizes"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", light], env=environment, check=True)
    done = subprocess.run([sys.executable, "-m", "avo_lib", "list"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: there is no ")
    assert done.stderr.endswith("pip install '.[experiments]'\n") and len(done.stderr.splitlines()) == 1
