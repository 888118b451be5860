"""One thread, float64 and one generator for each test; the longest files first."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
# The built book's tests wait for it and for a browser; then notebooks from the longest down, as measured, and the rest.
FIRST = ("tests/book/test_browser.py", "tests/book/test_offline.py", "tests/book/test_pdf.py")
SECONDS = {name: cost["seconds"] for name, cost in json.loads((ROOT / "results/times.json").read_text()).items()}


def pytest_configure() -> None:
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed-offset", type=int, default=0, help="added to every test's seed, to measure failure rates")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by file only: workers take whole files in this order, and a long one that comes last is waited for."""

    def key(item: pytest.Item) -> tuple[int, float]:
        name = item.nodeid.split("::")[0]
        if name in FIRST:
            return 0, FIRST.index(name)
        notebook = name.removeprefix("book/").removesuffix(".ipynb")
        return (1, -SECONDS.get(notebook, 0)) if name.endswith(".ipynb") else (2, 0)

    items.sort(key=key)


@pytest.fixture(scope="session", autouse=True)
def published():
    """What the book shows is no place for tests: a run in earnest would replace it, and look like it."""
    folder = ROOT / "results"

    def stamps() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}

    before = stamps()
    yield
    assert stamps() == before, "a test has written into results/"


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float32(float64: None) -> None:
    """As a program starts; MNIST is float32, and so are the models trained on it."""
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {"results": tmp_path / "results", "runs": tmp_path / "runs"}


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """Seeded by the test's own name, so that tests do not share luck; global draws (initial weights) likewise."""
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    seed = int.from_bytes(digest[:4], "big") + request.config.getoption("--seed-offset")
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with one run of the miniature's AVO, made smaller still, and its weights."""
    from dataclasses import replace

    from avo_lib.experiments.campaign import run
    from avo_lib.experiments.protocols import EXPERIMENTS

    torch.set_default_dtype(torch.float32)
    setup = EXPERIMENTS["miniature"]["avo"]
    model = replace(setup.model, hidden=(20,), latent=4, T=2)
    small = replace(setup, model=model, train=replace(setup.train, epochs=1), images=100, samples=20)
    monkeypatch.setitem(EXPERIMENTS, "miniature", {"avo": small})
    run("miniature", "avo", device="cpu", results=tmp_path / "results", runs=tmp_path / "runs")
    return tmp_path / "results"
