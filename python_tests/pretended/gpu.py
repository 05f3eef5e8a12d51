"""A pretended GPU for tests on machines without one: `with pretended_cuda() as counts`.

Within it device="cuda" gives tensors that say they are on cuda:0, and torch.cuda answers as with one GPU. It refuses
what a GPU refuses and counts what costs time there, see `pretended.tensors` and `pretended.counts`. It cannot show
speed, kernels at work, collectives of NCCL, or rounding that differs between the devices.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from pretended import cuda_only, generators  # noqa: F401 - registers the bodies
from pretended.counts import Counts, place
from pretended.generators import CudaGenerator, is_cuda
from pretended.graphs import Recording
from pretended.tensors import CPU, CUDA, PretendedTensor, is_made_in_cpp, leaves, recorded
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from svgdx import _library
from svgdx.experiments.run.compute import device

NO_NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
# Factories that copy from the host. Of the others, some launch a kernel that fills the memory and some launch nothing.
FROM_HOST = ("tensor", "as_tensor", "asarray", "new_tensor")
EMPTY = ("empty", "empty_strided", "empty_like", "new_empty")


class _ToCuda(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return PretendedTensor(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _on_host(grad)


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _on_host(x.detach()).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad if isinstance(grad, PretendedTensor) else PretendedTensor(grad)


def _on_host(x: Tensor) -> Tensor:
    return x.inner if isinstance(x, PretendedTensor) else x


class _Mode(TorchFunctionMode):
    """Moves tensors, makes them on the pretended GPU, and counts what the host reads."""

    def __init__(self, factories: list[int]) -> None:
        super().__init__()
        self.factories = factories

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, counts = dict(kwargs or {}), PretendedTensor.counts
        name = getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if isinstance(first, PretendedTensor):
            if name in ("numpy", "__array__"):
                raise TypeError(NO_NUMPY)
            if name == "tolist":
                counts.wait("tolist")
                return first.inner.tolist()
        if first is not None and name in ("to", "cpu", "cuda"):
            target = name if name != "to" else _target(args[1:], named)
            if target is not None:
                return _moved(first, target, _dtype(args[1:], named), func)
        if first is not None and name == "type_as" and isinstance(args[1], PretendedTensor):
            return _moved(first, "cuda", args[1].dtype, torch.Tensor.to)
        wanted = isinstance(first, PretendedTensor) if named.get("device") is None else is_cuda(named["device"])
        _check_generator(named.get("generator"), wanted)
        if wanted and (named.get("device") is not None or name == "new_tensor"):
            return self._made_on_gpu(func, name, args, named)
        # What Python makes without a tensor at hand is on the CPU indeed; what C++ makes is not, see _CppMode.
        is_factory = not any(isinstance(x, Tensor) for x in leaves((args, named)))
        self.factories[0] += is_factory
        try:
            return func(*args, **named)
        finally:
            self.factories[0] -= is_factory

    def _made_on_gpu(self, func: Any, name: str, args: Sequence[Any], named: dict[str, Any]) -> Any:
        counts = PretendedTensor.counts
        if name == "new_tensor":
            func, args = torch.tensor, args[1:] if named.get("dtype") else (*args[1:],)
            named.setdefault("dtype", None)
        is_random = named.get("generator") is None and name.startswith("rand")
        with generators.default_in_use() if is_random else contextlib.nullcontext():
            made = func(*args, **named | {"device": CPU})
        if not isinstance(made, Tensor) or isinstance(made, PretendedTensor):
            return made
        if name in FROM_HOST:
            counts.copy_from_host(name)
        elif name not in EMPTY:
            counts.launch(name)
        return PretendedTensor(made.detach()).requires_grad_(made.requires_grad)


def _moved(x: Tensor, target: str, dtype: torch.dtype | None, func: Any) -> Tensor:
    """The tensor on another device, or itself."""
    counts, on_gpu = PretendedTensor.counts, isinstance(x, PretendedTensor)
    if target == "cpu" and on_gpu:
        counts.wait("copy to the host")
        x = _ToHost.apply(x)
    elif target == "cuda" and not on_gpu:
        counts.copy_from_host("to")
        x = PretendedTensor(x) if is_made_in_cpp(x) else _ToCuda.apply(x)
    return x if dtype is None or dtype == x.dtype else torch.Tensor.to(x, dtype)


def _target(args: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """The kind of device that the arguments of Tensor.to name; None if they name none."""
    for value in (*args, named.get("device"), named.get("other")):
        if isinstance(value, Tensor):
            return "cuda" if isinstance(value, PretendedTensor) else "cpu"
        if isinstance(value, (str, torch.device)) or type(value) is int:
            return "cuda" if is_cuda(value) else "cpu"
    return None


def _dtype(args: Sequence[Any], named: Mapping[str, Any]) -> torch.dtype | None:
    other = next((x.dtype for x in (*args, named.get("other")) if isinstance(x, Tensor)), None)
    given = next((x for x in (*args, named.get("dtype")) if isinstance(x, torch.dtype)), None)
    return given or other


def _check_generator(generator: Any, wanted: bool) -> None:
    if not isinstance(generator, generators.RealGenerator):
        return
    on_gpu = isinstance(generator, CudaGenerator)
    if on_gpu != wanted:
        expected, actual = ("cuda", "cpu") if wanted else ("cpu", "cuda")
        raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{actual}' (at {place()})")


class _CppMode(TorchDispatchMode):
    """Marks tensors that C++ creates, as in a backward formula; a GPU would have them where they are used."""

    def __init__(self, factories: list[int]) -> None:
        super().__init__()
        self.factories = factories

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not (all(map(is_made_in_cpp, tensors)) if tensors else not self.factories[0]):
            return func(*args, **kwargs)
        flat, spec = tree_flatten((args, kwargs))
        with recorded(func, flat, [is_made_in_cpp(x) for x in flat], spec) as record:
            result = record(func(*args, **kwargs))
        for x in tree_flatten(result)[0]:
            if type(x) is Tensor:
                x._made_in_cpp = True  # type: ignore[attr-defined]
        return result


class _Graph:
    """What torch.cuda.CUDAGraph is while the GPU is pretended."""

    def __init__(self) -> None:
        self.recording = Recording()

    def replay(self) -> None:
        PretendedTensor.counts.launch("a graph")
        with torch.utils._python_dispatch._disable_current_modes():
            self.recording.replay()


class _Streams:
    """The streams of the pretended GPU, of which one is the current one."""

    def __init__(self) -> None:
        self.current = self.make()

    @staticmethod
    def make(device: Any = None) -> Any:
        return mock.Mock(device=CUDA)

    def set(self, stream: Any) -> None:
        self.current = stream

    @contextlib.contextmanager
    def use(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def capture(self, graph: _Graph, pool: Any = None, stream: Any = None) -> Iterator[None]:
        """What torch.cuda.graph is; like it, this leaves its stream the current one if the capture fails."""
        counts, before = PretendedTensor.counts, self.current
        PretendedTensor.recording, counts.capturing, self.current = graph.recording, True, stream
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from error
        finally:
            PretendedTensor.recording, counts.capturing = None, False
            with torch.utils._python_dispatch._disable_current_modes():
                graph.recording.end()
        self.current = before


def _grouping(real: Any) -> Any:
    """torch's grouping of tensors by device, which C++ does by the device that it sees."""

    def grouped(lists: Any, with_indices: bool = False) -> Any:
        on_gpu = any(isinstance(x, PretendedTensor) for x in lists[0])
        groups = real(lists, with_indices).items()
        return {(CUDA if on_gpu else device, dtype): group for (device, dtype), group in groups}

    return grouped


