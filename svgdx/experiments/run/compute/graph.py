"""Updates of a training as CUDA graphs: the host launches all that one does on the GPU at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from svgdx.experiments.run.errors import UsageError
from svgdx.streams import Stream

T = TypeVar("T")

# Updates of a kind before it is captured: they make what stays, such as the state of Adam, and load the kernels.
WARM_UP = 3
# Kinds that are kept; each holds the memory of one update.
MOST_KINDS = 8


class CaptureError(Exception):
    """An update cannot be captured. Nothing of it was launched."""


class Graphs:
    """Makes the updates of a training; each kind of update is captured as a CUDA graph and then replayed.

    An update is a function of inputs by name. The first WARM_UP updates of a kind run as they are, the next one is
    captured, and later ones are replays, for which nothing of the function runs on the host. Whatever it needs from the
    host must therefore be an input, which a captured update reads from memory that stays where it is:

    - a float becomes a 0-d float32 tensor;
    - an int is a seed and becomes a key, (2,) int64, which draws of `svgdx.ops` take in its place;
    - a `svgdx.Stream` becomes the stream of a key;
    - a tensor is copied;
    - anything else, and the shapes of tensors, must be the same in all updates of a kind. Others are another kind.

    Inputs may be nested in tuples, lists and dicts. Learning rates of the optimisers are inputs, too; a GPU reads them
    in float32. The next update of the kind overwrites what the function returns. Without graphs the function is called
    with the inputs as they are.

    A capture launches nothing, so that one that fails has changed nothing on the GPU: the update is then made as it is,
    and so are all later ones.

    Args:
        device: of the updates.
        optimisers: those that an update may step, all of them fused.
        captures: whether to capture; False on the CPU.
        required: whether a capture that fails is an error; otherwise a warning names the reason.
    """

    def __init__(
        self, device: torch.device, optimisers: Sequence[torch.optim.Optimizer], captures: bool, required: bool = False
    ) -> None:
        self.device, self.captures, self.required = device, captures, required
        self._optimisers = optimisers
        self._kinds: dict[Hashable, _Kind] = {}
        if captures:
            self._rates = [_Number(device) for _ in self._groups()]
            self._stream = torch.cuda.Stream(device)

    def run(self, kind: Hashable, update: Callable[..., T], **inputs: Any) -> T:
        """Makes one update and returns its result.

        Args:
            kind: tells apart updates that launch different work; None for one that cannot be captured.
            update: called with the inputs; it must not change anything on the host.
            inputs: by the names of the function's arguments.

        Raises:
            UsageError: an update of this kind cannot be captured, though graphs are required.
        """
        if not self.captures or kind is None:
            return update(**inputs)
        leaves, structure = tree_flatten(inputs)
        kind = (kind, *map(_signature, leaves))
        captured = self._kinds.pop(kind, None) or _Kind(self.device, self._stream, leaves)
        # The newest last. An old one, such as that of the last K, is not expected again.
        self._kinds[kind] = captured
        while len(self._kinds) > MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        for rate, group in zip(self._rates, self._groups(), strict=True):
            rate.set(group["lr"])
        try:
            return captured.run(lambda static: update(**tree_unflatten(static, structure)), leaves, self._in_place)
        except CaptureError as error:
            self._give_up(error)
        return update(**inputs)

    def forget(self) -> None:
        """Drops what was captured, because parameters or optimisers were put back from a checkpoint."""
        self._kinds.clear()

    def _give_up(self, error: CaptureError) -> None:
        """Ends all capturing: after a failure, torch's allocator still holds the capture that was not completed."""
        if self.required:
            raise UsageError(
                f"--graph on: an update cannot be captured: {error}; pass --graph auto to train without graphs"
            ) from error
        print(f"warning: an update cannot be captured, the run continues without graphs: {error}", file=sys.stderr)
        self.captures = False
        self.forget()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimiser in self._optimisers for group in optimiser.param_groups]

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Lets the optimisers read their rates from memory that stays, and run in a capture."""
        groups = self._groups()
        saved = [(group["lr"], group["capturable"]) for group in groups]
        try:
            for rate, group in zip(self._rates, groups, strict=True):
                group["lr"], group["capturable"] = rate.tensor, torch.cuda.is_current_stream_capturing()
            yield
        finally:
            for (rate_of_host, capturable), group in zip(saved, groups, strict=True):
                group["lr"], group["capturable"] = rate_of_host, capturable


class _Kind:
    """The updates of one kind."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream, leaves: list[Any]) -> None:
        self.stream, self.count = stream, 0
        self.static = [_static_of(leaf, device) for leaf in leaves]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result: Any = None

    def run(self, update: Callable[[list[Any]], T], leaves: list[Any], in_place: Callable[[], Any]) -> T:
        inputs = [static.set(leaf) for static, leaf in zip(self.static, leaves, strict=True)]
        self.count += 1
        if self.graph is None and self.count > WARM_UP:
            self._capture(lambda: update(inputs), in_place)
        if self.graph is not None:
            self.graph.replay()
            result: T = self.result
            return result
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), in_place():
            result = update(inputs)
        current.wait_stream(self.stream)
        return result

    def _capture(self, update: Callable[[], Any], in_place: Callable[[], Any]) -> None:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.stream.device)
        try:
            with torch.cuda.graph(graph, stream=self.stream), in_place():
                self.result = update()
        except RuntimeError as error:
            # torch.cuda.graph leaves its stream the current one if it cannot end the capture, and hides the reason.
            torch.cuda.set_stream(current)
            first: BaseException = error
            while first.__context__ is not None:
                first = first.__context__
            raise CaptureError(str(first).partition("\n")[0]) from error
        self.graph = graph


class _Number:
    """A float as a 0-d float32 tensor, written only if it changes."""

    def __init__(self, device: torch.device) -> None:
        self.tensor = torch.zeros((), device=device)
        self.value = 0.0

    def set(self, value: float) -> Tensor:
        if value != self.value:
            self.tensor.fill_(value)
            self.value = value
        return self.tensor


class _Key:
    """A seed, or the stream of a seed, in the memory of a key."""

    def __init__(self, device: torch.device) -> None:
        self.key = torch.zeros(2, dtype=torch.int64, device=device)

    def set(self, value: int | Stream) -> Tensor | Stream:
        if isinstance(value, Stream):
            return value.keyed(self.key)
        Stream.of_seed(value, self.key.device).keyed(self.key)
        return self.key


class _Copy:
    """A tensor, copied to memory that stays."""

    def __init__(self, like: Tensor, device: torch.device) -> None:
        self.tensor = torch.empty_like(like, device=device, memory_format=torch.contiguous_format)

    def set(self, value: Tensor) -> Tensor:
        return self.tensor.copy_(value)


class _Constant:
    """Anything else, of which `_signature` has shown that it is the same."""

    def set(self, value: T) -> T:
        return value


def _static_of(leaf: Any, device: torch.device) -> _Number | _Key | _Copy | _Constant:
    if isinstance(leaf, Tensor):
        return _Copy(leaf, device)
    if isinstance(leaf, Stream) or _is_seed(leaf):
        return _Key(device)
    return _Number(device) if isinstance(leaf, float) else _Constant()


def _signature(leaf: Any) -> Hashable:
    """What is the same in all updates of a kind."""
    if isinstance(leaf, Tensor):
        return Tensor, leaf.shape, leaf.dtype
    if isinstance(leaf, (Stream, float)) or _is_seed(leaf):
        return type(leaf).__name__
    constant: Hashable = leaf
    return constant


def _is_seed(leaf: Any) -> bool:
    return isinstance(leaf, int) and not isinstance(leaf, bool)
