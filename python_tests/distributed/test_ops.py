"""Sharded ops against the single-process reference: values, gradients, all kinds of shards, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.pool import Failure, Pool
from pretended.gpu import pretended_cuda
from torch import Tensor

from svgdx import distributed, reference

# Particles of each rank: even, uneven, empty in every position, all on one rank.
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
    """Float64 arguments of an op, with a bandwidth and a step size per batch row."""
    generator = torch.Generator().manual_seed(count + dim)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)

    arguments: dict[str, Any] = {"x": draw(count, dim) + offset, "score": draw(count, dim)}
    arguments["bandwidth"] = 0.8 + torch.rand(lead, generator=generator, dtype=torch.float64)
    for name, kind in OPS[op].items():
        per_particle = isinstance(kind, int)
        arguments[name] = draw(count, *(dim,) * (kind - 1)) if per_particle else torch.full(lead, kind).double()
    return arguments


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def differentiated(function: Any, arguments: dict[str, Any], upstream: list[Tensor] | None) -> tuple[Any, Any]:
    """The results and, from upstream gradients, the gradient of each argument."""
    leaves = {name: value.requires_grad_(upstream is not None) for name, value in arguments.items()}
    results = as_tuple(function(**leaves))
    if upstream is None:
        return [result.detach() for result in results], {}
    torch.autograd.backward(results, upstream)
    grads = {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in leaves.items()}
    return [result.detach() for result in results], grads


def on_rank(group: dist.ProcessGroup, op: str, statistic: str | None, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
    arguments, upstream = inputs
    settings = {} if statistic is None else {"statistic": statistic}
    return differentiated(
        lambda **tensors: getattr(distributed, op)(**tensors, **settings, group=group), arguments, upstream
    )


def split(value: Tensor, counts: tuple[int, ...], lead: int) -> list[Tensor]:
    """The shard of each rank."""
    return [shard.clone() for shard in value.split(counts, lead)]


def shards_of(arguments: dict[str, Any], counts: tuple[int, ...], lead: int) -> list[dict[str, Any]]:
    """The arguments of each rank."""
    by_name = {
        name: split(value, counts, lead) if name in SHARDED else [value.clone() for _ in counts]
        for name, value in arguments.items()
    }
    return [{name: values[rank] for name, values in by_name.items()} for rank in range(len(counts))]


def check(pool: Pool, op: str, counts: tuple[int, ...], lead: tuple[int, ...], statistic: str | None, dim: int) -> None:
    arguments = inputs(op, sum(counts), lead, dim)
    settings = {} if statistic is None else {"statistic": statistic}
    oracle = getattr(reference, op)
    shapes = [result.shape for result in as_tuple(oracle(**arguments, **settings))]
    upstream = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    expected, expected_grads = differentiated(lambda **tensors: oracle(**tensors, **settings), arguments, upstream)
    axis = len(lead)
    shared = op == "ksd"
    by_result = [[grad] * len(counts) if shared else split(grad, counts, axis) for grad in upstream]
    upstreams = [[grads[rank] for grads in by_result] for rank in range(len(counts))]
    detached = {name: value.detach() for name, value in arguments.items()}
    per_rank = list(zip(shards_of(detached, counts, axis), upstreams, strict=True))
    outcomes = pool.call(len(counts), on_rank, op, statistic, per_rank=per_rank)
    for index, value in enumerate(expected):
        of_ranks = [results[index] for results, _ in outcomes]
        for result in of_ranks if shared else [torch.cat(of_ranks, axis)]:
            torch.testing.assert_close(result, value, rtol=1e-10, atol=1e-12)
    for name, value in expected_grads.items():
        of_ranks = [grads[name] for _, grads in outcomes]
        grad = torch.cat(of_ranks, axis) if name in SHARDED else torch.stack(of_ranks).sum(0)
        torch.testing.assert_close(grad, value, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("counts", SHARDS, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_values_and_gradients_equal_the_reference(pool: Pool, op: str, counts: tuple[int, ...]) -> None:
    # Each op and each division meets a single problem and a batch, though not each pair of them both.
    lead, dim = (((), 3), ((2,), 2))[(list(OPS).index(op) + SHARDS.index(counts)) % 2]
    for statistic in ("u", "v") if op == "ksd" else (None,):
        check(pool, op, counts, lead, statistic, dim)


@pytest.mark.parametrize("counts", [(3, 2), (2, 0, 3)], ids=str)
def test_jacobians_of_many_dimensions_take_several_rounds(pool: Pool, counts: tuple[int, ...]) -> None:
    check(pool, "svgd_jacobian_sqnorm", counts, (), None, 40)


def bound_and_mean(group: dist.ProcessGroup, sqnorm: Tensor) -> tuple[Tensor, Tensor]:
    shards = distributed.Shards.of(sqnorm.unsqueeze(-1), group)
    return distributed.step_bound(sqnorm, group), shards.mean(sqnorm)


def test_the_bound_is_that_of_all_ranks_and_a_nan_stays_in_its_problem(pool: Pool) -> None:
    sqnorm = torch.rand(2, 9, dtype=torch.float64)
    for bound, mean in pool.call(3, bound_and_mean, per_rank=split(sqnorm, (5, 0, 4), 1)):
        torch.testing.assert_close(bound, sqnorm.amax(-1).rsqrt())
        torch.testing.assert_close(mean, sqnorm.mean(-1))
    sqnorm[1, 7] = torch.nan
    for bound, _ in pool.call(3, bound_and_mean, per_rank=split(sqnorm, (5, 0, 4), 1)):
        assert bound[0] == sqnorm[0].amax().rsqrt()
        assert bound[1].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_dtypes_follow_the_single_process_op(pool: Pool, dtype: torch.dtype) -> None:
    arguments = {name: value.to(dtype) for name, value in inputs("svgd_phi_trace", 60, (), 5).items()}
    arguments["bandwidth"] = arguments["bandwidth"].float()
    expected = reference.svgd_phi_trace(**{name: value.double() for name, value in arguments.items()})
    counts = (25, 14, 21)
    per_rank = [(shards, None) for shards in shards_of(arguments, counts, 0)]
    outcomes = pool.call(3, on_rank, "svgd_phi_trace", None, per_rank=per_rank)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for index, value in enumerate(expected):
        result = torch.cat([results[index] for results, _ in outcomes])
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), value, rtol=tolerance, atol=tolerance)


def phi_of_leaf(group: dist.ProcessGroup, x: Tensor, requires_grad: bool) -> None:
    distributed.svgd_phi(x.requires_grad_(requires_grad), -x.detach(), 1.0, group)


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
def test_inputs_that_differ_between_ranks_are_refused_on_every_rank(pool: Pool, kind: str) -> None:
    good = torch.zeros(2, 3, dtype=torch.float64)
    bad, message = BAD[kind]
    bad = bad if kind in ("dtype", "integers") else bad.double()
    for rank, outcome in enumerate(pool.outcomes(3, phi, per_rank=[good, bad, good])):
        assert isinstance(outcome, Failure)
        # The rank itself raises the error of the op.
        assert (message if rank != 1 or kind != "integers" else "x must be float32") in outcome.text


def test_a_bandwidth_refused_on_one_rank_or_differing_is_refused_on_all(pool: Pool) -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    for value, text in ((-1.0, "bandwidth must be positive"), (2.0, "rank 1 has bandwidth 2.0, but rank 0 has 1.0")):
        outcomes = pool.outcomes(2, phi, x, per_rank=[1.0, value])
        assert all(isinstance(outcome, Failure) and text in outcome.text for outcome in outcomes)


def test_gradients_needed_on_some_ranks_only_are_refused(pool: Pool) -> None:
    outcomes = pool.outcomes(2, phi_of_leaf, torch.zeros(2, 3), per_rank=[True, False])
    assert all(isinstance(outcome, Failure) and "rank 1 has x" in outcome.text for outcome in outcomes)
    pool.call(2, phi_of_leaf, torch.zeros(2, 3), True)


def with_gradients(group: dist.ProcessGroup, device: str) -> dict[str, Tensor]:
    """Values of every op on this rank's shard, and gradients of their sum in the particles."""
    results = {}
    for op in OPS:
        count = 3 + dist.get_rank(group)
        arguments = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs(op, count).items()
        }
        arguments["x"] = arguments["x"].detach().requires_grad_()
        values = getattr(distributed, op)(**arguments, group=group)
        outputs = values if isinstance(values, tuple) else (values,)
        (results[f"{op}, gradient"],) = torch.autograd.grad(sum(output.sum() for output in outputs), arguments["x"])
        results |= {f"{op} {index}": output.detach() for index, output in enumerate(outputs)}
    return results


def on_gpu(group: dist.ProcessGroup) -> tuple[list[str], int]:
    """What differs on the pretended GPU from the CPU, and how often the host waited for it."""
    expected = with_gradients(group, "cpu")
    with pretended_cuda() as counts:
        results = with_gradients(group, "cuda")
        waits = counts.totals()["waits"]
        return [key for key, value in expected.items() if not torch.equal(results[key].cpu(), value)], waits


@pytest.mark.parametrize("size", [2, 3])
def test_ops_on_a_gpu_have_the_numbers_of_the_cpu_and_do_not_wait(pool: Pool, size: int) -> None:
    """Gloo carries the pretended tensors, which must not meet those of the CPU."""
    assert pool.call(size, on_gpu) == [([], 0)] * size
