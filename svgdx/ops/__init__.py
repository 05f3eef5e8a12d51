"""Ops for CPU and CUDA: Stein variational gradient descent, Hessian traces and generative flow networks.

Each op is also registered with PyTorch under the same name in ``torch.ops.svgdx``. If ``SVGDX_DISABLE=1`` is set in the
environment at import, :mod:`svgdx.reference` is used instead.
"""

from svgdx import _library
from svgdx.ops import draw, field, jacobian, median, mlp, probe, trajectory
from svgdx.ops.draw import *
from svgdx.ops.field import *
from svgdx.ops.jacobian import *
from svgdx.ops.median import *
from svgdx.ops.mlp import *
from svgdx.ops.probe import *
from svgdx.ops.trajectory import *

__all__: list[str] = []
__all__ += draw.__all__
__all__ += field.__all__
__all__ += jacobian.__all__
__all__ += median.__all__
__all__ += mlp.__all__
__all__ += probe.__all__
__all__ += trajectory.__all__

ROOMS = (draw, field, jacobian, median, mlp, probe, trajectory)
# The reference of each op, by the op's name.
REFERENCES = {name: getattr(room, f"{name}_reference") for room in ROOMS for name in room.__all__}

if _library.disabled():
    globals().update(REFERENCES)
