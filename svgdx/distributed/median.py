"""Exact median of all pairwise distances of sharded particles, by counting; nothing of size M^2 or M D is gathered.

Distances are not negative, so they sort as their bits do. A histogram of 4,096 bins narrows a bracket of bits that
contains the median: each round of the ring counts, the counts are summed over the ranks, and the bin with the median is
the next bracket. Once the distances inside fit into memory, the remaining rounds need no particles. A sample of 512
particles makes the first bracket narrow. Each pair of blocks is visited from one side only, so that x travels half-way
round the ring: each rank sends about M D / 2 numbers per round, and usually two rounds suffice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from svgdx._checks import wide
from svgdx.distributed.ring import circulate
from svgdx.distributed.shards import Shards, agree
from svgdx.ops.registration.dispatch import OPS

BINS = 4096
SAMPLE = 512
# Distances stored per particle of the largest shard, and distances computed at once.
STORED = 64
PAIRS = 2**20


def median_distance(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Computes :func:`svgdx.ops.median_distance` of all M particles, (...), the same on every rank.

    The result is exact: it is the median of the M^2 distances as they are computed here. Memory O(M / P D).

    Args:
        x: this rank's particles, (..., M_p, D); float32, float64, bfloat16 or float16.
        group: the process group; None is the default one.

    Raises:
        TypeError, RuntimeError: as the op, on every rank, naming the rank whose input is refused.

    Source: Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016, section 5.
    """
    op = "median_distance"
    with torch.no_grad():
        shards = agree(op, group, {"x": x}, check=lambda: OPS[op].signature.bind(x))
        if shards.total == 0:
            raise RuntimeError(
                "svgdx.distributed.median_distance: x must have at least 1 particle on all ranks together"
            )
        lead, points = x.shape[:-2], wide(x).flatten(0, -3) if x.dim() > 3 else wide(x)
        points = points.unsqueeze(0) if x.dim() == 2 else points
        if 0 in (x.shape[-1], points.shape[0]):
            return x.new_zeros(lead)
        median = _Selection(points.contiguous(), shards).run()
        return median.reshape(lead).to(x.dtype)


@dataclass
class _Distances:
    """The bits of distances inside the brackets, the problem of each, and the number of pairs that it stands for."""

    problem: Tensor
    bits: Tensor
    weight: Tensor


