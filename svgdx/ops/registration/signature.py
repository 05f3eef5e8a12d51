"""One line of shapes per op, from which its checks, its fake kernel and the vmap ranks of its arguments follow.

    x[*,M,D] score[*,M,D] bandwidth[~]>0 log_q[*,M]w hessian_trace[*,M]w? -> x[*,M,D] log_q[*,M]w

Arguments and outputs are separated by ``->``. Brackets hold the dimensions: ``*`` for the leading ones, a symbol, or a
multiple of one plus a constant, such as ``3D`` and ``T+1``; ``[~]`` is a number, a 0-d tensor or one per batch row. A
name without brackets is not a tensor. After the brackets stands the dtype: none for that of the first argument; ``w``
for that or float32 beside half precision; ``c`` for the compute dtype; ``i64``, ``i8`` and ``b8`` for int64, int8 and
bool; ``host`` for int64 on the CPU; ``any`` for a first argument of any dtype, not only a floating one. ``>0`` marks a
number that must be positive, ``?`` an optional argument.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._checks import compute_dtype

__all__ = ["NUMBER", "PLAIN", "PROBES", "SHARED", "Argument", "Signature"]

# Ranks of arguments: the number of dimensions after the leading ones, as in 1 (..., M) and 2 (..., M, D), or one of
# these: not a tensor; a tensor without leading dimensions, shared by all rows; probes, (V, ..., D), whose leading
# dimensions follow the first; one number for all batch rows or one per row.
PLAIN, SHARED, PROBES, NUMBER = -1, -2, -3, -4

_DTYPES = {"i64": torch.int64, "i8": torch.int8, "b8": torch.bool, "host": torch.int64}
_ARGUMENT = re.compile(r"(\w+)(?:\[([^\]]*)\])?(w|c|i64|i8|b8|host|any)?(>0)?(\?)?")
_SIZE = re.compile(r"(\d*)([A-Z]?)(?:\+(\d+))?")


@dataclasses.dataclass(frozen=True)
class Size:
    """One dimension: ``factor * symbol + constant``, or the constant alone if there is no symbol."""

    text: str
    factor: int
    symbol: str
    constant: int

    @staticmethod
    def parse(text: str) -> Size:
        match = _SIZE.fullmatch(text)
        assert match is not None, text
        factor, symbol, constant = match.groups()
        if not symbol:
            return Size(text, 0, "", int(factor))
        return Size(text, int(factor or 1), symbol, int(constant or 0))

    def of(self, sizes: dict[str, Any]) -> Any:
        return self.factor * sizes[self.symbol] + self.constant if self.symbol else self.constant


@dataclasses.dataclass(frozen=True)
class Argument:
    """An argument or output of an op."""

    name: str
    rank: int
    front: tuple[Size, ...]  # before the leading dimensions; all of them if there are none
    back: tuple[Size, ...]
    kind: str
    positive: bool
    optional: bool

    @staticmethod
    def parse(text: str) -> Argument:
        match = _ARGUMENT.fullmatch(text)
        assert match is not None, text
        name, brackets, kind, positive, optional = match.groups()
        words = [] if brackets in (None, "~") else [word for word in brackets.split(",") if word]
        star = words.index("*") if "*" in words else len(words)
        front, back = ([Size.parse(word) for word in side] for side in (words[:star], words[star + 1 :]))
        if brackets is None:
            rank = PLAIN
        elif brackets == "~":
            rank = NUMBER
        elif "*" not in words:
            rank = SHARED
        else:
            rank = PROBES if front else len(back)
        return Argument(name, rank, tuple(front), tuple(back), kind or "", positive is not None, optional is not None)

    @property
    def has_lead(self) -> bool:
        return self.rank >= 0 or self.rank == PROBES

    def shape_text(self) -> str:
        words = [size.text for size in self.front] + ["..."] * self.has_lead + [size.text for size in self.back]
        return f"({', '.join(words)}{',' if len(words) == 1 and not self.has_lead else ''})"

    def shape(self, sizes: dict[str, Any]) -> tuple[Any, ...]:
        lead = sizes["*"] if self.has_lead else ()
        return (*(size.of(sizes) for size in self.front), *lead, *(size.of(sizes) for size in self.back))

    def symbols(self) -> set[str]:
        symbols = {size.symbol for size in (*self.front, *self.back)} - {""}
        return symbols | {"*"} if self.has_lead or self.rank == NUMBER else symbols


class Signature:
    """The shapes and dtypes of an op's arguments and outputs.

    Args:
        op: name of the op, for messages.
        line: the op's line, in the notation of this module.
    """

    def __init__(self, op: str, line: str) -> None:
        arguments, arrow, outputs = line.partition("->")
        assert arrow, line
        self.op = op
        self.arguments = tuple(Argument.parse(word) for word in arguments.split())
        self.outputs = tuple(Argument.parse(word) for word in outputs.split())
        self.ranks = tuple(argument.rank for argument in self.arguments)
        self.index = {argument.name: i for i, argument in enumerate(self.arguments)}

    def bind(self, *values: Any) -> dict[str, Any]:
        """Check the arguments; return the sizes by symbol, with the leading shape under ``*``.

        Raises:
            TypeError: if a tensor argument is not a tensor, or a number neither a number nor a tensor.
            ValueError: if a number is not finite, or not positive although it must be.
            RuntimeError: if a shape, dtype or device does not match.
        """
        sizes: dict[str, Any] = {}
        owners: dict[str, str] = {}  # the argument that determined each symbol
        first: tuple[str, Tensor] | None = None
        numbers = []
        for argument, value in zip(self.arguments, values, strict=False):
            if argument.rank == PLAIN or (value is None and argument.optional):
                continue
            if argument.rank == NUMBER:
                numbers.append((argument, value))
                continue
            if not isinstance(value, Tensor):
                _checks.tensor(self.op, argument.name, value)
            if first is None:
                first = argument.name, value
                if argument.kind != "any":
                    _checks.floating(self.op, argument.name, value)
            self._check_dtype(argument, value, *first)
            self._check_shape(argument, value, sizes, owners)
        assert first is not None
        for argument, value in numbers:
            if isinstance(value, Tensor):
                _checks.numbers_per_row(self.op, argument.name, value, sizes["*"], *first)
            else:
                _checks.number(self.op, argument.name, value, argument.positive)
        return sizes

    def outputs_for(self, sizes: dict[str, Any], *values: Any) -> Any:
        """Empty outputs for arguments with these sizes."""
        first = values[next(i for i, argument in enumerate(self.arguments) if argument.rank not in (PLAIN, NUMBER))]
        outputs = []
        for output in self.outputs:
            if output.kind == "c":
                dtype = compute_dtype(first)
            elif output.kind == "w":
                dtype = values[self.index[output.name]].dtype
            else:
                dtype = _DTYPES.get(output.kind, first.dtype)
            outputs.append(first.new_empty(output.shape(sizes), dtype=dtype))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _check_dtype(self, argument: Argument, value: Tensor, first_name: str, first: Tensor) -> None:
        if argument.kind in _DTYPES:
            _checks.of_dtype(self.op, argument.name, value, _DTYPES[argument.kind])
        elif not (argument.kind == "w" and value.dtype == compute_dtype(first)):
            _checks.same_dtype(self.op, argument.name, value, first, first_name)
        if argument.kind != "host":
            _checks.same_device(self.op, argument.name, value, first, first_name)

    def _check_shape(self, argument: Argument, value: Tensor, sizes: dict[str, Any], owners: dict[str, str]) -> None:
        shape = tuple(value.shape)
        known = {symbol: owners[symbol] for symbol in sorted(argument.symbols()) if symbol in owners}
        if known.keys() == argument.symbols():
            if shape != argument.shape(sizes):
                match = f" to match {_names(known)}, {argument.shape(sizes)}" if known else ""
                expected = f"shape {argument.shape_text()}{match}"
                for other in self.arguments[: self.index[argument.name]]:
                    if (other.front, other.back, other.rank) == (argument.front, argument.back, argument.rank):
                        expected = f"the shape of {other.name}, {argument.shape(sizes)}"
                        break
                _checks.fail(self.op, f"{argument.name} must have {expected}, but has {shape}")
            return
        rank = len(argument.front) + len(argument.back)
        matches = len(shape) >= rank if argument.has_lead else len(shape) == rank
        if matches:
            lead_end = len(shape) - len(argument.back)
            if argument.has_lead:
                matches = (
                    sizes.setdefault("*", shape[len(argument.front) : lead_end])
                    == shape[len(argument.front) : lead_end]
                )
                owners.setdefault("*", argument.name)
            dimensions = (*shape[: len(argument.front)], *shape[lead_end:])
            for size, length in zip((*argument.front, *argument.back), dimensions, strict=True):
                matches = matches and self._matches(size, length, sizes)
                owners.setdefault(size.symbol, argument.name)
        if not matches:
            values = [f"{'...' if symbol == '*' else symbol} = {sizes[symbol]}" for symbol in known]
            match = f" with {', '.join(values)} as in {_names(known)}" if known else ""
            _checks.fail(self.op, f"{argument.name} must have shape {argument.shape_text()}{match}, but has {shape}")

    @staticmethod
    def _matches(size: Size, length: int, sizes: dict[str, Any]) -> bool:
        if not size.symbol:
            return length == size.constant
        if size.symbol in sizes:
            return bool(size.of(sizes) == length)
        rest = length - size.constant
        if size.factor == 1:
            sizes[size.symbol] = rest
            return size.constant == 0 or rest >= 0
        sizes[size.symbol] = rest // size.factor
        return rest >= 0 and rest % size.factor == 0


def _names(owners: dict[str, str]) -> str:
    return " and ".join(dict.fromkeys(owners.values()))