def _load(real: Any) -> Any:
    def load(file: Any, map_location: Any = None, **options: Any) -> Any:
        if map_location is None or not is_cuda(map_location):
            return real(file, map_location=map_location, **options)
        content = real(file, map_location=CPU, **options)
        return tree_map(lambda x: _moved(x, "cuda", None, None) if isinstance(x, Tensor) else x, content)

    return load


def _cuda_functions() -> dict[str, Any]:
    """What torch.cuda answers while the GPU is pretended."""
    counts, streams = PretendedTensor.counts, _Streams()

    def get_rng_state(device: Any = "cuda") -> Tensor:
        return generators.default.get_state()

    def set_rng_state(state: Tensor, device: Any = "cuda") -> None:
        generators.default.set_state(state)

    def manual_seed(seed: int) -> None:
        generators.default.manual_seed(int(seed))

    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: contextlib.nullcontext(),
        "get_device_name": lambda device=None: "pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda *_: True,
        "is_current_stream_capturing": lambda: counts.capturing,
        "Stream": streams.make,
        "current_stream": lambda device=None: streams.current,
        "set_stream": streams.set,
        "stream": streams.use,
        "CUDAGraph": _Graph,
        "graph": streams.capture,
        "synchronize": lambda device=None: counts.wait("synchronize"),
        "manual_seed": manual_seed,
        "manual_seed_all": manual_seed,
        "default_generators": (generators.default,),
        "get_rng_state": get_rng_state,
        "set_rng_state": set_rng_state,
        "get_rng_state_all": lambda: [get_rng_state()],
        "set_rng_state_all": lambda states: set_rng_state(states[0]),
    }


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Counts]:
    """Pretends that torch has one GPU; what the work inside costs there is in the counts."""
    counts, factories = PretendedTensor.counts, [0]
    counts.clear()
    real_grouping, real_backward = (
        _foreach_utils._group_tensors_by_device_and_dtype,
        torch.autograd._engine_run_backward,
    )

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        # backward passes through the mode, which is off meanwhile: on again for what Functions do in theirs.
        with _Mode(factories):
            return real_backward(*args, **kwargs)

    users = [m for m in [*sys.modules.values()] if vars(m).get("_group_tensors_by_device_and_dtype") is real_grouping]
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    library = _library.libraries["cuda"]
    with contextlib.ExitStack() as stack:
        for name, function in _cuda_functions().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stream = mock.Mock(is_capturing=torch.cuda.is_current_stream_capturing)
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", return_value=stream))
        stack.enter_context(mock.patch.object(torch, "Generator", generators.Generator))
        stack.enter_context(mock.patch.object(torch, "load", _load(torch.load)))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", run_backward))
        stack.enter_context(mock.patch.multiple(library, loaded=True, reason=""))
        stack.enter_context(mock.patch.object(device, "built_for", return_value=True))
        for module in users:
            grouped = _grouping(real_grouping)
            stack.enter_context(mock.patch.object(module, "_group_tensors_by_device_and_dtype", grouped))
        for module in (_foreach_utils, sys.modules["torch.optim.optimizer"]):
            types = [*module._foreach_supported_types, PretendedTensor]
            stack.enter_context(mock.patch.object(module, "_foreach_supported_types", types))
        # module.to(device) keeps the identity of its parameters, as on a GPU.
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        stack.enter_context(_CppMode(factories))
        stack.enter_context(_Mode(factories))
        yield counts
