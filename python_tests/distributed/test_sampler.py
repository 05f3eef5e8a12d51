"""Sharded chains of svgdx.SVGD against the same chains in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.pool import Failure, Pool
from distributed.test_ops import split
from torch import Tensor, nn

from svgdx import SVGD
from svgdx.samplers import (
    RBF,
    Heuristic,
    InverseMultiquadric,
    Learnt,
    LearntGaussian,
    MetropolisHastings,
    OfState,
    Scheduled,
    SteinStop,
)

DIM, STEPS = 2, 4
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)


class ShiftedPoints(nn.Module):
    """Fixed points with a learnt shift, so that the draw does not depend on the sharding."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.shift = x, nn.Parameter(torch.zeros(DIM, dtype=torch.float64))

    def draw(self, n: int, batch: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        assert n == self.x.shape[-2]
        return self.x + self.shift, -0.5 * (self.x.square() + self.shift).sum(-1)

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        width = torch.full((DIM,), 0.5 * deviations, dtype=torch.float64)
        return -width, width


def log_density(x: Tensor) -> Tensor:
    """A density that is not Gaussian, whose Hessian differs between particles."""
    return -0.5 * (x - MEAN).square().sum(-1) - 0.05 * x.pow(4).sum(-1) + torch.sin(x).prod(-1)


def per_dimension() -> Tensor:
    return torch.tensor([0.7, 1.3], dtype=torch.float64)


SETTINGS: dict[str, dict[str, Any]] = {
    "median": {"kernel": lambda: RBF("median")},
    "s2ac-median": {"kernel": lambda: RBF("s2ac-median")},
    "mean": {"kernel": lambda: RBF("mean")},
    "median per dimension": {"kernel": lambda: RBF(Heuristic("median", "per-dimension"))},
    "mean per dimension": {"kernel": lambda: RBF(Heuristic("mean", "per-dimension"))},
    "inverse multiquadric": {"kernel": lambda: InverseMultiquadric("median")},
    "learnt per dimension": {"kernel": lambda: InverseMultiquadric(Learnt(per_dimension(), STEPS))},
    "bound": {"bound": "clamp", "hessian": "none"},
    "leaky bound": {"bound": "leaky", "step_size": lambda: Scheduled(Learnt(3.0), "cosine", STEPS)},
    "leaky bound, inverse multiquadric": {"bound": "leaky", "kernel": lambda: InverseMultiquadric(Learnt(1.0))},
    "determinant": {"density": "logdet", "bound": "leaky"},
    "divisor": {"divisor": "M-1"},
    "truncation": {"control": "truncation"},
    "stopping": {"stop": SteinStop(0.6)},
    "some steps attached": {"attach_every": 2},
    "optimiser": {"optimizer": lambda tensors: torch.optim.Adam(tensors, lr=0.1)},
}


def sampler_of(x: Tensor, name: str, group: dist.ProcessGroup | None) -> SVGD:
    torch.set_default_dtype(torch.float64)
    settings: dict[str, Any] = {"kernel": lambda: RBF(Learnt(0.8, STEPS)), "step_size": lambda: Learnt(0.2, STEPS)}
    settings |= {"hessian": "exact"} | SETTINGS[name]
    for key in ("kernel", "step_size"):
        settings[key] = settings[key]()
    return SVGD(log_density, ShiftedPoints(x), **settings, process_group=group)


def outcome(group: dist.ProcessGroup | None, name: str, counts: Any, x: Tensor) -> dict[str, Any]:
    """A chain, its record, and the gradient of its reverse KL divergence."""
    sampler = sampler_of(x, name, group)
    optimised = sampler.optimizer is not None
    chain = sampler.run(counts, STEPS, log_prob=not optimised)
    result: dict[str, Any] = {"x": chain.x.detach(), "mask": chain.mask, "history": chain.history()}
    result["length"] = chain.length
    if optimised:
        return result
    assert chain.log_q is not None
    result |= {"log_q": chain.log_q.detach(), "entropy": chain.entropy().detach()}
    chain.mean(chain.log_q - log_density(chain.x)).mean().backward()
    result["gradients"] = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in sampler.named_parameters()
    }
    return result


# Each setting meets a rank without particles, and uneven shards on two or on four ranks.
DIVIDED = [
    (name, counts) for index, name in enumerate(SETTINGS) for counts in ((6, 0, 6), ((5, 7), (4, 3, 3, 2))[index % 2])
]


@pytest.mark.parametrize(("name", "counts"), DIVIDED, ids=str)
def test_a_sharded_chain_equals_that_of_one_process(pool: Pool, name: str, counts: tuple[int, ...]) -> None:
    lead = (2,) if name in ("median", "leaky bound", "determinant", "stopping") else ()
    x = 1.5 * torch.randn(*lead, sum(counts), DIM, dtype=torch.float64)
    expected = outcome(None, name, sum(counts), x)
    of_ranks = pool.call(len(counts), outcome, name, counts, per_rank=split(x, counts, len(lead)))
    for key in ("x", "log_q", "mask"):
        if expected.get(key) is not None:
            value = torch.cat([result[key] for result in of_ranks], len(lead))
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-10)
    for result in of_ranks:
        for key, value in expected["history"].items():
            torch.testing.assert_close(result["history"][key], value, rtol=1e-9, atol=1e-10, equal_nan=True)
        assert torch.equal(result["length"], expected["length"])
        if "entropy" in expected:
            torch.testing.assert_close(result["entropy"], expected["entropy"], rtol=1e-9, atol=1e-10)
    for key, value in expected.get("gradients", {}).items():
        total = torch.stack([result["gradients"][key] for result in of_ranks]).sum(0)
        torch.testing.assert_close(total, value, rtol=1e-8, atol=1e-10)
    if name == "stopping":
        assert 0 < expected["length"].min() < STEPS


