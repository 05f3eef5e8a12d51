"""ModuleParticles: the formula of a step, minibatches, a known posterior, chosen parameters, checkpoints."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import svgdx
from svgdx import ModuleParticles, reference
from svgdx.samplers import InverseMultiquadric, median_bandwidth

SGD = functools.partial(torch.optim.SGD, lr=0.1)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def data(rows: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 3)
    return x, x.sum(-1, keepdim=True).sin()


def log_likelihood(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return -0.5 * functional.mse_loss(model(x), y, reduction="sum")


def score_of(particles: ModuleParticles, index: int, batch: tuple[Tensor, Tensor], scale: float) -> Tensor:
    """The gradient of the log posterior of one network, by autograd through the network itself."""
    model = particles.network(index)
    prior = sum((value / particles.prior).square().sum() for value in model.parameters())
    value = scale * log_likelihood(model, *batch) - 0.5 * prior
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(value, list(model.parameters()))])


def test_a_step_is_the_formula() -> None:
    particles, batch = ModuleParticles(network(), 5, prior=0.7, optimizer=SGD), data()
    before = particles.theta.detach().clone()
    scores = torch.stack([score_of(particles, index, batch, 4.0) for index in range(5)])
    mean = particles.step(log_likelihood, *batch, scale=4.0)
    direction = reference.svgd_phi(before, scores, median_bandwidth(before, 5))
    torch.testing.assert_close(particles.theta.detach(), before + 0.1 * direction)
    priors = -0.5 * (before / 0.7).square().sum(-1)
    likelihoods = torch.stack(
        [functional.mse_loss(out, batch[1], reduction="sum") for out in outputs(before, batch[0])]
    )
    torch.testing.assert_close(mean, (priors - 2.0 * likelihoods).mean())
    assert particles.theta.grad is None


def outputs(theta: Tensor, x: Tensor) -> Tensor:
    """Those of `network` with each row of parameters, written out."""
    first, shift, last, bias = theta.split([12, 4, 4, 1], -1)
    units = torch.tanh(x @ first.view(-1, 4, 3).mT + shift[:, None])
    return units @ last[..., None] + bias[:, None]


def test_networks_and_predictions_are_the_particles() -> None:
    particles, (x, _) = ModuleParticles(network, 4), data()
    expected = outputs(particles.theta.detach(), x)
    torch.testing.assert_close(particles(x), expected)
    torch.testing.assert_close(particles.network(2)(x), expected[2])
    prediction = particles.predict(x, transform=torch.sigmoid)
    torch.testing.assert_close(prediction.mean, torch.sigmoid(expected).mean(0))
    torch.testing.assert_close(prediction.deviation, torch.sigmoid(expected).std(0))
    particles(x).sum().backward()
    assert particles.theta.grad is not None


def test_minibatches_stand_for_all_data() -> None:
    """With a fixed bandwidth and a flat prior phi is linear in the score, so that the batches' steps have its mean."""
    whole, torch_rng = data(12), torch.get_rng_state()
    moves = []
    for batches in ([whole], [tuple(t[i : i + 3] for t in whole) for i in (0, 3, 6, 9)]):
        total: Tensor | float = 0.0
        for batch in batches:
            torch.set_rng_state(torch_rng)
            kernel = svgdx.samplers.RBF(1.5)
            particles = ModuleParticles(network, 4, prior=math.inf, kernel=kernel, optimizer=SGD)
            before = particles.theta.detach().clone()
            particles.step(log_likelihood, *batch, scale=len(batches))  # type: ignore[arg-type]
            total = total + (particles.theta.detach() - before) / len(batches)
        moves.append(total)
    torch.testing.assert_close(moves[0], moves[1])


def test_the_posterior_of_a_linear_model() -> None:
    torch.manual_seed(1)
    x = torch.randn(40, 2)
    y = x @ torch.tensor([[1.0], [-0.5]]) + 0.5 * torch.randn(40, 1)
    precision = torch.eye(2) + x.T @ x / 0.25
    mean = torch.linalg.solve(precision, x.T @ y / 0.25).flatten()
    deviation = precision.inverse().diagonal().sqrt()
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    particles = ModuleParticles(nn.Linear(2, 1, bias=False), 100, optimizer=adam)
    for _ in range(400):
        particles.step(lambda model, x, y: -0.5 * ((model(x) - y) / 0.5).square().sum(), x, y)
    assert ((particles.theta.mean(0) - mean).abs() < 0.1 * deviation).all()
    torch.testing.assert_close(particles.theta.detach().std(0) / deviation, torch.ones(2), rtol=0.1, atol=0)


