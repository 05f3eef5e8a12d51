"""Streams of random numbers, and a stream for whatever a caller passed as its source of randomness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from svgdx import ops
from svgdx.streams.seeds import mixed, seed_of, stream_seed

Shape: TypeAlias = "Tensor | Sequence[int]"


class Stream:
    """Random numbers that follow from seed, step and purpose alone, the same on every device.

    Successive draws differ; the only state is their count, on the host. Nothing waits for the device.

    Args:
        seed: any integer, that of a run.
        step: not negative, such as the number of an update.
        purpose: not negative; keeps the streams of one step apart.
        device: of the numbers.
        rank: not negative; other ranks get other numbers.
    """

    def __init__(
        self, seed: int, step: int = 0, purpose: int = 0, device: torch.device | str = "cpu", rank: int = 0
    ) -> None:
        self._start(stream_seed(seed, step, purpose, rank), torch.device(device))

    @classmethod
    def of_seed(cls, seed: int, device: torch.device | str = "cpu") -> Stream:
        """The stream of 64 bits that are random already, such as those of :func:`svgdx.streams.stream_seed`."""
        stream = cls.__new__(cls)
        stream._start(seed, torch.device(device))
        return stream

    @classmethod
    def of_key(cls, key: Tensor) -> Stream:
        """The stream of a key, (2,) int64 on the device of the numbers: a seed, and a number added to all offsets.

        The ops read the key when they run: a captured CUDA graph draws anew at each replay if the key is overwritten
        before. `seed` and `happens` would have to read it, and raise RuntimeError.
        """
        stream = cls.__new__(cls)
        stream._start(0, key.device)
        stream._key = key
        return stream

    def keyed(self, key: Tensor) -> Stream:
        """Writes the seed into the first number of a key, (2,) int64, and returns the stream of the key, see `of_key`.

        It draws what this stream draws if the second number is 0. Nothing waits, and nothing is copied from the host.
        """
        key[0].fill_(self._key[0] if isinstance(self._key, Tensor) else self._key)
        stream = Stream.of_key(key)
        stream.count, stream._first = self.count, self._first
        return stream

    def _start(self, seed: int, device: torch.device) -> None:
        # As torch takes it, signed.
        self._key: int | Tensor = (seed + 2**63) % 2**64 - 2**63
        self.device, self.count, self._first = device, 0, 0

    def normal(self, shape: Shape, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers of a shape and dtype, or those of a tensor; see :func:`svgdx.ops.normal`."""
        return ops.normal(self._like(shape, dtype), self._key, self._next())

    def uniform(self, shape: Shape, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform numbers in [0, 1) of a shape and dtype, or those of a tensor; see :func:`svgdx.ops.uniform`."""
        return ops.uniform(self._like(shape, dtype), self._key, self._next())

    def signs(self, shape: Shape, dtype: torch.dtype | None = None) -> Tensor:
        """Random signs of a shape and dtype, or those of a tensor; see :func:`svgdx.ops.rademacher`."""
        return ops.rademacher(self._like(shape, dtype), self._key, self._next())

    def integers(self, bound: int, shape: Shape) -> Tensor:
        """Integers from 0 to bound - 1, int64, of a shape or that of a tensor; see :func:`svgdx.ops.integers`."""
        return ops.integers(self._like(shape, None), bound, self._key, self._next())

    def permutation(self, bound: int, count: int | None = None) -> Tensor:
        """The first `count` integers, (count,) int64, of a random order of those below bound; None: all of them."""
        # Keys of 53 bits, of which no two are expected to be equal for fewer than 10^8.
        keys = self.uniform((bound,), torch.float64)
        return keys.argsort() if count is None else keys.topk(count).indices

    def bernoulli(self, probability: float | Tensor, shape: Shape) -> Tensor:
        """True with a probability, one number or one for each entry, of a shape or that of a tensor."""
        return self.uniform(shape) < probability

    def categorical(self, log_weight: Tensor) -> Tensor:
        """An index drawn with probability softmax(log_weight), (..., K) -> (...) int64; -inf is never drawn.

        By the Gumbel-max trick, which does not check its argument and so does not wait.
        """
        # Half a step away from zero, whose logarithm could not be subtracted from -inf.
        race = -torch.log1p(-(self.uniform(log_weight) + 2.0**-25))
        return (log_weight - race.log()).argmax(-1)

    def seed(self) -> int:
        """64 random bits on the host, for what takes a seed. Raises RuntimeError if the stream has a key."""
        if isinstance(self._key, Tensor):
            raise RuntimeError(
                "Stream.seed: the seed of this stream is a key on its device, which the host cannot read"
            )
        return mixed([self._key % 2**64, self._next()])

    def split(self) -> Stream:
        """A stream of its own: however much it draws, later draws of this one are the same.

        Raises RuntimeError if this stream has a key and is split off itself.
        """
        number = self._next()
        if self._first > 0:
            return Stream.of_seed(self.seed(), self.device)
        child = Stream.__new__(Stream)
        child._start(0, self.device)
        child._key, child._first = self._key, number + 1 << 32
        return child

    def happens(self, probability: float) -> bool:
        """Decides on the host, with this probability. Raises RuntimeError if the stream has a key."""
        return self.seed() < probability * 2**64

    def _next(self) -> int:
        self.count += 1
        return self._first + self.count - 1

    def _like(self, shape: Shape, dtype: torch.dtype | None) -> Tensor:
        if isinstance(shape, Tensor):
            return shape.detach()
        return torch.empty(shape, dtype=dtype, device=self.device)


# A source of random numbers as public functions take it.
Source: TypeAlias = "Stream | torch.Generator | None"


def stream_of(function: str, source: Source, device: torch.device) -> Stream:
    """The stream of a source: a Stream itself; otherwise one whose seed is taken from the generator, which advances.

    Args:
        function: that was called, for messages.
        source: None takes the seed from torch's default generator of the CPU, whatever the device.
        device: of the numbers.

    Raises:
        TypeError: the source is something else.
        ValueError: it is on another device.
    """
    if source is None:
        return Stream.of_seed(seed_of(None), device)
    if not isinstance(source, (Stream, torch.Generator)):
        kind = type(source).__name__  # type: ignore[unreachable]
        raise TypeError(f"{function}: generator must be a Stream, a torch.Generator or None, but is {kind}")
    if not _same(source.device, device):
        raise ValueError(
            f"{function}: generator must be on {device} as the numbers that it draws, but is on {source.device}; make "
            f"it with torch.Generator({str(device)!r}), or pass None"
        )
    return source if isinstance(source, Stream) else Stream.of_seed(seed_of(source), device)


def _same(one: torch.device, other: torch.device) -> bool:
    """Whether two devices are the same one; without an index, a device is the current one of its type."""
    return one.type == other.type and (one.index == other.index or one.index is None or other.index is None)
