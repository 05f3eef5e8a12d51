"""The sign of a density: LogDensity, Energy, EnergyTarget, and everything that takes a target."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import svgdx
from svgdx import densities
from svgdx.densities import Energy, EnergyTarget, IsingEnergy, LogDensity, MLPLogDensity, as_log_density
from svgdx.experiments.metrics import bits
from svgdx.samplers import SVGD, gibbs_sweep, gwg_step, langevin

D = 3
MEAN, PRECISION = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 4.0, 0.25])


class BaseModel(nn.Module):
    """The interface of torchebm's models: x (B, D) -> E (B,), and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class GaussianModel(BaseModel):
    """0.5 (x - mean)' precision (x - mean), refusing anything but rows as torchebm.core.GaussianModel does."""

    def __init__(self, column: bool = False) -> None:
        super().__init__()
        self.column = column
        self.mean = nn.Parameter(MEAN.clone())

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != D:
            raise ValueError(f"Input x expected batch_shape (batch_size, {D}), but got {x.shape}")
        energy = 0.5 * (PRECISION.to(x) * (x - self.mean).square()).sum(-1)
        return energy[:, None] if self.column else energy


class OwnEnergy(Energy):
    """The same energy, (..., D) -> (...)."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (PRECISION.to(x) * (x - MEAN.to(x)).square()).sum(-1)


def vector_energy(x: Tensor) -> Tensor:
    """The same energy of one vector; of rows it would sum over all of them."""
    return 0.5 * (PRECISION.to(x) * (x - MEAN.to(x)).square()).sum()


def log_density(x: Tensor) -> Tensor:
    return -OwnEnergy()(x)


def draw(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start() -> Independent:
    return Independent(Normal(torch.zeros(D), torch.ones(D)), 1)


ENERGY_TARGETS: dict[str, Callable[..., EnergyTarget]] = {
    "rows": lambda **options: EnergyTarget(GaussianModel(), **options),
    "column": lambda **options: EnergyTarget(GaussianModel(column=True), **options),
    "any shape": lambda **options: EnergyTarget(OwnEnergy(), **options),
    "vector": lambda **options: EnergyTarget(vector_energy, per_row=True, **options),
}
TARGETS: dict[str, Callable[[], Any]] = {**ENERGY_TARGETS, "Energy": OwnEnergy, "callable": lambda: log_density}


@pytest.mark.parametrize("target_of", ENERGY_TARGETS.values(), ids=ENERGY_TARGETS)
@pytest.mark.parametrize("shape", [(D,), (1, D), (4, D), (2, 3, D), (2, 1, 3, D), (0, D), (2, 0, D)], ids=str)
def test_energy_target_is_minus_beta_times_the_energy(target_of: Callable[..., EnergyTarget], shape: Any) -> None:
    x = torch.randn(shape, generator=draw())
    for beta in (1.0, 0.3):
        torch.testing.assert_close(target_of(beta=beta)(x), beta * log_density(x))


@pytest.mark.parametrize("target_of", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize(("method", "probes"), [("hutchinson", 1), ("hutchinson", 3), ("hutch++", 9), ("exact", 1)])
def test_hessians_through_every_target(target_of: Callable[[], Any], method: str, probes: int) -> None:
    x = torch.randn(2, 4, D, generator=draw()).double()
    h = svgdx.hessian_trace(target_of(), x, probes, method, draw())
    torch.testing.assert_close(h.log_prob, log_density(x))
    torch.testing.assert_close(h.score, -PRECISION.double() * (x - MEAN))
    torch.testing.assert_close(h.hvp, -PRECISION.double() * h.probe)
    torch.testing.assert_close(h.trace, -PRECISION.double().sum().expand(2, 4))


def test_gradients_reach_the_parameters_of_the_energy() -> None:
    target, x = EnergyTarget(GaussianModel(), beta=2.0), torch.randn(5, D, generator=draw())
    score = svgdx.hessian_trace(target, x, create_graph=True).score
    (grad,) = torch.autograd.grad(score.sum(), list(target.parameters()))
    torch.testing.assert_close(grad, 2 * 5 * PRECISION)


@pytest.mark.parametrize("hessian", ["none", "hutchinson", "exact"])
@pytest.mark.parametrize("target_of", TARGETS.values(), ids=TARGETS)
def test_svgd_takes_every_target(target_of: Callable[[], Any], hessian: str) -> None:
    def sample(target: Any) -> tuple[Tensor, Tensor]:
        sampler = SVGD(target, start(), step_size=0.3, hessian=hessian)
        assert list(sampler.parameters()) == []
        return sampler.sample_with_log_prob(6, 4, batch=(2,), generator=draw())

    torch.testing.assert_close(sample(target_of()), sample(log_density))


def test_svgd_moves_to_low_energy() -> None:
    x = SVGD(EnergyTarget(GaussianModel()), start(), step_size=1.0).sample(40, 300, generator=draw())
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.15)


@pytest.mark.parametrize("target_of", TARGETS.values(), ids=TARGETS)
def test_langevin_takes_every_target(target_of: Callable[[], Any]) -> None:
    x = torch.randn(8, D, generator=draw())
    run, expected = (langevin(target, x, 5, 0.1, 1.0, draw()) for target in (target_of(), log_density))
    torch.testing.assert_close(run.x, expected.x)
    assert run.score_norm == pytest.approx(expected.score_norm)


class TwiceIsing(IsingEnergy):
    """An energy that the fast sweep of its base class does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def ising(cls: type[IsingEnergy]) -> IsingEnergy:
    energy = cls(4).requires_grad_(False)
    energy.weight.copy_(0.15 * torch.randn(4, 4, generator=draw()))
    return energy


