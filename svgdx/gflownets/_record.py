"""The activations of an MLPPolicy at every state of a rollout, and the gradient from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx.gflownets import _engine, _inner_ops
from svgdx.gflownets._weights import Weights
from svgdx.gflownets.policies import ACTIVATIONS, MLPPolicy
from svgdx.gflownets.trajectories import VOID, Trajectories

# Logits of all states are kept up to this size; beyond it they are computed again, chunk by chunk.
LOGITS_BYTES = 64 * 2**20
# States that the layers work on at once: their gradients stay in the cache.
CHUNK_ROWS = 1024
# The same where the last layer is computed again.
LINEAR_ROWS = 4096


class Record:
    """Activations (L, T+1, B, H) of all layers in the order of the visit, which for backward rows is from s_T to s_0.

    Beside them the logits (B, T+1, 3D) where they are small and the normalizers (B, T+1, 2), both in forward order.
    The first `split` rows are forward ones.
    """

    def __init__(self, weights: Weights, batch: int, split: int, steps: int) -> None:
        policy = weights.policy
        self.weights = weights
        self.batch, self.split, self.steps = batch, split, steps
        self.buffers = policy.buffers_of_rollouts.lend(self)
        self.generation = self.buffers.generation
        device, dtype = weights.first.device, weights.dtype
        shape = (1 + len(weights.deeper), steps + 1, batch, weights.first.shape[0])
        self.hidden = self.buffers.take("hidden", shape, dtype, device)
        self.logits: Tensor | None = None
        if batch * (steps + 1) * 3 * policy.dim * dtype.itemsize <= LOGITS_BYTES:
            self.logits = self.buffers.take("logits", (batch, steps + 1, 3 * policy.dim), dtype, device)
        self.normalizers: Tensor | None = None

    def usable(self) -> bool:
        """Whether the activations are still those of the policy as it is."""
        return self.buffers.generation == self.generation and self.weights.current()

    def forward_order(self, layer: Tensor, rows: slice) -> Tensor:
        """Some rows of one kind, (T+1, n, .) by visit, as (n, T+1, .) by time; and back, as it is its own inverse."""
        part = layer[:, rows].transpose(0, 1)
        return (part if rows.stop <= self.split else part.flip(1)).contiguous()

    def gradients(self, trajectories: Trajectories, grad_pf: Tensor, grad_pb: Tensor) -> list[Tensor]:
        """Gradients of the policy's parameters, in their order, from those of log_pf and log_pb (B)."""
        policy = self.weights.policy
        if self.logits is not None and _engine.usable(self.weights):
            grad_logits = self._grad_logits(trajectories, grad_pf, grad_pb)
            return _engine.gradients(self.weights, trajectories, self.hidden, self.split, grad_logits)
        sums = _Gradients(self, trajectories)
        if self.logits is not None:
            self._from_logits(sums, self._grad_logits(trajectories, grad_pf, grad_pb))
        else:
            for start, stop in ((0, self.split), (self.split, self.batch)):
                size = max(1, LINEAR_ROWS // (self.steps + 1))
                for first in range(start, stop, size):
                    rows = slice(first, min(first + size, stop))
                    self._from_last_layer(sums, trajectories, rows, grad_pf, grad_pb)
        if not policy.learnt_backward:
            sums.totals[-2:] = [total[: 2 * policy.dim] for total in sums.totals[-2:]]
        return sums.totals

    def _grad_logits(self, paths: Trajectories, grad_pf: Tensor, grad_pb: Tensor) -> Tensor:
        assert self.logits is not None
        assert self.normalizers is not None
        return _inner_ops.trajectory_backward(
            grad_pf, grad_pb, self.logits, paths.actions, paths.initial, self.normalizers
        )

    def _from_logits(self, sums: _Gradients, grad: Tensor) -> None:
        forward, backward = grad[: self.split].transpose(0, 1), grad[self.split :].transpose(0, 1)
        size = max(1, CHUNK_ROWS // max(1, self.batch))
        for start in range(0, self.steps + 1, size):
            times = slice(start, min(start + size, self.steps + 1))
            late = backward[self.steps + 1 - times.stop : self.steps + 1 - times.start]
            block = torch.cat([forward[times], late.flip(0)], 1).flatten(0, 1)
            sums.head(block, times)

    def _from_last_layer(
        self, sums: _Gradients, paths: Trajectories, rows: slice, grad_pf: Tensor, grad_pb: Tensor
    ) -> None:
        assert self.normalizers is not None
        weight, bias = self.weights.head
        last = self.forward_order(self.hidden[-1], rows)
        grad_last, *grad_head = _inner_ops.linear_backward(
            grad_pf[rows],
            grad_pb[rows],
            last,
            weight,
            bias,
            paths.actions[rows],
            paths.initial[rows],
            self.normalizers[rows],
        )
        for total, part in zip(sums.totals[-2:], grad_head, strict=True):
            total.add_(part)
        if rows.stop > self.split:
            grad_last = grad_last.flip(1)
        sums.layers(grad_last.transpose(0, 1).flatten(0, 1), slice(0, self.steps + 1), rows)


class _Gradients:
    """Sums of the gradients of all parameters, to which blocks of visits and rows add their part."""

    def __init__(self, record: Record, trajectories: Trajectories) -> None:
        self.record = record
        weights = record.weights
        self.totals = [torch.zeros_like(parameter) for parameter in weights.policy.parameters()]
        if not weights.policy.learnt_backward:
            self.totals[-2:] = [torch.zeros_like(part, dtype=weights.first.dtype) for part in weights.head]
        self.backward_ = ACTIVATIONS[weights.policy.activation].backward_
        self.set_times = trajectories.set_times()
        self.final = trajectories.final.to(weights.dtype)
        visit = torch.arange(record.steps + 1, dtype=torch.int32, device=self.final.device).unsqueeze(1)
        self.times = torch.cat(
            [visit.expand(-1, record.split), (record.steps - visit).expand(-1, record.batch - record.split)], 1
        )
        self.memory: list[Tensor] = []

    def head(self, grad_logits: Tensor, times: slice) -> None:
        """The part of some visits of all rows, from the gradient of their logits (n, 3D)."""
        _accumulate(self.totals[-2:], grad_logits, self.record.hidden[-1][times].flatten(0, 1))
        self.layers(self._product(grad_logits, self.record.weights.head[0]), times, slice(None))

    def layers(self, grad: Tensor, times: slice, rows: slice) -> None:
        """The part of the layers below the head, from the gradient of the last one's activations (n, H)."""
        hidden = [layer[times, rows].flatten(0, 1) for layer in self.record.hidden]
        for i in range(len(hidden) - 1, 0, -1):
            self.backward_(grad, hidden[i])
            _accumulate(self.totals[2 * i : 2 * i + 2], grad, hidden[i - 1])
            grad = self._product(grad, self.record.weights.deeper[i - 1][0])
        self.backward_(grad, hidden[0])
        is_set = self.set_times[rows] < self.times[times, rows].unsqueeze(-1)
        _accumulate(self.totals[:2], grad, torch.where(is_set, self.final[rows], VOID).flatten(0, 1))

    def _product(self, grad: Tensor, weight: Tensor) -> Tensor:
        """grad @ weight, in one of two pieces of memory that stay in the cache."""
        if not self.memory or self.memory[0].shape[0] < len(grad):
            self.memory = [grad.new_empty(len(grad), self.record.hidden.shape[3]) for _ in range(2)]
        # The other piece may hold grad.
        self.memory.reverse()
        return torch.mm(grad, weight, out=self.memory[0][: len(grad)])


class RecordedLogProb(torch.autograd.Function):
    """log_pf and log_pb of recorded trajectories, as a function of the policy's parameters."""

    @staticmethod
    def forward(ctx: Any, trajectories: Trajectories, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.trajectories = trajectories
        log_pf, log_pb = trajectories.sums()
        return log_pf.clone(), log_pb.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_pf: Tensor, grad_pb: Tensor) -> tuple[Tensor | None, ...]:
        record = ctx.trajectories.record
        if not record.usable():
            raise RuntimeError(
                "trajectory_log_prob: the backward comes too late: since the rollout a parameter of the policy was "
                "changed in place, or a later rollout took over the activations after a first backward"
            )
        gradients = record.gradients(ctx.trajectories, grad_pf, grad_pb)
        # From here on the next rollout may write over the activations, though this record may still be alive.
        record.buffers.give_back()
        return None, *gradients


def replay(policy: MLPPolicy, trajectories: Trajectories) -> Trajectories:
    """Records given trajectories under the policy as it is, by products over all states."""
    weights = Weights(policy)
    batch, steps = trajectories.actions.shape
    record = Record(weights, batch, batch, steps)
    into = ACTIVATIONS[policy.activation].into
    set_times, final = trajectories.set_times(), trajectories.final.to(weights.first.dtype)
    size = max(1, CHUNK_ROWS // max(1, batch))
    for start in range(0, steps + 1, size):
        times = torch.arange(start, min(start + size, steps + 1), device=final.device)
        states = torch.where(set_times < times[:, None, None], final, VOID).flatten(0, 1)
        here = torch.addmm(weights.first_bias, states, weights.first.t()).to(weights.dtype)
        hidden = [layer[start : start + size].flatten(0, 1) for layer in record.hidden]
        into(here, hidden[0])
        for i, (weight, bias) in enumerate(weights.deeper):
            torch.addmm(bias, hidden[i], weight.t(), out=hidden[i + 1])
            into(hidden[i + 1], hidden[i + 1])
        if record.logits is not None:
            logits = torch.addmm(weights.head[1], hidden[-1], weights.head[0].t())
            record.logits[:, start : start + size] = logits.view(-1, batch, logits.shape[1]).transpose(0, 1)
    actions, initial = trajectories.actions, trajectories.initial
    if record.logits is not None:
        sums = _inner_ops.trajectory_forward(record.logits, actions, initial)
    else:
        sums = _by_rows(record, trajectories)
    log_pf, log_pb, record.normalizers = sums
    return dataclasses.replace(trajectories, log_pf=log_pf, log_pb=log_pb, record=record)


def _by_rows(record: Record, trajectories: Trajectories) -> tuple[Tensor, Tensor, Tensor]:
    """log_pf, log_pb and normalizers from the last layer's activations."""
    size = max(1, LINEAR_ROWS // (record.steps + 1))
    parts = []
    for start in range(0, record.batch, size):
        rows = slice(start, min(start + size, record.batch))
        last = record.forward_order(record.hidden[-1], rows)
        path = trajectories.actions[rows], trajectories.initial[rows]
        parts.append(_inner_ops.linear_forward(last, *record.weights.head, *path))
    log_pf, log_pb, normalizers = (torch.cat(part) for part in zip(*parts, strict=True))
    return log_pf, log_pb, normalizers


def _accumulate(totals: Sequence[Tensor], grad: Tensor, inputs: Tensor) -> None:
    """Adds the gradients of a linear layer's weight and bias."""
    weight, bias = totals
    if weight.dtype == grad.dtype:
        weight.addmm_(grad.t(), inputs)
        bias.add_(grad.sum(0))
    else:
        weight.add_(torch.mm(grad.t(), inputs))
        bias.add_(grad.sum(0, dtype=bias.dtype))
