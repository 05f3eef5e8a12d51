"""Energies of bits: shapes, dtypes, base distribution and couplings."""

from __future__ import annotations

import math

import pytest
import torch

from svgdx.activations import ACTIVATIONS
from svgdx.densities import DiscreteMLPEnergy, IsingEnergy
from svgdx.experiments.metrics.bits import all_states


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("energy_of", ["mlp", "ising"])
def test_shapes_and_dtypes(activation: str, energy_of: str) -> None:
    energy = DiscreteMLPEnergy(5, 7, 2, activation) if energy_of == "mlp" else IsingEnergy(5)
    x = torch.randint(2, (3, 4, 5), dtype=torch.int8)
    value = energy(x)
    assert value.shape == (3, 4)
    torch.testing.assert_close(energy(x.double()), value)
    torch.testing.assert_close(energy.double()(x), value.double(), rtol=1e-5, atol=1e-6)


def test_default_network_has_three_hidden_elu_layers() -> None:
    sizes = [tuple(parameter.shape) for parameter in DiscreteMLPEnergy(32).parameters() if parameter.dim() == 2]
    assert sizes == [(256, 32), (256, 256), (256, 256), (1, 256)]
    assert sum(isinstance(layer, torch.nn.ELU) for layer in DiscreteMLPEnergy(32).modules()) == 3


def test_base_multiplies_the_probability() -> None:
    probability = torch.tensor([0.2, 0.7, 0.01])
    energy = DiscreteMLPEnergy(3, 8, 1, "silu", probability)
    x = all_states(3)
    bernoulli = torch.distributions.Bernoulli(probability).log_prob(x.float()).sum(-1)
    plain = energy.layers(x.float()).squeeze(-1)
    torch.testing.assert_close(energy(x), plain - bernoulli)
    loaded = DiscreteMLPEnergy(3, 8, 1, "silu", torch.full((3,), 0.5))
    loaded.load_state_dict(energy.state_dict())
    torch.testing.assert_close(loaded(x), energy(x))


def test_ising_energy_counts_each_pair_twice() -> None:
    energy = IsingEnergy(4)
    with torch.no_grad():
        energy.weight.normal_()
    coupling = energy.coupling().detach()
    assert torch.equal(coupling, coupling.T)
    assert coupling.diagonal().count_nonzero() == 0
    x = all_states(4)
    for bits, value in zip(x.tolist(), energy(x).tolist(), strict=True):
        spins = [2 * bit - 1 for bit in bits]
        pairs = [(i, j) for i in range(4) for j in range(i)]
        assert value == pytest.approx(-2 * sum(float(coupling[i, j]) * spins[i] * spins[j] for i, j in pairs), abs=1e-5)


def test_gradient_is_symmetric_and_leaves_the_diagonal_unused() -> None:
    energy = IsingEnergy(3)
    energy(torch.tensor([[1, 0, 1], [1, 1, 1]])).sum().backward()
    gradient = energy.weight.grad
    assert gradient is not None
    # For the spins (1, -1, 1) and (1, 1, 1), the products of the pairs sum to 0, 2 and 0.
    assert gradient.tolist() == [[0, 0, -2], [0, 0, 0], [-2, 0, 0]]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be at least 1, but are 0, 256, 3"):
        DiscreteMLPEnergy(0)
    with pytest.raises(ValueError, match=r"one of silu, gelu, tanh, softplus, elu, relu, leaky_relu, but is 'sine'"):
        DiscreteMLPEnergy(2, activation="sine")
    with pytest.raises(ValueError, match=r"shape \(2,\), but has \(3,\)"):
        DiscreteMLPEnergy(2, base=torch.full((3,), 0.5))
    for outside in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"must lie inside \(0, 1\)"):
            DiscreteMLPEnergy(2, base=torch.tensor([0.5, outside]))
    with pytest.raises(ValueError, match="dim must be at least 1"):
        IsingEnergy(0)
