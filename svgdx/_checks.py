"""Checks of arguments in Python, for the fake kernels, the reference and the wrappers.

The compiled ops make the same checks with the same messages, which name the op, the argument, what was expected and
what was passed. These ones are for code that does not reach them: tracing, the meta device and ``SVGDX_DISABLE=1``.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import NoReturn

Scalar: TypeAlias = "float | Tensor"
T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

MAX_LOGDET_DIM = 16
_HALVES = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, torch.float64, *_HALVES)


def per_row(function: str, name: str, value: object, lead: Sequence[int], of: str) -> Tensor:
    """Returns one number per row, in the leading shape of the argument called ``of``.

    A trailing dimension of size 1, as that of a network's output, is dropped; nothing else broadcasts.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {name} must be a tensor, but is {type(value).__name__}")
    real(function, name, value)
    lead = tuple(lead)
    if value.shape == lead:
        return value
    if value.shape == (*lead, 1):
        return value.squeeze(-1)
    raise ValueError(f"{function}: {name} must have shape {lead} to match {of}, but has {tuple(value.shape)}")


def real(function: str, name: str, value: Tensor) -> None:
    """Raises TypeError for complex numbers and truth values, which arithmetic would take or name otherwise."""
    if value.dtype == torch.bool or value.is_complex():
        raise TypeError(f"{function}: {name} must hold real numbers, but is {_dtype(value)}")


def returned(function: str, target: str, value: object, x: Tensor, graph: bool = False) -> Tensor:
    """Returns the values (...) of a target at x (..., D), from which a trailing dimension of size 1 is dropped.

    With ``graph`` they must be differentiable.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {target} must return a tensor, but returns {type(value).__name__}")
    if value.is_complex():
        raise TypeError(f"{function}: {target} must return real numbers, but returns {_dtype(value)}")
    if graph and not value.requires_grad:
        raise ValueError(
            f"{function}: {target} must be differentiable in x, but its result has no graph; compute it without "
            "detach, no_grad and inference_mode"
        )
    if value.shape == x.shape[:-1]:
        return value
    if value.shape == (*x.shape[:-1], 1):
        return value.squeeze(-1)
    shapes = f"{tuple(x.shape)} to {tuple(x.shape[:-1])}, but returns {tuple(value.shape)}"
    raise ValueError(f"{function}: {target} must map {shapes}")


def features(function: str, name: str, value: object, dim: int | None = None, rank: int | None = None) -> Tensor:
    """Returns vectors (..., D), if they are D = ``dim`` wide and have ``rank`` dimensions."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {name} must be a tensor, but is {type(value).__name__}")
    wrong_width = value.dim() == 0 or (dim is not None and value.shape[-1] != dim)
    if wrong_width or (rank is not None and value.dim() != rank):
        width = "D" if dim is None else str(dim)
        expected = {None: f"(..., {width})", 1: f"({width},)", 2: f"(N, {width})"}[rank]
        raise ValueError(f"{function}: {name} must have shape {expected}, but has {tuple(value.shape)}")
    if value.is_complex():
        raise TypeError(f"{function}: {name} must hold real numbers, but is {_dtype(value)}")
    return value


def same_shape(function: str, name: str, value: object, shape: Sequence[int], of: str) -> Tensor:
    """Returns a tensor, if it has the shape of the argument called ``of``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {name} must be a tensor, but is {type(value).__name__}")
    if value.shape != tuple(shape):
        raise ValueError(
            f"{function}: {name} must have the shape of {of}, {tuple(shape)}, but has {tuple(value.shape)}"
        )
    return value


def of_parameters(function: str, x: Tensor, network: nn.Module) -> None:
    """Raises TypeError unless x has the dtype of a network's parameters, or autocast converts it."""
    parameter = next(network.parameters())
    if x.dtype != parameter.dtype and not autocasts(x.device.type):
        raise TypeError(f"{function}: x must have the dtype of the parameters, {parameter.dtype}, but has {x.dtype}")


