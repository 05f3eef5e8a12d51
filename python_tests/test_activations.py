"""The table of activations: its forms agree with one another, with autograd and with the C++ code."""

from __future__ import annotations

import pathlib
import re

import pytest
import torch

from svgdx.activations import ACTIVATIONS, COMPILED, FROM_VALUE, SMOOTH

CSRC = pathlib.Path(__file__).parents[1] / "csrc"
# Both sides of each kink, and the tails, but not the kinks.
POINTS = torch.linspace(-6.0, 6.0, 48, dtype=torch.float64)


def test_numbers_are_those_of_the_cpp_enum() -> None:
    enums = [
        match.group(1)
        for header in CSRC.rglob("*.h")
        for match in re.finditer(r"enum class Activation\b[^{]*\{([^}]*)\}", header.read_text())
    ]
    assert len(enums) == 1, "csrc must define the enum Activation in exactly one header"
    names = [name.strip() for name in enums[0].split(",") if name.strip()]
    assert {name: number for number, name in enumerate(names)} == COMPILED


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_module_and_function_agree(name: str) -> None:
    activation = ACTIVATIONS[name]
    assert torch.equal(activation.module()(POINTS), activation.function(POINTS))


@pytest.mark.parametrize("name", FROM_VALUE)
def test_derivatives_from_the_value_are_those_of_autograd(name: str) -> None:
    derivatives = [ACTIVATIONS[name].function]
    for _ in range(3):
        derivatives.append(torch.func.grad(derivatives[-1]))
    value, *expected = (torch.func.vmap(derivative)(POINTS) for derivative in derivatives)
    slope = FROM_VALUE[name].slope(value)
    torch.testing.assert_close([slope, *FROM_VALUE[name].curves(value, slope)], expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_smoothness_is_the_order_of_the_first_derivative_that_jumps(name: str) -> None:
    """No activation has a kink but at 0, so the one-sided limits at 0 decide."""
    beside = torch.tensor([-1e-7, 1e-7], dtype=torch.float64)
    derivative = ACTIVATIONS[name].function
    jumps = []
    for _ in range(3):
        left, right = torch.func.vmap(derivative)(beside).tolist()
        jumps.append(abs(left - right) > 1e-5)
        derivative = torch.func.grad(derivative)
    smoothness = jumps.index(True) - 1 if True in jumps else float("inf")
    assert smoothness == ACTIVATIONS[name].smoothness


def test_smooth_activations_have_a_continuous_hessian() -> None:
    assert set(SMOOTH) == {"silu", "gelu", "tanh", "softplus"}
