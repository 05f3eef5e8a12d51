"""The compiled sweeps through twin critics: against torch's own sweeps, PyTorch's checks, threads, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from simt import backend
from torch import Tensor

pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx import _library
from svgdx.activations import FROM_VALUE
from svgdx.rl import targets
from svgdx.rl.critics import Critics
from svgdx.rl.sweeps import CompiledSweeps, Network, PlainSweeps, Sweeps, tanh_target

if _library.disabled():
    pytest.skip("SVGDX_DISABLE: the compiled sweeps are off", allow_module_level=True)

# B, M, S, D, hidden: blocks of 16, 32, 64 and 128 rows and a remainder; partial vectors; more actions than units.
SIZES: list[tuple[int, int, int, int, tuple[int, ...]]] = [
    (1, 1, 1, 1, (1,)),
    (3, 5, 2, 3, (7,)),
    (4, 20, 3, 2, (9, 5)),
    (7, 19, 4, 6, (16, 33, 8)),
    (9, 61, 2, 12, (10, 10)),
]
Inputs = dict[str, Any]


def problem(
    size: tuple[int, int, int, int, tuple[int, ...]], activation: str = "elu", dtype: torch.dtype = torch.float64
) -> tuple[list[Network], Tensor, Tensor]:
    """Two critics at B states, actions and directions (B, M, D)."""
    b, m, s, d, hidden = size
    torch.manual_seed(b + m)
    critic = Critics(s, d, hidden, activation).to(dtype)
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    networks = critic.minimum_at(torch.randn(b, s, dtype=dtype)).networks
    return networks, torch.randn(b, m, d, dtype=dtype), torch.randn(b, m, d, dtype=dtype)


def everything(sweeps: Sweeps, action: Tensor, direction: Tensor) -> list[Tensor]:
    """All results of the sweeps at every depth and order."""
    results = []
    for depth in range(3):
        value, score, tape = sweeps.minimum(action, depth)
        results += [value] if score is None else [value, score]
    return [*results, *sweeps.along(tape, direction, 1), *sweeps.along(tape, direction, 2)]  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", FROM_VALUE)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_compiled_and_plain_sweeps_agree(size: Any, activation: str, dtype: torch.dtype) -> None:
    networks, action, direction = problem(size, activation, dtype)
    expected = everything(PlainSweeps(networks), action, direction)
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(everything(CompiledSweeps(networks), action, direction), expected, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", FROM_VALUE)
def test_the_sweeps_on_cuda(activation: str, dtype: torch.dtype) -> None:
    """The CUDA library on the SIMT harness, with parameters that are aligned and not."""
    for size, padding in [(SIZES[0], 0), (SIZES[2], 1), (SIZES[3], 3), ((2, 3, 2, 2, (256, 260)), 3)]:
        networks, action, direction = problem(size, activation, dtype)
        sweeps = CompiledSweeps(networks)
        expected = everything(PlainSweeps(networks), action, direction)
        sweeps.parameters = torch.cat([sweeps.parameters, sweeps.parameters.new_full((2, padding), torch.nan)], 1)
        with backend.running(seed=padding, preempt=0.02 * (padding == 1)) as calls:
            actual = everything(sweeps, action, direction)
        tolerance = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-3}
        torch.testing.assert_close(actual, expected, **tolerance)
        # Kernels beside torch's products: a layer up each, one down less, and the choice of the smaller network.
        layers = len(size[-1])
        assert [call.launches for call in calls] == [layers + 1, 2 * layers, 2 * layers, 2 * layers, 2 * layers]


def test_on_cuda_a_nan_stays_with_its_particle_and_is_the_minimum() -> None:
    networks, action, direction = problem(SIZES[2])
    sweeps = CompiledSweeps(networks)
    with backend.running():
        clean = everything(sweeps, action, direction)
        action[1, 3, 0] = torch.nan
        others = torch.ones(action.shape[:2], dtype=torch.bool)
        others[1, 3] = False
        for actual, expected in zip(everything(sweeps, action, direction), clean, strict=True):
            assert bool(actual[1, 3].isnan().any())
            assert torch.equal(actual[others], expected[others])
        nan_network = networks[0]._replace(weights=[torch.full_like(w, torch.nan) for w in networks[0].weights])
        for pair in ([nan_network, networks[1]], [networks[1], nan_network]):
            value, score, _ = CompiledSweeps(pair).minimum(direction, 1)
            assert score is not None
            assert bool(value.isnan().all())
            assert bool(score.isnan().all())


def target_gradients(results: Any, upstream: dict[str, Tensor], u: Tensor) -> list[Tensor]:
    """Of all outputs, of all but the log density, as in most losses, and of the log density alone."""
    names = list(upstream)
    return [
        torch.autograd.grad([getattr(results, n) for n in used], u, [upstream[n] for n in used], retain_graph=True)[0]
        for used in (names, names[1:], names[:1])
    ]


@pytest.mark.parametrize("probed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_target_on_cuda(dtype: torch.dtype, probed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One op of the CUDA library computes what svgdx.rl.targets does, and its gradient."""
    for b, m, s, d, hidden in [(3, 5, 2, 3, (7,)), (4, 6, 3, 2, (9, 5)), (2, 3, 2, 40, (8, 12))]:
        torch.manual_seed(m)
        critic = Critics(s, d, hidden, "softplus").to(dtype)
        minimum, alpha = critic.minimum_at(torch.randn(b, s, dtype=dtype)), torch.tensor(0.37, dtype=dtype)
        u = torch.randn(b, m, d, dtype=dtype, requires_grad=True)
        probe = torch.randn(b, m, d, dtype=dtype).sign() if probed else None
        monkeypatch.setattr(targets, "rademacher", lambda x, generator, probe=probe: probe)
        for graph in (False, True):
            target = targets.MaxEntropyTarget(minimum, alpha)
            expected = target.from_critic(u, "hutchinson" if probed else "none", graph, None)
            assert isinstance(minimum.sweeps, CompiledSweeps)
            names = ["log_prob", "score", *(["trace"] if probed else [])]
            upstream = {name: torch.randn_like(getattr(expected, name)) for name in names}
            expected_grads = target_gradients(expected, upstream, u) if graph else []
            with backend.running(seed=m) as calls:
                actual = tanh_target(minimum.sweeps, u, probe, alpha, graph)
                # Beside torch's products: a kernel for each layer up, one less down, one before and one after.
                assert [call.launches for call in calls] == [2 * len(hidden) + 1]
                actual_grads = target_gradients(actual, upstream, u) if graph else []
            tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
            for name in [*names, *(["hvp"] if probed else [])]:
                torch.testing.assert_close(
                    getattr(actual, name).detach(), getattr(expected, name).detach(), **tolerance
                )
            torch.testing.assert_close(actual_grads, expected_grads, **tolerance)


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_for_any_number_of_threads(threads: int) -> None:
    networks, action, direction = problem(SIZES[-1], dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = everything(CompiledSweeps(networks), action, direction)
        torch.set_num_threads(threads)
        actual = everything(CompiledSweeps(networks), action, direction)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("size", [(0, 3, 2, 2, (4,)), (3, 0, 2, 2, (4, 4))], ids=str)
def test_no_particles(size: Any) -> None:
    networks, action, direction = problem(size)
    for sweeps in (CompiledSweeps(networks), PlainSweeps(networks)):
        assert all(result.numel() == 0 for result in everything(sweeps, action, direction))


def test_a_nan_stays_with_its_particle_and_is_the_minimum() -> None:
    networks, action, direction = problem(SIZES[2])
    clean = everything(CompiledSweeps(networks), action, direction)
    action[1, 3, 0] = torch.nan
    others = torch.ones(action.shape[:2], dtype=torch.bool)
    others[1, 3] = False
    for actual, expected in zip(everything(CompiledSweeps(networks), action, direction), clean, strict=True):
        assert bool(actual[1, 3].isnan().any())
        # The rows of its block are ordered differently, which moves the last bits of a product.
        torch.testing.assert_close(actual[others], expected[others])
    nan_weights = [torch.full_like(weight, torch.nan) for weight in networks[0].weights]
    nan_network = networks[0]._replace(weights=nan_weights)
    for sweeps in (CompiledSweeps, PlainSweeps):
        assert bool(sweeps([nan_network, networks[1]]).minimum(direction, 0)[0].isnan().all())


def inputs_of(name: str) -> Inputs:
    """Valid arguments of an op, by name."""
    networks, action, direction = problem((3, 5, 2, 3, (8, 6)), dtype=torch.float32)
    sweeps = CompiledSweeps(networks)
    shared = {"parameters": sweeps.parameters, "widths": sweeps.widths, "activation": sweeps.activation}
    if name == "mlp_minimum":
        return {"x": action.flatten(0, 1), "shift": sweeps.shift, **shared, "depth": 2}
    tape = zip(("order", "values", "back"), sweeps.minimum(action, 2)[2], strict=True)
    return {"direction": direction.flatten(0, 1), **dict(tape), **shared, "streams": 2}


@pytest.mark.parametrize("fewest", [False, True])
@pytest.mark.parametrize("name", ["mlp_minimum", "mlp_along"])
def test_opcheck(name: str, fewest: bool) -> None:
    inputs = inputs_of(name)
    if fewest:
        inputs |= {"depth": 0} if name == "mlp_minimum" else {"streams": 1}
    op = getattr(torch.ops.svgdx_inner, name).default
    torch.library.opcheck(op, tuple(inputs.values()), test_utils=("test_schema", "test_faketensor"))


BAD: dict[str, dict[str, Any]] = {
    "mlp_minimum": {
        "x": lambda t: t[:, :2],
        "shift": lambda t: t[:, :, :4].contiguous(),
        "parameters": lambda t: t[:, 1:].contiguous(),
        "widths": lambda t: t.int(),
        "activation": lambda _: 1,
        "depth": lambda _: 3,
    },
    "mlp_along": {
        "direction": lambda t: t.t(),
        "order": lambda t: t + 100,
        "values": lambda t: t.double(),
        "back": lambda t: t[:, 1:].contiguous(),
        "parameters": lambda t: t[:1],
        "widths": lambda t: t[:2],
        "activation": lambda _: 6,
        "streams": lambda _: 0,
    },
}


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name, bad in BAD.items() for argument in bad])
def test_bad_input_is_named(name: str, argument: str) -> None:
    inputs = inputs_of(name)
    inputs[argument] = BAD[name][argument](inputs[argument])
    with pytest.raises(RuntimeError, match=rf"svgdx::{name}: .*{argument}"):
        getattr(torch.ops.svgdx_inner, name)(*inputs.values())
