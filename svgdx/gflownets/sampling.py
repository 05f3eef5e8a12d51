"""Rollouts: trajectories sampled forward from P_F and backward from P_B, side by side."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from svgdx import ops
from svgdx.gflownets import _engine, _inner_ops, _record
from svgdx.gflownets._record import Record
from svgdx.gflownets._weights import Weights
from svgdx.gflownets.policies import ACTIVATIONS, MLPPolicy
from svgdx.gflownets.trajectories import Trajectories

_FORWARD, _BACKWARD = 0, 1


class _Draw(NamedTuple):
    """How moves are drawn. Rows of one kind share an offset a step; those of another kind or stream have their own."""

    seed: int
    stream: int
    temperature: float
    epsilon: float
    erase_anything: float  # chance that a backward row erases any entry rather than one drawn by the logits

    def offset(self, kind: int, step: int) -> int:
        return (2 * self.stream + kind << 32) + step


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
    forward = some[:0] if forward_from is None else forward_from
    backward = some[:0] if backward_from is None else backward_from
    uniform = not getattr(policy, "learnt_backward", True)
    draw = _Draw(seed, stream, temperature, epsilon, 1.0 if uniform else 0.0)
    if not isinstance(policy, MLPPolicy):
        run = _Run(steps, forward, backward, _Sums(None) if log_prob else None)
        _step_by_step(run, _Plain(policy), draw)
        return run.finish()
    weights = Weights(policy)
    kept = Record(weights, len(forward) + len(backward), len(forward), steps) if record else None
    run = _Run(steps, forward, backward, _Sums(kept) if log_prob or record else None)
    argument = weights.argument(torch.cat([forward, backward]))
    if _engine.usable(weights):
        _compiled(run, weights, argument, draw)
    else:
        _step_by_step(run, _Incremental(weights, argument, kept), draw)
    return run.finish()


class _Run:
    """One rollout under way. Forward rows stand at s_step, backward rows at s_(T - step)."""

    def __init__(self, steps: int, forward: Tensor, backward: Tensor, sums: _Sums | None) -> None:
        self.steps, self.step = steps, 0
        self.start = forward, backward
        self.forward, self.backward = forward, backward
        self.split = len(forward)
        self.sums = sums
        self.parts: list[Tensor] = []  # actions of successive segments, (B, n) in forward order

    def segment(self, actions: Tensor, forward: Tensor, backward: Tensor, logits: Tensor | None) -> None:
        """Takes note of some steps: their actions, the states after them, and the logits (B, more than n, 3D)."""
        count = actions.shape[1]
        if self.sums is not None:
            assert logits is not None
            initial = torch.cat([self.forward, backward])
            self.sums.add(self.split, self.step, self.steps, actions, initial, logits[:, : count + 1])
        self.parts.append(actions)
        self.step += count
        self.forward, self.backward = forward, backward

    def finish(self) -> Trajectories:
        forward, backward = self.start
        actions = self.parts[0]
        if len(self.parts) > 1:
            rows = [part[: self.split] for part in self.parts], [part[self.split :] for part in reversed(self.parts)]
            actions = torch.cat([torch.cat(kind, 1) for kind in rows])
        made = Trajectories(torch.cat([forward, self.backward]), actions, torch.cat([self.forward, backward]))
        if self.sums is not None:
            made.log_pf, made.log_pb, made.record = self.sums.log_pf, self.sums.log_pb, self.sums.record
        return made


class _Sums:
    """Log-probabilities, summed segment by segment.

    Row by row a segment is a trajectory of its own from the state it begins with; the state that two of them share has
    its P_B counted in the earlier and its P_F in the later one.
    """

    def __init__(self, record: Record | None) -> None:
        self.record = record
        self.log_pf: Tensor | None = None
        self.log_pb: Tensor | None = None

    def memory(self, batch: int, steps: int, width: int, like: Tensor) -> Tensor:
        """For the logits of as many successive states as they may take memory for, (B, n, 3D)."""
        if self.record is not None and self.record.logits is not None:
            return self.record.logits
        row = max(1, batch * width * like.element_size())
        return like.new_empty(batch, min(steps + 1, max(2, _record.LOGITS_BYTES // row)), width)

    def add(self, split: int, step: int, steps: int, actions: Tensor, initial: Tensor, logits: Tensor) -> None:
        log_pf, log_pb, normalizers = _inner_ops.trajectory_forward(logits.contiguous(), actions, initial)
        self.log_pf = log_pf if self.log_pf is None else self.log_pf + log_pf
        self.log_pb = log_pb if self.log_pb is None else self.log_pb + log_pb
        count = actions.shape[1]
        if self.record is None:
            return
        if count == steps:
            self.record.normalizers = normalizers
            return
        if self.record.normalizers is None:
            self.record.normalizers = normalizers.new_zeros(len(actions), steps + 1, 2)
        for rows, start in ((slice(0, split), step), (slice(split, None), steps - step - count)):
            stop = start + count
            self.record.normalizers[rows, start:stop, 0] = normalizers[rows, :-1, 0]
            self.record.normalizers[rows, start + 1 : stop + 1, 1] = normalizers[rows, 1:, 1]


def _compiled(run: _Run, weights: Weights, argument: Tensor, draw: _Draw) -> None:
    """All steps by the compiled rollout of an MLPPolicy, as many at once as there is memory for their logits."""
    states = torch.cat(run.start)
    batch, dim = states.shape
    record = None if run.sums is None else run.sums.record
    layers, width = 1 + len(weights.deeper), argument.shape[1]
    hidden = argument.new_empty(layers, 1, batch, width, dtype=weights.dtype) if record is None else record.hidden
    logits = None if run.sums is None else run.sums.memory(batch, run.steps, 3 * dim, hidden)
    capacity = run.steps if logits is None else logits.shape[1] - 1
    while True:
        count = min(capacity, run.steps - run.step)
        draws = draw.seed, draw.offset(_FORWARD, run.step), draw.offset(_BACKWARD, run.step)
        how = draw.temperature, draw.epsilon, draw.erase_anything
        actions, states = _engine.advance(
            weights, argument, states, run.split, count, hidden, run.step, logits, draws, *how
        )
        run.segment(actions, states[: run.split], states[run.split :], logits)
        if run.step == run.steps:
            return


def _step_by_step(run: _Run, network: _Network, draw: _Draw) -> None:
    """All steps by calls of the network and of the sampling ops."""
    window = _Window(run)
    for step in range(run.steps + 1):
        if step == run.steps and run.sums is None:
            break
        logits = network.logits(step, window.forward, window.backward)
        window.logits(run, step, logits)
        if step < run.steps:
            network.move(window.draw(run, step, logits, draw))
    window.close(run)


class _Window:
    """Logits and moves of the segment under way."""

    def __init__(self, run: _Run) -> None:
        self.forward, self.backward = run.forward, run.backward
        self.dim = self.forward.shape[1]
        self.first = 0  # the step it begins with
        self.kept: Tensor | None = None
        self.moves: list[Tensor] = []
        # What erasing each location takes back: 2D + its action.
        every = torch.arange(self.dim, device=self.backward.device)
        self.erasures = torch.add(2 * (every + self.dim), self.backward)

    def logits(self, run: _Run, step: int, logits: Tensor) -> None:
        """Keeps the logits of one step; a full window ends with its last state, with which the next one begins."""
        if run.sums is None:
            return
        if self.kept is None:
            self.kept = run.sums.memory(len(logits), run.steps, logits.shape[1], logits)
        capacity = self.kept.shape[1] - 1
        self._keep(run, step, logits, capacity)
        if step - self.first == capacity and step < run.steps:
            self.close(run)
            self.first = step
            self._keep(run, step, logits, capacity)

    def _keep(self, run: _Run, step: int, logits: Tensor, capacity: int) -> None:
        assert self.kept is not None
        slot, split = step - self.first, run.split
        self.kept[:split, slot] = logits[:split]
        self.kept[split:, min(capacity, run.steps - self.first) - slot] = logits[split:]

    def draw(self, run: _Run, step: int, logits: Tensor, draw: _Draw) -> Tensor:
        """This step's moves, (B,): actions, and those taken back plus 2D."""
        made = []
        if run.split > 0:
            action, _, self.forward = ops.gfn_sample_forward(
                logits[: run.split],
                self.forward,
                draw.seed,
                draw.offset(_FORWARD, step),
                draw.temperature,
                draw.epsilon,
            )
            made.append(action)
        if len(self.backward) > 0:
            location, _, self.backward = ops.gfn_sample_backward(
                logits[run.split :], self.backward, draw.seed, draw.offset(_BACKWARD, step), 1.0, draw.erase_anything
            )
            made.append(_chosen(self.erasures, location))
        moves = torch.cat(made) if made else self.erasures.new_empty(0)
        self.moves.append(moves)
        return moves

    def close(self, run: _Run) -> None:
        moves = (
            torch.stack(self.moves)
            if self.moves
            else self.erasures.new_empty(0, len(self.forward) + len(self.backward))
        )
        backward = moves[:, run.split :].flip(0) - 2 * self.dim
        actions = torch.cat([moves[:, : run.split], backward], 1).t().contiguous()
        run.segment(actions, self.forward, self.backward, self.kept)
        self.moves = []


