"""Streams: the same numbers from the same seeds, new ones at each draw, and a stream from whatever a caller passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from svgdx import Stream, hessian_trace, ops
from svgdx.samplers import LearntGaussian, ReplayBuffer, gibbs_sweep, gwg_step, langevin
from svgdx.streams import seeded, stream_of, stream_seed

DRAWS: dict[str, Callable[[Stream], Tensor]] = {
    "normal": lambda stream: stream.normal((3, 5)),
    "uniform": lambda stream: stream.uniform((3, 5), torch.float64),
    "signs": lambda stream: stream.signs((40,)),
    "integers": lambda stream: stream.integers(1000, (3, 5)),
    "permutation": lambda stream: stream.permutation(30),
    "bernoulli": lambda stream: stream.bernoulli(0.5, (40,)),
    "categorical": lambda stream: stream.categorical(torch.zeros(40, 9)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_follow_from_seed_step_purpose_and_rank(draw: Callable[[Stream], Tensor]) -> None:
    first = draw(Stream(3, 4, 5))
    assert torch.equal(draw(Stream(3, 4, 5)), first)
    others = [Stream(4, 4, 5), Stream(3, 5, 5), Stream(3, 4, 6), Stream(3, 4, 5, rank=1), Stream(-3, 4, 5)]
    later = Stream(3, 4, 5)
    draw(later)
    for other in (*others, later):
        assert not torch.equal(draw(other), first)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_key_draws_as_its_seed(draw: Callable[[Stream], Tensor]) -> None:
    """A captured graph overwrites the key: its draws are then those of the new seed."""
    key = torch.zeros(2, dtype=torch.int64)
    stream = Stream.of_key(key)
    key.copy_(torch.tensor([-7, 0]))
    assert torch.equal(draw(stream), draw(Stream.of_seed(-7)))
    for ask in (stream.seed, lambda: stream.happens(0.5)):
        with pytest.raises(RuntimeError, match="the host cannot read"):
            ask()


def test_tensors_give_shape_and_dtype() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    for draw in (Stream.normal, Stream.uniform, Stream.signs):
        numbers = draw(Stream(0), x)
        assert (numbers.shape, numbers.dtype, numbers.requires_grad) == (x.shape, x.dtype, False)
    assert Stream(0).integers(9, x).dtype == torch.int64


def test_permutations_and_their_beginnings() -> None:
    for bound in (0, 1, 1000):
        assert torch.equal(Stream(1).permutation(bound).sort().values, torch.arange(bound))
    rows = torch.stack([Stream(seed).permutation(5, 2) for seed in range(2000)])
    assert bool((rows[:, 0] != rows[:, 1]).all())
    counts = np.bincount((5 * rows[:, 0] + rows[:, 1]).numpy(), minlength=25).reshape(5, 5)
    assert (np.diag(counts) == 0).all()
    assert ((counts[~np.eye(5, dtype=bool)] - 100) ** 2 / 100).sum() < 45  # quantile 0.999 of 19 degrees of freedom


def test_categorical_frequencies() -> None:
    weight = torch.tensor([0.0, -torch.inf, 1.0, 2.0])
    drawn = Stream(2).categorical(weight.expand(20000, 4))
    expected = 20000 * weight.softmax(-1)
    counts = drawn.bincount(minlength=4)
    assert int(counts[1]) == 0
    possible = expected > 0
    assert float(((counts - expected)[possible].square() / expected[possible]).sum()) < 13.8  # 0.999, two degrees


def test_streams_that_split_off_draw_on_their_own() -> None:
    def draws(count: int, key: bool) -> list[Tensor]:
        stream = Stream.of_key(torch.tensor([3, 4])) if key else Stream(3)
        child = stream.split()
        drawn = [child.normal((5,)) for _ in range(count)]
        return [*drawn[:1], stream.normal((5,)), stream.split().normal((5,)), stream.normal((5,))]

    for key in (False, True):
        few, many = draws(1, key), draws(9, key)
        assert all(torch.equal(one, other) for one, other in zip(few, many, strict=True))
        assert len({float(numbers[0]) for numbers in few}) == 4
    grandchild = Stream(3).split().split()
    assert not torch.equal(grandchild.normal((5,)), Stream(3).split().normal((5,)))


def test_decisions_on_the_host() -> None:
    stream = Stream(5)
    decisions = [stream.happens(0.3) for _ in range(3000)]
    assert abs(sum(decisions) / 3000 - 0.3) < 5 * (0.21 / 3000) ** 0.5
    assert not stream.happens(0.0)
    assert stream.happens(1.0)


def test_seeds_are_those_of_numpy() -> None:
    words = np.random.SeedSequence([2**64 - 1, 2, 3]).generate_state(2, np.uint32)
    assert stream_seed(-1, 2, 3) == int(words[0]) << 32 | int(words[1])
    assert torch.equal(Stream(1, 2, 3).normal((4,)), Stream.of_seed(stream_seed(1, 2, 3)).normal((4,)))
    expected = ops.normal(torch.empty(4), stream_seed(1, 2, 3) - 2**64 * (stream_seed(1, 2, 3) >> 63), 0)
    assert torch.equal(Stream(1, 2, 3).normal((4,)), expected)


def test_generators_advance_and_none_is_torchs_own() -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (stream_of("f", generator, torch.device("cpu")).normal((4,)) for _ in range(2))
    assert not torch.equal(first, second)
    again = stream_of("f", generator.manual_seed(3), torch.device("cpu"))
    assert torch.equal(again.normal((4,)), first)
    assert stream_of("f", again, torch.device("cpu")) is again
    torch.manual_seed(3)
    assert torch.equal(stream_of("f", None, torch.device("cpu")).normal((4,)), first)


def test_sources_that_are_refused() -> None:
    with pytest.raises(TypeError, match=r"f: generator must be a Stream, a torch.Generator or None, but is int"):
        stream_of("f", 3, torch.device("cpu"))  # type: ignore[arg-type]
    message = "generator must be on meta as the numbers that it draws, but is on cpu"
    x = torch.zeros(2, 3, device="meta")
    calls: list[Callable[[torch.Generator | Stream], object]] = [
        lambda source: langevin(lambda x: -x.square().sum(-1), x, 1, 0.1, 1.0, source),
        lambda source: gibbs_sweep(lambda x: x.sum(-1), x, source),
        lambda source: gwg_step(lambda x: x.sum(-1), x, source),
        lambda source: hessian_trace(lambda x: -x.square().sum(-1), x, generator=source),
        lambda source: LearntGaussian(torch.zeros(3), 1.0).to("meta").draw(2, (), source),
    ]
    for call in calls:
        for source in (torch.Generator(), Stream(0)):
            with pytest.raises(ValueError, match=message):
                call(source)


def test_a_replay_buffer_takes_distinct_rows() -> None:
    buffer = ReplayBuffer(50, 3, Stream(0))
    rows, chains = buffer.draw(20, 0.0, Stream(1))
    assert len(set(rows.tolist())) == 20
    assert torch.equal(chains, buffer.chains[rows])


def test_seeded_restores_the_generator() -> None:
    state = torch.get_rng_state()
    with seeded(4):
        inside = torch.randn(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(torch.randn(3), inside)
