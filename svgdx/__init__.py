"""svgdx: fused Stein variational gradient descent for PyTorch, on CPU and CUDA."""

from typing import NoReturn

from torch.distributed import is_available as _has_process_groups

from svgdx import _library

__version__ = "0.1.0"

# Modules that moved, with what replaces them.
_MOVED = {
    "nn": "svgdx.nn is now svgdx.densities: MLPEnergy is svgdx.densities.MLPLogDensity, and ConvEnergy is "
    "svgdx.densities.ConvLogDensity",
    "energies": "svgdx.energies is now svgdx.densities: DiscreteMLPEnergy and IsingEnergy are in svgdx.densities",
}

_library.load()

if _library.usable():
    from svgdx import densities, losses, ops, reference
    from svgdx.samplers import SVGD, ModuleParticles
    from svgdx.streams import Stream
    from svgdx.trace import HessianTrace, hessian_trace

    if _has_process_groups():
        # Registers sharded chains with SVGD, which cannot import what lies above it.
        from svgdx import distributed  # noqa: F401

    __all__ = [
        "SVGD",
        "HessianTrace",
        "ModuleParticles",
        "Stream",
        "densities",
        "hessian_trace",
        "losses",
        "ops",
        "reference",
    ]


def __getattr__(name: str) -> NoReturn:
    # `svgdx doctor` must run even if the library does not load; everything else stops with the reason.
    modules = ("densities", "losses", "ops", "reference")
    if name in (*modules, "SVGD", "HessianTrace", "ModuleParticles", "Stream", "hessian_trace"):
        _library.require()
    raise AttributeError(_MOVED.get(name, f"module 'svgdx' has no attribute {name!r}"))
