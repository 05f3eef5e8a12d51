"""Rollouts: trajectories sampled forward from P_F and backward from P_B, side by side."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from svgdx import _checks, ops
from svgdx.densities.linear import product
from svgdx.gflownets.policies import IN_PLACE, MLPPolicy, logits_of
from svgdx.gflownets.recorded import Record, Weights, advance, states_at_once, trajectory_forward
from svgdx.gflownets.trajectories import Trajectories

_FORWARD, _BACKWARD = 0, 1


class _Draw(NamedTuple):
    """How moves are drawn. Rows of one kind share an offset per step; another kind or stream has its own offsets."""

    seed: int | Tensor
    stream: int
    temperature: float
    epsilon: float
    erase_anything: float  # probability that a backward row erases any set entry rather than one drawn by the logits

    def offset(self, kind: int, step: int) -> int:
        return (2 * self.stream + kind << 32) + step


@_checks.differentiates
@torch.no_grad()
def rollout(
    policy: nn.Module,
    steps: int,
    seed: int | Tensor,
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
        policy: maps states (B, D) int8, void -1, to logits (B, 3D). If it has an attribute ``learnt_backward`` that is
            false, P_B is uniform over the set entries, whatever the last D logits are.
        steps: T, an integer, at most the void entries of forward_from and the set entries of backward_from.
        seed: of all draws, which are the same on CPU and CUDA; an integer, or a key as in :func:`svgdx.ops.uniform`.
            Rollouts of one seed differ in `stream`.
        forward_from: (Bf, D), states that P_F fills; int8, or any dtype that holds -1 (void), 0 and 1 only.
        backward_from: (Bb, D), states from which P_B erases; dtypes as forward_from.
        temperature, epsilon: exploration of the forward rows: logits are divided by the temperature, and with
            probability epsilon the action is uniform. log_pf remains that of the policy itself.
        record: keep what :func:`trajectory_log_prob` needs, so that it does not evaluate the network again. The policy
            must be an :class:`MLPPolicy`, whose later rollouts reuse the memory after the backward pass.
        log_prob: compute log_pf and log_pb of the trajectories; record implies it.
        stream: which of the independent sets of draws of this seed.

    Autocast does not apply to an MLPPolicy, whose matmul_dtype lowers the precision of its products.

    Returns:
        Trajectories, forward rows first, all in forward order.

    Raises:
        TypeError, ValueError: no rows at all, states of another shape, a negative number of steps, a seed of more than
            64 bits, temperature or epsilon out of range, or record with another policy.
        RuntimeError: from the sampling ops, on the CPU: too few void or set entries, or logits that are not finite.

    Source: Zhang et al., ICML 2022, algorithm 1; Malkin et al., Trajectory balance, NeurIPS 2022, section 3.
    """
    steps, stream = _checks.integer("rollout", "steps", steps), _checks.integer("rollout", "stream", stream)
    seed = _checks.seed("rollout", seed)
    temperature, epsilon = _exploration(temperature, epsilon)
    if steps < 0:
        raise ValueError(f"rollout: steps must not be negative, but is {steps}")
    if record and not isinstance(policy, MLPPolicy):
        raise ValueError(f"rollout: record needs an MLPPolicy, but the policy is a {type(policy).__name__}")
    forward, backward = _starts(policy, forward_from, backward_from)
    uniform = not getattr(policy, "learnt_backward", True)
    draw = _Draw(seed, stream, temperature, epsilon, 1.0 if uniform else 0.0)
    if isinstance(policy, MLPPolicy):
        # Autocast must not reach its products, which have a dtype of their own.
        with _checks.without_autocast(forward.device.type):
            return _of_mlp(policy, _Run(steps, forward, backward, None), draw, record, log_prob)
    run = _Run(steps, forward, backward, _Sums(None) if log_prob else None)
    _step_by_step(run, _Plain(policy), draw)
    return run.finish()


def _of_mlp(policy: MLPPolicy, run: _Run, draw: _Draw, record: bool, log_prob: bool) -> Trajectories:
    """Finishes a rollout of an MLPPolicy."""
    forward, backward = run.start
    weights = Weights(policy)
    activations = Record(weights, len(forward) + len(backward), len(forward), run.steps) if record else None
    run.sums = _Sums(activations) if log_prob or record else None
    argument = weights.argument(torch.cat([forward, backward]))
    if weights.compiled:
        _compiled(run, weights, argument, draw)
    else:
        _step_by_step(run, _Incremental(weights, argument, activations), draw)
    return run.finish()


