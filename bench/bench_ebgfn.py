"""One EB-GFN iteration and its parts against the peers of ebgfn_peers.py in one run: 2 threads, float32, D = 32, hidden
256 x 3, batch 128, K = D; and the peak memory of a training step at D = 784.

pytest bench/bench_ebgfn.py --benchmark-json bench/results/ebgfn.json
python bench/render.py bench/results/ebgfn.json bench/results/ebgfn
"""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from ebgfn_peers import Fused, Iteration, Stepwise, TorchGFN, large_step
from peak_memory import status

from svgdx import gflownets

DIM, HIDDEN, BATCH = 32, 256, 128
SECONDS = 4.0  # of repeated calls per entry
PEERS = {
    "svgdx": Fused,
    "svgdx bf16": lambda *sizes: Fused(*sizes, matmul_dtype=torch.bfloat16),
    "stepwise": Stepwise,
    "torchgfn": TorchGFN,
}


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Iteration:
    if request.param == "torchgfn" and importlib.util.find_spec("gfn") is None:
        pytest.skip("torchgfn is not installed")
    if request.param == "svgdx bf16" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor has no bfloat16 matrix products")
    return PEERS[request.param](DIM, HIDDEN, BATCH)


def time_calls(benchmark: Any, call: Any) -> None:
    call()
    start = time.perf_counter()
    call()
    rounds = int(min(100, max(5, SECONDS / (time.perf_counter() - start))))
    benchmark.group = f"D = {DIM}, hidden {HIDDEN} x 3, batch {BATCH}, K = D"
    benchmark.extra_info["sizes"] = "part"
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=2)


def test_whole_iteration(benchmark: Any, peer: Iteration) -> None:
    time_calls(benchmark, peer.whole)


def test_policy_step(benchmark: Any, peer: Iteration) -> None:
    time_calls(benchmark, peer.policy_step)


def test_proposal(benchmark: Any, peer: Iteration) -> None:
    time_calls(benchmark, peer.proposal)


def test_energy_step(benchmark: Any, peer: Iteration) -> None:
    time_calls(benchmark, lambda: peer.energy_step(peer.data))


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


def test_peak_memory_of_a_large_step() -> None:
    """Memory beyond the imports, with networks and optimizer states, is at most 1 GiB at D = 784, 100 rows per kind."""
    output = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True).stdout
    peak, seconds = map(float, output.split()[-2:])
    print(f"peak {peak / 2**20:.0f} MiB, {seconds:.1f} s")
    assert peak <= 2**30


if __name__ == "__main__":
    torch.set_num_threads(2)
    # Excludes thread stacks and code.
    Fused(16, 256, 4).policy_step()
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    begun = time.perf_counter()
    large_step()
    print(status("VmHWM") - before, time.perf_counter() - begun)
