"""Divergence control, stopping, callbacks and optimisers of the SVGD sampler."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from svgdx.samplers import (
    RBF,
    SVGD,
    EpsilonGreedy,
    Fixed,
    InverseMultiquadric,
    Learnt,
    LearntGaussian,
    MetropolisHastings,
    State,
    SteinStop,
    Truncation,
)
from svgdx.samplers.control import Move
from svgdx.samplers.control.metropolis_hastings import _mixed
from svgdx.samplers.targets import as_target

B, M, D, L = 2, 6, 2, 4


def draw(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(dim: int = D, mean: float = 0.0) -> Independent:
    return Independent(Normal(torch.full((dim,), mean, dtype=torch.float64), torch.ones(dim, dtype=torch.float64)), 1)


def ill_conditioned() -> MultivariateNormal:
    """A Gaussian with the covariance diag(1, 0.01) rotated by 45 degrees."""
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    return MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), turn @ torch.diag(torch.tensor([1.0, 0.01]).double()) @ turn.T
    )


class WrongSign(MetropolisHastings):
    """The density's change with the opposite sign, which a test of invariance must detect."""

    def correct(self, move: Move, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        assert move.gain is not None
        return super().correct(move._replace(gain=-move.gain), *rest)

    def _gain_at(self, *args: Any) -> Tensor:
        return -super()._gain_at(*args)


@pytest.mark.parametrize(("particles", "batch", "eps"), [(1, 1000, 0.15), (10, 200, 0.5)])
def test_metropolis_hastings_leaves_a_known_target_invariant(particles: int, batch: int, eps: float) -> None:
    """Makes 200 steps from exact samples; without acceptance the same steps change the moments.

    A single particle moves by its score, and its chain is exactly invariant at any step size. If particles move
    together, the steps must be so small that the determinant changes little.
    """
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    target = MultivariateNormal(torch.tensor([0.5, -1.0], dtype=torch.float64), covariance)
    variance = covariance.diagonal()
    rule = MetropolisHastings()
    errors = {}
    for control in (rule, "none", WrongSign()) if particles == 1 else (rule, "none"):
        model = SVGD(target, target, RBF(1.0), eps, hessian="exact", density="logdet", control=control)
        chain = model.run(particles, 200, batch=(batch,), generator=draw())
        x = chain.x.flatten(0, 1)
        errors[control] = (x.var(0) - variance).abs() / (2 * variance.square() / len(x)).sqrt()
        if control is rule:
            # Particles of one problem are not independent; three standard errors leave room for that.
            assert ((x.mean(0) - target.mean).abs() < 3 * (variance / len(x)).sqrt()).all()
            assert (errors[control] < 3).all()
            assert 0.3 < chain.history()["acceptance"].mean() < 0.99
        else:
            assert (errors[control] > 4).all()


def test_metropolis_hastings_keeps_the_ill_conditioned_gaussian_in_bounds() -> None:
    start = Independent(Normal(torch.zeros(2, dtype=torch.float64), torch.full((2,), 2.0, dtype=torch.float64)), 1)
    # The step is beyond the limit of stability, 2 M times the least variance.
    far = {}
    for control in ("none", "metropolis-hastings"):
        model = SVGD(ill_conditioned(), start, RBF("median"), 5.0, hessian="exact", control=control)
        far[control] = model.run(100, 25, generator=draw()).x.norm(dim=-1)
    assert not bool((far["none"] < 10).all())
    assert bool((far["metropolis-hastings"] < 10).all())


def test_inverse_map_and_its_gain() -> None:
    target, kernel = as_target(gaussian()), RBF(1.2)
    x = torch.randn(B, M, D, dtype=torch.float64, generator=draw())
    derivatives = target.derivatives(x, "exact")
    sigma, eps = torch.tensor(1.2, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    rule = MetropolisHastings(tolerance=1e-12, iterations=200)
    move = Move(x, derivatives, sigma, eps, x, None)
    back, converged = rule._inverse(move, kernel, target, False)
    assert converged.all()
    phi = kernel.direction_at(back, x, derivatives.score, sigma, target.derivatives(back).score)
    torch.testing.assert_close(back + eps * phi, x)
    # If particle i alone is moved to back_i, the step brings it to x_i.
    gain = rule._gain_at(back, move, kernel, target.derivatives(back, "exact"), "logdet")
    for i in range(M):
        points = x.clone()
        points[:, i] = back[:, i]
        derivatives = target.derivatives(points, "exact")
        phi = kernel.phi(points, derivatives.score, sigma)
        # The other particles did not move, so their scores are those at x.
        torch.testing.assert_close((points + eps * phi)[:, i], x[:, i])
        logdet = kernel.logdet(points, derivatives.score, sigma, eps, derivatives.hessian)
        torch.testing.assert_close(gain[:, i], logdet[:, i])


def test_density_after_acceptance_equals_the_formula() -> None:
    alpha = torch.tensor([1.0, 0.3, 1e-20, 0.0], dtype=torch.float64)
    gain = torch.tensor([0.2, -0.5, 3.0, 700.0], dtype=torch.float64)
    log_alpha = alpha.log().requires_grad_()
    mixed = _mixed(log_alpha, gain)
    torch.testing.assert_close(mixed.exp(), alpha * (-gain).exp() + 1 - alpha)
    (gradient,) = torch.autograd.grad(mixed.sum(), log_alpha)
    assert gradient.isfinite().all()


def test_metropolis_hastings_is_differentiable() -> None:
    model = SVGD(
        gaussian(),
        LearntGaussian(torch.full((D,), 1.0), torch.ones(D)),
        RBF(Learnt(1.0)),
        Learnt(0.5),
        bound="leaky",
        control="metropolis-hastings",
    ).double()
    chain = model.run(M, L, batch=(B,), generator=draw())
    assert chain.log_q is not None
    gradients = torch.autograd.grad((chain.log_q + chain.x.sum(-1)).sum(), list(model.parameters()))
    assert all(bool(gradient.isfinite().all() and (gradient != 0).any()) for gradient in gradients)


def test_epsilon_greedy_anneals_the_probability() -> None:
    model = SVGD(gaussian(), gaussian(mean=1.0), RBF(1.0), 0.5, control=EpsilonGreedy(0.2, 0.9))
    share = {}
    for progress in (0.0, 1.0):
        model.progress = progress
        record = model.run(M, 200, generator=draw()).history()["acceptance"]
        share[progress] = 1 - record.isnan().double().mean().item()
    assert share[0.0] == pytest.approx(0.2, abs=0.1)
    assert share[1.0] == pytest.approx(0.9, abs=0.1)


def test_truncation_masks_particles_that_leave_the_initial_gaussian() -> None:
    start = gaussian()
    model = SVGD(gaussian(mean=8.0), start, RBF(1.0), 0.5 * M, control=Truncation(3.0))
    chain = model.run(M, 40, batch=(B,), generator=draw())
    assert chain.mask is not None
    assert chain.log_q is not None
    assert not chain.mask.all()
    assert (chain.x.abs() <= 3).all()
    model = SVGD(gaussian(), start, RBF(1.0), 0.1, control=Truncation(50.0))
    free = SVGD(gaussian(), start, RBF(1.0), 0.1)
    one, other = model.run(M, 10, generator=draw()), free.run(M, 10, generator=draw())
    assert one.mask is not None
    assert one.mask.all()
    assert torch.equal(one.x, other.x)
    chain.mask = torch.tensor([[True, False] * 3, [True] * 6])
    torch.testing.assert_close(chain.mean(chain.log_q)[0], chain.log_q[0, ::2].mean())


def test_problems_stop_one_by_one() -> None:
    """Adaptive stopping takes fewer steps for the nearer start, and stopped particles do not move."""
    start = Independent(Normal(torch.tensor([[1.5] * D, [8.0] * D]).double(), torch.ones(2, D).double()), 1)
    model = SVGD(gaussian(), start, RBF("median"), 1.0, hessian="exact", stop=SteinStop(0.01))
    states: list[State] = []
    model.callbacks.append(states.append)
    chain = model.run(50, 400, generator=draw())
    easy, hard = chain.length.tolist()
    assert 0 < easy < hard < 400
    assert len(states) == hard
    record = states[easy].record
    assert record is not None
    assert record.discrepancy[0] < 0.01 <= record.discrepancy[1]
    assert torch.equal(states[easy - 1].x[0], chain.x[0])
    assert torch.equal(states[-1].x[1], chain.x[1])
    assert not torch.equal(states[easy].x[1], states[easy - 1].x[1])
    assert states[easy].active is not None
    assert states[easy].active.tolist() == [False, True]


def test_stopping_takes_fewer_steps_on_the_easier_of_two_targets() -> None:
    """From the same start to N(0, I), and to a Gaussian whose variance in one direction is ten times smaller."""
    start = Independent(Normal(torch.zeros(2).double(), torch.full((2,), 3.0).double()), 1)
    lengths = []
    for variance in (1.0, 0.1):
        target = Independent(Normal(torch.zeros(2).double(), torch.tensor([1.0, variance]).double().sqrt()), 1)
        model = SVGD(target, start, RBF("median"), 1.0, bound="clamp", hessian="exact", stop=SteinStop(0.1))
        lengths.append(int(model.run(100, 500, generator=draw()).length))
    assert 0 < 5 * lengths[0] < lengths[1] < 500


def test_discrepancy_is_the_rate_of_the_kl() -> None:
    """S equals the squared numerical derivative -d/d eps of E[log q - log p] along the step."""
    target, start = gaussian(), gaussian(mean=1.5)
    kl = []
    for eps in (1e-4, 2e-4):
        model = SVGD(target, start, RBF(1.0), eps, hessian="exact")
        chain = model.run(200, 1, generator=draw())
        assert chain.log_q is not None
        kl.append((chain.log_q - target.log_prob(chain.x)).mean())
    rate = (kl[1] - kl[0]) / 1e-4
    torch.testing.assert_close(chain.steps[0].rate, -rate, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(chain.steps[0].discrepancy, rate.square(), rtol=1e-3, atol=1e-6)


def test_patience_stops_after_rises() -> None:
    rule = SteinStop(0.0, patience=2).start(torch.Size([1]), torch.device("cpu"))
    rates = enumerate((3.0, 2.0, -2.5, 1.0, -1.5, 1.0))
    active = [bool(rule.update(step, torch.tensor([rate]), torch.tensor([rate**2]))) for step, rate in rates]
    assert active == [True] * 4 + [False] * 2


def test_a_signed_rule_stops_where_the_kl_no_longer_falls_and_not_before_its_least_length() -> None:
    """r jumps over the threshold of S = r^2 between the third and the fourth step."""
    rates = (3.0, 2.0, 0.5, -0.5, -2.0, 0.5)
    lengths = {}
    for name, stop in {
        "squared": SteinStop(0.1),
        "signed": SteinStop(0.0, signed=True),
        "later": SteinStop(0.0, signed=True, least=4),
    }.items():
        rule = stop.start(torch.Size([1]), torch.device("cpu"))
        lengths[name] = sum(
            bool(rule.update(step, torch.tensor([rate]), torch.tensor([rate**2]))) for step, rate in enumerate(rates)
        )
    assert lengths == {"squared": 6, "signed": 3, "later": 4}


def test_callbacks_see_the_documented_state() -> None:
    states: list[State] = []
    model = SVGD(gaussian(), gaussian(mean=1.0), callbacks=[states.append], bound="clamp")
    chain = model.run(M, L, batch=(B,), generator=draw())
    assert [state.step for state in states] == list(range(L))
    last = states[-1]
    assert torch.equal(last.x, chain.x)
    assert last.log_q is not None
    assert torch.equal(last.log_q, chain.log_q)
    assert last.record is chain.steps[-1]
    history = chain.history()
    assert set(history) == {"sigma", "eps", "eps_bound", "trace", "rate", "discrepancy", "acceptance", "score_norm"}
    assert all(values.shape == (L, B) for values in history.values())
    assert all(values.isfinite().all() for name, values in history.items() if name != "acceptance")


@pytest.mark.parametrize("kernel", [RBF("median"), InverseMultiquadric(), RBF(Fixed(torch.tensor([1.0, 2.0])))])
@pytest.mark.parametrize(
    "optimizer",
    [functools.partial(torch.optim.Adam, lr=0.1), functools.partial(torch.optim.SGD, lr=1.0, momentum=0.5)],
)
def test_any_torch_optimiser_moves_the_particles(kernel: RBF, optimizer: functools.partial) -> None:
    model = SVGD(gaussian(), gaussian(mean=4.0), kernel, optimizer=optimizer)
    x = model.sample(40, 150, batch=(B,), generator=draw())
    assert x.mean((0, 1)).abs().max() < 0.3
    assert 0.3 < x.var(1).mean() < 2
    with pytest.raises(ValueError, match="no density"):
        model.sample_with_log_prob(M, L)


def test_sgd_is_the_fixed_step() -> None:
    plain = SVGD(gaussian(), gaussian(mean=1.0), RBF(1.0), 0.3).sample(M, L, generator=draw())
    descended = SVGD(gaussian(), gaussian(mean=1.0), RBF(1.0), optimizer=functools.partial(torch.optim.SGD, lr=0.3))
    torch.testing.assert_close(descended.sample(M, L, generator=draw()), plain)


def test_bad_settings_are_refused() -> None:
    for make in (
        lambda: SteinStop(-1.0),
        lambda: SteinStop(0.0, least=-1),
        lambda: Truncation(0.0),
        lambda: EpsilonGreedy(0.9, 0.1),
        lambda: MetropolisHastings(iterations=0),
        lambda: SVGD(gaussian(), gaussian(), optimizer=torch.optim.Adam, bound="clamp"),
    ):
        with pytest.raises(ValueError, match="must"):
            make()


def test_rejected_moves_keep_the_density() -> None:
    """If a proposal is not finite, alpha is zero: neither the particle nor log q changes, and no NaN arises."""

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * x.pow(4).sum(-1)

    model = SVGD(log_density, LearntGaussian(torch.full((D,), 5.0), torch.ones(D)), RBF(1.0), 1e30).double()
    model.control = MetropolisHastings()
    chain = model.run(M, 2, generator=draw())
    x, log_q = model.initial.draw(M, (), draw())
    torch.testing.assert_close(chain.x, x)
    torch.testing.assert_close(chain.log_q, log_q)