class _Selection:
    """The element of index (M^2 - 1) // 2 of the sorted distances of each of B problems x (B, M_p, D)."""

    def __init__(self, x: Tensor, shards: Shards) -> None:
        self.shards, self.problems = shards, x.shape[0]
        self.bits = torch.int32 if x.dtype == torch.float32 else torch.int64
        ruined = (~x.isfinite().all(-1)).any(-1).to(x.dtype)
        self.ruined = shards.max(ruined.unsqueeze(-1)) > 0
        self.x = torch.where(self.ruined[:, None, None], 0, x)
        zero = torch.zeros(self.problems, dtype=torch.int64, device=x.device)
        # The median's index among the stored distances, or among all if none are stored.
        self.index = zero + (shards.total**2 - 1) // 2
        self.stored: _Distances | None = None
        # Both ends are included. The rest is the range of the median if the bracket missed it.
        self.rest_low, self.rest_high = zero, zero + int(self._bits(x.new_tensor(torch.inf)))
        self.low, self.high = self._sampled()

    def run(self) -> Tensor:
        """The medians, (B,); NaN for a problem whose x is not finite."""
        while not self._narrow():
            pass
        return torch.where(self.ruined, torch.nan, self._value(self.low))

    def _narrow(self) -> bool:
        """Makes one round: counts, and new brackets. Returns True once each bracket contains the median only."""
        width = self.high - self.low
        shift = torch.zeros_like(width)
        while bool(((width >> shift) >= BINS).any()):
            shift += (width >> shift) >= BINS
        # Distances below the bracket, then those in its bins.
        counts = torch.zeros(self.problems, BINS + 1, dtype=torch.int64, device=self.x.device)
        stored: list[_Distances] = []
        room = STORED * self.shards.largest * self.problems
        for inside in self._computed(counts) if self.stored is None else self._from_stored(counts):
            column = 1 + ((inside.bits - self.low[inside.problem]) >> shift[inside.problem])
            counts.view(-1).index_add_(0, inside.problem * counts.shape[1] + column, inside.weight)
            room -= inside.bits.numel()
            stored.append(inside)
            if room < 0:
                stored.clear()
        total = torch.cat([counts.flatten(), torch.tensor([int(room < 0)], device=self.x.device)])
        if self.shards.size > 1:
            dist.all_reduce(total, group=self.shards.group)
        counts = total[:-1].view_as(counts)
        hit = self._move(counts, shift)
        if self.stored is None and bool(hit.all()) and int(total[-1]) == 0:
            columns = [(inside.problem, inside.bits, inside.weight) for inside in stored] or [(counts[:0, 0],) * 3]
            self.stored = _Distances(*(torch.cat(column) for column in zip(*columns, strict=True)))
            self.index = self.index - counts[:, 0]
        return bool((hit & (self.low == self.high)).all())

    def _computed(self, counts: Tensor) -> Iterator[_Distances]:
        """Computes all distances, yields those inside the brackets and adds the number of those below to counts."""
        low, high = self._value(self.low)[:, None], self._value(self.high)[:, None]
        for distances, weight in self._pairs():
            counts[:, 0] += weight * (distances < low).sum(1)
            inside = (distances >= low) & (distances <= high)
            problem = inside.nonzero()[:, 0]
            yield _Distances(problem, self._bits(distances[inside]).to(torch.int64), torch.full_like(problem, weight))

    def _from_stored(self, counts: Tensor) -> Iterator[_Distances]:
        """The same from the stored distances."""
        assert self.stored is not None
        problem, bits, weight = self.stored.problem, self.stored.bits, self.stored.weight
        below = bits < self.low[problem]
        counts[:, 0].index_add_(0, problem[below], weight[below])
        inside = ~below & (bits <= self.high[problem])
        yield _Distances(problem[inside], bits[inside], weight[inside])

    def _move(self, counts: Tensor, shift: Tensor) -> Tensor:
        """Sets new brackets from the counts of all ranks. Returns which brackets contained the median, (B,) bool."""
        cumulative = counts.cumsum(1)
        index = self.index[:, None]
        before, after = self.index < cumulative[:, 0], self.index >= cumulative[:, -1]
        hit = ~before & ~after
        bin_index = (cumulative <= index).sum(1).clamp(1, BINS) - 1
        low = self.low + (bin_index << shift)
        high = torch.minimum(self.high, low + ((1 << shift) - 1))
        self.rest_high = torch.where(before, self.low - 1, torch.where(hit, high, self.rest_high))
        self.rest_low = torch.where(after, self.high + 1, torch.where(hit, low, self.rest_low))
        self.low, self.high = self.rest_low.clone(), self.rest_high.clone()
        return hit

    def _pairs(self) -> Iterator[tuple[Tensor, int]]:
        """Yields distances (B, pairs) from this rank's particles to those of half the ring, and their weight."""
        shards, x = self.shards, self.x
        for owner, block in circulate(shards, x, shards.size // 2):
            away = (shards.rank - owner) % shards.size
            # If P is even, both ranks of an opposite pair compute its distances.
            weight = 1 if away == 0 or 2 * away == shards.size else 2
            step = max(1, PAIRS // max(1, self.problems * block.shape[1]))
            for rows in x.split(step, 1) if x.shape[1] and block.shape[1] else ():
                yield _distances(rows, block).flatten(1), weight

    def _sampled(self) -> tuple[Tensor, Tensor]:
        """A bracket from the distances between evenly spaced particles of all ranks; it rarely misses the median."""
        shards, x = self.shards, self.x
        counts = [-(-min(SAMPLE, shards.total) * count // shards.total) for count in shards.counts]
        rows = torch.linspace(0, max(0, x.shape[1] - 1), counts[shards.rank], device=x.device).long()
        padded = x.new_full((self.problems, max(counts), x.shape[2]), torch.nan)
        padded[:, : len(rows)] = x[:, rows]
        gathered = [torch.empty_like(padded) for _ in counts]
        if shards.size > 1:
            dist.all_gather(gathered, padded, group=shards.group)
        else:
            gathered = [padded]
        sample = torch.cat([block[:, :count] for block, count in zip(gathered, counts, strict=True)], 1).nan_to_num()
        count = sample.shape[1]
        sorted_ = _distances(sample, sample).flatten(1).sort(1).values
        # The standard deviation of a quantile of the pairs of n points is at most about 1 / sqrt(n) (Hoeffding 1948).
        margin = int(1.5 * count**2 / max(1, count) ** 0.5)
        centre = (count**2 - 1) // 2
        low = sorted_[:, max(0, centre - margin)]
        high = sorted_[:, min(count**2 - 1, centre + margin)]
        return self._bits(low).to(torch.int64), self._bits(high).to(torch.int64)

    def _bits(self, value: Tensor) -> Tensor:
        return value.contiguous().view(self.bits)

    def _value(self, bits: Tensor) -> Tensor:
        return bits.to(self.bits).view(self.x.dtype)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """|a - b|, (B, N, K), from the differences, so that its bits do not depend on the other pairs."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
