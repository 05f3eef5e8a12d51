"""The activations of an MLPPolicy at every state of a rollout, and the gradient from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx.gflownets import _inner_ops
from svgdx.gflownets.policies import ACTIVATIONS, MLPPolicy
from svgdx.gflownets.trajectories import Trajectories

# Logits of all states are kept up to this size; beyond it they are computed again, chunk by chunk.
LOGITS_BYTES = 64 * 2**20
# Rows (trajectory, time) that the backward works on at once: their gradients stay in the cache.
CHUNK_ROWS = 2048


class Weights:
    """The policy's matrices as its rollouts multiply with them: cast once, the uniform P_B's head filled with zeros."""

    def __init__(self, policy: MLPPolicy) -> None:
        first, *deeper, head = policy.linears()
        dtype = policy.matmul_dtype or first.weight.dtype
        self.policy = policy
        self.dtype = dtype
        self.first, self.first_bias = first.weight.detach(), first.bias.detach()
        self.deeper = [(layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)) for layer in deeper]
        weight, bias = head.weight.detach(), head.bias.detach()
        if not policy.learnt_backward:
            weight = torch.cat([weight, weight.new_zeros(policy.dim, weight.shape[1])])
            bias = torch.cat([bias, bias.new_zeros(policy.dim)])
        self.head = weight.to(dtype), bias.to(dtype)
        self.versions = _versions(policy)

    def current(self) -> bool:
        """Whether no parameter was changed in place since."""
        return self.versions == _versions(self.policy)


class Record:
    """Activations (B, T+1, H) of each layer, logits where they are small, and the normalizers of both softmaxes."""

    def __init__(self, weights: Weights, batch: int, steps: int) -> None:
        policy = weights.policy
        self.weights = weights
        self.buffers = policy.buffers_of_rollouts.lend(self)
        self.generation = self.buffers.generation
        device, dtype = weights.first.device, weights.dtype
        width = weights.first.shape[0]
        shape = (batch, steps + 1, width)
        self.hidden = [self.buffers.take(f"hidden {i}", shape, dtype, device) for i in range(1 + len(weights.deeper))]
        self.logits: Tensor | None = None
        if batch * (steps + 1) * 3 * policy.dim * dtype.itemsize <= LOGITS_BYTES:
            self.logits = self.buffers.take("logits", (batch, steps + 1, 3 * policy.dim), dtype, device)
        self.normalizers: Tensor | None = None

    def usable(self) -> bool:
        """Whether the activations are still those of the policy as it is."""
        return self.buffers.generation == self.generation and self.weights.current()

    def gradients(self, trajectories: Trajectories, grad_pf: Tensor, grad_pb: Tensor) -> list[Tensor]:
        """Gradients of the policy's parameters, in their order, from those of log_pf and log_pb (B)."""
        policy = self.weights.policy
        totals = [torch.zeros_like(parameter) for parameter in policy.parameters()]
        if not policy.learnt_backward:
            for i in (-2, -1):
                totals[i] = torch.zeros_like(self.weights.head[i], dtype=totals[i].dtype)
        batch, states = self.hidden[0].shape[:2]
        rows = max(1, CHUNK_ROWS // states)
        for start in range(0, batch, rows):
            chunk = slice(start, min(start + rows, batch))
            self._add_gradients(totals, trajectories, chunk, grad_pf[chunk], grad_pb[chunk])
        if not policy.learnt_backward:
            totals[-2:] = [total[: 2 * policy.dim] for total in totals[-2:]]
        return totals

    def _add_gradients(
        self, totals: list[Tensor], trajectories: Trajectories, chunk: slice, grad_pf: Tensor, grad_pb: Tensor
    ) -> None:
        assert self.normalizers is not None
        actions, initial, normalizers = (
            trajectories.actions[chunk],
            trajectories.initial[chunk],
            self.normalizers[chunk],
        )
        last = self.hidden[-1][chunk]
        weight, bias = self.weights.head
        if self.logits is not None:
            grads = (grad_pf, grad_pb, self.logits[chunk], actions, initial, normalizers)
            grad_logits = _inner_ops.trajectory_backward(*grads).flatten(0, 1)
            _accumulate(totals[-2:], grad_logits, last.flatten(0, 1))
            grad = torch.mm(grad_logits, weight)
        else:
            grad_last, *grad_head = _inner_ops.linear_backward(
                grad_pf, grad_pb, last, weight, bias, actions, initial, normalizers
            )
            for total, part in zip(totals[-2:], grad_head, strict=True):
                total.add_(part)
            grad = grad_last.flatten(0, 1)
        backward_ = ACTIVATIONS[self.weights.policy.activation].backward_
        for i in range(len(self.hidden) - 1, 0, -1):
            backward_(grad, self.hidden[i][chunk].flatten(0, 1))
            _accumulate(totals[2 * i : 2 * i + 2], grad, self.hidden[i - 1][chunk].flatten(0, 1))
            grad = torch.mm(grad, self.weights.deeper[i - 1][0])
        backward_(grad, self.hidden[0][chunk].flatten(0, 1))
        _accumulate(totals[:2], grad, trajectories.states(grad.dtype, chunk).flatten(0, 1))


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
    record = Record(weights, batch, steps)
    into = ACTIVATIONS[policy.activation].into
    rows = max(1, CHUNK_ROWS // (steps + 1))
    for start in range(0, batch, rows):
        chunk = slice(start, min(start + rows, batch))
        states = trajectories.states(weights.first.dtype, chunk).flatten(0, 1)
        here = torch.addmm(weights.first_bias, states, weights.first.t()).to(weights.dtype)
        hidden = [layer[chunk].flatten(0, 1) for layer in record.hidden]
        into(here, hidden[0])
        for i, (weight, bias) in enumerate(weights.deeper):
            torch.addmm(bias, hidden[i], weight.t(), out=hidden[i + 1])
            into(hidden[i + 1], hidden[i + 1])
        if record.logits is not None:
            torch.addmm(weights.head[1], hidden[-1], weights.head[0].t(), out=record.logits[chunk].flatten(0, 1))
    actions, initial = trajectories.actions, trajectories.initial
    if record.logits is not None:
        sums = _inner_ops.trajectory_forward(record.logits, actions, initial)
    else:
        sums = _inner_ops.linear_forward(record.hidden[-1], *weights.head, actions, initial)
    log_pf, log_pb, record.normalizers = sums
    return dataclasses.replace(trajectories, log_pf=log_pf, log_pb=log_pb, record=record)


def _accumulate(totals: Sequence[Tensor], grad: Tensor, inputs: Tensor) -> None:
    """Adds the gradients of a linear layer's weight and bias."""
    weight, bias = totals
    if weight.dtype == grad.dtype:
        weight.addmm_(grad.t(), inputs)
        bias.add_(grad.sum(0))
    else:
        weight.add_(torch.mm(grad.t(), inputs))
        bias.add_(grad.sum(0, dtype=bias.dtype))


def _versions(policy: MLPPolicy) -> list[tuple[int, int]]:
    return [(id(parameter), parameter._version) for parameter in policy.parameters()]
