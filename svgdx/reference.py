"""The ops of :mod:`svgdx.ops` in plain PyTorch, written for readability.

They serve as the tests' oracle, as the fallback for ``SVGDX_DISABLE=1``, and for the derivatives that an op lacks.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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

    With it an exported program consists of torch's own operations, for ONNX and other places without svgdx's libraries.
    The table also has torch's default decompositions, and takes medians, which ONNX does not have, by sorting.
    """
    table: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions())
    table[torch.ops.aten.median.dim] = _median
    if not _library.disabled():
        table |= {
            getattr(torch.ops.svgdx, name).default: reference
            for name, reference in REFERENCES.items()
            if name not in _PACKED
        }
    return table


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, ...]:
    """The lower median and its index, of numbers without NaN."""
    middle = (x.shape[dim] - 1) // 2
    values = tuple(value.narrow(dim, middle, 1) for value in x.sort(dim))
    return values if keepdim else tuple(value.squeeze(dim) for value in values)


globals().update(REFERENCES)
