"""svgdx: fused Stein variational gradient descent for PyTorch, on CPU and CUDA."""

from typing import NoReturn

from svgdx import _library

__version__ = "0.1.0"

_library.load()

if _library.usable():
    from svgdx import densities, ops, reference
    from svgdx.samplers import SVGD
    from svgdx.trace import HessianTrace, hessian_trace

    __all__ = ["SVGD", "HessianTrace", "densities", "hessian_trace", "ops", "reference"]
else:

    def __getattr__(name: str) -> NoReturn:
        # `svgdx doctor` must run where the library does not load; everything else stops with the reason.
        if name in ("SVGD", "HessianTrace", "densities", "hessian_trace", "ops", "reference"):
            _library.require()
        raise AttributeError(f"module 'svgdx' has no attribute {name!r}")