def test_only_the_named_parameters_move() -> None:
    model = network()
    particles = ModuleParticles(model, 3, names=["2"], kernel=InverseMultiquadric())
    assert particles.names == ("2.weight", "2.bias")
    shared = model.state_dict()
    before = particles.theta.detach().clone()
    particles.step(log_likelihood, *data())
    assert particles.theta.shape == (3, 5)
    assert (particles.theta.detach() != before).any()
    first, second = particles.network(0), particles.network(1)
    for name, value in shared.items():
        assert torch.equal(first.get_parameter(name), value) == name.startswith("0.")
        assert torch.equal(second.get_parameter(name), first.get_parameter(name)) == name.startswith("0.")
    assert [name for name, _ in particles.named_parameters() if "module" not in name] == ["theta"]
    assert [parameter.shape for parameter in particles.parameters() if parameter.requires_grad] == [(3, 5)]


def test_each_network_has_its_own_dropout() -> None:
    model = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5))
    particles = ModuleParticles(model, 4)
    zeros = particles(torch.ones(1, 3)) == 0
    assert not all(torch.equal(zeros[0], other) for other in zeros[1:])
    particles.eval()
    assert not (particles(torch.ones(1, 3)) == 0).any()


def test_a_checkpoint_continues_to_the_same_numbers() -> None:
    batch, one, other = data(), ModuleParticles(network, 4), ModuleParticles(network, 4)
    one.step(log_likelihood, *batch)
    other.load_state_dict(one.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    for particles in (one, other):
        particles.step(log_likelihood, *batch)
    assert torch.equal(one.theta, other.theta)
    assert other.steps == 2


def test_steps_in_inference_mode_and_without_gradients() -> None:
    batch, one = data(), ModuleParticles(network, 4)
    other = copy.deepcopy(one)
    other.optimizer = type(one.optimizer)([other.theta], lr=1e-2)
    one.step(log_likelihood, *batch)
    with torch.no_grad():
        other.step(log_likelihood, *batch)
    assert torch.equal(one.theta, other.theta)


@pytest.mark.parametrize(("options", "message"), [
    ({"n": 1}, "n must be at least 2, but is 1"),
    ({"module": nn.ReLU()}, "module must have parameters, but has none"),
    ({"prior": 0.0}, "prior must be a positive standard deviation, but is 0.0"),
    ({"names": ["0", "head"]}, r"must be among the module's parameters \['0.weight', .*, but are \['0', 'head'\]"),
    ({"module": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))}, "1 is a batch norm with running statistics"),
    ({"module": lambda: copy.deepcopy(FIXED)}, "all networks start with the same parameters"),
])  # fmt: skip
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModuleParticles(**{"module": network(), "n": 3} | options)


FIXED = nn.Linear(2, 1)


def test_a_likelihood_must_be_one_number() -> None:
    particles, batch = ModuleParticles(network, 3), data()
    with pytest.raises(ValueError, match=r"must return one number, but returns shape \(12, 1\); sum"):
        particles.step(lambda model, x, y: model(x) - y, *batch)
    with pytest.raises(TypeError, match="must return a tensor, but returns float"):
        particles.step(lambda model, x, y: 0.0, *batch)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="the module is int"):
        ModuleParticles(lambda: 3, 3)  # type: ignore[arg-type,return-value]


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    particles, (x, y) = ModuleParticles(network, 3), data()
    before = particles.theta.detach().clone()
    with pytest.raises(FloatingPointError, match=r"step 0: the gradient .* is not finite for 3 of 3 networks"):
        particles.step(lambda model, x, y: (model(x) - y).sum() / 0.0, x, y)
    assert torch.equal(particles.theta, before)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    particles, batch = ModuleParticles(network, 4), data()
    on_gpu = copy.deepcopy(particles).cuda()
    on_gpu.optimizer = SGD([on_gpu.theta])
    particles.optimizer = SGD([particles.theta])
    for model in (particles, on_gpu):
        model.step(log_likelihood, *(t.to(model.theta.device) for t in batch))
    torch.testing.assert_close(on_gpu.theta.cpu(), particles.theta)
