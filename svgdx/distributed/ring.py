"""The ring: sums over the particles of all ranks, each rank's block passing every other rank once, and their gradient.

Forward, each rank sends M - M_p particles of 2 D numbers, the least that brings all of them to every rank through
links of this one topology: 2 M D (P - 1) / P on average. Backward, a block is sent with its particles again, and the
gradient of a block, to which every rank adds, follows it one step behind, so that it too is in flight during work:
4 M D (P - 1) / P.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from svgdx._dtype import compute_dtype, wide
from svgdx.distributed.shards import Shards

Parts = tuple[Tensor, ...]


class Block:
    """A sum over the particles of one block, for points of this rank; sub-classes give it as differentiable PyTorch."""

    def zeros(self, query: Tensor) -> Parts:
        """The sums over no particles, each (..., Q, anything)."""
        raise NotImplementedError

    def rows(self, block: Tensor) -> int:
        """How many points to work on at once."""
        raise NotImplementedError

    def __call__(self, query: Tensor, x: Tensor, score: Tensor, parameters: Parts, own: int | None) -> Parts:
        """Sums over the particles x, score (..., M_q, D) for query (..., Q, D).

        own: the index in x of the first query where they are this rank's own particles, otherwise None.
        """
        raise NotImplementedError

    def gradients(
        self, query: Tensor, x: Tensor, score: Tensor, parameters: Parts, own: int | None, upstream: Parts
    ) -> Parts:
        """The gradients of query, x, score and each parameter, from those of the sums."""
        leaves = [each.detach().requires_grad_() for each in (query, x, score, *parameters)]
        with torch.enable_grad():
            found = self(leaves[0], leaves[1], leaves[2], tuple(leaves[3:]), own)
        grads = torch.autograd.grad(found, leaves, upstream, allow_unused=True)
        return tuple(torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True))


def ring_sum(block: Block, shards: Shards, x: Tensor, score: Tensor, rows: slice, *parameters: Tensor) -> Parts:
    """The sums of a block's function over the particles of all ranks, for the points x[rows] of this rank.

    x, score (..., M_p, D); the result is in the compute dtype and differentiable once in x, score and parameters.
    """
    found: Parts = _RingSum.apply(block, shards, rows, x, score, *parameters)
    return found


def circulate(shards: Shards, own: Tensor, hops: int) -> Iterator[tuple[int, Tensor]]:
    """Owner and block (..., M_q, anything) of this rank and of the `hops` ranks before it, the next one in flight."""
    current = own
    for hop in range(hops + 1):
        owner = (shards.rank - hop) % shards.size
        pending = []
        following = current
        if hop < hops:
            following = empty_block(own, shards.counts[owner - 1])
            pending = shards.exchange([current], [following])
        yield owner, current
        for work in pending:
            work.wait()
        current = following


def empty_block(like: Tensor, count: int) -> Tensor:
    return like.new_empty((*like.shape[:-2], count, like.shape[-1]))


class _RingSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, block: Block, shards: Shards, rows: slice, x: Tensor, score: Tensor, *parameters: Tensor
    ) -> Parts:
        ctx.save_for_backward(x, score, *parameters)
        ctx.block, ctx.shards, ctx.query_rows = block, shards, rows
        query = wide(x[..., rows, :])
        totals = block.zeros(query)
        for owner, moving in circulate(shards, torch.cat([x, score], -1), shards.size - 1):
            if moving.numel() == 0 or query.numel() == 0:
                continue
            own = rows.start if owner == shards.rank else None
            for part, at in _parts(block, query, moving):
                offset = None if own is None else own + at.start
                points, scores = _halves(wide(moving))
                for total, found in zip(totals, block(part, points, scores, parameters, offset), strict=True):
                    total.narrow(query.dim() - 2, at.start, at.stop - at.start).add_(found)
        return totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, score, *parameters = ctx.saved_tensors
        back = _Backward(ctx.block, ctx.shards, ctx.query_rows, x, tuple(parameters), grads)
        home = back.run(torch.cat([x, score], -1))
        grad_x, grad_score = _halves(home)
        grad_x[..., ctx.query_rows, :] += back.query_grad
        return None, None, None, grad_x.to(x.dtype), grad_score.to(score.dtype), *back.parameter_grads


class _Backward:
    """The gradient of one ring sum: that of this rank's points and parameters, and that of each block, sent home."""

    def __init__(self, block: Block, shards: Shards, rows: slice, x: Tensor, parameters: Parts, grads: Parts) -> None:
        self.block, self.shards, self.first = block, shards, rows.start
        self.query, self.parameters, self.grads = wide(x[..., rows, :]), parameters, grads
        self.query_grad = torch.zeros_like(self.query)
        self.parameter_grads = [torch.zeros_like(each) for each in parameters]

    def run(self, own: Tensor) -> Tensor:
        """The gradient of this rank's own x and score, (..., M_p, 2 D)."""
        shards, dtype = self.shards, compute_dtype(own)
        current, home = own, self._of_block(own, self.first)
        carried = home.new_empty(0)
        for hop in range(shards.size):
            owner = (shards.rank - hop) % shards.size
            last = hop == shards.size - 1
            # In one batch: the gradient of the block before, then this block; received in the same order.
            followed = carried.new_empty(0)
            if hop >= 2:
                followed = empty_block(own, shards.counts[owner]).to(dtype)
            following = current.new_empty(0) if last else empty_block(own, shards.counts[owner - 1])
            sent = [carried, *([] if last else [current])]
            pending = shards.exchange(sent, [followed, following])
            found = self._of_block(current, None) if hop else home
            for work in pending:
                work.wait()
            if hop:
                carried = found + followed if hop >= 2 else found
            current = following
        if shards.size > 1:
            arrived = torch.empty_like(home)
            for work in shards.exchange([carried], [arrived]):
                work.wait()
            home = home + arrived
        return home

    def _of_block(self, moving: Tensor, own: int | None) -> Tensor:
        """Adds to the gradients of points and parameters; returns that of the block."""
        total = torch.zeros_like(wide(moving))
        if moving.numel() == 0 or self.query.numel() == 0:
            return total
        for part, at in _parts(self.block, self.query, moving):
            points, scores = _halves(wide(moving))
            upstream = tuple(each.narrow(part.dim() - 2, at.start, at.stop - at.start) for each in self.grads)
            offset = None if own is None else own + at.start
            gradients = self.block.gradients(part, points, scores, self.parameters, offset, upstream)
            self.query_grad[..., at, :] += gradients[0]
            total += torch.cat(gradients[1:3], -1)
            for sum_, grad in zip(self.parameter_grads, gradients[3:], strict=True):
                sum_ += grad
        return total


def _parts(block: Block, query: Tensor, moving: Tensor) -> Iterator[tuple[Tensor, slice]]:
    count, step = query.shape[-2], block.rows(moving)
    for first in range(0, count, step):
        at = slice(first, min(first + step, count))
        yield query[..., at, :], at


def _halves(packed: Tensor) -> tuple[Tensor, Tensor]:
    """x and score of (..., M_q, 2 D)."""
    dim = packed.shape[-1] // 2
    return packed[..., :dim], packed[..., dim:]
