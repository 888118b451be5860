"""One thread, float64 and one generator for each test."""

import hashlib

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed-offset", type=int, default=0, help="added to every test's seed, to measure failure rates")


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """Seeded by the test's own name, so that tests do not share luck; global draws (initial weights) likewise."""
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    seed = int.from_bytes(digest[:4], "big") + request.config.getoption("--seed-offset")
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
