"""What all tests share: seeds, threads, devices, real digits."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import forkserver
import hypothesis
import pytest
import torch
import torch.distributed as dist
from distributed.pool import Pool

TESTS = Path(__file__).parent

# With the usual threshold of 700 objects the collector of garbage takes a third of pytest's collection.
gc.set_threshold(100_000, 20, 20)

hypothesis.settings.register_profile("svgdx", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("svgdx")


# What takes longest comes first, so that no process of `make test` ends long after the others.
SLOW = ("simt", "distributed", "experiments", "pretended", "test_docs.py", "examples", "test_build.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slowness = {name: rank for rank, name in enumerate(SLOW)}
    rooms = {item: str(item.path).removeprefix(f"{TESTS}/").partition("/")[0] for item in items}
    items.sort(key=lambda item: slowness.get(rooms[item], len(slowness)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        programs = forkserver.shared()
        programs.__enter__()
        config.add_cleanup(lambda: programs.__exit__(None, None, None))


def pytest_collection_finish() -> None:
    """Collectors of garbage leave alone what was collected: thousands of tests and their parameters."""
    gc.collect()
    gc.freeze()


def _seed() -> None:
    """torch.manual_seed(0), which without a GPU formats three stack traces, for devices that it may find later."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """The same random numbers for each test alone or among others; threads and default dtype as they were before."""
    _seed()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session", autouse=True)
def _own_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs are signed with a key of the tests, not with the user's."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    """scikit-learn's 1,797 handwritten digits, (1797, 64), float32 in [0, 1]."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data).float() / 16


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Four processes of a Gloo group, started once for all tests that need them."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch is built without Gloo")
    with Pool() as ranks:
        yield ranks
