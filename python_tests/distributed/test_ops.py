"""Sharded ops against the single-process reference: values, gradients, any shards, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.pool import Failure, Pool
from torch import Tensor

from svgdx import distributed, reference

# Ranks and the particles of each: even, uneven, empty ones at every place, all on one.
SHARDS = [(7,), (4, 4), (9, 2), (0, 6), (5, 3, 4), (6, 0, 5), (3, 3, 3, 3), (8, 1, 0, 4), (0, 0, 1, 9)]
SHARDED = ("x", "score", "log_q", "hessian_trace", "probe", "hvp", "hessian")
OPS: dict[str, dict[str, Any]] = {
    "svgd_phi": {},
    "svgd_phi_trace": {},
    "svgd_step": {"step_size": 0.3, "log_q": 1, "hessian_trace": 1},
    "svgd_jacobian_sqnorm": {"probe": 2, "hvp": 2},
    "svgd_logdet": {"step_size": 0.3, "hessian": 3},
    "ksd": {},
}


def inputs(op: str, count: int, lead: tuple[int, ...] = (), dim: int = 3, offset: float = 0.0) -> dict[str, Any]:
    """Float64 arguments of an op; a bandwidth and a step size for each batch row."""
    generator = torch.Generator().manual_seed(count + dim)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)

    found: dict[str, Any] = {"x": draw(count, dim) + offset, "score": draw(count, dim)}
    found["bandwidth"] = 0.8 + torch.rand(lead, generator=generator, dtype=torch.float64)
    for name, kind in OPS[op].items():
        found[name] = draw(count, *(dim,) * (kind - 1)) if isinstance(kind, int) else torch.full(lead, kind).double()
    return found


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def differentiated(function: Any, arguments: dict[str, Any], upstream: list[Tensor] | None) -> tuple[Any, Any]:
    """Results, and the gradient of each argument where upstream gradients are given."""
    leaves = {name: value.requires_grad_(upstream is not None) for name, value in arguments.items()}
    found = as_tuple(function(**leaves))
    if upstream is None:
        return [each.detach() for each in found], {}
    torch.autograd.backward(found, upstream)
    grads = {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in leaves.items()}
    return [each.detach() for each in found], grads


def on_rank(group: dist.ProcessGroup, op: str, statistic: str | None, given: tuple[Any, Any]) -> tuple[Any, Any]:
    arguments, upstream = given
    plain = {} if statistic is None else {"statistic": statistic}
    return differentiated(lambda **each: getattr(distributed, op)(**each, **plain, group=group), arguments, upstream)


def split(value: Tensor, counts: tuple[int, ...], lead: int) -> list[Tensor]:
    return [each.clone() for each in value.split(counts, lead)]


def shards_of(arguments: dict[str, Any], counts: tuple[int, ...], lead: int) -> list[dict[str, Any]]:
    parts = {
        name: split(value, counts, lead) if name in SHARDED else [value.clone() for _ in counts]
        for name, value in arguments.items()
    }
    return [{name: values[rank] for name, values in parts.items()} for rank in range(len(counts))]


def check(pool: Pool, op: str, counts: tuple[int, ...], lead: tuple[int, ...], statistic: str | None, dim: int) -> None:
    arguments = inputs(op, sum(counts), lead, dim)
    plain = {} if statistic is None else {"statistic": statistic}
    oracle = getattr(reference, op)
    shapes = [each.shape for each in as_tuple(oracle(**arguments, **plain))]
    upstream = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    expected, grads = differentiated(lambda **each: oracle(**each, **plain), arguments, upstream)
    axis = len(lead)
    together = op == "ksd"
    parts = [[each] * len(counts) if together else split(each, counts, axis) for each in upstream]
    each_upstream = [[part[rank] for part in parts] for rank in range(len(counts))]
    clean = {name: value.detach() for name, value in arguments.items()}
    given = list(zip(shards_of(clean, counts, axis), each_upstream, strict=True))
    found = pool.call(len(counts), on_rank, op, statistic, each=given)
    for index, want in enumerate(expected):
        of_ranks = [results[index] for results, _ in found]
        for got in of_ranks if together else [torch.cat(of_ranks, axis)]:
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    for name, want in grads.items():
        of_ranks = [of_rank[name] for _, of_rank in found]
        got = torch.cat(of_ranks, axis) if name in SHARDED else torch.stack(of_ranks).sum(0)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("counts", SHARDS, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_values_and_gradients_equal_the_reference(pool: Pool, op: str, counts: tuple[int, ...]) -> None:
    for statistic in ("u", "v") if op == "ksd" else (None,):
        check(pool, op, counts, (), statistic, 3)
        check(pool, op, counts, (2,), statistic, 2)


@pytest.mark.parametrize("counts", [(3, 2), (2, 0, 3)], ids=str)
def test_jacobians_of_many_dimensions_take_several_rounds(pool: Pool, counts: tuple[int, ...]) -> None:
    check(pool, "svgd_jacobian_sqnorm", counts, (), None, 40)


def largest(group: dist.ProcessGroup, sqnorm: Tensor) -> tuple[Tensor, Tensor]:
    shards = distributed.Shards.of(sqnorm.unsqueeze(-1), group)
    return distributed.step_bound(sqnorm, group), shards.mean(sqnorm)


def test_the_bound_is_that_of_all_ranks_and_keeps_a_nan_of_its_problem(pool: Pool) -> None:
    sqnorm = torch.rand(2, 9, dtype=torch.float64)
    for bound, mean in pool.call(3, largest, each=split(sqnorm, (5, 0, 4), 1)):
        torch.testing.assert_close(bound, sqnorm.amax(-1).rsqrt())
        torch.testing.assert_close(mean, sqnorm.mean(-1))
    sqnorm[1, 7] = torch.nan
    for bound, _ in pool.call(3, largest, each=split(sqnorm, (5, 0, 4), 1)):
        assert bound[0] == sqnorm[0].amax().rsqrt()
        assert bound[1].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_dtypes_follow_the_single_process_op(pool: Pool, dtype: torch.dtype) -> None:
    arguments = {name: value.to(dtype) for name, value in inputs("svgd_phi_trace", 60, (), 5).items()}
    arguments["bandwidth"] = arguments["bandwidth"].float()
    expected = reference.svgd_phi_trace(**{name: value.double() for name, value in arguments.items()})
    counts = (25, 14, 21)
    given = [(each, None) for each in shards_of(arguments, counts, 0)]
    found = pool.call(3, on_rank, "svgd_phi_trace", None, each=given)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for index, want in enumerate(expected):
        got = torch.cat([results[index] for results, _ in found])
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def no_gradient(group: dist.ProcessGroup, x: Tensor, wants: bool) -> None:
    distributed.svgd_phi(x.requires_grad_(wants), -x.detach(), 1.0, group)


BAD = {
    "shape": (torch.zeros(2, 4), "rank 1 has x (M, 4) float64"),
    "dtype": (torch.zeros(2, 3, dtype=torch.float32), "rank 1 has x (M, 3) float32"),
    "lead": (torch.zeros(1, 2, 3), "rank 1 has"),
    "integers": (torch.zeros(2, 3, dtype=torch.int64), "rank 1 refused its input: svgdx::svgd_phi: x must be float32"),
}


def phi(group: dist.ProcessGroup, x: Tensor, bandwidth: float = 1.0) -> Tensor:
    return distributed.svgd_phi(x, -x, bandwidth, group)


def median(group: dist.ProcessGroup, x: Tensor) -> Tensor:
    return distributed.median_distance(x, group)


@pytest.mark.parametrize("kind", BAD)
def test_what_differs_between_ranks_is_refused_on_every_rank(pool: Pool, kind: str) -> None:
    good = torch.zeros(2, 3, dtype=torch.float64)
    bad, message = BAD[kind]
    bad = bad if kind in ("dtype", "integers") else bad.double()
    for rank, outcome in enumerate(pool.outcomes(3, phi, each=[good, bad, good])):
        assert isinstance(outcome, Failure)
        # The rank itself is told what the op says.
        assert (message if rank != 1 or kind != "integers" else "x must be float32") in outcome.text


def test_a_bandwidth_refused_on_one_rank_or_differing_is_refused_on_all(pool: Pool) -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    for value, text in ((-1.0, "bandwidth must be positive"), (2.0, "rank 1 has bandwidth 2.0, but rank 0 has 1.0")):
        outcomes = pool.outcomes(2, phi, x, each=[1.0, value])
        assert all(isinstance(each, Failure) and text in each.text for each in outcomes)


def test_gradients_wanted_on_some_ranks_only_are_refused(pool: Pool) -> None:
    outcomes = pool.outcomes(2, no_gradient, torch.zeros(2, 3), each=[True, False])
    assert all(isinstance(each, Failure) and "rank 1 has x" in each.text for each in outcomes)
    pool.call(2, no_gradient, torch.zeros(2, 3), True)
