"""Rollouts: trajectories sampled forward from P_F and backward from P_B, side by side."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from svgdx import ops
from svgdx.gflownets import _inner_ops, _record
from svgdx.gflownets._record import Record, Weights
from svgdx.gflownets.policies import ACTIVATIONS, MLPPolicy
from svgdx.gflownets.trajectories import Trajectories

# Offsets of the draws: step k of a stream is 2^32 stream + k.
_FORWARD_STREAM, _BACKWARD_STREAM, _STREAMS = 0, 1, 2


@torch.no_grad()
def rollout(
    policy: nn.Module,
    steps: int,
    seed: int,
    *,
    forward_from: Tensor | None = None,
    backward_from: Tensor | None = None,
    temperature: float = 1.0,
    epsilon: float = 0.0,
    record: bool = False,
    log_prob: bool = False,
    stream: int = 0,
) -> Trajectories:
    """Samples trajectories of `steps` steps; both kinds advance in the same calls of the network.

    Args:
        policy: from states (B, D) int8, void -1, to logits (B, 3D). Where its attribute ``learnt_backward`` is there
            and false, P_B is uniform over the set entries, whatever the last D logits are.
        steps: T, at most the void entries of forward_from and the set entries of backward_from.
        seed: of all draws, which are the same on CPU and CUDA. Rollouts of one seed differ in `stream`.
        forward_from: (Bf, D) int8, states to fill by P_F.
        backward_from: (Bb, D) int8, states to erase from by P_B.
        temperature, epsilon: exploration of the forward rows: logits divided by temperature, and with probability
            epsilon a uniform action. log_pf stays that of the policy itself.
        record: keep what :func:`trajectory_log_prob` needs, so that it does not run the network again. The activations
            live in memory that the policy reuses once the backward is through; for an :class:`MLPPolicy` alone.
        log_prob: give log_pf and log_pb of the trajectories. Always given where record is true.
        stream: which of the independent sets of draws of this seed.

    Returns:
        Trajectories, forward rows first, all in forward order.

    Raises:
        ValueError: no rows at all, a negative number of steps, or record asked of another policy.
        RuntimeError: from the sampling ops, on the CPU: too few void or set entries, logits that are not finite.

    Source: Zhang et al., ICML 2022, algorithm 1; Malkin et al., Trajectory balance, NeurIPS 2022, section 3.
    """
    if forward_from is None and backward_from is None:
        raise ValueError("rollout: give forward_from, backward_from or both")
    if steps < 0:
        raise ValueError(f"rollout: steps must not be negative, but is {steps}")
    if record and not isinstance(policy, MLPPolicy):
        raise ValueError(f"rollout: record needs an MLPPolicy, but the policy is a {type(policy).__name__}")
    some = forward_from if forward_from is not None else backward_from
    assert some is not None
    run = _Run(
        policy,
        steps,
        some[:0] if forward_from is None else forward_from,
        some[:0] if backward_from is None else backward_from,
        record,
        log_prob or record,
    )
    for step in range(steps):
        run.advance(step, seed, stream, temperature, epsilon)
    return run.finish()


class _Network(Protocol):
    """What a rollout asks of a network: logits (B, 3D) at the current states, and to hear of the moves."""

    def logits(self, step: int, forward: Tensor, backward: Tensor) -> Tensor: ...

    def move(self, actions: Tensor) -> None: ...


class _Run:
    """One rollout under way. Forward rows stand at s_step, backward rows at s_(T - step)."""

    def __init__(
        self, policy: nn.Module, steps: int, forward: Tensor, backward: Tensor, record: bool, log_prob: bool
    ) -> None:
        self.steps = steps
        self.start = forward, backward
        self.forward, self.backward = forward, backward
        self.split, batch = len(forward), len(forward) + len(backward)
        self.moves = torch.empty(steps, batch, dtype=torch.int64, device=forward.device)
        self.dim = forward.shape[1]
        # What erasing each location takes back: 2D + its action.
        every = torch.arange(self.dim, device=forward.device)
        self.erasures = torch.add(2 * (every + self.dim), backward)
        self.uniform_backward = not getattr(policy, "learnt_backward", True)
        self.record: Record | None = None
        if isinstance(policy, MLPPolicy):
            weights = Weights(policy)
            self.record = Record(weights, batch, self.split, steps) if record else None
            self.network: _Network = _Incremental(weights, forward, backward, self.record)
        else:
            self.network = _Plain(policy, self.uniform_backward)
        self.window = _Window(self, batch) if log_prob else None

    def advance(self, step: int, seed: int, stream: int, temperature: float, epsilon: float) -> None:
        logits = self.network.logits(step, self.forward, self.backward)
        if self.window is not None:
            self.window.add(self, step, logits)
        split = self.split
        made = []
        if split > 0:
            offset = (_STREAMS * stream + _FORWARD_STREAM << 32) + step
            action, _, self.forward = ops.gfn_sample_forward(
                logits[:split], self.forward, seed, offset, temperature, epsilon
            )
            made.append(action)
        if len(self.backward) > 0:
            offset = (_STREAMS * stream + _BACKWARD_STREAM << 32) + step
            chance = 1.0 if self.uniform_backward else 0.0
            location, _, self.backward = ops.gfn_sample_backward(
                logits[split:], self.backward, seed, offset, 1.0, chance
            )
            made.append(_chosen(self.erasures, location))
        if made:
            self.network.move(torch.cat(made, out=self.moves[step]))

    def actions(self, steps: slice) -> Tensor:
        """Actions of some steps in forward order, (B, n)."""
        moves = self.moves[steps]
        backward = moves[:, self.split :].flip(0).sub_(2 * self.dim)
        return torch.cat([moves[:, : self.split], backward], 1).t().contiguous()

    def finish(self) -> Trajectories:
        forward, backward = self.start
        initial = torch.cat([forward, self.backward])
        made = Trajectories(initial, self.actions(slice(self.steps)), torch.cat([self.forward, backward]))
        if self.window is not None:
            self.window.add(self, self.steps, self.network.logits(self.steps, self.forward, self.backward))
            made.log_pf, made.log_pb = self.window.log_pf, self.window.log_pb
        made.record = self.record
        return made


class _Window:
    """Logits of some successive states, from which log-probabilities are summed whenever it is full.

    Row by row a window is a trajectory of its own from the state it begins with; the state that two windows share has
    its P_B counted in the earlier and its P_F in the later one.
    """

    def __init__(self, run: _Run, batch: int) -> None:
        self.batch = batch
        self.first = 0  # the step of its first logits
        self.begin = run.forward
        self.logits: Tensor | None = None
        self.log_pf: Tensor | None = None
        self.log_pb: Tensor | None = None

    def add(self, run: _Run, step: int, logits: Tensor) -> None:
        if self.logits is None:
            self._allocate(run, logits)
        assert self.logits is not None
        width = min(self.capacity, run.steps - self.first)
        split, slot = run.split, step - self.first
        self.logits[:split, slot] = logits[:split]
        self.logits[split:, width - slot] = logits[split:]
        if slot < width:
            return
        self._sum(run, width)
        if step < run.steps:
            next_width = min(self.capacity, run.steps - step)
            self.first, self.begin = step, run.forward
            self.logits[:split, 0] = logits[:split]
            self.logits[split:, next_width] = logits[split:]

    def _allocate(self, run: _Run, logits: Tensor) -> None:
        if run.record is not None and run.record.logits is not None:
            self.logits = run.record.logits
        else:
            row = max(1, self.batch * logits.shape[1] * logits.element_size())
            states = max(2, min(run.steps + 1, _record.LOGITS_BYTES // row))
            self.logits = logits.new_empty(self.batch, states, logits.shape[1])
        self.capacity = self.logits.shape[1] - 1

    def _sum(self, run: _Run, width: int) -> None:
        """Adds what the window's `width` steps contribute."""
        assert self.logits is not None
        split = run.split
        early = slice(self.first, self.first + width)
        late = slice(run.steps - early.stop, run.steps - early.start)
        initial = torch.cat([self.begin, run.backward])
        logits = self.logits[:, : width + 1]
        log_pf, log_pb, normalizers = _inner_ops.trajectory_forward(logits.contiguous(), run.actions(early), initial)
        self.log_pf = log_pf if self.log_pf is None else self.log_pf + log_pf
        self.log_pb = log_pb if self.log_pb is None else self.log_pb + log_pb
        if run.record is None:
            return
        if run.record.normalizers is None:
            run.record.normalizers = normalizers.new_zeros(self.batch, run.steps + 1, 2)
        for rows, times in ((slice(0, split), early), (slice(split, None), late)):
            after = slice(times.start + 1, times.stop + 1)
            run.record.normalizers[rows, times, 0] = normalizers[rows, :-1, 0]
            run.record.normalizers[rows, after, 1] = normalizers[rows, 1:, 1]