def fitted(group: dist.ProcessGroup | None, counts: Any, x: Tensor) -> tuple[list[float], dict[str, Tensor]]:
    sampler = sampler_of(x, "leaky bound", group)
    losses = sampler.fit(counts, STEPS, 3)
    return losses, {name: parameter.detach() for name, parameter in sampler.named_parameters()}


def test_fit_learns_what_one_process_learns(pool: Pool) -> None:
    x = torch.randn(9, DIM, dtype=torch.float64)
    losses, parameters = fitted(None, 9, x)
    for losses_of_rank, parameters_of_rank in pool.call(3, fitted, (4, 0, 5), per_rank=split(x, (4, 0, 5), 0)):
        assert losses_of_rank == pytest.approx(losses, rel=1e-9)
        for name, value in parameters.items():
            torch.testing.assert_close(parameters_of_rank[name], value, rtol=1e-8, atol=1e-10)


def drawn(group: dist.ProcessGroup, n: Any, seed: int) -> Tensor:
    """Particles after two steps whose start and probes each rank draws."""
    sampler = SVGD(log_density, LearntGaussian(torch.zeros(DIM), torch.ones(DIM)), bound="leaky", process_group=group)
    with torch.no_grad():
        return sampler.sample_with_log_prob(n, 2, generator=torch.Generator().manual_seed(seed))[0]


def test_n_is_divided_and_shards_are_drawn_reproducibly(pool: Pool) -> None:
    shards = pool.call(3, drawn, 10, per_rank=[1, 2, 3])
    assert [len(shard) for shard in shards] == [4, 3, 3]
    assert len(torch.cat(shards).unique(dim=0)) == 10
    # Rank 0's generator decides for all.
    assert all(torch.equal(one, other) for one, other in zip(shards, pool.call(3, drawn, 10, 1), strict=True))
    assert not torch.equal(shards[1], pool.call(3, drawn, 10, 2)[1])
    assert [len(shard) for shard in pool.call(2, drawn, (0, 5), 1)] == [0, 5]


def test_bad_counts_are_refused(pool: Pool) -> None:
    for n in (0, (1, 2, 3), (-1, 2), (0, 0)):
        outcomes = pool.outcomes(2, drawn, n, 1)
        assert all(isinstance(outcome, Failure) and "n must be at least 1" in outcome.text for outcome in outcomes)


def with_setting(group: dist.ProcessGroup, setting: dict[str, str]) -> None:
    SVGD(log_density, LearntGaussian(torch.zeros(DIM), torch.ones(DIM)), process_group=group, **setting).sample(4, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([{"bound": "clamp"}, {"bound": "leaky"}], "rank 1 has bound leaky, but rank 0 has clamp"),
        ([{}, {"control": "truncation"}], "rank 1 has control Truncation, but rank 0 has NoneType"),
    ],
)
def test_different_settings_are_refused_on_every_rank(pool: Pool, settings: list[dict[str, str]], message: str) -> None:
    for outcome in pool.outcomes(2, with_setting, per_rank=settings):
        assert isinstance(outcome, Failure)
        assert message in outcome.text


def refused(group: dist.ProcessGroup, name: str) -> None:
    start = LearntGaussian(torch.zeros(DIM), torch.ones(DIM))
    if name == "optimizer":
        SVGD(log_density, start, optimizer=torch.optim.LBFGS, process_group=group)
    elif name == "bandwidth":
        SVGD(log_density, start, RBF(OfState(lambda state: state.x.std())), process_group=group)
    elif name == "step_size":
        module = OfState(lambda state: state.x.std())
        SVGD(log_density, start, step_size=Scheduled(module, "linear", 3), process_group=group)
    else:
        SVGD(log_density, start, control=name, process_group=group)


@pytest.mark.parametrize("name", ["metropolis-hastings", "epsilon-greedy", "bandwidth", "step_size", "optimizer"])
def test_what_cannot_be_sharded_is_refused_by_name(pool: Pool, name: str) -> None:
    for outcome in pool.outcomes(2, refused, name):
        assert isinstance(outcome, Failure)
        assert outcome.kind == "ValueError"
        assert name in outcome.text


def changed(group: dist.ProcessGroup) -> None:
    sampler = SVGD(log_density, LearntGaussian(torch.zeros(DIM), torch.ones(DIM)), process_group=group)
    sampler.control = MetropolisHastings()
    sampler.sample(4, 1)


def test_a_setting_changed_after_construction_is_refused_by_the_chain(pool: Pool) -> None:
    for outcome in pool.outcomes(2, changed):
        assert isinstance(outcome, Failure)
        assert "control metropolis-hastings and epsilon-greedy do not support a process_group" in outcome.text
