"""One EB-GFN iteration and its parts against the peers of ebgfn_peers.py and ebgfn_jax.py in one run: float32, D = 32,
hidden 256 x 3, batch 128, K = D; one iteration at D = 784, batch 100; and the peak memory of a training step there.

pytest bench/systems/bench_ebgfn.py --benchmark-json RUN.json
python bench/report/render.py RUN.json bench/results/ebgfn
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ebgfn_peers import Fused, Iteration, Stepwise, TorchGFN, large_step
from peak_memory import status
from timing import one_thread, time_calls

from svgdx import gflownets

__all__ = ["one_thread"]

DIM, HIDDEN, BATCH = 32, 256, 128
LARGE_DIM, LARGE_BATCH = 784, 100


def jax_scan(*sizes: int) -> Iteration:
    pytest.importorskip("optax", reason="the peer in JAX needs jax and optax")
    from ebgfn_jax import JaxScan

    return JaxScan(*sizes)


PEERS: dict[str, Callable[..., Iteration]] = {
    "svgdx": Fused,
    "svgdx bf16": lambda *sizes: Fused(*sizes, matmul_dtype=torch.bfloat16),
    "stepwise": Stepwise,
    "torchgfn": TorchGFN,
    "jax": jax_scan,
}


def create(name: str, *sizes: int) -> Iteration:
    if name == "torchgfn" and importlib.util.find_spec("gfn") is None:
        pytest.skip("torchgfn is not installed")
    if name == "svgdx bf16" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor has no bfloat16 matrix products")
    return PEERS[name](*sizes)


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Iteration:
    return create(request.param, DIM, HIDDEN, BATCH)


def time_part(benchmark: Any, call: Callable[[], object], flops: float, dim: int = DIM, batch: int = BATCH) -> None:
    benchmark.group = f"D = {dim}, hidden {HIDDEN} x 3, batch {batch}, K = D"
    benchmark.extra_info["sizes"] = "part"
    time_calls(benchmark, "cpu", call, flops)


def test_whole_iteration(benchmark: Any, peer: Iteration) -> None:
    time_part(benchmark, peer.whole, sum(products(DIM, BATCH).values()))


def test_policy_step(benchmark: Any, peer: Iteration) -> None:
    time_part(benchmark, peer.policy_step, products(DIM, BATCH)["policy step"])


def test_proposal(benchmark: Any, peer: Iteration) -> None:
    time_part(benchmark, peer.proposal, products(DIM, BATCH)["proposal"])


def test_energy_step(benchmark: Any, peer: Iteration) -> None:
    time_part(benchmark, lambda: peer.energy_step(peer.data), products(DIM, BATCH)["energy step"])


@pytest.mark.parametrize("peer", ["svgdx", "svgdx bf16"])  # the others record gigabytes
def test_large_iteration(benchmark: Any, peer: str) -> None:
    iteration = create(peer, LARGE_DIM, HIDDEN, LARGE_BATCH)
    time_part(benchmark, iteration.whole, sum(products(LARGE_DIM, LARGE_BATCH).values()), LARGE_DIM, LARGE_BATCH)


def products(dim: int, batch: int) -> dict[str, float]:
    """Floating-point operations of the matrix products that each part needs.

    A policy's first layer is updated by one column per step, so that only its weight's gradient is a product. On long
    trajectories the gradient forms the logits again and multiplies only those of valid actions, half of them.
    """
    states, below, head = batch * (dim + 1), 2 * HIDDEN**2, 3 * dim * HIDDEN
    forward = 2.0 * states * (below + head)
    of_logits = 1.5 if dim >= 128 else 2.0
    gradient = 2.0 * states * (2 * below + of_logits * head + dim * HIDDEN)
    of_energy = 2.0 * batch * (dim * HIDDEN + below)
    return {
        # Two kinds of trajectories; then the gradients of layers and inputs, and the reward.
        "policy step": 2 * forward + 2 * gradient + 2 * of_energy,
        "proposal": 2 * forward + 2 * of_energy,
        "energy step": 2 * (3 * of_energy - 2.0 * batch * dim * HIDDEN),
    }


def test_stepwise_peer_computes_the_same() -> None:
    """Loss and gradient agree on the same trajectories with the same parameters."""
    fused, stepwise = Fused(DIM, HIDDEN, BATCH), Stepwise(DIM, HIDDEN, BATCH)
    with torch.no_grad():
        for ours, theirs in zip(fused.policy.parameters(), stepwise.policy.parameters(), strict=True):
            theirs.copy_(ours)
    sizes = {"forward_from": fused.void, "backward_from": fused.data}
    actions = gflownets.rollout(fused.policy, DIM, fused.seed + 1, **sizes).actions
    stepwise.data = fused.data
    stepwise.energy.load_state_dict(fused.energy.state_dict())
    losses = fused.policy_loss(), stepwise.policy_loss(actions)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-3)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(fused.policy.parameters(), stepwise.policy.parameters(), strict=True):
        assert torch.linalg.vector_norm(ours.grad - theirs.grad) <= 1e-3 * torch.linalg.vector_norm(theirs.grad)


def test_torchgfn_peer_computes_the_same() -> None:
    """torchgfn's log P_F agrees with an MLPPolicy with its parameters; its P_B has actions for both bits."""
    pytest.importorskip("gfn")
    peer, ours = TorchGFN(DIM, HIDDEN, BATCH), gflownets.MLPPolicy(DIM, HIDDEN, 3)
    paths = peer.from_data()
    pf = peer.pf.module
    theirs = [layer for layer in pf.trunk if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for mine, layer in zip(ours.layers, theirs, strict=True):
            mine.load_state_dict(layer.state_dict())
        for mine, head in ((ours.head.weight, pf.last_layer.weight), (ours.head.bias, pf.last_layer.bias)):
            mine[: 2 * DIM : 2], mine[1 : 2 * DIM : 2] = head[:DIM], head[DIM : 2 * DIM]
        log_pf = peer.gflownet.get_pfs_and_pbs(paths)[0].sum(0)
    taken = paths.actions.tensor[:DIM, :, 0].T
    actions = 2 * (taken % DIM) + taken // DIM
    same = gflownets.Trajectories(gflownets.void_states(BATCH, DIM), actions, peer.data)
    torch.testing.assert_close(gflownets.trajectory_log_prob(ours, same)[0], log_pf, rtol=1e-4, atol=1e-3)


def test_jax_peer_computes_the_same() -> None:
    """Its loss agrees on the same trajectories with the same parameters."""
    fused, peer = Fused(DIM, HIDDEN, BATCH), jax_scan(DIM, HIDDEN, BATCH)
    sizes = {"forward_from": fused.void, "backward_from": fused.data}
    actions = gflownets.rollout(fused.policy, DIM, fused.seed + 1, **sizes).actions
    assert peer.policy_loss_at(fused.policy, actions) == pytest.approx(float(fused.policy_loss()), rel=1e-4)


def test_peak_memory_of_a_large_step() -> None:
    """Memory beyond the imports, with networks and optimizer states, is at most 600 MiB at D = 784, batch 100."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    peak, seconds = map(float, output.split()[-2:])
    print(f"peak {peak / 2**20:.0f} MiB, {seconds:.1f} s")
    assert peak <= 600 * 2**20


if __name__ == "__main__":
    torch.set_num_threads(2)
    # Excludes thread stacks and code.
    Fused(16, 256, 4).policy_step()
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    begun = time.perf_counter()
    large_step()
    print(status("VmHWM") - before, time.perf_counter() - begun)
