"""The start of a Stein policy's particles, and how far SVGD moves them from it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from svgdx.rl.actor import STD, SteinActor
from svgdx.rl.presets import PRESETS, settings_of
from svgdx.samplers.targets import Target


def actor_of(preset: str, **changes: object) -> SteinActor:
    torch.manual_seed(0)
    return SteinActor(4, torch.ones(2), settings_of(preset, changes), (16,), "softplus")


@pytest.mark.parametrize("preset", ["met-svgd", "p-svgd"])
def test_only_the_soft_start_has_a_gradient_beyond_its_range(preset: str) -> None:
    actor, state = actor_of(preset), torch.randn(5, 4)
    # Zero is the clamp's upper limit, where versions of torch differ in its gradient.
    inside = -1.0 if preset == "p-svgd" else 0.0
    for raw in (-5.0, inside, 5.0):
        with torch.no_grad():
            actor.head.bias[2:] = raw
            actor.head.weight[2:] = 0
        actor.zero_grad()
        std = actor.initial(state).std
        assert bool(((std > 0.9999 * STD[0]) & (std < 1.0001 * STD[1])).all())
        std.log().sum().backward()
        assert actor.head.bias.grad is not None
        slope = float(actor.head.bias.grad[2]) / 5
        if preset == "p-svgd":
            assert (slope == 0) == (raw != inside)
        else:
            assert slope > 1e-3
            assert raw != inside or slope == pytest.approx(math.log(STD[1] / STD[0]) / 4, rel=1e-4)
    assert preset == "p-svgd" or math.isclose(float(actor.initial(state).std.detach()[0, 0]), STD[1], rel_tol=0.05)


def test_the_step_size_follows_the_particles_but_in_the_published_preset() -> None:
    sizes = {preset: settings_of(preset).step_size for preset in PRESETS}
    assert sizes["met-svgd"] == pytest.approx(1.0)
    assert sizes["met-svgd-64"] == pytest.approx(6.4)
    assert sizes["p-svgd"] == 0.1
    assert settings_of("met-svgd", {"particles": 32}).step_size == pytest.approx(3.2)
    assert settings_of("met-svgd", {"step_size": 0.1}).step_size == 0.1
    with pytest.raises(ValueError, match="start must be one of soft, clamp"):
        settings_of("met-svgd", {"start": "hard"})


def test_moved_is_the_displacement_in_deviations_of_the_start() -> None:
    target, state = Target(lambda u: -0.5 * (u - 2).square().sum(-1)), torch.zeros(3, 4)
    moved = {}
    for size in (0.1, 1.0):
        actor = actor_of("met-svgd", step="fixed", step_size=size, bound="none")
        initial = actor.initial(state)
        with torch.no_grad():
            sample = actor.sample(initial, target, recorded=True, generator=torch.Generator().manual_seed(0))
        assert sample.moved is not None
        assert sample.chain.start is not None
        displacement = (sample.chain.x - sample.chain.start) / initial.std.unsqueeze(-2)
        assert float(sample.moved) == pytest.approx(float(displacement.detach().square().mean().sqrt()), rel=1e-5)
        moved[size] = float(sample.moved)
        assert actor.sample(initial, target, generator=torch.Generator().manual_seed(0)).moved is None
    assert moved[1.0] > 4 * moved[0.1]


def test_activations_are_smooth_but_in_the_published_preset() -> None:
    pytest.importorskip("stable_baselines3", reason="policies need the packages of svgdx[rl]")
    from svgdx.experiments.rl.config import RLConfig
    from svgdx.rl import SteinSAC

    for preset, activation in (("met-svgd", nn.Softplus), ("p-svgd", nn.ELU)):
        model = SteinSAC("MlpPolicy", "Pendulum-v1", preset=preset, policy_kwargs={"net_arch": [4]}, device="cpu")
        assert model.policy.arguments["activation_fn"] is activation
        assert RLConfig.from_options({"preset": preset}).activation == activation.__name__.lower()
    published = RLConfig.from_options({"published": "yes"})
    assert (published.activation, published.start, published.step_size) == ("elu", "clamp", 0.1)
    assert published.command() == "svgdx train rl --env Walker2d-v5 --algo stein --preset met-svgd --published yes"
