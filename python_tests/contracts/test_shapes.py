"""Shapes that broadcast: every public function refuses them by name, or takes (B, 1) for (B)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.doors import DOORS, TARGETS, Door, gaussian, square
from torch import Tensor, nn

from svgdx import densities, gflownets, losses, samplers

BAD_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "column": lambda value: value.unsqueeze(-1),
    "row": lambda value: value.unsqueeze(0),
    "fewer rows": lambda value: value[:-1],
    "one row": lambda value: value[:1],
    "narrower": lambda value: value[..., :-1],
    "square": lambda value: value.unsqueeze(-1).expand(*value.shape, value.shape[-1]),
    "two columns": lambda value: value.unsqueeze(-1).expand(*value.shape, 2),
    "0-d": lambda value: value.flatten()[0],
}
CASES = [
    pytest.param(door, argument, name, id=f"{index}-{door.owner}-{argument}-{name}")
    for index, door in enumerate(DOORS)
    for argument, value in door.arguments().items()
    for name in BAD_SHAPES
    # The number of rows of a call's only tensor, and any leading dimensions of points, are free.
    if not (name in ("row", "fewer rows", "one row", "square") and argument in door.leading)
    if not (name == "fewer rows" and argument in door.alone)
    if not (name == "one row" and argument in door.alone)
    if not (name == "narrower" and (argument in door.widths or (value.dim() == 1 and argument in door.alone)))
    # A single number serves as log Z of all trajectories.
    if not (argument == "log_z" and name in ("0-d", "one row"))
    # One standard deviation serves all dimensions.
    if not (argument == "std" and name == "0-d")
]


@pytest.mark.parametrize(("door", "argument", "name"), CASES)
def test_another_shape_is_refused_by_name(door: Door, argument: str, name: str) -> None:
    arguments = door.arguments()
    right = door.call(**arguments)
    changed = arguments | {argument: BAD_SHAPES[name](arguments[argument])}
    if name == "column" and argument in door.rows:
        torch.testing.assert_close(door.call(**changed), right, rtol=0, atol=0)
        return
    with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
        door.call(**changed)
    message = str(error.value)
    assert re.match(f"({door.owner}): ", message), message
    tensors = [key for key in arguments if key in message]
    assert tensors, message
    assert str(tuple(changed[argument].shape)) in message or argument == next(iter(arguments)), message


@pytest.mark.parametrize("door", [pytest.param(door, id=f"{i}-{door.owner}") for i, door in enumerate(DOORS)])
def test_what_is_no_tensor_is_refused_by_name(door: Door) -> None:
    for argument in door.arguments():
        if argument == "log_z":
            continue
        with pytest.raises(TypeError, match=rf"^({door.owner}): {argument} must be a tensor, but is list"):
            door.call(**door.arguments() | {argument: [1.0]})


def test_every_public_function_has_a_door() -> None:
    """A new public function with tensors is added to the table, or here if it takes none."""
    covered = {owner.split(".")[0] for entry in DOORS for owner in entry.owner.split("|")} | set(TARGETS)
    covered |= {"trajectory_log_prob", "transition_log_prob", "back_and_forth"}  # their own calls in the table
    without_tensors = {
        *("Chain", "EpsilonGreedy", "Fixed", "Heuristic", "InverseMultiquadric", "LangevinRun", "Learnt", "preset"),
        *("ModuleParticles", "Prediction"),  # what its networks take
        *("MetropolisHastings", "OfState", "RBF", "Scheduled", "ScoreTarget", "State", "SteinStop", "StepRecord"),
        *(
            "TemperedTarget",
            "Truncation",
            "Energy",
            "EnergyTarget",
            "LogDensity",
            "LogProb",
            "as_log_density",
            "void_states",
        ),
        "step_bound",  # any shape is right
    }
    public = {name for module in (densities, gflownets, losses, samplers) for name in module.__all__}
    assert {name for name in public if not name.isupper() or name in ("SVGD", "RBF")} <= covered | without_tensors


WRONG_VALUES: dict[str, Callable[[Tensor], Any]] = {
    "square": lambda value: value[:, None] * value,
    "row": lambda value: value[None],
    "fewer": lambda value: value[:-1],
    "sum": lambda value: value.sum(),
    "number": lambda value: 1.0,
    "array": lambda value: value.detach().numpy(),
}


@pytest.mark.parametrize("wrong", WRONG_VALUES)
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_of_another_shape_is_refused_by_name(name: str, wrong: str) -> None:
    prefix, call = TARGETS[name]
    with pytest.raises((TypeError, ValueError)) as error:
        call(lambda x: WRONG_VALUES[wrong](square(x)))
    assert prefix in str(error.value)
    if wrong == "array":
        assert "must return a tensor, but returns ndarray" in str(error.value)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_may_return_a_column(name: str) -> None:
    _, call = TARGETS[name]
    torch.testing.assert_close(call(lambda x: square(x)[..., None]), call(square), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(5, 1), (5,), (3,), (1, 3), ()])
def test_a_score_has_the_shape_of_the_particles(shape: tuple[int, ...]) -> None:
    target = samplers.ScoreTarget(lambda x: (-x).sum() * torch.ones(shape))
    with pytest.raises(ValueError, match=r"SVGD: score must have the shape of x, \(5, 3\), but has"):
        samplers.SVGD(target, gaussian(), hessian="none").sample(5, 1)


class Step(nn.Module):
    """A step size of the state, in a shape of its own."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, state: samplers.State) -> Tensor:
        return torch.full(self.shape, 0.1)


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 5), (2, 5, 3), (1, 2)])
def test_a_step_size_per_particle_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"SVGD: step_size must have shape \(2,\)"):
        samplers.SVGD(square, gaussian(), step_size=Step(*shape)).sample(5, 1, batch=(2,))


def test_a_step_size_per_problem_may_be_a_column() -> None:
    results = [
        samplers.SVGD(square, gaussian(), step_size=Step(*shape)).sample(
            5, 2, batch=(2,), generator=torch.Generator().manual_seed(1)
        )
        for shape in ((), (2,), (2, 1))
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("width", [1, 5, 8, 12])
def test_a_policy_of_another_width_is_refused(width: int) -> None:
    class Policy(nn.Module):
        def forward(self, states: Tensor) -> Tensor:
            return torch.zeros(len(states), width)

    with pytest.raises(ValueError, match=r"Policy: logits must have shape \(4, 9\), but have"):
        gflownets.rollout(Policy(), 1, 1, forward_from=gflownets.void_states(4, 3))
