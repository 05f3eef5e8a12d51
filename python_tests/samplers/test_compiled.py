"""The steps of a chain that are one op each, on the CPU and on the SIMT harness, against torch's own operations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from simt import backend
from torch import Tensor
from torch.autograd import forward_ad

from svgdx import _library
from svgdx.samplers import RBF
from svgdx.samplers.control import compiled as moves
from svgdx.samplers.control.metropolis_hastings import MetropolisHastings, Move, accept_by_torch
from svgdx.samplers.kernels import direction_by_torch, trace_by_torch
from svgdx.samplers.parameters import bounded, compiled, step_bound
from svgdx.samplers.parameters.step_sizes import held
from svgdx.samplers.targets import as_target

if _library.disabled():
    pytest.skip("SVGDX_DISABLE: the compiled steps are off", allow_module_level=True)

INNER = torch.ops.svgdx_inner
BACKENDS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "cpu": contextlib.nullcontext,
    "simt": lambda: backend.running(seed=1, preempt=0.02),
}
DTYPES = [torch.float32, torch.float64]


def results(function: Callable[..., Any], inputs: list[Tensor], running: AbstractContextManager[Any]) -> list[Tensor]:
    """All outputs, and the gradients of the floating ones that have any."""
    leaves = [value.clone().requires_grad_(value.is_floating_point()) for value in inputs]
    with running:
        outputs = function(*leaves)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        torch.manual_seed(1)
        attached = [output for output in outputs if output.requires_grad]
        upstream = [torch.randn_like(output) for output in attached]
        grads = torch.autograd.grad(attached, [x for x in leaves if x.requires_grad], upstream, allow_unused=True)
    return [*(output.detach() for output in outputs), *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_step_sizes_are_held_under_their_limit(name: str, dtype: torch.dtype) -> None:
    for lead, particles in (((), 1), ((3,), 5), ((2, 2), 40), ((300,), 70)):
        torch.manual_seed(particles)
        sqnorm = torch.rand(*lead, particles, dtype=dtype) * 4 - 1
        sqnorm.view(-1, particles)[-1, particles // 2] = torch.nan if particles == 5 else 2.0
        for eps in (torch.tensor(0.6, dtype=dtype), 0.4 + torch.rand(lead, dtype=dtype)):
            for bound, slope in (("clamp", 0.0), ("leaky", 0.01)):

                def by_torch(eps: Tensor, bound: str = bound, sqnorm: Tensor = sqnorm) -> tuple[Tensor, Tensor]:
                    limit = step_bound(sqnorm)
                    return limit, bounded(eps, limit, bound)

                def by_op(eps: Tensor, slope: float = slope, sqnorm: Tensor = sqnorm) -> tuple[Tensor, Tensor]:
                    return compiled.held(eps, sqnorm, slope)

                actual = results(by_op, [eps], BACKENDS[name]())
                torch.testing.assert_close(actual, results(by_torch, [eps], contextlib.nullcontext()), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_learnt_values(name: str, dtype: torch.dtype) -> None:
    raw = torch.linspace(-9, 9, 200, dtype=dtype).view(4, 50)
    expected = results(lambda raw: (-2 + 5 * raw.sigmoid()).exp(), [raw], contextlib.nullcontext())
    actual = results(lambda raw: compiled.learnt(raw, -2.0, 3.0), [raw], BACKENDS[name]())
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_steps_are_differentiable() -> None:
    raw = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda raw: compiled.learnt(raw, -2.0, 3.0), raw)
    sqnorm = torch.tensor([[1.0, 4.0], [0.1, 0.2]], dtype=torch.float64)
    eps = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda eps: compiled.held(eps, sqnorm, 0.01)[1].square(), eps)


def proposals(dtype: torch.dtype, dim: int) -> list[Tensor]:
    """For 60 particles: alphas of 0, between, and 1; impossible proposals; ratios that are NaN or infinite."""
    torch.manual_seed(dim)
    rows = (3, 20)
    points = [torch.randn(*rows, dim, dtype=dtype) for _ in range(3)]
    numbers = [torch.randn(rows, dtype=dtype) for _ in range(5)]
    numbers[1][0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    numbers[2][0, 3:6] = torch.tensor([-torch.inf, torch.nan, 50.0])
    numbers[1][1, :5] = -50
    flags = [torch.rand(rows) < 0.8 for _ in range(2)]
    return [*points, *numbers, *flags, *(torch.rand(rows, dtype=dtype) for _ in range(2))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_decisions_of_metropolis_hastings(name: str, dtype: torch.dtype) -> None:
    for dim in (1, 3, 40):
        inputs = proposals(dtype, dim)
        expected = results(lambda *p: accept_by_torch(moves.Proposals(*p)), inputs, contextlib.nullcontext())
        actual = results(lambda *p: moves.accept(moves.Proposals(*p)), inputs, BACKENDS[name]())
        assert len(actual) == 3 + 8
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_particle_that_alone_is_moved(name: str, dtype: torch.dtype) -> None:
    for lead, particles, dim in (((), 1, 1), ((2,), 6, 3), ((2, 1), 5, 20)):
        torch.manual_seed(particles)
        query, x, score, query_score = (torch.randn(*lead, particles, dim, dtype=dtype) for _ in range(4))
        for sigma in (torch.tensor(1.3, dtype=dtype), 1 + torch.rand(lead, dtype=dtype)):
            inputs = (query, x, score, sigma)
            expected = direction_by_torch(*inputs, query_score), trace_by_torch(*inputs)
            with BACKENDS[name]():
                actual = INNER.chain_moved(*inputs, query_score)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_tangent_is_not_dropped() -> None:
    """Inner ops have no forward mode, so that torch's operations and the public ops take their place."""
    x = torch.randn(4, 2)
    with forward_ad.dual_level():
        dual, sigma = forward_ad.make_dual(x, x), torch.tensor(1.2)
        for call in (
            lambda: RBF(1.2).direction_at(dual, x, -x, sigma, x),
            lambda: RBF(1.2).trace_at(dual, x, -x, sigma),
        ):
            with pytest.raises(RuntimeError, match="svgdx::svgd_field: forward-mode"):
                call()
        eps = forward_ad.make_dual(torch.tensor([0.1, 2.0]), torch.ones(2))
        _, steps = held(eps, torch.ones(2, 3), "clamp")
        tangent = forward_ad.unpack_dual(steps).tangent
        assert tangent is not None
        assert tangent.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("iterations", [1, 3, 200])
