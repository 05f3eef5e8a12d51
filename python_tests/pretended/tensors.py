"""Tensors that say they are on cuda:0 and hold a CPU tensor.

C++ sees a tensor of the CPU, so that autograd, foreach and fused optimisers work without a driver. Python, and every
call of an op, sees cuda:0: what a GPU refuses is refused, and what costs time there is counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pretended.counts import Counts, place
from pretended.generators import generators_of
from pretended.graphs import Recording
from pretended.kernels import has_cuda_kernel, launches
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")

# Ops that take a CPU tensor beside CUDA ones: copies, and indices, which torch copies to the device.
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}  # fmt: skip
# Ops whose result, or its size, the host reads.
WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
    aten.unique_consecutive.default, aten.unique_dim.default, aten.repeat_interleave.Tensor, aten.equal.default,
    aten._linalg_check_errors.default,
}  # fmt: skip
# Ops that launch nothing and that no alias in their schema shows to be views.
FREE = {
    aten._unsafe_view.default, aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten.resize_.default,
    aten.set_.source_Tensor, aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default,
    aten.empty_strided.default, aten.new_empty_strided.default, aten._local_scalar_dense.default,
    aten.squeeze_.default, aten.squeeze_.dim, aten.squeeze_.dims, aten.unsqueeze_.default, aten.transpose_.default,
}  # fmt: skip
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"


class PretendedTensor(Tensor):
    """A tensor on the pretended GPU.

    Attributes:
        inner: the CPU tensor with its values.
        counts: what all of them together have cost.
        recording: of the graph that is being captured, if there is one.
    """

    inner: Tensor
    counts: ClassVar[Counts] = Counts()
    recording: ClassVar[Recording | None] = None
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        assert not isinstance(inner, PretendedTensor)
        outer: PretendedTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=inner.device,
        )
        outer.inner = inner
        return outer

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        self.counts.wait("repr")
        return f"{self.inner!r} on the pretended cuda:0"

    def __format__(self, spec: str) -> str:
        self.counts.wait("format")
        return format(self.inner.item() if self.dim() == 0 else repr(self.inner), spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A file holds plain tensors; on a GPU torch.load's map_location decides where they go.
        self.counts.wait("pickle")
        return self.inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _dispatch(func, args, kwargs or {})


@contextmanager
def recorded(func: Any, flat: Sequence[Any], is_on_gpu: Sequence[bool], spec: Any) -> Iterator[Callable[[Any], Any]]:
    """Yields a function to which the result of an op is passed: while a graph is captured, it notes the call."""
    recording = PretendedTensor.recording
    if recording is None:
        yield lambda result: result
        return
    call = recording.before(func, flat, is_on_gpu, spec)
    yield lambda result: recording.after(call, result)


def is_made_in_cpp(tensor: Any) -> bool:
    """Whether C++ made a tensor on its own, as backward formulas do: on a GPU it would be there."""
    return getattr(tensor, "_made_in_cpp", False)


def leaves(values: Iterable[Any]) -> Iterator[Any]:
    """The values in nested lists, tuples and dicts; torch's tree_flatten takes most of the time of a call."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from leaves(value)
        elif isinstance(value, dict):
            yield from leaves(value.values())
        else:
            yield value


def _inner(value: Any) -> Any:
    if isinstance(value, PretendedTensor):
        return value.inner
    return [_inner(x) for x in value] if type(value) in (list, tuple) else value


def _outer(value: Any) -> Any:
    return PretendedTensor(value) if type(value) is Tensor else value


def _dispatch(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    values = list(leaves((*args, *kwargs.values())))
    _refuse(func, values)
    _count(func, args)
    inner_args, inner_kwargs = [_inner(x) for x in args], {name: _inner(x) for name, x in kwargs.items()}
    with generators_of(func, inner_kwargs):
        if PretendedTensor.recording is None:
            result = func(*inner_args, **inner_kwargs)
        else:
            is_on_gpu = [isinstance(x, PretendedTensor) or is_made_in_cpp(x) for x in tree_flatten((args, kwargs))[0]]
            flat, spec = tree_flatten((inner_args, inner_kwargs))
            with recorded(func, flat, is_on_gpu, spec) as record:
                result = record(func(*inner_args, **inner_kwargs))
    if func is aten._local_scalar_dense.default:
        return result
    outer = PretendedTensor(result) if type(result) is Tensor else tree_map(_outer, result)
    return return_and_correct_aliasing(func, args, kwargs, outer)


def _refuse(func: Any, flat: Sequence[Any]) -> None:
    """Raises what a GPU raises for an op without a CUDA kernel, or for tensors of both devices."""
    if not has_cuda_kernel(func):
        raise NotImplementedError(f"Could not run '{func}' with arguments from the 'CUDA' backend (at {place()})")
    is_ours = func.namespace.startswith("svgdx")
    for tensor in flat:
        if not isinstance(tensor, Tensor) or isinstance(tensor, PretendedTensor) or is_made_in_cpp(tensor):
            continue
        # The widths of layers are read by the host.
        is_widths = is_ours and tensor.dtype == torch.int64 and tensor.dim() == 1
        if tensor.dim() > 0 and func not in COPIES and func not in INDEXED and not is_widths:
            raise RuntimeError(f"{MIXED} ({func} with a tensor {tuple(tensor.shape)} of the CPU, at {place()})")


def _count(func: Any, args: Sequence[Any]) -> None:
    counts = PretendedTensor.counts
    if func is aten.copy_.default:
        source, target = args[1], args[0]
        if not isinstance(target, PretendedTensor):
            counts.wait("copy to the host")
        elif not isinstance(source, PretendedTensor) and not is_made_in_cpp(source):
            counts.copy_from_host("copy_")
    elif func in WAITING:
        counts.wait(func._schema.name)
    elif func in INDEXED:
        indices = [index for index in args[1] or () if isinstance(index, Tensor)]
        for index in indices:
            if not isinstance(index, PretendedTensor) and not is_made_in_cpp(index):
                counts.copy_from_host("index")
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and func is aten.index.Tensor:
            counts.wait("index by a mask")
    if not _is_view(func):
        counts.launch(func._schema.name, launches(func, args))


@functools.cache
def _is_view(func: Any) -> bool:
    arguments = func._schema.arguments
    return func in FREE or any(arg.alias_info is not None and not arg.alias_info.is_write for arg in arguments)