class _Network(Protocol):
    """What a rollout asks of a network: logits (B, 3D) at the current states, and to hear of the moves."""

    def logits(self, step: int, forward: Tensor, backward: Tensor) -> Tensor: ...

    def move(self, moves: Tensor) -> None: ...


class _Plain:
    """Any module, called on the states of both kinds at once."""

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy

    def logits(self, step: int, forward: Tensor, backward: Tensor) -> Tensor:
        return logits_of(self.policy, torch.cat([forward, backward]))

    def move(self, moves: Tensor) -> None:
        pass


class _Incremental:
    """An MLPPolicy whose first layer is kept before its activation and updated by the one column that a move changes.

    With a record every layer writes straight into it.
    """

    def __init__(self, weights: Weights, argument: Tensor, record: Record | None) -> None:
        self.weights = weights
        self.record = record
        self.argument = argument
        # Row 2 location + bit is what setting void (-1) to bit adds; erasing, 2D further down, takes it away.
        columns = weights.columns()
        table = torch.stack([columns, 2 * columns], 1).flatten(0, 1)
        self.table = torch.cat([table, -table])
        self.into = ACTIVATIONS[weights.policy.activation].into
        batch, width = argument.shape
        layers = 0 if record is not None else 1 + len(weights.deeper)
        self.hidden = argument.new_empty(layers, batch, width, dtype=weights.dtype)
        self.out = argument.new_empty(batch, weights.head[0].shape[0], dtype=weights.dtype)

    def move(self, moves: Tensor) -> None:
        self.argument.add_(_rows(self.table, moves))

    def logits(self, step: int, forward: Tensor, backward: Tensor) -> Tensor:
        into, argument = self.into, self.argument
        hidden = self.hidden if self.record is None else self.record.hidden[:, step]
        into(argument if argument.dtype == hidden.dtype else hidden[0].copy_(argument), hidden[0])
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
