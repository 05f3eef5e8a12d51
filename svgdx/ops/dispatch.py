"""The Python side of every op, used through svgdx.ops: fake kernel, gradient, vmap and autocast, and a fast call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx import _checks, _library
from svgdx._checks import Scalar
from svgdx.ops.signature import NUMBER, PLAIN, PROBES, SHARED, Signature

__all__ = ["Keyed", "Op"]

Formula = Callable[..., tuple[Tensor | None, ...]]


Limit = Callable[[dict[str, Any], Sequence[Any]], str | None]


class Op:
    """An op ``torch.ops.svgdx.<name>``, called as a function of positional arguments.

    Args:
        name: name of the op, whose schema and kernels the compiled library defines; of another overload than the
            default one, op and overload as in "rademacher.key".
        line: the op's signature, see svgdx/ops/signature.py.
        formula: ``formula(inputs, needs, *grads)`` returns one gradient per input; ``needs`` tells which ones are
            required, and the gradient of an unused output is None. Without a formula the outputs do not require grad.
        defaults: values of the last arguments if they are omitted.
        keeps: whether the last output is only for the gradient; it is then appended to ``inputs`` of the formula.
        autocast: whether autocast converts the inputs to float32.
        limit: ``limit(sizes, values)`` returns what is wrong with arguments that have the right shapes, or None.
    """

    def __init__(
        self,
        name: str,
        line: str,
        formula: Formula | None = None,
        defaults: tuple[Any, ...] = (),
        keeps: bool = False,
        autocast: bool = True,
        limit: Limit | None = None,
    ) -> None:
        self.name = name
        operator = name.partition(".")[0]
        self.signature = Signature(operator.removesuffix("_forward") if keeps else operator, line)
        self._defaults = defaults
        self._limit = limit
        arguments = enumerate(self.signature.arguments)
        self._checked = [(i, argument) for i, argument in arguments if argument.rank != PLAIN]
        self._first = next(i for i, argument in self._checked if argument.rank != NUMBER)
        self._register(self.signature.ranks, self._fake, formula is not None, _rules_of(formula, keeps), autocast)

    def backward(self, gradients: str, inputs: str | None = None) -> Op:
        """The backward op, whose outputs look like the arguments that they are the gradients of.

        Args:
            gradients: names of the arguments that its outputs are the gradients of.
            inputs: names of its arguments after the upstream gradients; the same names by default.
        """
        return _BackwardOp(self, gradients.split(), (inputs or gradients).split())

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
        values = list(args)
        for i, argument in self._checked:
            value = values[i]
            if isinstance(value, Tensor) or (value is None and argument.optional):
                continue
            if argument.rank != NUMBER:
                _checks.tensor(self.signature.op, argument.name, value)
            values[i] = number(self.signature.op, argument.name, value, args[self._first], argument.positive)
        return self(*values)

    def _fake(self, *args: Any) -> Any:
        missing = len(self.signature.arguments) - len(args)
        values = (*args, *self._defaults[len(self._defaults) - missing :]) if missing else args
        return self.signature.outputs_for(self.check(*values), *values)

    def _register(
        self,
        ranks: Sequence[int],
        fake: Callable[..., Any],
        differentiable: bool,
        rules: tuple[Callable[..., None], Callable[..., Any]],
        autocast: bool,
        gradient_of: Sequence[int] | None = None,
    ) -> None:
        self._ranks = ranks
        self._gradient_of = gradient_of
        self._differentiable = differentiable
        if _library.disabled():
            return
        _library.require()
        operator, _, overload = self.name.partition(".")
        self._op = getattr(getattr(torch.ops.svgdx, operator), overload or "default")
        qualname = f"svgdx::{self.name}"
        torch.library.register_fake(qualname, fake)
        torch.library.register_vmap(qualname, self._vmap)
        for device in ("cpu", "cuda") if autocast else ():
            torch.library.register_autocast(qualname, device, torch.float32)
        setup_context, backward = rules
        torch.library.register_autograd(qualname, backward, setup_context=setup_context)
        self._function = _function_of(self, setup_context, backward)
        self._recorded = _recorded_of(self, setup_context, backward)

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._op(*args)
        # torch.library's autograd kernel does not support torch.func's transforms; a Function with a vmap rule does.
        if torch._C._are_functorch_transforms_active():
            return self._function.apply(*args)
        # torch.library's autograd kernel is written in Python and costs as much as a small op, so record without it.
        if self._differentiable and torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            # Autocast must change the inputs before they are saved.
            return self._op(*args) if torch._C._is_any_autocast_enabled() else self._recorded.apply(*args)
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
            absent = args[i] is None
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
        return self.of(args).checked(*args)

    def check(self, *args: Any) -> dict[str, Any]:
        return self.of(args).check(*args)


class _BackwardOp(Op):
    """The backward op of another op; its arguments are that op's upstream gradients, then some of its arguments."""

    def __init__(self, forward: Op, gradients: Sequence[str], inputs: Sequence[str]) -> None:
        self.name = f"{forward.name.removesuffix('_forward')}_backward"
        signature = forward.signature
        outputs = {output.name: output for output in signature.outputs}
        upstream = [
            output for output in signature.outputs if output.name not in inputs or output.name in signature.index
        ]
        arguments = [signature.arguments[signature.index[n]] if n in signature.index else outputs[n] for n in inputs]
        ranks = [argument.rank for argument in (*upstream, *arguments)]
        positions = [len(upstream) + inputs.index(name) for name in gradients]
        self._reference = len(upstream) + next(i for i, argument in enumerate(arguments) if argument.rank != NUMBER)
        self._register(ranks, self._fake, True, _refuse_twice(self.name), False, positions)

    def _fake(self, *args: Any) -> Any:
        like = args[self._reference]
        gradients = []
        for i in self._gradient_of or ():
            value = args[i]
            # The gradient of a number is on the device of the other arguments; that of a missing argument is empty.
            gradients.append(
                like.new_empty((0,) if value is None else value.shape, dtype=getattr(value, "dtype", None))
            )
        return gradients[0] if len(gradients) == 1 else tuple(gradients)


