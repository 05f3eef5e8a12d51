"""The ring: sums over the particles of all ranks, whose blocks visit every rank once, and the gradients of these sums.

In the forward pass each rank sends M - M_p particles of 2 D numbers, which is the least a ring needs to bring all of
them to every rank: 2 M D (P - 1) / P on average. In the backward pass each block is sent again. Its gradient, to which
every rank adds, follows one hop behind, so that it too is transferred during work: 4 M D (P - 1) / P.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from svgdx._checks import compute_dtype, wide
from svgdx.distributed.shards import Shards

Tensors = tuple[Tensor, ...]


class Block:
    """Sums over the particles of one block, for query points of this rank; subclasses define them in PyTorch."""

    def zeros(self, query: Tensor) -> Tensors:
        """The sums over no particles, each (..., Q, *)."""
        raise NotImplementedError

    def rows(self, block: Tensor) -> int:
        """The number of query points to process at once."""
        raise NotImplementedError

    def __call__(self, query: Tensor, x: Tensor, score: Tensor, parameters: Tensors, own: int | None) -> Tensors:
        """The sums over particles x, score (..., M_q, D) for query points (..., Q, D).

        own: the index in x of the first query point if x are this rank's own particles, otherwise None.
        """
        raise NotImplementedError

    def gradients(
        self, query: Tensor, x: Tensor, score: Tensor, parameters: Tensors, own: int | None, upstream: Tensors
    ) -> Tensors:
        """The gradients of query, x, score and the parameters, from those of the sums."""
        leaves = [tensor.detach().requires_grad_() for tensor in (query, x, score, *parameters)]
        with torch.enable_grad():
            sums = self(leaves[0], leaves[1], leaves[2], tuple(leaves[3:]), own)
        grads = torch.autograd.grad(sums, leaves, upstream, allow_unused=True)
        return tuple(torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True))


def ring_sum(block: Block, shards: Shards, x: Tensor, score: Tensor, rows: slice, *parameters: Tensor) -> Tensors:
    """Adds the sums of `block` over the particles of all ranks, for the points x[..., rows, :] of this rank.

    x, score (..., M_p, D); the result is in the compute dtype and differentiable once in x, score and parameters.
    """
    sums: Tensors = _RingSum.apply(block, shards, rows, x, score, *parameters)
    return sums


def circulate(shards: Shards, own: Tensor, hops: int) -> Iterator[tuple[int, Tensor]]:
    """Yields owner and block (..., M_q, *) of this rank and of the `hops` ranks before it, and prefetches the next."""
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
    """Uninitialised memory for a block of `count` particles."""
    return like.new_empty((*like.shape[:-2], count, like.shape[-1]))


class _RingSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, block: Block, shards: Shards, rows: slice, x: Tensor, score: Tensor, *parameters: Tensor
    ) -> Tensors:
        ctx.save_for_backward(x, score, *parameters)
        ctx.block, ctx.shards, ctx.query_rows = block, shards, rows
        query = wide(x[..., rows, :])
        totals = block.zeros(query)
        for owner, moving in circulate(shards, torch.cat([x, score], -1), shards.size - 1):
            if moving.numel() == 0 or query.numel() == 0:
                continue
            own = rows.start if owner == shards.rank else None
            for chunk, chunk_rows in _chunks(block, query, moving):
                offset = None if own is None else own + chunk_rows.start
                points, scores = _halves(wide(moving))
                for total, value in zip(totals, block(chunk, points, scores, parameters, offset), strict=True):
                    _narrow(total, query, chunk_rows).add_(value)
        return totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, score, *parameters = ctx.saved_tensors
        ring = _Backward(ctx.block, ctx.shards, ctx.query_rows, x, tuple(parameters), grads)
        grad_x, grad_score = _halves(ring.run(torch.cat([x, score], -1)))
        grad_x[..., ctx.query_rows, :] += ring.query_grad
        return None, None, None, grad_x.to(x.dtype), grad_score.to(score.dtype), *ring.parameter_grads


class _Backward:
    """The gradient of one ring sum: of this rank's points, of the parameters, and of each block, sent to its owner."""

    def __init__(
        self, block: Block, shards: Shards, rows: slice, x: Tensor, parameters: Tensors, grads: Tensors
    ) -> None:
        self.block, self.shards, self.first = block, shards, rows.start
        self.query, self.parameters, self.grads = wide(x[..., rows, :]), parameters, grads
        self.query_grad = torch.zeros_like(self.query)
        self.parameter_grads = [torch.zeros_like(parameter) for parameter in parameters]

    def run(self, own: Tensor) -> Tensor:
        """The gradient of this rank's own x and score, (..., M_p, 2 D)."""
        shards, dtype = self.shards, compute_dtype(own)
        current, home = own, self._of_block(own, self.first)
        carried = home.new_empty(0)
        for hop in range(shards.size):
            owner = (shards.rank - hop) % shards.size
            last = hop == shards.size - 1
            # One exchange sends the gradient of the previous block, then this block; both arrive in that order.
            grad_so_far = carried.new_empty(0)
            if hop >= 2:
                grad_so_far = empty_block(own, shards.counts[owner]).to(dtype)
            following = current.new_empty(0) if last else empty_block(own, shards.counts[owner - 1])
            sent = [carried, *([] if last else [current])]
            pending = shards.exchange(sent, [grad_so_far, following])
            grad = self._of_block(current, None) if hop else home
            for work in pending:
                work.wait()
            if hop:
                carried = grad + grad_so_far if hop >= 2 else grad
            current = following
        if shards.size > 1:
            arrived = torch.empty_like(home)
            for work in shards.exchange([carried], [arrived]):
                work.wait()
            home = home + arrived
        return home

    def _of_block(self, moving: Tensor, own: int | None) -> Tensor:
        """Adds to the gradients of points and parameters, and returns that of the block, (..., M_q, 2 D)."""
        total = torch.zeros_like(wide(moving))
        if moving.numel() == 0 or self.query.numel() == 0:
            return total
        for chunk, rows in _chunks(self.block, self.query, moving):
            points, scores = _halves(wide(moving))
            upstream = tuple(_narrow(grad, self.query, rows) for grad in self.grads)
            offset = None if own is None else own + rows.start
            gradients = self.block.gradients(chunk, points, scores, self.parameters, offset, upstream)
            self.query_grad[..., rows, :] += gradients[0]
            total += torch.cat(gradients[1:3], -1)
            for sum_, grad in zip(self.parameter_grads, gradients[3:], strict=True):
                sum_ += grad
        return total


def _chunks(block: Block, query: Tensor, moving: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """Query points in chunks small enough for the memory of their pairs, and the rows of each chunk."""
    count, step = query.shape[-2], block.rows(moving)
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        yield query[..., rows, :], rows


def _narrow(value: Tensor, query: Tensor, rows: slice) -> Tensor:
    """Rows of a value (..., Q, *) of query points (..., Q, D)."""
    return value.narrow(query.dim() - 2, rows.start, rows.stop - rows.start)


def _halves(packed: Tensor) -> tuple[Tensor, Tensor]:
    """x and score of (..., M_q, 2 D)."""
    dim = packed.shape[-1] // 2
    return packed[..., :dim], packed[..., dim:]
