"""The ops of :mod:`svgdx.ops` in plain PyTorch, written for readability.

They serve as the tests' oracle, as the fallback for ``SVGDX_DISABLE=1``, and for the derivatives that an op lacks.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from svgdx import _library
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

# Their ops take a network's layers packed into one tensor.
_PACKED = ("mlp_score_hvp", "mlp_laplacian")


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The references as a table for ``torch.export.ExportedProgram.run_decompositions``.

    With it an exported program consists of torch's own operations, for places without svgdx's libraries. The table also
    has torch's default decompositions.
    """
    table: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions())
    if not _library.disabled():
        table |= {
            getattr(torch.ops.svgdx, name).default: reference
            for name, reference in REFERENCES.items()
            if name not in _PACKED
        }
    return table


globals().update(REFERENCES)