def number(op: str, name: str, value: Scalar, x: Tensor, positive: bool = True) -> Tensor:
    """Convert a bandwidth or step size to the tensor that the op takes."""
    if isinstance(value, Tensor):
        return value
    value = _checks.number(op, name, value, positive)
    # On the device of x, so that neither the op nor its gradient has to copy and CUDA graphs can capture the op.
    if torch.compiler.is_compiling():
        # A sum, because the compiler treats a number as variable only in arithmetic; otherwise each value recompiles.
        return torch.zeros((), dtype=torch.float64, device=x.device) + value
    return torch.scalar_tensor(value, dtype=torch.float64, device=x.device)


def _rules_of(formula: Formula | None, keeps: bool) -> tuple[Callable[..., None], Callable[..., Any]]:
    """Return setup_context and backward in the form that torch.library and autograd.Function expect."""

    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        if formula is None:
            ctx.mark_non_differentiable(*([output] if isinstance(output, Tensor) else output))
            return
        saved_outputs = (output[-1],) if keeps else ()
        ctx.mark_non_differentiable(*saved_outputs)
        ctx.set_materialize_grads(False)
        ctx.is_tensor = [isinstance(value, Tensor) for value in inputs]
        ctx.plain = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)), *saved_outputs)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if formula is None or all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        saved = iter(ctx.saved_tensors)
        inputs = [
            next(saved) if is_tensor else plain for is_tensor, plain in zip(ctx.is_tensor, ctx.plain, strict=True)
        ]
        inputs += saved
        # Trailing arguments left at their defaults are inputs of setup_context but not of autograd.
        needs = (*ctx.needs_input_grad, *(False,) * (len(inputs) - len(ctx.needs_input_grad)))
        input_grads = formula(inputs, needs, *grads)
        return tuple(grad if need else None for grad, need in zip(input_grads, ctx.needs_input_grad, strict=False))

    return setup_context, backward


def _refuse_twice(name: str) -> tuple[Callable[..., None], Callable[..., Any]]:
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        pass

    def backward(ctx: Any, *grads: Tensor | None) -> None:
        raise RuntimeError(
            f"svgdx::{name} cannot be differentiated: the ops only have first derivatives; "
            "use svgdx.reference for second derivatives"
        )

    return setup_context, backward


def _function_of(op: Op, setup_context: Callable[..., None], backward: Callable[..., Any]) -> Any:
    """Wrap the op in an autograd.Function for torch.func."""
    members = {
        "forward": staticmethod(lambda *args: op(*args)),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
        "vmap": staticmethod(op._vmap),
    }
    return type(op.name, (torch.autograd.Function,), members)


def _recorded_of(op: Op, setup_context: Callable[..., None], backward: Callable[..., Any]) -> Any:
    """Wrap the op in an autograd.Function without torch.func's rules, which is the fastest to apply."""

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op._op(*args)
        setup_context(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"{op.name}_recorded", (torch.autograd.Function,), members)


def _front(rank: int) -> int:
    """Index of an argument's first leading dimension."""
    return 1 if rank == PROBES else 0


def _lead(ranks: Sequence[int], in_dims: Sequence[int | None], args: Sequence[Any]) -> tuple[torch.Size, torch.device]:
    """Leading shape of one mapped row and the device, taken from the first argument (..., M, D)."""
    i = next(i for i, rank in enumerate(ranks) if rank == 2 and args[i] is not None)
    one = args[i] if in_dims[i] is None else args[i].select(in_dims[i], 0)
    return one.shape[:-2], one.device


def _per_row(value: Tensor, dim: int | None, shape: Sequence[int]) -> Tensor:
    """Expand numbers, one per mapped row or one for all, to one per batch row."""
    if dim is None:
        return value.expand(shape)
    value = value.movedim(dim, 0)
    return value if value.dim() > 1 else value.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)


def _without(value: Tensor, dim: int) -> Tensor:
    return value.new_empty(value.shape[:dim] + value.shape[dim + 1 :])
