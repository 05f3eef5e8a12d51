"""The iteration of ebgfn_peers.py in JAX: one scan over the steps of all trajectories, differentiated as a whole.

Every part is one jit-compiled function, as gfnx (Tiapkin et al., 2025) and JAX users write it.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ebgfn_peers import LOG_Z_RATE, RATE, Iteration
from torch import Tensor, nn

Layers = list[tuple[Any, Any]]
NEVER = -1e9  # finite, because the gradient of a softmax over -inf alone is NaN


def perceptron(layers: Layers, x: Any, activation: Any) -> Any:
    for weight, bias in layers[:-1]:
        x = activation(x @ weight.T + bias)
    weight, bias = layers[-1]
    return x @ weight.T + bias


def energy(layers: Layers, x: Any) -> Any:
    return perceptron(layers, x.astype(jnp.float32), jax.nn.elu)[:, 0]


def both(layers: Layers, state: Any) -> tuple[Any, Any]:
    """log P_F and log P_B of all actions at the states (B, D)."""
    logits = perceptron(layers, state.astype(jnp.float32), lambda x: jax.nn.leaky_relu(x, 0.01))
    void, width = state == -1, 2 * state.shape[1]
    forward = jnp.where(jnp.repeat(void, 2, 1), logits[:, :width], NEVER)
    backward = jnp.where(void, NEVER, logits[:, width:])
    return jax.nn.log_softmax(forward), jax.nn.log_softmax(backward)


def taken(log_probs: Any, index: Any) -> Any:
    return jnp.take_along_axis(log_probs, index[:, None], 1)[:, 0]


def walk(layers: Layers, state: Any, split: int, steps: int, key: Any, actions: Any = None) -> tuple[Any, Any, Any]:
    """Final states, log P_F and log P_B; the first `split` rows are filled, the others erased.

    Args:
        actions: (B, steps) in forward order, to follow instead of drawing actions.
    """
    rows = jnp.arange(len(state))

    def draw(log_probs: Any, key: Any, chosen: Any) -> Any:
        return jax.random.categorical(key, log_probs) if chosen is None else chosen

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        state, forward, backward, log_pf, log_pb = carry
        (of_forward, of_backward), chosen = inputs
        action = draw(forward[:split], of_forward, None if chosen is None else chosen[0][:split])
        erased = draw(backward[split:], of_backward, None if chosen is None else chosen[1][split:] // 2)
        location = jnp.concatenate([action // 2, erased])
        bit = jnp.concatenate([action % 2, jnp.full_like(erased, -1)]).astype(state.dtype)
        undone = 2 * erased + taken(state[split:], erased)
        here = taken(forward[:split], action), taken(backward[split:], erased)
        state = state.at[rows, location].set(bit)
        forward, backward = both(layers, state)
        there = taken(forward[split:], undone), taken(backward[:split], location[:split])
        log_pf = log_pf + jnp.concatenate([here[0], there[0]])
        log_pb = log_pb + jnp.concatenate([there[1], here[1]])
        return (state, forward, backward, log_pf, log_pb), None

    keys = jax.random.split(key, (steps, 2))
    chosen = None if actions is None else (actions.T, actions[:, ::-1].T)
    zeros = jnp.zeros(len(state))
    carry, _ = jax.lax.scan(step, (state, *both(layers, state), zeros, zeros), (keys, chosen))
    return carry[0], carry[3], carry[4]


def policy_loss(policy: Any, energy_layers: Layers, data: Any, key: Any, actions: Any = None) -> Any:
    layers, log_z = policy
    count, dim = data.shape
    start = jnp.concatenate([jnp.full_like(data, -1), data])
    final, log_pf, log_pb = walk(layers, start, count, dim, key, actions)
    log_reward = -energy(energy_layers, jnp.concatenate([final[:count], data]))
    return jnp.mean((log_z + log_pf - log_pb - jax.lax.stop_gradient(log_reward)) ** 2)


def energy_loss(layers: Layers, negative: Any, data: Any) -> Any:
    value = -energy(layers, jnp.concatenate([negative, data]))
    return jnp.mean(value[: len(data)]) - jnp.mean(value[len(data) :])


def proposal(layers: Layers, energy_layers: Layers, x: Any, key: Any) -> Any:
    of_back, of_forth, of_accept = jax.random.split(key, 3)
    state, pf_back, pb_back = walk(layers, x, 0, x.shape[1], of_back)
    x_new, pf_forth, pb_forth = walk(layers, state, len(x), x.shape[1], of_forth)
    delta = energy(energy_layers, x) - energy(energy_layers, x_new) + pb_forth + pf_back - pb_back - pf_forth
    accepted = jax.random.uniform(of_accept, (len(x),)) < jnp.exp(delta)
    return jnp.where(accepted[:, None], x_new, x)


def arrays(module: nn.Module) -> Layers:
    """Copies of weight and bias of each linear layer."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [(jnp.asarray(layer.weight.detach().numpy()), jnp.asarray(layer.bias.detach().numpy())) for layer in layers]


class JaxScan(Iteration):
    """The parts of an iteration, which keep parameters and optimizer states in JAX."""

    def __init__(self, dim: int, hidden: int, batch: int) -> None:
        super().__init__(dim, hidden, batch)
        widths = [dim, hidden, hidden, hidden, 3 * dim]
        policy = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
        adams = {"layers": optax.adam(RATE), "log_z": optax.adam(LOG_Z_RATE)}
        adam, energy_adam = optax.multi_transform(adams, ("layers", "log_z")), optax.adam(RATE)
        self.x, self.key = jnp.asarray(self.data.numpy()), jax.random.key(0)
        self.parameters, self.energy_layers = (arrays(policy), jnp.zeros(())), arrays(self.energy)
        self.state, self.energy_state = adam.init(self.parameters), energy_adam.init(self.energy_layers)

        def policy_update(policy: Any, state: Any, layers: Layers, data: Any, key: Any) -> Any:
            gradient = jax.grad(policy_loss)(policy, layers, data, key)
            changes, state = adam.update(gradient, state)
            return optax.apply_updates(policy, changes), state

        def energy_update(layers: Layers, state: Any, negative: Any, data: Any) -> Any:
            changes, state = energy_adam.update(jax.grad(energy_loss)(layers, negative, data), state)
            return optax.apply_updates(layers, changes), state

        self.policy_update, self.energy_update = jax.jit(policy_update), jax.jit(energy_update)
        self.proposed = jax.jit(proposal)

    def next_key(self) -> Any:
        self.key, key = jax.random.split(self.key)
        return key

    def policy_step(self) -> None:
        self.parameters, self.state = self.policy_update(
            self.parameters, self.state, self.energy_layers, self.x, self.next_key()
        )
        jax.block_until_ready(self.parameters)

    def proposal(self) -> Any:
        return jax.block_until_ready(self.proposed(self.parameters[0], self.energy_layers, self.x, self.next_key()))

    def energy_step(self, negative: Any) -> None:
        negative = jnp.asarray(negative.numpy()) if isinstance(negative, Tensor) else negative
        self.energy_layers, self.energy_state = self.energy_update(
            self.energy_layers, self.energy_state, negative, self.x
        )
        jax.block_until_ready(self.energy_layers)

    def policy_loss_at(self, policy: nn.Module, actions: Tensor) -> float:
        """The loss of a torch policy on trajectories with these actions, for a comparison."""
        state = arrays(policy), jnp.zeros(())
        loss = policy_loss(state, self.energy_layers, self.x, self.key, jnp.asarray(actions.numpy().astype(np.int32)))
        return float(loss)
