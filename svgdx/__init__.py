"""svgdx: fused Stein variational gradient descent for PyTorch, on CPU and CUDA."""

from typing import NoReturn

from torch.distributed import is_available as _has_process_groups

from svgdx import _library

__version__ = "0.1.0"

_library.load()

if _library.usable():
    from svgdx import densities, ops, reference
    from svgdx.samplers import SVGD
    from svgdx.trace import HessianTrace, hessian_trace

    if _has_process_groups():
        # Registers sharded chains with SVGD, which cannot import what lies above it.
        from svgdx import distributed  # noqa: F401

    __all__ = ["SVGD", "HessianTrace", "densities", "hessian_trace", "ops", "reference"]
else:

    def __getattr__(name: str) -> NoReturn:
        # `svgdx doctor` must run where the library does not load; everything else stops with the reason.
        if name in ("SVGD", "HessianTrace", "densities", "hessian_trace", "ops", "reference"):
            _library.require()
        raise AttributeError(f"module 'svgdx' has no attribute {name!r}")