@pytest.mark.parametrize("step", [gibbs_sweep, gwg_step])
@pytest.mark.parametrize("cls", [IsingEnergy, TwiceIsing])
def test_chains_of_bits_draw_from_every_sign(step: Callable, cls: type[IsingEnergy]) -> None:
    """An energy, its target and the plain log density give the same chains, and they are those of exp(-E)."""
    energy = ising(cls)
    x = torch.zeros(2000, 4)
    options = {"sweeps": 20} if step is gibbs_sweep else {"steps": 60}
    chains = [step(target, x, draw(2), **options) for target in (energy, EnergyTarget(energy), lambda x: -energy(x))]
    assert torch.equal(chains[1], chains[2])
    probability = torch.softmax(-energy(bits.all_states(4)), 0)
    for states in chains:
        frequency = torch.bincount((states.long() @ torch.tensor([8, 4, 2, 1])), minlength=16) / len(states)
        torch.testing.assert_close(frequency, probability, rtol=0, atol=0.04)


def test_metrics_of_bits_take_every_sign() -> None:
    energy = ising(IsingEnergy)
    states = bits.all_states(4)
    log_z = float(torch.logsumexp(-energy(states), 0))
    base = torch.full((4,), 0.5)
    for target in (energy, EnergyTarget(energy), lambda x: -energy(x)):
        assert bits.exact_log_z(target, 4) == pytest.approx(log_z, abs=1e-5)
        nll = bits.energy_nll(target, states, bits.Estimate(log_z, 0.0)).value
        assert nll == pytest.approx(float(energy(states).mean()) + log_z, abs=1e-5)
        for transition in bits.TRANSITIONS:
            value, error = bits.ais_log_z(target, base, 20, 500, draw(), transition, 2)
            assert abs(value - log_z) < 5 * error + 0.01


class Conditional(nn.Module):
    """E(x | shift, label, scale), rows only; a shift (N, D), a label (N,) and one number for all."""

    def forward(self, x: Tensor, shift: Tensor, label: Tensor, scale: float = 1.0) -> Tensor:
        assert x.shape == shift.shape
        assert label.shape == x.shape[:1]
        return scale * (x - shift).square().sum(-1) * (1 + label)


@pytest.mark.parametrize("per_row", [False, True])
def test_conditions_are_aligned_with_the_rows(per_row: bool) -> None:
    x, shift = torch.randn(2, 5, D, generator=draw()), torch.randn(2, 1, D, generator=draw(2))
    label = torch.randint(3, (2, 5), generator=draw())
    module = Conditional()

    def vector(x: Tensor, shift: Tensor, label: Tensor, scale: float) -> Tensor:
        return module(x[None], shift[None], label[None], scale).sum()

    target = EnergyTarget(vector if per_row else module, per_row=per_row)
    expected = -0.5 * (x - shift).square().sum(-1) * (1 + label)
    torch.testing.assert_close(target(x, shift, label, scale=0.5), expected)
    torch.testing.assert_close(target(x, shift, label=label, scale=0.5), expected)
    torch.testing.assert_close(target(x[0, 0], shift[0, 0], label[0, 0], scale=0.5), expected[0, 0])
    sampler = SVGD(functools.partial(target, shift=shift, label=label[:, :1], scale=0.5), start(), step_size=0.1)
    direct = SVGD(lambda x: -0.5 * (x - shift).square().sum(-1) * (1 + label[:, :1]), start(), step_size=0.1)
    torch.testing.assert_close(
        sampler.sample(5, 3, batch=(2,), generator=draw()), direct.sample(5, 3, batch=(2,), generator=draw())
    )


@pytest.mark.parametrize("shape", [(), (D,), (5,), (2,), (2, 4), (3, 5, D)], ids=str)
def test_conditions_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    target = EnergyTarget(lambda x, condition: x.sum(-1))
    with pytest.raises(ValueError, match=r"condition 0 must start with the leading dimensions of x, \(2, 5\)"):
        target(torch.zeros(2, 5, D), torch.zeros(shape))


