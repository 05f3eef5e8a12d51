"""The ops on the harness: mistakes of a host layer are reported, and what an op does to the tensors around it."""

from __future__ import annotations

import re

import pytest
import torch
from pretended.kernels import sourced
from simt import backend, harness

import svgdx.ops

MISTAKES = [
    "none",
    "no_guard",
    "default_stream",
    "no_check",
    "past_the_end",
    "unwritten",
    "host_memory",
    "empty_input",
    "empty_grid",
    "too_much_shared",
    "torch_reads_unwritten",
]
REPORTS = {
    "no_guard": "no-device-guard",
    "default_stream": "wrong-stream",
    "no_check": "unchecked-launch",
    "past_the_end": "out-of-bounds",
    "unwritten": "uninitialized-read",
    "host_memory": "out-of-bounds",
    "empty_input": "uninitialized-read",
    "torch_reads_unwritten": "uninitialized-read",
}
REFUSALS = {
    "empty_grid": "planted_twice: the CUDA launch failed: invalid configuration argument",
    "too_much_shared": "twice_kernel.* needs 1048576 bytes of shared memory: invalid argument",
}


def twice(mistake: str, **options: float) -> torch.Tensor:
    library = backend.load()
    library.options, library.on_host = options, set()
    return library.run("planted_twice", torch.arange(100.0), MISTAKES.index(mistake))


@pytest.mark.parametrize("preempt", [0.0, 0.2])
def test_a_correct_op_has_no_report(preempt: float) -> None:
    for seed in range(3):
        assert torch.equal(twice("none", seed=seed, preempt=preempt), 2 * torch.arange(100.0))


@pytest.mark.parametrize("mistake", REPORTS)
def test_mistakes_are_reported(mistake: str) -> None:
    with pytest.raises(AssertionError, match=f"^{REPORTS[mistake]} ") as caught:
        twice(mistake)
    lines = (harness.SOURCE / "planted" / "ops.cpp").read_text().splitlines()
    due = [i for i, line in enumerate(lines, 1) if mistake in line.partition("// due:")[2].split()]
    assert all(f"ops.cpp:{line}" in str(caught.value) for line in due)
    assert torch.equal(twice("none"), 2 * torch.arange(100.0))  # the next call is not affected


@pytest.mark.parametrize("mistake", REFUSALS)
def test_a_failed_launch_raises(mistake: str) -> None:
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        twice(mistake)
    # The harness reports a launch that CUDA refuses, too.
    error = caught.value if isinstance(caught.value, RuntimeError) else caught.value.__context__
    assert isinstance(error, RuntimeError)
    assert re.search(REFUSALS[mistake], str(error))


def test_every_op_of_the_cuda_library_is_there() -> None:
    """The kernels of the CPU library are back after the block."""
    x = torch.randn(3, 2)
    with backend.running() as calls:
        phi = svgdx.ops.svgd_phi(x, -x, 0.5)
        assert len(calls) == 1
    torch.testing.assert_close(svgdx.ops.svgd_phi(x, -x, 0.5), phi)
    assert len(calls) == 1
    names = {
        f"{op.namespace.removesuffix('_simt')}::{name}"
        for name, op in backend.load().ops.items()
        if name not in backend.PLANTED
    }
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    composites = ("CompositeImplicitAutograd", "CompositeExplicitAutograd")
    on_cuda = {name for name, has_cuda in sourced().items() if has_cuda}
    assert names == {name for name in on_cuda if not any(has_kernel(name, key) for key in composites)}
