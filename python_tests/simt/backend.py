"""The ops on the SIMT harness: a library of exactly the CUDA library's sources, whose ops take CPU tensors.

    with backend.running(seed=1, preempt=0.05) as calls:
        svgdx.ops.svgd_phi(x, score, 0.5)   # raises AssertionError if the harness reports anything

Inside the block, the kernels of ``torch.ops.svgdx`` and ``torch.ops.svgdx_inner`` for the CPU are those of the CUDA
library; all else, such as autograd, vmap and autocast, is the package's own. ``calls`` collects a Result for every op
that ran.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from simt import harness
from torch import Tensor

import svgdx.ops  # noqa: F401  (registers the ops)

# Arguments that are on the CPU even if the others are on a GPU.
HOST_ARGUMENTS = {"widths"}


# Ops of the library that the package does not have, see simt/planted/ops.cpp.
PLANTED = {"planted_twice": "planted_twice(Tensor x, int mistake) -> Tensor"}

# Limits of csrc/common/limits.h at which small work is split.
TINY = {
    "kMaxGrid": 3,
    "kPairElements": 2**13,
    "kMostCols": 64,
    "kMedianBatches": 2,
    "kMlpNumbers": 5 * 16,
    "kLinearRows": 3,
    "kLinearNumbers": 64,
    "kGramElements": 2**11,
    "kMatrixProducts": 0,
    "kRolloutNumbers": 64,
}


class Library:
    """The library of ops; its kernels are registered in a namespace of their own, with the schemas of the package."""

    # The package's namespaces; those of the library end in _simt.
    NAMESPACES = ("svgdx", "svgdx_inner")

    def __init__(self) -> None:
        self.simt = harness.load("ops")
        self.simt.library.simt_set_limit.argtypes = (ctypes.c_char_p, ctypes.c_int64)
        self.simt.library.simt_set_limit.restype = ctypes.c_int64
        self.options: dict[str, Any] = {}
        self.calls: list[harness.Result] = []
        self.on_host: set[str] = set()
        self._definitions = {name: torch.library.Library(f"{name}_simt", "FRAGMENT") for name in self.NAMESPACES}
        self.ops: dict[str, Any] = {}
        for namespace, definitions in self._definitions.items():
            for op in implemented(f"{namespace}_simt"):
                schema = PLANTED.get(op) or str(overload(namespace, op)._schema)
                definitions.define(schema.removeprefix(f"{namespace}::"))
                self.ops[op] = overload(f"{namespace}_simt", op)

    def run(self, op: str, *args: Any) -> Any:
        """Run an op and raise AssertionError if the harness reports anything."""
        kernel = self.ops[op]
        self.simt.begin(**self.options, in_op=True)
        for argument, value in zip(kernel._schema.arguments, args, strict=False):
            if isinstance(value, Tensor) and argument.name in HOST_ARGUMENTS | self.on_host:
                self.simt.library.simt_host(ctypes.c_void_p(value.data_ptr()))
        try:
            with torch._C._AutoDispatchBelowAutograd():
                outputs = kernel(*args)
            for output in outputs if isinstance(outputs, tuple) else (outputs,):
                self.simt.library.simt_output(output.data_ptr(), output.nbytes)
        finally:
            result = self.simt.end()
            result.check()
        self.calls.append(result)
        return outputs

    def set_limits(self, limits: dict[str, int]) -> dict[str, int]:
        """Set limits of csrc/common/limits.h; return their former values."""
        former = {name: self.simt.library.simt_set_limit(name.encode(), value) for name, value in limits.items()}
        assert min(former.values(), default=0) >= 0, former
        return former


def overload(namespace: str, op: str) -> Any:
    """The op of that name, which may name an overload: uniform.key."""
    name, _, variant = op.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), variant or "default")


def implemented(namespace: str) -> list[str]:
    """Names of the ops that a library has registered kernels for."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    return sorted(name.removeprefix(f"{namespace}::") for name in names if name.startswith(f"{namespace}::"))


@functools.cache
def load() -> Library:
    """Load the library of ops, compiling it on first use."""
    return Library()


@contextlib.contextmanager
def running(
    on_host: tuple[str, ...] = (), limits: dict[str, int] | None = None, **options: Any
) -> Iterator[list[harness.Result]]:
    """Run the CPU ops of svgdx on the harness.

    Args:
        on_host: names of arguments that count as CPU tensors; all others count as CUDA tensors.
        limits: limits of csrc/common/limits.h to set meanwhile, such as ``TINY``.
        options: the options of ``harness.Simt.begin``.
    """
    library = load()
    overrides = {name: torch.library.Library(name, "IMPL") for name in library.NAMESPACES}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        for op in library.ops.keys() - PLANTED.keys():
            namespace = library.ops[op].namespace.removesuffix("_simt")
            overrides[namespace].impl(op, functools.partial(library.run, op), "CPU", allow_override=True)
    library.options, library.on_host, library.calls = options, set(on_host), []
    former = library.set_limits(limits or {})
    try:
        yield library.calls
    finally:
        library.set_limits(former)
        for override in overrides.values():
            override._destroy()
