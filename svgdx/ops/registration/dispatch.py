"""The Python side of every op, used through svgdx.ops: fake kernel, gradient, vmap and autocast, and a fast call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from svgdx import _checks, _library
from svgdx.ops.registration.observers import is_observed
from svgdx.ops.registration.recording import Formula, is_dual, recorded, reference_of
from svgdx.ops.registration.signature import NUMBER, PLAIN, PROBES, SHARED, Argument, Signature

__all__ = ["OPS", "Keyed", "Op"]

Limit = Callable[[dict[str, Any], Sequence[Any]], str | None]
Second = Callable[[Sequence[Any], Sequence[int], Sequence[Tensor | None]], tuple[Tensor | None, ...]]

# Every op by name, the backward ops included.
OPS: dict[str, Op] = {}


class Op:
    """An op ``torch.ops.svgdx.<name>``, called as a function of positional arguments.

    Args:
        name: name of the op, whose schema and kernels the compiled library defines; of another overload than the
            default one, op and overload as in "rademacher.key".
        line: the op's signature, see svgdx/ops/registration/signature.py.
        formula: ``formula(inputs, needs, *grads)`` returns one gradient per input; ``needs`` tells which ones are
            required, and the gradient of an unused output is None. Without a formula the outputs do not require grad.
        keeps: whether the last output is only for the gradient; it is then appended to ``inputs`` of the formula.
        autocast: whether autocast converts the inputs to float32.
        limit: ``limit(sizes, values)`` returns what is wrong with arguments that have the right shapes, or None.
    """

    def __init__(
        self,
        name: str,
        line: str,
        formula: Formula | None = None,
        keeps: bool = False,
        autocast: bool = True,
        limit: Limit | None = None,
    ) -> None:
        self.name = name
        operator = name.partition(".")[0]
        self.signature = Signature(operator.removesuffix("_forward") if keeps else operator, line)
        self._limit = limit
        arguments = list(enumerate(self.signature.arguments))
        self._numbers = [(i, argument) for i, argument in arguments if argument.rank == NUMBER]
        self._tensors = [(i, argument) for i, argument in arguments if argument.rank not in (PLAIN, NUMBER)]
        self._first = self._tensors[0][0]
        self._needed_by: dict[int, int] = {}
        self._reads = slice(1 if arguments[0][1].name == "like" else 0, None)
        self._register(self.signature.ranks, self._fake, formula, keeps, autocast)

    def backward(
        self, gradients: str, inputs: str | None = None, second: Second | None = None, if_needed: str = ""
    ) -> Op:
        """The backward op, whose outputs look like the arguments that they are the gradients of.

        Args:
            gradients: names of the arguments that its outputs are the gradients of.
            inputs: names of its arguments after the upstream gradients; the same names by default.
            second: ``second(args, positions, grads)`` returns the gradients of all its arguments; its outputs are the
                gradients of those at the positions. Without it, second derivatives are refused.
            if_needed: names among the gradients that cost extra work; for each the op has a last argument
                ``needs_<name>``, and the gradient is empty if that is false.
        """
        return _BackwardOp(self, gradients.split(), (inputs or gradients).split(), second, if_needed.split())

    def check(self, *values: Any) -> dict[str, Any]:
        """Check the arguments as the compiled op does; return the sizes by symbol.

        Raises:
            TypeError, ValueError, RuntimeError: as :meth:`Signature.bind`; RuntimeError also if a limit is exceeded.
        """
        sizes = self.signature.bind(*values)
        message = None if self._limit is None else self._limit(sizes, values)
        if message is not None:
            _checks.fail(self.signature.op, message)
        return sizes

    def checked(self, *args: Any) -> Any:
        """Call the op; tensor arguments must be tensors, and numbers may also be Python numbers."""
        observed = is_observed()
        values = list(args)
        for i, argument in self._numbers:
            value = args[i]
            if not isinstance(value, Tensor):
                if type(value) is float and 0.0 < value < math.inf and not observed:
                    values[i] = _constant(value)
                    continue
                first = self._tensors[0][1].name
                values[i] = _number(self.signature.op, argument, value, first, args[self._first])
        try:
            return self(*values) if observed else self._run(values)
        except (RuntimeError, TypeError) as error:
            # The compiled op checks its tensors; that they are tensors is checked only once it has failed.
            for i, argument in self._tensors:
                if not (args[i] is None and argument.optional):
                    _checks.tensor(self.signature.op, argument.name, args[i])
            cuda = _library.libraries["cuda"]
            if isinstance(error, NotImplementedError) and args[self._first].is_cuda and not cuda.loaded:
                _checks.fail(self.signature.op, f"svgdx's CUDA library is not loaded: {cuda.reason}")
            raise

    def _fake(self, *args: Any) -> Any:
        values = self._complete(args)
        return self.signature.outputs_for(self.check(*values), *values)

    def _complete(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Append the defaults of the last arguments, which the dispatcher leaves out."""
        missing = self._op._schema.arguments[len(args) :]
        return (*args, *(argument.default_value for argument in missing)) if missing else tuple(args)

    def _register(
        self,
        ranks: Sequence[int],
        fake: Callable[..., Any],
        formula: Formula | None,
        keeps: bool,
        autocast: bool,
        gradient_of: Sequence[int] | None = None,
    ) -> None:
        OPS[self.name] = self
        self._ranks = ranks
        self._gradient_of = gradient_of
        self._differentiable = formula is not None
        if _library.disabled():
            return
        _library.require()
        operator, _, overload = self.name.partition(".")
        self._op = getattr(getattr(torch.ops.svgdx, operator), overload or "default")
        self._kernel = self._op._op
        qualname = f"svgdx::{self.name}"
        torch.library.register_fake(qualname, fake)
        torch.library.register_vmap(qualname, self._vmap)
        for device in ("cpu", "cuda") if autocast else ():
            torch.library.register_autocast(qualname, device, torch.float32)
        self._recorded = recorded(self.name, self._op, formula, keeps)
        torch.library.impl(qualname, "Autograd")(self._record)

    def __call__(self, *args: Any) -> Any:
        return self._op(*args) if is_observed() else self._run(args)

    def _run(self, args: Sequence[Any]) -> Any:
        """What the dispatcher would call `_record` for, through Python, which costs as much as a small op."""
        if self._differentiable and torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return self._recorded.apply(*args)
        guard = torch._C._AutoDispatchBelowAutograd()  # as long as it exists; a with statement takes twice the time
        try:
            return self._kernel(*args)
        finally:
            del guard

    def _record(self, *args: Any) -> Any:
        """The op's kernel for autograd, also at a level of torch.func, which torch.library's own does not support."""
        args = self._complete(args)
        if forward_ad._current_level >= 0 and any(map(is_dual, args[self._reads])):
            _checks.fail(
                self.name,
                "forward-mode derivatives are not implemented; use reverse mode (torch.func.vjp, jacrev or grad), or "
                f"{reference_of(self.name)} for forward mode",
            )
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            with enable_single_level_autograd_function():
                return self._recorded.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return self._op(*args)

    def _vmap(self, info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        """Fold the mapped dimension into the leading ones, or loop over it if a shared argument is mapped."""
        size = info.batch_size
        shared = [dim for dim, rank in zip(in_dims, self._ranks, strict=False) if rank == SHARED]
        if any(dim is not None for dim in shared) or (shared and self._gradient_of is not None):
            return self._loop(size, in_dims, args)
        moved = list(args)
        for i, (arg, dim, rank) in enumerate(zip(args, in_dims, self._ranks, strict=False)):
            if not isinstance(arg, Tensor) or rank == SHARED:
                continue
            if rank == NUMBER:
                # A shared bandwidth stays shared, unless its gradient is needed for each mapped row.
                if dim is not None or arg.dim() > 0 or self._gradient_of is not None:
                    lead, device = _lead(self._ranks, in_dims, args)
                    moved[i] = _per_row(arg, dim, (size, *lead)).to(device)
            elif dim is None:
                front = _front(rank)
                moved[i] = arg.unsqueeze(front).expand(*arg.shape[:front], size, *arg.shape[front:])
            else:
                moved[i] = arg.movedim(dim, _front(rank))
        out = self(*moved)
        if isinstance(out, Tensor):
            return out, 0
        if self._gradient_of is None:
            return out, (0,) * len(out)
        return self._gather(out, in_dims, args)

    def _has_gradient(self, args: Sequence[Any], i: int) -> bool:
        """Whether a backward op returns a gradient of its argument at i."""
        needed_by = self._needed_by.get(i)
        return args[i] is not None and (needed_by is None or needed_by >= len(args) or args[needed_by])

    def _loop(self, size: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> tuple[Any, Any]:
        rows = [
            self(*(arg if dim is None else arg.select(dim, row) for arg, dim in zip(args, in_dims, strict=True)))
            for row in range(size)
        ]
        if not rows:  # only the shapes matter
            one = self._fake(
                *(arg if dim is None else _without(arg, dim) for arg, dim in zip(args, in_dims, strict=True))
            )
            rows = [one]
        if isinstance(rows[0], Tensor):
            return torch.stack(rows)[:size], 0
        return tuple(torch.stack(outputs)[:size] for outputs in zip(*rows, strict=True)), (0,) * len(rows[0])

    def _gather(self, grads: Sequence[Tensor], in_dims: Sequence[int | None], args: Sequence[Any]) -> tuple[Any, Any]:
        """Reduce the gradients of the mapped rows to the shapes of their inputs."""
        result, dims = [], []
        for grad, i in zip(grads, self._gradient_of or (), strict=True):
            absent = not self._has_gradient(args, i)
            is_0d = not absent and args[i].dim() - (in_dims[i] is not None) == 0
            result.append(grad.flatten(1).sum(1) if is_0d and grad.dim() > 1 else grad)
            dims.append(None if absent else _front(self._ranks[i]))
        return tuple(result), tuple(dims)


class Keyed:
    """An op of random draws and its overload ``key``, which takes seed and offset from a tensor.

    Args:
        name: name of the op.
        line: the op's signature with a word ``seed``, in whose place the overload has ``key[2]i64``.
        options: as of :class:`Op`.
    """

    def __init__(self, name: str, line: str, **options: Any) -> None:
        self._of_number = Op(name, line, **options)
        self._of_key = Op(f"{name}.key", line.replace(" seed ", " key[2]i64 "), **options)
        self._seed = self._of_number.signature.index["seed"]

    def of(self, args: Sequence[Any]) -> Op:
        """The overload for these arguments."""
        return self._of_key if isinstance(args[self._seed], Tensor) else self._of_number

    def checked(self, *args: Any) -> Any:
        op = self.of(args)
        if op is self._of_number and not torch.compiler.is_compiling():
            seed = args[self._seed]
            # The schema has signed integers of Python.
            if type(seed) is not int or seed >= 2**63 or seed < -(2**63):
                seed = _checks.seed(f"svgdx::{op.name}", seed)
                args = (*args[: self._seed], seed, *args[self._seed + 1 :])
        return op.checked(*args)

    def check(self, *args: Any) -> dict[str, Any]:
        return self.of(args).check(*args)


class _BackwardOp(Op):
    """The backward op of another op; its arguments are that op's upstream gradients, then some of its arguments."""

    def __init__(
        self,
        forward: Op,
        gradients: Sequence[str],
        inputs: Sequence[str],
        second: Second | None,
        if_needed: Sequence[str],
    ) -> None:
        self.name = f"{forward.name.removesuffix('_forward')}_backward"
        signature = forward.signature
        outputs = {output.name: output for output in signature.outputs}
        upstream = [
            output for output in signature.outputs if output.name not in inputs or output.name in signature.index
        ]
        arguments = [signature.arguments[signature.index[n]] if n in signature.index else outputs[n] for n in inputs]
        arguments += [Argument.parse(f"needs_{name}?") for name in if_needed]
        self.forward, self.arguments, self.upstream, self.second = (
            forward,
            (*upstream, *arguments),
            len(upstream),
            second,
        )
        ranks = [argument.rank for argument in self.arguments]
        positions = [len(upstream) + inputs.index(name) for name in gradients]
        # The argument that says whether the gradient of the one at a position is needed.
        first = len(upstream) + len(inputs)
        self._needed_by = {len(upstream) + inputs.index(name): first + i for i, name in enumerate(if_needed)}
        self._reads = slice(None)
        self._reference = len(upstream) + next(i for i, argument in enumerate(arguments) if argument.rank != NUMBER)

        def formula(args: Sequence[Any], needs: Sequence[bool], *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            if second is None:
                raise RuntimeError(
                    f"svgdx::{self.name} cannot be differentiated: the op only has first derivatives; use "
                    f"{reference_of(self.name)} for second derivatives"
                )
            return *second(args[:first], positions, grads), *[None] * len(if_needed)

        self._register(ranks, self._fake, formula, False, False, positions)

    def _fake(self, *args: Any) -> Any:
        like = args[self._reference]
        gradients = []
        for i in self._gradient_of or ():
            value = args[i]
            # The gradient of a number is on the device of the other arguments; a missing one is empty.
            gradients.append(
                like.new_empty(
                    value.shape if self._has_gradient(args, i) else (0,), dtype=getattr(value, "dtype", None)
                )
            )
        return gradients[0] if len(gradients) == 1 else tuple(gradients)


def _number(op: str, argument: Argument, value: Any, first: str, x: Any) -> Tensor:
    """Convert a bandwidth or step size to the tensor that the op takes; ``first`` is the name of x."""
    value = _checks.number(op, argument.name, value, argument.positive)
    if torch.compiler.is_compiling():
        _checks.tensor(op, first, x)
        # A sum, because the compiler treats a number as variable only in arithmetic; otherwise each value recompiles.
        return torch.zeros((), dtype=torch.float64, device=x.device) + value
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0:
        return torch.scalar_tensor(value, dtype=torch.float64, device="cpu")
    return _constant(value)


@functools.lru_cache(maxsize=256)
def _constant(value: float) -> Tensor:
    """A number on the CPU, from which the op makes one on the device of x without a wait."""
    with torch.inference_mode(False):
        return torch.scalar_tensor(value, dtype=torch.float64, device="cpu")


def _front(rank: int) -> int:
    """Index of an argument's first leading dimension."""
    return 1 if rank == PROBES else 0


def _lead(ranks: Sequence[int], in_dims: Sequence[int | None], args: Sequence[Any]) -> tuple[torch.Size, torch.device]:
    """Leading shape of one mapped row and the device, taken from the first argument (..., M, D)."""
    i = next(i for i, rank in enumerate(ranks) if rank == 2 and args[i] is not None)
    sizes, dim = list(args[i].shape), in_dims[i]
    if dim is not None:
        del sizes[dim]
    return torch.Size(sizes[:-2]), args[i].device


def _per_row(value: Tensor, dim: int | None, shape: Sequence[int]) -> Tensor:
    """Expand numbers, one per mapped row or one for all, to one per batch row."""
    if dim is None:
        return value.expand(shape)
    value = value.movedim(dim, 0)
    return value if value.dim() > 1 else value.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)


def _without(value: Tensor, dim: int) -> Tensor:
    return value.new_empty(value.shape[:dim] + value.shape[dim + 1 :])
