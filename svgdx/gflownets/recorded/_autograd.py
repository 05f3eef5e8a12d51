"""Private to svgdx.gflownets.recorded: log-probabilities of recorded trajectories as a function of the parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from svgdx.densities.linear import product
from svgdx.gflownets.policies import IN_PLACE, MLPPolicy
from svgdx.gflownets.recorded import _inner_ops, _record
from svgdx.gflownets.recorded._gradients import gradients
from svgdx.gflownets.recorded._record import Record
from svgdx.gflownets.recorded._weights import Weights
from svgdx.gflownets.trajectories import VOID, Trajectories


def recorded_log_prob(policy: MLPPolicy, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """log_pf and log_pb (B), differentiable once, from the trajectories' record.

    Trajectories without a record that this policy can use are recorded first.
    """
    record = trajectories.record
    if not isinstance(record, Record) or record.weights.policy is not policy or not record.usable():
        with torch.no_grad():
            trajectories = _replay(policy, trajectories)
    return _RecordedLogProb.apply(trajectories, *policy.parameters())


class _RecordedLogProb(torch.autograd.Function):
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
                "trajectory_log_prob: the backward pass comes too late: since the rollout a parameter of the policy "
                "was changed in place, or a later rollout overwrote the activations after a first backward pass"
            )
        grads = gradients(record, ctx.trajectories, grad_pf, grad_pb)
        # From now on the next rollout may overwrite the activations, even while this record is alive.
        record.buffers.give_back()
        return None, *grads


def _replay(policy: MLPPolicy, trajectories: Trajectories) -> Trajectories:
    """Records trajectories under the policy's present parameters, by products over all states."""
    weights = Weights(policy)
    batch, steps = trajectories.actions.shape
    record = Record(weights, batch, batch, steps)
    into = IN_PLACE[policy.activation].into
    set_times, final = trajectories.set_times(), trajectories.final.to(weights.first.dtype)
    size = max(1, _record.CHUNK_ROWS // max(1, batch))
    for start in range(0, steps + 1, size):
        times = torch.arange(start, min(start + size, steps + 1), device=final.device)
        states = torch.where(set_times < times[:, None, None], final, VOID).flatten(0, 1)
        argument = product(states, weights.first.t(), weights.first_bias).to(weights.dtype)
        hidden = [layer[start : start + size].flatten(0, 1) for layer in record.hidden]
        into(argument, hidden[0])
        for i, (weight, bias) in enumerate(weights.deeper):
            product(hidden[i], weight.t(), bias, hidden[i + 1])
            into(hidden[i + 1], hidden[i + 1])
        if record.logits is not None:
            logits = product(hidden[-1], weights.head[0].t(), weights.head[1])
            record.logits[:, start : start + size] = logits.view(-1, batch, logits.shape[1]).transpose(0, 1)
    if record.logits is not None:
        sums = _inner_ops.trajectory_forward(record.logits, trajectories.actions, trajectories.initial)
    else:
        sums = _sums_by_rows(record, trajectories)
    log_pf, log_pb, record.normalizers = sums
    return dataclasses.replace(trajectories, log_pf=log_pf, log_pb=log_pb, record=record)


def _sums_by_rows(record: Record, trajectories: Trajectories) -> tuple[Tensor, Tensor, Tensor]:
    """log_pf, log_pb and normalizers from the last layer's activations."""
    size = max(1, _record.LINEAR_ROWS // (record.steps + 1))
    sums = []
    for start in range(0, record.batch, size):
        rows = slice(start, min(start + size, record.batch))
        last = record.forward_order(record.hidden[-1], rows)
        path = trajectories.actions[rows], trajectories.initial[rows]
        sums.append(_inner_ops.linear_forward(last, *record.weights.head, *path))
    log_pf, log_pb, normalizers = (torch.cat(blocks) for blocks in zip(*sums, strict=True))
    return log_pf, log_pb, normalizers
