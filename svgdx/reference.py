"""The ops of :mod:`svgdx.ops` in plain PyTorch, written for readability.

They serve as the tests' oracle, as the fallback for ``SVGDX_DISABLE=1``, and for the derivatives that an op lacks.
"""

from typing import TYPE_CHECKING

from svgdx.ops import REFERENCES

if TYPE_CHECKING:
    # An op and its reference have the same signature.
    from svgdx.ops.draw import *
    from svgdx.ops.field import *
    from svgdx.ops.jacobian import *
    from svgdx.ops.median import *
    from svgdx.ops.mlp import *
    from svgdx.ops.probe import *
    from svgdx.ops.trajectory import *

__all__ = list(REFERENCES)

globals().update(REFERENCES)