def test_results_of_other_shapes_are_refused() -> None:
    x = torch.randn(2, 4, D)
    for reduction in (torch.sum, torch.mean):
        with pytest.raises(ValueError, match=r"single number for 8 rows.*pass per_row=True"):
            EnergyTarget(lambda x, reduction=reduction: reduction(x))(x)
    with pytest.raises(ValueError, match=r"rows \(8, 3\) to energies \(8,\) or \(8, 1\), but returns shape \(8, 3\)"):
        EnergyTarget(lambda x: x)(x)
    with pytest.raises(ValueError, match=r"but returns shape \(1, 8\)"):
        EnergyTarget(lambda x: x.sum(-1)[None])(x)
    with pytest.raises(ValueError, match=r"vector \(3,\) to one number if per_row is set, but returns shape \(3,\)"):
        EnergyTarget(lambda x: x, per_row=True)(x)
    with pytest.raises(TypeError, match="must return a tensor, but returns float"):
        EnergyTarget(lambda x: 1.0)(x)
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., D\)"):
        EnergyTarget(vector_energy)(torch.tensor(1.0))


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_must_be_positive_and_finite(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be positive and finite"):
        EnergyTarget(OwnEnergy(), beta)


@pytest.mark.parametrize("beta", ["1", True, None, torch.ones(())])
def test_beta_must_be_a_number(beta: Any) -> None:
    with pytest.raises(TypeError, match="beta must be a number"):
        EnergyTarget(OwnEnergy(), beta)


def test_what_is_no_energy_is_refused() -> None:
    with pytest.raises(TypeError, match="MLPLogDensity is a LogDensity and therefore a target already"):
        EnergyTarget(MLPLogDensity(D, 4, 1))
    with pytest.raises(TypeError, match="module must be callable, but is int"):
        EnergyTarget(1)  # type: ignore[arg-type]


def test_densities_tell_their_sign() -> None:
    """Each class of the package has one base, and names it in the first line of its docstring."""
    classes = [getattr(densities, name) for name in densities.__all__ if isinstance(getattr(densities, name), type)]
    assert len(classes) == 8
    for cls in classes:
        is_energy = issubclass(cls, Energy)
        assert is_energy != issubclass(cls, LogDensity)
        first = cls.__doc__.splitlines()[0]
        assert first.startswith("Energy " if is_energy else "Log density ")
        if cls not in (EnergyTarget, densities.BoundedLogDensity):
            assert f"p(x) ∝ exp({'-E' if is_energy else 'f'}(x))" in first


def test_as_log_density_keeps_what_has_the_sign() -> None:
    for target in (MLPLogDensity(D, 4, 1), EnergyTarget(OwnEnergy()), nn.Linear(D, 1), log_density):
        assert as_log_density(target) is target
    energy = OwnEnergy()
    wrapped = as_log_density(energy)
    assert isinstance(wrapped, EnergyTarget)
    assert wrapped.module is energy
    with pytest.raises(TypeError, match="target must be a LogDensity, an Energy or a callable, but is int"):
        as_log_density(3)  # type: ignore[arg-type]


class MyEnergy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square().sum(-1)


class Derived(MyEnergy):
    pass


class TorchEBMModule(nn.Module):
    """The base of all of torchebm's models."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().sum(-1)


@pytest.mark.parametrize(
    "use",
    [
        as_log_density,
        lambda target: SVGD(target, start()),
        lambda target: svgdx.hessian_trace(target, torch.zeros(2, D)),
        lambda target: langevin(target, torch.zeros(2, D), 1, 0.1, 1.0, draw()),
        lambda target: gibbs_sweep(target, torch.zeros(2, D), draw()),
        lambda target: gwg_step(target, torch.zeros(2, D), draw()),
        lambda target: bits.exact_log_z(target, D),
    ],
    ids=["as_log_density", "SVGD", "hessian_trace", "langevin", "gibbs_sweep", "gwg_step", "exact_log_z"],
)
def test_a_plain_module_called_energy_warns_once(use: Callable[[Any], Any]) -> None:
    for target in (MyEnergy(), Derived(), TorchEBMModule()):
        name = type(target).__name__
        with pytest.warns(
            UserWarning, match=f"{name} is taken as a log density .* svgdx.densities.EnergyTarget"
        ) as log:
            use(target)
        assert len(log) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for silent in (EnergyTarget(MyEnergy()), OwnEnergy(), log_density):
            use(silent)


def test_no_warning_for_other_modules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_log_density(nn.Linear(D, 1))
        as_log_density(GaussianModel())
    with pytest.warns(UserWarning, match="vector_energy is taken as a log density"):
        as_log_density(vector_energy)


def test_energy_targets_are_copied_and_saved_with_their_energy() -> None:
    target = EnergyTarget(GaussianModel(), beta=0.5)
    x = torch.randn(4, D, generator=draw())
    again = EnergyTarget(GaussianModel(), beta=0.5)
    with torch.no_grad():
        target.get_parameter("module.mean").add_(1)
    again.load_state_dict(target.state_dict())
    for other in (again, copy.deepcopy(target)):
        assert torch.equal(other(x), target(x))
    assert repr(target).startswith("EnergyTarget(\n  beta=0.5, per_row=False")
