"""Where the ops accumulate: float32 for half precision, else the dtype itself."""

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    return x.to(compute_dtype(x))