def autocasts(device: str) -> bool:
    """Whether autocast is on for a type of device, which may have none."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(device: str) -> AbstractContextManager[object]:
    """A context in which autocast is off for a type of device."""
    return torch.autocast(device, enabled=False) if autocasts(device) else nullcontext()


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which the ops accumulate: float32 for half precision, otherwise that of x."""
    return torch.promote_types(x.dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    return x.to(compute_dtype(x))


def integer(function: str, name: str, value: object) -> int:
    """Returns an integer of Python, NumPy or a 0-d tensor as an int."""
    if type(value) is int:
        return value
    kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
    try:
        if isinstance(value, bool) or kind in (torch.bool, "bool_", "bool"):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        shape = tuple(getattr(value, "shape", ()))
        kind = f"{kind} of shape {shape}" if shape else kind
        raise TypeError(f"{function}: {name} must be an integer, but is {kind}") from None


def sizes(function: str, **values: object) -> tuple[int, ...]:
    """Returns sizes, each an integer as :func:`integer` takes it and at least 1."""
    integers = tuple(integer(function, name, value) for name, value in values.items())
    if min(integers) < 1:
        *others, last = values
        names, verb = (f"{', '.join(others)} and {last}", "are") if others else (last, "is")
        raise ValueError(f"{function}: {names} must be at least 1, but {verb} {', '.join(map(str, integers))}")
    return integers


def seed(function: str, value: object) -> int | Tensor:
    """Returns a seed of 64 bits, signed as torch takes it, or a key of two int64 numbers, which the ops check."""
    if isinstance(value, Tensor) and value.dim() > 0:
        return value
    word = integer(function, "seed", value)
    if not -(2**63) <= word < 2**64:
        raise ValueError(f"{function}: seed must have at most 64 bits, but is {word}")
    return word - 2**64 if word >= 2**63 else word


def states(function: str, name: str, value: Tensor) -> Tensor:
    """Returns states of bits as int8, from integers, floats or booleans whose entries are -1 (void), 0 and 1."""
    if value.dtype == torch.int8:
        return value
    if value.dtype == torch.bool:
        return value.to(torch.int8)
    if value.is_complex():
        raise TypeError(f"{function}: {name} must hold -1 (void), 0 and 1, but is {_dtype(value)}")
    converted = value.clamp(-1 if value.dtype.is_signed else 0, 1).to(torch.int8)
    if not bool((converted == value).all()):
        raise ValueError(f"{function}: {name} must hold -1 (void), 0 and 1 only, but as {_dtype(value)} holds others")
    return converted


def bits(function: str, name: str, value: Tensor) -> Tensor:
    """Returns bits of any dtype, whose entries are 0 and 1, so far as they are readable without waiting for a GPU."""
    if value.device.type == "cpu" and readable(value) and not bool(((value == 0) | (value == 1)).all()):
        raise ValueError(f"{function}: {name} must hold 0 and 1 only, but holds others")
    return value


def readable(value: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at: not in a compiler, a transform, a capture or on device meta."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or value.device.type == "meta":
        return False
    return not (value.is_cuda and torch.cuda.is_current_stream_capturing())


def vmapped() -> bool:
    """Whether torch.vmap is the innermost transform of torch.func at work."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch
    return functorch.peek_interpreter_stack().key() == functorch.TransformType.Vmap


def finite_rows(function: str, name: str, value: Tensor, remedy: str) -> Tensor:
    """Returns a tensor (B) without NaN or infinity, so far as its numbers are readable without waiting for a GPU."""
    if value.device.type == "cpu" and readable(value) and not bool(value.isfinite().all()):
        rows = (~value.isfinite()).nonzero().flatten().tolist()
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        shown = ", ".join(map(str, rows[:8])) + more
        raise ValueError(f"{function}: {name} must be finite, but is {float(value[rows[0]])} in rows {shown}; {remedy}")
    return value


def differentiates(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function that calls autograd inside run in inference mode, where it behaves as under no_grad.

    Tensors of inference mode among its arguments, which autograd cannot take, are copied.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        inference = torch.is_inference_mode_enabled()
        with (
            torch.inference_mode(False) if inference else nullcontext(),
            torch.no_grad() if inference else nullcontext(),
        ):
            positional, named = (
                map(without_inference, args),
                {name: without_inference(value) for name, value in kwargs.items()},
            )
            return function(*positional, **named)  # type: ignore[arg-type]

    return wrapper


def without_inference(value: T) -> T:
    """Returns a tensor of inference mode as a copy that autograd takes, anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value  # type: ignore[return-value]


def fail(op: str, message: str) -> NoReturn:
    raise RuntimeError(f"svgdx::{op}: {message}")


def one_of(owner: str, name: str, value: T, known: Sequence[T]) -> T:
    """Returns the value; raises ValueError, with the known values, if it is not among them."""
    if value not in known:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(map(str, known))}, but is {value!r}")
    return value


def tensor(op: str, name: str, value: object) -> None:
    """Raises TypeError unless the value is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"svgdx::{op}: {name} must be a tensor, but is {type(value).__name__}")


def number(op: str, name: str, value: object, positive: bool) -> float:
    """Returns a number as a float; it must be finite, and greater than zero if ``positive``."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"svgdx::{op}: {name} must be a number or a tensor, but is {type(value).__name__}")
    if not isinstance(value, (int, float)):
        value = float(value)
    if positive and not 0.0 < value < math.inf:
        raise ValueError(f"svgdx::{op}: {name} must be positive and finite, but is {value}")
    if not -math.inf < value < math.inf:
        raise ValueError(f"svgdx::{op}: {name} must be finite, but is {value}")
    return value


def floating(op: str, name: str, value: Tensor) -> None:
    tensor(op, name, value)
    if value.dtype not in _FLOATS:
        fail(op, f"{name} must be float32, float64, bfloat16 or float16, but is {_dtype(value)}")


def like(op: str, name: str, value: Tensor, x: Tensor, of: str = "x") -> None:
    """Checks that a tensor has the dtype and device of x, the argument called ``of``."""
    tensor(op, name, value)
    same_dtype(op, name, value, x, of)
    same_device(op, name, value, x, of)


def shape(op: str, name: str, value: Tensor, expected: Sequence[int], meaning: str = "shape ") -> None:
    if tuple(value.shape) != tuple(expected):
        fail(op, f"{name} must have {meaning}{tuple(expected)}, but has {tuple(value.shape)}")


def numbers_per_row(op: str, name: str, value: Tensor, lead: Sequence[int], of: str, x: Tensor) -> None:
    """Checks for a 0-d tensor, or for one number for each index of ``lead``, the leading shape of ``of``."""
    floating(op, name, value)
    if value.dim() > 0 or value.device.type != "cpu":
        same_device(op, name, value, x, of)
    if value.dim() > 0:
        shape(op, name, value, lead, f"0 dimensions or the leading shape of {of}, ")


def of_dtype(op: str, name: str, value: Tensor, dtype: torch.dtype) -> None:
    tensor(op, name, value)
    if value.dtype != dtype:
        fail(op, f"{name} must be {str(dtype).removeprefix('torch.')}, but is {_dtype(value)}")


def same_device(op: str, name: str, value: Tensor, x: Tensor, of: str = "x") -> None:
    if value.device != x.device:
        fail(op, f"{name} must be on the device of {of}, {x.device}, but is on {value.device}")


def same_dtype(op: str, name: str, value: Tensor, x: Tensor, of: str = "x") -> None:
    if value.dtype != x.dtype:
        fail(op, f"{name} must have the dtype of {of}, {_dtype(x)}, but has {_dtype(value)}")


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
