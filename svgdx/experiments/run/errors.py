"""What stops an experiment, and the check for values that are not finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class UsageError(Exception):
    """The request is invalid. The command line prints the message and exits with 2."""


class FormatError(UsageError):
    """A checkpoint has the format of another version, so that the checkpoints before it are of no use either."""


class StoppedError(Exception):
    """A run cannot continue: its environment failed, or a file could not be written. Exit code 1."""


class DivergedError(StoppedError):
    """A quantity became NaN or infinite; the message names the step and the quantity. Exit code 1."""


class StopRequested(Exception):
    """SIGINT, SIGTERM or SIGHUP came during an evaluation. The recorder turns it into a clean end of the run."""


def require_finite(step: int, quantities: dict[str, Any]) -> None:
    """Raises DivergedError, naming the step and the first quantity that is not finite."""
    for name, value in quantities.items():
        if not math.isfinite(value):
            raise DivergedError(f"step {step}: {name} is {value}")


def require_finite_tensors(step: int, tensors: dict[str, Tensor]) -> None:
    """Raises DivergedError, naming the step and the first tensor that holds a value that is not finite."""
    on_gpu = [tensor for tensor in tensors.values() if tensor.is_floating_point() and tensor.device.type != "cpu"]
    # One wait for all of them; the norm of finite numbers may overflow.
    if on_gpu and len(on_gpu) == len(tensors) and bool(nn.utils.get_total_norm(on_gpu).isfinite()):
        return
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DivergedError(f"step {step}: {name} is not finite")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch says that memory is exhausted."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
