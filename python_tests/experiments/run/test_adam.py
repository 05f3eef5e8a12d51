"""The guarded step of Adam: the same as Adam's own, clipping, and parameters that NaN does not reach."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from svgdx.experiments.run.compute.adam import descend
from svgdx.experiments.run.errors import DivergedError


def model_and_adam() -> tuple[torch.nn.Linear, torch.optim.Adam]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return model, torch.optim.Adam(model.parameters(), 0.1)


def loss_of(model: torch.nn.Linear, scale: float = 1.0) -> torch.Tensor:
    return scale * model(torch.arange(6.0).view(2, 3)).square().mean()


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
def test_it_is_a_step_of_adam_on_the_clipped_gradient(clip: float) -> None:
    model, adam = model_and_adam()
    expected, expected_adam = model_and_adam()
    for _ in range(3):
        quantities = descend(1, adam, loss_of(model), "model", clip)
        expected_adam.zero_grad()
        loss_of(expected).backward()
        norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), clip or torch.inf)
        expected_adam.step()
        assert quantities == {"model_gradient": norm.item()}
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_neither_parameters_nor_adam(scale: float) -> None:
    model, adam = model_and_adam()
    descend(1, adam, loss_of(model), "model")
    before = [value.clone() for value in [*model.parameters(), *adam.state[model.weight].values()]]
    with pytest.raises(DivergedError, match=r"step 2: model_gradient is (nan|inf)"):
        descend(2, adam, loss_of(model, scale), "model", 1.0)
    after = [*model.parameters(), *adam.state[model.weight].values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_parameters_without_a_gradient_stay() -> None:
    model, adam = model_and_adam()
    unused = torch.nn.Parameter(torch.ones(2))
    adam.add_param_group({"params": [unused]})
    descend(1, adam, loss_of(model), "model", 1.0)
    assert torch.equal(unused, torch.ones(2))