def _exploration(temperature: object, epsilon: object) -> tuple[float, float]:
    """The temperature and epsilon of a rollout as floats; 0-d tensors are fine, too."""
    numbers = []
    for name, value in (("temperature", temperature), ("epsilon", epsilon)):
        if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
            raise TypeError(f"rollout: {name} must be a number, but is {type(value).__name__}")
        numbers.append(float(value))
    if not 0 < numbers[0] < math.inf:
        raise ValueError(f"rollout: temperature must be positive and finite, but is {numbers[0]:g}")
    if not 0 <= numbers[1] <= 1:
        raise ValueError(f"rollout: epsilon must be in [0, 1], but is {numbers[1]:g}")
    return numbers[0], numbers[1]


def _starts(policy: nn.Module, forward_from: Tensor | None, backward_from: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states (Bf, D) and (Bb, D) of both kinds of rows, in the order of the arguments."""
    dim = getattr(policy, "dim", None)
    if forward_from is not None:
        forward_from = _checks.features("rollout", "forward_from", forward_from, dim, rank=2)
        forward_from = _checks.states("rollout", "forward_from", forward_from)
        dim = forward_from.shape[1]
    if backward_from is not None:
        backward_from = _checks.features("rollout", "backward_from", backward_from, dim, rank=2)
        backward_from = _checks.states("rollout", "backward_from", backward_from)
    if forward_from is None:
        if backward_from is None:
            raise ValueError("rollout: pass forward_from, backward_from or both")
        return backward_from[:0], backward_from
    return forward_from, forward_from[:0] if backward_from is None else backward_from


class _Run:
    """A rollout in progress. Forward rows are at s_step, backward rows at s_(T - step)."""

    def __init__(self, steps: int, forward: Tensor, backward: Tensor, sums: _Sums | None) -> None:
        self.steps, self.step = steps, 0
        self.start = forward, backward
        self.forward, self.backward = forward, backward
        self.split = len(forward)
        self.sums = sums
        self.actions: list[Tensor] = []  # of successive segments, (B, n) in forward order

    def add_segment(self, actions: Tensor, forward: Tensor, backward: Tensor, logits: Tensor | None) -> None:
        """Adds n steps: their actions (B, n), the states after them, and the logits (B, more than n, 3D)."""
        count = actions.shape[1]
        if self.sums is not None:
            assert logits is not None
            initial = torch.cat([self.forward, backward])
            self.sums.add(self.split, self.step, self.steps, actions, initial, logits[:, : count + 1])
        self.actions.append(actions)
        self.step += count
        self.forward, self.backward = forward, backward

    def finish(self) -> Trajectories:
        forward, backward = self.start
        actions = self.actions[0]
        if len(self.actions) > 1:
            of_forward = torch.cat([segment[: self.split] for segment in self.actions], 1)
            of_backward = torch.cat([segment[self.split :] for segment in reversed(self.actions)], 1)
            actions = torch.cat([of_forward, of_backward])
        trajectories = Trajectories(torch.cat([forward, self.backward]), actions, torch.cat([self.forward, backward]))
        if self.sums is not None:
            trajectories.log_pf, trajectories.log_pb = self.sums.log_pf, self.sums.log_pb
            trajectories.record = self.sums.record
        return trajectories


class _Sums:
    """Log-probabilities, summed segment by segment.

    Row by row a segment is a trajectory of its own from its first state. Of the state that two segments share, P_B
    counts in the earlier one and P_F in the later one.
    """

    def __init__(self, record: Record | None) -> None:
        self.record = record
        self.log_pf: Tensor | None = None
        self.log_pb: Tensor | None = None

    def memory(self, batch: int, steps: int, width: int, like: Tensor) -> Tensor:
        """Memory for the logits of successive states, as many as fit, (B, n, 3D)."""
        if self.record is not None and self.record.logits is not None:
            return self.record.logits
        states = min(steps + 1, states_at_once(batch, width, like.element_size()))
        return like.new_empty(batch, states, width)

    def add(self, split: int, step: int, steps: int, actions: Tensor, initial: Tensor, logits: Tensor) -> None:
        log_pf, log_pb, normalizers = trajectory_forward(logits.contiguous(), actions, initial)
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
    """Makes all steps by the compiled rollout, as many at once as the memory for their logits allows."""
    states = torch.cat(run.start)
    batch, dim = states.shape
    record = None if run.sums is None else run.sums.record
    layers, width = 1 + len(weights.deeper), argument.shape[1]
    hidden = argument.new_empty(layers, 1, batch, width, dtype=weights.dtype) if record is None else record.hidden
    logits = None if run.sums is None else run.sums.memory(batch, run.steps, 3 * dim, hidden)
    capacity = run.steps if logits is None else logits.shape[1] - 1
    exploration = draw.temperature, draw.epsilon, draw.erase_anything
    while True:
        count = min(capacity, run.steps - run.step)
        draws = draw.seed, draw.offset(_FORWARD, run.step), draw.offset(_BACKWARD, run.step)
        actions, states = advance(
            weights, argument, states, run.split, count, hidden, run.step, logits, draws, *exploration
        )
        run.add_segment(actions, states[: run.split], states[run.split :], logits)
        if run.step == run.steps:
            return


def _step_by_step(run: _Run, network: _Network, draw: _Draw) -> None:
    """Makes all steps by calls of the network and of the sampling ops."""
    window = _Window(run)
    for step in range(run.steps + 1):
        if step == run.steps and run.sums is None:
            break
        logits = network.logits(step, window.forward, window.backward)
        window.add_logits(run, step, logits)
        if step < run.steps:
            network.move(window.draw(run, step, logits, draw))
    window.close(run)


class _Window:
    """Logits and moves of the segment in progress."""

    def __init__(self, run: _Run) -> None:
        self.forward, self.backward = run.forward, run.backward
        self.dim = self.forward.shape[1]
        self.first = 0  # its first step
        self.memory: Tensor | None = None
        self.moves: list[Tensor] = []
        # Erasing a location undoes an action; as a move it is that action plus 2D.
        locations = torch.arange(self.dim, device=self.backward.device)
        self.erasures = torch.add(2 * (locations + self.dim), self.backward)

    def add_logits(self, run: _Run, step: int, logits: Tensor) -> None:
        """Stores the logits of one step; a full window ends with its last state, with which the next one begins."""
        if run.sums is None:
            return
        if self.memory is None:
            self.memory = run.sums.memory(len(logits), run.steps, logits.shape[1], logits)
        capacity = self.memory.shape[1] - 1
        self._store(run, step, logits, capacity)
        if step - self.first == capacity and step < run.steps:
            self.close(run)
            self.first = step
            self._store(run, step, logits, capacity)

    def _store(self, run: _Run, step: int, logits: Tensor, capacity: int) -> None:
        assert self.memory is not None
        slot, split = step - self.first, run.split
        self.memory[:split, slot] = logits[:split]
        self.memory[split:, min(capacity, run.steps - self.first) - slot] = logits[split:]

    def draw(self, run: _Run, step: int, logits: Tensor, draw: _Draw) -> Tensor:
        """This step's moves, (B,): actions of forward rows; of backward rows the action that is undone plus 2D."""
        moves = []
        if run.split > 0:
            action, _, self.forward = ops.gfn_sample_forward(
                logits[: run.split],
                self.forward,
                draw.seed,
                draw.offset(_FORWARD, step),
                draw.temperature,
                draw.epsilon,
            )
            moves.append(action)
        if len(self.backward) > 0:
            location, _, self.backward = ops.gfn_sample_backward(
                logits[run.split :], self.backward, draw.seed, draw.offset(_BACKWARD, step), 1.0, draw.erase_anything
            )
            moves.append(_entry_of_row(self.erasures, location))
        self.moves.append(torch.cat(moves) if moves else self.erasures.new_empty(0))
        return self.moves[-1]

    def close(self, run: _Run) -> None:
        """Ends the segment and adds it to the run."""
        batch = len(self.forward) + len(self.backward)
        moves = torch.stack(self.moves) if self.moves else self.erasures.new_empty(0, batch)
        backward = moves[:, run.split :].flip(0) - 2 * self.dim
        actions = torch.cat([moves[:, : run.split], backward], 1).t().contiguous()
        run.add_segment(actions, self.forward, self.backward, self.memory)
        self.moves = []


class _Network(Protocol):
    """A network in a rollout: computes the logits (B, 3D) of the current states and follows their moves."""

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
    """An MLPPolicy that stores the argument of its first activation and updates it by the one column a move changes.

    With a record every layer writes directly into it.
    """

    def __init__(self, weights: Weights, argument: Tensor, record: Record | None) -> None:
        self.weights = weights
        self.record = record
        self.argument = argument
        # Row 2 location + bit is added if void (-1) becomes the bit, row 2D + 2 location + bit if it is erased.
        columns = weights.columns()
        table = torch.stack([columns, 2 * columns], 1).flatten(0, 1)
        self.table = torch.cat([table, -table])
        self.into = IN_PLACE[weights.policy.activation].into
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
            product(hidden[i], weight.t(), bias, hidden[i + 1])
            into(hidden[i + 1], hidden[i + 1])
        weight, bias = self.weights.head
        return product(hidden[-1], weight.t(), bias, self.out)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of the table. Off the CPU an action that cannot be drawn is -1 instead of an error, and gets any row."""
    return table.index_select(0, index if index.device.type == "cpu" else index.clamp(min=0))


def _entry_of_row(table: Tensor, index: Tensor) -> Tensor:
    """The entry of each row of the table at its index, (B,); -1 if the index is -1."""
    if index.device.type == "cpu":
        return table.gather(1, index.unsqueeze(1)).squeeze(1)
    return torch.where(index < 0, -1, table.gather(1, index.clamp(min=0).unsqueeze(1)).squeeze(1))