class _Plain:
    """Any module, called on the states of both kinds at once."""

    def __init__(self, policy: nn.Module, uniform_backward: bool) -> None:
        self.policy = policy
        self.uniform_backward = uniform_backward

    def logits(self, step: int, forward: Tensor, backward: Tensor) -> Tensor:
        return logits_of(self.policy, torch.cat([forward, backward]))

    def move(self, actions: Tensor) -> None:
        pass


class _Incremental:
    """An MLPPolicy whose first layer is kept before its activation and updated by the one column that a move changes.

    With a record every layer writes straight into it.
    """

    def __init__(self, weights: Weights, forward: Tensor, backward: Tensor, record: Record | None) -> None:
        states = torch.cat([forward, backward]).to(weights.first.dtype)
        self.weights = weights
        self.record = record
        self.argument = torch.addmm(weights.first_bias, states, weights.first.t())
        # Row 2 location + bit is what setting void (-1) to bit adds; erasing, 2D further down, takes it away.
        columns = weights.first.t()
        table = torch.stack([columns, 2 * columns], 1).flatten(0, 1)
        self.table = torch.cat([table, -table])
        self.into = ACTIVATIONS[weights.policy.activation].into
        width = weights.first.shape[0]
        layers = 0 if record is not None else 1 + len(weights.deeper)
        self.hidden = [states.new_empty(len(states), width, dtype=weights.dtype) for _ in range(layers)]
        self.out = states.new_empty(len(states), weights.head[0].shape[0], dtype=weights.dtype)

    def move(self, actions: Tensor) -> None:
        self.argument.add_(_rows(self.table, actions))

    def logits(self, step: int, forward: Tensor, backward: Tensor) -> Tensor:
        into, argument = self.into, self.argument
        hidden = self.hidden if self.record is None else [layer[step] for layer in self.record.hidden]
        if argument.dtype == hidden[0].dtype:
            into(argument, hidden[0])
        else:
            hidden[0].copy_(argument)
            into(hidden[0], hidden[0])
        for i, (weight, bias) in enumerate(self.weights.deeper):
            torch.addmm(bias, hidden[i], weight.t(), out=hidden[i + 1])
            into(hidden[i + 1], hidden[i + 1])
        weight, bias = self.weights.head
        return torch.addmm(bias, hidden[-1], weight.t(), out=self.out)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of the table; off the CPU, where an action that cannot be drawn is -1 and no error, any row for it."""
    return table.index_select(0, index if index.device.type == "cpu" else index.clamp(min=0))


def _chosen(table: Tensor, index: Tensor) -> Tensor:
    """An entry of each row of the table; -1 where the index is -1."""
    if index.device.type == "cpu":
        return table.gather(1, index.unsqueeze(1)).squeeze(1)
    return torch.where(index < 0, -1, table.gather(1, index.clamp(min=0).unsqueeze(1)).squeeze(1))


def logits_of(policy: nn.Module, states: Tensor) -> Tensor:
    """The policy's logits at states (..., D), those of a uniform P_B zero."""
    logits: Tensor = policy(states)
    if getattr(policy, "learnt_backward", True):
        return logits
    dim = states.shape[-1]
    return functional.pad(logits[..., : 2 * dim], (0, dim))