@pytest.mark.parametrize("name", BACKENDS)
def test_the_inverse_map(name: str, iterations: int) -> None:
    """With fewer iterations than it takes, and with more."""
    torch.manual_seed(0)
    target = as_target(torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1))
    x = torch.randn(2, 5, 3)
    move = Move(x, target.derivatives(x), torch.tensor(1.2), torch.tensor([0.3, 0.7]), x, None)
    rule, limit = MetropolisHastings(1e-5, iterations), torch.tensor([1e-5, 2e-5])
    expected = rule._iterated_by_torch(move, RBF(1.2), target, limit)
    with BACKENDS[name]():
        actual = rule._iterated(move, RBF(1.2), target, limit)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert bool(actual[1].all()) == (iterations == 200)


def arguments_of(name: str) -> list[Any]:
    x, number = torch.randn(2, 4, 3), torch.tensor(0.7)
    if name == "chain_bound":
        return [torch.rand(2, 4), number, 0.01]
    if name == "chain_bound_backward":
        return [torch.rand(2), torch.rand(2), number, 0.01]
    if name == "chain_learnt":
        return [torch.randn(4), -1.0, 2.0]
    if name == "chain_learnt_backward":
        return [torch.randn(4), torch.randn(4), -1.0, 2.0]
    if name == "chain_moved":
        return [x, x + 1, x - 1, number, x]
    if name == "chain_inverse":
        return [x, x, x + 1, x - 1, number, number, number, None, torch.zeros(2, dtype=torch.int32), 0]
    inputs = proposals(torch.float32, 3)
    return inputs if name == "chain_accept" else [inputs[0], inputs[3], *inputs]


OPS = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if "inner::chain_" in name}


@pytest.mark.parametrize("name", sorted(OPS))
def test_opcheck(name: str) -> None:
    op = getattr(INNER, name).default
    torch.library.opcheck(op, tuple(arguments_of(name)), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("name", "position", "argument"),
    [
        ("chain_bound", 0, "sqnorm"), ("chain_bound", 1, "step_size"), ("chain_bound_backward", 0, "grad"),
        ("chain_learnt", 0, "raw"), ("chain_learnt_backward", 0, "grad"), ("chain_moved", 0, "query"),
        ("chain_moved", 3, "bandwidth"), ("chain_inverse", 1, "query_score"), ("chain_inverse", 6, "limit"),
        ("chain_inverse", 8, "open"), ("chain_accept", 1, "ahead"), ("chain_accept", 8, "can_ahead"),
        ("chain_accept_backward", 0, "grad_next"),
    ],
)  # fmt: skip
def test_bad_input_is_named(name: str, position: int, argument: str) -> None:
    arguments = arguments_of(name)
    wrong = torch.zeros(7, 7, dtype=torch.int64)
    arguments[position] = wrong
    with pytest.raises(RuntimeError, match=rf"svgdx::{name}: .*{argument}"):
        getattr(INNER, name)(*arguments)
