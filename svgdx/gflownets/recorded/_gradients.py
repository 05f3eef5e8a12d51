"""Private to svgdx.gflownets.recorded: the gradient of a policy's parameters from the record of a rollout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from svgdx.densities.linear import product
from svgdx.gflownets.policies import IN_PLACE
from svgdx.gflownets.recorded import _compiled, _inner_ops, _record
from svgdx.gflownets.recorded._record import Record
from svgdx.gflownets.trajectories import VOID, Trajectories


def gradients(record: Record, trajectories: Trajectories, grad_pf: Tensor, grad_pb: Tensor) -> list[Tensor]:
    """Gradients of the policy's parameters, in their order, from those of log_pf and log_pb (B)."""
    policy = record.weights.policy
    if record.logits is not None and record.weights.compiled:
        grad_logits = _grad_logits(record, trajectories, grad_pf, grad_pb)
        return _compiled.gradients(record.weights, trajectories, record.hidden, record.split, grad_logits)
    sums = _Sums(record, trajectories)
    if record.logits is not None:
        _add_from_logits(sums, _grad_logits(record, trajectories, grad_pf, grad_pb))
    else:
        for start, stop in ((0, record.split), (record.split, record.batch)):
            size = max(1, _record.LINEAR_ROWS // (record.steps + 1))
            for first in range(start, stop, size):
                rows = slice(first, min(first + size, stop))
                _add_from_last_layer(sums, trajectories, rows, grad_pf, grad_pb)
    if not policy.learnt_backward:
        sums.totals[-2:] = [total[: 2 * policy.dim] for total in sums.totals[-2:]]
    return sums.totals


def _grad_logits(record: Record, trajectories: Trajectories, grad_pf: Tensor, grad_pb: Tensor) -> Tensor:
    assert record.logits is not None
    assert record.normalizers is not None
    return _inner_ops.trajectory_backward(
        grad_pf, grad_pb, record.logits, trajectories.actions, trajectories.initial, record.normalizers
    )


def _add_from_logits(sums: _Sums, grad: Tensor) -> None:
    """Adds the gradient of all rows, from that of their recorded logits (B, T+1, 3D)."""
    record = sums.record
    forward, backward = grad[: record.split].transpose(0, 1), grad[record.split :].transpose(0, 1)
    size = max(1, _record.CHUNK_ROWS // max(1, record.batch))
    for start in range(0, record.steps + 1, size):
        visits = slice(start, min(start + size, record.steps + 1))
        late = backward[record.steps + 1 - visits.stop : record.steps + 1 - visits.start]
        block = torch.cat([forward[visits], late.flip(0)], 1).flatten(0, 1)
        sums.add_head(block, visits)


def _add_from_last_layer(
    sums: _Sums, trajectories: Trajectories, rows: slice, grad_pf: Tensor, grad_pb: Tensor
) -> None:
    """Adds the gradient of some rows of one kind; recomputes their logits from the last layer."""
    record = sums.record
    assert record.normalizers is not None
    weight, bias = record.weights.head
    last = record.forward_order(record.hidden[-1], rows)
    grad_last, *grad_head = _inner_ops.linear_backward(
        grad_pf[rows],
        grad_pb[rows],
        last,
        weight,
        bias,
        trajectories.actions[rows],
        trajectories.initial[rows],
        record.normalizers[rows],
    )
    for total, grad in zip(sums.totals[-2:], grad_head, strict=True):
        total.add_(grad)
    if rows.stop > record.split:
        grad_last = grad_last.flip(1)
    sums.add_layers(grad_last.transpose(0, 1).flatten(0, 1), slice(0, record.steps + 1), rows)


class _Sums:
    """Sums of the gradients of all parameters, to which blocks of visits and rows are added."""

    def __init__(self, record: Record, trajectories: Trajectories) -> None:
        self.record = record
        weights = record.weights
        self.totals = [torch.zeros_like(parameter) for parameter in weights.policy.parameters()]
        if not weights.policy.learnt_backward:
            self.totals[-2:] = [torch.zeros_like(tensor, dtype=weights.first.dtype) for tensor in weights.head]
        self.backward_ = IN_PLACE[weights.policy.activation].backward_
        self.set_times = trajectories.set_times()
        self.final = trajectories.final.to(weights.dtype)
        visit = torch.arange(record.steps + 1, dtype=torch.int32, device=self.final.device).unsqueeze(1)
        self.times = torch.cat(
            [visit.expand(-1, record.split), (record.steps - visit).expand(-1, record.batch - record.split)], 1
        )
        self.memory: list[Tensor] = []

    def add_head(self, grad_logits: Tensor, visits: slice) -> None:
        """Adds some visits of all rows, from the gradient of their logits (n, 3D)."""
        _accumulate(self.totals[-2:], grad_logits, self.record.hidden[-1][visits].flatten(0, 1))
        self.add_layers(self._product(grad_logits, self.record.weights.head[0]), visits, slice(None))

    def add_layers(self, grad: Tensor, visits: slice, rows: slice) -> None:
        """Adds the layers below the head, from the gradient of the last one's activations (n, H)."""
        hidden = [layer[visits, rows].flatten(0, 1) for layer in self.record.hidden]
        for i in range(len(hidden) - 1, 0, -1):
            self.backward_(grad, hidden[i])
            _accumulate(self.totals[2 * i : 2 * i + 2], grad, hidden[i - 1])
            grad = self._product(grad, self.record.weights.deeper[i - 1][0])
        self.backward_(grad, hidden[0])
        is_set = self.set_times[rows] < self.times[visits, rows].unsqueeze(-1)
        _accumulate(self.totals[:2], grad, torch.where(is_set, self.final[rows], VOID).flatten(0, 1))

    def _product(self, grad: Tensor, weight: Tensor) -> Tensor:
        """grad @ weight, in one of two buffers that stay in the cache."""
        if not self.memory or self.memory[0].shape[0] < len(grad):
            self.memory = [grad.new_empty(len(grad), self.record.hidden.shape[3]) for _ in range(2)]
        # The other buffer may hold grad.
        self.memory.reverse()
        return product(grad, weight, out=self.memory[0][: len(grad)])


def _accumulate(totals: Sequence[Tensor], grad: Tensor, inputs: Tensor) -> None:
    """Adds the gradients of a linear layer's weight and bias."""
    weight, bias = totals
    weight.add_(product(grad.t(), inputs))
    bias.add_(grad.sum(0, dtype=bias.dtype))
