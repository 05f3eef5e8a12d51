"""MMD, couplings and log Z, compared with plain loops, enumeration and averages over many draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from svgdx.densities import DiscreteMLPEnergy, IsingEnergy
from svgdx.experiments.data.ising import true_coupling
from svgdx.experiments.metrics import bits


def draw(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kernel(one: list[int], other: list[int], bandwidth: float) -> float:
    return math.exp(-bandwidth * sum(a != b for a, b in zip(one, other, strict=True)))


@pytest.mark.parametrize(("rows", "others", "bandwidth"), [(7, 5, 0.1), (2, 9, 0.1), (6, 6, 1.3)])
def test_mmd_is_that_of_the_double_loop(rows: int, others: int, bandwidth: float) -> None:
    x = torch.randint(2, (rows, 11), generator=draw(), dtype=torch.int8)
    y = (torch.rand(others, 11, generator=draw(2)) < 0.8).to(torch.int8)
    xs, ys = x.tolist(), y.tolist()
    within_x = sum(kernel(a, b, bandwidth) for i, a in enumerate(xs) for j, b in enumerate(xs) if i != j)
    within_y = sum(kernel(a, b, bandwidth) for i, a in enumerate(ys) for j, b in enumerate(ys) if i != j)
    across = sum(kernel(a, b, bandwidth) for a in xs for b in ys)
    expected = within_x / rows / (rows - 1) + within_y / others / (others - 1) - 2 * across / rows / others
    assert bits.hamming_mmd(x, y, bandwidth) == pytest.approx(expected, abs=1e-6)


def test_mmd_is_unbiased() -> None:
    """For independent bits the kernel's expectation, and so the true MMD, is a product over bits."""
    dim, bandwidth = 6, 0.1
    p, q = torch.full((dim,), 0.3), torch.full((dim,), 0.6)

    def expected(one: float, other: float) -> float:
        differ = one * (1 - other) + other * (1 - one)
        return (1 - differ + differ * math.exp(-bandwidth)) ** dim

    true = expected(0.3, 0.3) + expected(0.6, 0.6) - 2 * expected(0.3, 0.6)
    generator = draw()
    different, same = [], []
    for _ in range(2000):
        x, again = ((torch.rand(5, dim, generator=generator) < p).to(torch.int8) for _ in range(2))
        y = (torch.rand(4, dim, generator=generator) < q).to(torch.int8)
        different.append(bits.hamming_mmd(x, y, bandwidth))
        same.append(bits.hamming_mmd(x, again, bandwidth))
    for values, mean in ((torch.tensor(different), true), (torch.tensor(same), 0.0)):
        assert abs(float(values.mean()) - mean) < 4 * float(values.std()) / math.sqrt(len(values))
    assert min(same) < 0


def test_mmd_refuses_samples_without_an_unbiased_estimate() -> None:
    with pytest.raises(ValueError, match="two or more rows of one width"):
        bits.hamming_mmd(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="two or more rows of one width"):
        bits.hamming_mmd(torch.zeros(4, 2), torch.zeros(4, 3))


def test_neg_log_rmse_is_over_all_entries() -> None:
    true = true_coupling(3, 0.1)
    learnt = true.clone()
    learnt[0, 1] += 0.3
    learnt[1, 0] += 0.3
    assert bits.neg_log_rmse(learnt, true) == pytest.approx(-math.log(math.sqrt(2 * 0.3**2 / 81)), rel=1e-5)


def test_uniform_bits_have_one_bit_per_dimension() -> None:
    assert bits.bits_per_dim(32 * math.log(2), 32) == pytest.approx(1)


def small_energy(dim: int) -> DiscreteMLPEnergy:
    energy = DiscreteMLPEnergy(dim, 16, 2, "silu", torch.linspace(0.2, 0.8, dim)).requires_grad_(False)
    for parameter in energy.parameters():
        parameter.mul_(4)
    return energy


def test_enumeration_sums_every_state() -> None:
    states = bits.all_states(4)
    assert states.tolist() == [[int(bit) for bit in f"{number:04b}"] for number in range(16)]
    base = torch.tensor([0.1, 0.9, 0.5])
    assert bits.exact_log_z(lambda x: bits.bernoulli_log_prob(x, base), 3) == pytest.approx(0, abs=1e-6)
    energy = small_energy(5)
    log_z = bits.Estimate(bits.exact_log_z(energy, 5), 0.3)
    nll, error = bits.energy_nll(energy, bits.all_states(5), log_z, batch=7)
    log_p = torch.log_softmax(-energy(bits.all_states(5)), 0)
    assert nll == pytest.approx(-float(log_p.mean()), rel=1e-5)
    assert error == pytest.approx(math.sqrt(float(log_p.var()) / 32 + 0.3**2), rel=1e-5)
    with pytest.raises(ValueError, match="at most 16, but is 17"):
        bits.exact_log_z(energy, 17)


def ising_energy(dim: int) -> IsingEnergy:
    energy = IsingEnergy(dim).requires_grad_(False)
    energy.weight.copy_(0.5 * torch.randn(dim, dim))
    return energy


@pytest.mark.parametrize(("transition", "steps"), [("gibbs", 1), ("gwg", 4)])
@pytest.mark.parametrize("make", [small_energy, ising_energy])
def test_ais_agrees_with_enumeration(make: type, transition: str, steps: int) -> None:
    energy = make(8)
    base = torch.linspace(0.3, 0.6, 8)
    exact = bits.exact_log_z(energy, 8)
    value, error = bits.ais_log_z(energy, base, 30, 2000, draw(), transition, steps)
    assert 0 < error < 0.05
    assert abs(value - exact) < 4 * error


def test_ais_error_is_the_spread_over_repetitions() -> None:
    energy, base = small_energy(6), torch.full((6,), 0.5)
    estimates = [bits.ais_log_z(energy, base, 4, 200, draw(seed)) for seed in range(60)]
    spread = torch.tensor([estimate.value for estimate in estimates]).std()
    stated = torch.tensor([estimate.error for estimate in estimates]).mean()
    assert 0.7 < float(stated / spread) < 1.4


def test_weights_are_unbiased_even_with_few_temperatures() -> None:
    energy, base = small_energy(6), torch.full((6,), 0.4)
    exact = bits.exact_log_z(energy, 6)
    for temperatures in (1, 2):
        value, error = bits.ais_log_z(energy, base, temperatures, 50_000, draw(), "gwg")
        assert abs(value - exact) < 4 * error


def test_ais_from_the_target_itself_has_no_error() -> None:
    base = torch.tensor([0.2, 0.5, 0.9])

    def log_density(x: Tensor) -> Tensor:
        return bits.bernoulli_log_prob(x, base) - 1.5

    value, error = bits.ais_log_z(log_density, base, 3, 10, draw())
    assert value == pytest.approx(-1.5, abs=1e-5)
    assert error == pytest.approx(0, abs=1e-5)


def test_ais_refuses_bad_settings() -> None:
    base, energy = torch.full((3,), 0.5), small_energy(3)
    with pytest.raises(ValueError, match="transition must be one of gibbs, gwg"):
        bits.ais_log_z(energy, base, 3, 10, draw(), "walk")
    for numbers in ((0, 10, "gibbs", 1), (3, 1, "gibbs", 1), (3, 10, "gwg", 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            bits.ais_log_z(energy, base, numbers[0], numbers[1], draw(), numbers[2], numbers[3])
    with pytest.raises(ValueError, match="inside"):
        bits.ais_log_z(energy, torch.tensor([0.5, 0.5, 0.0]), 3, 10, draw())
