"""The backends that the ops' tests run on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from ops.backends import Backend
from simt import backend as simt

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=["cpu", "simt", CUDA])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The CPU library, the CUDA library on the SIMT harness, and the CUDA library on a GPU."""
    if request.param != "simt":
        yield Backend(request.param, request.param)
        return
    # The test's name decides the order in which threads run.
    seed = zlib.crc32(request.node.nodeid.encode())
    with simt.running(seed=seed, preempt=0.02 * (seed % 2)):
        yield Backend("simt", "cpu")


@pytest.fixture
def device(backend: Backend) -> str:
    """The device of the inputs, on each of the backends."""
    return backend.device


@pytest.fixture(params=["cpu", CUDA])
def native_device(request: pytest.FixtureRequest) -> str:
    """The device of inputs that are too large for the SIMT harness."""
    return str(request.param)
